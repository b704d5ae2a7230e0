"""cascade-rcnn's layers beyond their golden cases: what those do not vary, counted by hand from its sources."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from one_layer import close, draw, net_of
from torch import Tensor

from converter import ConversionError
from converter.layers.cascade import BoxGroupOutput, DecodeBBox, FrcnnOutput, ScaleRoute, _overlap


@pytest.mark.parametrize(
    ("box", "shared", "area", "other_area"),
    [
        ((0, 0, 9, 9), 100, 100, 100),
        ((5, 5, 14, 14), 25, 100, 100),
        ((2, 2, 3, 3), 4, 100, 4),
        ((9, 0, 18, 9), 10, 100, 100),  # one shared column of pixels counts
        ((0, 9, 9, 18), 0, 100, 100),  # one shared row does not (JaccardOverlap compares y with >=)
        ((10, 0, 19, 9), 0, 100, 100),
        ((8, 8, 5, 9), 0, 100, 0),  # its end lies before its start
    ],
)
def test_overlap_is_over_the_union_the_smaller_or_the_first_box(box: Any, shared: float, area: float, other_area: float) -> None:
    first, others = torch.tensor((0.0, 0, 9, 9)), torch.tensor([box], dtype=torch.float32)
    wholes = {"IOU": area + other_area - shared, "IOMU": min(area, other_area), "IOFU": area, "another": area + other_area - shared}
    for nms_type, whole in wholes.items():
        close(_overlap(first, others, nms_type), [shared / whole if whole else 0.0])


def proposals(**fields: Any) -> Any:
    """Of one place of 16 pixels a side, one field of 20 x 10."""
    return BoxGroupOutput((16,), ((20,),), ((10,),), **{"min_size": 1, "scores": True, **fields})


def test_a_proposal_is_its_field_moved_and_cut_to_the_map() -> None:
    prob, delta = torch.tensor([0.25, 0.75]).reshape(1, 2, 1, 1), torch.tensor([0.1, -0.2, 0.3, math.log(0.5)]).reshape(1, 4, 1, 1)
    rois, scored = proposals()(prob, delta)
    width, height = 20 * math.exp(0.3), 5
    x, y = 8 + 0.1 * 20 - width / 2, 8 - 0.2 * 10 - height / 2
    want = [0, max(x, 0), y, min(x + width - 1, 16), y + height - 1]
    close(rois.flatten(), want)
    close(scored.flatten(), [*want, 0.75])
    assert rois.shape == (1, 5, 1, 1) and scored.shape == (1, 6, 1, 1)


def test_deltas_are_kept_within_the_field(tmp_path: Path) -> None:
    prob, delta = torch.zeros(1, 2, 1, 1), torch.tensor([9.0, -9.0, 9.0, -9.0]).reshape(1, 4, 1, 1)
    rois, _ = proposals(field_whr=4, field_xyr=8)(prob, delta)
    # the center 1/8 of the field away, 4 times as wide and a quarter as high
    close(rois.flatten(), [0, 0, 8 - 10 / 8 - 1.25, 16, 8 - 10 / 8 + 1.25 - 1])


@pytest.mark.parametrize("fields", [{"fg_thr": 0.9}, {"min_size": 300}])
def test_without_a_proposal_one_region_stands_in(fields: Any) -> None:
    rois, scored = proposals(**fields)(torch.full((3, 2, 2, 2), 0.5), torch.zeros(3, 4, 2, 2))
    assert rois.flatten().tolist() == [0, 1, 1, 10, 10] and scored.flatten().tolist() == [0] * 6


def test_the_items_follow_each_other_and_equal_scores_keep_their_order() -> None:
    prob, delta = torch.zeros(4, 2, 1, 2), torch.zeros(4, 4, 1, 2)
    layer = BoxGroupOutput((100,), ((10, 30),), ((10, 30),), min_size=1, iou_thr=0.5)
    centers = (layer(prob, delta)[:, 1:3] + layer(prob, delta)[:, 3:])[:, :, 0, 0] / 2 + 0.5
    assert layer(prob, delta)[:, 0].flatten().tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert centers[:, 0].tolist() == [50, 150] * 4
    layer.max_nms_num = 3
    assert layer(prob, delta)[:, 0].flatten().tolist() == [0, 0, 0, 1, 1, 1]


PRIOR = torch.tensor([[0.0, 10, 20, 29, 39], [1, 0, 0, 9, 9], [0, 5, 5, 4, 9]])
DELTA = torch.cat((draw(3, 4), torch.tensor([[0.5, 0, 0, 0], [0, 0, math.log(2.0), 0], [0, 0, 0, 0]])), 1)


def test_decoded_boxes_are_moved_priors() -> None:
    want = torch.tensor([[0.0, 20, 20, 39, 39], [1, -5, 0, 14, 9], [0, 5, 5, 4, 9]])
    close(DecodeBBox()(DELTA, PRIOR)[:, :, 0, 0], want)
    # b * std + mean: half the shift, and 0.1 of a side more
    close(DecodeBBox((0.1, 0, 0, 0), (0.5, 1, 1, 1))(DELTA, PRIOR)[0, 1:3].flatten(), [10 + 0.25 * 20 + 0.1 * 20, 20])


def test_in_training_malformed_and_known_boxes_are_left_out(tmp_path: Path) -> None:
    matched = torch.tensor([[0.0, 0.5], [0.0, 0.96], [0.0, 0.1]])
    layer = 'type: "DecodeBBox"'
    shapes = DELTA.shape, PRIOR.shape, matched.shape
    assert net_of(tmp_path, layer, *shapes[:2], phase="TRAIN")(DELTA, PRIOR)[:, 0].flatten().tolist() == [0, 1]
    assert net_of(tmp_path, layer, *shapes, phase="TRAIN")(DELTA, PRIOR, matched)[:, 0].flatten().tolist() == [0]
    layer += " decode_bbox_param { gt_iou_thr: 0.5 }"
    with pytest.raises(ValueError, match="leaves no box"):
        net_of(tmp_path, layer, *shapes, phase="TRAIN")(DELTA, PRIOR, matched)
    assert len(net_of(tmp_path, layer, *shapes[:2])(DELTA, PRIOR)) == 3


def test_a_mean_without_a_std_is_not_used_as_in_caffe(tmp_path: Path) -> None:
    layer = 'type: "DecodeBBox" bbox_reg_param { bbox_mean: 1 bbox_mean: 1 bbox_mean: 1 bbox_mean: 1 cls_aware: false }'
    close(net_of(tmp_path, layer, DELTA.shape, PRIOR.shape)(DELTA, PRIOR), DecodeBBox()(DELTA, PRIOR))


ROIS = torch.tensor([[0.0, 0, 0, 9, 9], [0, 1, 0, 10, 9], [0, 50, 50, 59, 59]])
SIZE = torch.tensor([[55.0, 58.0]])


def detections(prob: Tensor, **fields: Any) -> list[list[float]]:
    delta = torch.zeros(3, 4 * prob.shape[1])
    found: list[list[float]] = FrcnnOutput(**fields)(prob, delta, ROIS, SIZE)[:, :, 0, 0].tolist()
    return found


def test_detections_go_class_by_class_behind_a_row_of_none() -> None:
    prob = torch.tensor([[0.1, 0.5, 0.4], [0.2, 0.7, 0.1], [0.0, 0.25, 0.75]])
    none, first, last = [0, -1, -1, -1, -1, -1, -1], [0, 0, 0, 9, 9], [0, 50, 50, 58, 55]
    want = [none, [0, 1, 0, 10, 9, 1, 0.7], [*last, 1, 0.25], [*last, 2, 0.75], [*first, 2, 0.4]]
    for got, row in zip(detections(prob), want, strict=True):
        close(torch.tensor(got), row)
    assert [row[5:] for row in detections(prob, conf_thr=0.5)] == [[-1, -1], [1, pytest.approx(0.7)], [2, 0.75]]
    assert [row[5] for row in detections(prob, max_det_num=2)] == [-1, 1, 2]
    assert detections(prob, conf_thr=2) == [none]


@pytest.mark.parametrize("rois", [ROIS + torch.tensor([1.0, 0, 0, 0, 0]), ROIS[:, [0, 3, 2, 1, 4]]])
def test_regions_of_another_image_or_malformed_ones_stop_the_net(rois: Tensor) -> None:
    with pytest.raises(ValueError, match="one image"):
        FrcnnOutput()(torch.rand(3, 2), torch.zeros(3, 8), rois, SIZE)


SQUARES = torch.tensor([[0.0, 0, 0, side - 1, side - 1] for side in (16, 64, 128, 250, 300)])


@pytest.mark.parametrize(
    ("low", "high", "sides"),
    [
        (None, None, [16, 64, 128, 250, 300]),
        (64, 128, [64]),
        (None, 128, [16, 64]),
        (128, None, [128, 250, 300]),
        (1000, None, [300]),
        (None, 4, [16]),
        (70, 90, [64]),  # the middle is 79.4: 64 is 0.31 octaves away, 128 is 0.69
        (90, 120, [128]),  # 103.9: 0.7 and 0.3
    ],
)
def test_regions_go_by_their_scale(low: float | None, high: float | None, sides: list[int]) -> None:
    scores = torch.arange(5.0).reshape(5, 1)
    rois, kept = ScaleRoute(low, high)(SQUARES, scores)
    assert (rois[:, 3] + 1).flatten().tolist() == sides
    assert [SQUARES[int(i), 3] + 1 for i in kept.flatten()] == sides and rois.shape[1:] == (5, 1, 1) and kept.shape[1:] == (1, 1, 1)


PAIR = [(2, 3, 4, 5), (2, 4, 4, 5)]
GROUP = "box_group_param { field_w: 8 field_h: 8 stride: 8 }"
REFUSED: list[tuple[str, Any, str]] = [
    ('type: "BoxGroupOutput"', PAIR, "0 box_group_param"),
    (f'type: "BoxGroupOutput" box_group_output_param {{ {GROUP} {GROUP} }}', PAIR, "2 box_group_param"),
    ('type: "BoxGroupOutput" box_group_output_param { box_group_param { field_w: 8 field_h: 8 } }', PAIR, "takes a stride"),
    ('type: "BoxGroupOutput" box_group_output_param { box_group_param { stride: 8 field_h: 8 } }', PAIR, "as many field_w"),
    (f'type: "BoxGroupOutput" box_group_output_param {{ {GROUP} }}', [PAIR[0], (2, 5, 4, 5)], "(N * 1, 4, H, W)"),
    (
        f'type: "BoxGroupOutput" box_group_output_param {{ {GROUP.replace("8", "8 field_w: 8 field_h: 8", 1)} }}',
        [(3, 2, 1, 1), (3, 4, 1, 1)],
        "N * 2",
    ),
    (f'type: "BoxGroupOutput" box_group_output_param {{ {GROUP} field_xyr: 0 }}', PAIR, "must be positive"),
    (
        f'type: "BoxGroupOutput" box_group_output_param {{ {GROUP} {GROUP} }}',
        [*PAIR, (1, 3, 4, 5), (1, 4, 4, 5)],
        "different numbers of images",
    ),
    (
        f'type: "BoxGroupOutput" box_group_output_param {{ {GROUP} }} bbox_reg_param {{ bbox_mean: 1 bbox_std: 1 }}',
        PAIR,
        "not four numbers",
    ),
    ('type: "BoxGroupOutput" box_group_output_param { ringpad: true }', PAIR, "box_group_output_param.ringpad"),
    ('type: "DecodeBBox"', [(3, 4), (3, 5)], "(R, 8)"),
    ('type: "DecodeBBox"', [(3, 8), (4, 5)], "(R, 8)"),
    ('type: "DecodeBBox"', [(3, 8), (3, 5), (3, 2)], "belongs to phase TRAIN"),
    ('type: "DecodeBBox" bbox_reg_param { other: 1 }', [(3, 8), (3, 5)], "bbox_reg_param.other"),
    ('type: "FrcnnOutput"', [(3, 4), (3, 8), (3, 5), (1, 2)], "(R, 16)"),
    ('type: "FrcnnOutput" bbox_reg_param { cls_aware: false }', [(3, 4), (3, 16), (3, 5), (1, 2)], "(R, 8)"),
    ('type: "FrcnnOutput"', [(3, 2), (3, 8), (3, 4), (1, 2)], "(R, 6)"),
    ('type: "FrcnnOutput"', [(3, 2), (3, 8), (3, 5), (1, 3)], "size (1, 2)"),
    ('type: "ScaleRoute" scale_route_param { low_scale: 4 high_scale: 2 }', [(3, 5)], "the first one smaller"),
    ('type: "ScaleRoute" scale_route_param { low_scale: 0 }', [(3, 5)], "are not positive"),
    ('type: "ScaleRoute"', [(3, 5), (3, 2)], "one top for each bottom"),
    ('type: "ScaleRoute"', [(3, 4)], "rois (R, 5) first"),
]


@pytest.mark.parametrize(("layer", "shapes", "told"), REFUSED, ids=[f"{i}-{row[2]}" for i, row in enumerate(REFUSED)])
def test_what_is_unclear_or_wrong_is_refused_by_name(layer: str, shapes: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="layer 'op' of type") as error:
        net_of(tmp_path, layer, *shapes)
    assert told in str(error.value)


def test_saving_detections_is_left_out(tmp_path: Path) -> None:
    layer = 'type: "FrcnnOutput" frcnn_output_param { save_output_param { output_directory: "x" } }'
    with pytest.warns(UserWarning, match="save_output_param"):
        net_of(tmp_path, layer, (3, 2), (3, 8), (3, 5), (1, 2))
