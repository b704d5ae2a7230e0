"""Archives and records that promise more than they are: an error within little memory and time, whatever they say."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from bounded import results
from mutants import mutants

MEMBER = "net/net.caffemodel"
BODY = random.Random(9).randbytes(5_000)
SIZE = 72 << 20  # what a bomb unpacks to
MEGABYTES = 48  # that a reader may take

EXTRACT = f"""
import pathlib, tempfile
from zoo.cards.record import File
from zoo.errors import ProofError
from zoo.files.archive import extract, is_archive

def check(path):
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as place:
        target = pathlib.Path(place) / "out"
        try:
            is_archive(path)
            found = extract(path, {{{MEMBER!r}: (File("net.caffemodel", (), None), target)}})
        except ProofError as error:
            return str(error)
        return f"{{sorted(found)}} {{target.stat().st_size if target.exists() else 0}}"
"""


def member(name: str = MEMBER, data: bytes = BODY, **fields: object) -> bytes:
    """A header and its data, padded to blocks."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def header(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@cache
def zeros(pack: Callable[[bytes], bytes]) -> bytes:
    return pack(bytes(SIZE))


def gz(*data: bytes) -> bytes:
    """Streams in a row, so that the zeros of all bombs are packed once."""
    return b"".join(each if each.startswith(b"\x1f\x8b") else gzip.compress(each, 1) for each in data)


def quick(data: bytes) -> bytes:
    return gzip.compress(data, 1)


def sparse() -> bytes:
    """A map of holes (pax 1.0) that never ends."""
    pairs = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", MEMBER), ("GNU.sparse.realsize", "5")]
    text = b"".join(record(name, value) for name, value in pairs)
    info = tarfile.TarInfo("x")
    info.size = SIZE
    return gz(header(b"x", len(text)) + text + bytes(-len(text) % 512) + info.tobuf() + b"100000000\n" + b"0\n" * (SIZE // 8))


def record(name: str, value: str) -> bytes:
    length = len(name) + len(value) + 3
    length += len(str(length + len(str(length))))
    return f"{length} {name}={value}\n".encode()


def large_dictionary() -> bytes:
    """An xz file whose header asks for 4 GiB."""
    packed = bytearray(lzma.compress(member() + bytes(1024), preset=0))
    end = 12 + (packed[12] + 1) * 4
    at = packed.index(b"\x21\x01", 12) + 2
    packed[at] = 40
    packed[end - 4 : end] = struct.pack("<I", zlib.crc32(packed[12 : end - 4]))
    return bytes(packed)


def zipped(method: int, name: str = MEMBER, data: bytes = BODY, count: int = 1) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for number in range(count):
            info = zipfile.ZipInfo(name.replace("#", str(number)))
            info.external_attr, info.compress_type = (stat.S_IFREG | 0o644) << 16, method
            archive.writestr(info, data)
    return out.getvalue()


def negative() -> bytes:
    packed = bytearray(member())
    packed[124:136] = b"\xff" * 12  # a size of -1, in base 256
    packed[148:156] = b" " * 8
    packed[148:156] = b"%06o\0 " % sum(packed[:512])
    return bytes(packed) + bytes(1024)


# What comes, and what is said of it.
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "pax header": (lambda: gz(header(b"x", SIZE), zeros(quick)), "names and headers"),
    "pax header for all": (lambda: gz(header(b"g", SIZE), zeros(quick)), "names and headers"),
    "long name": (lambda: gz(header(b"L", SIZE), zeros(quick)), "names and headers"),
    "long link": (lambda: gz(header(b"K", SIZE), zeros(quick)), "names and headers"),
    "long names in a row": (lambda: (header(b"L", 512) + b"x" * 512) * 2000 + member(), "names and headers"),
    "many long names": (lambda: gz((header(b"L", 30_000) + b"x" * 30_208 + member("x", b"")) * 1000, member()), "names and headers"),
    "many members": (lambda: gz(member("x", b"") * 50_000, member()), "names and headers"),
    "map of holes": (sparse, "names and headers"),
    "a size below nothing": (negative, "bytes|backwards|not a complete"),
    "a member that is skipped": (lambda: gz(header(b"0", SIZE), zeros(quick), member()), rf"\['{MEMBER}'\] 5000"),
    "bz2": (lambda: bz2.compress(header(b"L", 1 << 40)) + zeros(bz2.compress), "names and headers"),
    "a large dictionary": (large_dictionary, "not a complete tar or zip archive .*[Mm]emory"),
    "empty streams": (lambda: gzip.compress(b"") * 100_001, "too many pieces|not a complete"),
    "a name in gzip's header": (lambda: b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 1_000_000, "not a complete"),
    "zip, bzip2 inside": (lambda: zipped(zipfile.ZIP_BZIP2, data=bytes(SIZE)), "not packed by deflate"),
    "zip, xz inside": (lambda: zipped(zipfile.ZIP_LZMA), "not packed by deflate"),
    "zip, many members": (lambda: zipped(zipfile.ZIP_STORED, "#", b"", 50_000), "directory"),
    "zip, long names": (lambda: zipped(zipfile.ZIP_STORED, "#" + "x" * 60_000, b"", 50), "directory"),
}  # fmt: skip


def test_a_bomb_ends_in_an_error_within_little_memory_and_time(tmp_path: Path) -> None:
    found = results(EXTRACT, {name: make() for name, (make, _) in BOMBS.items()}, tmp_path / "bombs", MEGABYTES)
    for name, (_, reason) in BOMBS.items():
        said, seconds = found[name]
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(said)
        assert seconds < 10, (name, seconds)


def pax() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("n" * 200, MEMBER):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(BODY), {"comment": "ü" * 30}
            tar.addfile(info, io.BytesIO(BODY))
    return out.getvalue()


GOOD: dict[str, Callable[[], bytes]] = {
    "gnu": lambda: member("n" * 99) + member() + bytes(1024),
    "pax": pax,
    "gz": lambda: gzip.compress(pax()),
    "bz2": lambda: bz2.compress(pax()),
    "xz": lambda: lzma.compress(pax()),
    "zip": lambda: zipped(zipfile.ZIP_DEFLATED),
}


@pytest.mark.parametrize("count", [25, pytest.param(500, marks=pytest.mark.slow)])
def test_a_damaged_archive_ends_in_an_error_of_ours(count: int, tmp_path: Path) -> None:
    inputs = {f"{kind} {number}": data for kind, make in GOOD.items() for number, data in enumerate(mutants(make(), count, seed=3))}
    for name, (said, seconds) in results(EXTRACT, inputs, tmp_path / "mutants", MEGABYTES).items():
        assert not said.startswith("!"), (name, said)
        assert seconds < 5, (name, seconds)


RECORD = """
import pathlib, tempfile
from zoo.files import parts, store

def check(path):
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as place:
        receipt = pathlib.Path(place) / "net.receipt.json"
        receipt.write_bytes(path.read_bytes())
        store.receipt_of(receipt.with_name("net"))
        note = pathlib.Path(place) / "x.note"
        note.write_bytes(path.read_bytes())
        parts._note(note.with_suffix(".part"), 5)
    return ""
"""
CARD = """
import pathlib, tempfile
import zoo
from zoo.errors import LoadError
from zoo.models import runs

def check(path):
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as place:
        card = pathlib.Path(place) / "card.json"
        card.write_bytes(path.read_bytes())
        try:
            return str(runs._card(runs._facts(card.parent), card.parent).name)
        except LoadError as error:
            return ""
"""
RECEIPT = {"size": 5, "sha256": "ab" * 32, "proof": "sha256 as stated by ü", "origin": "https://example.org/\\", "pinned": False}
NOTE = {"validator": '"v1"', "total": 300_000, "encoding": "gzip", "inode": 5}
RUN = {
    "format": 1, "architecture": "SmallVGG", "arguments": {"num_classes": 3}, "weights": "best.safetensors", "sha256": "ab" * 32,
    "classes": ["a", "b", "c"], "title": "x", "recipe": "y", "scores": {"test": 0.5}, "crop": {"margin": 0.1, "align": False},
    "preprocess": {"size": [44, 44], "channels": "GRAY", "mean": [127.5], "scale": 0.015625, "resize": [48, 48]},
}  # fmt: skip


def documents(value: dict[str, object], count: int, seed: int) -> Iterator[bytes]:
    """A JSON document with values of other kinds, and with its text damaged."""
    draw = random.Random(seed)
    others = (
        None, True, -1, 10**30, 1e308, "", "\0\x1b[2J\u202e", "\ud800", "x" * 3000, [], [[[]]], {}, {"a": {"a": 1}}, float("nan"),
        float("inf"), ["a"] * 100, "²", [1] * 9,
    )  # fmt: skip

    def changed(value: object) -> object:
        if isinstance(value, dict) and value and draw.random() < 0.8:
            key = draw.choice(list(value))
            return {**value, key: changed(value[key])}
        if isinstance(value, list) and value and draw.random() < 0.5:
            return [changed(value[0]), *value[1:]]
        return draw.choice(others)

    for _ in range(count):
        yield json.dumps(changed(value)).encode()
    yield from mutants(json.dumps(value, ensure_ascii=False).encode(), count, seed)
    for text in ("[" * 100_000, '{"a":' * 100_000, '{"size":1' + "0" * 100_000, "1" * 5000, '"\\ud800"', "\ufeff{}"):
        yield text.encode()


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("check", "value"), [(RECORD, RECEIPT), (RECORD, NOTE), (CARD, RUN)], ids=["receipt", "note", "card.json"])
def test_a_record_of_any_content_is_read_or_refused(check: str, value: dict[str, object], count: int, tmp_path: Path) -> None:
    inputs = {str(number): data for number, data in enumerate(documents(value, count, seed=4))}
    for name, (said, seconds) in results(check, inputs, tmp_path / "records", MEGABYTES).items():
        assert not said.startswith("!"), (inputs[name][:300], said)
        assert seconds < 3, (inputs[name][:300], seconds)
