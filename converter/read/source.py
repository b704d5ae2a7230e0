"""A weight file, open: what it is by its first bytes, and its bytes by position."""

from __future__ import annotations

import os
import stat
import weakref
from pathlib import Path
from typing import overload

from converter.errors import WeightsError, shown
from converter.files import stand_in

_BLOCK = 1 << 16
_CONTROLS = bytes({*range(32)} - set(b"\t\n\v\f\r\x1b"))  # which text does not hold


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
        count = os.preadv(descriptor, [buffer], offset)
        if not count:
            raise WeightsError(f"{path}: the file became shorter while it was read.")
        buffer, offset = buffer[count:], offset + count


def open_source(path: Path) -> Source:
    """Open and map a weight file, and tell what is none by its first bytes.

    Raises:
        WeightsError: missing, empty, or a web page, an archive, a Git LFS pointer, another framework's file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not wait for its writer
    except OSError as problem:
        raise WeightsError(f"{path}: cannot be read ({problem.strerror or problem}).") from problem
    except ValueError as problem:
        raise WeightsError(f"{shown(str(path))}: no file can have this name.") from problem
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise WeightsError(f"{path}: not a regular file, so no weight file.")
        head = os.pread(descriptor, 512, 0)
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


_ARCHIVES = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"7z\xbc\xaf", b"\xfd7zXZ", b"Rar!")
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _not_weights(head: bytes) -> str | None:
    """What a file is that is no caffemodel, by its first 512 bytes, and what to do with it."""
    if found := stand_in(head):
        return f"no weight file, but {found}."
    if head.startswith(b"PK\x03\x04") and b"data.pkl" in head:
        return "this is a PyTorch file (.pth, .pt); it needs no conversion: torch.load(path, weights_only=True)."
    if head.startswith(_ARCHIVES) or head[257:262] == b"ustar":
        return "this is an archive; unpack the caffemodel from it first."
    if head.startswith(_PICKLES):
        return "this is a Python pickle (an old PyTorch file, perhaps: torch.load(path, weights_only=True)), not a caffemodel."
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return "this is a safetensors file; it needs no conversion: safetensors.torch.load_file(path)."
    if head.startswith(b"\x93NUMPY"):
        return "this is a NumPy array (.npy), not a caffemodel."
    if head[4:8] == b"TFL3":
        return "this is a TensorFlow Lite model, not a caffemodel."
    if head[:1] == b"\x08" and head[2:3] == b"\x12":  # a number, then text: ModelProto or SavedModel; a mean image goes on with numbers
        model = "an ONNX model" if head[4 : 4 + head[3]].isalnum() else "an ONNX or a TensorFlow model"
        return f"this is {model}, not a caffemodel; convert-caffe reads Caffe's files only."
    if b"\x12\x0bPlaceholder" in head or b"\x12\x05Const" in head:
        return "this is a frozen TensorFlow graph (.pb), not a caffemodel."
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "this is UTF-16 text, no weight file; a prototxt has to be saved as UTF-8."
    if head == head.translate(None, _CONTROLS) and (b":" in head or b"{" in head):
        return "this is a text file, a prototxt or a solver by its looks; give the net's prototxt first, and the .caffemodel second."
    return None
