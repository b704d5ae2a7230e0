"""Layers and fields of branches and pull requests of BVLC Caffe that have no golden case, against numpy written from their sources."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from one_layer import close, draw, net_of

from converter import ConversionError

FASTER = "faster_rcnn_detection_output_param"


def windows(x: Any, kernel: int, stride: int, pad: int = 0) -> Any:
    """Of (N, C, H, W): the values of each window inside the image and their places h * W + w, row by row (pooling_layer.cpp)."""
    side = x.shape[2]
    count = math.ceil((side + 2 * pad - kernel) / stride) + 1
    if pad and (count - 1) * stride >= side + pad:
        count -= 1
    ends = [(max(i * stride - pad, 0), min(i * stride - pad + kernel, side)) for i in range(count)]
    places = numpy.arange(side * side).reshape(side, side)
    cut = [(slice(*rows), slice(*columns)) for rows in ends for columns in ends]
    return count, [(x[:, :, h, w].reshape(*x.shape[:2], -1), places[h, w].reshape(-1)) for h, w in cut]


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 3), (2, 1)])
def test_min_pooling_takes_the_least_value(kernel: int, stride: int, tmp_path: Path) -> None:
    x = draw(2, 3, 8, 8)
    count, found = windows(x.numpy(), kernel, stride)
    want = numpy.stack([values.min(-1) for values, _ in found], -1).reshape(2, 3, count, count)
    layer = f'type: "Pooling" pooling_param {{ pool: MIN kernel_size: {kernel} stride: {stride} }}'
    close(net_of(tmp_path, layer, x.shape)(x), want, atol=0)


def test_min_pooling_over_the_whole_image(tmp_path: Path) -> None:
    x = draw(2, 3, 5, 7)
    close(net_of(tmp_path, 'type: "Pooling" pooling_param { pool: MIN global_pooling: true }', x.shape)(x), x.amin((2, 3), True), atol=0)


@pytest.mark.parametrize(("kernel", "stride", "side"), [(3, 2, 13), (3, 2, 12), (2, 1, 6)])
def test_lrn_pools_what_it_has_normalized(kernel: int, stride: int, side: int, tmp_path: Path) -> None:
    """clCaffe's own test holds the fused layer against an LRN and a Pooling, too (test_lrn_layer.cpp)."""
    x = draw(2, 7, side, side)
    squares = (x**2).numpy()
    sums = numpy.stack([squares[:, max(c - 2, 0) : c + 3].sum(1) for c in range(7)], 1)
    normalized = x.numpy() / (1 + 0.1 / 5 * sums) ** 0.75
    count, found = windows(normalized, kernel, stride)
    want = numpy.stack([values.max(-1) for values, _ in found], -1).reshape(2, 7, count, count)
    pooling = f"pooling_param {{ pool: MAX kernel_size: {kernel} stride: {stride} }}"
    net = net_of(tmp_path, f'type: "LRN" lrn_param {{ fuse_type: FUSED_POOL_MAX alpha: 0.1 {pooling} }}', x.shape)
    close(net(x), want)


@pytest.mark.parametrize(("kernel", "stride", "pad", "side"), [(3, 2, 0, 7), (2, 2, 0, 6), (3, 2, 1, 7)])
def test_unpooling_puts_the_maxima_back(kernel: int, stride: int, pad: int, side: int, tmp_path: Path) -> None:
    x = draw(2, 3, side, side)
    count, found = windows(x.numpy(), kernel, stride, pad)
    best = numpy.stack([values.max(-1) for values, _ in found], -1).reshape(2, 3, count, count)
    mask = numpy.stack([places[values.argmax(-1)] for values, places in found], -1).reshape(2, 3, count, count)
    size = (count - 1) * stride + kernel - 2 * pad
    want = numpy.zeros((2, 3, size * size), "f4")
    for n, c, h, w in numpy.ndindex(best.shape):
        want[n, c, mask[n, c, h, w]] = best[n, c, h, w]
    fields = f"pool: MAX kernel_size: {kernel} stride: {stride} pad: {pad} engine: CAFFE"
    net = net_of(tmp_path, f'type: "Unpooling" pooling_param {{ {fields} }}', best.shape, best.shape)
    close(net(torch.from_numpy(best), torch.from_numpy(mask).float()), want.reshape(2, 3, size, size), atol=0)


def test_ssd_s_first_version_takes_a_max_size_that_is_not_larger_and_cuts_its_boxes(tmp_path: Path) -> None:
    """6acd014a's prior_box_layer.cpp: squares of min_size and of sqrt(min_size * max_size), then the ratios; clip by default."""
    layer = 'type: "PriorBox" prior_box_param { min_size: 40 max_size: 40 aspect_ratio: 4 %s }'
    boxes = [(40, 40), (40, 40), (80, 20), (20, 80)]
    want = [[25 - w / 2, 25 - h / 2, 25 + w / 2, 25 + h / 2] for w, h in boxes]
    for fields, cut in (("flip: true", True), ("clip: false", False)):
        got = net_of(tmp_path, layer % fields, (1, 3, 1, 1), (1, 3, 50, 50))(torch.zeros(1, 3, 1, 1), torch.zeros(1, 3, 50, 50))
        rows = torch.tensor(want) / 50
        close(got[0, 0].reshape(-1, 4), rows.clamp(0, 1) if cut else rows)
        assert got[0, 1].unique().tolist() == [pytest.approx(0.1)]


# ---------------------------------------------------------------------------------------------- activations


@pytest.mark.filterwarnings("ignore:.*turns gradients round")
@pytest.mark.parametrize(
    ("layer", "value"),
    [
        ('type: "SeLu"', lambda v: 1.050700987 * (v if v > 0 else 1.67326324 * (math.exp(v) - 1))),
        ('type: "SeLu" selu_param { lambda: 2 alpha: 0.5 }', lambda v: 2 * (v if v > 0 else 0.5 * (math.exp(v) - 1))),
        ('type: "SeLuDropout" selu_dropout_param { dropout_ratio: 0.3 }', lambda v: v),
        ('type: "RReLU"', lambda v: v if v > 0 else v * 2 / (3 + 8)),
        ('type: "RReLU" rrelu_param { negative_slope_lower: 2 negative_slope_upper: 6 }', lambda v: v if v > 0 else v / 4),
        ('type: "GradientScaler" gradient_scaler_param { lower_bound: 0 upper_bound: 0.1 alpha: 10 max_iter: 100 }', lambda v: v),
        ('type: "EltwiseAffine"', lambda v: 1.0001 * v + 0.0001),
    ],
)
def test_each_value_is_that_of_the_source(layer: str, value: Any, tmp_path: Path) -> None:
    """3866af4c's selu_layer.cpp and selu_dropout_layer.cpp, 3468c88d's rrelu_layer.cpp, Xlearn's and happynear's."""
    x = 3 * draw(2, 3, 4, 4)
    close(net_of(tmp_path, layer, x.shape)(x), numpy.vectorize(value)(x.numpy()))


@pytest.mark.parametrize("shared", [True, False])
def test_eltwise_affine_has_a_slope_and_a_bias_for_each_channel_or_for_all(shared: bool, tmp_path: Path) -> None:
    x, blobs = draw(2, 3, 4, 4), [draw(*(() if shared else (3,)), seed=i) for i in (1, 2)]
    layer = f'type: "EltwiseAffine" eltwise_affine_param {{ channel_shared: {str(shared).lower()} }}'
    slope, bias = (blob.numpy().reshape(-1, 1, 1) for blob in blobs)
    close(net_of(tmp_path, layer, x.shape, blobs=blobs)(x), x.numpy() * slope + bias)


def test_what_is_random_is_drawn_in_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = -torch.ones(1, 1, 200, 200)
    slopes = -1 / net_of(tmp_path, 'type: "RReLU"', x.shape).train()(x)
    assert 3 <= float(slopes.min()) < 3.1 and 7.9 < float(slopes.max()) <= 8.001
    y = net_of(tmp_path, 'type: "SeLuDropout" selu_dropout_param { dropout_ratio: 0.25 }', x.shape).train()(torch.randn(x.shape))
    assert y.mean() == pytest.approx(0, abs=0.03) and y.std() == pytest.approx(1, abs=0.03)
    assert (y == y.mode().values.mode().values).float().mean() == pytest.approx(0.25, abs=0.01)


# ---------------------------------------------------------------------------------------------- clCaffe's detectors


def test_simpler_nms_gives_the_numbers_of_clcaffe_s_own_test(tmp_path: Path) -> None:
    """be3e2ac5's test_simpler_nms_layer.cpp: anchors, then places row by row; an image of 600 x 800, scaled by 1.6."""
    scores = torch.zeros(1, 6, 2, 2)
    scores[0, 3:] = torch.tensor([[0.9, 0.2, 0.6, 0.01], [0.75, 0.8, 0.11, 0.25], [0.34, 0.113, 0.12, 0.87]]).reshape(3, 2, 2)
    deltas = [[0.9, 0.01, 0, 0.02], [0.03, -0.02, 0.1, 0.01], [0, 0.08, -0.045, 0.015], [0.0546, 0.001, -0.072, 0.032]]
    deltas += [[0.02, 0.3, 0.12, 0.022], [0.03, -0.04, 0.01, 0.001], [0.006, 0, 0.045, 0.005], [0.0146, 0.031, 0.072, 0.002]]
    deltas += [
        [-0.019, 0.011, 0.04, 2.062],
        [0.023, -0.012, 0.01, 1.061],
        [0.056, 0.018, -0.0145, 0.0615],
        [0.0511, 0.0021, -0.0172, 0.0632],
    ]
    layer = 'type: "SimplerNMS" simpler_nms_param { max_num_proposals: 300 post_nms_topn: 160 scale: 8 }'
    net = net_of(tmp_path, layer, (1, 6, 2, 2), (1, 12, 2, 2), (1, 3))
    want = [[81.5999908, 0, 265.599976, 61.5736732], [158.66507, 116.994881, 252.246948, 304.477112], [0, 0, 126.400002, 68.8950729]]
    want += [[0, 0, 74.9451523, 76.78125], [0, 0, 52.8622932, 104.661682], [0, 0, 90.3057861, 94.0579376]]
    close(net(scores, torch.tensor(deltas).reshape(1, 12, 2, 2), torch.tensor([[600, 800, 1.6]])), [[0, *row] for row in want], atol=1e-4)


def test_simpler_nms_cuts_sides_to_whole_pixels_and_takes_the_later_of_equal_scores(tmp_path: Path) -> None:
    """Two anchors of 16 x 16 at places far apart; the least side is 16 * int(1.9)."""
    layer = 'type: "SimplerNMS" simpler_nms_param { scale: 1 iou_threshold: 0.1 }'
    net = net_of(tmp_path, layer, (1, 6, 1, 3), (1, 12, 1, 3), (1, 3))
    scores, deltas = torch.zeros(1, 6, 1, 3), torch.zeros(1, 12, 1, 3)
    scores[0, 4] = torch.tensor([[0.5, 0.5, 0]])  # squares; the last has no score
    deltas[0, 6:8] = -0.01  # sides of 15.8 + 1 whole pixels
    x = 7.5 + 0.5 + 16 * torch.tensor([1.0, 0.0])
    half = math.exp(-0.01) * 8
    want = torch.stack((x - half, torch.full((2,), 8 - half), x + half, torch.full((2,), 8 + half)), 1)
    close(net(scores, deltas, torch.tensor([[99.9, 99.9, 1.9]]))[:, 1:], want)
    assert len(net(scores, deltas, torch.tensor([[99.9, 99.9, 2.0]]))) == 0


def test_faster_rcnn_gives_the_numbers_of_clcaffe_s_own_test(tmp_path: Path) -> None:
    """be3e2ac5's test_faster_rcnn_detection_output_layer.cpp, whose scale of 1.6 is an int."""
    scores = torch.tensor([[0.2, 0.85], [0.1, 0.9], [0.6, 0.4]])
    rois = torch.tensor([[0, 0, 0, 100, 200], [0, 10, 10, 90, 200], [0, 200, 100, 300, 300]]).float()
    moves = [[0.9, 0.01, 0, 0.02, 0.03, -0.02, 0.1, 0.01], [-0.019, 0.011, 0.04, 2.062, 0.056, 0.018, -0.0145, 0.0615]]
    moves += [[0.02, 0.3, 0.12, 0.022, 0.03, -0.04, 0.01, 0.001]]
    layer = f'type: "FasterRcnnDetectionOutput" {FASTER} {{ num_classes: 2 nms_param {{ nms_threshold: 0.3 }} confidence_threshold: 0.8 }}'
    net = net_of(tmp_path, layer, (3, 8), (3, 2), (3, 5), (1, 3))
    got = net(torch.tensor(moves), scores, rois, torch.tensor([[600.0, 800, 1]]))
    close(got[0, 0], [[0, 1, 0.899999976, 15.1190109, 7.38039398, 94.9529877, 210.495605]], atol=1e-4)


def overlap(a: Any, b: Any) -> float:
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1)]
    shared = sides[0] * sides[1] if min(sides) > 0 else 0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return float(shared / (sum(areas) - shared)) if shared else 0


@pytest.mark.parametrize(("background", "scale"), [(0, 2.0), (-1, 0.0)])
def test_faster_rcnn_s_detections_are_those_of_a_box_by_box_computation(background: int, scale: float, tmp_path: Path) -> None:
    corners = 60 * torch.rand(40, 2, generator=torch.Generator().manual_seed(1))
    rois = torch.cat((torch.zeros(40, 1), corners, corners + 30), 1)
    moves, scores = 0.3 * draw(40, 12, seed=2), torch.rand(40, 3, generator=torch.Generator().manual_seed(3))
    fields = f"num_classes: 3 background_label_id: {background} confidence_threshold: 0.4 nms_param {{ nms_threshold: 0.5 }}"
    net = net_of(tmp_path, f'type: "FasterRcnnDetectionOutput" {FASTER} {{ {fields} }}', (40, 12), (40, 3), (40, 5), (1, 3))
    want: list[list[float]] = []
    for label in range(3):
        rows: list[list[float]] = []
        for i in sorted(range(40), key=lambda i: -float(scores[i, label])):
            (x1, y1, x2, y2), (dx, dy, dw, dh) = rois[i, 1:].tolist(), moves[i, 4 * label : 4 * label + 4].tolist()
            w, h = x2 - x1 + 1, y2 - y1 + 1
            x, y, w, h = dx * w + x1 + w / 2, dy * h + y1 + h / 2, math.exp(dw) * w, math.exp(dh) * h
            box = [min(max(v, 0), 79 if k % 2 == 0 else 69) for k, v in enumerate((x - w / 2, y - h / 2, x + w / 2, y + h / 2))]
            if scores[i, label] > 0.4 and label != background and all(overlap(box, row[3:]) <= 0.5 for row in rows):
                rows.append([0, label, float(scores[i, label]), *box])
        want += [[*row[:3], *(v / (scale or 1) for v in row[3:])] for row in rows]
    close(net(moves, scores, rois, torch.tensor([[70, 80, scale]]))[0, 0], want, atol=1e-4)
    none = net(moves, torch.zeros(40, 3), rois, torch.tensor([[70, 80, scale]]))
    assert none.tolist() == [[[[0, *[-1] * 6]]]]


@pytest.mark.parametrize("corners", [True, False])
def test_yolo_s_boxes_in_clcaffe_are_those_of_each_image_best_first(corners: bool, tmp_path: Path) -> None:
    """5651c58f's yolo_detection_output_layer.cpp and bbox_util.hpp: `side` is the map's, overlaps are those inside the image."""
    x, anchors = draw(2, 16, 4, 4, seed=5), ((1.5, 2.5), (3.5, 1.5))
    fields = "num_classes: 3 num_box: 2 biases: 1.5 biases: 2.5 biases: 3.5 biases: 1.5 confidence_threshold: 0.2 nms_threshold: 0.3"
    fields += " ssd_format: true" if corners else ""
    net = net_of(tmp_path, f'type: "YoloDetectionOutput" yolo_detection_output_param {{ {fields} }}', x.shape, (2, 3, 64, 64))
    want: list[list[float]] = []
    for item in range(2):
        found: list[list[float]] = []
        for row in range(4):
            for column in range(4):
                for n, anchor in enumerate(anchors):
                    v = x[item, 8 * n : 8 * n + 8, row, column].tolist()
                    powers = [math.exp(each) for each in v[5:]]
                    score = max(powers) / sum(powers) / (1 + math.exp(-v[4]))
                    center = (column + 1 / (1 + math.exp(-v[0]))) / 4, (row + 1 / (1 + math.exp(-v[1]))) / 4
                    size = math.exp(v[2]) * anchor[0] / 4, math.exp(v[3]) * anchor[1] / 4
                    found += [[item, powers.index(max(powers)), score, *center, *size]] if score >= 0.2 else []
        kept: list[list[float]] = []
        for one in sorted(found, key=lambda one: -one[2]):
            if all(overlap(inside(one), inside(other)) < 0.3 for other in kept):
                kept.append(one)
        want += [
            [a, b + 1, c, x - w / 2, y - h / 2, x + w / 2, y + h / 2] if corners else [a, b, c, x, y, w, h] for a, b, c, x, y, w, h in kept
        ]
        assert len(kept) < len(found)
    close(net(x, torch.zeros(2, 3, 64, 64))[0, 0], want)


def inside(row: Any) -> list[float]:
    _, _, _, x, y, w, h = row
    return [max(x - w / 2, 0), max(y - h / 2, 0), min(x + w / 2, 1), min(y + h / 2, 1)]


# ---------------------------------------------------------------------------------------------- refusals

CARRIED = [
    ('type: "LRN" lrn_param { fuse_type: FUSED_POOL_MAX pooling_param { kernel_size: 3 stride: 2 } }', [(1, 2, 7, 7)]),
    ('type: "Pooling" pooling_param { pool: MIN kernel_size: 3 stride: 2 }', [(1, 2, 7, 7)]),
    ('type: "SimplerNMS" simpler_nms_param { scale: 1 min_bbox_size: 4 }', [(1, 6, 3, 3), (1, 12, 3, 3), (1, 3)]),
    (f'type: "FasterRcnnDetectionOutput" {FASTER} {{ num_classes: 2 }}', [(9, 8), (9, 2), (9, 5), (1, 3)]),
    (
        'type: "YoloDetectionOutput" yolo_detection_output_param { num_classes: 1 num_box: 1 biases: 1 biases: 1 }',
        [(1, 6, 3, 3), (1, 3, 9, 9)],
    ),
    (
        'type: "Python" python_param { module: "caffe.layers.detectnet.clustering" layer: "ClusterDetections" '
        'param_str: "48,32,16,0.1,1,1,1" }',
        [(1, 1, 2, 3), (1, 4, 2, 3)],
    ),
]


@pytest.mark.parametrize(("layer", "shapes"), CARRIED, ids=[row[0].split('"')[1] for row in CARRIED])
def test_the_source_of_a_net_carries_the_layer(layer: str, shapes: Any, tmp_path: Path) -> None:
    net = net_of(tmp_path, layer, *shapes)
    net.save(tmp_path / "carried.py", check=False)
    again = runpy.run_path(str(tmp_path / "carried.py"))["load"]()
    inputs = [torch.tensor([[50.0, 60, 1]]) if shape == (1, 3) else draw(*shape, seed=i).abs() for i, shape in enumerate(shapes)]
    if len(shapes) == 2 and shapes[1][1] == 4:  # all places agree on one box
        x, y = 16 * torch.arange(3).expand(2, 3), 16 * torch.arange(2)[:, None].expand(2, 3)
        inputs[1] = (torch.tensor([3, 4, 30, 31])[:, None, None] - torch.stack((x, y, x, y)))[None].float()
    assert torch.equal(again(*inputs), net(*inputs)) and bool(net(*inputs).any())


IMAGE = (1, 2, 8, 8)
PROPOSED = [(1, 6, 2, 2), (1, 12, 2, 2), (1, 3)]
DETECTED = [(3, 8), (3, 2), (3, 5), (1, 3)]
FUSED = 'type: "LRN" lrn_param { fuse_type: FUSED_POOL_MAX %s pooling_param { %s } }'


@pytest.mark.parametrize(
    ("layer", "shapes", "reason"),
    [
        ('type: "Pooling" pooling_param { pool: MIN kernel_size: 3 pad: 1 }', [IMAGE], "does not go with MIN"),
        ('type: "Pooling" pooling_param { pool: MIN kernel_size: 3 }', [(1, 2, 8, 8, 8)], "MAX and AVE"),
        (FUSED % ("", "kernel_size: 3 stride: 3"), [IMAGE], "one larger than a stride"),
        (FUSED % ("", "kernel_size: 3 stride: 2 pad: 1"), [IMAGE], "pad"),
        (FUSED % ("", "pool: AVE kernel_size: 3 stride: 2"), [IMAGE], "MAX pooling"),
        (FUSED % ("", "kernel_size: 3 stride: 2"), [(1, 2, 8, 9)], "square images"),
        (FUSED % ("norm_region: WITHIN_CHANNEL", "kernel_size: 3 stride: 2"), [IMAGE], "ACROSS_CHANNELS"),
        ('type: "LRN" lrn_param { pooling_param { kernel_size: 3 stride: 2 } }', [IMAGE], "goes with fuse_type"),
        ('type: "Unpooling" pooling_param { kernel_size: 2 stride: 2 }', [IMAGE], "MAX and a mask"),
        ('type: "Unpooling" pooling_param { pool: AVE kernel_size: 2 stride: 2 }', [IMAGE, IMAGE], "MAX and a mask"),
        ('type: "Unpooling" pooling_param { stride: 2 }', [IMAGE, IMAGE], "a kernel_size and a stride"),
        ('type: "Unpooling" pooling_param { kernel_size: 2 round_mode: FLOOR }', [IMAGE, IMAGE], "pooling_param.round_mode"),
        ('type: "PriorBox" prior_box_param { min_size: 3 min_size: 4 max_size: 3 max_size: 4 }', [IMAGE, IMAGE], "one larger value"),
        ('type: "PriorBox" prior_box_param { min_size: 3 max_size: 3 step: 8 }', [IMAGE, IMAGE], "one larger value"),
        ('type: "Reorg" reorg_param { stride: 2 }', [(1, 3, 8, 8)], "on the CPU. To do without this layer"),
        ('type: "RReLU" rrelu_param { negative_slope_lower: 9 }', [IMAGE], "the lesser first"),
        ('type: "SeLuDropout" selu_dropout_param { dropout_ratio: 1 }', [IMAGE], "between 0 and 1"),
        ('type: "EltwiseAffine"', [(2, 3, 4)], "(N, C, H, W)"),
        ('type: "SimplerNMS" simpler_nms_param { scale: 8 feat_stride: 8 }', PROPOSED, "feat_stride of 16"),
        ('type: "SimplerNMS"', PROPOSED, "a positive scale"),
        ('type: "SimplerNMS" simpler_nms_param { scale: 8 post_nms_topn: 301 }', PROPOSED, "max_num_proposals 300"),
        ('type: "SimplerNMS" simpler_nms_param { scale: 8 scale: 16 }', PROPOSED, "6 anchors"),
        (f'type: "FasterRcnnDetectionOutput" {FASTER} {{ num_classes: 3 }}', DETECTED, "moves (R, 12)"),
        (f'type: "FasterRcnnDetectionOutput" {FASTER} {{ num_classes: 2 nms_param {{ soft_nms: true }} }}', DETECTED, "soft_nms"),
        (f'type: "FasterRcnnDetectionOutput" {FASTER} {{ num_classes: 2 }}', DETECTED[:3], "it takes 4"),
    ],
)
def test_what_a_branch_s_code_cannot_do_is_refused_with_the_reason(layer: str, shapes: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="layer 'op' of type") as caught:
        net_of(tmp_path, layer, *shapes)
    assert reason in str(caught.value)
