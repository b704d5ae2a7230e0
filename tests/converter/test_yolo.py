"""YOLO's detections beyond their golden cases: against a computation box by box, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from one_layer import close, draw, net_of
from torch import Tensor

from converter import ConversionError


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def iou(a: Any, b: Any) -> float:
    """Of label, score, and a box by its corners."""
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (2, 3)]
    areas = [(box[4] - box[2]) * (box[5] - box[3]) for box in (a, b)]
    shared = sides[0] * sides[1] if min(sides) >= 0 else 0
    return float(shared / (sum(areas) - shared))


def kept(found: list[Any], threshold: float) -> Tensor:
    rows: list[Any] = []
    for box in sorted(found, key=lambda one: -one[1]):
        if all(iou(box, other) < threshold for other in rows):
            rows.append(box)
    return torch.tensor([[0, *box] for box in rows])


def box_of(values: Any, column: int, row: int, sizes: tuple[float, float], shape: Any) -> list[float]:
    x, y = (column + sigmoid(values[0])) / shape[3], (row + sigmoid(values[1])) / shape[2]
    width, height = math.exp(values[2]) * sizes[0], math.exp(values[3]) * sizes[1]
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


V3 = 'type: "Yolov3DetectionOutput" yolov3_detection_output_param {'
V2 = 'type: "YoloDetectionOutput" yolo_detection_output_param {'
ANCHORS = "biases: 10 biases: 20 biases: 30 biases: 15 biases: 60 biases: 50"
SIZES = ((10, 20), (30, 15), (60, 50))


def test_every_class_of_every_image_above_the_threshold_is_in_one_list(tmp_path: Path) -> None:
    """The boxes of the second map begin at mask[len(mask) / 2], whatever num_box is."""
    maps = [draw(2, 14, 2, 3, seed=1), draw(2, 14, 4, 6, seed=2)]
    scales, mask = (16, 8), (2, 0, 1, 2)
    fields = f"num_classes: 2 num_box: 2 {ANCHORS} anchors_scale: 16 anchors_scale: 8 {' '.join(f'mask: {i}' for i in mask)}"
    layer = f"{V3} {fields} confidence_threshold: 0.3 nms_threshold: 0.4 }}"
    got = net_of(tmp_path, layer, *(x.shape for x in maps))(*maps)
    found = []
    for i, x in enumerate(maps):
        for item in range(2):
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    for n in range(2):
                        values = x[item, 7 * n : 7 * n + 7, row, column].tolist()
                        anchor = SIZES[mask[2 * i + n]]
                        sizes = anchor[0] / (scales[i] * x.shape[3]), anchor[1] / (scales[i] * x.shape[2])
                        box = box_of(values, column, row, sizes, x.shape)
                        scores = [sigmoid(values[5 + c]) * sigmoid(values[4]) for c in (0, 1)]
                        found += [(c + 1, score, *box) for c, score in enumerate(scores) if score > 0.3]
    want = kept(found, 0.4)
    assert got.shape == (1, 1, len(want), 7) and len(want) < len(found)
    close(got[0, 0], want)


def test_the_best_class_of_a_box_counts_in_version_2(tmp_path: Path) -> None:
    maps = [draw(2, 16, 3, 3, seed=3), draw(2, 16, 2, 2, seed=4)]
    layer = f"{V2} num_classes: 3 num_box: 2 {ANCHORS.replace('0', '.5')} side: 13 confidence_threshold: 0.2 nms_threshold: 0.3 }}"
    got = net_of(tmp_path, layer, *(x.shape for x in maps))(*maps)
    found = []
    for x in maps:
        for item in range(2):
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    for n, anchor in enumerate(((1.5, 2.5), (3.5, 15))):
                        values = x[item, 8 * n : 8 * n + 8, row, column].tolist()
                        powers = [math.exp(value) for value in values[5:]]
                        score = sigmoid(values[4]) * max(powers) / sum(powers)
                        box = box_of(values, column, row, (anchor[0] / x.shape[3], anchor[1] / x.shape[3]), x.shape)
                        found += [(powers.index(max(powers)) + 1, score, *box)] if score >= 0.2 else []
    want = kept(found, 0.3)
    assert got.shape == (1, 1, len(want), 7) and len(want) < len(found)
    close(got[0, 0], want)


@pytest.mark.parametrize(
    "layer", [f"{V2} num_classes: 1 num_box: 1", f"{V3} num_classes: 1 num_box: 1 mask_group_num: 1 mask: 0 anchors_scale: 8"]
)
def test_without_a_detection_there_is_a_row_for_each_image(layer: str, tmp_path: Path) -> None:
    got = net_of(tmp_path, f"{layer} {ANCHORS} confidence_threshold: 0.9 }}", (3, 6, 2, 2))(torch.zeros(3, 6, 2, 2))
    assert got[0, 0].tolist() == [[item, *[-1] * 6] for item in range(3)]


def test_equal_scores_keep_the_order_of_the_places(tmp_path: Path) -> None:
    layer = f"{V2} num_classes: 1 num_box: 1 biases: 0.5 biases: 0.5 }}"
    rows = net_of(tmp_path, layer, (1, 6, 2, 2))(torch.zeros(1, 6, 2, 2))[0, 0]
    centers = (rows[:, 3:5] + rows[:, 5:]) / 2
    assert centers.tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


def test_overlaps_of_just_the_threshold_are_suppressed(tmp_path: Path) -> None:
    """Two boxes as large as the image, half of it apart: a third of their union is shared, exactly in float32."""
    layer = f"{V2} num_classes: 1 num_box: 1 biases: 2 biases: 2 nms_threshold: %s }}"
    x = torch.zeros(1, 6, 2, 2)
    x[0, 4, 1] = -20
    shared = torch.tensor(0.5) / torch.tensor(1.5)
    counts = [len(net_of(tmp_path, layer % threshold, x.shape)(x)[0, 0]) for threshold in (float(shared), float(shared) * 1.001)]
    assert counts == [1, 2]


ONE = "num_classes: 1 num_box: 1"
REFUSED: list[tuple[str, Any, str]] = [
    (f"{V2} num_box: 1 biases: 1 biases: 1 }}", [(1, 25, 2, 2)], "num_classes must be given"),
    (f"{V2} {ONE} biases: 1 biases: 1 }}", [(1, 5, 2, 2)], "(N, 6, H, W)"),
    (f"{V2} num_classes: 1 num_box: 2 biases: 1 biases: 1 }}", [(1, 13, 2, 2)], "(N, 12, H, W)"),
    (f"{V2} {ONE} biases: 1 biases: 1 ssd_format: true }}", [(1, 6, 2, 2)], "takes a map and the image"),
    (f"{V2} {ONE} biases: 1 }}", [(1, 6, 2, 2)], "1 biases for 1 boxes"),
    (f"{V2} {ONE} biases: 1 biases: 1 coords: 5 }}", [(1, 6, 2, 2)], "coords is 5"),
    (f"{V2} {ONE} biases: 1 biases: 1 }}", [(1, 6, 2, 3)], "not square"),
    (f"{V2} {ONE} biases: 1 biases: 1 }}", [(1, 6, 2, 2), (2, 6, 2, 2)], "(N, 6, H, W)"),
    (f"{V2} {ONE} biases: 1 biases: 1 }}", [(1, 6, 2, 2)] * 3, "3 bottoms"),
    (f"{V3} {ONE} {ANCHORS} mask: 0 anchors_scale: 8 }}", [(1, 6, 2, 2)], "mask_group_num 2"),
    (f"{V3} {ONE} {ANCHORS} mask: 0 mask_group_num: 1 }}", [(1, 6, 2, 2)], "0 anchors_scale"),
    (f"{V3} {ONE} {ANCHORS} mask_group_num: 1 anchors_scale: 8 }}", [(1, 6, 2, 2)], "does not name an anchor"),
    (f"{V3} {ONE} {ANCHORS} mask: 3 mask_group_num: 1 anchors_scale: 8 }}", [(1, 6, 2, 2)], "does not name an anchor"),
    (f"{V3} {ONE} {ANCHORS} mask: 0 mask_group_num: 1 anchors_scale: 8 gaussian_box: true }}", [(1, 10, 2, 2)], "gaussian_box"),
    (f"{V3} {ONE} {ANCHORS} mask: 0 mask_group_num: 1 anchors_scale: 8 nms: 1 }}", [(1, 6, 2, 2)], "yolov3_detection_output_param.nms"),
]


@pytest.mark.parametrize(("layer", "shapes", "told"), REFUSED, ids=[f"{i}-{row[2]}" for i, row in enumerate(REFUSED)])
def test_what_is_unclear_or_wrong_is_refused_by_name(layer: str, shapes: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="layer 'op' of type") as error:
        net_of(tmp_path, layer, *shapes)
    assert told in str(error.value)
