"""A picture file that anyone may have made becomes pixels: upright, RGB, 8 bits. Pillow decodes, and only the formats named here."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.files import opened
from converter.preprocess import on_white as on_white
from converter.preprocess import upright as upright  # the recipes read pictures with it, too
from zoo.errors import PictureError

if TYPE_CHECKING:
    import numpy as np

# Pillow's names. What runs another program (EPS: Ghostscript) or opens further files stays closed.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp", ".gif"})
MOST_PIXELS = 80_000_000  # below Pillow's own limit of 89 million
# What Pillow's decoders raise for damaged files, beside OSError.
BROKEN = (ArithmeticError, EOFError, LookupError, MemoryError, SyntaxError, TypeError, ValueError, struct.error, zlib.error)


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
                image.load()
                return np.array(_rgb(upright(image)))
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
        raise PictureError(f"not a picture ({', '.join(FORMATS)})" if size else "the file is empty") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"more than {most_pixels:,} pixels: refused") from error
    except OSError as error:
        if error.errno is not None:
            raise PictureError(error.strerror or str(error)) from error
        raise PictureError(f"not a whole picture ({error})") from error
    except BROKEN as error:
        raise PictureError(f"not a whole picture ({type(error).__name__}: {error})") from error


def _rgb(image: Any) -> Any:
    """A PIL image of any mode in mode RGB."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise PictureError(f"grey values from {values.min()} to {values.max()}; expected 8 or 16 bits. Save it as one of these")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise PictureError("pixels are fractions, whose range nobody states; expected 8 or 16 bits. Save it as one of these")
    return on_white(image)
