"""Faces of one person in the frames of a video: numbered while the video comes, and their probabilities smoothed in time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune.video.faces import GROWTH, MEMORY, REACH, Face

LONGEST = 0.5  # seconds that a face is taken to go on as it did


@dataclass
class Track:
    """A face that is followed. Its id is the number that its rows have."""

    id: int
    face: Face
    time: float  # seconds, when it was last seen
    speed: np.ndarray  # (2,): of its middle, in pixels a second
    smoothed: np.ndarray  # (K,) its probabilities

    def expected(self, time: float) -> np.ndarray:
        """(2,): where its middle is now, if it went on as it did."""
        return self.face.middle + self.speed * min(time - self.time, LONGEST)


class Tracker:
    """Gives the faces of one frame after the other their tracks; what it remembers doesn't grow with the video.

    The nearest pairs of a face and a track come first, a track's place carried on by its speed; none reaches across a cut, and one
    not seen for MEMORY seconds is over. `tau` is the time in seconds over which probabilities are averaged, 0: not at all.
    """

    def __init__(self, tau: float = 0.0) -> None:
        self.tau = tau
        self.open: list[Track] = []
        self.count = 0

    def follow(
        self, time: float, faces: Sequence[Face], probabilities: Sequence[np.ndarray], *, shot: bool = False
    ) -> list[tuple[int, np.ndarray]]:
        """For each face of a frame its track's number, from 1, and its probabilities (K,) averaged with what was before.

        `shot`: the frame begins a new one, so nobody is where they were.
        """
        self.open = [] if shot else [track for track in self.open if time - track.time <= MEMORY]
        matched = self._matched(time, faces)
        answers = []
        for index, (face, fresh) in enumerate(zip(faces, probabilities, strict=True)):
            track = matched.get(index)
            if track is None:
                self.count += 1
                track = Track(self.count, face, time, np.zeros(2), fresh)
                self.open.append(track)
            else:
                self._go_on(track, time, face, fresh)
            answers.append((track.id, track.smoothed))
        return answers

    def _matched(self, time: float, faces: Sequence[Face]) -> dict[int, Track]:
        pairs = []
        for at, track in enumerate(self.open):
            for index, face in enumerate(faces):
                small, large = sorted([face.side, track.face.side])
                distance = float(np.linalg.norm(face.middle - track.expected(time))) / large
                if distance < REACH and large < GROWTH * small:
                    pairs.append((distance, at, index))
        found: dict[int, Track] = {}
        taken: set[int] = set()
        for _, at, index in sorted(pairs):
            if index not in found and at not in taken:
                taken.add(at)
                found[index] = self.open[at]
        return found

    def _go_on(self, track: Track, time: float, face: Face, fresh: np.ndarray) -> None:
        passed = time - track.time
        if passed > 0:
            # Half of it new: a detector's boxes tremble.
            track.speed = (track.speed + (face.middle - track.face.middle) / passed) / 2
        # The weight of what was falls to 1/e in tau seconds.
        share = 1 - math.exp(-passed / self.tau) if self.tau > 0 else 1.0
        track.smoothed = track.smoothed + share * (fresh - track.smoothed)
        track.face, track.time = face, time
