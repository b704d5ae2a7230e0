"""Layers that join several blobs, or take one apart: Eltwise, Concat, Slice, Split, Gather, Axpy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from converter.layers.module import CaffeModule
from converter.layers.registry import ENGINE, Fields, layer


class Axpy(CaffeModule):
    """scale * x + y: scale (N, C) or (N, C, 1, 1), x and y (N, C, H, W). SENet's axpy_layer.cpp."""

    def forward(self, scale: Tensor, x: Tensor, y: Tensor) -> Tensor:
        if scale.shape[:2] != x.shape[:2] or scale.numel() != x.shape[0] * x.shape[1] or x.shape != y.shape:
            shapes = ", ".join(str(tuple(bottom.shape)) for bottom in (scale, x, y))
            raise ValueError(f"the bottoms have shapes {shapes}; Axpy takes (N, C, 1, 1), (N, C, H, W) and (N, C, H, W)")
        return scale.reshape(*x.shape[:2], 1, 1) * x + y


@layer("Axpy", bottoms=(3, 3))
def axpy(p: Fields, scale: Tensor, x: Tensor, y: Tensor) -> nn.Module:
    return Axpy()


def _axis(p: Fields, old: str) -> int:
    """axis, or the field it had before."""
    if p.has(old):
        if p.has("axis"):
            raise ValueError(f"axis and {old} are both set")
        return int(getattr(p, old))
    return int(p.axis)


class Concat(CaffeModule):
    """The bottoms one behind the other along `axis`."""

    def __init__(self, axis: int = 1):
        super().__init__()
        self.axis = axis

    def forward(self, *bottoms: Tensor) -> Tensor:
        return torch.cat(bottoms, self.axis)


@layer("Concat", "concat_param", bottoms=(1, None), ignored=ENGINE)
def concat(p: Fields, *bottoms: Tensor) -> nn.Module:
    axis = _axis(p, "concat_dim")
    return Concat(axis)


class Slice(CaffeModule):
    """x cut along `axis` at the given points, or into equal tops."""

    def __init__(self, tops: int, axis: int = 1, points: Sequence[int] = ()):
        super().__init__()
        self.tops, self.axis, self.points = tops, axis, tuple(points)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        size = x.shape[self.axis]
        if self.tops == 1:
            return x
        if not self.points:
            if size % self.tops:
                raise ValueError(f"axis {self.axis} of length {size} does not divide into {self.tops} tops")
            return x.split(size // self.tops, self.axis)
        cuts = [0, *self.points, size]
        lengths = [b - a for a, b in pairwise(cuts)]
        if min(lengths) < 1:
            raise ValueError(f"slice points {self.points} do not ascend within axis {self.axis} of length {size}")
        return x.split(lengths, self.axis)


@layer("Slice", "slice_param")
def slice_(p: Fields, x: Tensor) -> nn.Module:
    axis = _axis(p, "slice_dim")
    if p.slice_point and len(p.slice_point) != p.tops - 1:
        raise ValueError(f"{len(p.slice_point)} slice points for {p.tops} tops; there must be one less than tops")
    return Slice(p.tops, axis, p.slice_point)


class Split(CaffeModule):
    """The same tensor, under several names."""

    def __init__(self, tops: int):
        super().__init__()
        self.tops = tops

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        return (x,) * self.tops if self.tops > 1 else x


@layer("Split")
def split(p: Fields, x: Tensor) -> nn.Module:
    return Split(p.tops)


class Gather(CaffeModule):
    """Its bottoms as they are: what yjxiong/caffe's layer, which collects them from several machines, does on one."""

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        return bottoms if len(bottoms) > 1 else bottoms[0]


@layer("Gather", bottoms=(1, None), origin="yjxiong's Caffe")
def gather(p: Fields, *bottoms: Tensor) -> nn.Module:
    return Gather()


class Eltwise(CaffeModule):
    """PROD, SUM (with one factor a bottom) or MAX of tensors of one shape."""

    def __init__(self, operation: str = "SUM", coeff: Sequence[float] = ()):
        super().__init__()
        self.operation, self.coeff = operation, tuple(coeff)

    def forward(self, *bottoms: Tensor) -> Tensor:
        if any(x.shape != bottoms[0].shape for x in bottoms):
            raise ValueError(f"the bottoms have shapes {[tuple(x.shape) for x in bottoms]}; Eltwise takes equal ones")
        if self.operation == "SUM" and any(c != 1 for c in self.coeff):
            bottoms = tuple(x * c if c != 1 else x for x, c in zip(bottoms, self.coeff, strict=True))
        y = bottoms[0]
        for x in bottoms[1:]:
            y = y + x if self.operation == "SUM" else y * x if self.operation == "PROD" else torch.maximum(y, x)
        return y


@layer("Eltwise", "eltwise_param", bottoms=(2, None), ignored={**ENGINE, "stable_prod_grad": "used in training only"})
def eltwise(p: Fields, *bottoms: Tensor) -> nn.Module:
    if p.coeff and (len(p.coeff) != len(bottoms) or p.operation == "PROD"):
        raise ValueError(f"{len(p.coeff)} coeff for {len(bottoms)} bottoms of {p.operation}; SUM takes one for each")
    return Eltwise(p.operation, p.coeff)
