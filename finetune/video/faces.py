"""From the faces of single frames to one aligned face through a video: detector, track, smoothing, crop.

Points are (x, y) in pixels; 0 is the middle of the first pixel.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

# Left eye, right eye, nose, left and right corner of the mouth (as seen) in a crop 96 wide and 112 high: the points that
# ydwen/caffe-face aligns CASIA-WebFace and LFW to (Wen et al., ECCV 2016).
REFERENCE = np.array([(30.2946, 51.6963), (65.5318, 51.5014), (48.0252, 71.7366), (33.5493, 92.3655), (62.7299, 92.2041)])
REFERENCE_SIZE = (112, 96)

DETECTION_SIDE = 640  # the longer side of what the detector sees at most
SURE = 0.9  # a track has at least one face of this probability,
SEEN = 3  # and this many faces, or as many as a shorter video has frames: MTCNN sees a face in a leaf now and then
REACH = 0.8  # of a face's side: how far it can have moved between two frames
GROWTH = 1.6  # how much larger or smaller it can have become
MEMORY = 2.0  # seconds after which a face that reappears is another track


class Face(NamedTuple):
    box: np.ndarray  # (4,): x1, y1, x2, y2
    score: float  # probability of a face
    points: np.ndarray  # (5, 2): as REFERENCE

    @property
    def middle(self) -> np.ndarray:
        result: np.ndarray = (self.box[:2] + self.box[2:]) / 2
        return result

    @property
    def side(self) -> float:
        return float((self.box[2:] - self.box[:2]).mean())


Detect = Callable[[np.ndarray, float], Sequence[Face]]  # (H, W, 3) uint8 RGB, smallest face in pixels -> faces
Track = list[tuple[int, Face]]  # frame number from 0, the face there


# --- detection ------------------------------------------------------------------------------------------------------------------------


def mtcnn(device: str) -> Detect:
    """The zoo's MTCNN, on one thread: what it finds doesn't depend on how many run beside it."""
    import torch

    import zoo

    torch.set_num_threads(1)
    model: Any = zoo.load("mtcnn", device=device)

    def detect(image: np.ndarray, smallest: float) -> list[Face]:
        model.min_size = smallest
        found = model(torch.from_numpy(image).permute(2, 0, 1).to(device))
        boxes, scores, landmarks = (part.cpu().numpy().astype(np.float64) for part in found)
        return [Face(box - 1, float(score), points) for box, score, points in zip(boxes, scores, landmarks, strict=True)]

    return detect


def scaled(face: Face, scale: np.ndarray) -> Face:
    """The face in an image that is `scale` (x, y) times as large."""
    return Face((face.box + 0.5) * np.tile(scale, 2) - 0.5, face.score, (face.points + 0.5) * scale - 0.5)


# --- tracks ---------------------------------------------------------------------------------------------------------------------------


def cuts(thumbnails: Sequence[np.ndarray]) -> set[int]:
    """Numbers of the frames that begin a new shot: grey levels change by more than 30 of 255 on average, and by more than
    four times what is usual in this video."""
    if len(thumbnails) < 2:
        return set()
    change = np.array([np.abs(b.astype(np.int16) - a).mean() for a, b in itertools.pairwise(thumbnails)])
    return {int(number) + 1 for number in np.flatnonzero(change > max(30.0, 4 * float(np.median(change))))}


def link(found: Sequence[tuple[int, Sequence[Face]]], times: Sequence[float], shots: Collection[int] = ()) -> list[Track]:
    """Faces in the frames that were searched -> tracks: the nearest pairs first, none across a cut.

    `times` are the seconds of all frames of the video, `shots` the frames that begin a shot.
    """
    tracks: list[Track] = []
    first = 0  # of the tracks that are in this shot
    previous = -1
    for number, faces in found:
        if any(previous < shot <= number for shot in shots):
            first = len(tracks)
        previous = number
        pairs = []
        for at in range(first, len(tracks)):
            seen, last = tracks[at][-1]
            if times[number] - times[seen] > MEMORY:
                continue
            for index, face in enumerate(faces):
                small, large = sorted([face.side, last.side])
                distance = float(np.linalg.norm(face.middle - last.middle)) / large
                if distance < REACH and large < GROWTH * small:
                    pairs.append((distance, at, index))
        taken: set[int] = set()
        for _, at, index in sorted(pairs):
            if index not in taken and tracks[at][-1][0] != number:
                tracks[at].append((number, faces[index]))
                taken.add(index)
        tracks += [[(number, face)] for index, face in enumerate(faces) if index not in taken]
    return tracks


def main_track(tracks: Sequence[Track], searched: int) -> Track | None:
    """The track that is longest, larger faces counting more: the largest sum of sides over its frames. None: no face."""
    sure = [track for track in tracks if len(track) >= min(SEEN, searched) and max(face.score for _, face in track) >= SURE]
    return max(sure, key=lambda track: sum(face.side for _, face in track), default=None)


def landmarks(track: Track, times: Sequence[float], max_gap: float, step: float) -> np.ndarray:
    """(frames, 5, 2): the track's points, linear between two faces where at most `max_gap` seconds are missing, else NaN.

    `step` is the time in seconds between two frames that were searched.
    """
    points = np.full((len(times), 5, 2), np.nan)
    for (a, face), (b, following) in itertools.pairwise(track):
        if times[b] - times[a] <= step + max_gap + 1e-6:
            for number in range(a + 1, b):
                part = (number - a) / (b - a)
                points[number] = (1 - part) * face.points + part * following.points
    for number, face in track:
        points[number] = face.points
    return points


def smooth(points: np.ndarray, window: int) -> np.ndarray:
    """(frames, ...) with each run of numbers (between NaN) replaced by lines fitted to `window` frames around each frame.

    Near frames weigh more. A line, not a mean: a face that moves evenly stays where it is, at the ends of a run too.
    """
    result = points.copy()
    known = ~np.isnan(points.reshape(len(points), -1)[:, 0])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    radius = window // 2
    for begin, end in edges.reshape(-1, 2):
        for number in range(begin, end):
            low, high = max(begin, number - radius), min(end, number + radius + 1)
            offset = np.arange(low, high) - number
            weight = 1 - np.abs(offset) / (radius + 1)
            mean = (weight * offset).sum() / weight.sum()
            spread = (weight * (offset - mean) ** 2).sum()
            share = weight / weight.sum() - (mean * weight * (offset - mean) / spread if spread else 0)
            result[number] = np.tensordot(share, points[low:high], 1)
    return result


# --- alignment ------------------------------------------------------------------------------------------------------------------------


def template(size: tuple[int, int], margin: float = 0.0) -> np.ndarray:
    """(5, 2): where the five points go in a crop of `size` (height, width).

    112×96 without a margin is REFERENCE. Other sizes keep its height and centre: 112×112 shows 8 pixels more on the left and
    on the right, 224×224 is that at twice the scale. `margin` is how much more is seen on every side, as a part of the
    height: 0.25 shrinks the face to two thirds.
    """
    height, width = size
    middle = np.array(REFERENCE_SIZE[::-1]) / 2 - 0.5
    scale = height / REFERENCE_SIZE[0] / (1 + 2 * margin)
    return (REFERENCE - middle) * scale + (np.array([width, height]) / 2 - 0.5)


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[complex, complex]:
    """(a, b) of the rotation, scale and shift z -> a·z + b, points as x + iy, that brings points (P, 2) nearest to others.

    Least squares over all rotations without reflection (Umeyama, PAMI 1991, in two dimensions).
    """
    z, w = source @ np.array([1, 1j]), target @ np.array([1, 1j])
    centred = z - z.mean()
    a = (centred.conj() @ w) / (centred.conj() @ centred).real
    return complex(a), complex(w.mean() - a * z.mean())


def align(image: np.ndarray, points: np.ndarray, size: tuple[int, int], margin: float = 0.0) -> np.ndarray:
    """The crop (height, width, 3) uint8 of an image (H, W, 3) uint8 whose five points (5, 2) lie where template() has them.

    Bicubic, after averaging blocks of pixels where the crop has less than half of the image's resolution. What lies beyond
    the image is black.
    """
    from PIL import Image

    a, b = similarity(points, template(size, margin))
    block = max(1, int(1 / abs(a)))
    picture = Image.fromarray(image)
    if block > 1:
        picture = picture.reduce(block)
    # Pillow's affine map leads from the crop to the image, with 0 at the edge of the first pixel.
    turn = 1 / a / block
    shift = ((-0.5 - 0.5j - b) / a + (0.5 + 0.5j)) / block
    data = (turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag)
    crop = picture.transform((size[1], size[0]), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC)
    return np.asarray(crop)
