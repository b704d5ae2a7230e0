"""YOLO's boxes: YoloDetectionOutput (YOLOv2) of two forks, MobileNet-YOLO and Intel's clCaffe; Yolov3DetectionOutput of one.

They take maps (N, boxes * (5 + C), H, W): for each box of a place x, y, w, h, objectness and C class scores before their
activations. They give (1, 1, n, 7), boxes as fractions of the image, suppressed across classes and from the threshold on (not
above it). n depends on the values: on meta tensors it is 1.

eric612/MobileNet-YOLO: rows of item, label, score, xmin, ymin, xmax, ymax, best first, labels from 1. All images of a batch share
one list, whose item is always 0. Without any there is a row for each image: its index and six times -1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from converter.errors import UnsupportedError
from converter.layers.module import CaffeModule, kept_boxes
from converter.layers.registry import Fields, layer


def _places(x: Tensor, boxes: int) -> Tensor:
    """(N, boxes * k, H, W) -> (N, H, W, boxes, k)."""
    result: Tensor = x.unflatten(1, (boxes, -1)).permute(0, 3, 4, 1, 2)
    return result


def _boxes(x: Tensor, sizes: Tensor) -> Tensor:
    """Centers and sizes as fractions of the image of places (N, H, W, boxes, 4); sizes (boxes, 2) are the anchors' fractions."""
    height, width = x.shape[1:3]
    column, row = torch.arange(width, dtype=x.dtype)[:, None], torch.arange(height, dtype=x.dtype)[:, None, None]
    centers = (column + x[..., 0].sigmoid()) / width, (row + x[..., 1].sigmoid()) / height
    return torch.cat((torch.stack(centers, -1), x[..., 2:4].exp() * sizes), -1)


def _overlap(box: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union of centers and sizes."""
    low = torch.maximum(box[:2] - box[2:] / 2, boxes[:, :2] - boxes[:, 2:] / 2)
    high = torch.minimum(box[:2] + box[2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2)
    sides = high - low
    shared = torch.where((sides < 0).any(1), 0, sides.prod(1))
    return shared / (box[2:].prod() + boxes[:, 2:].prod(1) - shared)


def _detections(labels: Tensor, scores: Tensor, boxes: Tensor, threshold: float, items: int) -> Tensor:
    """The rows of labels (n,), scores (n,) and boxes (n, 4) that stay."""
    if not len(scores):
        return torch.cat((torch.arange(items, dtype=scores.dtype)[:, None], scores.new_full((items, 6), -1)), 1)[None, None]
    order = scores.sort(descending=True, stable=True).indices
    order = order[kept_boxes(boxes[order], lambda box, others: _overlap(box, others) >= threshold)]
    boxes, half = boxes[order, :2], boxes[order, 2:] / 2
    rows = (torch.zeros(len(order), 1, dtype=scores.dtype), labels[order, None] + 1, scores[order, None], boxes - half, boxes + half)
    return torch.cat(rows, 1)[None, None]


def _best_classes(x: Tensor, classes: int, boxes: int, biases: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """The best class, its score and the box of YOLOv2's places: (N, H, W, boxes), (N, H, W, boxes), (N, H, W, boxes, 4)."""
    places = _places(x, boxes)
    sizes = x.new_tensor(biases[: 2 * boxes]).reshape(-1, 2) / x.shape[3]
    best, label = places[..., 5 : 5 + classes].softmax(-1).max(-1)
    return label, places[..., 4].sigmoid() * best, _boxes(places, sizes)


class YoloV2Detections(CaffeModule):
    """YOLOv2's detections of one or two maps, which share their anchors: the best class of each box (MobileNet-YOLO).

    Args:
        num_classes, num_box: C, and boxes a place.
        biases: width and height of each box in places.
        confidence_threshold: least objectness times class probability.
        nms_threshold: overlap from which the lower score is dropped.
    """

    def __init__(
        self, num_classes: int, num_box: int, biases: Sequence[float], confidence_threshold: float = 0.01, nms_threshold: float = 0.45
    ):
        super().__init__()
        self.num_classes, self.num_box, self.biases = num_classes, num_box, tuple(biases)
        self.confidence_threshold, self.nms_threshold = confidence_threshold, nms_threshold

    def forward(self, *maps: Tensor) -> Tensor:
        if maps[0].is_meta:
            return maps[0].new_empty(1, 1, 1, 7)
        found = []
        for x in maps:
            label, score, boxes = _best_classes(x.detach().cpu(), self.num_classes, self.num_box, self.biases)
            kept = score >= self.confidence_threshold
            found.append((label[kept], score[kept], boxes[kept]))
        labels, scores, boxes = (torch.cat(parts) for parts in zip(*found, strict=True))
        return _detections(labels, scores, boxes, self.nms_threshold, len(maps[-1])).to(maps[0].device)


class YoloV2Centers(YoloV2Detections):
    """As YoloV2Detections, in Intel's clCaffe: map (N, boxes * (5 + C), S, S), image -> (1, 1, n, 7).

    Rows are item, label, score, center x, center y, width, height; labels from 0; image by image, best first. With `corners`
    (ssd_format) they are SSD's: labels from 1, xmin, ymin, xmax, ymax. Overlaps are those of boxes cut to the image, the rows'
    boxes are whole. n may be 0. Facts from the layer's last version (5651c58f: yolo_detection_output_layer.cpp); before July
    2017 it compared boxes place by place, not best first.
    """

    def __init__(
        self,
        num_classes: int,
        num_box: int,
        biases: Sequence[float],
        confidence_threshold: float = 0.01,
        nms_threshold: float = 0.45,
        corners: bool = False,
    ):
        super().__init__(num_classes, num_box, biases, confidence_threshold, nms_threshold)
        self.corners = corners

    def forward(self, x: Tensor, image: Tensor) -> Tensor:  # type: ignore[override]
        if x.is_meta:
            return x.new_empty(1, 1, 1, 7)
        label, score, boxes = _best_classes(x.detach().cpu(), self.num_classes, self.num_box, self.biases)
        rows = torch.cat((torch.zeros_like(score)[..., None], label[..., None], score[..., None], boxes), -1)
        found = []
        for item, of_image in enumerate(rows.flatten(1, 3)):
            kept = of_image[of_image[:, 2] >= self.confidence_threshold]
            kept = kept[kept[:, 2].sort(descending=True, stable=True).indices]
            kept = kept[kept_boxes(_inside(kept[:, 3:]), lambda box, others: _corner_overlap(box, others) >= self.nms_threshold)]
            kept[:, 0] = item
            found.append(kept)
        result = torch.cat(found)
        if self.corners:
            center, half = result[:, 3:5], result[:, 5:] / 2
            result = torch.cat((result[:, :1], result[:, 1:2] + 1, result[:, 2:3], center - half, center + half), 1)
        return result[None, None].to(x.device)


def _inside(boxes: Tensor) -> Tensor:
    """Corners of centers and sizes, cut to the image: starts by 0 and ends by 1."""
    half = boxes[:, 2:] / 2
    return torch.cat(((boxes[:, :2] - half).clamp(min=0), (boxes[:, :2] + half).clamp(max=1)), 1)


def _corner_overlap(box: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union of corners; 0 where boxes do not meet (JaccardOverlap of SSD's bbox_util.cpp)."""
    sides = torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])
    shared = sides.prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) + (box[2:] - box[:2]).clamp(min=0).prod()
    return torch.where((sides > 0).all(1), shared / (areas - shared), 0)


_DRAWING = dict.fromkeys(("visualize", "visualize_threshold", "save_file", "label_map_file"), "names or draws detections")


@layer(
    "YoloDetectionOutput",
    "yolo_detection_output_param",
    bottoms=(1, 2),
    ignored={"side": "the layer takes it from its bottom", **_DRAWING},
    origin="MobileNet-YOLO, Intel's clCaffe",
    refuses="maps that are not square, which the forks' code reads askew",
)
def yolo_detection_output(p: Fields, *maps: Tensor) -> nn.Module:
    classes, boxes, biases = p.num_classes, p.num_box, p.biases
    drawn = len(maps) == 2 and maps[1].dim() == 4 and maps[1].shape[1] in (1, 3)  # on an image, which only clCaffe takes
    _check(p, maps[:1] if drawn else maps, classes, boxes, exact=False)
    if p.coords != 4:
        raise ValueError(f"coords is {p.coords}; the layer computes with 4")
    if len(biases) < 2 * boxes:
        raise ValueError(f"{len(biases)} biases for {boxes} boxes; a width and a height each are needed")
    if any(x.shape[2] != x.shape[3] for x in maps[: 1 if drawn else 2]):
        raise UnsupportedError("its maps are not square, and the fork's code reads such maps with the wrong stride")
    if drawn:
        return YoloV2Centers(classes, boxes, biases, p.confidence_threshold, p.nms_threshold, p.ssd_format)
    if p.ssd_format:
        raise ValueError("ssd_format is clCaffe's, whose layer takes a map and the image (N, 3, H, W)")
    return YoloV2Detections(classes, boxes, biases, p.confidence_threshold, p.nms_threshold)


def _check(p: Fields, maps: Sequence[Tensor], classes: int, boxes: int, exact: bool) -> None:
    """What the maps must be; without exact, a box may have more scores than classes, which are not read."""
    if not p.has("num_classes") or min(classes, boxes) < 1:
        raise ValueError("num_classes must be given, and be at least 1, as num_box")
    least = boxes * (5 + classes)
    fit = [x.dim() == 4 and (x.shape[1] == least or (not exact and x.shape[1] > least and x.shape[1] % boxes == 0)) for x in maps]
    if not all(fit) or len({len(x) for x in maps}) > 1:
        raise ValueError(f"{boxes} boxes of {classes} classes take maps (N, {least}, H, W)")


class YoloV3Detections(CaffeModule):
    """YOLOv3's detections of one map a scale: every class of a box whose score is large enough gives a detection.

    Args:
        num_classes, num_box: C, and boxes a place.
        biases: width and height of all anchors in pixels of the net's input.
        anchors_scale: pixels a place, of each map.
        mask: which anchor each box has: the boxes of map i are mask[i * len(mask) // maps + box].
        confidence_threshold: objectness times class score must be greater.
        nms_threshold: overlap from which the lower score is dropped.
    """

    def __init__(
        self,
        num_classes: int,
        num_box: int,
        biases: Sequence[float],
        anchors_scale: Sequence[int],
        mask: Sequence[int],
        confidence_threshold: float = 0.01,
        nms_threshold: float = 0.45,
    ):
        super().__init__()
        self.num_classes, self.num_box, self.biases = num_classes, num_box, tuple(biases)
        self.anchors_scale, self.mask = tuple(anchors_scale), tuple(mask)
        self.confidence_threshold, self.nms_threshold = confidence_threshold, nms_threshold

    def forward(self, *maps: Tensor) -> Tensor:
        if maps[0].is_meta:
            return maps[0].new_empty(1, 1, 1, 7)
        group = len(self.mask) // len(maps)
        found = [self.candidates(x.detach().cpu(), i * group, self.anchors_scale[i]) for i, x in enumerate(maps)]
        labels, scores, boxes = (torch.cat(parts) for parts in zip(*found, strict=True))
        return _detections(labels, scores, boxes, self.nms_threshold, len(maps[-1])).to(maps[0].device)

    def candidates(self, x: Tensor, first: int, scale: int) -> tuple[Tensor, Tensor, Tensor]:
        """Labels (n,), scores (n,) and boxes (n, 4) above the threshold."""
        places, height, width = _places(x, self.num_box), *x.shape[2:]
        anchors = x.new_tensor([self.biases[2 * i : 2 * i + 2] for i in self.mask[first : first + self.num_box]])
        scores = places[..., 5:].sigmoid() * places[..., 4:5].sigmoid()
        kept = scores > self.confidence_threshold
        label = torch.arange(self.num_classes).expand_as(scores)
        boxes = _boxes(places, anchors / x.new_tensor((width * scale, height * scale)))
        return label[kept], scores[kept], boxes[..., None, :].expand(*scores.shape, 4)[kept]


@layer(
    "Yolov3DetectionOutput",
    "yolov3_detection_output_param",
    bottoms=(1, None),
    origin="MobileNet-YOLO",
    refuses="gaussian_box: true, which reads an objectness that is not set",
)
def yolov3_detection_output(p: Fields, *maps: Tensor) -> nn.Module:
    if p.gaussian_box:
        raise UnsupportedError("gaussian_box: true; the fork's code then reads an objectness that it never sets")
    classes, boxes, biases, mask, scales = p.num_classes, p.num_box, p.biases, p.mask, p.anchors_scale
    _check(p, maps, classes, boxes, exact=True)
    if p.mask_group_num != len(maps) or len(scales) < len(maps) or min(scales[: len(maps)]) < 1:
        raise ValueError(f"mask_group_num {p.mask_group_num} and {len(scales)} anchors_scale for {len(maps)} bottoms; one each is needed")
    used = mask[: (len(maps) - 1) * (len(mask) // len(maps)) + boxes]
    if len(used) < (len(maps) - 1) * (len(mask) // len(maps)) + boxes or 2 * max(used) + 1 >= len(biases):
        raise ValueError(f"mask {mask} does not name an anchor of {len(biases) // 2} for each of {boxes} boxes of {len(maps)} bottoms")
    return YoloV3Detections(classes, boxes, biases, scales, mask, p.confidence_threshold, p.nms_threshold)
