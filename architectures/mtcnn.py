"""MTCNN: three small nets in a cascade find the faces of an image and five landmarks on each.

Zhang, Zhang, Li, Qiao: Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks, IEEE Signal
Processing Letters 2016. Layers and names are those of kpzhang93/MTCNN_face_detection_alignment, code/codes/MTCNNv1/model/
det1.prototxt to det3.prototxt; the cascade follows detect_face.m beside them, its sizes and its pixels counted from 1.

The authors' weights see images transposed: MATLAB stores columns first, so Caffe's H is the image's width. Here the weights
are turned instead of the images: kernels exchange H and W, and so do the inputs of the first dense layer. What the nets
say (x before y) stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from architectures._blocks import max_pool


def upright(caffe_state: Mapping[str, Tensor], flattened: Mapping[str, tuple[int, int, int]]) -> dict[str, Tensor]:
    """Weights made for transposed images, turned for upright ones: kernels (O, I, W, H) become (O, I, H, W).

    `flattened` gives, for each dense layer's weight that reads a feature map, that map's shape (C, H, W).
    """
    turned = dict(caffe_state)
    for key, weight in caffe_state.items():
        if weight.dim() == 4:
            turned[key] = weight.transpose(2, 3).contiguous()
        elif key in flattened and weight.shape[1] == math.prod(flattened[key]):
            c, h, w = flattened[key]
            turned[key] = weight.unflatten(1, (c, w, h)).transpose(2, 3).flatten(1)
    return turned


class PNet(nn.Module):
    """Proposals, for every 12×12 window at stride 2: (N, 3, H, W) -> (face probability (N, 2, h, w), box (N, 4, h, w)).

    All three nets take RGB, (x - 127.5) / 128, any size from 12 here. Probabilities are (background, face); a box is the
    displacement of x1, y1, x2, y2 in units of the window's width and height. Caffe's blobs are prob1 and conv4-2.
    """

    FROM_CAFFE: ClassVar[dict[str, str | None]] = {
        "conv1": "conv1", "PReLU1": "prelu1",
        "conv2": "conv2", "PReLU2": "prelu2",
        "conv3": "conv3", "PReLU3": "prelu3",
        "conv4-1": "conv4_1", "conv4-2": "conv4_2",
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 10, 3)
        self.prelu1 = nn.PReLU(10)
        self.pool1 = max_pool(2)
        self.conv2 = nn.Conv2d(10, 16, 3)
        self.prelu2 = nn.PReLU(16)
        self.conv3 = nn.Conv2d(16, 32, 3)
        self.prelu3 = nn.PReLU(32)
        self.conv4_1 = nn.Conv2d(32, 2, 1)
        self.conv4_2 = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return self.conv4_1(x).softmax(1), self.conv4_2(x)

    @staticmethod
    def adjust_caffe_state(caffe_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return upright(caffe_state, {})


class RNet(nn.Module):
    """Refinement of proposals: crops (N, 3, 24, 24) -> (face probability (N, 2), box (N, 4)), as PNet's.

    Caffe's blobs are prob1 and conv5-2; its layers conv4 and conv5-* are inner products.
    """

    FROM_CAFFE: ClassVar[dict[str, str | None]] = {
        "conv1": "conv1", "prelu1": "prelu1",
        "conv2": "conv2", "prelu2": "prelu2",
        "conv3": "conv3", "prelu3": "prelu3",
        "conv4": "fc4", "prelu4": "prelu4",
        "conv5-1": "fc5_1", "conv5-2": "fc5_2",
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 28, 3)
        self.prelu1 = nn.PReLU(28)
        self.pool1 = max_pool(3)
        self.conv2 = nn.Conv2d(28, 48, 3)
        self.prelu2 = nn.PReLU(48)
        self.pool2 = max_pool(3)
        self.conv3 = nn.Conv2d(48, 64, 2)
        self.prelu3 = nn.PReLU(64)
        self.fc4 = nn.Linear(64 * 3 * 3, 128)
        self.prelu4 = nn.PReLU(128)
        self.fc5_1 = nn.Linear(128, 2)
        self.fc5_2 = nn.Linear(128, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.prelu3(self.conv3(x))
        x = self.prelu4(self.fc4(x.flatten(1)))
        return self.fc5_1(x).softmax(1), self.fc5_2(x)

    @staticmethod
    def adjust_caffe_state(caffe_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return upright(caffe_state, {"conv4.weight": (64, 3, 3)})


class ONet(nn.Module):
    """The last look: crops (N, 3, 48, 48) -> (face probability (N, 2), box (N, 4), landmarks (N, 10)).

    Landmarks are x of left eye, right eye, nose, left and right corner of the mouth (left as the image shows it), then
    their y, in units of the crop. Caffe's blobs are prob1, conv6-2 and conv6-3; its layers conv5 and conv6-* are inner
    products.
    """

    FROM_CAFFE: ClassVar[dict[str, str | None]] = {
        "conv1": "conv1", "prelu1": "prelu1",
        "conv2": "conv2", "prelu2": "prelu2",
        "conv3": "conv3", "prelu3": "prelu3",
        "conv4": "conv4", "prelu4": "prelu4",
        "conv5": "fc5", "prelu5": "prelu5",
        "conv6-1": "fc6_1", "conv6-2": "fc6_2", "conv6-3": "fc6_3",
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3)
        self.prelu1 = nn.PReLU(32)
        self.pool1 = max_pool(3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.prelu2 = nn.PReLU(64)
        self.pool2 = max_pool(3)
        self.conv3 = nn.Conv2d(64, 64, 3)
        self.prelu3 = nn.PReLU(64)
        self.pool3 = max_pool(2)
        self.conv4 = nn.Conv2d(64, 128, 2)
        self.prelu4 = nn.PReLU(128)
        self.fc5 = nn.Linear(128 * 3 * 3, 256)
        self.drop5 = nn.Dropout(0.25)
        self.prelu5 = nn.PReLU(256)
        self.fc6_1 = nn.Linear(256, 2)
        self.fc6_2 = nn.Linear(256, 4)
        self.fc6_3 = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.pool3(self.prelu3(self.conv3(x)))
        x = self.prelu4(self.conv4(x))
        x = self.prelu5(self.drop5(self.fc5(x.flatten(1))))
        return self.fc6_1(x).softmax(1), self.fc6_2(x), self.fc6_3(x)

    @staticmethod
    def adjust_caffe_state(caffe_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return upright(caffe_state, {"conv5.weight": (128, 3, 3)})


class Detections(NamedTuple):
    """The F faces of one image, best first; float32, in pixels of that image."""

    boxes: Tensor  # (F, 4): x1, y1, x2, y2, the first and last pixel that belong to the face, counted from 1
    scores: Tensor  # (F,): probability of a face
    landmarks: Tensor  # (F, 5, 2): x, y from 0 of left eye, right eye, nose, left and right mouth corner (as seen)


class MTCNN(nn.Module):
    """The detector: one image (3, H, W), RGB, 0 to 255 (uint8 or float) -> Detections.

    Scaling and normalisation are its own business. `min_size` is the smallest face in pixels; `thresholds` are the
    probabilities that the three nets must find, `factor` the step of the image pyramid: the values of the authors' demo.m.
    Boxes are in the coordinates of the authors' code, which ports have kept; they may reach beyond the image. The
    authors' later averaging of landmarks with those of the mirrored crop isn't done.
    Runs without gradients. Raises ValueError for other shapes.
    """

    CAFFE_NETS: ClassVar[dict[str, str]] = {"pnet": "det1", "rnet": "det2", "onet": "det3"}  # the authors' file names

    def __init__(self, min_size: float = 20, thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7), factor: float = 0.709) -> None:
        super().__init__()
        if min_size < 1 or not 0 < factor < 1:
            raise ValueError(f"min_size is at least 1 and factor between 0 and 1; these are {min_size} and {factor}")
        self.min_size = min_size
        self.thresholds = thresholds
        self.factor = factor
        self.pnet = PNet()
        self.rnet = RNet()
        self.onet = ONet()

    @torch.no_grad()
    def forward(self, image: Tensor) -> Detections:
        if image.dim() != 3 or image.shape[0] != 3:
            raise ValueError(f"an image has the shape (3, H, W), this has {tuple(image.shape)}")
        image = image.to(next(self.parameters()))
        boxes = self._propose(image)
        boxes = self._refine(image, boxes)
        return self._finish(image, boxes)

    def _propose(self, image: Tensor) -> Tensor:
        """Boxes (B, 4) of the image pyramid's windows that PNet takes for faces: moved, squared, whole numbers."""
        found = []
        for scale in self._scales(*image.shape[1:]):
            size = math.ceil(image.shape[1] * scale), math.ceil(image.shape[2] * scale)
            probability, shift = self.pnet(normalize(resample(image, size))[None])
            score, shift = probability[0, 1].float(), shift[0].float()
            y, x = (score >= self.thresholds[0]).nonzero(as_tuple=True)
            corner = torch.stack([x, y], 1)
            # A window is 12 pixels wide and the next one starts 2 pixels further.
            boxes = torch.cat([(2 * corner + 1) / scale, (2 * corner + 12) / scale], 1).floor()
            rows = torch.cat([boxes, score[y, x, None], shift[:, y, x].T], 1)
            found.append(rows[suppress(boxes, score[y, x], 0.5)])
        if not found:
            return image.new_zeros(0, 4, dtype=torch.float32)
        rows = torch.cat(found)
        rows = rows[suppress(rows[:, :4], rows[:, 4], 0.7)]
        boxes, shift = rows[:, :4], rows[:, 5:]
        # Here, unlike in the next stages, the authors' width is x2 - x1.
        extent = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        return square(boxes + shift * extent).trunc()

    def _refine(self, image: Tensor, boxes: Tensor) -> Tensor:
        """The boxes that RNet takes for faces too: moved, squared, whole numbers."""
        boxes, crops = crop(image, boxes, 24)
        probability, shift = in_batches(self.rnet, crops, ((2,), (4,)))
        score = probability[:, 1]
        keep = score > self.thresholds[1]
        boxes, score, shift = boxes[keep], score[keep], shift[keep]
        keep = suppress(boxes, score, 0.7)
        return square(move(boxes[keep], shift[keep])).trunc()

    def _finish(self, image: Tensor, boxes: Tensor) -> Detections:
        boxes, crops = crop(image, boxes, 48)
        probability, shift, points = in_batches(self.onet, crops, ((2,), (4,), (10,)))
        score = probability[:, 1]
        keep = score > self.thresholds[2]
        boxes, score, shift, points = boxes[keep], score[keep], shift[keep], points[keep]
        extent = boxes[:, 2:] - boxes[:, :2] + 1
        landmarks = points.unflatten(1, (2, 5)).mT * extent[:, None] + boxes[:, None, :2] - 1
        boxes = move(boxes, shift)
        keep = suppress_contained(boxes, score, 0.7)
        return Detections(boxes[keep], score[keep], landmarks[keep])

    def _scales(self, height: int, width: int) -> Iterator[float]:
        scale = 12 / self.min_size
        while min(height, width) * scale >= 12:
            yield scale
            scale *= self.factor


def normalize(pixels: Tensor) -> Tensor:
    return (pixels - 127.5) / 128


def in_batches(net: nn.Module, crops: Tensor, shapes: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    """The net's outputs for normalised crops, in float32; `shapes` are those of one crop's, for when there is none."""
    outputs = [net(normalize(part)) for part in crops.split(512)] if len(crops) else []
    empty = [crops.new_zeros(0, *shape) for shape in shapes]
    return [torch.cat([e, *parts]).float() for e, *parts in zip(empty, *outputs, strict=True)]


def square(boxes: Tensor) -> Tensor:
    """Boxes (B, 4) as squares of the longer side about the same centre (rerec.m)."""
    extent = boxes[:, 2:] - boxes[:, :2]
    side = extent.amax(1, keepdim=True)
    corner = boxes[:, :2] + extent * 0.5 - side * 0.5
    return torch.cat([corner, corner + side], 1)


def move(boxes: Tensor, shift: Tensor) -> Tensor:
    """Boxes (B, 4) displaced by (B, 4) in units of their width and height, both ends counted (bbreg.m)."""
    return boxes + shift * (boxes[:, 2:] - boxes[:, :2] + 1).repeat(1, 2)


def suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes that no better box overlaps by more than the threshold (intersection over union; nms.m)."""
    result: Tensor = nms(_edges(boxes), scores, threshold)
    return result


def suppress_contained(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The same, with the intersection over the smaller box ("Min" in nms.m): a box inside of another goes too."""
    boxes, order, keep = _edges(boxes), scores.argsort(descending=True), []
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    while len(order):
        best, order = order[0], order[1:]
        keep.append(best)
        low = torch.maximum(boxes[best, :2], boxes[order, :2])
        high = torch.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        order = order[shared <= threshold * torch.minimum(area[best], area[order])]
    return torch.stack(keep) if keep else order


def _edges(boxes: Tensor) -> Tensor:
    """First and last pixel -> the edges around them, so that a width is x2 - x1 + 1."""
    return boxes + boxes.new_tensor([0, 0, 1, 1])


def crop(image: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Boxes (B, 4) of whole numbers cut out and scaled: (those that have any extent, crops (B', 3, size, size)).

    What lies beyond the image is black (pad.m).
    """
    boxes = boxes[(boxes[:, 2:] >= boxes[:, :2]).all(1)]
    crops = [image.new_zeros(0, 3, size, size)]
    for left, top, right, bottom in boxes.long().tolist():
        canvas = image.new_zeros(3, bottom - top + 1, right - left + 1)
        inside = image[:, max(top - 1, 0) : max(bottom, 0), max(left - 1, 0) : max(right, 0)]
        y, x = max(1 - top, 0), max(1 - left, 0)
        canvas[:, y : y + inside.shape[1], x : x + inside.shape[2]] = inside
        crops.append(resample(canvas, (size, size))[None])
    return boxes, torch.cat(crops)


def resample(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The image (C, H, W) at another size, as Piotr Dollár's imResample, which the authors use, does it.

    Along each axis: to fewer pixels by the mean of the area that a pixel covers, to more by linear interpolation.
    """
    rows = _resampling(image.shape[1], size[0]).to(image)
    columns = _resampling(image.shape[2], size[1]).to(image)
    return rows @ image @ columns.T


def _resampling(inputs: int, outputs: int) -> Tensor:
    """What each input pixel gives to each output pixel: (outputs, inputs), rows of sum 1."""
    step = inputs / outputs
    source = torch.arange(inputs, dtype=torch.float64)
    start = torch.arange(outputs, dtype=torch.float64)[:, None] * step
    if outputs < inputs:
        return (torch.minimum(start + step, source + 1) - torch.maximum(start, source)).clamp(min=0) / step
    centre = (start + step / 2 - 0.5).clamp(0, inputs - 1)
    return (1 - (centre - source).abs()).clamp(min=0)
