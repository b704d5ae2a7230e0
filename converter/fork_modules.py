"""The nn.Modules of the layer types that only Caffe's forks have: SSD's, YOLO's, SegNet's, SENet's and others'.

Shapes and conventions are those of modules.py. Boxes are (xmin, ymin, xmax, ymax); SSD's are fractions of the image,
those of region-of-interest layers are pixels of the input image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converter.modules import CaffeModule

# ---------------------------------------------------------------------------------------------- normalization


class Normalize(CaffeModule):
    """x / sqrt(sum of squares + eps) * weight: over the channels of each place, or with across_spatial over all of an item.

    x: (N, C, ...); weight: (C,), or () with channel_shared. SSD's normalize_layer.cpp.
    """

    def __init__(self, channels: int, across_spatial: bool = True, channel_shared: bool = True, eps: float = 1e-10):
        super().__init__()
        self.channels, self.across_spatial, self.channel_shared, self.eps = channels, across_spatial, channel_shared, eps
        self.weight = nn.Parameter(torch.empty(() if channel_shared else (channels,)))

    def forward(self, x: Tensor) -> Tensor:
        axes = list(range(1, x.dim())) if self.across_spatial else [1]
        norm = ((x * x).sum(axes, keepdim=True) + self.eps).sqrt()
        return x / norm * self.weight.reshape(-1, *[1] * (x.dim() - 2))


class FaceNormalize(CaffeModule):
    """x / norm over the channels of each place, without weights: "L2" sqrt(sum of squares + 1e-6), "L1" sum of |x| + 1e-6.

    (N, C) or (N, C, H, W) -> (N, C, H, W); with_norm adds the top (N, 1, H, W). happynear/caffe-windows (NormFace).
    """

    def __init__(self, kind: str = "L2", with_norm: bool = False):
        super().__init__()
        self.kind, self.with_norm = kind, with_norm

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = x.reshape(x.shape + (1,) * (4 - x.dim()))
        norm = ((x * x).sum(1, keepdim=True) + 1e-6).sqrt() if self.kind == "L2" else x.abs().sum(1, keepdim=True) + 1e-6
        return (x / norm, norm) if self.with_norm else x / norm


class BN(nn.modules.batchnorm._BatchNorm):
    """Batch normalization with slope (weight) and bias in one layer; (N, C, ...) with any number of axes.

    frozen: running statistics in training, too. batch_statistics: the batch's in eval mode, too. track_running_stats: off,
    there are none but the batch's, as in SegNet's LEARN mode.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        frozen: bool = False,
        batch_statistics: bool = False,
        track_running_stats: bool = True,
    ):
        super().__init__(num_features, eps=eps, momentum=momentum, track_running_stats=track_running_stats)
        self.frozen, self.batch_statistics = frozen, batch_statistics

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes, as in Caffe."""

    def forward(self, input: Tensor) -> Tensor:
        if self.frozen:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        if self.batch_statistics and not self.training:
            return F.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)
        return super().forward(input)


class ScaleShift(CaffeModule):
    """x * weight + bias for each channel: SegNet's BN in INFERENCE mode, its statistics folded into both."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.dim() - 2))
        return x * self.weight.reshape(shape) + self.bias.reshape(shape)


# ----------------------------------------------------------------------------------------- values and their places


class Axpy(CaffeModule):
    """scale * x + y: scale (N, C) or (N, C, 1, 1), x and y (N, C, H, W). SENet's axpy_layer.cpp."""

    def forward(self, scale: Tensor, x: Tensor, y: Tensor) -> Tensor:
        if scale.shape[:2] != x.shape[:2] or scale.numel() != x.shape[0] * x.shape[1] or x.shape != y.shape:
            shapes = ", ".join(str(tuple(bottom.shape)) for bottom in (scale, x, y))
            raise ValueError(f"the bottoms have shapes {shapes}; Axpy takes (N, C, 1, 1), (N, C, H, W) and (N, C, H, W)")
        return scale.reshape(*x.shape[:2], 1, 1) * x + y


class Permute(CaffeModule):
    """Axis order[i] of x becomes axis i."""

    def __init__(self, order: Sequence[int]):
        super().__init__()
        self.order = tuple(order)

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


class Flip(CaffeModule):
    """x backwards along the axes."""

    def __init__(self, axes: Sequence[int]):
        super().__init__()
        self.axes = tuple(axes)

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(self.axes)


class ShuffleChannel(CaffeModule):
    """Channels of `group` groups taken in turn: (N, group, C / group, ...) -> (N, C / group, group, ...)."""

    def __init__(self, group: int):
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.group, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape)


class Reorg(CaffeModule):
    """Darknet's reorg, as its YOLOv2 weights expect it: (N, C, H, W) -> (N, C * s * s, H / s, W / s), s the stride.

    The values are read as if x were (C / s^2, s * H, s * W) and taken apart into (C, H, W): not the usual space to depth
    (reorg_cpu in blas.c). reverse: (N, C, H, W) -> (N, C / s^2, s * H, s * W).
    """

    def __init__(self, stride: int, reverse: bool = False):
        super().__init__()
        self.stride, self.reverse = stride, reverse

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        s, planes = self.stride, c // self.stride**2
        if c % s**2 or (not self.reverse and (h % s or w % s)):
            raise ValueError(f"{c} channels of {h}x{w} do not divide by the stride {s}")
        if self.reverse:
            return x.reshape(n, s, s, planes, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, planes, h * s, w * s)
        return x.reshape(n, planes, h, s, w, s).permute(0, 3, 5, 1, 2, 4).reshape(n, c * s * s, h // s, w // s)


# ----------------------------------------------------------------------------------------------------- resizing


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


# --------------------------------------------------------------------------------------------- regions of interest


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


def _regions(rois: Tensor) -> Tensor:
    """(R, 5); Caffe takes (R, 5, 1, 1) as well."""
    rois = rois.flatten(1)
    if rois.shape[1] != 5:
        raise ValueError(f"a region has {rois.shape[1]} numbers; Caffe's have 5: item, x1, y1, x2, y2")
    return rois


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


def _rounded(x: Tensor) -> Tensor:
    """C's round(): halves away from zero."""
    return x.sign() * (x.abs() + 0.5).floor()


# -------------------------------------------------------------------------------------------------- single-shot boxes


class PriorBox(CaffeModule):
    """SSD's default boxes of a feature map: (N, C, H, W) and the image (N, C', H', W') -> (1, 2, H * W * boxes * 4).

    The first row holds boxes as fractions of the image, place by place, the second their variances. At each place, for each
    size: the square of min_size, that of sqrt(min_size * max_size), then min_size in the aspect ratios (prior_box_layer.cpp).

    Args:
        min_sizes, max_sizes: in pixels, whole numbers (Caffe cuts off fractions); max_sizes as many, or none.
        aspect_ratios: width / height of the further boxes, those of `flip` included.
        variances: one, or four.
        step, image_size: (height, width) in pixels; None: from the shapes of the bottoms.
        offset: of a box's center in its place, 0.5 the middle.
    """

    def __init__(
        self,
        min_sizes: Sequence[int],
        max_sizes: Sequence[int] = (),
        aspect_ratios: Sequence[float] = (),
        variances: Sequence[float] = (0.1,),
        clip: bool = False,
        step: Sequence[float] | None = None,
        image_size: Sequence[int] | None = None,
        offset: float = 0.5,
    ):
        super().__init__()
        self.min_sizes, self.max_sizes, self.aspect_ratios = tuple(min_sizes), tuple(max_sizes), tuple(aspect_ratios)
        self.variances, self.clip, self.offset = tuple(variances), clip, offset
        self.step, self.image_size = (None if value is None else tuple(value) for value in (step, image_size))

    def sizes(self) -> list[tuple[float, float]]:
        """Width and height in pixels of the boxes of one place."""
        found: list[tuple[float, float]] = []
        for i, size in enumerate(self.min_sizes):
            squares = [float(size)] + ([math.sqrt(size * self.max_sizes[i])] if self.max_sizes else [])
            found += [(side, side) for side in squares]
            found += [(size * math.sqrt(ratio), size / math.sqrt(ratio)) for ratio in self.aspect_ratios]
        return found

    def forward(self, feature: Tensor, image: Tensor) -> Tensor:
        height, width = feature.shape[2], feature.shape[3]
        image_height, image_width = self.image_size or (image.shape[2], image.shape[3])
        step_height, step_width = self.step or (image_height / height, image_width / width)
        y = (torch.arange(height, device=feature.device) + self.offset) * step_height
        x = (torch.arange(width, device=feature.device) + self.offset) * step_width
        centers = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), 2)[:, :, None]
        sizes = torch.tensor(self.sizes(), device=feature.device)
        whole = torch.tensor((image_width, image_height), device=feature.device)
        boxes = torch.cat(((centers - sizes / 2) / whole, (centers + sizes / 2) / whole), 3)
        if self.clip:
            boxes = boxes.clamp(0, 1)
        variances = torch.tensor(self.variances, device=feature.device).expand_as(boxes)
        return torch.stack((boxes.flatten(), variances.flatten()))[None].to(feature.dtype)


class DetectionOutput(CaffeModule):
    """SSD's detections: locations (N, P * 4 [* classes]), scores (N, P * classes), priors (1, 2, P * 4) -> (1, 1, n, 7).

    A row is item, label, score, xmin, ymin, xmax, ymax; rows go by item, label, falling score. Where nothing is found at all,
    there is one row for each item: item and six times -1. n depends on the values: on meta tensors it is 1, as Caffe's
    Reshape has it. Facts from detection_output_layer.cpp and bbox_util.cpp of weiliu89/caffe.

    Args:
        code_type: "CORNER", "CENTER_SIZE" or "CORNER_SIZE": how locations shift the priors.
        variance_encoded_in_target: locations are not multiplied by the priors' variances.
        confidence_threshold: scores must be greater. None: all scores.
        nms_threshold, eta: overlap above which a lower score is dropped; after each box that stays, the threshold is
            multiplied by eta as long as it is above 0.5.
        top_k: boxes of a class that are looked at; keep_top_k: boxes of an item that stay. -1: all.
        clip: boxes are cut to the image, 0..1, before they are compared (OpenCV's importer knows this field, Caffe does not).
    """

    def __init__(
        self,
        num_classes: int,
        share_location: bool = True,
        background_label_id: int = 0,
        code_type: str = "CORNER",
        variance_encoded_in_target: bool = False,
        confidence_threshold: float | None = None,
        nms_threshold: float = 0.3,
        eta: float = 1.0,
        top_k: int = -1,
        keep_top_k: int = -1,
        clip: bool = False,
    ):
        super().__init__()
        self.num_classes, self.share_location, self.background_label_id = num_classes, share_location, background_label_id
        self.code_type, self.variance_encoded_in_target = code_type, variance_encoded_in_target
        self.confidence_threshold, self.nms_threshold, self.eta = confidence_threshold, nms_threshold, eta
        self.top_k, self.keep_top_k, self.clip = top_k, keep_top_k, clip

    def forward(self, location: Tensor, confidence: Tensor, prior: Tensor, image: Tensor | None = None) -> Tensor:
        n, priors, locations = location.shape[0], prior.shape[2] // 4, 1 if self.share_location else self.num_classes
        if location[0].numel() != priors * locations * 4 or confidence[0].numel() != priors * self.num_classes:
            raise ValueError(
                f"{location[0].numel()} locations and {confidence[0].numel()} scores an item do not fit"
                f" {priors} priors, {self.num_classes} classes and share_location {self.share_location}"
            )
        if location.is_meta:
            return location.new_empty(1, 1, 1, 7)
        boxes = self.decoded(location.reshape(n, priors, locations, 4), *prior.reshape(2, priors, 1, 4)).transpose(1, 2)
        boxes = boxes.clamp(0, 1) if self.clip else boxes
        scores = confidence.reshape(n, priors, self.num_classes).transpose(1, 2)
        rows = []
        for item in range(n):
            labels, places = self.selected(boxes[item].detach().cpu(), scores[item].detach().cpu())
            labels, places = labels.to(location.device), places.to(location.device)
            label = labels.to(location.dtype)[:, None]
            found = boxes[item, torch.zeros_like(labels) if self.share_location else labels, places]
            rows.append(torch.cat((torch.full_like(label, item), label, scores[item, labels, places][:, None], found), 1))
        found = torch.cat(rows)
        if not found.shape[0]:
            found = location.new_full((n, 7), -1)
            found[:, 0] = torch.arange(n, device=found.device)
        return found[None, None]

    def decoded(self, location: Tensor, prior: Tensor, variance: Tensor) -> Tensor:
        """Boxes of locations (N, P, classes or 1, 4)."""
        shift = location if self.variance_encoded_in_target else location * variance
        if self.code_type == "CORNER":
            return prior + shift
        size = prior[..., 2:] - prior[..., :2]
        if self.code_type == "CORNER_SIZE":
            return prior + shift * torch.cat((size, size), -1)
        center = (prior[..., :2] + prior[..., 2:]) / 2 + shift[..., :2] * size
        half = torch.exp(shift[..., 2:]) * size / 2
        return torch.cat((center - half, center + half), -1)

    def selected(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Labels and places of one item's detections; boxes: (classes or 1, P, 4), scores: (classes, P)."""
        kept = []
        for label in range(self.num_classes):
            if label != self.background_label_id:
                places = self.suppressed(boxes[0 if self.share_location else label], scores[label])
                kept.append(torch.stack((torch.full_like(places, label), places)))
        labels, places = torch.cat(kept, 1) if kept else torch.empty(2, 0, dtype=torch.long)
        if -1 < self.keep_top_k < labels.numel():
            best = scores[labels, places].sort(descending=True, stable=True).indices[: self.keep_top_k]
            best = best[labels[best].sort(stable=True).indices]
            labels, places = labels[best], places[best]
        return labels, places

    def suppressed(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """The places that stay of one class, best first; boxes: (P, 4), scores: (P,)."""
        places = torch.arange(scores.numel()) if self.confidence_threshold is None else (scores > self.confidence_threshold).nonzero()[:, 0]
        places = places[scores[places].sort(descending=True, stable=True).indices]
        places = places[: self.top_k] if self.top_k > -1 else places
        boxes, kept = boxes[places], []
        worst = torch.zeros(len(places), dtype=boxes.dtype)  # the largest overlap with a box that stays
        threshold = torch.tensor(self.nms_threshold, dtype=boxes.dtype)
        candidates = torch.ones(len(places), dtype=torch.bool)
        while candidates.any():
            first = int(candidates.to(torch.uint8).argmax())
            kept.append(first)
            worst = torch.maximum(worst, _overlap(boxes[first], boxes))
            if self.eta < 1 and threshold > 0.5:
                threshold = threshold * self.eta
            candidates = worst <= threshold
            candidates[: first + 1] = False
        return places[torch.tensor(kept, dtype=torch.long)]


def _overlap(box: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union; 0 where boxes do not meet, and a box with its corners swapped has no area."""
    sides = torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])
    shared = torch.where((sides > 0).all(1), sides[:, 0] * sides[:, 1], 0)
    union = _area(box[None]) + _area(boxes) - shared
    return torch.where(shared > 0, shared / union, 0)


def _area(boxes: Tensor) -> Tensor:
    sides = boxes[:, 2:] - boxes[:, :2]
    return torch.where((sides < 0).any(1), 0, sides[:, 0] * sides[:, 1])
