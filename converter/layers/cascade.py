"""cascade-rcnn's boxes (zhaoweicai/cascade-rcnn): proposals of several maps, regressions, and the choice of detections.

A box is x1, y1, x2, y2 in pixels, its sides count the last pixel: x2 - x1 + 1. Facts from its src/caffe/layers and
util/bbox_util.cpp. How many rows a top has depends on the values: on meta tensors it is 1, as in Caffe's Reshape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from converter.layers.module import CaffeModule, kept_boxes
from converter.layers.registry import Fields, layer

NO_MEAN, NO_STD = (0.0,) * 4, (1.0,) * 4


def _areas(boxes: Tensor) -> Tensor:
    """Areas of boxes (..., 4); 0 where an end lies before its start."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.where((sides < 0).any(-1), 0, (sides + 1).prod(-1))


def _overlap(box: Tensor, boxes: Tensor, nms_type: str) -> Tensor:
    """The shared area over the union's, over the smaller box's ("IOMU") or over the first box's ("IOFU"): bbox_util.cpp."""
    sides = torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])
    area, areas = _areas(box), _areas(boxes)
    meet = (sides[:, 0] >= 0) & (sides[:, 1] > 0) & (area > 0) & (areas > 0)  # a shared row of one pixel counts for nothing there
    shared = torch.where(meet, (sides + 1).prod(1), 0)
    if nms_type == "IOFU":
        whole = area.expand_as(areas)
    else:
        whole = torch.minimum(area, areas) if nms_type == "IOMU" else area + areas - shared
    return torch.where(whole > 0, shared / whole, 0)


def _clipped(boxes: Tensor, width: Tensor | float, height: Tensor | float) -> Tensor:
    """Boxes (n, 4) within 0 and, one pixel beyond the last, width and height; only starts have the first limit, only ends the second."""
    last = boxes.new_tensor((float(width), float(height)))
    return torch.cat((boxes[:, :2].clamp(min=0), torch.minimum(boxes[:, 2:], last)), 1)


def _decoded(deltas: Tensor, priors: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Boxes of deltas (n, ..., 4) against priors (n, 4)."""
    priors = priors.reshape(len(priors), *(1,) * (deltas.dim() - 2), 4)
    deltas = deltas * deltas.new_tensor(std) + deltas.new_tensor(mean)
    size = priors[..., 2:] - priors[..., :2] + 1
    center = deltas[..., :2] * size + 0.5 * (priors[..., 2:] + priors[..., :2])
    size = size * torch.exp(deltas[..., 2:])
    first = center - (size - 1) / 2
    return torch.cat((first, first + size - 1), -1)


def _normalization(p: Fields) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """bbox_reg_param's mean and std, which Caffe uses where both are there."""
    reg = p.other("bbox_reg_param")
    mean, std, _ = reg.bbox_mean, reg.bbox_std, reg.cls_aware
    if not mean or not std:
        return NO_MEAN, NO_STD
    if len(mean) != 4 or len(std) != 4 or min(std) <= 0:
        raise ValueError(f"bbox_mean {mean} and bbox_std {std} are not four numbers each, bbox_std positive")
    return mean, std


class BoxGroupOutput(CaffeModule):
    """Proposals from pairs of scores (N * G, classes, H, W) and deltas (N * G, 4, H, W) -> rois (R, 5, 1, 1), with scores (R, 6, 1, 1).

    Row i * G + k of a pair is image i in field k. A region is item, x1, y1, x2, y2 (, score), item by item, best first. Where
    there is none in the whole batch, one stands in: 0, 1, 1, 10, 10, in the second top zeros.

    Args:
        strides, field_widths, field_heights: of each pair: pixels a place, and the G boxes (the fields) of a place.
        fg_thr: least score, which is 1 - that of class 0.
        iou_thr, nms_type: overlap above which the lower score is dropped; see _overlap.
        field_whr, field_xyr: deltas are kept within a size of 1 / whr to whr, and a shift of 1 / xyr of the field.
        max_nms_num, max_post_nms_num: boxes of an image before and after; 0: all.
        min_size: least side.
        mean, std: of the deltas.
        scores: whether there is the second top.
    """

    def __init__(
        self,
        strides: Sequence[float],
        field_widths: Sequence[Sequence[float]],
        field_heights: Sequence[Sequence[float]],
        fg_thr: float = 0.0,
        iou_thr: float = 0.5,
        nms_type: str = "IOU",
        field_whr: float = 2.0,
        field_xyr: float = 2.0,
        max_nms_num: int = 0,
        max_post_nms_num: int = 0,
        min_size: float = 15.0,
        mean: Sequence[float] = NO_MEAN,
        std: Sequence[float] = NO_STD,
        scores: bool = False,
    ):
        super().__init__()
        self.strides, self.mean, self.std, self.scores = tuple(strides), tuple(mean), tuple(std), scores
        self.field_widths, self.field_heights = (tuple(map(tuple, sizes)) for sizes in (field_widths, field_heights))
        self.fg_thr, self.iou_thr, self.nms_type = fg_thr, iou_thr, nms_type
        self.field_whr, self.field_xyr, self.min_size = field_whr, field_xyr, min_size
        self.max_nms_num, self.max_post_nms_num = max_nms_num, max_post_nms_num

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        first = bottoms[0]
        if first.is_meta:
            found = first.new_empty(1, 6, 1, 1)
        else:
            pairs = [self.candidates(i, *(x.detach().cpu() for x in bottoms[2 * i : 2 * i + 2])) for i in range(len(self.strides))]
            rows = [self.proposed(n, torch.cat([pair[n] for pair in pairs])) for n in range(len(pairs[0]))]
            found = torch.cat(rows).to(first.device)[:, :, None, None]
        if not len(found):
            rois = first.new_tensor((0, 1, 1, 10, 10)).reshape(1, 5, 1, 1)
            return (rois, first.new_zeros(1, 6, 1, 1)) if self.scores else rois
        return (found[:, :5], found) if self.scores else found[:, :5]

    def candidates(self, i: int, prob: Tensor, delta: Tensor) -> list[Tensor]:
        """Of pair i: boxes and scores (m, 5) of each image."""
        stride, fields, (height, width) = self.strides[i], len(self.field_widths[i]), prob.shape[2:]
        delta = delta * delta.new_tensor(self.std).reshape(4, 1, 1) + delta.new_tensor(self.mean).reshape(4, 1, 1)
        shift, ratio = delta[:, :2].clamp(-1 / self.field_xyr, 1 / self.field_xyr), math.log(self.field_whr)
        size = delta.new_tensor((self.field_widths[i], self.field_heights[i])).T.repeat(len(prob) // fields, 1)[:, :, None, None]
        x, y = ((torch.arange(n, dtype=delta.dtype) + 0.5) * stride for n in (width, height))
        center = shift * size + torch.stack((x.expand(height, width), y[:, None].expand(height, width)))
        size = size * torch.exp(delta[:, 2:].clamp(-ratio, ratio))
        corner = center - size / 2
        rows = torch.cat((corner, corner + size - 1, 1 - prob[:, :1]), 1).reshape(-1, fields, 5, height * width)
        return [self.kept(image.transpose(1, 2).reshape(-1, 5), width * stride, height * stride) for image in rows]

    def kept(self, rows: Tensor, width: float, height: float) -> Tensor:
        """Of boxes and scores (m, 5) those with the least score and the least size, cut to the image."""
        rows = rows[rows[:, 4] >= self.fg_thr]
        rows = torch.cat((_clipped(rows[:, :4], width, height), rows[:, 4:]), 1)
        return rows[(rows[:, 2:4] - rows[:, :2] + 1 >= self.min_size).all(1)]

    def proposed(self, item: int, rows: Tensor) -> Tensor:
        """(m, 5) -> (r, 6): the item, boxes and scores that stay of one image."""
        rows = rows[rows[:, 4].sort(descending=True, stable=True).indices[: self.max_nms_num or None]]
        boxes = rows[:, :4]
        kept = kept_boxes(boxes, lambda box, others: _overlap(box, others, self.nms_type) > self.iou_thr, self.max_post_nms_num)
        rows = rows[kept]
        return torch.cat((torch.full_like(rows[:, :1], item), rows), 1)


@layer("BoxGroupOutput", "box_group_output_param", bottoms=(2, None), origin="cascade-rcnn")
def box_group_output(p: Fields, *bottoms: Tensor) -> nn.Module:
    groups = p.box_group_param
    probs, deltas = bottoms[::2], bottoms[1::2]
    if len(bottoms) != 2 * len(groups) or p.tops > 2:
        raise ValueError(f"{len(bottoms)} bottoms for {len(groups)} box_group_param: each takes scores and deltas")
    for group, prob, delta in zip(groups, probs, deltas, strict=True):
        fields = len(group.field_w)
        if not fields or fields != len(group.field_h) or group.stride <= 0 or min(*group.field_w, *group.field_h) <= 0:
            raise ValueError("a box_group_param takes a stride and as many field_w as field_h, all positive")
        if prob.dim() != 4 or delta.shape != (prob.shape[0], 4, *prob.shape[2:]) or prob.shape[0] % fields:
            raise ValueError(f"with {fields} fields, a pair takes scores (N * {fields}, classes, H, W) and deltas (N * {fields}, 4, H, W)")
    if len({(prob.shape[0] // len(group.field_w), prob.shape[1]) for group, prob in zip(groups, probs, strict=True)}) > 1:
        raise ValueError("the pairs are of different numbers of images, or of classes")
    if p.field_whr <= 0 or p.field_xyr <= 0:
        raise ValueError(f"field_whr {p.field_whr} and field_xyr {p.field_xyr} must be positive")
    mean, std = _normalization(p)
    return BoxGroupOutput(
        [group.stride for group in groups],
        [group.field_w for group in groups],
        [group.field_h for group in groups],
        p.fg_thr,
        p.iou_thr,
        p.nms_type,
        p.field_whr,
        p.field_xyr,
        p.max_nms_num,
        p.max_post_nms_num,
        p.min_size,
        mean,
        std,
        scores=p.tops > 1,
    )


class DecodeBBox(CaffeModule):
    """Priors (R, 5) of item, box, moved by the last four of deltas (R, 8): boxes (R, 5, 1, 1) of item, box.

    Args:
        mean, std: of the deltas.
        in_training: boxes whose end lies before their start are left out, and with a third bottom, whose last column is
            each box's overlap with an annotated one, those with gt_iou_thr of it or more.
    """

    def __init__(self, mean: Sequence[float] = NO_MEAN, std: Sequence[float] = NO_STD, in_training: bool = False, gt_iou_thr: float = 0.95):
        super().__init__()
        self.mean, self.std, self.in_training, self.gt_iou_thr = tuple(mean), tuple(std), in_training, gt_iou_thr

    def forward(self, delta: Tensor, prior: Tensor, matched: Tensor | None = None) -> Tensor:
        prior = prior.flatten(1)
        boxes = torch.cat((prior[:, :1], _decoded(delta.flatten(1)[:, 4:], prior[:, 1:], self.mean, self.std)), 1)
        if self.in_training and not delta.is_meta:
            valid = (boxes[:, 1:3] <= boxes[:, 3:]).all(1)
            if matched is not None:
                valid &= matched.flatten(1)[:, -1] < self.gt_iou_thr
            if not valid.any():
                raise ValueError("DecodeBBox leaves no box; Caffe stops there, too")
            boxes = boxes[valid]
        return boxes[:, :, None, None]


@layer(
    "DecodeBBox",
    "decode_bbox_param",
    bottoms=(2, 3),
    origin="cascade-rcnn",
    refuses="a third bottom (annotated boxes) in phase TEST",
)
def decode_bbox(p: Fields, delta: Tensor, prior: Tensor, *matched: Tensor) -> nn.Module:
    training = p.phase == "TRAIN"
    if delta.flatten(1).shape[1] != 8 or prior.flatten(1).shape[1] != 5 or len({len(x) for x in (delta, prior, *matched)}) > 1:
        raise ValueError("DecodeBBox takes deltas (R, 8) and priors (R, 5) of item, x1, y1, x2, y2")
    if matched and not training:
        raise ValueError("a third bottom, annotated boxes, belongs to phase TRAIN")
    return DecodeBBox(*_normalization(p), training, p.gt_iou_thr)


class FrcnnOutput(CaffeModule):
    """Detections of one image: scores (R, C), deltas (R, 4 C or 8), rois (R, 5 or 6), size (1, 2) -> (1 + D, 7, 1, 1).

    size is height, width. The first row is 0 and six times -1; then item 0, x1, y1, x2, y2, class, score, class by class (but
    class 0), best first.

    Args:
        conf_thr: least score.
        iou_thr, nms_type: overlap above which the lower score of a class is dropped; see _overlap.
        max_det_num: of all classes, so many of the best stay; 0: all.
        mean, std: of the deltas.
        cls_aware: each class has its own deltas; else columns 4 to 7 are those of all.
    """

    def __init__(
        self,
        conf_thr: float = 0.0,
        iou_thr: float = 0.5,
        nms_type: str = "IOU",
        max_det_num: int = 0,
        mean: Sequence[float] = NO_MEAN,
        std: Sequence[float] = NO_STD,
        cls_aware: bool = True,
    ):
        super().__init__()
        self.conf_thr, self.iou_thr, self.nms_type, self.max_det_num = conf_thr, iou_thr, nms_type, max_det_num
        self.mean, self.std, self.cls_aware = tuple(mean), tuple(std), cls_aware

    def forward(self, prob: Tensor, delta: Tensor, rois: Tensor, size: Tensor) -> Tensor:
        if prob.is_meta:
            return prob.new_empty(1, 7, 1, 1)
        found = self.detected(*(x.detach().cpu().flatten(1) for x in (prob, delta, rois, size)))
        return found.to(prob.device)[:, :, None, None]

    def detected(self, prob: Tensor, delta: Tensor, rois: Tensor, size: Tensor) -> Tensor:
        if rois[:, 0].any() or (rois[:, 1:3] > rois[:, 3:5]).any():
            raise ValueError("FrcnnOutput takes the regions of one image, item 0, with x1 <= x2 and y1 <= y2; Caffe stops there, too")
        boxes = _decoded(delta.unflatten(1, (-1, 4)), rois[:, 1:5], self.mean, self.std)
        rows = [prob.new_empty(0, 7)]
        for label in range(1, prob.shape[1]):
            order = prob[:, label].sort(descending=True, stable=True).indices
            order = order[prob[order, label] >= self.conf_thr]
            of_class = _clipped(boxes[order, label if self.cls_aware else 1], size[0, 1], size[0, 0])
            kept = kept_boxes(of_class, lambda box, others: _overlap(box, others, self.nms_type) > self.iou_thr)
            item, score = torch.zeros(len(kept), 1, dtype=prob.dtype), prob[order[kept], label, None]
            rows.append(torch.cat((item, of_class[kept], torch.full_like(item, label), score), 1))
        found = torch.cat(rows)
        if 0 < self.max_det_num < len(found):
            best = found[:, 6].sort(descending=True, stable=True).indices[: self.max_det_num]
            found = found[best][found[best, 5].sort(stable=True).indices]
        return torch.cat((found.new_tensor((0, *[-1] * 6))[None], found))


@layer(
    "FrcnnOutput",
    "frcnn_output_param",
    bottoms=(4, 4),
    ignored={"save_output_param": "writes detections to files; the top is the same"},
    origin="cascade-rcnn",
)
def frcnn_output(p: Fields, prob: Tensor, delta: Tensor, rois: Tensor, size: Tensor) -> nn.Module:
    aware = p.other("bbox_reg_param").cls_aware
    count, classes = prob.flatten(1).shape
    if delta.flatten(1).shape != (count, 4 * classes if aware else 8) or classes < 1:
        raise ValueError(f"deltas of {classes} classes are (R, {4 * classes}), with cls_aware: false (R, 8)")
    if rois.flatten(1).shape[1] not in (5, 6) or len(rois) != count or size.flatten(1).shape != (1, 2):
        raise ValueError("it takes rois (R, 5) or (R, 6), and the image's size (1, 2)")
    return FrcnnOutput(p.conf_thr, p.iou_thr, p.nms_type, p.max_det_num, *_normalization(p), aware)


class ScaleRoute(CaffeModule):
    """The regions whose scale, the root of their area, lies in low_scale <= scale < high_scale, and what belongs to them.

    rois (R, 5) and any blobs of R items -> the same, of k items and with four axes. Where no region is of such a scale, the one
    that is nearest to the middle of the two stays: to their geometric mean, to the one that is given, to 256 where none is.
    """

    def __init__(self, low_scale: float | None = None, high_scale: float | None = None):
        super().__init__()
        self.low_scale, self.high_scale = low_scale, high_scale

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        xs = [x.reshape(*x.shape, *(1,) * (4 - x.dim())) for x in bottoms]
        places = torch.arange(1, device=bottoms[0].device) if bottoms[0].is_meta else self.places(bottoms[0].flatten(1)[:, 1:])
        tops = tuple(x.new_empty(1, *x.shape[1:]) if x.is_meta else x[places] for x in xs)
        return tops if len(tops) > 1 else tops[0]

    def places(self, boxes: Tensor) -> Tensor:
        scales = _areas(boxes).sqrt()
        low, high = self.low_scale, self.high_scale
        within = torch.ones_like(scales, dtype=torch.bool) if low is None else scales >= low
        if high is not None:
            within &= scales < high
        if within.any():
            return within.nonzero()[:, 0]
        middle = math.sqrt(low * high) if low is not None and high is not None else low or high or 256.0
        apart = (scales / middle).log2().abs()
        if not torch.isfinite(apart).any():
            raise ValueError("ScaleRoute has no region with an area; Caffe stops there, too")
        return apart.nan_to_num(math.inf).argmin()[None]


@layer("ScaleRoute", "scale_route_param", bottoms=(1, None), origin="cascade-rcnn")
def scale_route(p: Fields, rois: Tensor, *others: Tensor) -> nn.Module:
    low, high = (getattr(p, name) if p.has(name) else None for name in ("low_scale", "high_scale"))
    if (low is not None and low <= 0) or (high is not None and not (low or 0) <= high < math.inf) or high == 0:
        raise ValueError(f"low_scale {low} and high_scale {high} are not positive, the first one smaller")
    if p.tops != 1 + len(others) or rois.flatten(1).shape[1] != 5:
        raise ValueError(f"it takes rois (R, 5) first, and makes one top for each bottom, not {p.tops} for {1 + len(others)}")
    if any(not 1 <= x.dim() <= 4 or len(x) != len(rois) for x in (rois, *others)):
        raise ValueError("every bottom takes as many items as there are rois, and four axes at most")
    return ScaleRoute(low, high)
