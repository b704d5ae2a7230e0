"""R-C3D's windows in time against loops in numpy, written from lib/rpn/proposal_layer.py and roi_pooling_layer.cpp."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from one_layer import close, draw, net_of

from converter import ConversionError
from converter.errors import CaffezooWarning

PYTHON = 'type: "Python" python_param { module: "rpn.proposal_layer" layer: "ProposalLayer" param_str: "%s" }'
SCALES = (1, 2, 4)


def proposed(score: Any, delta: Any, stride: int, scales: Any, least: float, most: int) -> Any:
    """Windows one by one: first, last, score; best first."""
    anchors, steps = len(scales), score.shape[2]
    found = []
    for t in range(steps):
        for i, scale in enumerate(scales):
            first = 3.5 - (8 * scale - 1) / 2 + t * stride
            length = numpy.float32(8 * scale)
            middle = delta[0, 2 * i, t, 0, 0] * length + numpy.float32(first) + length / 2
            half = numpy.exp(delta[0, 2 * i + 1, t, 0, 0]) * length / 2
            low, high = (min(max(end, 0), steps * stride - 1) for end in (middle - half, middle + half))
            if high - low + 1 >= least:
                found.append((low, high, score[0, anchors + i, t, 0, 0]))
    kept: list[Any] = []
    for low, high, value in sorted(found, key=lambda window: -window[2]):
        shared = [max(min(high, b) - max(low, a) + 1, 0) for a, b, _ in kept]
        if all(s / (high - low + 1 + b - a + 1 - s) <= 0.7 for s, (a, b, _) in zip(shared, kept, strict=True)):
            kept.append((low, high, value))
    return numpy.array(kept[:most], "f4")


@pytest.mark.filterwarnings("ignore:.*R-C3D's config.py")
@pytest.mark.parametrize(("phase", "stride"), [("TEST", 8), ("TRAIN", 4)])
def test_windows_are_proposed_as_r_c3d_does(phase: str, stride: int, tmp_path: Path) -> None:
    shape = (1, 2 * len(SCALES), 40, 1, 1)
    score, delta = torch.sigmoid(draw(*shape)), 0.4 * draw(*shape, seed=1)
    layer = PYTHON % f"'feat_stride': {stride}\\n'scales': !!python/tuple [1, 2, 4]"
    made = net_of(tmp_path, layer, shape, shape, tops=2, phase=phase)(score, delta)
    want = proposed(score.numpy(), delta.numpy(), stride, SCALES, 8, 300)
    assert 10 < len(want) < 120  # some are too short, and some overlap
    close(made["out0"], numpy.hstack((numpy.zeros((len(want), 1)), want[:, :2])), 1e-4)
    close(made["out1"][:, 0], want[:, 2])


@pytest.mark.filterwarnings("ignore:.*R-C3D's config.py")
def test_no_more_windows_than_the_configuration_says_and_its_numbers_are_the_module_s(tmp_path: Path) -> None:
    shape = (1, 126, 200, 1, 1)
    net = net_of(tmp_path, PYTHON % "'feat_stride': 8", shape, shape)
    score, delta = draw(*shape), draw(*shape, seed=1)
    net.op.nms_thresh = 0.9
    assert len(net(score, delta)) == 300
    net.op.post_nms_topn = 7
    assert len(net(score, delta)) == 7


def test_that_the_numbers_are_not_in_the_prototxt_is_told(tmp_path: Path) -> None:
    with pytest.warns(CaffezooWarning, match=r"'op': its numbers \(nms_thresh 0.7, min_size 8, post_nms_topn 300\) are those of R-C3D"):
        net_of(tmp_path, PYTHON % "'feat_stride': 8", (1, 126, 9, 1, 1), (1, 126, 9, 1, 1))


def pooled(x: Any, rois: Any, size: tuple[int, ...], scale: float) -> Any:
    """Bin by bin."""
    out = numpy.zeros((len(rois), x.shape[1], *size), "f4")
    for r, (item, first, last) in enumerate(rois):
        begin, end = (math.floor(abs(v) * scale + 0.5) * (1 if v >= 0 else -1) for v in (first, last))
        length = max(end - begin + 1, 1)
        for bins in numpy.ndindex(size):
            ends = []
            for i, (side, start, places) in enumerate(((length, begin, x.shape[2]), (7, 0, x.shape[3]), (7, 0, x.shape[4]))):
                low, high = math.floor(bins[i] * side / size[i]) + start, math.ceil((bins[i] + 1) * side / size[i]) + start
                ends.append(slice(min(max(low, 0), places), min(max(high, 0), places)))
            part = x[int(item)][(slice(None), *ends)]
            if part[0].size:
                out[(r, slice(None), *bins)] = part.reshape(len(part), -1).max(1)
    return out


@pytest.mark.parametrize("size", [(1, 4, 4), (2, 3, 2)])
@pytest.mark.parametrize("places", [7, 9, 5])
def test_windows_are_pooled_as_r_c3d_does(size: tuple[int, int, int], places: int, tmp_path: Path) -> None:
    x = draw(2, 3, 12, places, places)
    rois = torch.tensor([[0, 0, 95], [1, 12, 20], [0, 44, 44], [1, 90, 140], [0, 200, 220], [1, -20, 11], [1, 20, 10]], dtype=torch.float32)
    fields = f"pooled_l: {size[0]} pooled_h: {size[1]} pooled_w: {size[2]} spatial_scale: 0.0625 temporal_scale: 0.125"
    net = net_of(tmp_path, f'type: "ROIPooling" roi_pooling_param {{ {fields} }}', x.shape, rois.shape)
    close(net(x, rois), pooled(x.numpy(), rois.numpy(), size, 0.125), 0)


@pytest.mark.parametrize(
    ("layer", "shapes", "reason"),
    [
        (PYTHON % "'feat_stride': 8\\n'ratios': [1]", [(1, 126, 4, 1, 1)] * 2, "not ratios"),
        (PYTHON % "'feat_stride': 8", [(1, 126, 4, 2, 1)] * 2, "of one clip"),
        (PYTHON % "'scales': [1]", [(1, 2, 4, 1, 1)] * 2, "feat_stride"),
        ('type: "ROIPooling" roi_pooling_param { pooled_l: 1 pooled_h: 2 pooled_w: 2 }', [(1, 2, 4, 7, 7), (3, 5)], r"windows \(R, 3\)"),
        ('type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 2 temporal_scale: 2 }', [(1, 2, 7, 7), (3, 5)], "takes pooled_l"),
    ],
)
def test_what_r_c3d_does_not_take_is_refused(layer: str, shapes: list[tuple[int, ...]], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=rf"layer 'op' of type.*{reason}"):
        net_of(tmp_path, layer, *shapes)
