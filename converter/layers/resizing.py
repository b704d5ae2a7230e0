"""Layers that change the size of feature maps: interpolation, upsampling, unpooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converter.layers.module import CaffeModule
from converter.layers.registry import Fields, fields_set, layer


class Interp(CaffeModule):
    """Bilinear resizing with corners on corners, after cropping -pad_beg and -pad_end values of both axes.

    The new size is size; or (n - 1) // shrink_factor + 1, then n + (n - 1) * (zoom_factor - 1). DeepLab, PSPNet.
    """

    def __init__(self, size: Sequence[int] | None = None, shrink_factor: int = 1, zoom_factor: int = 1, pad_beg: int = 0, pad_end: int = 0):
        super().__init__()
        self.size = None if size is None else tuple(size)
        self.shrink_factor, self.zoom_factor, self.pad_beg, self.pad_end = shrink_factor, zoom_factor, pad_beg, pad_end

    def resized(self, n: int) -> int:
        n = (n - 1) // self.shrink_factor + 1
        return n + (n - 1) * (self.zoom_factor - 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = (x.shape[i] + self.pad_beg + self.pad_end for i in (2, 3))
        if height < 1 or width < 1:
            raise ValueError(f"nothing is left of {x.shape[2]}x{x.shape[3]} values with pad_beg {self.pad_beg} and pad_end {self.pad_end}")
        x = x[:, :, -self.pad_beg : height - self.pad_beg, -self.pad_beg : width - self.pad_beg]
        return F.interpolate(x, self.size or (self.resized(height), self.resized(width)), mode="bilinear", align_corners=True)


@layer("Interp", "interp_param")
def interp(p: Fields, x: Tensor) -> nn.Module:
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


@layer("Upsample", "upsample_param", bottoms=(1, 2))
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
