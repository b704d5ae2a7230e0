"""Pooling and reduction."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from converter.export.linear import along, reshaped, separable
from converter.export.operators.registry import affine, eltwise, hw, operator, per_axis, power
from converter.export.rearranged import Rearranged, cut, rearrange, written
from converter.export.sketch import Blob, NoCaffeForm, Sketch


@operator("max_pool1d", "max_pool3d", "max_pool3d_with_indices")
def max_pool(
    net: Sketch,
    self: Blob,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = (),
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> list[Blob]:
    if set(per_axis(dilation, 3)) != {1}:
        raise NoCaffeForm(f"dilation {dilation}: Caffe's pooling has none")
    return [_by_axis(net, "MAX", self, kernel_size, stride, padding, ceil_mode)]


@operator("avg_pool1d", "avg_pool3d")
def avg_pool(
    net: Sketch,
    self: Blob,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = (),
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Blob:
    if divisor_override is not None or (not count_include_pad and any(per_axis(padding, 3))):
        raise NoCaffeForm("an average of one or three axes with a divisor of its own, or without its padding")
    return _by_axis(net, "AVE", self, kernel_size, stride, padding, ceil_mode)


def _by_axis(
    net: Sketch, mode: str, x: Blob, kernel_size: int | Sequence[int], stride: int | Sequence[int], padding: int | Sequence[int], ceil: bool
) -> Blob:
    """Pooling of one axis or of three: one axis after the other, each as the height of an image."""
    axes = len(x.shape) - 2
    kernel, pad = per_axis(kernel_size, axes), per_axis(padding, axes)
    steps = per_axis(stride, axes) if stride else kernel
    for axis, (k, step, p) in enumerate(zip(kernel, steps, pad, strict=True), 2):
        if (k, step, p) == (1, 1, 0):
            continue
        before, after = x.shape[1:axis], x.shape[axis + 1 :]
        image = reshaped(net, x, (x.shape[0], prod(before), x.shape[axis], prod(after)))
        found = _pooled(net, mode, image, [k, 1], [step, 1], [p, 0], ceil)
        x = reshaped(net, found, (x.shape[0], *before, found.shape[2], *after))
    return x


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
    square = all(len(set(sides)) == 1 for sides in (kernel, steps, pad))  # of others OpenCV does not read it
    if made != wanted == windows(False) and square and net.has("Pooling.round_mode"):
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
    if not any(have % want for have, want in zip(size, wanted, strict=True)):
        kernel = [have // want for have, want in zip(size, wanted, strict=True)]
        return _pooled(net, mode, x, kernel, kernel, 0, True)
    if mode == "AVE":
        return separable(net, x, lambda rows: torch.nn.functional.adaptive_avg_pool2d(rows, (wanted[0], wanted[1])))
    raise NoCaffeForm(f"adaptive pooling of {size} to {wanted} has windows of several sizes; only averages of such have a form")


@operator("adaptive_avg_pool1d", "adaptive_avg_pool3d", "_adaptive_avg_pool3d")
def adaptive_avg_pool(net: Sketch, self: Blob, output_size: Sequence[int]) -> Blob:
    function = getattr(torch.nn.functional, f"adaptive_avg_pool{len(self.shape) - 2}d")
    return separable(net, self, lambda rows: function(rows, output_size), range(2, len(self.shape)))


@operator("amax")
def amax(net: Sketch, self: Blob, dim: Sequence[int] = (), keepdim: bool = False) -> Blob | Rearranged:
    axes = sorted(axis % len(self.shape) for axis in dim)
    if axes != [2, 3] or len(self.shape) != 4:
        raise NoCaffeForm("Caffe finds the largest value of an image's places, or of two blobs")
    return _squeezed(_adaptive(net, "MAX", self, [1, 1]), axes, keepdim)


@operator("mean")
def mean(net: Sketch, self: Blob, dim: Sequence[int] | None = None, keepdim: bool = False, **_: object) -> Blob | Rearranged:
    return _reduced(net, self, dim, keepdim, "MEAN")


@operator("sum")
def sum_(net: Sketch, self: Blob, dim: Sequence[int] | None = None, keepdim: bool = False, **_: object) -> Blob | Rearranged:
    return _reduced(net, self, dim, keepdim, "SUM")


def _reduced(net: Sketch, x: Blob, dim: Sequence[int] | None, keepdim: bool, operation: str) -> Blob | Rearranged:
    rank = len(x.shape)
    axes = sorted(axis % rank for axis in (dim or range(rank)))
    if axes == list(range(rank)):
        found = net.one("Reduction", [x], [], reduction_param={"operation": operation, "axis": 0})
        return rearrange(found, lambda places: places.reshape([1] * rank if keepdim else []))
    if 0 in axes:
        raise NoCaffeForm("it reduces over the samples of the batch, and over less than all of their values")
    kept = x
    if {2, 3} <= set(axes) and rank == 4:
        kept = _adaptive(net, "AVE", kept, [1, 1])
        kept = power(net, kept, scale=prod(x.shape[2:])) if operation == "SUM" else kept
        axes_left = [axis for axis in axes if axis == 1]
    else:
        axes_left = axes
    for axis in axes_left:
        size = x.shape[axis]
        kept = along(net, kept, axis, torch.full((1, size), 1 / size if operation == "MEAN" else 1.0))
    return _squeezed(kept, axes, keepdim)


def _squeezed(x: Blob, axes: Sequence[int], keepdim: bool) -> Blob | Rearranged:
    left = [size for i, size in enumerate(x.shape) if i not in axes]
    return x if keepdim else rearrange(x, lambda places: places.reshape(left))


@operator("linalg_vector_norm")
def vector_norm(
    net: Sketch, self: Blob, ord: float = 2, dim: Sequence[int] | None = None, keepdim: bool = False, **_: object
) -> Blob | Rearranged:
    if ord not in (1, 2):
        raise NoCaffeForm(f"a norm of order {ord}; 1 and 2 have a form")
    values = net.one("AbsVal", [self], self.shape) if ord == 1 else eltwise(net, "PROD", self, self)
    found = _reduced(net, values, dim, keepdim, "SUM")
    return found if ord == 1 else power(net, written(net, found), power=0.5)
