"""Convolution, Deconvolution and Im2col: they share Caffe's ConvolutionParameter."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from converter import modules
from converter.layers.registry import ENGINE, Blob, Fields, Layer, layer

_IGNORED = {
    **ENGINE,
    "force_nd_im2col": "chooses an implementation, not a result",
    "cudnn_flavor": "NVIDIA's choice of an algorithm",
    "mem_group_size": "a fork's memory setting",
}
_TORCH: dict[bool, dict[int, Any]] = {
    False: {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d},
    True: {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d},
}


def _axes(p: Fields, name: str, n: int, default: int | None) -> tuple[int, ...]:
    """kernel_size, stride, pad or dilation for n spatial axes: one for all, one each, or _h and _w."""
    short = {"kernel_size": "kernel"}.get(name, name)
    values: tuple[int, ...] = getattr(p, name)
    if name != "dilation" and (p.has(f"{short}_h") or p.has(f"{short}_w")):
        if n != 2 or values:
            raise ValueError(f"{short}_h and {short}_w are for two spatial axes, and instead of {name}")
        return getattr(p, f"{short}_h"), getattr(p, f"{short}_w")
    if not values and default is not None:
        return (default,) * n
    if len(values) not in (1, n):
        raise ValueError(f"{name} has {len(values)} values for {n} spatial axes")
    return values * n if len(values) == 1 else values


def _geometry(p: Fields, x: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    axis = p.axis_of(x)
    n = x.dim() - axis - 1
    kernel, stride = _axes(p, "kernel_size", n, None if n else 1), _axes(p, "stride", n, 1)
    pad, dilation = _axes(p, "pad", n, 0), _axes(p, "dilation", n, 1)
    if min((*kernel, *stride, *dilation), default=1) < 1:
        raise ValueError("kernel_size, stride and dilation must be at least 1")
    return axis, kernel, stride, pad, dilation


def _convolution(p: Fields, bottoms: tuple[Tensor, ...], transposed: bool) -> Layer:
    x = bottoms[0]
    axis, kernel, stride, pad, dilation = _geometry(p, x)
    channels, outputs, groups = x.shape[axis], p.num_output, p.group
    if outputs < 1 or groups < 1 or channels % groups or outputs % groups:
        raise ValueError(f"{channels} channels and num_output {outputs} do not both divide by group {groups}")
    if any(other.shape != x.shape for other in bottoms):
        raise ValueError("the bottoms differ in their shapes")
    module: nn.Module
    plain: Any = _TORCH[transposed].get(len(kernel)) if axis == 1 and len(bottoms) == 1 else None
    if plain is not None:
        module = plain(channels, outputs, kernel, stride, pad, dilation=dilation, groups=groups, bias=p.bias_term)
    else:
        module = modules.Convolution(channels, outputs, kernel, stride, pad, dilation, groups, p.bias_term, axis, transposed)
    blobs = [Blob("weight", p.weight_filler), Blob("bias", p.bias_filler)]
    return Layer(module, blobs[: 1 + p.bias_term])


@layer("Convolution", "convolution_param", bottoms=(1, None), ignored=_IGNORED)
def convolution(p: Fields, *bottoms: Tensor) -> Layer:
    return _convolution(p, bottoms, transposed=False)


@layer("Deconvolution", "convolution_param", bottoms=(1, None), ignored=_IGNORED)
def deconvolution(p: Fields, *bottoms: Tensor) -> Layer:
    return _convolution(p, bottoms, transposed=True)


@layer(
    "Im2col",
    "convolution_param",
    ignored={**_IGNORED, **dict.fromkeys(("num_output", "bias_term", "group", "weight_filler", "bias_filler"), "Im2col has no weights")},
)
def im2col(p: Fields, x: Tensor) -> nn.Module:
    axis, kernel, stride, pad, dilation = _geometry(p, x)
    return modules.Im2col(kernel, stride, pad, dilation, axis)
