"""What a recipe sets, as frozen records. Importing this imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Augment:
    """How far the draws may go; the default leaves the image as it is. Lengths are parts of the image's side.

    flip        probability of the mirror image
    scale       side of the part that is cut out, uniform between the two: 0.8 enlarges the middle, above 1 shows a margin
    shift       where the part lies: uniform within ± this, for each axis
    rotation    uniform within ± this, in degrees
    crop        (whole, part) in pixels instead of scale and shift: a part at a whole-numbered place of the image resized to `whole`
    jitter      each of the four borders moves by itself, uniform within ± this
    brightness  factor on the pixels, uniform within 1 ± this; contrast: the same about the image's mean
    hue         of colour images, uniform within ± this part of the circle
    saturation  of colour images, factor log-uniform between 1 / this and this; exposure: the same of the HSV value
    erasing     probability of a rectangle in one random grey, of 2 % to `erased_area` of the image
    outside     what lies beyond the image's border
    """

    flip: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    rotation: float = 0.0
    crop: tuple[int, int] | None = None
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    hue: float = 0.0
    saturation: float = 1.0
    exposure: float = 1.0
    erasing: float = 0.0
    erased_area: float = 0.25
    outside: Literal["border", "reflection", "zeros"] = "reflection"


@dataclass(frozen=True)
class Sampling:
    """Which frames of a clip a net sees.

    frames, stride  training: so many frames of each clip; evaluation: windows of so many every `stride`, their logits averaged
    draw            "random" frames in their order, or one of each of as many equal "segments"
    augment         anew for each "frame", or once for the whole "clip"
    padding         a clip shorter than `frames` repeats its last one: the repetitions "count" like frames, or are "masked"
    tail            evaluation: one more window that ends at the last frame, where the others don't reach it
    """

    frames: int = 16
    stride: int = 8
    draw: Literal["random", "segments"] = "random"
    augment: Literal["frame", "clip"] = "frame"
    padding: Literal["count", "masked"] = "count"
    tail: bool = False


@dataclass(frozen=True)
class Training:
    """How to train. Rates are those of a whole batch, which all processes share.

    epochs, batch_size     batch_size counts the images of all processes and of all `accumulation` parts; an incomplete batch is left out
    lr, backbone_lr        of the classifier, and of what lies below (None: the same), for SGD with momentum (Nesterov's or plain) or AdamW
    decay_all              weight decay for biases and norms, too
    schedule               "cosine" falls to 0, "step" multiplies by step_factor every step_epochs, "cyclic" by cycle_factor in the
                           first cycle_epochs of every step_epochs but the first ones; all after a linear rise
    label_smoothing        part of each target that is spread over all classes
    mixup                  alpha of its beta distribution; the last `clean_epochs` epochs do without
    balanced               weighs the classes against their numbers of images
    ema                    decay of an averaged copy of the weights, a candidate beside the weights themselves; 0: none
    center_loss            weight of the center loss on what the classifier reads; center_rate moves its centres
    clip_norm              longest gradient; 0: any
    small_epochs           so many epochs first see smaller images, whose shorter side is small_size: a net that takes any size learns
                           most of what it learns from them, at a part of the cost. Measured is always at the full size
    freeze                 name of a module: it and all before it keep their weights and their BatchNorm statistics
    precision              "no" is float32; "auto" is bf16 on a GPU or CPU that multiplies it, and float32 elsewhere
    """

    epochs: int = 30
    batch_size: int = 64
    lr: float = 0.01
    backbone_lr: float | None = None
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_all: bool = False
    schedule: Literal["cosine", "step", "constant", "cyclic"] = "cosine"
    warmup_epochs: float = 0.0
    step_epochs: int = 20
    step_factor: float = 0.1
    cycle_epochs: int = 10
    cycle_factor: float = 10.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    clean_epochs: int = 0
    balanced: bool = False
    ema: float = 0.0
    center_loss: float = 0.0
    center_rate: float = 0.5
    clip_norm: float = 0.0
    accumulation: int = 1
    small_epochs: int = 0
    small_size: int = 0
    freeze: str | None = None
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    compile: bool = False
    seed: int = 0


def as_json(config: object) -> Any:
    """The record as JSON values; functions are left out."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        values = ((each.name, getattr(config, each.name)) for each in dataclasses.fields(config))
        return {name: as_json(value) for name, value in values if dataclasses.is_dataclass(value) or not callable(value)}
    if isinstance(config, Mapping):
        return {key: as_json(value) for key, value in config.items()}
    return [as_json(value) for value in config] if isinstance(config, (list, tuple)) else config
