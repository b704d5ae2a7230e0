"""A picture that somebody sent becomes its faces and what the net says of each; finetune.predict does the work."""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.predict.detect import Detector, shrunk
from finetune.predict.model import FaceModel
from finetune.predict.pipeline import answers
from finetune.predict.rows import Row
from finetune.predict.sources import Look, Media, Source
from finetune.serve.keep import Keep
from zoo.errors import PictureError
from zoo.pictures import read_picture

MOST_BYTES = 20 << 20  # of a picture's file
MOST_PIXELS = 40_000_000  # of a picture
SHOWN = 1024  # pixels of the longer side of what is sent back


@dataclass(frozen=True)
class Reading:
    """`image` (H, W, 3) uint8 RGB, at most SHOWN pixels a side; the rows' boxes are in its pixels. Without an image: `problem`."""

    image: np.ndarray | None
    rows: tuple[Row, ...] = ()
    problem: str = ""


class Reader:
    """One picture at a time, whoever sends it: MTCNN and the net have one state for all."""

    def __init__(self, model: FaceModel, detector: Detector, keep: Keep) -> None:
        self.model, self.detector, self.keep = model, detector, keep
        self.lock = threading.Lock()

    def read(self, image: np.ndarray, media: Media = "image") -> Reading:
        """What is in (H, W, 3) uint8 RGB."""
        look = Look(Source(Path("picture"), media, "picture"), 0, None, image)
        with self.lock:
            (answer,) = answers([look], self.model, self.detector, batch=32, smooth=0, keep_images=True)
        factor = max(1.0, max(image.shape[:2]) / SHOWN)
        small = shrunk(image, factor)
        return Reading(small, tuple(_scaled(row, small.shape[1] / image.shape[1]) for row in answer.rows))  # type: ignore[union-attr]

    def read_sent(self, sent: Any, media: Media = "image") -> Reading:
        """What a browser sent, as gradio passes it on. The file that it was uploaded to is gone afterwards."""
        try:
            return self.read(read_picture(self.bytes_of(sent), most_pixels=MOST_PIXELS), media)
        except PictureError as error:
            return Reading(None, problem=str(error))

    def bytes_of(self, sent: Any) -> bytes:
        """A file in the folder of uploads, which is removed, or a data: address. Raises PictureError for all others."""
        if not isinstance(sent, Mapping):
            sent = sent.model_dump() if hasattr(sent, "model_dump") else {}
        url, path = sent.get("url"), sent.get("path")
        if isinstance(url, str) and url.startswith("data:"):
            return decoded(url)
        if isinstance(path, str):
            return self.keep.take(path, MOST_BYTES)
        raise PictureError("no picture came")


def decoded(url: str) -> bytes:
    """The bytes of data:image/...;base64,... Raises PictureError."""
    head, comma, body = url.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise PictureError("not a picture's address")
    if len(body) > MOST_BYTES * 4 // 3 + 4:
        raise PictureError(f"more than {MOST_BYTES >> 20} MB: refused")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError("not a picture's address") from error


def _scaled(row: Row, factor: float) -> Row:
    if row.box is None or factor == 1:
        return row
    x, y, w, h = (each * factor for each in row.box)
    return replace(row, box=(x, y, w, h))
