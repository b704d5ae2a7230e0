"""SSD's detections, and Faster R-CNN's of the same kind."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from converter.layers.module import CaffeModule, kept_boxes
from converter.layers.registry import Fields, layer

_FILES = dict.fromkeys(("save_output_param", "save_file", "visualize_threshold"), "writes or draws detections; the top is the same")


def _area(boxes: Tensor) -> Tensor:
    sides = boxes[:, 2:] - boxes[:, :2]
    return torch.where((sides < 0).any(1), 0, sides[:, 0] * sides[:, 1])


def _overlap(box: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union; 0 where boxes do not meet, and a box with its corners swapped has no area."""
    sides = torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])
    shared = torch.where((sides > 0).all(1), sides[:, 0] * sides[:, 1], 0)
    union = _area(box[None]) + _area(boxes) - shared
    return torch.where(shared > 0, shared / union, 0)


class DetectionOutput(CaffeModule):
    """SSD's detections: locations (N, P * 4 [* classes]), scores (N, P * classes), priors (1, 2, P * 4) -> (1, 1, n, 7).

    A row is item, label, score, xmin, ymin, xmax, ymax; rows go by item, label, falling score. Where nothing is found at all,
    there is one row for each item: item and six times -1. n depends on the values: on meta tensors it is 1, as Caffe's
    Reshape has it. Facts from detection_output_layer.cpp and bbox_util.cpp of weiliu89/caffe and, for objectness_score, of
    sfzhang15/RefineDet: it takes the first stage's scores (N, P * 2) and, if there are any, its locations (N, P * 4) as well.
    These move the priors first.

    Args:
        code_type: "CORNER", "CENTER_SIZE" or "CORNER_SIZE": how locations shift the priors.
        variance_encoded_in_target: locations are not multiplied by the priors' variances.
        confidence_threshold: scores must be greater. None: all scores.
        nms_threshold, eta: overlap above which a lower score is dropped; after each box that stays, the threshold is
            multiplied by eta as long as it is above 0.5.
        top_k: boxes of a class that are looked at; keep_top_k: boxes of an item that stay. -1: all.
        clip: boxes are cut to the image, 0..1, before they are compared (OpenCV's importer knows this field, Caffe does not).
        objectness_score: RefineDet's: all classes of a prior score 0 whose first-stage score is less. None: no first stage.
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
        objectness_score: float | None = None,
    ):
        super().__init__()
        self.num_classes, self.share_location, self.background_label_id = num_classes, share_location, background_label_id
        self.code_type, self.variance_encoded_in_target = code_type, variance_encoded_in_target
        self.confidence_threshold, self.nms_threshold, self.eta = confidence_threshold, nms_threshold, eta
        self.top_k, self.keep_top_k, self.clip, self.objectness_score = top_k, keep_top_k, clip, objectness_score

    def forward(self, location: Tensor, confidence: Tensor, prior: Tensor, *first_stage: Tensor) -> Tensor:
        n, priors, locations = location.shape[0], prior.shape[2] // 4, 1 if self.share_location else self.num_classes
        if location[0].numel() != priors * locations * 4 or confidence[0].numel() != priors * self.num_classes:
            raise ValueError(
                f"{location[0].numel()} locations and {confidence[0].numel()} scores an item do not fit"
                f" {priors} priors, {self.num_classes} classes and share_location {self.share_location}"
            )
        if location.is_meta:
            return location.new_empty(1, 1, 1, 7)
        places, variance = prior.reshape(2, priors, 1, 4)
        scores = confidence.reshape(n, priors, self.num_classes).transpose(1, 2)
        if self.objectness_score is not None:
            objectness, *moves = first_stage
            scores = torch.where(objectness.reshape(n, 1, priors, 2)[..., 1] < self.objectness_score, 0, scores)
            places = self.decoded(moves[0].reshape(n, priors, 1, 4), places, variance) if moves else places
        boxes = self.decoded(location.reshape(n, priors, locations, 4), places, variance).transpose(1, 2)
        boxes = boxes.clamp(0, 1) if self.clip else boxes
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


@layer(
    "DetectionOutput",
    "detection_output_param",
    bottoms=(3, 5),
    ignored=_FILES,
    origin="SSD, RefineDet, OpenCV",
    refuses="soft_nms; a fourth bottom with neither visualize nor objectness_score",
)
def detection_output(p: Fields, *bottoms: Tensor) -> nn.Module:
    nms = p.nms_param
    if nms.soft_nms:
        raise ValueError("soft_nms is a fork's own suppression, which we do not compute")
    refined = _first_stage(p, *bottoms)
    if p.num_classes < 1 or not 0 <= nms.nms_threshold < math.inf or not 0 < nms.eta <= 1:
        raise ValueError(f"num_classes {p.num_classes}, nms_threshold {nms.nms_threshold} or eta {nms.eta} is out of range")
    return DetectionOutput(
        p.num_classes,
        p.share_location,
        p.background_label_id,
        p.code_type,
        p.variance_encoded_in_target,
        p.confidence_threshold if p.has("confidence_threshold") else None,
        nms.nms_threshold,
        nms.eta,
        nms.top_k if nms.HasField("top_k") else -1,
        p.keep_top_k,
        p.clip,
        p.objectness_score if refined else None,
    )


def _first_stage(p: Fields, location: Tensor, confidence: Tensor, prior: Tensor, *more: Tensor) -> bool:
    """Whether the bottoms behind the third are RefineDet's; with visualize, SSD's fourth one is the image to draw on."""
    given, drawn = p.has("objectness_score"), p.visualize
    if not more or (drawn and len(more) == 1 and not given):
        return False
    if len(more) == 1 and not given:
        raise ValueError("its fourth bottom is the image to draw on (visualize: true), or the first stage's scores (objectness_score)")
    if p.background_label_id != 0 or not p.share_location:
        raise ValueError("with RefineDet's first stage, it takes share_location: true and background_label_id: 0")
    n, priors = len(location), prior.shape[2] // 4
    if any(x.numel() != n * priors * size for x, size in zip(more, (2, 4), strict=False)):
        raise ValueError(f"the first stage's bottoms are not scores (N, {priors * 2}) and locations (N, {priors * 4})")
    return True


class FasterRcnnDetections(CaffeModule):
    """Faster R-CNN's detections: moves (R, 4 C), scores (R, C), rois (R, 5), im_info (1, 3) -> (1, 1, n, 7).

    A row is 0, label, score, xmin, ymin, xmax, ymax in pixels of the image before it was scaled; rows go by label, falling
    score. Boxes are cut to the image before they are compared, by plain overlaps as SSD's. Without any there is one row: 0 and
    six times -1. n depends on the values: on meta tensors it is 1. Intel's clCaffe (be3e2ac5): faster_rcnn_detection_output_layer.cpp.

    Args:
        confidence_threshold: scores must be greater. None: all scores.
        nms_threshold: overlap above which the lower score is dropped.
    """

    def __init__(
        self, num_classes: int, background_label_id: int = 0, confidence_threshold: float | None = None, nms_threshold: float = 0.3
    ):
        super().__init__()
        self.num_classes, self.background_label_id = num_classes, background_label_id
        self.confidence_threshold, self.nms_threshold = confidence_threshold, nms_threshold

    def forward(self, moves: Tensor, scores: Tensor, rois: Tensor, im_info: Tensor) -> Tensor:
        if moves.is_meta:
            return moves.new_empty(1, 1, 1, 7)
        scores, rois = scores.detach().cpu().reshape(len(scores), -1), rois.detach().cpu().reshape(len(rois), -1)
        size, center, shift = rois[:, 3:] - rois[:, 1:3] + 1, rois[:, 1:3], moves.detach().cpu().reshape(len(moves), -1, 4)
        center = shift[..., :2] * size[:, None] + (center + size / 2)[:, None]
        half = shift[..., 2:].exp() * size[:, None] / 2
        height, width, scale = im_info.detach().cpu().flatten()[:3]
        last = torch.stack((width, height)) - 1
        boxes = torch.minimum(torch.cat((center - half, center + half), -1), torch.cat((last, last))).clamp(min=0)
        found = [self.of_class(label, scores[:, label], boxes[:, label]) for label in range(self.num_classes)]
        rows = torch.cat([rows for label, rows in enumerate(found) if label != self.background_label_id])
        if not len(rows):
            return moves.new_tensor([0, *[-1] * 6])[None, None, None]
        return torch.cat((rows[:, :3], rows[:, 3:] / (scale if abs(scale) >= 1e-5 else 1)), 1)[None, None].to(moves.device)

    def of_class(self, label: int, scores: Tensor, boxes: Tensor) -> Tensor:
        order = scores.sort(descending=True, stable=True).indices
        if self.confidence_threshold is not None:
            order = order[scores[order] > self.confidence_threshold]
        order = order[kept_boxes(boxes[order], lambda box, others: _overlap(box, others) > self.nms_threshold)]
        head = torch.stack((torch.zeros_like(scores[order]), torch.full_like(scores[order], label), scores[order]), 1)
        return torch.cat((head, boxes[order]), 1)


@layer("FasterRcnnDetectionOutput", "faster_rcnn_detection_output_param", bottoms=(4, 4), origin="Intel's clCaffe")
def faster_rcnn_detection_output(p: Fields, moves: Tensor, scores: Tensor, rois: Tensor, im_info: Tensor) -> nn.Module:
    classes, nms = p.num_classes, p.nms_param
    if classes < 1 or moves.shape[1:].numel() != 4 * classes or scores.shape[1:].numel() != classes or rois.shape[1:].numel() != 5:
        raise ValueError(f"with num_classes {classes} it takes moves (R, {4 * classes}), scores (R, {classes}) and rois (R, 5)")
    more = [known.name for known, _ in nms.ListFields() if known.name not in ("nms_threshold", "top_k", "eta")]  # the last two: not read
    if more or nms.nms_threshold < 0 or im_info.numel() < 3:
        raise ValueError(f"it takes an nms_threshold of at least 0, none of {more or 'its own fields'} and im_info (1, 3)")
    return FasterRcnnDetections(
        classes, p.background_label_id, p.confidence_threshold if p.has("confidence_threshold") else None, nms.nms_threshold
    )
