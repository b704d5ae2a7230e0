"""Layers that change the size of feature maps: interpolation, upsampling, unpooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converter.errors import UnsupportedError
from converter.layers.module import CaffeModule
from converter.layers.pooling import sides
from converter.layers.registry import Fields, fields_set, layer


class Interp(CaffeModule):
    """Bilinear resizing with corners on corners, after cropping -pad_beg and -pad_end values of both axes.

    The new size is size; or (n - 1) // shrink_factor + 1, then n + (n - 1) * (zoom_factor - 1); or a second bottom's. DeepLab,
    PSPNet.
    """

    def __init__(self, size: Sequence[int] | None = None, shrink_factor: int = 1, zoom_factor: int = 1, pad_beg: int = 0, pad_end: int = 0):
        super().__init__()
        self.size = None if size is None else tuple(size)
        self.shrink_factor, self.zoom_factor, self.pad_beg, self.pad_end = shrink_factor, zoom_factor, pad_beg, pad_end

    def resized(self, n: int) -> int:
        n = (n - 1) // self.shrink_factor + 1
        return n + (n - 1) * (self.zoom_factor - 1)

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        height, width = (x.shape[i] + self.pad_beg + self.pad_end for i in (2, 3))
        if height < 1 or width < 1:
            raise ValueError(f"nothing is left of {x.shape[2]}x{x.shape[3]} values with pad_beg {self.pad_beg} and pad_end {self.pad_end}")
        x = x[:, :, -self.pad_beg : height - self.pad_beg, -self.pad_beg : width - self.pad_beg]
        given = self.size if like is None else (like.shape[2], like.shape[3])
        return F.interpolate(x, given or (self.resized(height), self.resized(width)), mode="bilinear", align_corners=True)


@layer("Interp", "interp_param", bottoms=(1, 2), origin="DeepLab, PSPNet; soeaver's use_blob_size")
def interp(p: Fields, x: Tensor, *like: Tensor) -> nn.Module:
    if bool(like) != p.use_blob_size:
        raise ValueError("a second bottom gives the size with use_blob_size: true, and only then")
    if like:
        others = fields_set(p, "height", "width", "zoom_factor", "shrink_factor")
        if others or p.pad_beg > 0 or p.pad_end > 0 or x.dim() != 4 or like[0].dim() != 4:
            raise ValueError(f"with use_blob_size it takes (N, C, H, W), pad_beg and pad_end of at most 0, and no {others or 'other size'}")
        return Interp(pad_beg=p.pad_beg, pad_end=p.pad_end)
    size = (p.height, p.width) if p.has("height") and p.has("width") else None
    factors = p.has("zoom_factor") or p.has("shrink_factor")
    if (p.has("height") or p.has("width")) != (size is not None) or factors == (size is not None):
        raise ValueError("the new size is either height and width, or zoom_factor, shrink_factor, or both factors")
    if p.zoom_factor < 1 or p.shrink_factor < 1 or p.pad_beg > 0 or p.pad_end > 0 or x.dim() != 4 or min(size or (1,)) < 1:
        raise ValueError("sizes and factors must be at least 1, pad_beg and pad_end at most 0 (they crop), the bottom (N, C, H, W)")
    return Interp(size, p.shrink_factor, p.zoom_factor, p.pad_beg, p.pad_end)


class Upsample(CaffeModule):
    """Resizing by whole scales or to a size, "nearest", or "bilinear" with corners on corners; or to a second bottom's size."""

    def __init__(self, mode: str, scale: Sequence[int] | None = None, size: Sequence[int] | None = None):
        super().__init__()
        self.mode = mode
        self.scale, self.size = (None if value is None else tuple(value) for value in (scale, size))

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        if like is not None:
            height, width = like.shape[2], like.shape[3]
        elif self.size is not None:
            height, width = self.size
        else:
            assert self.scale is not None
            height, width = x.shape[2] * self.scale[0], x.shape[3] * self.scale[1]
        if self.mode == "bilinear":
            return F.interpolate(x, (height, width), mode="bilinear", align_corners=True)
        # whole numbers, as the forks count: torch's nearest mode multiplies by a float
        rows = torch.arange(height, device=x.device) * x.shape[2] // height
        columns = torch.arange(width, device=x.device) * x.shape[3] // width
        return x.index_select(2, rows).index_select(3, columns)


class Unpool(CaffeModule):
    """Puts each value where a max pooling's mask found it, zeros elsewhere: SegNet's upsample_layer.cpp.

    x and mask: (N, C, H, W), the mask's values h * W' + w of the output. The output's size is `size`, or scale times the
    input's less shorter (0 or 1 for each axis).
    """

    def __init__(self, scale: Sequence[int] = (2, 2), shorter: Sequence[int] = (0, 0), size: Sequence[int] | None = None):
        super().__init__()
        self.scale, self.shorter, self.size = tuple(scale), tuple(shorter), None if size is None else tuple(size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if x.shape != mask.shape:
            raise ValueError(f"the mask {tuple(mask.shape)} has another shape than {tuple(x.shape)}")
        height, width = self.size or (x.shape[2 + i] * self.scale[i] - self.shorter[i] for i in (0, 1))
        flat = x.new_zeros(*x.shape[:2], height * width)
        return flat.scatter(2, mask.flatten(2).long(), x.flatten(2)).reshape(*x.shape[:2], height, width)


@layer("Upsample", "upsample_param", bottoms=(1, 2), origin="SegNet; eric612/MobileNet-YOLO")
def upsample(p: Fields, x: Tensor, *second: Tensor) -> nn.Module:
    """SegNet's takes a pooling mask; YOLO forks' resize, to the size of a second bottom if there is one."""
    yolo = fields_set(p, "height", "width", "height_scale", "width_scale", "mode")
    segnet = fields_set(p, "scale_h", "scale_w", "pad_out_h", "pad_out_w", "upsample_h", "upsample_w")
    if bool(yolo) == bool(segnet or p.has("scale")) or x.dim() != 4 or (segnet and not second):
        raise ValueError(
            "its fields are those of no single fork: with a mask scale or upsample_h and upsample_w; without one scale,"
            " or height, width, height_scale, width_scale and mode"
        )
    if p.has("scale") and (p.scale != int(p.scale) or p.scale < 1):
        raise ValueError(f"scale {p.scale} is no whole number of at least 1")
    if yolo:
        return _yolo_upsample(p, bool(second))
    if not second:
        return Upsample("nearest", (int(p.scale), int(p.scale)))
    if p.has("upsample_h") and p.has("upsample_w"):
        return Unpool(size=(p.upsample_h, p.upsample_w))
    pair = (p.scale_h, p.scale_w) if p.has("scale_h") and p.has("scale_w") else (int(p.scale),) * 2
    shorter = (int(p.pad_out_h), int(p.pad_out_w))
    if p.has("upsample_h") or p.has("upsample_w") or p.has("scale") == (p.has("scale_h") or p.has("scale_w")) or min(pair) < 2:
        raise ValueError("it takes upsample_h and upsample_w, or scale, or scale_h and scale_w, and scales of at least 2")
    if any(short and side != 2 for short, side in zip(shorter, pair, strict=True)):
        raise ValueError("pad_out_h and pad_out_w go with a scale of 2 only")
    return Unpool(pair, shorter)


def _yolo_upsample(p: Fields, like: bool) -> nn.Module:
    size = (p.height, p.width) if p.has("height") and p.has("width") else None
    scale = (p.height_scale, p.width_scale) if p.has("height_scale") and p.has("width_scale") else None
    if not like and (size is None) == (scale is None):
        raise ValueError("it takes height and width, or height_scale and width_scale, or a second bottom of the new size")
    if min(size or (2,)) < 2 or min(scale or (2,)) < 2:
        raise ValueError("heights, widths and scales must be at least 2")
    return Upsample(p.mode.lower(), None if like else scale, None if like else size)


def _side(p: Fields, name: str, short: str, default: int | None) -> tuple[int, int] | None:
    """name for both axes, or short_h and short_w."""
    each = fields_set(p, f"{short}_h", f"{short}_w")
    if each and (len(each) != 2 or p.has(name)):
        raise ValueError(f"{name}, or {short}_h and {short}_w together: not both, and not one alone")
    if each:
        return getattr(p, each[0]), getattr(p, each[1])
    return None if default is None and not p.has(name) else (getattr(p, name), getattr(p, name))


class Unpooling(CaffeModule):
    """MAX: each value where the mask of a MAX pooling says, or without one at its window's corner; zeros elsewhere.

    AVE and TILE: each value over its whole window, divided by the window's part inside the output or not, windows that overlap
    added. (N, C, H, W) -> (N, C, *size). HyeonwooNoh/caffe (DeconvNet): unpooling_layer.cpp, and .cu where the CPU's code
    adds to the last call's result.
    """

    def __init__(self, mode: str, size: Sequence[int], kernel_size: Sequence[int], stride: Sequence[int]):
        super().__init__()
        self.mode, self.size, self.kernel_size, self.stride = mode, tuple(size), tuple(kernel_size), tuple(stride)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        starts = [torch.arange(x.shape[2 + i], device=x.device) * self.stride[i] for i in (0, 1)]
        if self.mode == "MAX":
            corner = [start.clamp(max=side - 1) for start, side in zip(starts, self.size, strict=True)]
            index = (corner[0][:, None] * self.size[1] + corner[1]).expand(x.shape) if mask is None else mask.long()
            flat = x.new_zeros(*x.shape[:2], self.size[0] * self.size[1])
            return flat.scatter(2, index.flatten(2), x.flatten(2)).reshape(*x.shape[:2], *self.size)
        inside = []  # of axis i: (windows, size), 1 where the window covers the place
        for start, side, kernel in zip(starts, self.size, self.kernel_size, strict=True):
            place = torch.arange(side, device=x.device)
            inside.append(((place >= start[:, None]) & (place < start[:, None] + kernel)).to(x.dtype))
        if self.mode == "AVE":
            x = x / (inside[0].sum(1)[:, None] * inside[1].sum(1))
        return inside[0].T @ x @ inside[1]


@layer(
    "Unpooling",
    "unpooling_param",
    bottoms=(1, 2),
    origin="DeconvNet; BVLC's pull request of 2015, which takes pooling_param",
    refuses="a pad, as unpooling_layer.cpp does; a missing unpool_size; a mask with AVE or TILE; with pooling_param all but MAX and a mask",
)
def unpooling(p: Fields, x: Tensor, *mask: Tensor) -> nn.Module:
    pooled = p.other("pooling_param")
    if not p.any_set() and pooled.any_set():
        return _unpooled(pooled, x, *mask)
    kernel, stride = _side(p, "kernel_size", "kernel", None), _side(p, "stride", "stride", 1)
    size, pad = _side(p, "unpool_size", "unpool", None), _side(p, "pad", "pad", 0)
    if kernel is None or size is None or stride is None or x.dim() != 4 or min(*kernel, *size, *stride) < 1:
        raise UnsupportedError(
            "DeconvNet's Unpooling takes (N, C, H, W) with kernel_size and unpool_size in unpooling_param, that of BVLC's pull request"
            " pooling_param and a mask; other forks' Unpooling differ"
        )
    if pad != (0, 0) or (mask and (p.unpool != "MAX" or mask[0].shape != x.shape)):
        raise ValueError("it takes no pad, and a mask of the bottom's shape with unpool MAX only (unpooling_layer.cpp)")
    if any((x.shape[2 + i] - 1) * stride[i] >= size[i] for i in (0, 1)) and p.unpool != "MAX":
        raise ValueError(f"the windows of {x.shape[2]}x{x.shape[3]} values begin behind an unpool_size of {size}")
    return Unpooling(p.unpool, size, kernel, stride)


def _unpooled(p: Fields, x: Tensor, *mask: Tensor) -> nn.Module:
    """The inverse of a MAX pooling with these fields: its output is as large as the windows reach (64a36706's unpooling_layer.cpp)."""
    kernel, stride, pad = sides(p, "kernel_size", None), sides(p, "stride", 1), sides(p, "pad", 0)
    _ = p.engine
    if p.pool != "MAX" or len(mask) != 1 or mask[0].shape != x.shape or x.dim() != 4:
        raise ValueError("with pooling_param it takes MAX and a mask of the bottom's shape (N, C, H, W)")
    if p.global_pooling:
        if kernel is not None or stride != (1, 1) or pad != (0, 0):
            raise ValueError("global_pooling takes no kernel, no pad and no stride")
        kernel = (x.shape[2], x.shape[3])
    assert stride is not None and pad is not None
    if kernel is None or min(*kernel, *stride) < 1 or any(pad[i] and pad[i] >= kernel[i] for i in (0, 1)):
        raise ValueError("a kernel_size and a stride of at least 1 are needed, and a pad below the kernel")
    size = [(x.shape[2 + i] - 1) * stride[i] + kernel[i] - 2 * pad[i] for i in (0, 1)]
    if min(size) < 1:
        raise ValueError(f"a pad of {pad} leaves nothing of {x.shape[2]}x{x.shape[3]} values")
    return Unpooling("MAX", size, kernel, stride)
