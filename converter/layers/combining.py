"""Layers that join several blobs, or take one apart: Eltwise, Concat, Slice, Split, Gather, Axpy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from converter.errors import UnsupportedError
from converter.layers.module import CaffeModule
from converter.layers.registry import ENGINE, TRAINING, Fields, Layer, layer


class Axpy(CaffeModule):
    """scale * x + y: scale (N, C) or (N, C, 1, 1), x and y (N, C, H, W). SENet's axpy_layer.cpp."""

    def forward(self, scale: Tensor, x: Tensor, y: Tensor) -> Tensor:
        if scale.shape[:2] != x.shape[:2] or scale.numel() != x.shape[0] * x.shape[1] or x.shape != y.shape:
            shapes = ", ".join(str(tuple(bottom.shape)) for bottom in (scale, x, y))
            raise ValueError(f"the bottoms have shapes {shapes}; Axpy takes (N, C, 1, 1), (N, C, H, W) and (N, C, H, W)")
        return scale.reshape(*x.shape[:2], 1, 1) * x + y


@layer("Axpy", bottoms=(3, 3), origin="hujie-frank/SENet")
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
            equal: tuple[Tensor, ...] = x.split(size // self.tops, self.axis)
            return equal
        cuts = [0, *self.points, size]
        lengths = [b - a for a, b in pairwise(cuts)]
        if min(lengths) < 1:
            raise ValueError(f"slice points {self.points} do not ascend within axis {self.axis} of length {size}")
        parts: tuple[Tensor, ...] = x.split(lengths, self.axis)
        return parts


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


@layer("Split", shares_memory=True)
def split(p: Fields, x: Tensor) -> nn.Module:
    return Split(p.tops)


class Gather(CaffeModule):
    """Its bottoms as they are: what yjxiong/caffe's layer, which collects them from several machines, does on one."""

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        return bottoms if len(bottoms) > 1 else bottoms[0]


@layer(
    "GradientScaler",
    "gradient_scaler_param",
    ignored=dict.fromkeys(("lower_bound", "upper_bound", "alpha", "max_iter", "threshold_iter"), TRAINING),
    origin="DANN, thuml/Xlearn",
    shares_memory=True,
)
def gradient_scaler(p: Fields, x: Tensor) -> Layer:
    return Layer(nn.Identity(), note="it passes its bottom on; in Caffe it also turns gradients round, which this module does not")


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


class MergeCrop(CaffeModule):
    """The channels of a and of b's middle, cut to a's size: joined (STACK) or added. forward: whether a and b count, else zeros.

    (N, C, *spatial) both; b's begins at (size of b - size of a) / 2 (naibaf7/caffe: mergecrop_layer.cpp, .cu).
    """

    def __init__(self, operation: str = "STACK", forward_a: bool = True, forward_b: bool = True):
        super().__init__()
        self.operation, self.forward_a, self.forward_b = operation, forward_a, forward_b

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        for axis in range(2, a.dim()):
            if b.shape[axis] < a.shape[axis]:
                raise ValueError(f"the second bottom is smaller than the first along axis {axis}: {b.shape[axis]} < {a.shape[axis]}")
            b = b.narrow(axis, (b.shape[axis] - a.shape[axis]) // 2, a.shape[axis])
        a, b = (x if counts else torch.zeros_like(x) for x, counts in ((a, self.forward_a), (b, self.forward_b)))
        return torch.cat((a, b), 1) if self.operation == "STACK" else a + b


@layer("Mergecrop", "mergecrop_param", bottoms=(2, 2), origin="naibaf7, before it was MergeCrop", refuses="as MergeCrop")
@layer("MergeCrop", "mergecrop_param", bottoms=(2, 2), origin="naibaf7", refuses="bottoms that differ in their channels")
def merge_crop(p: Fields, a: Tensor, b: Tensor) -> nn.Module:
    if a.dim() < 3 or a.dim() != b.dim() or a.shape[0] != b.shape[0] or max(len(p.forward), len(p.backward)) > 2:
        raise ValueError("it takes two bottoms (N, C, ...) of the same batch and number of axes, and forward and backward for each")
    if a.shape[1] != b.shape[1]:
        raise UnsupportedError(
            f"{a.shape[1]} and {b.shape[1]} channels: mergecrop_layer.cu mixes them up where they differ; use Crop and Concat to join them"
        )
    forward = (*p.forward, True, True)
    return MergeCrop(p.operation, forward[0], forward[1])


class BroadcastMul(CaffeModule):
    """x (N, C, H, W) times one factor for each channel of each item, (N, C) or (N, C, 1, 1); in either order."""

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        x, factor = (one, other) if one.numel() >= other.numel() else (other, one)
        return x * factor.reshape(*x.shape[:2], *[1] * (x.dim() - 2))


@layer("BroadcastMul", bottoms=(2, 2), origin="jolibrain")
def broadcast_mul(p: Fields, one: Tensor, other: Tensor) -> nn.Module:
    x, factor = (one, other) if one.numel() >= other.numel() else (other, one)
    if x.dim() < 2 or factor.shape[:2] != x.shape[:2] or factor.numel() != x.shape[0] * x.shape[1]:
        raise ValueError("it takes (N, C, H, W) and (N, C, 1, 1), in either order")
    return BroadcastMul()
