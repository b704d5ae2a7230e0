"""A picture file that anyone may have made becomes pixels: upright, RGB, 8 bits. Pillow decodes, and only the formats named here."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.files import head, opened, stand_in
from converter.preprocess import on_white as on_white
from converter.preprocess import sixteen_bits
from converter.preprocess import upright as upright  # the recipes read pictures with it, too
from zoo.errors import PictureError

if TYPE_CHECKING:
    import numpy as np

# Pillow's names. What runs another program (EPS: Ghostscript) or opens further files stays closed.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp", ".gif"})
PHOTOGRAPHS = frozenset({".heic", ".heif", ".avif", ".jxl"})  # not read, and in a folder named rather than left out: phones make them
MOST_PIXELS = 80_000_000  # below Pillow's own limit of 89 million
# What Pillow's decoders raise for damaged files, beside OSError.
BROKEN = (ArithmeticError, EOFError, LookupError, MemoryError, SyntaxError, TypeError, ValueError, struct.error, zlib.error)

EMPTY = "the file is empty"
# What pictures, drawings and videos begin with that are not read, at the byte from which it stands there.
OTHERS = (
    (4, b"ftypheic", "a HEIC picture"), (4, b"ftypheix", "a HEIC picture"), (4, b"ftypmif1", "a HEIC picture"),
    (4, b"ftypmsf1", "a HEIC picture"), (4, b"ftypavi", "an AVIF picture"), (4, b"ftyp", "a video"), (8, b"AVI ", "a video"),
    (0, b"\x1aE\xdf\xa3", "a video"), (4, b"jP  ", "a JPEG 2000 picture"), (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (4, b"JXL ", "a JPEG XL picture"), (0, b"\xff\x0a", "a JPEG XL picture"), (0, b"\0\0\1\0", "an icon"),
    (0, b"8BPS", "a Photoshop file"), (0, b"%PDF-", "a PDF document"), (0, b"%!PS", "a PostScript drawing"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript drawing"), (0, b"PK\x03\x04", "an archive"), (0, b"\x1f\x8b", "an archive"),
    (0, b"\x93NUMPY", "a NumPy array"),
)  # fmt: skip


def kind_of(start: bytes) -> str | None:
    """What a file is that is no picture of FORMATS, by its first 512 bytes, in words; None where that is not known."""
    if not start:
        return EMPTY
    if not start.strip(b"\0"):
        return "nothing but zeros, as a copy leaves that was broken off"
    if b"<svg" in start.lower():
        return "an SVG drawing"
    return stand_in(start) or next((what for place, magic, what in OTHERS if start.startswith(magic, place)), None)


def read_picture(source: str | os.PathLike[str] | bytes, *, most_pixels: int = MOST_PIXELS) -> np.ndarray:
    """The first picture of a file, or of a file's bytes, as (H, W, 3) uint8, RGB in 0..255.

    Turned upright as its EXIF orientation says; transparent parts show white; grey becomes three equal channels; of 16 bits the
    upper 8 are kept. Raises PictureError, whose text is the reason without the file's name.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(), io.BytesIO(source) if isinstance(source, bytes) else opened(source) as file:
            warnings.simplefilter("ignore")  # of metadata that nobody reads here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > most_pixels:
                    raise PictureError(f"{image.width}×{image.height} pixels, more than {most_pixels:,}: refused")
                return np.array(_rgb(upright(image), image.format))
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        kind = kind_of(source[:512] if isinstance(source, bytes) else head(Path(source), 512))
        if kind == EMPTY:
            raise PictureError(EMPTY) from error
        if kind is not None:
            advice = "; save it as JPEG or PNG" if kind.endswith(" picture") else ""
            raise PictureError(f"not a picture that is read here: {kind}{advice}") from error
        raise PictureError(f"not a picture ({', '.join(FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"more than {most_pixels:,} pixels: refused") from error
    except OSError as error:
        if error.errno is not None:
            raise PictureError(error.strerror or str(error)) from error
        raise PictureError(f"not a whole picture ({error})") from error
    except BROKEN as error:
        raise PictureError(f"not a whole picture ({type(error).__name__}: {error})") from error


def _rgb(image: Any, form: str | None) -> Any:
    """A PIL image of any mode, from a file of the format `form`, in mode RGB."""
    import numpy as np
    from PIL import Image

    if image.mode[0] not in "IF":
        return on_white(image)
    try:
        values = sixteen_bits(image, form)
    except ValueError as error:
        raise PictureError(str(error)) from error
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
