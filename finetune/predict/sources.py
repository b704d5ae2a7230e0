"""What there is to look at: pictures, videos frame by frame, a camera. What cannot be read is said, and the next one comes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from finetune.errors import FinetuneError
from finetune.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from finetune.labels import natural
from finetune.video import decode
from finetune.video.sources import plain
from zoo.errors import PictureError
from zoo.pictures import PHOTOGRAPHS, read_picture

Media = Literal["image", "video", "camera"]


@dataclass(frozen=True)
class Source:
    """A file, or a camera."""

    path: Path
    media: Media
    output: str  # its name below a folder of results, "/" between parts, without an ending; no other source has it

    @property
    def name(self) -> str:
        return str(self.path)


@dataclass
class Look:
    """A picture, or a frame of a video: `image` is (H, W, 3) uint8 RGB, upright; None where it cannot be read, for a reason."""

    source: Source
    frame: int  # from 0, of those that the source has
    time: float | None  # seconds from the first frame; None for a picture
    image: np.ndarray | None
    problem: str = ""
    shot: bool = False  # it begins a new shot


@dataclass(frozen=True)
class End:
    """Nothing more comes from this source; `notes` are what is wrong with it."""

    source: Source
    notes: tuple[str, ...] = ()


def find_sources(paths: Sequence[Path], *results: Path | None) -> tuple[list[Source], int]:
    """The files of `paths`, folders searched for pictures and videos, and how many other files were left out there.

    Hidden files and the folders `results` are not looked into. A path that is not there is a source that cannot be read.
    """
    found: list[tuple[Path, str]] = []
    closed = {result.resolve() for result in results if result is not None}
    others = 0
    for path in paths:
        if not path.is_dir():
            found.append((path, path.name))
            continue
        files = sorted(_files(path, closed), key=lambda file: [natural(part) for part in file.relative_to(path).parts])
        for file in files:
            if file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES | PHOTOGRAPHS:
                found.append((file, file.relative_to(path).as_posix()))
            else:
                others += 1
    sources, taken = [], set[str]()
    for path, name in dict(found).items():
        media: Media = "video" if path.suffix.lower() in VIDEO_SUFFIXES else "image"
        sources.append(Source(path, media, _free(name, taken)))
    return sources, others


def _files(folder: Path, closed: set[Path]) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = [name for name in folders if name[0] != "." and name != "__MACOSX" and (here / name).resolve() not in closed]
        yield from (here / name for name in names if name[0] != ".")


def _free(name: str, taken: set[str]) -> str:
    """A name of letters and digits for the source's results that no earlier source has; systems that ignore case are minded."""
    parts = [plain(part) for part in name.split("/")]
    stem = "/".join([*parts[:-1], plain(Path(parts[-1]).stem)])
    output, number = stem, 1
    while output.casefold() in taken:
        number += 1
        output = f"{stem}~{number}"
    taken.add(output.casefold())
    return output


def looks(source: Source, every: int = 1) -> Iterator[Look | End]:
    """What a file shows: one Look of a picture, one of every `every`-th frame of a video, then an End.

    A file from which nothing can be read gives one Look that says why.
    """
    if source.media == "video":
        yield from _frames(source, every)
        return
    try:
        if not source.path.is_file():
            raise PictureError(_missing(source.path))
        yield Look(source, 0, None, read_picture(source.path))
    except PictureError as error:
        yield Look(source, 0, None, None, str(error))
    yield End(source)


def _missing(path: Path) -> str:
    if re.match(r"\w+:/", str(path)):
        return "an address, and this command asks no other machine; download the file first"
    return "not a regular file" if os.path.lexists(path) else "no such file or folder"


@dataclass
class Shots:
    """Tells a cut from a movement, frame by frame, from thumbnails: as finetune.video.faces.cuts, which sees the whole video."""

    last: np.ndarray | None = None
    changes: list[float] = field(default_factory=list)  # between the latest frames

    def begins(self, thumbnail: np.ndarray) -> bool:
        last, self.last = self.last, thumbnail
        if last is None:
            return False
        change = float(np.abs(thumbnail.astype(np.int16) - last).mean())
        usual = float(np.median(self.changes)) if self.changes else 0.0
        self.changes = [*self.changes[-49:], change]
        return change > max(30.0, 4 * usual)


def _frames(source: Source, every: int) -> Iterator[Look | End]:
    damage: list[str] = []
    shots, number = Shots(), -1
    try:
        if not source.path.is_file():
            raise FinetuneError(_missing(source.path))
        for number, frame in enumerate(decode.frames(source.path, damage)):
            if number % every == 0:
                yield Look(source, number, frame.time, frame.rgb(), shot=shots.begins(frame.thumbnail()))
    except (FinetuneError, OSError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        if number < 0:
            yield Look(source, 0, None, None, reason)
        else:
            damage.append(reason)
    yield End(source, tuple(damage))
