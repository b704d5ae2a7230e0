"""Region proposals beyond their golden cases: against a box by box computation in numpy, after the forks' own files."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from one_layer import close, draw, net_of
from torch import Tensor

from converter import ConversionError, convert
from converter.layers.proposals import Proposal, ProposalLayer

A, H, W = 9, 5, 7
IMAGE = torch.tensor([[70.0, 100.0, 1.5]])


def python_layer(params: str, module: str = "rpn.proposal_layer", name: str = "ProposalLayer") -> str:
    return f'type: "Python" python_param {{ module: "{module}" layer: "{name}" param_str: "{params}" }}'


def drawn(anchors: int = A, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores and deltas of a small feature map."""
    return torch.rand(1, 2 * anchors, H, W, generator=torch.Generator().manual_seed(seed)), 0.3 * draw(1, 4 * anchors, H, W, seed=seed + 1)


def by_hand(score: Any, delta: Any, anchors: Any, stride: int, least: float, *, before: int, after: int, threshold: float) -> Any:
    """(scores and boxes) as py-faster-rcnn's lib/rpn/proposal_layer.py, bbox_transform.py and cpu_nms.pyx go about it."""
    found = []
    for h in range(H):
        for w in range(W):
            for a, (x1, y1, x2, y2) in enumerate(anchors):
                dx, dy, dw, dh = delta[0, 4 * a : 4 * a + 4, h, w]
                width, height = x2 - x1 + 1, y2 - y1 + 1
                x, y = dx * width + x1 + stride * w + width / 2, dy * height + y1 + stride * h + height / 2
                width, height = numpy.exp(dw) * width, numpy.exp(dh) * height
                box = numpy.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
                box = box.clip(0, [99, 69, 99, 69])
                if min(box[2] - box[0], box[3] - box[1]) + 1 >= least:
                    found.append((score[0, len(anchors) + a, h, w], box))
    found = sorted(found, key=lambda one: -one[0])[:before]
    kept: list[Any] = []
    for score_, box in found:
        if all(overlap(box, other) <= threshold for _, other in kept):
            kept.append((score_, box))
    return kept[: after or None]


def overlap(a: Any, b: Any) -> float:
    sides = numpy.maximum(numpy.minimum(a[2:], b[2:]) - numpy.maximum(a[:2], b[:2]) + 1, 0)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    shared = sides[0] * sides[1]
    return float(shared / (sum(areas) - shared))


def test_the_anchors_are_those_of_the_paper() -> None:
    """The table in the docstring of py-faster-rcnn's generate_anchors.py, counted from 0."""
    want = [(-84, -40, 99, 55), (-176, -88, 191, 103), (-360, -184, 375, 199), (-56, -56, 71, 71), (-120, -120, 135, 135)]
    want += [(-248, -248, 263, 263), (-36, -80, 51, 95), (-80, -168, 95, 183), (-168, -344, 183, 359)]
    assert ProposalLayer(16).anchors() == want
    assert Proposal((0.5, 1, 2), (8, 16, 32)).anchors().tolist() == [list(box) for box in want]


@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
def test_proposals_are_those_of_a_box_by_box_computation(phase: str, tmp_path: Path) -> None:
    score, delta = drawn()
    layer = python_layer("'feat_stride': 16")
    rois, scores = net_of(tmp_path, layer, score.shape, delta.shape, IMAGE.shape, tops=2, phase=phase)(score, delta, IMAGE).values()
    before, after = (6000, 300) if phase == "TEST" else (12000, 2000)
    want = by_hand(score.numpy(), delta.numpy(), ProposalLayer(16).anchors(), 16, 24, before=before, after=after, threshold=0.7)
    close(rois[:, 1:], numpy.array([box for _, box in want]), atol=1e-4)
    close(scores[:, 0], numpy.array([one for one, _ in want]))
    assert not rois[:, 0].any() and scores.shape == (len(rois), 1)


def test_pvanet_reads_the_ratios(tmp_path: Path) -> None:
    score, delta = drawn(4)
    layer = python_layer("{'feat_stride': 8, 'ratios': [0.333, 3], 'scales': [2, 5], 'num_classes': 21}")
    rois = net_of(tmp_path, layer, score.shape, delta.shape, IMAGE.shape)(score, delta, IMAGE)
    # 16 * 16 / 0.333 = 27.7 ** 2: 28 wide, 28 * 0.333 = 9.3 high; 16 * 16 / 3 = 9.2 ** 2: 9 wide, 27 high
    anchors = [
        (7.5 - (w * s - 1) / 2, 7.5 - (h * s - 1) / 2, 7.5 + (w * s - 1) / 2, 7.5 + (h * s - 1) / 2)
        for w, h in ((28, 9), (9, 27))
        for s in (2, 5)
    ]
    want = by_hand(score.numpy(), delta.numpy(), anchors, 8, 24, before=6000, after=300, threshold=0.7)
    close(rois[:, 1:], numpy.array([box for _, box in want]), atol=1e-4)


def test_ssh_keeps_all_of_the_best(tmp_path: Path) -> None:
    score, delta = drawn(2)
    layer = python_layer("{'feat_stride': 8, 'scales': [1, 2], 'ratios': [1], 'base_size': 20}", "SSH.layers.proposal_layer")
    rois, scores = net_of(tmp_path, layer, score.shape, delta.shape, IMAGE.shape, tops=2)(score, delta, IMAGE).values()
    anchors = [(0, 0, 19, 19), (-10, -10, 29, 29)]
    want = by_hand(score.numpy(), delta.numpy(), anchors, 8, 0, before=1000, after=0, threshold=2)
    assert len(want) == 2 * H * W == len(scores)
    close(rois[:, 1:], numpy.array([box for _, box in want]), atol=1e-4)


@pytest.mark.parametrize(("module", "rois"), [("rpn.proposal_layer", 0), ("SSH.layers.proposal_layer", 1)])
def test_without_a_box_of_the_least_size_there_is_no_region(module: str, rois: int) -> None:
    score, delta = drawn()
    layer = ProposalLayer(16, min_size=1000, scores=True, fallback=(0, 0, 16, 16) if rois else None)
    found, scores = layer(score, delta, IMAGE)
    assert found.shape == (rois, 5) and scores.shape == (0, 1)


def test_equal_scores_keep_the_order_of_the_places() -> None:
    score, delta = torch.ones(1, 2, 2, 2), torch.zeros(1, 4, 2, 2)
    image = torch.tensor([[200.0, 200.0, 1.0, 1.0]])
    want = [[0, 0, 0, 16, 16], [0, 50, 0, 66, 16], [0, 0, 50, 16, 66], [0, 50, 50, 66, 66]]
    assert ProposalLayer(50, (1,), (1,))(score, delta, image).tolist() == want
    assert Proposal((1,), (1,), 50)(score, delta, image).tolist() == want


def test_small_boxes_stay_as_candidates_of_score_0_in_the_cpp_layer() -> None:
    score, delta = torch.rand(1, 2, 2, 2), torch.zeros(1, 4, 2, 2)
    image = torch.tensor([[200.0, 200.0, 1.0, 9.0]])  # the scale of the width counts for the width only
    rois, scores = Proposal((1,), (1,), 50, min_size=2, scores=True)(score, delta, image)
    assert len(rois) == 4 and not scores.any()
    rois, scores = Proposal((1,), (1,), 50, min_size=2, scores=True)(score, delta, image[:, [0, 1, 3, 2]])
    assert len(rois) == 4 and not scores.any()
    rois, scores = Proposal((1,), (1,), 50, min_size=16, scores=True)(score, delta, torch.tensor([[200.0, 200.0, 1.0, 1.0]]))
    assert scores.tolist() == sorted(score[0, 1].flatten().tolist(), reverse=True)


def test_boxes_a_pixel_apart_do_not_overlap_in_the_cpp_layer() -> None:
    """With sides of x2 - x1 + 1, boxes less than a pixel apart share an area in Python, and none in C++ (nms.cpp)."""
    score, delta = torch.ones(1, 2, 1, 2), torch.zeros(1, 4, 1, 2)
    image = torch.tensor([[200.0, 200.0, 1.0, 1.0]])
    assert len(ProposalLayer(16.5, (1,), (1,), nms_thresh=0.001)(score, delta, image)) == 1
    touching = Proposal((1,), (1,), 16, nms_thresh=0.001)
    assert len(touching(score, delta, image)) == 1
    touching.feat_stride = 16.5
    assert len(touching(score, delta, image)) == 2


SHAPES = [(1, 18, H, W), (1, 36, H, W), (1, 3)]
PVANET = [(1, 2, H, W), (1, 4, H, W), (1, 4)]
REFUSED: list[tuple[str, Any, str]] = [
    (python_layer(""), SHAPES, "has no feat_stride"),
    (python_layer("'feat_stride': 16, 'base_size': 4"), SHAPES, "param_str"),
    (python_layer("{'feat_stride': 16, 'base_size': 4}"), SHAPES, "does not read base_size"),
    (python_layer("{'feat_stride': 'x'}"), SHAPES, "are not positive numbers"),
    (python_layer("{'feat_stride': 16, 'scales': []}"), SHAPES, "are not positive numbers"),
    (python_layer("{'feat_stride': 16, 'ratios': [1, -1]}"), SHAPES, "are not positive numbers"),
    (python_layer("{'feat_stride': 16, 'scales': [8]}"), SHAPES, "with 3 anchors it takes scores (1, 6, H, W)"),
    (python_layer("'feat_stride': 16"), [(2, 18, H, W), (2, 36, H, W), (2, 3)], "of one image"),
    (python_layer("'feat_stride': 16"), [*SHAPES[:2], (1, 2)], "im_info"),
    (python_layer("'feat_stride': 16"), SHAPES[:2], "has 2 bottoms"),
    (python_layer("'feat_stride': 16", name="ProposalLayer2"), SHAPES, "rpn.proposal_layer.ProposalLayer2"),
    ('type: "Proposal" proposal_param { scale: 8 }', PVANET, "must be given"),
    ('type: "Proposal" proposal_param { scale: 8 ratio: 0 }', PVANET, "must be given"),
    ('type: "Proposal" proposal_param { scale: 8 ratio: 1 }', [*PVANET[:2], (1, 3)], "four numbers"),
    ('type: "Proposal" proposal_param { scale: 8 ratio: 1 scale: 2 }', PVANET, "with 2 anchors"),
    ('type: "Proposal" proposal_param { scale: 8 ratio: 1 post_nms_topn: 0 }', PVANET, "at least 1"),
    ('type: "Proposal" proposal_param { scale: 8 ratio: 1 iou_threshold: 0.7 }', PVANET, "proposal_param.iou_threshold"),
]


@pytest.mark.parametrize(("layer", "shapes", "told"), REFUSED, ids=[f"{i}-{row[2]}" for i, row in enumerate(REFUSED)])
def test_what_is_unclear_or_wrong_is_refused_by_name(layer: str, shapes: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="layer 'op' of type") as error:
        net_of(tmp_path, layer, *shapes)
    assert told in str(error.value)


def test_ssh_in_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="convert phase TEST"):
        net_of(tmp_path, python_layer("'feat_stride': 8", "SSH.layers.proposal_layer"), *SHAPES, phase="TRAIN")


FASTER_RCNN = """
input: "data" input_shape { dim: 1 dim: 3 dim: 64 dim: 96 } input: "im_info" input_shape { dim: 1 dim: 3 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 8 kernel_size: 8 stride: 8 weight_filler { type: "xavier" } } }
layer { name: "score" type: "Convolution" bottom: "conv" top: "score"
        convolution_param { num_output: 6 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "bbox" type: "Convolution" bottom: "conv" top: "bbox"
        convolution_param { num_output: 12 kernel_size: 1 weight_filler { type: "gaussian" std: 0.02 } } }
layer { name: "pairs" type: "Reshape" bottom: "score" top: "pairs" reshape_param { shape { dim: 0 dim: 2 dim: -1 dim: 0 } } }
layer { name: "prob" type: "Softmax" bottom: "pairs" top: "prob" }
layer { name: "back" type: "Reshape" bottom: "prob" top: "back" reshape_param { shape { dim: 0 dim: 6 dim: -1 dim: 0 } } }
layer { name: "proposal" type: "Python" bottom: "back" bottom: "bbox" bottom: "im_info" top: "rois"
        python_param { module: "rpn.proposal_layer" layer: "ProposalLayer" param_str: "{'feat_stride': 8, 'scales': [2]}" } }
layer { name: "pool" type: "ROIPooling" bottom: "conv" bottom: "rois" top: "pool"
        roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.125 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "cls_prob" type: "Softmax" bottom: "fc" top: "cls_prob" }
"""


def test_a_small_faster_rcnn_runs_for_as_many_regions_as_there_are(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(FASTER_RCNN)
    net = convert(path)
    x, im_info = draw(1, 3, 64, 96), torch.tensor([[64.0, 96.0, 1.0]])
    with torch.inference_mode():
        few = net(x, torch.tensor([[64.0, 96.0, 2.0]]), blobs=("rois", "cls_prob"))
        many = net(x, im_info, blobs=("rois", "cls_prob"))
        for found in (few, many):
            assert found["cls_prob"].shape == (len(found["rois"]), 5)
            close(found["cls_prob"].sum(1), torch.ones(len(found["rois"])))
        assert 0 < len(few["rois"]) < len(many["rois"])
        net.proposal.post_nms_topn = 3  # type: ignore[union-attr, assignment]
        best = net(x, im_info, blobs=("rois",))["rois"]
        assert torch.equal(best, many["rois"][:3])
        torch._dynamo.reset()
        close(torch.compile(net, backend="eager")(x, im_info), many["cls_prob"][:3])


def test_text_proposals_are_ctpn_s(tmp_path: Path) -> None:
    """Place by place, as layers/text_proposal_layer.py and anchor.py of tianzhi0549/CTPN do it under Python 2."""
    heights, (height, width) = [11, 16, 23, 33, 48, 68, 97, 139, 198, 283], (4, 3)
    ends = [(2, 12), (0, 15), (-3, 18), (-8, 23), (-16, 31), (-26, 41), (-40, 55), (-61, 76), (-91, 106), (-133, 148)]
    layer = 'type: "Python" python_param { module: "layers.text_proposal_layer" layer: "ProposalLayer" param_str: "\'feat_stride\': 16" }'
    shape = (1, 2 * len(heights), height, width)
    score, delta, info = draw(*shape), 0.5 * draw(*shape, seed=1), torch.tensor([[50.0, 45.0, 1.0]])
    made = net_of(tmp_path, layer, shape, shape, info.shape, tops=2)(score, delta, info)
    boxes, scores = [], []
    for y, x, a in itertools.product(range(height), range(width), range(10)):
        low, high = (end + 16 * y for end in ends[a])
        tall = math.exp(delta[0, 2 * a + 1, y, x]) * (high - low + 1)
        top = float(delta[0, 2 * a, y, x]) * (high - low + 1) + (low + high) / 2 - tall / 2
        box = [16 * x, top, 16 * x + 15, top + tall]
        boxes.append([min(max(value, 0), (44, 49)[i % 2]) for i, value in enumerate(box)])
        scores.append([float(score[0, 10 + a, y, x])])
    close(made["out0"], boxes, 1e-4)
    close(made["out1"], scores, 0)
