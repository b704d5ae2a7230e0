"""A file as a stream of its unpacked bytes that gives out no more than is allowed: what tar and zip archives are read through."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Protocol

from zoo.errors import ProofError

PIECE = 1 << 20  # bytes unpacked at once
PACKED = 1 << 16  # bytes read at once
MOST_STREAMS = 100_000  # in one file; bgzip writes one for every 64 KiB
MOST_MEMORY = 128 << 20  # of xz's dictionary; `xz -9` needs 65 MiB
KEPT = 1024  # bytes behind the position that can be read again: tarfile goes back by one


class _Unpacker(Protocol):
    """What bz2's and lzma's decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's decompressor as one of them."""

    def __init__(self) -> None:
        self.inner = zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        return self.inner.eof

    @property
    def needs_input(self) -> bool:
        return not self.inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self.inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self.inner.decompress(self.inner.unconsumed_tail + data, max_length)


_KINDS: tuple[tuple[bytes, Callable[[], _Unpacker]], ...] = (
    (b"\x1f\x8b", _Gzip),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(memlimit=MOST_MEMORY)),
)


def pieces(source: IO[bytes]) -> Iterator[bytes]:
    """The bytes of a gzip, bzip2 or xz file unpacked, or of any other as they are, at most PIECE at a time.

    Raises EOFError for one that ends early, and what the decompressors raise for damage.
    """
    start = source.read(6)
    source.seek(0)
    make = next((make for magic, make in _KINDS if start.startswith(magic)), None)
    if make is None:
        while block := source.read(PIECE):
            yield block
        return
    packed = source.read(PACKED)
    for _ in range(MOST_STREAMS):  # several in a row are one file; zeros may fill it up
        unpacker = make()
        while not unpacker.eof:
            if unpacker.needs_input and not packed and not (packed := source.read(PACKED)):
                raise EOFError("the compressed data end early")
            given, packed = packed, b""
            if block := unpacker.decompress(given, PIECE):
                yield block
        packed = unpacker.unused_data or source.read(PACKED)
        if not packed.strip(b"\0"):
            return
    raise ProofError("the archive consists of too many pieces: refused")


class Limited:
    """A stream for tarfile: it is read and skipped forward, to `total` bytes, of which tarfile's headers may be `headers`."""

    def __init__(self, source: Iterator[bytes], total: int, headers: int) -> None:
        self.source, self.total, self.headers = source, total, headers
        self.kept, self.at = b"", 0  # what has been unpacked, but for what is far behind; the position in it
        self.start = 0  # where `kept` begins in the whole
        self.allowance: int | None = None

    def tell(self) -> int:
        return self.start + self.at

    def read(self, count: int = -1) -> bytes:
        if count < 0:
            raise io.UnsupportedOperation("reading all of an archive at once")
        if self.allowance is not None:
            self.allowance -= count
            self.headers -= count
            if min(self.allowance, self.headers) < 0:
                raise ProofError("the archive's names and headers are longer than any model's: refused")
        parts = []
        while count and self._more():
            part = self.kept[self.at : self.at + count]
            self.at, count = self.at + len(part), count - len(part)
            parts.append(part)
        return b"".join(parts)

    def seek(self, target: int) -> int:
        if target < self.start:
            raise ProofError("the archive's entries go backwards: refused")
        self.at = min(target - self.start, len(self.kept))
        while self.tell() < target and self._more():
            self.at = min(target - self.start, len(self.kept))
        return self.tell()

    def _more(self) -> bool:
        """Whether there are bytes at the position; it unpacks the next ones if it has to."""
        while self.at >= len(self.kept):
            block = next(self.source, b"")
            if not block:
                return False
            behind = self.kept[-KEPT:]
            self.start += len(self.kept) - len(behind)
            self.kept, self.at = behind + block, len(behind)
            if self.start > self.total:
                raise ProofError(f"the archive unpacks to more than {self.total:,} bytes: refused")
        return True

    @contextmanager
    def at_most(self, count: int) -> Iterator[None]:
        """Inside, a header is read, which has no more than so many bytes: skipping counts nothing."""
        self.allowance = count
        try:
            yield
        finally:
            self.allowance = None


class LimitedFile:
    """A file for zipfile, which reads the whole directory at once: refuses to read that much."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self.file, self.most = file, most
        self.tell, self.close = file.tell, file.close

    def read(self, count: int = -1) -> bytes:
        if count > self.most:
            raise ProofError("the archive's directory is longer than any model's: refused")
        data = self.file.read(self.most + 1 if count < 0 else count)
        if len(data) > self.most:
            raise ProofError("the archive's directory is longer than any model's: refused")
        return data

    def seek(self, target: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET and not 0 <= target < 1 << 62:
            raise ValueError("an entry lies outside of the archive")
        return self.file.seek(target, whence)

    def seekable(self) -> bool:
        return True
