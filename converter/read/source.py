"""A weight file, open: what it is by its first bytes, and its bytes by position."""

from __future__ import annotations

import os
import stat
import weakref
from pathlib import Path
from typing import overload

from converter.errors import WeightsError, shown
from converter.files import READING, read_at, stand_in
from converter.formats import HDF5, LENGTH, begins_a_message, recognised

_BLOCK = 1 << 16


class Source:
    """An open weight file: looked at through a window for the walk, read by position for the values.

    It is not mapped: a mapped file that somebody cuts short ends the process (SIGBUS), a read of it is an error.
    Blobs hold on to it; the file is closed with the last of them.
    """

    def __init__(self, path: Path, descriptor: int):
        self.path, self.descriptor = path, descriptor
        weakref.finalize(self, os.close, descriptor)
        self.size = os.fstat(descriptor).st_size
        self.bytes = Window(path, descriptor, self.size)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer of bytes from the file."""
        _read_into(self.path, self.descriptor, buffer, offset)


class Window:
    """The bytes of a file by position, as of a bytes object, a block of them in memory at a time."""

    def __init__(self, path: Path, descriptor: int, size: int):
        self._path, self._descriptor, self._size = path, descriptor, size
        self._start, self._block = 0, b""

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> bytes: ...
    def __getitem__(self, key: int | slice) -> int | bytes:
        if isinstance(key, int):
            at = key - self._start
            if not 0 <= at < len(self._block):
                self._start, self._block, at = key, self._read(key, min(key + _BLOCK, self._size)), 0
            return self._block[at]
        start, stop, step = key.indices(self._size)
        first, last = start - self._start, stop - self._start
        if 0 <= first <= last <= len(self._block):
            return self._block[first:last:step]
        return self._read(start, stop)[::step]

    def _read(self, start: int, stop: int) -> bytes:
        buffer = bytearray(max(stop - start, 0))
        _read_into(self._path, self._descriptor, memoryview(buffer), start)
        return bytes(buffer)


def _read_into(path: Path, descriptor: int, buffer: memoryview, offset: int) -> None:
    while len(buffer):
        count = read_at(descriptor, buffer, offset)
        if not count:
            raise WeightsError(f"{path}: the file became shorter while it was read.")
        buffer, offset = buffer[count:], offset + count


def open_source(path: Path) -> Source:
    """Open and map a weight file, and tell what is none by its first bytes.

    Raises:
        WeightsError: missing, empty, or a web page, an archive, a Git LFS pointer, another framework's file.
    """
    try:
        descriptor = os.open(path, READING)  # a pipe must not wait for its writer
    except OSError as problem:
        raise WeightsError(f"{path}: cannot be read ({problem.strerror or problem}).") from problem
    except ValueError as problem:
        raise WeightsError(f"{shown(str(path))}: no file can have this name.") from problem
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise WeightsError(f"{path}: {_what_else(path)}, so no weight file.")
        start = bytearray(LENGTH)
        head = bytes(start[: read_at(descriptor, memoryview(start), 0)])
        if not head:
            raise WeightsError(f"{path}: the file is empty; the download may have failed.")
        if not os.fstat(descriptor).st_size:
            raise WeightsError(f"{path}: the system does not say how long this file is, so no weight file.")
        complaint = _not_weights(head)
        if complaint:
            raise WeightsError(f"{path}: {complaint}")
    except BaseException:
        os.close(descriptor)
        raise
    return Source(path, descriptor)


def _what_else(path: Path) -> str:
    """What stands there instead of a regular file; a folder is known by what lies in it."""
    for name, what in (
        ("saved_model.pb", "a TensorFlow SavedModel"),
        ("data.mdb", "an LMDB database, Caffe's form of training images"),
        ("CURRENT", "a LevelDB database, Caffe's form of training images"),
        ("Manifest.json", "a Core ML package"),
    ):
        if (path / name).exists():
            return f"a folder ({what}), not a regular file"
    return "a folder, not a regular file" if path.is_dir() else "not a regular file"


def _not_weights(head: bytes) -> str | None:
    """What a file is that is no caffemodel, by its first bytes, and what to do with it."""
    if found := stand_in(head):
        return f"no weight file, but {found}."
    found_format = recognised(head)
    if found_format is not None:
        return f"this is {found_format.what}; {found_format.advice}."
    if head.startswith(HDF5) or begins_a_message(head):
        return None
    if not head.strip(b"\0"):
        return f"no weight file: its first {len(head)} bytes are zeros, as those of a download that was never completed."
    return f"no caffemodel: none begins with the bytes {head[:4].hex(' ')}. It is a file of another kind."
