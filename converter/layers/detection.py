"""SSD's boxes: priors, and what becomes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from converter.layers.module import CaffeModule
from converter.layers.registry import Fields, layer

_FILES = dict.fromkeys(("save_output_param", "save_file", "visualize_threshold"), "writes or draws detections; the top is the same")


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


@layer("PriorBox", "prior_box_param", bottoms=(2, 2))
def prior_box(p: Fields, feature: Tensor, image: Tensor) -> nn.Module:
    smallest, largest = p.min_size, p.max_size
    if not smallest or min(smallest) < 1 or feature.dim() != 4 or image.dim() != 4:
        raise ValueError("PriorBox takes a min_size of at least 1 and bottoms (N, C, H, W)")
    if largest and (len(largest) != len(smallest) or any(b <= a for a, b in zip(smallest, largest, strict=True))):
        raise ValueError(f"max_size {largest} has not one larger value for each min_size {smallest}")
    if len(p.variance) not in (0, 1, 4) or min(p.variance, default=1) <= 0:
        raise ValueError(f"variance {p.variance} is neither one nor four positive values")
    ratios = _ratios(p.aspect_ratio, p.flip)
    # prior_box_layer.cpp keeps the sizes as whole numbers
    sizes = [int(size) for size in smallest], [int(size) for size in largest]
    return PriorBox(*sizes, ratios, p.variance or (0.1,), p.clip, _pair(p, "step"), _pair(p, "img", "img_size"), p.offset)


def _ratios(given: tuple[float, ...], flip: bool) -> list[float]:
    """The aspect ratios but 1: each once, its inverse behind it with flip."""
    found = [1.0]
    for ratio in given:
        if not 0 < ratio < math.inf:
            raise ValueError(f"the aspect_ratio {ratio} is not positive")
        if all(abs(ratio - other) >= 1e-6 for other in found):
            found += [ratio, 1 / ratio] if flip else [ratio]
    return [ratio for ratio in found if abs(ratio - 1) >= 1e-6]


def _pair(p: Fields, name: str, single: str | None = None) -> Any:
    """(height, width) of step_h and step_w, or step for both."""
    single = single or name
    both = [p.has(f"{name}_h"), p.has(f"{name}_w")]
    if any(both) and (not all(both) or p.has(single)):
        raise ValueError(f"{single}, or {name}_h and {name}_w together: not both, and not one alone")
    if not any(both) and not p.has(single):
        return None
    pair = (getattr(p, f"{name}_h"), getattr(p, f"{name}_w")) if any(both) else (getattr(p, single),) * 2
    if min(pair) <= 0:
        raise ValueError(f"{single} must be positive")
    return pair


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


@layer("DetectionOutput", "detection_output_param", bottoms=(3, 4), ignored=_FILES)
def detection_output(p: Fields, *bottoms: Tensor) -> nn.Module:
    nms = p.nms_param
    if nms.soft_nms:
        raise ValueError("soft_nms is a fork's own suppression, which we do not compute")
    drawn = p.visualize
    if len(bottoms) == 4 and not drawn:
        raise ValueError("its fourth bottom is the image to draw on (visualize: true); another fork reads scores from it, which we do not")
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
    )
