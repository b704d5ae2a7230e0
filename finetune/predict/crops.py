"""What a net sees of a face: as much around it as in the pictures that it was trained with."""

from __future__ import annotations

import numpy as np

from finetune.video.faces import Face, align
from zoo.cards.record import Crop

WHOLE = Crop(source="the whole picture")


def face_crop(image: np.ndarray, face: Face, crop: Crop, size: tuple[int, int]) -> np.ndarray:
    """The face (h, w, 3) uint8 in an image (H, W, 3) uint8: aligned ones have the crop's size or `size` (height, width), squares their own.

    What lies beyond the image is black in an aligned crop, and repeats the edge in a square one: faces at the edge are faces, too.
    """
    if crop.align:
        return align(image, face.points, crop.size or size, crop.margin)
    extent = face.box[2:] - face.box[:2] + 1
    side = max(1, round(float(extent.max()) * (1 + 2 * crop.margin)))
    left, top = (int(np.floor(each)) for each in (face.box[:2] + extent / 2) - side / 2)
    rows = np.arange(top, top + side).clip(0, image.shape[0] - 1)
    columns = np.arange(left, left + side).clip(0, image.shape[1] - 1)
    result: np.ndarray = image[rows[:, None], columns]
    return result


def told(crop: Crop) -> str:
    """What is seen of a face, and who says so, for people."""
    shape = "aligned by five points" if crop.align else "a square about the box"
    return f"{shape}, margin {crop.margin:+g}" + (f" ({crop.source})" if crop.source else "")
