"""Which layout labelled images are in: csv, class folders, HDF5, npz, packed or not. Nothing is extracted to disk.

What a file is follows from its first bytes, not from its name. Every refusal is a FinetuneError.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

from finetune.errors import FinetuneError
from finetune.files import LIMIT, damage_named, decompressed, first_bytes
from finetune.images.arrays import hdf5, npz
from finetune.images.folders import class_folders
from finetune.images.records import CSV_NAMES, Decoded
from finetune.images.tables import csv_file
from finetune.tables import encoding_of
from zoo.disk import head, recognised, stand_in

MOST_MEMBERS = 10_000


def decode(path: Path, size: int | None) -> Decoded:
    """Recognises `path` and decodes it. `size` resizes the images of class folders to size × size."""
    if path.is_dir():
        return class_folders(path, size)
    if size is not None:
        raise FinetuneError(f"{path}: size={size} is for class folders; images of a csv, npz or HDF5 file keep their size")
    start = first_bytes(path)
    if not start:
        raise FinetuneError(f"{path}: the file is empty; fetch it again")
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return hdf5(path)
    if start.startswith(b"PK\x03\x04"):
        return zipped(path)
    if not start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        refuse_others(path)
    with damage_named(path), decompressed(path, start) as stream:
        inner = stream.read(512)
        stream.seek(0)
        if inner[257:262] == b"ustar":
            return tarred(path, stream)
        return csv_file(stream, str(path), path.stat().st_size)


def refuse_others(path: Path) -> None:
    """Raises FinetuneError for what is neither text nor a tar, named where that is known."""
    start = head(path, 512)
    found, encoding = recognised(start), encoding_of(start)
    what = stand_in(start) or ("UTF-16 text" if encoding not in (None, "utf-8") else None)
    if what is None and (encoding == "utf-8" or start[257:262] == b"ustar"):
        return
    what = what or (found.what if found else None)
    raise FinetuneError(
        f"{path}: {what or 'no text'}; expected fer2013.csv (or {', '.join(CSV_NAMES[1:])}, in UTF-8), a zip or tar of it, npz, HDF5, or a"
        " folder with a folder for each class"
    )


def best_csv(names: Sequence[str], path: Path) -> str:
    """The member to read: the first known name, or the only csv."""
    tables = [name for name in names if name.lower().endswith(".csv")]
    for wanted in CSV_NAMES:
        for name in tables:
            if name.replace("\\", "/").rsplit("/", 1)[-1].lower() == wanted:
                return name
    if len(tables) == 1:
        return tables[0]
    held = ", ".join(repr(name[:80]) for name in (tables or names)[:8]) or "nothing"
    raise FinetuneError(f"{path}: expected {' or '.join(CSV_NAMES)} inside, found {held}; pass the csv itself")


def zipped(path: Path) -> Decoded:
    with damage_named(path), zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist() if not member.is_dir()}
        if members and all(name.endswith(".npy") for name in members):
            return npz(path, archive)
        name = best_csv(list(members), path)
        if members[name].file_size > LIMIT:
            raise FinetuneError(f"{path}: {name!r} unpacks to {members[name].file_size:,} bytes, more than {LIMIT:,}: refused")
        with archive.open(name) as member:
            return csv_file(cast(IO[bytes], io.BufferedReader(member, 1 << 20)), f"{path}, {name!r}", path.stat().st_size)


def tarred(path: Path, stream: IO[bytes]) -> Decoded:
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        members: dict[str, tarfile.TarInfo] = {}
        for position, member in enumerate(archive):
            if position >= MOST_MEMBERS:
                raise FinetuneError(f"{path}: more than {MOST_MEMBERS:,} files inside: refused; pass the csv itself")
            if member.isreg():
                members[member.name] = member
        name = best_csv(list(members), path)
        source = archive.extractfile(members[name])
        assert source is not None  # true of every regular member
        return csv_file(source, f"{path}, {name!r}", path.stat().st_size)
