"""Pooling and reduction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from converter.export.operators.registry import (
    affine,
    hw,
    operator,
    per_axis,
)
from converter.export.rearranged import Rearranged, cut, rearrange, written
from converter.export.sketch import Blob, NoCaffeForm, Sketch


@operator("max_pool2d", "max_pool2d_with_indices")
def max_pool2d(
    net: Sketch,
    self: Blob,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = (),
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> list[Blob]:
    if set(per_axis(dilation, 2)) != {1}:
        raise NoCaffeForm(f"dilation {dilation}: Caffe's pooling has none")
    return [_pooled(net, "MAX", self, kernel_size, stride, padding, ceil_mode)]


@operator("avg_pool2d")
def avg_pool2d(
    net: Sketch,
    self: Blob,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = (),
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Blob:
    found = _pooled(net, "AVE", self, kernel_size, stride, padding, ceil_mode)
    kernel, pad = per_axis(kernel_size, 2), per_axis(padding, 2)
    steps = per_axis(stride, 2) if stride else kernel
    if divisor_override is None and (count_include_pad or not any(pad)):
        return found
    counts = [
        _window_counts(size, *each)
        for size, each in zip(self.shape[2:], zip(kernel, steps, pad, found.shape[2:], strict=True), strict=True)
    ]
    padded, inside = (torch.outer(*(each[i] for each in counts)) for i in (0, 1))
    wanted = torch.full_like(padded, divisor_override) if divisor_override else inside
    return affine(net, found, 2, padded / wanted, None)


def _window_counts(size: int, kernel: int, step: int, pad: int, outputs: int) -> tuple[Tensor, Tensor]:
    """How many places each window has with the padding, by which Caffe divides (pooling_layer.cpp), and inside of the image."""
    starts = torch.arange(outputs) * step - pad
    padded = (starts + kernel).clamp(max=size + pad) - starts
    inside = (starts + kernel).clamp(max=size) - starts.clamp(min=0)
    return padded.float(), inside.float()


def _pooled(
    net: Sketch, mode: str, x: Blob, kernel_size: int | Sequence[int], stride: int | Sequence[int], padding: int | Sequence[int], ceil: bool
) -> Blob:
    """Caffe rounds the number of windows up; where PyTorch rounds down, the field that says so, or the last one cut off."""
    if len(x.shape) != 4:
        raise NoCaffeForm(f"Caffe pools blobs (N, C, H, W), not {x.shape}")
    kernel, pad = per_axis(kernel_size, 2), per_axis(padding, 2)
    steps = per_axis(stride, 2) if stride else kernel

    def windows(up: bool) -> list[int]:
        found = []
        for size, k, step, p in zip(x.shape[2:], kernel, steps, pad, strict=True):
            count = (size + 2 * p - k + (step - 1 if up else 0)) // step + 1
            found.append(count - 1 if up and p and (count - 1) * step >= size + p else count)
        return found

    made, wanted = windows(True), windows(ceil)
    if ceil and any((count - 1) * step >= size + p for count, step, size, p in zip(wanted, steps, x.shape[2:], pad, strict=True)):
        wanted = [
            c - ((c - 1) * s >= size + p) for c, s, size, p in zip(wanted, steps, x.shape[2:], pad, strict=True)
        ]  # torch always clips
    parameters: dict[str, Any] = {"pool": mode, **hw(kernel_size=kernel, stride=steps, pad=pad)}
    if made != wanted == windows(False) and net.has("Pooling.round_mode"):
        return net.one("Pooling", [x], [*x.shape[:2], *wanted], pooling_param={**parameters, "round_mode": "FLOOR"})
    found = net.one("Pooling", [x], [*x.shape[:2], *made], pooling_param=parameters)
    for axis, count in enumerate(wanted, 2):
        found = cut(net, found, axis, 0, count)
    return found


@operator("adaptive_avg_pool2d", "_adaptive_avg_pool2d")
def adaptive_avg_pool2d(net: Sketch, self: Blob, output_size: Sequence[int]) -> Blob:
    return _adaptive(net, "AVE", self, output_size)


@operator("adaptive_max_pool2d")
def adaptive_max_pool2d(net: Sketch, self: Blob, output_size: Sequence[int]) -> list[Blob]:
    return [_adaptive(net, "MAX", self, output_size)]


def _adaptive(net: Sketch, mode: str, x: Blob, output_size: Sequence[int]) -> Blob:
    size, wanted = list(x.shape[2:]), per_axis(output_size, 2)
    if size == wanted:
        return x
    if wanted == [1, 1]:
        return net.one("Pooling", [x], [*x.shape[:2], 1, 1], pooling_param={"pool": mode, "global_pooling": True})
    if any(have % want for have, want in zip(size, wanted, strict=True)):
        return _averaged(net, mode, x, wanted)
    kernel = [have // want for have, want in zip(size, wanted, strict=True)]
    return _pooled(net, mode, x, kernel, kernel, 0, True)


def _averaged(net: Sketch, mode: str, x: Blob, wanted: Sequence[int]) -> Blob:
    """Windows of several sizes: each output is one row of a matrix on the places of a channel."""
    if mode != "AVE":
        raise NoCaffeForm(
            f"adaptive pooling of {list(x.shape[2:])} to {list(wanted)} has windows of several sizes; only averages of such have a form"
        )
    sides = []
    for size, count in zip(x.shape[2:], wanted, strict=True):
        side = torch.zeros(count, size)
        for i in range(count):  # PyTorch's AdaptiveAveragePooling.cpp: from floor(i * size / count) to ceil((i + 1) * size / count)
            first, last = i * size // count, -(-(i + 1) * size // count)
            side[i, first:last] = 1 / (last - first)
        sides.append(side)
    matrix = torch.kron(*sides)
    flat = written(net, rearrange(x, lambda places: places.flatten(2)))
    shape = [*x.shape[:2], len(matrix)]
    found = net.one("InnerProduct", [flat], shape, [matrix], inner_product_param={"num_output": len(matrix), "bias_term": False, "axis": 2})
    return written(net, rearrange(found, lambda places: places.reshape(*x.shape[:2], *wanted)))


@operator("mean")
def mean(net: Sketch, self: Blob, dim: Sequence[int] | None = None, keepdim: bool = False, **_: object) -> Blob | Rearranged:
    return _reduced(net, self, dim, keepdim, "MEAN")


@operator("sum")
def sum_(net: Sketch, self: Blob, dim: Sequence[int] | None = None, keepdim: bool = False, **_: object) -> Blob | Rearranged:
    return _reduced(net, self, dim, keepdim, "SUM")


def _reduced(net: Sketch, x: Blob, dim: Sequence[int] | None, keepdim: bool, operation: str) -> Blob | Rearranged:
    rank = len(x.shape)
    axes = sorted(axis % rank for axis in (range(rank) if dim is None else dim))
    kept = [1 if i in axes else size for i, size in enumerate(x.shape)]
    left = [size for i, size in enumerate(x.shape) if i not in axes]
    if axes == [2, 3] and rank == 4 and operation == "MEAN":
        found = _adaptive(net, "AVE", x, [1, 1])
    elif axes == [1] and rank == 4:
        size = x.shape[1]
        kernel = torch.full((1, size, 1, 1), 1 / size if operation == "MEAN" else 1.0)
        parameters = {"num_output": 1, "kernel_size": [1], "bias_term": False}
        found = net.one("Convolution", [x], kept, [kernel], convolution_param=parameters)
    elif axes == list(range(axes[0], rank)):
        found = net.one("Reduction", [x], left, reduction_param={"operation": operation, "axis": axes[0]})
    else:
        raise NoCaffeForm(f"it reduces the axes {axes} of {rank}; Caffe reduces all from one axis on, or the image, or the channels")
    shape = kept if keepdim else left
    return rearrange(found, lambda places: places.reshape(shape))
