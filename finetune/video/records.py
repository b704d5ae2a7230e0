"""The records of a preparation: what the crops depend on, a video, and what became of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import FinetuneError

# In the order of the summary. The first two leave faces.
STATUSES = ("done", "damaged", "no face", "unreadable", "failed", "refused", "not reached")
REMEMBERED = STATUSES[:3]


class UsageError(FinetuneError):
    """An option, SRC or DST that cannot be meant."""


@dataclass(frozen=True)
class Options:
    """What the crops depend on; another value makes a second run do the video again."""

    size: tuple[int, int] = (112, 96)  # height, width
    margin: float = 0.0  # seen around the crop, as a part of its height
    every: int = 1  # the detector looks at every k-th frame
    smooth: int = 5  # frames that the landmarks are smoothed over
    max_gap: float = 0.5  # seconds without a found face that are interpolated
    fps: float | None = None  # frames a second to keep
    max_seconds: float | None = None  # of a video that are read
    min_face: int = 40  # pixels of the video
    quality: int = 95  # of JPEG

    def __post_init__(self) -> None:
        rules = {
            "size": all(32 <= side <= 1024 for side in self.size),
            "margin": 0 <= self.margin <= 2,
            "every": self.every >= 1,
            "smooth": self.smooth >= 1 and self.smooth % 2 == 1,
            "max_gap": 0 <= self.max_gap <= 60,
            "fps": self.fps is None or 0 < self.fps < float("inf"),
            "max_seconds": self.max_seconds is None or self.max_seconds > 0,
            "min_face": self.min_face >= 1,
            "quality": 1 <= self.quality <= 100,
        }
        expected = {
            "size": "32 to 1024 pixels a side", "margin": "0 to 2", "every": "at least 1", "smooth": "an odd number of frames",
            "max_gap": "0 to 60 seconds", "fps": "more than 0", "max_seconds": "more than 0", "min_face": "at least 1 pixel",
            "quality": "1 to 100",
        }  # fmt: skip
        for name, right in rules.items():
            if not right:
                raise UsageError(f"{name.replace('_', '-')} is {getattr(self, name)}; expected {expected[name]}")


@dataclass(frozen=True)
class Video:
    path: Path
    name: str  # its path in SRC
    folder: str  # of its faces in DST, with "/"
    emotion: str
    refusal: str = ""  # why it isn't even opened


@dataclass(frozen=True)
class Outcome:
    """What became of a video."""

    status: str  # one of STATUSES
    message: str = ""
    frames: int = 0  # read
    faces: int = 0  # written
    interpolated: int = 0  # of these, between two faces that were found
    numbers: tuple[tuple[int, int], ...] = ()  # the frames that were written, as ranges from 1
    bytes: int = 0  # of the file, as the next two
    modified: int = 0
    sha256: str = ""
    earlier: bool = False  # remembered from another run


LASTING = tuple(field.name for field in dataclasses.fields(Outcome) if field.name != "earlier")
