"""Receptive fields: how many of the input's pixels a value of a blob depends on, and how far apart neighbours look.

Araujo, Norris, Sim: Computing Receptive Fields of Convolutional Neural Networks, Distill 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from converter.build.graph import Graph

# What looks at one place, whatever its parameters.
POINTWISE = frozenset({"AbsVal", "BNLL", "Clip", "ELU", "Exp", "Insanity", "Log", "PReLU", "Power", "ReLU", "ReLU6", "Sigmoid", "Swish"})
POINTWISE |= {"BN", "BatchNorm", "Bias", "Dropout", "LRN", "Normalize", "Scale", "Softmax", "SpatialDropout", "TanH", "Threshold"}
POINTWISE |= {"Axpy", "BroadcastMul", "Concat", "Eltwise", "Flatten", "ShuffleChannel", "Slice", "Split"}


@dataclass(frozen=True)
class Field:
    """Height and width of what is seen, and the step from one place to the next, in pixels; `whole`: all of the image."""

    size: tuple[float, float] = (1.0, 1.0)
    step: tuple[float, float] = (1.0, 1.0)
    whole: bool = False

    def __str__(self) -> str:
        return "all" if self.whole else "×".join(f"{math.ceil(side):,}" for side in self.size)


WHOLE = Field(whole=True)


def receptive_fields(graph: Graph) -> list[Field | None]:
    """The field of each blob version; None where it cannot be told, which goes for all that reads it."""
    found: list[Field | None] = [None] * len(graph.versions)
    for name, version in graph.program.inputs.items():
        found[version] = Field() if len(graph.inputs[name]) == 4 else None
    for step in graph.steps:
        after = _after(step.type, graph.modules[step.key], [found[i] for i in step.bottoms])
        for top in step.tops:
            found[top] = after
    return found


def _after(kind: str, module: nn.Module, bottoms: Sequence[Field | None]) -> Field | None:
    """The field of a layer's tops."""
    fields = [field for field in bottoms if field is not None]
    if not fields or len(fields) < len(bottoms):
        return None
    if kind == "InnerProduct" or isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)) or any(f.whole for f in fields):
        return WHOLE
    if kind in POINTWISE:
        return Field(_largest([field.size for field in fields]), _largest([field.step for field in fields]))
    window = getattr(module, "local_size", 1) if getattr(module, "within_channel", False) else getattr(module, "kernel_size", None)
    pairs = [_pair(value) for value in (window, getattr(module, "stride", 1), getattr(module, "dilation", 1))]
    if None in pairs or len(fields) != 1:
        return None
    transposed = isinstance(module, nn.ConvTranspose2d) or getattr(module, "transposed", False)
    size, steps = [], []
    for seen, step, k, s, d in zip(fields[0].size, fields[0].step, *filter(None, pairs), strict=True):
        extent = (k - 1) * d + 1
        size.append(seen + ((math.ceil(extent / s) if transposed else extent) - 1) * step)
        steps.append(step / s if transposed else step * s)
    return Field((size[0], size[1]), (steps[0], steps[1]))


def _largest(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)


def _pair(value: object) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(each, int) for each in value):
        return value[0], value[1]
    return None
