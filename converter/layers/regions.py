"""Pooling over regions of interest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converter.layers.module import CaffeModule
from converter.layers.registry import Fields, layer


def _regions(rois: Tensor) -> Tensor:
    """(R, 5); Caffe takes (R, 5, 1, 1) as well."""
    rois = rois.flatten(1)
    if rois.shape[1] != 5:
        raise ValueError(f"a region has {rois.shape[1]} numbers; Caffe's have 5: item, x1, y1, x2, y2")
    return rois


class ROIPooling(CaffeModule):
    """The maximum of each bin of each region: (N, C, H, W), rois (R, 5) of item, x1, y1, x2, y2 -> (R, C, *size).

    Fast R-CNN's roi_pooling_layer.cpp, whose rounding torchvision's roi_pool shares.
    """

    def __init__(self, size: Sequence[int], spatial_scale: float = 1.0):
        super().__init__()
        self.size, self.spatial_scale = tuple(size), spatial_scale

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        rois = _regions(rois)
        if x.is_meta:
            return x.new_empty(rois.shape[0], x.shape[1], *self.size)
        from torchvision.ops import roi_pool  # late: importing torchvision takes longer than most conversions

        return roi_pool(x, rois, self.size, self.spatial_scale)


@layer("ROIPooling", "roi_pooling_param", bottoms=(2, 2))
def roi_pooling(p: Fields, x: Tensor, rois: Tensor) -> nn.Module:
    if min(p.pooled_h, p.pooled_w) < 1 or p.spatial_scale <= 0 or x.dim() != 4:
        raise ValueError("ROIPooling takes a pooled_h and pooled_w of at least 1, a positive spatial_scale and four axes (N, C, H, W)")
    return ROIPooling((p.pooled_h, p.pooled_w), p.spatial_scale)


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


@layer("PSROIPooling", "psroi_pooling_param", bottoms=(2, 2))
def psroi_pooling(p: Fields, x: Tensor, rois: Tensor) -> nn.Module:
    if min(p.output_dim, p.group_size) < 1 or p.spatial_scale <= 0 or x.dim() != 4:
        raise ValueError("PSROIPooling takes spatial_scale, output_dim and group_size, all positive, and four axes (N, C, H, W)")
    return PSROIPooling(p.output_dim, p.group_size, p.spatial_scale)
