"""Pooling and SPP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converter.layers.module import CaffeModule
from converter.layers.registry import ENGINE, Fields, layer


def _pair(p: Fields, name: str, default: int | None) -> tuple[int, int] | None:
    """name: kernel_size, stride or pad; or name_h and name_w together."""
    short = {"kernel_size": "kernel"}.get(name, name)
    both = (p.has(f"{short}_h"), p.has(f"{short}_w"))
    if any(both):
        if not all(both) or p.has(name):
            raise ValueError(f"{name}, or {short}_h and {short}_w together: not both, and not one alone")
        return getattr(p, f"{short}_h"), getattr(p, f"{short}_w")
    if not p.has(name):
        return None if default is None else (default, default)
    return getattr(p, name), getattr(p, name)


FLT_MAX = torch.finfo(torch.float32).max


class Pool2d(CaffeModule):
    """Caffe's pooling where torch's modules differ: pads above half the kernel, strides above it, masks, stochastic.

    (N, C, H, W) -> (N, C, H', W'), and with `mask` the index h * W + w of each maximum as a float. Facts from Caffe's
    pooling_layer.cpp: windows round up unless `ceil_mode` is off; only where there is padding does the last window have to
    start inside it; an average divides by the window's part inside the padded image; a window of stochastic pooling
    gives sum(x * x) / sum(x) at test time (pooling_layer.cu).
    """

    def __init__(self, mode: str, kernel_size: Sequence[int] | None, stride: Sequence[int] = (1, 1), padding: Sequence[int] = (0, 0),
                 ceil_mode: bool = True, mask: bool = False):  # fmt: skip
        super().__init__()
        self.mode, self.stride, self.padding = mode, tuple(stride), tuple(padding)
        self.kernel_size = None if kernel_size is None else tuple(kernel_size)  # None: the whole image
        self.ceil_mode, self.mask = ceil_mode, mask

    def windows(self, size: int, i: int, kernel: int) -> int:
        """How many windows lie along axis i of the image."""
        stride, pad = self.stride[i], self.padding[i]
        room = size + 2 * pad - kernel
        n = (-(-room // stride) if self.ceil_mode else room // stride) + 1
        if any(self.padding) and (n - 1) * stride >= size + pad:
            n -= 1
        return n

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        size = (x.shape[2], x.shape[3])
        kernel = self.kernel_size or size
        n = [self.windows(size[i], i, kernel[i]) for i in (0, 1)]
        if min(n) < 1:
            raise ValueError(f"the {kernel[0]}x{kernel[1]} window is larger than the {size[0]}x{size[1]} image")
        # Pad below by what the last window needs, so that plain floor-mode pooling makes exactly n windows.
        after = [max((n[i] - 1) * self.stride[i] + kernel[i] - size[i] - self.padding[i], 0) for i in (0, 1)]
        border = [self.padding[1], after[1], self.padding[0], after[0]]
        if self.mode == "MAX":
            padded = F.pad(x, border, value=-FLT_MAX)
            out, index = F.max_pool2d(padded, kernel, self.stride, return_indices=True)
            out, index = out[..., : n[0], : n[1]], index[..., : n[0], : n[1]]
            if not self.mask:
                return out
            wide = padded.shape[3]
            h, w = index // wide - self.padding[0], index % wide - self.padding[1]
            inside = (h >= 0) & (h < size[0]) & (w >= 0) & (w < size[1])
            return out, torch.where(inside, h * size[1] + w, -1).to(x.dtype)
        padded = F.pad(x, border)
        total = F.avg_pool2d(padded, kernel, self.stride, divisor_override=1)[..., : n[0], : n[1]]
        if self.mode == "STOCHASTIC":
            squares = F.avg_pool2d(padded * padded, kernel, self.stride, divisor_override=1)[..., : n[0], : n[1]]
            return torch.where(total > 0, squares / total, 0)
        lengths = []
        for i in (0, 1):
            start = torch.arange(n[i], device=x.device) * self.stride[i] - self.padding[i]
            lengths.append((start + kernel[i]).clamp(max=size[i] + self.padding[i]) - start)
        return total / (lengths[0][:, None] * lengths[1]).to(x.dtype)


@layer("Pooling", "pooling_param", ignored=ENGINE)
def pooling(p: Fields, x: Tensor) -> nn.Module:
    if x.dim() != 4:
        raise ValueError("Pooling takes four axes (N, C, H, W)")
    kernel, stride, pad = _pair(p, "kernel_size", None), _pair(p, "stride", 1), _pair(p, "pad", 0)
    mode, mask, ceil_mode = p.pool, p.tops > 1, p.round_mode == "CEIL"
    if mask and (mode != "MAX" or p.tops > 2):
        raise ValueError(f"{p.tops} tops; only MAX pooling has a second one, the mask")
    assert stride is not None and pad is not None
    if p.global_pooling:
        if kernel is not None or pad != (0, 0) or stride != (1, 1):
            raise ValueError("global_pooling takes no kernel, no pad and no stride")
        if mode == "STOCHASTIC" or mask:
            return Pool2d(mode, None, mask=mask)
        return nn.AdaptiveMaxPool2d(1) if mode == "MAX" else nn.AdaptiveAvgPool2d(1)
    if kernel is None or min(kernel) < 1 or min(stride) < 1:
        raise ValueError("a kernel_size and a stride of at least 1 are needed")
    if pad != (0, 0) and (mode == "STOCHASTIC" or pad[0] >= kernel[0] or pad[1] >= kernel[1]):
        raise ValueError(f"a pad of {pad} does not go with {mode} pooling and a kernel of {kernel}")
    # torch's modules clip the last window as Caffe does, but pad by half the kernel at most
    as_torch = all(2 * pad[i] <= kernel[i] and stride[i] <= kernel[i] for i in (0, 1)) and not mask
    if as_torch and mode == "MAX":
        return nn.MaxPool2d(kernel, stride, pad, ceil_mode=ceil_mode)
    if as_torch and mode == "AVE":
        return nn.AvgPool2d(kernel, stride, pad, ceil_mode=ceil_mode)
    return Pool2d(mode, kernel, stride, pad, ceil_mode, mask)


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
