"""What the layouts of images decode to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

CSV_NAMES = ("fer2013.csv", "icml_face_data.csv", "train.csv")


@dataclass(frozen=True)
class Entry:
    path: Path
    label: str  # the folder's name
    split: str


@dataclass(frozen=True)
class Decoded:
    """Arrays in the source's order: images (N, H, W) or (N, 3, H, W) uint8 RGB, labels (N,) int64, split (N,) of str."""

    images: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    classes: tuple[str, ...]
    votes: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    places: tuple[str, ...] = ()  # of each image, for messages; else its row
