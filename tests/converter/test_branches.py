"""Layers and fields of branches and pull requests of BVLC Caffe that have no golden case, against numpy written from their sources."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from one_layer import close, draw, net_of

from converter import ConversionError


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


IMAGE = (1, 2, 8, 8)
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
    ],
)
def test_what_a_branch_s_code_cannot_do_is_refused_with_the_reason(layer: str, shapes: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="layer 'op' of type") as caught:
        net_of(tmp_path, layer, *shapes)
    assert reason in str(caught.value)
