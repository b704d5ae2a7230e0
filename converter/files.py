"""Reading and writing whole files: what is a regular file, its hash, and outputs that appear complete or not at all."""

from __future__ import annotations

import contextlib
import hashlib
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
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name only when the block ends well.

    Raises:
        ConversionError: the folder is missing or not writable, the disk is full.
    """
    part = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
    try:  # from here on, so that a signal between the file's birth and our knowing of it leaves nothing either
        with _created(part, path) as file:
            yield file
            file.flush()
        part.replace(path)
    except OSError as problem:
        _remove(part)
        raise ConversionError(f"{path}: cannot be written ({problem.strerror or problem}).") from problem
    except BaseException:
        _remove(part)
        raise


def _created(part: Path, path: Path) -> IO[bytes]:
    try:
        return part.open("xb")
    except ValueError as problem:  # a NUL in the name
        raise ConversionError(f"{shown(str(path))}: no file can have this name.") from problem


def _remove(part: Path) -> None:
    with contextlib.suppress(OSError, ValueError):
        part.unlink()
