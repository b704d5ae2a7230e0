"""A recipe for clips as a frozen record; finetune.emotiw has the recipes. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune.config import Augment, Sampling, Training
from finetune.errors import FinetuneError
from finetune.protocol import ClipProtocol
from zoo import Preprocess


@dataclass(frozen=True)
class Recipe:
    """What a run is, but for its data.

    encoder     the net that sees the frames: one of nets.ENCODERS, a model of the zoo, or the folder of an image run
    arguments   of the net around it: VGGFaceRNN, FaceResNetRNN, or for other encoders FaceClipNet
    init        the encoder's initial weights: a model of the zoo, a run's folder, a file of XiaoYee/emotion_classification, or "none"
    views       0 trains the encoder, too; else it is frozen and its features are computed once, in so many views
    protocol    "best-on-reported" picks the epoch on the videos that are reported, as was usual; "last" takes the last epoch; "honest"
                picks it on other videos: val, where test is reported, or a tenth of train
    smoke       what --smoke changes; smoke_clips: how many it takes of train and of each other split
    """

    name: str
    about: str
    source: str
    encoder: str
    input: Preprocess
    augment: Augment
    sampling: Sampling
    training: Training
    arguments: Mapping[str, Any] = field(default_factory=dict)
    init: str = "none"
    views: int = 0
    protocol: ClipProtocol = "best-on-reported"
    smoke: Mapping[str, Any] = field(default_factory=dict)
    smoke_clips: tuple[int, int] = (12, 6)


def check_clips(recipe: Recipe, device: str) -> None:
    """Raises FinetuneError for what only images can have on a device of this type, "cpu" or "cuda"."""
    if recipe.training.mixup:
        raise FinetuneError("training.mixup is for images: it would mix clips of different lengths")
    if recipe.training.channels_last and device == "cpu":  # oneDNN of torch 2.15 frees memory twice where only the weights lie so
        raise FinetuneError("on a CPU training.channels_last is for images, not for clips: --set training.channels_last=false")
