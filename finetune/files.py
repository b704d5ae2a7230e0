"""Reading files that anyone may have made: limits, decompression, lines, images; and which suffixes are images and videos.

Every refusal is a FinetuneError that names the file.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import struct
import tarfile
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import numpy as np

from finetune.errors import BadImage, FinetuneError, MemoryShort, SizesDiffer, all_bad
from zoo import memory
from zoo.disk import digests_of
from zoo.disk import opened as opened_file
from zoo.pictures import BROKEN as BROKEN_PICTURE
from zoo.pictures import FORMATS, SUFFIXES, kind_of, on_white, upright

if TYPE_CHECKING:
    import PIL.Image

LIMIT = 4 << 30  # decompressed bytes of one file; fer2013.csv has 0.3 billion
LARGEST_BLOCK = 64 << 20  # bytes read in one piece
MOST_LINES = 4_000_000
LONGEST_LINE = 1 << 20  # bytes: a 512×512 image in decimal
LARGEST_SIDE = 8192  # pixels
LARGE_IMAGE = 16_000_000  # pixels: such images are decoded one at a time
MOST_FILES = 2_000_000  # images of one set
UNQUESTIONED = 256 << 20  # decoded bytes that any source may have
MOST_RATIO = 200  # decoded bytes for one on the disk; photographs have 10 to 50
IMAGE_SUFFIXES = SUFFIXES
ORIENTATION = 0x0112  # of EXIF
VIDEO_SUFFIXES = frozenset({
    ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".vob", ".webm", ".wmv",
})  # fmt: skip
SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})
# What the readers of archives raise for damaged ones; zipfile's for an empty name is an IndexError.
BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, OSError, RuntimeError,
    LookupError, UnicodeError, OverflowError,
)  # fmt: skip


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file to be read. Raises FinetuneError for what is none: no pipe is waited for, no device read without end."""
    try:
        file = opened_file(path)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise FinetuneError(f"{path}: {error.strerror}; remove it, or put the file itself there") from error
    with file:
        yield file


def first_bytes(path: Path) -> bytes:
    with opened(path) as source:
        return source.read(16)


def sha256_of(path: Path) -> bytes:
    """Of a file's content."""
    with opened(path) as source:
        return bytes.fromhex(digests_of(source, ())["sha256"])


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Makes a FinetuneError that names `path` of what decoders raise for a damaged file."""
    try:
        yield
    except FinetuneError:
        raise
    except BROKEN as error:
        # The disk's own; damaged streams raise one without number, or seek before the file's beginning.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise FinetuneError(f"{path}: the file is damaged or cut short ({str(error)[:200]}); fetch it again") from error


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
            raise FinetuneError(f"{self.what}: unpacks to more than {LIMIT:,} bytes: refused; unpack it, and take a part")
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
        (b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open), (b"", opened_file),
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


# --- memory ---------------------------------------------------------------------------------------------------------------------------


def check_room(need: int, on_disk: int, what: object, advice: str = "") -> None:
    """Raises MemoryShort where `need` bytes of decoded data don't fit into memory, twice: they are copied once, into the cache.

    Raises FinetuneError where they are so much more than the bytes on the disk that the source was made to fill the memory.
    CAFFEZOO_MEMORY, where it is set, is the one limit.
    """
    if memory.VARIABLE not in os.environ and need > max(UNQUESTIONED, MOST_RATIO * on_disk):
        raise FinetuneError(
            f"{what}: unpacks to {memory.shown_size(need)}, {need // max(on_disk, 1):,} times what lies on the disk: refused. If it is what"
            f" it should be, set {memory.VARIABLE}, as in {memory.VARIABLE}=16G"
        )
    if 2 * need > (have := memory.available()):
        raise MemoryShort(
            f"{what}: {memory.shown_size(need)} when decoded, twice as much while it is read, and {memory.shown_size(have)} of memory are"
            f" available. {advice or 'Take a part of it'}, or set {memory.VARIABLE} where this is wrong, as in {memory.VARIABLE}=16G"
        )


def check_images(paths: Sequence[Path], size: int | tuple[int, int] | None, root: Path) -> None:
    """Raises FinetuneError where so many images, all like the first one, are too many or don't fit into memory."""
    if len(paths) > MOST_FILES:
        raise FinetuneError(f"{root}: {len(paths):,} images, more than {MOST_FILES:,}; take a part of them")
    height, width, channels = first_header(paths, root)
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
    on_disk = sum(path.stat().st_size for path in paths)
    check_room(len(paths) * height * width * channels, on_disk, root, "Make the images smaller, or take a part of them")


# --- images ---------------------------------------------------------------------------------------------------------------------------

_one_at_a_time = threading.Lock()


@contextmanager
def own_limits() -> Iterator[None]:
    """Without Pillow's warnings of large images: the limits here are smaller. For the thread that starts the others."""
    import PIL.Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        yield


@contextmanager
def opened_image(path: Path) -> Iterator[PIL.Image.Image]:
    """An image whose header is read, and nothing else. Raises BadImage for a damaged one, too, inside the block."""
    import PIL.Image

    try:
        with opened(path) as file, PIL.Image.open(file, formats=FORMATS) as image:
            if max(image.size) > LARGEST_SIDE:
                shown = f"{image.width}×{image.height} pixels, more than {LARGEST_SIDE} a side"
                raise BadImage(f"{path}: {shown}: refused; save it smaller")
            yield image
    except (FinetuneError, PermissionError, FileNotFoundError):
        raise
    except PIL.UnidentifiedImageError as error:
        with opened(path) as file:
            reason = kind_of(file.read(512)) or f"none of {', '.join(FORMATS)}"
        raise BadImage(f"{path}: not a whole image ({reason}); put a PNG or JPEG in its place, or remove it") from error
    except (OSError, PIL.Image.DecompressionBombError, *BROKEN_PICTURE) as error:
        reason = str(error).strip() or type(error).__name__
        raise BadImage(f"{path}: not a whole image ({reason[:200]}); replace or remove the file") from error


def header(path: Path) -> tuple[int, int, int]:
    """(height, width, channels) of an image as it will be read, but for its pixels."""
    with opened_image(path) as image:
        height, width = upright_size(image)
        return height, width, 1 if image.mode in ("1", "L", "LA") else 3


def first_header(paths: Sequence[Path], root: Path) -> tuple[int, int, int]:
    """The header of the first image that has one. Raises BadImage where none has."""
    problems: list[BadImage] = []
    for path in paths:
        try:
            return header(path)
        except BadImage as error:
            problems.append(error)
    raise all_bad(problems, root)


def upright_size(image: PIL.Image.Image) -> tuple[int, int]:
    """(height, width) when the image is turned as its EXIF orientation says; of a PNG, where that stands before the pixels."""
    if image.format == "TIFF":  # some of Pillow's versions have turned its size when it is opened, others when it is loaded
        return image.height, image.width
    unread = image.format == "PNG" and "exif" not in image.info  # Pillow would decode it all to look behind them
    turned = not unread and image.getexif().get(ORIENTATION) in (5, 6, 7, 8)
    return image.size if turned else (image.height, image.width)


def read_image(path: Path, size: int | tuple[int, int] | None, like: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W) uint8 where the image is grey, also as equal channels, else (H, W, 3) RGB; resized to `size`, (H, W) or a square's side.

    Turned upright as its EXIF orientation says; transparent parts show white. Raises SizesDiffer, before anything is decoded, for an
    image that is not of the size `like`, (H, W).
    """
    import PIL.Image

    wanted = (size, size) if isinstance(size, int) else size and (size[1], size[0])
    with opened_image(path) as image:
        if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
            raise BadImage(f"{path}: {image.mode} pixels; expected 8 bits, grey or RGB. Save the image as 8 bits")
        if like is not None and (found := upright_size(image)) != like:
            raise SizesDiffer(f"{found[1]}×{found[0]} in {path}")
        with _one_at_a_time if image.width * image.height > LARGE_IMAGE else nullcontext():
            turned = upright(image)
            grey = turned.mode in ("1", "L") and not turned.has_transparency_data
            decoded = turned.convert("L") if grey else on_white(turned)
            if wanted is not None and decoded.size != wanted:
                decoded = decoded.resize(wanted, PIL.Image.Resampling.BICUBIC)
            array = np.asarray(decoded)
    if like is not None and array.shape[:2] != like:
        raise SizesDiffer(f"{array.shape[1]}×{array.shape[0]} in {path}")
    if array.ndim == 3 and (array[..., :1] == array[..., 1:]).all():
        return np.ascontiguousarray(array[..., 0])
    return array
