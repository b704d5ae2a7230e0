"""Convolution, Deconvolution and Im2col: they share Caffe's ConvolutionParameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converter.layers.given_weights import GivenConvolution
from converter.layers.module import CaffeModule, aligned, constructor_arguments
from converter.layers.registry import ENGINE, Fields, Layer, Param, layer

MOST_SLICES = 1_000  # of a kernel's axes before the last three, each of which is a convolution of its own
_IGNORED = {
    **ENGINE,
    "force_nd_im2col": "chooses an implementation, not a result",
    **dict.fromkeys(("cudnn_flavor", "cudnn_convolution_algo_seeker", "conv_algos_override"), "NVIDIA's choice of an algorithm"),
    "conv_algorithm": "Intel's choice of an algorithm",
    "mem_group_size": "a fork's memory setting",
}


_TORCH: dict[bool, dict[int, Any]] = {
    False: {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d},
    True: {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d},
}


_SIDES = ("kernel_size", "stride", "pad", "kstride")  # those with fields for height and width


def _axes(p: Fields, name: str, n: int, default: int | None) -> tuple[int, ...]:
    """kernel_size, stride, pad or dilation for n spatial axes: one for all, one each, or _h and _w."""
    short = {"kernel_size": "kernel"}.get(name, name)
    values: tuple[int, ...] = getattr(p, name)
    if name in _SIDES and (p.has(f"{short}_h") or p.has(f"{short}_w")):
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
    if p.kstride or p.has("kstride_h") or p.has("kstride_w"):  # what naibaf7 called dilation before
        if p.dilation:
            raise ValueError("dilation and kstride are both set, and are the same")
        dilation = _axes(p, "kstride", n, None)
    if min((*kernel, *stride, *dilation), default=1) < 1:
        raise ValueError("kernel_size, stride and dilation must be at least 1")
    return axis, kernel, stride, pad, dilation


def _convolve(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
              groups: int, transposed: bool) -> Tensor:  # fmt: skip
    """F.conv over any number of axes: torch has one to three; none is a matrix product, more are sums of slices."""
    spatial = weight.dim() - 2
    if spatial == 0:
        y = _convolve(x[..., None], weight[..., None], (1,), (0,), (1,), groups, transposed)
        return y[..., 0]
    if spatial <= 3:
        if transposed:
            back = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[spatial - 1]
            return back(x, weight, None, stride, padding, 0, groups, dilation)
        forth = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
        return forth(x, weight, None, stride, padding, dilation, groups)

    def inner(part: Tensor, k: int) -> Tensor:
        moved = part.movedim(2, 1)  # the first spatial axis joins the batch
        y = _convolve(moved.flatten(0, 1), weight[:, :, k], stride[1:], padding[1:], dilation[1:], groups, transposed)
        return y.reshape(*moved.shape[:2], *y.shape[1:]).movedim(1, 2)

    kernel, s, p, d = weight.shape[2], stride[0], padding[0], dilation[0]
    if transposed:
        size = (x.shape[2] - 1) * s + d * (kernel - 1) + 1
        whole: Tensor | None = None
        for k in range(kernel):
            y = inner(x, k)
            whole = y.new_zeros(*y.shape[:2], size, *y.shape[3:]) if whole is None else whole
            at = torch.arange(x.shape[2], device=x.device) * s + k * d
            whole = whole.index_add(2, at, y)
        assert whole is not None
        return whole.narrow(2, p, size - 2 * p)
    out = (x.shape[2] + 2 * p - d * (kernel - 1) - 1) // s + 1
    x = F.pad(x, [0, 0] * (spatial - 1) + [p, p])
    parts = [inner(x[:, :, k * d : k * d + (out - 1) * s + 1 : s], k) for k in range(kernel)]
    return torch.stack(parts).sum(0)


class Convolution(CaffeModule):
    """Convolution along any number of trailing axes, of several bottoms with one set of weights.

    Bottoms are (..., C, *spatial) with C at `axis`; all axes before it are a batch. weight: (num_output, C / groups,
    *kernel), for `transposed` (C, num_output / groups, *kernel). Caffe's BaseConvolutionLayer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int = 1,
        bias: bool = True,
        axis: int = 1,
        transposed: bool = False,
    ):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = tuple(kernel_size), tuple(stride)
        self.padding, self.dilation = tuple(padding), tuple(dilation)
        self.groups, self.axis, self.transposed = groups, axis, transposed
        rows, columns = (in_channels, out_channels) if transposed else (out_channels, in_channels)
        self.weight = nn.Parameter(torch.empty(rows, columns // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None

    def one(self, x: Tensor) -> Tensor:
        lead = x.shape[: self.axis]
        x = x.reshape(-1, *x.shape[self.axis :]) if self.axis != 1 else x
        y = _convolve(x, self.weight, self.stride, self.padding, self.dilation, self.groups, self.transposed)
        if self.bias is not None:
            y = y + aligned(self.bias, y, 1)
        return y.reshape(*lead, *y.shape[1:]) if self.axis != 1 else y

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        tops = tuple(self.one(x) for x in bottoms)
        return tops if len(tops) > 1 else tops[0]


def _convolution(p: Fields, bottoms: tuple[Tensor, ...], transposed: bool) -> Layer:
    x = bottoms[0]
    axis, kernel, stride, pad, dilation = _geometry(p, x)
    channels, outputs, groups = x.shape[axis], p.num_output, p.group
    if (slices := math.prod(kernel[:-3])) > MOST_SLICES:
        raise ValueError(f"a kernel over {len(kernel)} spatial axes is a sum of {slices:,} slices, more than any net has ({MOST_SLICES:,})")
    if p.param_bottoms:
        if transposed or x.dim() != 4 or axis != 1 or len(bottoms) != 1 + p.param_bottoms or p.param_bottoms != 1 + p.bias_term:
            raise ValueError(
                "with param_bottoms we compute a convolution of (N, C, H, W) that has its weight, and its bias, as last bottoms"
            )
        return Layer(GivenConvolution(channels, outputs, kernel, stride, pad, dilation, groups))
    if outputs < 1:
        raise ValueError(
            "num_output is 0, which templates leave open: write it there, or give num_output={the layer's name: N} to convert()"
        )
    if groups < 1 or channels % groups or outputs % groups:
        raise ValueError(f"{channels} channels and num_output {outputs} do not both divide by group {groups}")
    if any(other.shape != x.shape for other in bottoms):
        raise ValueError("the bottoms differ in their shapes")
    module: nn.Module
    plain: Any = _TORCH[transposed].get(len(kernel)) if axis == 1 and len(bottoms) == 1 else None
    if plain is not None:
        module = plain(channels, outputs, kernel, stride, pad, dilation=dilation, groups=groups, bias=p.bias_term)
    else:
        module = Convolution(channels, outputs, kernel, stride, pad, dilation, groups, p.bias_term, axis, transposed)
    blobs = [Param("weight", p.weight_filler), Param("bias", p.bias_filler)]
    return Layer(module, blobs[: 1 + p.bias_term])


@layer(
    "ConvolutionSK", "convolution_param", bottoms=(1, None), ignored=_IGNORED, origin="naibaf7", refuses="a pad, as conv_sk_layer.cpp does"
)
def convolution_sk(p: Fields, *bottoms: Tensor) -> Layer:
    """Convolution with strided kernels, before it had a dilation: four axes, no pad, a bias (1, 1, 1, num_output)."""
    if bottoms[0].dim() != 4 or any(p.pad) or p.pad_h or p.pad_w:
        raise ValueError("ConvolutionSK takes (N, C, H, W) and no pad (conv_sk_layer.cpp)")
    made = _convolution(p, bottoms, transposed=False)
    return replace(made, params=[replace(param, squeezed=param.key == "bias") for param in made.params])


class ConvolutionReLU(nn.Conv2d):
    """A convolution with the ReLU that BVLC's branch opencl fuses with it: fuse_type FUSED_CONV_RELU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        bias: bool = True,
        negative_slope: float = 0.0,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x), self.negative_slope)


@layer(
    "Convolution",
    "convolution_param",
    bottoms=(1, None),
    ignored=_IGNORED,
    refuses="a fuse_type other than FUSED_CONV_RELU (BVLC's branch opencl): it takes part in other layers' work",
)
def convolution(p: Fields, *bottoms: Tensor) -> Layer:
    made = _convolution(p, bottoms, transposed=False)
    if p.fuse_type == "UNFUSED":
        return made
    if p.fuse_type != "FUSED_CONV_RELU" or type(made.module) is not nn.Conv2d:
        raise ValueError(f"fuse_type {p.fuse_type} fuses more layers than the ReLU behind a convolution of (N, C, H, W)")
    arguments = constructor_arguments(made.module)
    fused = ConvolutionReLU(**arguments, negative_slope=p.relu_param.negative_slope)  # type: ignore[arg-type]
    return replace(made, module=fused)


@layer("Deconvolution", "convolution_param", bottoms=(1, None), ignored=_IGNORED)
def deconvolution(p: Fields, *bottoms: Tensor) -> Layer:
    return _convolution(p, bottoms, transposed=True)


class Im2col(CaffeModule):
    """(..., C, *spatial) -> (..., C * prod(kernel), *out): the columns that Caffe's convolution multiplies."""

    def __init__(self, kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], axis: int = 1):
        super().__init__()
        self.kernel_size, self.stride = tuple(kernel_size), tuple(stride)
        self.padding, self.dilation, self.axis = tuple(padding), tuple(dilation), axis

    def forward(self, x: Tensor) -> Tensor:
        first, n = self.axis + 1, len(self.kernel_size)
        x = F.pad(x, [p for pad in reversed(self.padding) for p in (pad, pad)])
        for i, (kernel, stride, dilation) in enumerate(zip(self.kernel_size, self.stride, self.dilation, strict=True)):
            x = x.unfold(first + i, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
        # (..., C, *out, *kernel) -> (..., C, *kernel, *out)
        order = [*range(first), *range(first + n, first + 2 * n), *range(first, first + n)]
        x = x.permute(order)
        return x.flatten(self.axis, self.axis + n)


@layer(
    "Im2col",
    "convolution_param",
    ignored={**_IGNORED, **dict.fromkeys(("num_output", "bias_term", "group", "weight_filler", "bias_filler"), "Im2col has no weights")},
)
def im2col(p: Fields, x: Tensor) -> nn.Module:
    axis, kernel, stride, pad, dilation = _geometry(p, x)
    return Im2col(kernel, stride, pad, dilation, axis)


def _depthwise(p: Fields, x: Tensor, group: int) -> Layer:
    """Each channel its own kernel. The forks differ in what another num_output or group does, so there is none."""
    axis, kernel, stride, pad, dilation = _geometry(p, x)
    channels = x.shape[1]
    if x.dim() != 4 or axis != 1 or p.num_output != channels or group != channels:
        raise ValueError(f"num_output {p.num_output} and group {group} must both be the {channels} channels of a bottom (N, C, H, W)")
    module = nn.Conv2d(channels, channels, kernel, stride, pad, dilation, groups=channels, bias=p.bias_term)  # type: ignore[arg-type]
    return Layer(module, [Param("weight", p.weight_filler), Param("bias", p.bias_filler)][: 1 + p.bias_term])


@layer("ConvolutionDepthwise", "convolution_param", ignored=_IGNORED, origin="farmingyard/caffe-mobilenet")
def convolution_depthwise(p: Fields, x: Tensor) -> Layer:
    return _depthwise(p, x, p.group if p.has("group") else x.shape[1])


@layer("DepthwiseConvolution", "convolution_param", ignored=_IGNORED, origin="yonghenglh6/DepthwiseConvolution")
def depthwise_convolution(p: Fields, x: Tensor) -> Layer:
    return _depthwise(p, x, p.group)


class Local(CaffeModule):
    """A convolution whose kernel is another one at each place of the output; (N, C, H, W) -> (N, out_channels, *out).

    weight: (out_channels, C * k * k, prod(out)), bias: (out_channels, prod(out)): the image has one size. local_layer.cpp of
    BVLC's pull request 1271 and of happynear/caffe-windows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        out: Sequence[int],
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ):
        super().__init__()
        self.in_channels, self.out_channels, self.out = in_channels, out_channels, tuple(out)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        places = self.out[0] * self.out[1]
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels * kernel_size**2, places))
        self.bias = nn.Parameter(torch.empty(out_channels, places)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        columns = F.unfold(x, self.kernel_size, 1, self.padding, self.stride)
        y = torch.einsum("nkp,okp->nop", columns, self.weight)
        return (y if self.bias is None else y + self.bias).reshape(len(x), self.out_channels, *self.out)


@layer("Local", "local_param", origin="BVLC's pull request 1271, happynear")
def local(p: Fields, x: Tensor) -> Layer:
    if x.dim() != 4 or min(p.num_output, p.kernel_size, p.stride) < 1 or min(x.shape[2:]) < p.kernel_size:
        raise ValueError("it takes (N, C, H, W) of at least the kernel's size, and num_output, kernel_size and stride of at least 1")
    out = [(side + 2 * p.pad - p.kernel_size) // p.stride + 1 for side in x.shape[2:]]
    module = Local(x.shape[1], p.num_output, out, p.kernel_size, p.stride, p.pad, p.bias_term)
    weight = Param("weight", p.weight_filler, (p.num_output, 1, *module.weight.shape[1:]))
    return Layer(
        module, [weight, Param("bias", p.bias_filler, (1, 1, p.num_output, out[0] * out[1]))][: 1 + p.bias_term], _without_ones, _as_stored
    )


def _without_ones(blobs: list[Tensor]) -> dict[str, Tensor]:
    """(out, 1, K, places) and (1, 1, out, places) lose their axes of 1."""
    return {
        key: blob.reshape(-1, *blob.shape[2:]) if key == "weight" else blob[0, 0]
        for key, blob in zip(("weight", "bias"), blobs, strict=False)
    }


def _as_stored(state: dict[str, Tensor]) -> list[Tensor]:
    return [state["weight"][:, None], *([state["bias"][None, None]] if "bias" in state else [])]
