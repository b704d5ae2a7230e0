"""From pictures and frames to answers, a batch at a time: what is held at once doesn't grow with what there is to see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from finetune.predict.crops import face_crop
from finetune.predict.detect import Detector
from finetune.predict.model import FaceModel
from finetune.predict.rows import Row, Status
from finetune.predict.sources import End, Look
from finetune.predict.tracks import Tracker
from finetune.video.faces import Face

if TYPE_CHECKING:
    from torch import Tensor

MOST_PIXELS = 16 << 20  # of images that wait for the net
MOST_WAITING = 256  # pictures and frames, of which many may have no face
WHOLE = Face(np.array([0.0, 0.0, 1.0, 1.0]), 1.0, np.zeros((5, 2)))  # what the tracker follows where nobody looks for faces


@dataclass
class Found:
    """A picture or frame, its faces, and what the net is to see of each."""

    look: Look
    faces: list[Face] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """A picture or frame and its rows, at least one."""

    look: Look
    rows: tuple[Row, ...]


def answers(
    items: Iterable[Look | End], model: FaceModel, detector: Detector, *, batch: int, smooth: float, keep_images: bool
) -> Iterator[Answer | End]:
    """The answer to every Look, and every End behind its source's, in their order.

    `smooth` is in seconds (Tracker); without `keep_images` an answer's look has no image any more.
    """
    tracker: Tracker | None = None
    for found in batches(items, model, detector, batch, keep_images):
        inputs = [each for item in found if isinstance(item, Found) for each in item.inputs]
        probabilities = model.probabilities(inputs, batch)
        start = 0
        for item in found:
            if isinstance(item, End):
                tracker = None
                yield item
                continue
            part = probabilities[start : start + len(item.inputs)]
            start += len(item.inputs)
            if item.look.time is not None and tracker is None:
                tracker = Tracker(smooth)
            yield Answer(item.look, tuple(rows(item, part, tracker)))


def batches(
    items: Iterable[Look | End], model: FaceModel, detector: Detector, batch: int, keep_images: bool
) -> Iterator[list[Found | End]]:
    """Found and End in their order, in lists of about `batch` faces; a camera's frames one by one."""
    waiting: list[Found | End] = []
    inputs = pixels = 0
    for item in items:
        if isinstance(item, Look):
            found = look_for_faces(item, model, detector)
            inputs += len(found.inputs)
            if item.image is not None and keep_images:
                pixels += item.image.shape[0] * item.image.shape[1]
            elif item.image is not None:
                found.look = replace(item, image=None)
            waiting.append(found)
        else:
            waiting.append(item)
        if inputs >= batch or pixels >= MOST_PIXELS or len(waiting) >= MOST_WAITING or item.source.media == "camera":
            yield waiting
            waiting, inputs, pixels = [], 0, 0
    if waiting:
        yield waiting


def look_for_faces(look: Look, model: FaceModel, detector: Detector) -> Found:
    if look.image is None:
        return Found(look)
    if detector.name == "none":
        return Found(look, [], [model.input(look.image)])
    faces = detector.find(look.image)
    return Found(look, faces, [model.input(face_crop(look.image, face, model.crop, model.size)) for face in faces])


def rows(found: Found, probabilities: np.ndarray, tracker: Tracker | None) -> Iterator[Row]:
    """A row for each face; one that says why there is none."""
    look = found.look

    def row(status: Status, **more: object) -> Row:
        return Row(look.source.name, look.source.media, look.frame, look.time, status, **more)  # type: ignore[arg-type]

    if look.problem:
        yield row("unreadable")
        return
    whole = not found.faces and len(probabilities) > 0
    tracks: list[tuple[int | None, np.ndarray]] = [(None, each) for each in probabilities]
    if tracker is not None and look.time is not None:
        tracks = list(tracker.follow(look.time, [WHOLE] if whole else found.faces, list(probabilities), shot=look.shot))
    if whole:
        yield row("whole_image", track=tracks[0][0], probabilities=tracks[0][1])
        return
    if not found.faces:
        yield row("no_face")
    for number, (face, (track, smoothed)) in enumerate(zip(found.faces, tracks, strict=True), 1):
        box = (face.box[0], face.box[1], face.box[2] - face.box[0] + 1, face.box[3] - face.box[1] + 1)
        yield row("ok", face=number, track=track, box=box, box_score=face.score, probabilities=smoothed)
