"""Layers that move, join, cut, pick or reduce values, without weights."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from converter import modules
from converter.layers.registry import ENGINE, Fields, layer


def _axis(p: Fields, old: str) -> int:
    """axis, or the field it had before."""
    if p.has(old):
        if p.has("axis"):
            raise ValueError(f"axis and {old} are both set")
        return int(getattr(p, old))
    return int(p.axis)


@layer("Concat", "concat_param", bottoms=(1, None), ignored=ENGINE)
def concat(p: Fields, *bottoms: Tensor) -> nn.Module:
    axis = _axis(p, "concat_dim")
    return modules.Concat(axis)


@layer("Slice", "slice_param")
def slice_(p: Fields, x: Tensor) -> nn.Module:
    axis = _axis(p, "slice_dim")
    if p.slice_point and len(p.slice_point) != p.tops - 1:
        raise ValueError(f"{len(p.slice_point)} slice points for {p.tops} tops; there must be one less than tops")
    return modules.Slice(p.tops, axis, p.slice_point)


@layer("Split")
def split(p: Fields, x: Tensor) -> nn.Module:
    return modules.Split(p.tops)


@layer("Eltwise", "eltwise_param", bottoms=(2, None), ignored={**ENGINE, "stable_prod_grad": "used in training only"})
def eltwise(p: Fields, *bottoms: Tensor) -> nn.Module:
    if p.coeff and (len(p.coeff) != len(bottoms) or p.operation == "PROD"):
        raise ValueError(f"{len(p.coeff)} coeff for {len(bottoms)} bottoms of {p.operation}; SUM takes one for each")
    return modules.Eltwise(p.operation, p.coeff)


@layer("Flatten", "flatten_param")
def flatten(p: Fields, x: Tensor) -> nn.Module:
    first, last = (a + x.dim() if a < 0 else a for a in (p.axis, p.end_axis))
    if not 0 <= first <= last < x.dim():
        raise ValueError(f"axes {p.axis} to {p.end_axis} are no range within {x.dim()} axes")
    return modules.Flatten(p.axis, p.end_axis)


@layer("Reshape", "reshape_param")
def reshape(p: Fields, x: Tensor) -> nn.Module:
    dims = tuple(p.shape.dim)
    if dims.count(-1) > 1 or min(dims, default=0) < -1:
        raise ValueError(f"the dims {dims} are not all at least 0, with one -1 at most")
    return modules.Reshape(dims, p.axis, p.num_axes)


@layer("Tile", "tile_param")
def tile(p: Fields, x: Tensor) -> nn.Module:
    if p.tiles < 1:
        raise ValueError("tiles must be at least 1")
    return modules.Tile(p.tiles, p.axis)


@layer("Crop", "crop_param", bottoms=(2, 2))
def crop(p: Fields, x: Tensor, like: Tensor) -> nn.Module:
    axis = p.axis + x.dim() if p.axis < 0 else p.axis
    if not 0 <= axis < x.dim() or len(p.offset) not in (0, 1, x.dim() - axis) or like.dim() != x.dim():
        raise ValueError(f"axis {p.axis} with {len(p.offset)} offsets; it takes none, one, or one for each cropped axis")
    return modules.Crop(p.axis, p.offset)


@layer("Reduction", "reduction_param")
def reduction(p: Fields, x: Tensor) -> nn.Module:
    return modules.Reduction(p.operation, p.axis, p.coeff)


@layer("ArgMax", "argmax_param")
def argmax(p: Fields, x: Tensor) -> nn.Module:
    if p.top_k < 1:
        raise ValueError("top_k must be at least 1")
    return modules.ArgMax(p.top_k, p.out_max_val, p.axis if p.has("axis") else None)


@layer("BatchReindex", bottoms=(2, 2))
def batch_reindex(p: Fields, x: Tensor, index: Tensor) -> nn.Module:
    if index.dim() != 1:
        raise ValueError("the indices take one axis")
    return modules.BatchReindex()


@layer("Filter", bottoms=(2, None))
def filter_(p: Fields, *bottoms: Tensor) -> nn.Module:
    if p.tops != len(bottoms) - 1:
        raise ValueError(f"{p.tops} tops for {len(bottoms)} bottoms; there is one top for each bottom but the selector")
    *items, selector = bottoms
    if any(x.shape[:1] != selector.shape[:1] for x in items) or selector.dim() < 1 or prod(selector.shape[1:]) != 1:
        raise ValueError("the selector takes one value for each item of the other bottoms")
    return modules.Filter()


@layer("Silence", bottoms=(1, None))
def silence(p: Fields, *bottoms: Tensor) -> nn.Module:
    return modules.Silence()
