"""The options of every command that finds faces and reads them, and what they lead to."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.predict.detect import Detector
    from finetune.predict.model import FaceModel

LONGEST = 1280  # pixels of the longer side of what is searched for faces
EXPRESSION_NOTE = (
    "note: these are apparent expressions, as a net reads them from pixels: not feelings. Don't base decisions about people on them."
)
OTHER_NOTE = "note: these are a net's guesses from pixels. Don't base decisions about people on them."


def add_face_options(command: argparse.ArgumentParser) -> None:
    """Which detector, how much of a face, on which device."""
    add = command.add_argument
    add("--detector", choices=("mtcnn", "opencv"), help="default: mtcnn where it has been fetched, else opencv")
    add("--no-detect", action="store_const", const="none", dest="detector", help="each picture is one face, as crops of data sets are")
    add(
        "--margin",
        type=between(-0.4, 4),
        metavar="PART",
        help="to see around a face on every side, as a part of it (default: the model's)",
    )
    add("--min-face", type=from_one, default=40, metavar="PIXELS", help="smallest face to be found (default 40)")
    add("--min-score", type=between(0, 1), default=0.9, metavar="P", help="smallest probability of a face, for MTCNN (default 0.9)")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: cuda where there is one)")


def model_and_detector(options: argparse.Namespace) -> tuple[FaceModel, Detector]:
    """What the options say, on their device. Raises FinetuneError and ZooError."""
    from finetune.predict.detect import Name, detector
    from finetune.predict.model import load_model

    model = load_model(options.model, options.device, options.margin)
    names: dict[str | None, Name | None] = {
        "mtcnn": "mtcnn", "opencv": "opencv_cascade", "none": "none", None: None if model.faces else "none",
    }  # fmt: skip
    search = detector(names[options.detector], model.device, min_face=options.min_face, min_score=options.min_score, longest=LONGEST)
    return model, search


def detector_words(name: str, align: bool) -> str:
    """How faces are looked for, for people."""
    words = {
        "mtcnn": "MTCNN",
        "opencv_cascade": "OpenCV's cascade (frontal faces; MTCNN finds more: caffe-zoo fetch mtcnn)",
        "none": "not looked for, each picture is one",
    }[name]
    if align and name == "opencv_cascade":
        words += "; the net was trained with aligned faces, and the cascade sees no eyes: they are taken to be where they are on average"
    return words


def from_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number from 1")
    return int(text)


def from_zero(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number from 0")
    return int(text)


def between(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r}; expected a number from {low:g} to {high:g}")
        return value

    return parse
