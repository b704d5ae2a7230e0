"""The records that the readers of clips pass on: a label with its place, a clip before and a source after its frames are read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Lists = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]]
ClassIndex = str | os.PathLike[str] | Sequence[str]


@dataclass(frozen=True)
class Label:
    text: str
    split: str
    place: str  # where it stands, for messages
    folder: str = ""  # the name of the folder above the clip, where that isn't the label itself


@dataclass(frozen=True)
class Clip:
    folder: Path
    frames: tuple[Path, ...]
    label: Label
    subject: str | None = None
    name: str = ""  # where the folder doesn't name it


@dataclass(frozen=True)
class Listing:
    """The clips of a folder before their frames are read; labels (N,) int64 are positions in `classes`."""

    root: Path
    clips: tuple[Clip, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Decoded:
    """frames (F, H, W) or (F, 3, H, W) uint8 RGB; offsets (N+1,) and labels (N,) int64."""

    frames: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    split: tuple[str, ...]
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    subjects: tuple[str, ...] | None
    notes: tuple[str, ...]
