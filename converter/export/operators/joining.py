"""Joining, cutting, padding and resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from converter.export.linear import along, separable
from converter.export.operators.arithmetic import add
from converter.export.operators.registry import Operand, geometry, operator, power
from converter.export.rearranged import Rearranged, cut, rearrange, written
from converter.export.sketch import Blob, NoCaffeForm, Sketch


@operator("cat", "concat")
def cat(net: Sketch, tensors: Sequence[Operand], dim: int = 0) -> Blob:
    given = next(each for each in tensors if isinstance(each, Blob))
    blobs = [each if isinstance(each, Blob) else _constant(net, each, given, dim) for each in tensors]
    if len(blobs) == 1:  # Caffe's Concat of one blob is that blob's memory: an in-place layer behind it would write to both
        return blobs[0]
    axis = dim % len(blobs[0].shape)
    shape = [sum(blob.shape[axis] for blob in blobs) if i == axis else size for i, size in enumerate(blobs[0].shape)]
    return net.one("Concat", blobs, shape, concat_param={"axis": axis})


def _constant(net: Sketch, value: Operand, like: Blob, dim: int) -> Blob:
    """A constant beside a blob: the blob's own values times zero, plus the constant."""
    axis = dim % len(like.shape)
    if not isinstance(value, Tensor) or axis == 0:
        raise NoCaffeForm("it joins the net's values with constants along the batch")
    zeros = along(net, like, axis, torch.zeros(value.shape[axis], like.shape[axis]))
    return add(net, zeros, value)


@operator("split", "split_with_sizes", "chunk")
def split(
    net: Sketch, self: Blob, split_size: int | Sequence[int] = 0, dim: int = 0, split_sizes: Sequence[int] = (), chunks: int = 0
) -> list[Blob]:
    axis = dim % len(self.shape)
    size = self.shape[axis]
    if chunks:
        split_size = math.ceil(size / chunks)
    sizes = list(split_sizes) or (list(split_size) if not isinstance(split_size, int) else [])
    if not sizes:
        assert isinstance(split_size, int)
        sizes = [min(split_size, size - start) for start in range(0, size, split_size)]
    if len(sizes) == 1:
        return [self]
    points = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    shapes = [[*self.shape[:axis], part, *self.shape[axis + 1 :]] for part in sizes]
    return net.layer("Slice", [self], shapes, slice_param={"axis": axis, "slice_point": points})


@operator("slice")
def slice_(net: Sketch, self: Blob, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Blob | Rearranged:
    axis = dim % len(self.shape)
    first, last, _ = slice(start, end).indices(self.shape[axis])
    if first >= last:
        raise NoCaffeForm("nothing is left of it")
    if step == 1:
        return cut(net, self, axis, first, last)
    return rearrange(self, lambda places: places.transpose(0, axis)[first:last:step].transpose(0, axis))


@operator("select")
def select(net: Sketch, self: Blob, dim: int, index: int) -> Rearranged:
    axis = dim % len(self.shape)
    place = index % self.shape[axis]
    return rearrange(cut(net, self, axis, place, place + 1), lambda places: places.squeeze(axis))


@operator("unbind")
def unbind(net: Sketch, self: Blob, dim: int = 0) -> list[Any]:
    axis = dim % len(self.shape)
    parts = split(net, self, 1, axis)
    return [rearrange(part, lambda places: places.squeeze(axis)) for part in parts]


@operator("stack")
def stack(net: Sketch, tensors: Sequence[Operand], dim: int = 0) -> Blob:
    def widened(each: Operand) -> Operand:
        if isinstance(each, Blob):
            return written(net, rearrange(each, lambda places: places.unsqueeze(dim)))
        return each.unsqueeze(dim) if isinstance(each, Tensor) else each

    return cat(net, [widened(each) for each in tensors], dim)


@operator("constant_pad_nd", "pad")
def constant_pad(net: Sketch, self: Blob, pad: Sequence[int], value: float | None = 0, mode: str = "constant") -> Blob:
    """Zeros, another number, or the image's own border, on each side of the last axes; negative widths cut off."""
    rank = len(self.shape)
    widths = {rank - 1 - i // 2: (pad[i], pad[i + 1]) for i in range(0, len(pad), 2) if pad[i] or pad[i + 1]}
    if 0 in widths:
        raise NoCaffeForm("it pads the batch")
    if mode != "constant":
        return separable(net, self, lambda rows: torch.nn.functional.pad(rows, list(pad), mode), range(2, rank))
    x = self
    for axis, (before, after) in widths.items():
        x = cut(net, x, axis, max(-before, 0), x.shape[axis] - max(-after, 0))
    grows = {axis: (max(before, 0), max(after, 0)) for axis, (before, after) in widths.items() if max(before, after) > 0}
    x = power(net, x, shift=-value) if value and grows else x
    if rank == 4 and grows and set(grows) <= {2, 3}:
        x = _zeros_around(net, x, grows.get(2, (0, 0)), grows.get(3, (0, 0)))
    else:
        for axis, (before, after) in grows.items():
            x = along(net, x, axis, torch.nn.functional.pad(torch.eye(x.shape[axis]), (0, 0, before, after)))
    return power(net, x, shift=value) if value and grows else x


def _zeros_around(net: Sketch, x: Blob, rows: tuple[int, int], columns: tuple[int, int]) -> Blob:
    """A 1×1 convolution that pads, and what it pads too much cut off."""
    high, wide, channels = max(rows), max(columns), x.shape[1]
    shape = [x.shape[0], channels, x.shape[2] + 2 * high, x.shape[3] + 2 * wide]
    parameters = {
        "num_output": channels,
        "group": channels,
        "bias_term": False,
        **geometry(kernel_size=[1, 1], pad=[high, wide]),
    }
    found = net.one("Convolution", [x], shape, [torch.ones(channels, 1, 1, 1)], convolution_param=parameters)
    found = cut(net, found, 2, high - rows[0], shape[2] - (high - rows[1]))
    return cut(net, found, 3, wide - columns[0], shape[3] - (wide - columns[1]))


def _whole_factor(x: Blob, output_size: Sequence[int] | None, scales: Sequence[float | None] | None) -> int | None:
    """By how much both sides grow, where that is one whole number."""
    if len(x.shape) != 4:
        return None
    given = [float(scale) for scale in scales or () if scale]
    found = {have / old for have, old in zip(output_size, x.shape[2:], strict=True)} if output_size else set(given)
    return int(min(found)) if len(found) == 1 and min(found) >= 1 and min(found).is_integer() else None


@operator("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def upsample_nearest(
    net: Sketch, input: Blob, output_size: Sequence[int] | None = None, scale_factors: Sequence[float] | None = None
) -> Blob:
    return _nearest(net, input, "nearest", output_size, scale_factors)


@operator("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")
def upsample_nearest_exact(
    net: Sketch, input: Blob, output_size: Sequence[int] | None = None, scale_factors: Sequence[float] | None = None
) -> Blob:
    return _nearest(net, input, "nearest-exact", output_size, scale_factors)


def _nearest(net: Sketch, x: Blob, mode: str, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None) -> Blob:
    factor = _whole_factor(x, output_size, scale_factors)
    if factor is None:
        return _resized(net, x, mode, output_size, scale_factors)
    return _enlarged(net, x, torch.ones(factor, factor), factor, 0)


@operator("upsample_bilinear2d", "upsample_linear1d", "upsample_trilinear3d")
def upsample_linear(
    net: Sketch,
    input: Blob,
    output_size: Sequence[int] | None = None,
    align_corners: bool = False,
    scale_factors: Sequence[float] | None = None,
) -> Blob:
    """By a whole factor: the border repeated once, so that it weighs as in PyTorch, enlarged by tents, the border cut off."""
    x, factor = input, _whole_factor(input, output_size, scale_factors)
    if factor == 1:
        return x
    if factor is None or align_corners:
        return _resized(net, x, {3: "linear", 4: "bilinear", 5: "trilinear"}[len(x.shape)], output_size, scale_factors, align_corners)
    for axis in (2, 3):
        first, last = cut(net, x, axis, 0, 1), cut(net, x, axis, x.shape[axis] - 1, x.shape[axis])
        x = cat(net, [first, x, last], axis)
    side = 2 * factor - factor % 2
    tent = 1 - (torch.arange(side) - (side - 1) / 2).abs() / factor
    x = _enlarged(net, x, torch.outer(tent, tent), factor, (side - factor) // 2)
    for axis in (2, 3):
        x = cut(net, x, axis, factor, x.shape[axis] - factor)
    return x


@operator("upsample_bicubic2d")
def upsample_bicubic2d(
    net: Sketch,
    input: Blob,
    output_size: Sequence[int] | None = None,
    align_corners: bool = False,
    scale_factors: Sequence[float] | None = None,
) -> Blob:
    return _resized(net, input, "bicubic", output_size, scale_factors, align_corners)


def _resized(
    net: Sketch,
    x: Blob,
    mode: str,
    output_size: Sequence[int] | None,
    scale_factors: Sequence[float] | None,
    align_corners: bool | None = None,
) -> Blob:
    """Any resizing, rows and columns by a matrix each."""
    size = list(output_size) if output_size else None
    scale = None if size else list(scale_factors or ())

    def function(rows: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(rows, size, scale, mode, align_corners)

    return separable(net, x, function, range(2, len(x.shape)))


def _enlarged(net: Sketch, x: Blob, kernel: Tensor, factor: int, pad: int) -> Blob:
    channels, side = x.shape[1], kernel.shape[0]
    shape = [*x.shape[:2], *((size - 1) * factor + side - 2 * pad for size in x.shape[2:])]
    weight = kernel.expand(channels, 1, side, side)
    parameters = {"num_output": channels, "group": channels, "bias_term": False, "kernel_size": [side], "stride": [factor], "pad": [pad]}
    return net.one("Deconvolution", [x], shape, [weight], convolution_param=parameters)
