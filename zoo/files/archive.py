"""Takes named files out of a tar or zip archive, one stream each. Nothing else in the archive reaches the disk."""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from zoo.cards.record import File
from zoo.errors import ProofError

LIMIT = 8 << 30  # bytes: no file of a model is larger, so a larger member is a decompression bomb
BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError)


def is_archive(path: Path) -> bool:
    return zipfile.is_zipfile(path) or _is_tar(path)


def extract(archive: Path, wanted: Mapping[str, tuple[File, Path]]) -> set[str]:
    """Writes each member of `wanted` {path inside: (its record, where to write it)}; returns the members found.

    A member has to be a regular file under exactly its published path: links, devices, absolute paths and paths with
    ".." are refused, and so is a size other than the record's. Raises ProofError for those and for a damaged archive.
    """
    try:
        if zipfile.is_zipfile(archive):
            return _from_zip(archive, wanted)
        return _from_tar(archive, wanted)
    except (*BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's; damaged gzip and bzip2 streams raise one without a number
            raise
        raise ProofError(f"{archive.name}: not a complete tar or zip archive ({error})") from error


def _from_tar(archive: Path, wanted: Mapping[str, tuple[File, Path]]) -> set[str]:
    found: set[str] = set()
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            name = _plain(member.name, wanted)
            if name is None or name in found:
                continue
            file, target = wanted[name]
            if not member.isreg():
                raise ProofError(f"{archive.name}: {member.name!r} is a link, a device or a folder: refused")
            source = tar.extractfile(member)
            assert source is not None  # true of every regular member
            with source:
                _copy(source, member.size, file, target, archive)
            found.add(name)
            if len(found) == len(wanted):
                break
    return found


def _from_zip(archive: Path, wanted: Mapping[str, tuple[File, Path]]) -> set[str]:
    found: set[str] = set()
    with zipfile.ZipFile(archive) as contents:
        for member in contents.infolist():
            name = _plain(member.filename, wanted)
            if name is None or name in found:
                continue
            file, target = wanted[name]
            mode = member.external_attr >> 16
            if member.is_dir() or (stat.S_IFMT(mode) and not stat.S_ISREG(mode)):
                raise ProofError(f"{archive.name}: {member.filename!r} is a link, a device or a folder: refused")
            with contents.open(member) as source:
                _copy(source, member.file_size, file, target, archive)
            found.add(name)
    return found


def _plain(name: str, wanted: Mapping[str, object]) -> str | None:
    """The wanted member that `name` is. Refuses a path that only resembles one by leaving the archive's own tree."""
    if name in wanted:
        return name
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    climbs = name.startswith(("/", "\\")) or ".." in parts
    for each in wanted:
        if parts and each.rsplit("/", 1)[-1] == parts[-1]:
            if climbs:
                raise ProofError(f"a member named {name!r} points outside its archive: refused")
            if "/".join(parts) == each:
                return each
    return None


def _copy(source: IO[bytes], size: int, file: File, target: Path, archive: Path) -> None:
    if size > LIMIT or file.size not in (None, size):
        expected = f"{file.size:,}" if file.size is not None else f"at most {LIMIT:,}"
        raise ProofError(f"{archive.name}: {file.name} has {size:,} bytes; {expected} are expected")
    with target.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    if target.stat().st_size != size:
        raise ProofError(f"{archive.name}: {file.name} ends after {target.stat().st_size:,} of {size:,} bytes")


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except BROKEN:
        return False
