"""Reading and writing whole files: what is a regular file, its hash, and outputs that appear complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from converter.errors import ConversionError, shown

SUFFIXES = (".safetensors", ".pth", ".pt", ".py", ".caffemodel")  # what can be written
_PIECE = 8 << 20  # large: another thread imports torch meanwhile, and each piece waits for its turn twice


def read_file(path: Path, limit: int, what: str, error: type[Exception]) -> bytes:
    """The bytes of a regular file of at most limit bytes."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{path}: not a regular file, so no {what}.")
        if status.st_size > limit:
            raise error(f"{path}: {status.st_size:,} bytes are too many for a {what}; is it the weight file?")
        return path.read_bytes()
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror or problem}).") from problem
    except ValueError as problem:  # a NUL in the name
        raise error(f"{shown(str(path))}: no file can have this name.") from problem


def head(path: Path, count: int) -> bytes:
    """The first bytes of a regular file; none of anything else, which opening it in earnest will explain."""
    with contextlib.suppress(OSError, ValueError):
        if path.is_file():
            with path.open("rb") as file:
                return file.read(count)
    return b""


def stand_in(start: bytes) -> str | None:
    """What came in place of the file that was wanted, by its first 512 bytes, and what to do; None for anything else."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<script")):
        return "a web page: the link gave a page (a login, a quota, a moved file); download the file itself, on GitHub its raw form"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, 130 bytes that name the file; run `git lfs pull` in its repository to get the file itself"
    return None


class Hasher(threading.Thread):
    """sha256 of a file, on a thread of its own: it runs while torch is imported."""

    def __init__(self, path: Path):
        super().__init__(daemon=True)
        self.path, self.digest = path, ""
        self.start()

    def run(self) -> None:
        state, buffer = hashlib.sha256(), memoryview(bytearray(_PIECE))
        with contextlib.suppress(OSError), self.path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                state.update(buffer[:count])
            self.digest = state.hexdigest()

    def result(self) -> str:
        self.join()
        if not self.digest:
            raise ConversionError(f"{self.path}: cannot be read again for its hash.")
        return self.digest


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A temporary file's name beside `path`, to be written in the block: it takes the name `path` when the block ends well (`sync`:
    once its bytes are on the disk), and vanishes otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        if sync:
            flush_to_disk(temporary)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink()


def flush_to_disk(path: Path) -> None:
    """fsync of a file or folder, where the file system has it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network filesystems cannot sync a directory
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name only when the block ends well.

    Raises:
        ConversionError: the folder is missing or not writable, the disk is full.
    """
    try:
        # The caller can write the file again: waiting for the disk would double the time of a large conversion.
        with replacing(path, sync=False) as temporary, _created(temporary, path) as file:
            yield file
    except OSError as problem:
        raise ConversionError(f"{path}: cannot be written ({problem.strerror or problem}).") from problem


def _created(temporary: Path, path: Path) -> IO[bytes]:
    try:
        return temporary.open("xb")
    except ValueError as problem:  # a NUL in the name
        raise ConversionError(f"{shown(str(path))}: no file can have this name.") from problem
