"""Writes a state dict as torch.save does, its values going from the weight file to the output without being in memory together.

torch.save leaves the room for the values; they are put there, and their checksums into the zip file's records (PKWARE's APPNOTE.TXT).
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

import torch
from torch import Tensor

from converter.write.readback import Ledger
from converter.write.rounding import Rounding
from converter.write.safetensors import Progress
from converter.write.values import TYPES, Entry, Held, Planned

_PIECE = 16 << 20
_DESCRIPTOR, _CENTRAL = b"PK\x07\x08", b"PK\x01\x02"  # behind a record's bytes; a record's line in the directory at the end


def write_pth(
    file: IO[bytes],
    values: Held | Planned,
    progress: Progress | None = None,
    rounding: Rounding | None = None,
    ledger: Ledger | None = None,
) -> None:
    """Write the net's state dict to an empty file, which torch.load(..., weights_only=True) reads; `rounding` and `ledger` as
    write_safetensors()."""
    if isinstance(values, Held) or rounding is not None:
        state = {key: value.detach() for key, value in values.state().items()}
        state = state if rounding is None else {key: rounding(key, value) for key, value in state.items()}
        _save(state, file)
        if ledger is not None:
            for key, value in state.items():
                ledger.values(key, TYPES[value.dtype], value.shape, _bytes(value))
        if progress:
            progress(sum(value.nbytes for value in state.values()))
        return
    room: dict[int, Tensor] = {}  # what layers share has one place
    owners: dict[int, str] = {}
    hollow = {}
    for key, value in values.net.state_dict(keep_vars=True).items():
        owners.setdefault(id(value), key)
        hollow[key] = room.setdefault(id(value), torch.empty(value.shape, dtype=value.dtype))
    with torch.serialization.skip_data():
        _save(hollow, file)
    file.flush()
    with zipfile.ZipFile(file.name) as archive:
        records = [info for info in archive.infolist() if "/data/" in info.filename]
        directory = archive.start_dir
    places = dict(zip(owners.values(), records, strict=True))
    sums: dict[int, int] = {}
    with open(file.name, "r+b") as out:  # noqa: PTH123 (a name that the caller has open)
        for key, entry in values.entries():
            if ledger is not None:
                _note(ledger, key, entry, hollow[key])
            if key not in places:
                continue
            info = places.pop(key)
            out.seek(info.header_offset + 26)
            name, extra = struct.unpack("<HH", out.read(4))
            out.seek(name + extra, os.SEEK_CUR)
            sums[info.header_offset] = _put(out, entry, info.file_size, progress)
            if out.read(4) != _DESCRIPTOR:
                raise AssertionError("torch.save writes a descriptor behind each record")
            out.seek(0, os.SEEK_CUR)
            out.write(struct.pack("<I", sums[info.header_offset]))
        for at, header in _directory(out, directory):
            if header in sums:
                out.seek(at + 16)
                out.write(struct.pack("<I", sums[header]))


def _note(ledger: Ledger, key: str, entry: Entry, like: Tensor) -> None:
    if isinstance(entry, Tensor):
        ledger.values(key, TYPES[like.dtype], like.shape, _bytes(entry))
    else:
        ledger.span(key, TYPES[like.dtype], like.shape, *entry)


def _save(state: dict[str, Tensor], file: IO[bytes]) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as problem:  # torch's zip writer stumbles once more over what it could not write
        raise problem.__context__ if isinstance(problem.__context__, OSError) else problem from None


def _put(out: IO[bytes], entry: Entry, size: int, progress: Progress | None) -> int:
    """Write a value where the file stands; returns its CRC-32."""
    total = 0
    for piece in _pieces(entry):
        total = zlib.crc32(piece, total)
        size -= len(piece)
        out.write(piece)
        if progress:
            progress(len(piece))
    assert not size
    out.flush()
    out.seek(0, os.SEEK_CUR)
    return total


def _pieces(entry: Entry) -> Iterator[bytearray | memoryview]:
    if isinstance(entry, Tensor):
        yield _bytes(entry)
        return
    source, offset, count = entry
    while count:
        piece = bytearray(min(count, _PIECE))
        source.read_into(memoryview(piece), offset)
        yield piece
        offset, count = offset + len(piece), count - len(piece)


def _bytes(value: Tensor) -> memoryview:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _directory(out: IO[bytes], at: int) -> Iterator[tuple[int, int]]:
    """Each line of the directory: where it stands, and where its record does (of files below 4 GiB)."""
    while True:
        out.seek(at)
        line = out.read(46)
        if line[:4] != _CENTRAL:
            return
        name, extra, comment = struct.unpack_from("<HHH", line, 28)
        yield at, struct.unpack_from("<I", line, 42)[0]
        at += 46 + name + extra + comment
