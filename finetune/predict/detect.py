"""Where the faces are: the zoo's MTCNN where it has been fetched, else the cascade that comes with OpenCV."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finetune.errors import FinetuneError
from finetune.extras import to_install
from finetune.video import faces
from finetune.video.faces import Face
from zoo.cards import registry
from zoo.files import copies, store

Name = Literal["mtcnn", "opencv_cascade", "none"]
CASCADE = "haarcascade_frontalface_default.xml"
SMALLEST = {"mtcnn": 20.0, "opencv_cascade": 24.0}  # pixels that the detectors were trained with at least
# The cascade's box is a square of 0.915 times the height of MTCNN's about the same middle (within 0.02), and has no landmarks: these
# are MTCNN's average ones in it, as parts of its side. Measured on 340 of FER2013's training images, in which both find the face.
CASCADE_SIDE = 0.915
CASCADE_POINTS = np.array([(0.313, 0.389), (0.687, 0.389), (0.5, 0.604), (0.345, 0.796), (0.655, 0.796)])

# Of the last stage: costs 1 in 100 of the faces that the cascade finds in those images; coins and cells have less.
CASCADE_WEIGHT = 2.0


@dataclass(frozen=True)
class Detector:
    """`find` takes an image (H, W, 3) uint8 RGB and gives its faces, the largest first, in pixels of that image.

    The box holds first and last pixels; the score is a probability, or NaN where the detector knows none. `landmarks`: whether
    the five points were seen, or only follow from the box.
    """

    name: Name
    find: Callable[[np.ndarray], list[Face]]
    landmarks: bool


def detector(wanted: Name | None, device: str, *, min_face: int, min_score: float, longest: int) -> Detector:
    """The detector `wanted`; None: the best one that is here. Nothing is fetched.

    Images whose longer side has more than `longest` pixels are searched at that size. Raises FinetuneError where the detector, or
    any, is missing, with what brings it.
    """
    if wanted is None:
        wanted = "mtcnn" if is_fetched("mtcnn") else "opencv_cascade"
    if wanted == "none":
        return Detector("none", lambda image: [], False)
    find = _mtcnn(device, min_score) if wanted == "mtcnn" else _cascade()

    def largest_first(image: np.ndarray) -> list[Face]:
        shrink = max(1.0, max(image.shape[:2]) / longest)
        small = shrunk(image, shrink)
        scale = np.array([image.shape[1] / small.shape[1], image.shape[0] / small.shape[0]])
        found = find(small, max(SMALLEST[wanted], min_face / shrink))
        known = [faces.scaled(face, scale) for face in found]
        return sorted((face for face in known if face.side >= min_face / 2), key=lambda face: -face.side)

    return Detector(wanted, largest_first, wanted == "mtcnn")


def shrunk(image: np.ndarray, factor: float) -> np.ndarray:
    """The image at 1/factor of its size, averaged; itself where the factor is 1."""
    if factor <= 1:
        return image
    from PIL import Image

    height, width = image.shape[:2]
    size = max(1, round(width / factor)), max(1, round(height / factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def is_fetched(name: str) -> bool:
    """Whether all files of a model are in the cache, so that loading it asks nobody."""
    card = registry.card_of(name)
    return (
        card.folder is not None
        or copies.copy_of(card) is not None
        or all(store.cached(store.folder(card), file) for file in card.files if file.needed)
    )


def _mtcnn(device: str, min_score: float) -> faces.Detect:
    if not is_fetched("mtcnn"):
        raise FinetuneError("MTCNN is not in the cache; bring it once with: caffe-zoo fetch mtcnn (or choose --detector opencv)")
    import torch

    threads = torch.get_num_threads()
    find = faces.mtcnn(device)
    torch.set_num_threads(threads)  # which it set to one
    return lambda image, smallest: [face for face in find(image, smallest) if face.score >= min_score]


def _cascade() -> faces.Detect:
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError as error:
        raise FinetuneError(
            f"faces are found by OpenCV, which cannot be imported ({error}): {to_install('predict')};"
            " or, for MTCNN: caffe-zoo fetch mtcnn; or, for pictures of nothing but a face: --no-detect"
        ) from None
    if not hasattr(cv2, "CascadeClassifier"):
        raise FinetuneError(f"OpenCV {cv2.__version__} has no cascades any more: {to_install('predict')}, or caffe-zoo fetch mtcnn")
    net = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / CASCADE))
    if net.empty():
        raise FinetuneError(
            f"OpenCV's {CASCADE} is missing from {cv2.data.haarcascades}: {to_install('predict')}, or caffe-zoo fetch mtcnn"
        )

    def find(image: np.ndarray, smallest: float) -> Sequence[Face]:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if min(grey.shape) < smallest:
            return []
        side = math.ceil(smallest)
        boxes, _, weights = net.detectMultiScale3(grey, scaleFactor=1.1, minNeighbors=6, minSize=(side, side), outputRejectLevels=True)
        return [from_cascade(*map(float, box)) for box, weight in zip(boxes, np.ravel(weights), strict=True) if weight >= CASCADE_WEIGHT]

    return find


def from_cascade(left: float, top: float, width: float, height: float) -> Face:
    """The cascade's square as the box that MTCNN would have about as much of a face in."""
    side = max(width, height)
    points = np.array([left, top]) + CASCADE_POINTS * side - 0.5
    grown = side / CASCADE_SIDE
    middle = np.array([left + width / 2, top + height / 2])
    corner = middle - grown / 2
    return Face(np.concatenate([corner, corner + grown - 1]), math.nan, points)
