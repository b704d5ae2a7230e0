"""Reading files that anyone may have made: limits, decompression, lines, images; and which suffixes are images and videos.

Every refusal is a FinetuneError that names the file.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import numpy as np

from finetune.errors import FinetuneError
from zoo.pictures import FORMATS, SUFFIXES, upright

if TYPE_CHECKING:
    pass

LIMIT = 4 << 30  # decompressed bytes of one file; fer2013.csv has 0.3 billion
LARGEST_BLOCK = 64 << 20  # bytes read in one piece
MOST_LINES = 4_000_000
LONGEST_LINE = 1 << 20  # bytes: a 512×512 image in decimal
LARGEST_SIDE = 8192  # pixels
IMAGE_SUFFIXES = SUFFIXES
VIDEO_SUFFIXES = frozenset({
    ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".vob", ".webm", ".wmv",
})  # fmt: skip
SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})
BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, OSError, RuntimeError)


def first_bytes(path: Path) -> bytes:
    with path.open("rb") as source:
        return source.read(16)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Makes a FinetuneError that names `path` of what decoders raise for a damaged file."""
    try:
        yield
    except FinetuneError:
        raise
    except BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's own; damaged streams raise one without number
            raise
        raise FinetuneError(f"{path}: the file is damaged or cut short ({error}); fetch it again") from error


class Bounded(io.RawIOBase):
    """A readable, seekable stream that gives at most LIMIT bytes, and never more than LARGEST_BLOCK at once.

    tarfile reads an extended header in one piece, of whatever size its own header claims.
    """

    def __init__(self, stream: IO[bytes], what: str) -> None:
        self.stream, self.what = stream, what

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.stream.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0 and offset > LIMIT:
            raise FinetuneError(f"{self.what}: unpacks to more than {LIMIT:,} bytes: refused")
        return self.stream.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        if size is None or size < 0 or size > LARGEST_BLOCK:
            raise FinetuneError(f"{self.what}: asks for {size:,} bytes in one piece: refused")
        if self.stream.tell() > LIMIT:
            raise FinetuneError(f"{self.what}: unpacks to more than {LIMIT:,} bytes: refused")
        return self.stream.read(size)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        block = self.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)


@contextmanager
def decompressed(path: Path, start: bytes) -> Iterator[IO[bytes]]:
    """The file's content as a buffered stream, unpacked where `start`, its first bytes, are those of gzip, bzip2 or xz."""
    openers: tuple[tuple[bytes, Callable[[Path], object]], ...] = (
        (b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open), (b"", lambda file: file.open("rb")),
    )  # fmt: skip
    opener = next(opener for magic, opener in openers if start.startswith(magic))
    with cast(IO[bytes], opener(path)) as stream, io.BufferedReader(Bounded(stream, str(path)), 1 << 20) as reader:
        yield cast(IO[bytes], reader)


def numbered_lines(stream: IO[bytes], what: str) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of a text file. Raises FinetuneError for an empty one and for lines that no csv of images has."""
    number, total = 0, 0
    while line := stream.readline(LONGEST_LINE + 1):
        number, total = number + 1, total + len(line)
        if len(line) > LONGEST_LINE or total > LIMIT or number > MOST_LINES:
            raise FinetuneError(f"{what}, line {number}: longer than any image's row, or the file is too large: is it a csv file?")
        yield number, line
    if not number:
        raise FinetuneError(f"{what}: the file is empty; fetch it again")


def subfolders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith((".", "__MACOSX")))


def read_image(path: Path, size: int | tuple[int, int] | None) -> np.ndarray:
    """(H, W) uint8 where the image is grey, also as equal channels, else (H, W, 3) RGB; resized to `size`, (H, W) or a square's side.

    Turned upright as its EXIF orientation says.
    """
    import PIL.Image

    wanted = (size, size) if isinstance(size, int) else size and (size[1], size[0])
    try:
        with PIL.Image.open(path, formats=FORMATS) as image:
            if max(image.size) > LARGEST_SIDE:
                raise FinetuneError(f"{path}: {image.width}×{image.height} pixels, more than {LARGEST_SIDE} a side: refused")
            if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
                raise FinetuneError(f"{path}: {image.mode} pixels; expected 8 bits, grey or RGB. Save the image as 8 bits")
            decoded = upright(image).convert("L" if image.mode in ("1", "L", "LA") else "RGB")
            if wanted is not None and decoded.size != wanted:
                decoded = decoded.resize(wanted, PIL.Image.Resampling.BICUBIC)
            array = np.asarray(decoded)
    except FinetuneError:
        raise
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError, EOFError, zlib.error) as error:
        if isinstance(error, PermissionError | FileNotFoundError):
            raise
        raise FinetuneError(f"{path}: not a whole image ({error}); replace or remove the file") from error
    if array.ndim == 3 and (array[..., :1] == array[..., 1:]).all():
        return np.ascontiguousarray(array[..., 0])
    return array
