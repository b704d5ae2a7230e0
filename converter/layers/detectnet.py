"""DetectNet's boxes: NVIDIA Caffe's Python layer that groups what its grid says into rectangles."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from converter.layers.module import CaffeModule
from converter.layers.registry import Fields, layer

_MOST = 50  # boxes of a class of an image: MAX_BOXES


def _alike(one: Tensor, others: Tensor, eps: float) -> Tensor:
    """OpenCV's SimilarRects of a rectangle (4,) and others (n, 4): (n,) bool. Their third and fourth numbers are width and height."""
    delta = eps * torch.minimum(one[2:], others[:, 2:]).sum(1).double() / 2
    ends = others[:, :2] + others[:, 2:] - one[:2] - one[2:]
    return torch.cat((others[:, :2] - one[:2], ends), 1).abs().amax(1) <= delta


def _holds(outer: list[int], inner: list[int], eps: float) -> bool:
    dx, dy = round(outer[2] * eps), round(outer[3] * eps)
    starts = inner[0] >= outer[0] - dx and inner[1] >= outer[1] - dy
    ends = inner[0] + inner[2] <= outer[0] + outer[2] + dx and inner[1] + inner[3] <= outer[1] + outer[3] + dy
    return starts and ends


def _grouped(rectangles: Tensor, least: int, eps: float) -> list[tuple[list[int], int]]:
    """OpenCV's groupRectangles (cascadedetect.cpp) of (n, 4) whole numbers: the mean of each group of more than `least`, and its size.

    A group is what is alike, and what is alike to one of it. A group inside another one is dropped where the other has more
    than 3 members and more than it, or where it has less than 3.
    """
    if least <= 0:
        return [(rectangle, 1) for rectangle in rectangles.tolist()]
    free = torch.ones(len(rectangles), dtype=torch.bool)
    large = []
    while bool(free.any()):
        waiting, members = [int(free.nonzero()[0])], list[int]()
        free[waiting[0]] = False
        while waiting:
            members.append(waiting.pop())
            found = (_alike(rectangles[members[-1]], rectangles, eps) & free).nonzero()[:, 0]
            free[found] = False
            waiting += found.tolist()
        if len(members) > least:
            part = torch.tensor(1.0) / len(members)  # float32, as OpenCV has it
            large.append(((rectangles[members].sum(0).float() * part).round().long().tolist(), len(members)))
    return [
        (one, size)
        for i, (one, size) in enumerate(large)
        if not any(i != j and _holds(other, one, eps) and (more > max(3, size) or size < 3) for j, (other, more) in enumerate(large))
    ]


class ClusterDetections(CaffeModule):
    """Coverage (N, C, H, W) and corners (N, 4, H, W), against their places in pixels -> a (N, 50, 5) for each class.

    A row is x1, y1, x2, y2 and the logarithm of how many boxes it is the mean of; the rest is zeros. Values are rounded to
    half precision. caffe/layers/detectnet/clustering.py of NVIDIA/caffe, whose call of OpenCV's groupRectangles takes corners
    for corner, width and height.

    Args:
        image_size: (width, height) in pixels; stride: pixels a place, of which both are multiples.
        coverage_threshold: the least coverage of a place whose box counts.
        rectangle_threshold: a group must have more boxes; rectangle_eps: how far alike boxes may be apart, of their sides.
        min_height: the least y2 - y1.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        stride: int,
        coverage_threshold: float,
        rectangle_threshold: int,
        rectangle_eps: float,
        min_height: int,
        num_classes: int = 1,
    ):
        super().__init__()
        self.image_size, self.stride, self.coverage_threshold = image_size, stride, coverage_threshold
        self.rectangle_threshold, self.rectangle_eps, self.min_height = rectangle_threshold, rectangle_eps, min_height
        self.num_classes = num_classes

    def forward(self, coverage: Tensor, corners: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = coverage.new_zeros(self.num_classes, len(coverage), _MOST, 5)
        if not coverage.is_meta:
            places, boxes = coverage.detach().cpu(), corners.detach().cpu().double()
            for label in range(self.num_classes):
                for item in range(len(coverage)):
                    rows = self.rows(places[item, label], boxes[item])
                    if len(rows) > _MOST:
                        raise ValueError(f"{len(rows)} boxes of a class in an image; ClusterDetections, as in Caffe, has room for {_MOST}")
                    found[label, item, : len(rows)] = torch.tensor(rows, dtype=torch.float16).reshape(-1, 5).to(found)
        return found[0] if self.num_classes == 1 else tuple(found)

    def rows(self, coverage: Tensor, corners: Tensor) -> list[list[float]]:
        width, height = (side // self.stride for side in self.image_size)
        y, x = torch.nonzero(coverage[:height][:width] >= self.coverage_threshold, as_tuple=True)  # its code cuts rows twice
        boxes = corners[:, y, x] + torch.stack((x, y, x, y)) * self.stride
        if not bool(boxes.any()):
            return []
        grouped = _grouped(boxes.round().int().long().T, self.rectangle_threshold, self.rectangle_eps)
        return [[*box, math.log(size)] for box, size in grouped if box[3] - box[1] >= self.min_height]


@layer(
    "Python:caffe.layers.detectnet.clustering.ClusterDetections",
    bottoms=(2, 2),
    origin="NVIDIA (DetectNet)",
    refuses="an image size that is no multiple of the stride",
)
def cluster_detections(p: Fields, coverage: Tensor, corners: Tensor) -> nn.Module:
    _ = p.module, p.layer
    numbers = p.param_str.split(",")
    if not 7 <= len(numbers) <= 8:
        raise ValueError(f"param_str {p.param_str!r} has not 7 or 8 numbers: width, height, stride, three thresholds, height, classes")
    width, height, stride, threshold, least_height = (int(numbers[i]) for i in (0, 1, 2, 4, 6))
    classes = int(numbers[7]) if len(numbers) > 7 else 1
    if stride < 1 or min(width, height) < stride or width % stride or height % stride:
        raise ValueError(f"an image of {width}x{height} pixels is no grid of {stride} pixels a place")
    if coverage.dim() != 4 or coverage.shape[1] != classes or corners.shape != (len(coverage), 4, *coverage.shape[2:]):
        raise ValueError(f"it takes coverage (N, {classes}, H, W) and corners (N, 4, H, W)")
    if p.tops != classes:
        raise ValueError(f"it has a top for each of {classes} classes, here {p.tops}")
    return ClusterDetections((width, height), stride, float(numbers[3]), threshold, float(numbers[5]), least_height, classes)
