"""A recipe for images as a frozen record; finetune.fer2013 has the recipes. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune.config import Augment, Training
from finetune.protocol import ImageProtocol
from zoo import Preprocess


@dataclass(frozen=True)
class Recipe:
    """What a run is, but for its data.

    build       (number of classes, arguments, initial weights) -> the net: a function of images.nets
    arguments   the net's keyword arguments
    init        the initial weights: a model of the zoo, or "none"
    views       0 augments anew each time; else the features of that many views are computed once (for a net that is frozen below them)
    ten_crop    side of each of the ten parts whose probabilities are averaged
    protocol    "honest" trains on train and picks the epoch on public; "best-on-reported" trains on both and picks it on private, as was
                usual
    smoke       what --smoke changes; smoke_images: how many it takes of train and of each other split
    """

    name: str
    about: str
    source: str
    build: Callable[..., Any]
    input: Preprocess
    augment: Augment
    training: Training
    arguments: Mapping[str, Any] = field(default_factory=dict)
    init: str = "none"
    views: int = 0
    ten_crop: float = 44 / 48
    protocol: ImageProtocol = "honest"
    smoke: Mapping[str, Any] = field(default_factory=dict)
    smoke_images: tuple[int, int] = (700, 350)
