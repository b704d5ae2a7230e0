"""Region proposals: anchors moved by a net's regressions, the best of them kept. Each variant's numbers are its fork's own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from converter.errors import UnsupportedError
from converter.layers.clips import window_proposals
from converter.layers.module import CaffeModule, kept_boxes
from converter.layers.registry import Fields, Layer, layer
from converter.read.param_str import Value, parse_param_str


def _rows(x: Tensor, values: int) -> Tensor:
    """(1, A * values, H, W) -> (H * W * A, values): the candidates place by place."""
    return x[0].permute(1, 2, 0).reshape(-1, values)


def _placed(anchors: Tensor, size: Sequence[int], stride: float) -> Tensor:
    """The anchors (A, 4) at each place of a feature map: (H * W * A, 4)."""
    height, width = size
    x, y = torch.arange(width) * stride, torch.arange(height) * stride
    corner = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), 2).to(anchors.dtype)
    return (torch.cat((corner, corner), 2)[:, :, None] + anchors).reshape(-1, 4)


def _moved(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Boxes (n, 4) of deltas (dx, dy, log dw, log dh) against them; a side is x2 - x1 + 1, the result's x1 + width is its x2."""
    size = boxes[:, 2:] - boxes[:, :2] + 1
    center = deltas[:, :2] * size + (boxes[:, :2] + 0.5 * size)
    half = 0.5 * (torch.exp(deltas[:, 2:]) * size)
    return torch.cat((center - half, center + half), 1)


def _clipped(boxes: Tensor, image: Tensor) -> Tensor:
    """Boxes cut to an image of (height, width)."""
    last = image.flip(0) - 1
    return torch.minimum(boxes, torch.cat((last, last))).clamp(min=0)


def _overlap(box: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union with sides of x2 - x1 + 1."""
    shared = (torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2]) + 1).clamp(min=0).prod(1)
    area, areas = (box[2:] - box[:2] + 1).prod(), (boxes[:, 2:] - boxes[:, :2] + 1).prod(1)
    return shared / (area + areas - shared)


def _touch(box: Tensor, boxes: Tensor) -> Tensor:
    return ((box[:2] <= boxes[:, 2:]) & (boxes[:, :2] <= box[2:])).all(1)


class ProposalLayer(CaffeModule):
    """Faster R-CNN's proposals: scores (1, 2 A, H, W), deltas (1, 4 A, H, W), im_info (1, 3 or more) -> rois (R, 5).

    im_info is height, width and scale of the image. A region is 0, x1, y1, x2, y2, best first; with `scores` their scores
    (R, 1) are a second top. R depends on the values: on meta tensors it is 1. Equal scores keep the order of the places
    (row, column, anchor). Facts from py-faster-rcnn's lib/rpn/proposal_layer.py, which takes the numbers that a prototxt
    does not hold from its configuration: the defaults are those of cfg.TEST. SSH's layer keeps all of the best pre_nms_topn.

    Args:
        feat_stride: pixels of the image a place.
        scales, ratios, base_size: A = ratios * scales anchors, of area (base_size * scale)^2 and these height / width.
        pre_nms_topn: candidates that are compared; post_nms_topn: regions that stay. 0: all.
        nms_thresh: overlap above which the lower score is dropped; None: none is.
        min_size: the least side, in pixels of the image before it was scaled.
        scores: whether there is a second top.
        fallback: the region that stands where none is left, if any.
    """

    def __init__(
        self,
        feat_stride: float,
        scales: Sequence[float] = (8, 16, 32),
        ratios: Sequence[float] = (0.5, 1, 2),
        base_size: int = 16,
        pre_nms_topn: int = 6000,
        post_nms_topn: int = 300,
        nms_thresh: float | None = 0.7,
        min_size: float = 16,
        scores: bool = False,
        fallback: Sequence[float] | None = None,
    ):
        super().__init__()
        self.feat_stride, self.scales, self.ratios, self.base_size = feat_stride, tuple(scales), tuple(ratios), base_size
        self.pre_nms_topn, self.post_nms_topn, self.nms_thresh, self.min_size = pre_nms_topn, post_nms_topn, nms_thresh, min_size
        self.scores, self.fallback = scores, None if fallback is None else tuple(fallback)

    def anchors(self) -> list[tuple[float, ...]]:
        """The anchors of the first place, ratio by ratio; halves are rounded to even, as numpy does (generate_anchors.py)."""
        middle, found = (self.base_size - 1) / 2, list[tuple[float, ...]]()
        for ratio in self.ratios:
            width = round(math.sqrt(self.base_size**2 / ratio))
            for scale in self.scales:
                x, y = (width * scale - 1) / 2, (round(width * ratio) * scale - 1) / 2
                found.append((middle - x, middle - y, middle + x, middle + y))
        return found

    def forward(self, score: Tensor, delta: Tensor, im_info: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        a = len(self.ratios) * len(self.scales)
        if score.shape[:2] != (1, 2 * a) or delta.shape[:2] != (1, 4 * a) or score.shape[2:] != delta.shape[2:]:
            raise ValueError(f"with {a} anchors it takes scores (1, {2 * a}, H, W) and deltas (1, {4 * a}, H, W), of one image")
        if score.is_meta:
            return (score.new_empty(1, 5), score.new_empty(1, 1)) if self.scores else score.new_empty(1, 5)
        rois, scores = self.proposed(score.detach().cpu(), delta.detach().cpu(), im_info.detach().cpu().flatten(1)[0])
        return (rois.to(score.device), scores.to(score.device)) if self.scores else rois.to(score.device)

    def proposed(self, score: Tensor, delta: Tensor, im_info: Tensor) -> tuple[Tensor, Tensor]:
        scores = _rows(score[:, score.shape[1] // 2 :], 1)[:, 0]
        anchors = torch.tensor(self.anchors(), dtype=torch.float64)
        boxes = _moved(_placed(anchors, score.shape[2:], self.feat_stride).to(delta.dtype), _rows(delta, 4))
        boxes = _clipped(boxes, im_info[:2])
        large = (boxes[:, 2:] - boxes[:, :2] + 1 >= self.min_size * im_info[2]).all(1)
        boxes, scores = boxes[large], scores[large]
        order = scores.sort(descending=True, stable=True).indices[: self.pre_nms_topn or None]
        boxes, scores = boxes[order], scores[order]
        threshold = self.nms_thresh
        if threshold is not None:
            kept = kept_boxes(boxes, lambda box, others: _overlap(box, others) > threshold, self.post_nms_topn)
            boxes, scores = boxes[kept], scores[kept]
        rois = torch.cat((boxes.new_zeros(len(boxes), 1), boxes), 1)
        if not len(rois) and self.fallback is not None:
            rois = rois.new_tensor((0, *self.fallback))[None]
        return rois, scores[:, None]


def _numbers(params: dict[str, Value], name: str, default: tuple[float, ...]) -> tuple[float, ...]:
    """A list of positive numbers."""
    held = params.get(name, default)
    held = held if isinstance(held, tuple) else (held,)
    found = [float(value) for value in held if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf]
    if len(found) != len(held) or not found:
        raise ValueError(f"{name} {held} in param_str are not positive numbers")
    return tuple(int(value) if value.is_integer() else value for value in found)


def _params(p: Fields, im_info: Tensor, *known: str) -> dict[str, Value]:
    """What param_str says; the keys that this class does not read are refused, as another class of the name may read them."""
    if p.tops > 2 or im_info.dim() < 1 or im_info.flatten(1).shape[1] < 3:
        raise ValueError("it takes im_info (1, 3): height, width, scale; and makes rois, and their scores where there is a second top")
    params = parse_param_str(p.param_str)
    unknown = sorted(set(params) - set(known))
    if unknown:
        raise UnsupportedError(
            f"{p.module}.{p.layer} does not read {', '.join(unknown)} of param_str {p.param_str!r}: this is another class of its name."
            " Delete them if they change nothing"
        )
    if "feat_stride" not in params:
        raise ValueError(f"param_str {p.param_str!r} has no feat_stride")
    return params


@layer(
    "Python:rpn.proposal_layer.ProposalLayer",
    bottoms=(2, 3),
    origin="py-faster-rcnn, py-R-FCN, PVANet, R-C3D",
    refuses="batches of several images; a param_str with keys of other classes of the name",
)
def faster_rcnn_proposals(p: Fields, score: Tensor, delta: Tensor, *im_info: Tensor) -> nn.Module | Layer:
    if not im_info and score.dim() != 5:
        raise ValueError("it has 2 bottoms; the third is im_info, but for R-C3D's proposals in clips, whose bottoms have five axes")
    if not im_info:  # R-C3D's, of windows in time
        given = parse_param_str(p.param_str)
        _ = p.module, p.layer
        scales = _numbers(given, "scales", tuple(range(1, 64)))
        return window_proposals(p, dict(given), scales, _numbers(given, "feat_stride", ())[0])
    # py-faster-rcnn ignores num_classes, allowed_border and, always 0.5, 1 and 2 itself, ratios, which PVANet's reads
    params = _params(p, im_info[0], "feat_stride", "scales", "ratios", "num_classes", "allowed_border")
    training = p.phase == "TRAIN"
    return ProposalLayer(
        _numbers(params, "feat_stride", ())[0],
        _numbers(params, "scales", (8, 16, 32)),
        _numbers(params, "ratios", (0.5, 1, 2)),
        pre_nms_topn=12000 if training else 6000,
        post_nms_topn=2000 if training else 300,
        scores=p.tops > 1,
    )


@layer(
    "Python:SSH.layers.proposal_layer.ProposalLayer",
    bottoms=(3, 3),
    origin="SSH",
    refuses="the TRAIN phase, whose numbers are not in the prototxt; batches of several images",
)
def ssh_proposals(p: Fields, score: Tensor, delta: Tensor, im_info: Tensor) -> nn.Module:
    params = _params(p, im_info, "feat_stride", "scales", "ratios", "base_size")
    if p.phase == "TRAIN":
        raise UnsupportedError("how many proposals SSH keeps in phase TRAIN is not in the prototxt; convert phase TEST")
    size = _numbers(params, "base_size", (16,))[0]
    return ProposalLayer(
        _numbers(params, "feat_stride", ())[0],
        _numbers(params, "scales", (8, 16, 32)),
        _numbers(params, "ratios", (0.5, 1, 2)),
        int(size),
        pre_nms_topn=1000,
        post_nms_topn=0,
        nms_thresh=None,
        min_size=0,
        scores=p.tops > 1,
        fallback=(0, 0, 16, 16),
    )


class Proposal(CaffeModule):
    """PVANet's proposals in C++: scores (1, 2 A, H, W), deltas (1, 4 A, H, W), im_info (1, 4 or more) -> rois (R, 5), scores (R,).

    As ProposalLayer, but: im_info is height, width and the scales of both (its first four numbers); anchors are rounded half
    up, in float32; a box with a side under min_size stays as a candidate of score 0; boxes that do not touch do not overlap.
    Facts from proposal_layer.cpp and nms.cpp of sanghoon/caffe, branch dev_pvanet.
    """

    def __init__(
        self,
        ratios: Sequence[float],
        scales: Sequence[float],
        feat_stride: float = 16,
        base_size: int = 16,
        min_size: int = 16,
        pre_nms_topn: int = 6000,
        post_nms_topn: int = 300,
        nms_thresh: float = 0.7,
        scores: bool = False,
    ):
        super().__init__()
        self.ratios, self.scales, self.feat_stride, self.base_size = tuple(ratios), tuple(scales), feat_stride, base_size
        self.min_size, self.pre_nms_topn, self.post_nms_topn = min_size, pre_nms_topn, post_nms_topn
        self.nms_thresh, self.scores = nms_thresh, scores

    def anchors(self) -> Tensor:
        """(A, 4), ratio by ratio: of the first place."""
        ratios, scales = torch.tensor(self.ratios, device="cpu"), torch.tensor(self.scales, device="cpu")
        width = ((float(self.base_size**2) / ratios).sqrt() + 0.5).floor()
        size = torch.stack((width, (width * ratios + 0.5).floor()), 1)
        half = 0.5 * (size[:, None] * scales[:, None] - 1).reshape(-1, 2)
        middle = 0.5 * (self.base_size - 1)
        return torch.cat((middle - half, middle + half), 1)

    def forward(self, score: Tensor, delta: Tensor, im_info: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        a = len(self.ratios) * len(self.scales)
        if score.shape[:2] != (1, 2 * a) or delta.shape[:2] != (1, 4 * a) or score.shape[2:] != delta.shape[2:]:
            raise ValueError(f"with {a} anchors it takes scores (1, {2 * a}, H, W) and deltas (1, {4 * a}, H, W), of one image")
        if score.is_meta:
            return (score.new_empty(1, 5), score.new_empty(1)) if self.scores else score.new_empty(1, 5)
        rois, scores = self.proposed(score.detach().cpu(), delta.detach().cpu(), im_info.detach().cpu().flatten())
        return (rois.to(score.device), scores.to(score.device)) if self.scores else rois.to(score.device)

    def proposed(self, score: Tensor, delta: Tensor, im_info: Tensor) -> tuple[Tensor, Tensor]:
        boxes = _moved(_placed(self.anchors().to(delta.dtype), score.shape[2:], self.feat_stride), _rows(delta, 4))
        boxes = _clipped(boxes, im_info[:2])
        large = (boxes[:, 2:] - boxes[:, :2] + 1 >= self.min_size * im_info[2:4].flip(0)).all(1)
        scores = _rows(score[:, score.shape[1] // 2 :], 1)[:, 0] * large
        order = scores.sort(descending=True, stable=True).indices[: self.pre_nms_topn]
        boxes, scores = boxes[order], scores[order]
        kept = kept_boxes(boxes, lambda box, others: (_overlap(box, others) > self.nms_thresh) & _touch(box, others), self.post_nms_topn)
        return torch.cat((boxes.new_zeros(len(kept), 1), boxes[kept]), 1), scores[kept]


@layer(
    "Proposal",
    "proposal_param",
    bottoms=(3, 3),
    origin="PVANet",
    refuses="batches of several images; an im_info of three numbers, where PVANet's code reads four",
)
def proposal(p: Fields, score: Tensor, delta: Tensor, im_info: Tensor) -> nn.Module:
    if im_info.numel() < 4 or p.tops > 2:
        raise ValueError("PVANet's Proposal takes four numbers in im_info (height, width and the scale of each), and makes rois and scores")
    ratios, scales = p.ratio, p.scale
    if not ratios or not scales or min(ratios + scales) <= 0:
        raise ValueError(f"ratio {ratios} and scale {scales} must be given, positive")
    if min(p.feat_stride, p.base_size, p.pre_nms_topn, p.post_nms_topn) < 1:
        raise ValueError("feat_stride, base_size, pre_nms_topn and post_nms_topn must be at least 1")
    limits = p.pre_nms_topn, p.post_nms_topn, p.nms_thresh
    return Proposal(ratios, scales, p.feat_stride, p.base_size, p.min_size, *limits, scores=p.tops > 1)


class TextProposals(CaffeModule):
    """CTPN's proposals: scores and deltas, (1, 20, H, W) each, im_info (1, 2 or more) -> boxes (10 H W, 4), scores (10 H W, 1).

    Ten anchors a place, 16 pixels wide; a delta moves one by dy of its height and makes it exp(dh) times as high. All of them
    are kept: x1, y1, x2, y2, cut to the image, in the order of the places (row, column, anchor). Facts from tianzhi0549/CTPN's
    layers/text_proposal_layer.py and anchor.py, run by Python 2, whose division rounds down.
    """

    heights = (11, 16, 23, 33, 48, 68, 97, 139, 198, 283)

    def __init__(self, feat_stride: float):
        super().__init__()
        self.feat_stride = feat_stride

    def forward(self, score: Tensor, delta: Tensor, im_info: Tensor) -> tuple[Tensor, Tensor]:
        if score.shape[:2] != (1, 20) or score.shape != delta.shape or score.dim() != 4 or im_info.flatten(1).shape[1] < 2:
            raise ValueError("it takes scores and deltas (1, 20, H, W) of one image, and im_info (1, 3)")
        count = 10 * score.shape[2] * score.shape[3]
        if score.is_meta:
            return score.new_empty(count, 4), score.new_empty(count, 1)
        ends = [(int(7.5 - h // 2), int(7.5 + h // 2)) for h in self.heights]  # int() rounds towards 0, as numpy's int32 does
        anchors = torch.tensor([(0, low, 15, high) for low, high in ends], dtype=torch.float64)
        left, top, right, bottom = _placed(anchors, score.shape[2:], self.feat_stride).to(score.device).unbind(1)
        move, grow = _rows(delta, 2).double().unbind(1)
        high = bottom - top + 1
        height = (grow.exp() * high).to(delta.dtype)
        first = (move * high + (top + bottom) / 2 - height / 2).to(delta.dtype)
        boxes = torch.stack((left.to(delta.dtype), first, right.to(delta.dtype), first + height), 1)
        return _clipped(boxes, im_info.flatten(1)[0, :2].to(boxes)), _rows(score[:, 10:], 1)


@layer("Python:layers.text_proposal_layer.ProposalLayer", bottoms=(3, 3), origin="CTPN", refuses="batches of several images")
def text_proposals(p: Fields, score: Tensor, delta: Tensor, im_info: Tensor) -> nn.Module:
    params = _params(p, im_info, "feat_stride")
    if p.tops != 2:
        raise ValueError(f"it makes boxes and scores, two tops, not {p.tops}")
    return TextProposals(_numbers(params, "feat_stride", ())[0])


class SimplerNMS(ProposalLayer):
    """clCaffe's proposals (be3e2ac5's simpler_nms_layer.cpp): as Faster R-CNN's, but sides and the image's size are cut to whole pixels.

    Scores must be positive; of equal ones the later place goes first.
    """

    def __init__(
        self, scales: Sequence[float], pre_nms_topn: int = 6000, post_nms_topn: int = 300, nms_thresh: float = 0.7, min_size: int = 16
    ):
        super().__init__(16, scales, (0.5, 1, 2), 16, pre_nms_topn, post_nms_topn, nms_thresh, min_size)

    def proposed(self, score: Tensor, delta: Tensor, im_info: Tensor) -> tuple[Tensor, Tensor]:
        scores, image = _rows(score[:, score.shape[1] // 2 :], 1)[:, 0], im_info.trunc()
        anchors = torch.tensor(self.anchors(), dtype=delta.dtype)
        boxes = _clipped(_moved(_placed(anchors, score.shape[2:], self.feat_stride), _rows(delta, 4)), image[:2])
        large = ((boxes[:, 2:] - boxes[:, :2] + 1).trunc() >= self.min_size * image[2]).all(1)
        boxes, scores = boxes[large].flip(0), scores[large].flip(0)
        order = scores.sort(descending=True, stable=True).indices[: self.pre_nms_topn]
        boxes, scores = boxes[order], scores[order]
        boxes, scores = boxes[scores > 0], scores[scores > 0]
        threshold = self.nms_thresh
        assert threshold is not None
        kept = kept_boxes(boxes, lambda box, others: _overlap(box, others) > threshold, self.post_nms_topn)
        return torch.cat((boxes.new_zeros(len(kept), 1), boxes[kept]), 1), scores[kept][:, None]


@layer(
    "SimplerNMS",
    "simpler_nms_param",
    bottoms=(3, 3),
    ignored={"cls_threshold": "the layer does not read it"},
    origin="Intel's clCaffe",
    refuses="a feat_stride other than 16, as simpler_nms_layer.cpp does; batches of several images",
)
def simpler_nms(p: Fields, score: Tensor, delta: Tensor, im_info: Tensor) -> nn.Module:
    if p.feat_stride != 16 or not p.scale or min(p.scale) <= 0 or p.tops != 1:
        raise ValueError(f"it takes a feat_stride of 16 (here {p.feat_stride}), a positive scale and one top")
    if not 0 < p.post_nms_topn <= p.max_num_proposals or p.pre_nms_topn < 1:
        raise ValueError(f"post_nms_topn {p.post_nms_topn} is none of 1 to max_num_proposals {p.max_num_proposals}, or pre_nms_topn is 0")
    if im_info.dim() < 1 or im_info.flatten(1).shape[1] < 3:
        raise ValueError("it takes im_info (1, 3): height, width, scale")
    return SimplerNMS(p.scale, p.pre_nms_topn, p.post_nms_topn, p.iou_threshold, p.min_bbox_size)
