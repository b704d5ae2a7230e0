"""Pooling and SPP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converter.errors import UnsupportedError
from converter.layers.module import CaffeModule
from converter.layers.registry import ENGINE, Fields, layer


def _sizes(p: Fields, name: str, axes: int, default: int | None) -> tuple[int, ...] | None:
    """kernel_size, stride or pad of the spatial axes: one for all or one each; or name_h and name_w together."""
    short = {"kernel_size": "kernel"}.get(name, name)
    values: tuple[int, ...] = getattr(p, name)
    both = (p.has(f"{short}_h"), p.has(f"{short}_w"))
    if any(both):
        if not all(both) or values or axes != 2:
            raise ValueError(f"{name}, or {short}_h and {short}_w together: not both, and not one alone")
        return getattr(p, f"{short}_h"), getattr(p, f"{short}_w")
    if not values:
        return None if default is None else (default,) * axes
    if len(values) not in (1, axes):
        raise ValueError(f"{name} has {len(values)} values for {axes} spatial axes")
    return values * axes if len(values) == 1 else values


def sides(p: Fields, name: str, default: int | None) -> tuple[int, int] | None:
    """kernel_size, stride or pad of height and width."""
    found = _sizes(p, name, 2, default)
    return None if found is None else (found[0], found[1])


FLT_MAX = torch.finfo(torch.float32).max


class Pool2d(CaffeModule):
    """Caffe's pooling where torch's modules differ: pads above half the kernel, strides above it, dilation, masks, stochastic.

    (N, C, H, W) -> (N, C, H', W'), and with `mask` the index h * W + w of each maximum as a float. Facts from Caffe's
    pooling_layer.cpp: windows round up unless `ceil_mode` is off; only where there is padding does the last window have to
    start inside it; an average divides by the window's part inside the padded image; a window of stochastic pooling
    gives sum(x * x) / sum(x) at test time (pooling_layer.cu). naibaf7's: the taps of a window lie `dilation` apart. Intel's:
    without `count_include_pad` an average divides by the taps inside the image. MIN is IQA_CNN's: the least value.
    """

    def __init__(self, mode: str, kernel_size: Sequence[int] | None, stride: Sequence[int] = (1, 1), padding: Sequence[int] = (0, 0),
                 ceil_mode: bool = True, mask: bool = False, dilation: Sequence[int] = (1, 1), count_include_pad: bool = True):  # fmt: skip
        super().__init__()
        self.mode, self.stride, self.padding, self.dilation = mode, tuple(stride), tuple(padding), tuple(dilation)
        self.kernel_size = None if kernel_size is None else tuple(kernel_size)  # None: the whole image
        self.ceil_mode, self.mask, self.count_include_pad = ceil_mode, mask, count_include_pad

    def windows(self, size: int, i: int, kernel: int) -> int:
        """How many windows lie along axis i of the image."""
        stride, pad = self.stride[i], self.padding[i]
        room = size + 2 * pad - self.extent(i, kernel)
        n = (-(-room // stride) if self.ceil_mode else room // stride) + 1
        if any(self.padding) and (n - 1) * stride >= size + pad:
            n -= 1
        return n

    def extent(self, i: int, kernel: int) -> int:
        return (kernel - 1) * self.dilation[i] + 1

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        size = (x.shape[2], x.shape[3])
        kernel = self.kernel_size or size
        n = [self.windows(size[i], i, kernel[i]) for i in (0, 1)]
        if min(n) < 1:
            raise ValueError(f"the {kernel[0]}x{kernel[1]} window is larger than the {size[0]}x{size[1]} image")
        # Pad below by what the last window needs, so that plain floor-mode pooling makes exactly n windows.
        after = [max((n[i] - 1) * self.stride[i] + self.extent(i, kernel[i]) - size[i] - self.padding[i], 0) for i in (0, 1)]
        border = [self.padding[1], after[1], self.padding[0], after[0]]
        if self.mode == "MIN":
            x = -x
        if self.mode in ("MAX", "MIN"):
            padded = F.pad(x, border, value=-FLT_MAX)
            out, index = F.max_pool2d(padded, kernel, self.stride, 0, self.dilation, return_indices=True)
            out, index = out[..., : n[0], : n[1]], index[..., : n[0], : n[1]]
            if not self.mask:
                return -out if self.mode == "MIN" else out
            wide = padded.shape[3]
            h, w = index // wide - self.padding[0], index % wide - self.padding[1]
            inside = (h >= 0) & (h < size[0]) & (w >= 0) & (w < size[1])
            return out, torch.where(inside, h * size[1] + w, -1).to(x.dtype)
        padded = F.pad(x, border)
        total = self.sums(padded, kernel, n)
        if self.mode == "STOCHASTIC":
            return torch.where(total > 0, self.sums(padded * padded, kernel, n) / total, 0)
        taps = [self.taps(size[i], i, kernel[i], n[i], x.device) for i in (0, 1)]
        return total / (taps[0][:, None] * taps[1]).to(x.dtype)

    def sums(self, padded: Tensor, kernel: tuple[int, ...], n: Sequence[int]) -> Tensor:
        """The sum of each window's values."""
        if self.dilation == (1, 1):
            return F.avg_pool2d(padded, kernel, self.stride, divisor_override=1)[..., : n[0], : n[1]]
        ones = padded.new_ones(padded.shape[1], 1, *kernel)
        return F.conv2d(padded, ones, None, self.stride, (0, 0), self.dilation, padded.shape[1])[..., : n[0], : n[1]]

    def taps(self, size: int, i: int, kernel: int, n: int, device: torch.device) -> Tensor:
        """By how many taps of axis i an average divides, for each of n windows."""
        pad = self.padding[i]
        at = (torch.arange(n, device=device) * self.stride[i] - pad)[:, None] + torch.arange(kernel, device=device) * self.dilation[i]
        return (at < size + pad if self.count_include_pad else (at >= 0) & (at < size)).sum(1)


class Pool3d(CaffeModule):
    """MAX or AVE over windows of (N, C, L, H, W) -> (N, C, L', H', W').

    C3D (`ceil_mode`): windows round up and the last one may begin behind the volume, where MAX is -FLT_MAX; an average
    divides by the window's part inside the padded volume (pool3d_layer.cpp). R-C3D (not `ceil_mode`): whole windows.
    """

    def __init__(
        self, mode: str, kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int] = (0, 0, 0), ceil_mode: bool = True
    ):
        super().__init__()
        self.mode, self.kernel_size, self.stride = mode, tuple(kernel_size), tuple(stride)
        self.padding, self.ceil_mode = tuple(padding), ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        size, kernel, stride, pad = x.shape[2:], self.kernel_size, self.stride, self.padding
        room = [size[i] + 2 * pad[i] - kernel[i] for i in range(3)]
        if min(room) < 0:
            raise ValueError(f"the {'x'.join(map(str, kernel))} window is larger than the {'x'.join(map(str, size))} volume")
        n = [(-(-room[i] // stride[i]) if self.ceil_mode else room[i] // stride[i]) + 1 for i in range(3)]
        after = [max((n[i] - 1) * stride[i] + kernel[i] - size[i] - pad[i], 0) for i in range(3)]
        border = [width for i in (2, 1, 0) for width in (pad[i], after[i])]
        if self.mode == "MAX":
            return F.max_pool3d(F.pad(x, border, value=-FLT_MAX), kernel, stride)[..., : n[0], : n[1], : n[2]]
        y = F.avg_pool3d(F.pad(x, border), kernel, stride, divisor_override=1)[..., : n[0], : n[1], : n[2]]
        for i in range(3):
            start = torch.arange(n[i], device=x.device) * stride[i] - pad[i]
            length = (start + kernel[i]).clamp(max=size[i] + pad[i]) - start
            y = y / length.to(x.dtype).reshape(-1, *[1] * (2 - i))
        return y


def _dilation(p: Fields) -> tuple[int, int]:
    """dilation, or kstride, as naibaf7 called it before: one value, or height and width."""
    values: tuple[int, ...] = p.dilation
    if p.kstride or p.has("kstride_h") or p.has("kstride_w"):
        if values or (p.kstride and (p.has("kstride_h") or p.has("kstride_w"))):
            raise ValueError("dilation, kstride, or kstride_h and kstride_w: only one of them")
        values = p.kstride or (p.kstride_h, p.kstride_w)
    if len(values) > 2 or min(values, default=1) < 1:
        raise ValueError(f"a dilation of {values}; it takes one value of at least 1, or one each for height and width")
    return (1, 1) if not values else (values[0], values[-1])


@layer(
    "Pooling",
    "pooling_param",
    ignored=ENGINE,
    origin="BVLC; ceil_mode of several forks, naibaf7's dilation, Intel's avg_include_pad, IQA_CNN's MIN",
    refuses="other than four axes (N, C, H, W), but for plain MAX and AVE over (N, C, L, H, W)",
)
def pooling(p: Fields, x: Tensor) -> nn.Module:
    if x.dim() == 5:
        return _over_volumes(p)
    if x.dim() != 4:
        raise ValueError("Pooling takes four axes (N, C, H, W)")
    kernel, stride, pad = sides(p, "kernel_size", None), sides(p, "stride", 1), sides(p, "pad", 0)
    dilation, include_pad = _dilation(p), p.avg_include_pad
    mode, mask, ceil_mode = p.pool, p.tops > 1, p.round_mode == "CEIL" and p.ceil_mode
    if mask and (mode != "MAX" or p.tops > 2):
        raise ValueError(f"{p.tops} tops; only MAX pooling has a second one, the mask")
    assert stride is not None and pad is not None
    if p.global_pooling:
        if kernel is not None or pad != (0, 0) or stride != (1, 1) or dilation != (1, 1):
            raise ValueError("global_pooling takes no kernel, no pad, no stride and no dilation")
        if mode in ("STOCHASTIC", "MIN") or mask:
            return Pool2d(mode, None, mask=mask)
        return nn.AdaptiveMaxPool2d(1) if mode == "MAX" else nn.AdaptiveAvgPool2d(1)
    if kernel is None or min(kernel) < 1 or min(stride) < 1:
        raise ValueError("a kernel_size and a stride of at least 1 are needed")
    if pad != (0, 0) and (mode in ("STOCHASTIC", "MIN") or pad[0] >= kernel[0] or pad[1] >= kernel[1]):
        raise ValueError(f"a pad of {pad} does not go with {mode} pooling and a kernel of {kernel}")
    # torch's modules clip the last window as Caffe does, but pad by half the kernel at most
    as_torch = all(2 * pad[i] <= kernel[i] and stride[i] <= kernel[i] for i in (0, 1)) and not mask and dilation == (1, 1)
    if as_torch and mode == "MAX":
        return nn.MaxPool2d(kernel, stride, pad, ceil_mode=ceil_mode)
    if as_torch and mode == "AVE":
        return nn.AvgPool2d(kernel, stride, pad, ceil_mode=ceil_mode, count_include_pad=include_pad)
    return Pool2d(mode, kernel, stride, pad, ceil_mode, mask, dilation, include_pad)


def _over_volumes(p: Fields) -> nn.Module:
    """naibaf7's, and video-caffe's in R-C3D: as for images, and without a pad no window is clipped."""
    kernel, stride, pad = _sizes(p, "kernel_size", 3, None), _sizes(p, "stride", 3, 1), _sizes(p, "pad", 3, 0)
    if p.pool not in ("MAX", "AVE") or p.tops > 1 or any(pad or ()) or set(p.dilation + p.kstride) - {1} or p.global_pooling:
        raise UnsupportedError("over volumes (N, C, L, H, W) we compute MAX and AVE pooling without pad, dilation, mask and global_pooling")
    if kernel is None or stride is None or min(kernel + stride) < 1:
        raise ValueError("a kernel_size and a stride of at least 1 are needed")
    return Pool3d(p.pool, kernel, stride, ceil_mode=p.round_mode == "CEIL" and p.ceil_mode)


@layer("PoolingSK", "pooling_param", ignored=ENGINE, origin="naibaf7", refuses="a pad, as pooling_sk_layer.cpp does")
def pooling_sk(p: Fields, x: Tensor) -> nn.Module:
    """Pooling with strided kernels, before it had a dilation."""
    if sides(p, "pad", 0) != (0, 0):
        raise ValueError("PoolingSK takes no pad (pooling_sk_layer.cpp)")
    return pooling(p, x)


class SpatialPyramid(CaffeModule):
    """Caffe's SPP: pools (N, C, H, W) into 1, 4, 16, ... bins, one level after another: (N, C * (4^height - 1) / 3)."""

    def __init__(self, pyramid_height: int, mode: str = "MAX"):
        super().__init__()
        self.pyramid_height, self.mode = pyramid_height, mode

    def forward(self, x: Tensor) -> Tensor:
        levels = []
        for level in range(self.pyramid_height):
            bins = 2**level
            if bins > min(x.shape[2], x.shape[3]):
                raise ValueError(f"level {level} of the pyramid has {bins}x{bins} bins, the image only {x.shape[2]}x{x.shape[3]} values")
            kernel = [-(-x.shape[i] // bins) for i in (2, 3)]
            pad = [(kernel[i] * bins - x.shape[2 + i] + 1) // 2 for i in (0, 1)]
            if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
                raise ValueError(f"level {level} of the pyramid needs a pad of {pad} for windows of {kernel}; Caffe refuses that too")
            pooled = Pool2d(self.mode, kernel, kernel, pad)(x)
            levels.append(pooled.flatten(1))
        return torch.cat(levels, 1) if self.pyramid_height > 1 else pooled


@layer("SPP", "spp_param", ignored=ENGINE)
def spp(p: Fields, x: Tensor) -> nn.Module:
    if x.dim() != 4 or p.pyramid_height < 1:
        raise ValueError("SPP takes four axes (N, C, H, W) and a pyramid_height of at least 1")
    return SpatialPyramid(p.pyramid_height, p.pool)


class PyramidBins(CaffeModule):
    """MAX pooling into about bin x bin windows for each bin of `bins`, flattened and joined: (N, C, H, W) -> (N, sum, 1, 1).

    BVLC's branch of 2014 for R-CNN (spatial_pyramid_pooling_layer.cpp): kernel and stride of a level are the image's size
    divided by the bin, rounded down, and Caffe's pooling then rounds the number of windows up. One level stays (N, C, 1, 1).
    """

    def __init__(self, bins: Sequence[float]):
        super().__init__()
        self.bins = tuple(bins)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        if len(self.bins) == 1:
            return F.max_pool2d(x, size)
        levels = []
        for bin in self.bins:
            kernel = [int(side / bin) for side in size]
            if min(kernel) < 1:
                raise ValueError(f"a spatial_bin of {bin:g} is more than the {size[0]}x{size[1]} image has values")
            levels.append(F.max_pool2d(x, kernel, kernel, ceil_mode=True).flatten(1))
        return torch.cat(levels, 1)[..., None, None]


@layer(
    "SpatialPyramidPooling",
    "spatial_pyramid_pooling_param",
    ignored={"scale": "the layer does not read it"},
    origin="BVLC's R-CNN branch of 2014",
    refuses="pools other than MAX, which that branch does not hand on",
)
def spatial_pyramid_pooling(p: Fields, x: Tensor) -> nn.Module:
    if p.pool != "MAX":
        raise UnsupportedError(f"pool {p.pool}: the branch reads another message's pool here and computes MAX; say pool: MAX")
    if x.dim() != 4 or not p.spatial_bin or min(p.spatial_bin) <= 0:
        raise ValueError("SpatialPyramidPooling takes four axes (N, C, H, W) and positive spatial_bin")
    return PyramidBins(p.spatial_bin)
