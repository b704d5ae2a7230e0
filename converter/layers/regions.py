"""Pooling and sampling over regions of interest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converter.errors import UnsupportedError
from converter.layers.clips import window_pooling
from converter.layers.module import CaffeModule
from converter.layers.registry import Fields, layer


def _regions(rois: Tensor) -> Tensor:
    """(R, 5); Caffe takes (R, 5, 1, 1) as well."""
    rois = rois.flatten(1)
    if rois.shape[1] != 5:
        raise ValueError(f"a region has {rois.shape[1]} numbers; Caffe's have 5: item, x1, y1, x2, y2")
    return rois


def _padded(rois: Tensor, ratio: float) -> Tensor:
    """Regions (R, 5) wider and higher by ratio of their sides, which count their last pixel, on each side."""
    first, last = rois[:, 1:3], rois[:, 3:]
    pad = (last - first + 1) * ratio
    return torch.cat((rois[:, :1], first - pad, last + pad), 1)


class ROIPooling(CaffeModule):
    """The maximum of each bin of each region: (N, C, H, W), rois (R, 5) of item, x1, y1, x2, y2 -> (R, C, *size).

    Fast R-CNN's roi_pooling_layer.cpp, whose rounding torchvision's roi_pool shares. cascade-rcnn's pad_ratio widens the regions.
    """

    def __init__(self, size: Sequence[int], spatial_scale: float = 1.0, pad_ratio: float = 0.0):
        super().__init__()
        self.size, self.spatial_scale, self.pad_ratio = tuple(size), spatial_scale, pad_ratio

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        rois = _regions(rois)
        if x.is_meta:
            return x.new_empty(rois.shape[0], x.shape[1], *self.size)
        from torchvision.ops import roi_pool  # late: importing torchvision takes longer than most conversions

        rois = _padded(rois, self.pad_ratio) if self.pad_ratio else rois
        result: Tensor = roi_pool(x, rois, self.size, self.spatial_scale)
        return result


def _pooled_size(p: Fields, x: Tensor) -> tuple[int, int]:
    if p.has("temporal_scale"):
        raise UnsupportedError("temporal_scale is R-C3D's pooling over windows of a clip, which takes pooled_l, too")
    if min(p.pooled_h, p.pooled_w) < 1 or p.spatial_scale <= 0 or p.pad_ratio < 0 or x.dim() != 4:
        raise ValueError("it takes a pooled_h and pooled_w of at least 1, a positive spatial_scale and four axes (N, C, H, W)")
    return p.pooled_h, p.pooled_w


@layer(
    "ROIPooling",
    "roi_pooling_param",
    bottoms=(2, 2),
    origin="Fast R-CNN, cascade-rcnn, R-C3D",
)
def roi_pooling(p: Fields, x: Tensor, rois: Tensor) -> nn.Module:
    if p.has("pooled_l"):
        return window_pooling(p, x, rois)
    return ROIPooling(_pooled_size(p, x), p.spatial_scale, p.pad_ratio)


class CornerROIAlign(CaffeModule):
    """cascade-rcnn's ROIAlign: values at the corners of each region's bins, without pooling them.

    (N, C, H, W), rois (R, 5) -> (R, C, size[0] + 1, size[1] + 1). A pixel's value lies at its middle; between pixels values are
    interpolated; 0 outside of the map, and for a region whose end is not beyond its start (roi_align_layer.cu). Their nets
    average the corners with a pooling behind it. Not Mask R-CNN's ROIAlign, which is torchvision's roi_align.
    """

    def __init__(self, size: Sequence[int], spatial_scale: float = 1.0, pad_ratio: float = 0.0):
        super().__init__()
        self.size, self.spatial_scale, self.pad_ratio = tuple(size), spatial_scale, pad_ratio

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        rois = _regions(rois)
        if x.is_meta:
            return x.new_empty(rois.shape[0], x.shape[1], self.size[0] + 1, self.size[1] + 1)
        ends = _padded(rois, self.pad_ratio)[:, 1:] * self.spatial_scale - 0.5
        left, right, wx, in_x = self.corners(ends[:, 0], ends[:, 2], self.size[1], x.shape[3])
        top, bottom, wy, in_y = self.corners(ends[:, 1], ends[:, 3], self.size[0], x.shape[2])
        inside = in_y[:, :, None] & in_x[:, None] & (ends[:, 2:] > ends[:, :2]).all(1)[:, None, None]
        item = rois[:, 0].long()[:, None, None]
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for row, weight_y in ((top, 1 - wy), (bottom, wy)):
            for column, weight_x in ((left, 1 - wx), (right, wx)):
                weight = (weight_y[:, :, None] * weight_x[:, None])[..., None]
                total = total + weight * x[item, :, row[:, :, None], column[:, None]]
        return torch.where(inside[..., None], total, 0).permute(0, 3, 1, 2)

    def corners(self, start: Tensor, end: Tensor, bins: int, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Along one axis: the pixels before and behind each corner, the second one's weight, and whether it is on the map."""
        at = start[:, None] + torch.arange(bins + 1, device=start.device) * ((end - start) / bins)[:, None]
        inside = (at >= -0.5) & (at <= size - 0.5)
        low = at.floor()
        before, behind = low.clamp(0, size - 1), (low + 1).clamp(0, size - 1)
        return before.long(), behind.long(), at.clamp(0, size - 1) - before, inside


@layer(
    "ROIAlign",
    "roi_pooling_param",
    bottoms=(2, 2),
    origin="cascade-rcnn",
    refuses="Mask R-CNN's layer of this name in other forks, with roi_align_param",
)
def roi_align(p: Fields, x: Tensor, rois: Tensor) -> nn.Module:
    return CornerROIAlign(_pooled_size(p, x), p.spatial_scale, p.pad_ratio)


def _rounded(x: Tensor) -> Tensor:
    """C's round(): halves away from zero."""
    return x.sign() * (x.abs() + 0.5).floor()


class PSROIPooling(CaffeModule):
    """Position-sensitive averages: bin (i, j) of a region reads channel (d * g + i) * g + j; R-FCN's psroi_pooling_layer.cu.

    (N, output_dim * g * g, H, W), rois (R, 5) -> (R, output_dim, g, g), g the group_size. A region runs from round(x1) *
    scale to (round(x2) + 1) * scale (torchvision's ps_roi_pool rounds after scaling); an empty bin is 0.
    """

    def __init__(self, output_dim: int, group_size: int, spatial_scale: float):
        super().__init__()
        self.output_dim, self.group_size, self.spatial_scale = output_dim, group_size, spatial_scale

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        n, c, height, width = x.shape
        g, rois = self.group_size, _regions(rois)
        if c != self.output_dim * g * g:
            raise ValueError(f"{c} channels are not output_dim {self.output_dim} times {g} x {g}")
        # integral image, in double for the sake of the differences
        sums = F.pad(x.double().cumsum(2).cumsum(3), (1, 0, 1, 0)).reshape(n, self.output_dim, g, g, height + 1, width + 1)
        x0, x1 = self.bins(rois[:, 1], rois[:, 3], width)
        y0, y1 = self.bins(rois[:, 2], rois[:, 4], height)
        item = rois[:, 0].long()[:, None, None, None]
        one = torch.arange(g, device=x.device)
        at = item, torch.arange(self.output_dim, device=x.device)[:, None, None], one[:, None], one
        y0, y1, x0, x1 = y0[:, None, :, None], y1[:, None, :, None], x0[:, None, None, :], x1[:, None, None, :]
        total = sums[(*at, y1, x1)] - sums[(*at, y0, x1)] - sums[(*at, y1, x0)] + sums[(*at, y0, x0)]
        area = (y1 - y0) * (x1 - x0)
        empty = (y1 <= y0) | (x1 <= x0)
        return torch.where(empty, 0, total / area.clamp(min=1)).to(x.dtype)

    def bins(self, first: Tensor, last: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """The first place of each bin along one axis, and the one behind its last: (R, g) each."""
        g = self.group_size
        start = _rounded(first) * self.spatial_scale
        length = ((_rounded(last) + 1) * self.spatial_scale - start).clamp(min=0.1) / g
        at = torch.arange(g, device=first.device)
        low = (at * length[:, None] + start[:, None]).floor()
        high = ((at + 1) * length[:, None] + start[:, None]).ceil()
        return low.clamp(0, size).long(), high.clamp(0, size).long()


@layer("PSROIPooling", "psroi_pooling_param", bottoms=(2, 2), origin="R-FCN, Intel, cascade-rcnn")
def psroi_pooling(p: Fields, x: Tensor, rois: Tensor) -> nn.Module:
    if min(p.output_dim, p.group_size) < 1 or p.spatial_scale <= 0 or x.dim() != 4:
        raise ValueError("PSROIPooling takes spatial_scale, output_dim and group_size, all positive, and four axes (N, C, H, W)")
    return PSROIPooling(p.output_dim, p.group_size, p.spatial_scale)
