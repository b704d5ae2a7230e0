"""Joining, cutting, padding and resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from converter.export.operators.registry import (
    Operand,
    geometry,
    operator,
)
from converter.export.rearranged import Rearranged, cut, rearrange
from converter.export.sketch import Blob, NoCaffeForm, Sketch


@operator("cat", "concat")
def cat(net: Sketch, tensors: Sequence[Operand], dim: int = 0) -> Blob:
    blobs = [each for each in tensors if isinstance(each, Blob)]
    if len(blobs) < len(tensors):
        raise NoCaffeForm("it joins the net's values with constants; Caffe's Concat takes blobs")
    if len(blobs) == 1:  # Caffe's Concat of one blob is that blob's memory: an in-place layer behind it would write to both
        return blobs[0]
    axis = dim % len(blobs[0].shape)
    shape = [sum(blob.shape[axis] for blob in blobs) if i == axis else size for i, size in enumerate(blobs[0].shape)]
    return net.one("Concat", blobs, shape, concat_param={"axis": axis})


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
def slice_(net: Sketch, self: Blob, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Blob:
    if step != 1:
        raise NoCaffeForm(
            f"it takes every {step}th value; a strided 1×1 convolution or pooling does that for the rows and columns of an image"
        )
    axis = dim % len(self.shape)
    first, last, _ = slice(start, end).indices(self.shape[axis])
    return cut(net, self, axis, first, last)


@operator("select")
def select(net: Sketch, self: Blob, dim: int, index: int) -> Rearranged:
    axis = dim % len(self.shape)
    place = index % self.shape[axis]
    return rearrange(cut(net, self, axis, place, place + 1), lambda places: places.squeeze(axis))


@operator("constant_pad_nd", "pad")
def constant_pad(net: Sketch, self: Blob, pad: Sequence[int], value: float = 0, mode: str = "constant") -> Blob:
    if value or mode != "constant" or len(self.shape) != 4 or len(pad) > 4 or min(pad) < 0:
        raise NoCaffeForm(f"padding {list(pad)} with {mode} {value}: Caffe has zeros around the image only")
    left, right, top, bottom = [*pad, 0, 0][:4]
    high, wide, channels = max(top, bottom), max(left, right), self.shape[1]
    shape = [self.shape[0], channels, self.shape[2] + 2 * high, self.shape[3] + 2 * wide]
    parameters = {
        "num_output": channels,
        "group": channels,
        "bias_term": False,
        **geometry(kernel_size=[1, 1], pad=[high, wide]),
    }
    found = net.one("Convolution", [self], shape, [torch.ones(channels, 1, 1, 1)], convolution_param=parameters)
    found = cut(net, found, 2, high - top, shape[2] - (high - bottom))
    return cut(net, found, 3, wide - left, shape[3] - (wide - right))


def _factor(x: Blob, output_size: Sequence[int] | None, scales: Sequence[float | None]) -> int:
    """By how much both sides grow. Raises NoCaffeForm unless it is one whole number."""
    size = list(x.shape[2:])
    given = [scale for scale in scales if scale]
    found = {have / old for have, old in zip(output_size, size, strict=True)} if output_size else {float(scale) for scale in given}
    if len(size) != 2 or len(found) != 1 or min(found) < 1 or not min(found).is_integer():
        raise NoCaffeForm(f"it resizes {size} by {sorted(found)}; Caffe's Deconvolution enlarges both sides by one whole number")
    return int(found.pop())


@operator("upsample_nearest2d")
def upsample_nearest2d(
    net: Sketch,
    input: Blob | None = None,
    output_size: Sequence[int] | None = None,
    scale_factors: Sequence[float] = (),
    scales_h: float | None = None,
    scales_w: float | None = None,
    self: Blob | None = None,
) -> Blob:
    x = input or self
    assert x is not None
    factor = _factor(x, output_size, scale_factors or (scales_h, scales_w))
    return _enlarged(net, x, torch.ones(factor, factor), factor, 0)


@operator("upsample_bilinear2d")
def upsample_bilinear2d(
    net: Sketch,
    input: Blob | None = None,
    output_size: Sequence[int] | None = None,
    align_corners: bool = False,
    scale_factors: Sequence[float] = (),
    scales_h: float | None = None,
    scales_w: float | None = None,
    self: Blob | None = None,
) -> Blob:
    """Half-pixel bilinear: the border repeated once, so that it weighs as in PyTorch, enlarged by tents, the border cut off."""
    x = input or self
    assert x is not None
    if align_corners:
        raise NoCaffeForm("align_corners=True is no convolution; take align_corners=False, or nearest")
    factor = _factor(x, output_size, scale_factors or (scales_h, scales_w))
    if factor == 1:
        return x
    for axis in (2, 3):
        first, last = cut(net, x, axis, 0, 1), cut(net, x, axis, x.shape[axis] - 1, x.shape[axis])
        x = cat(net, [first, x, last], axis)
    side = 2 * factor - factor % 2
    tent = 1 - (torch.arange(side) - (side - 1) / 2).abs() / factor
    x = _enlarged(net, x, torch.outer(tent, tent), factor, (side - factor) // 2)
    for axis in (2, 3):
        x = cut(net, x, axis, factor, x.shape[axis] - factor)
    return x


def _enlarged(net: Sketch, x: Blob, kernel: Tensor, factor: int, pad: int) -> Blob:
    channels, side = x.shape[1], kernel.shape[0]
    shape = [*x.shape[:2], *((size - 1) * factor + side - 2 * pad for size in x.shape[2:])]
    weight = kernel.expand(channels, 1, side, side)
    parameters = {"num_output": channels, "group": channels, "bias_term": False, "kernel_size": [side], "stride": [factor], "pad": [pad]}
    return net.one("Deconvolution", [x], shape, [weight], convolution_param=parameters)
