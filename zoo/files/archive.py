"""Takes named files out of a tar or zip archive, one stream each. Nothing else in the archive reaches the disk."""

from __future__ import annotations

import errno
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from converter.errors import shown
from converter.files import opened
from zoo.cards.record import File
from zoo.errors import ProofError
from zoo.files.unpacked import Limited, LimitedFile, pieces

LIMIT = 8 << 30  # bytes: no file of a model is larger, so a larger member is a decompression bomb
MOST_UNPACKED = 16 << 30  # bytes of a whole tar archive
MOST_HEADER = 64 << 10  # bytes of one member's headers, its name among them
MOST_HEADERS = 16 << 20  # of all of them: 32,000 members
MOST_DIRECTORY = 2 << 20  # bytes of a zip archive's directory: 30,000 members
# What tarfile, zipfile and the decompressors raise for damaged bytes, beside OSError.
BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, ArithmeticError, AttributeError, EOFError, LookupError,
    MemoryError, RuntimeError, TypeError, ValueError,
)  # fmt: skip


def is_archive(path: Path) -> bool:
    with opened(path) as file:
        if zipfile.is_zipfile(file):
            return True
    try:
        with opened(path) as file:
            return next(_members(file), None) is not None
    except (*BROKEN, OSError, ProofError):
        return False


def extract(archive: Path, wanted: Mapping[str, tuple[File, Path]]) -> set[str]:
    """Writes each member of `wanted` {path inside: (its record, where to write it)}; returns the members found.

    A member has to be a regular file under exactly its published path: links, devices, absolute paths and paths with
    ".." are refused, and so is a size other than the record's. Raises ProofError for those and for a damaged archive.
    """
    try:
        with opened(archive) as file:
            if zipfile.is_zipfile(file):
                return _from_zip(file, archive, wanted)
            file.seek(0)
            return _from_tar(file, archive, wanted)
    except (*BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's; damaged bzip2 streams raise one without a number
            raise
        reason = str(error)[:200] or type(error).__name__
        raise ProofError(f"{archive.name}: not a complete tar or zip archive ({reason})") from error


def zip_directory(path: Path) -> list[zipfile.ZipInfo]:
    """The members of a zip archive. Raises ProofError for a directory that is too long, and what BROKEN names for damage."""
    with opened(path) as file, zipfile.ZipFile(LimitedFile(file, MOST_DIRECTORY)) as contents:
        return contents.infolist()


def _members(file: IO[bytes]) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members of a tar archive in their order, whatever it is packed with."""
    stream = Limited(pieces(file), MOST_UNPACKED, MOST_HEADERS)
    with stream.at_most(MOST_HEADER):
        tar = tarfile.open(fileobj=stream, mode="r:")  # type: ignore[call-overload]  # noqa: SIM115
    while True:
        with stream.at_most(MOST_HEADER):
            member = tar.next()
        if member is None:
            return
        yield tar, member
        tar.members.clear()  # which it keeps, names and all


def _from_tar(file: IO[bytes], archive: Path, wanted: Mapping[str, tuple[File, Path]]) -> set[str]:
    found: set[str] = set()
    for tar, member in _members(file):
        name = _plain(member.name, wanted)
        if name is None or name in found:
            continue
        record, target = wanted[name]
        if not member.isreg() or member.issparse():
            raise ProofError(f"{archive.name}: {shown(member.name)} is a link, a device or a folder: refused")
        source = tar.extractfile(member)
        assert source is not None  # true of every regular member
        with source:
            _copy(source, member.size, record, target, archive)
        found.add(name)
        if len(found) == len(wanted):
            break
    return found


def _from_zip(file: IO[bytes], archive: Path, wanted: Mapping[str, tuple[File, Path]]) -> set[str]:
    found: set[str] = set()
    with zipfile.ZipFile(LimitedFile(file, MOST_DIRECTORY)) as contents:
        for member in contents.infolist():
            name = _plain(member.filename, wanted)
            if name is None or name in found:
                continue
            record, target = wanted[name]
            mode = member.external_attr >> 16
            if member.is_dir() or (stat.S_IFMT(mode) and not stat.S_ISREG(mode)):
                raise ProofError(f"{archive.name}: {shown(member.filename)} is a link, a device or a folder: refused")
            # Of bzip2 and xz inside of a zip archive, zipfile unpacks a whole block at once, however large it becomes.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ProofError(f"{archive.name}: {shown(member.filename)} is not packed by deflate, but by method {member.compress_type}")
            with contents.open(member) as source:
                _copy(source, member.file_size, record, target, archive)
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
                raise ProofError(f"a member named {shown(name)} points outside its archive: refused")
            if "/".join(parts) == each:
                return each
    return None


def _copy(source: IO[bytes], size: int, file: File, target: Path, archive: Path) -> None:
    if not 0 <= size <= LIMIT or file.size not in (None, size):
        expected = f"{file.size:,}" if file.size is not None else f"at most {LIMIT:,}"
        raise ProofError(f"{archive.name}: {file.name} has {size:,} bytes; {expected} are expected")
    if size > shutil.disk_usage(target.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with target.open("xb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    if target.stat().st_size != size:
        raise ProofError(f"{archive.name}: {file.name} ends after {target.stat().st_size:,} of {size:,} bytes")
