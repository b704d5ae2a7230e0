"""DetectNet's ClusterDetections against OpenCV's own groupRectangles, which NVIDIA's Python layer calls."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from one_layer import close, net_of

from converter import ConversionError
from converter.layers.detectnet import _grouped

cv2 = pytest.importorskip("cv2", reason="the extra verify is not installed")
WIDTH, HEIGHT, STRIDE = 160, 96, 16
LAYER = 'type: "Python" python_param { module: "caffe.layers.detectnet.clustering" layer: "ClusterDetections" param_str: "%s" }'


def drawn_boxes(count: int, seed: int) -> Any:
    """Corners around three objects, with jitter, and some of their own."""
    rng = numpy.random.default_rng(seed)
    objects = numpy.array([[10, 10, 60, 50], [20, 20, 45, 40], [80, 30, 150, 90]])
    boxes = objects[rng.integers(0, 3, count)] + rng.integers(-4, 5, (count, 4))
    boxes[: count // 6] = rng.integers(0, 90, (count // 6, 4))
    return boxes


@pytest.mark.parametrize("threshold", [0, 1, 3, 5])
@pytest.mark.parametrize("eps", [0.02, 0.2, 1.0])
def test_rectangles_are_grouped_as_opencv_groups_them(threshold: int, eps: float) -> None:
    for seed in range(20):
        boxes = drawn_boxes(50, seed)
        means, sizes = cv2.groupRectangles(boxes.tolist(), threshold, eps)
        want = [(list(map(int, mean)), int(size)) for mean, size in zip(means, numpy.ravel(sizes), strict=True)]
        assert _grouped(torch.from_numpy(boxes), threshold, eps) == want


def clustered(coverage: Any, corners: Any, least: float, threshold: int, eps: float, low: int) -> Any:
    """clustering.py's cluster() of one class and one image, place by place."""
    boxes = []
    for y in range(coverage.shape[0]):
        for x in range(coverage.shape[1]):
            if coverage[y, x] >= numpy.float32(least):
                shift = numpy.array([x, y, x, y]) * STRIDE
                boxes.append([round(float(value)) for value in corners[:, y, x].astype("f8") + shift])
    means, sizes = cv2.groupRectangles(boxes, threshold, eps) if boxes else ([], [])
    rows = [[*mean, math.log(size)] for mean, size in zip(means, numpy.ravel(sizes), strict=True) if mean[3] - mean[1] >= low]
    result = numpy.zeros((50, 5))
    result[: len(rows)] = numpy.asarray(rows, "f2").reshape(-1, 5)
    return result


def drawn_maps(seed: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Places that agree on the corners of a few objects, with a noise of a pixel."""
    rng = numpy.random.default_rng(seed)
    rows, columns = numpy.mgrid[: HEIGHT // STRIDE, : WIDTH // STRIDE]
    places = numpy.stack((columns, rows, columns, rows)) * STRIDE
    objects = numpy.array([[8, 5, 70, 60], [60, 20, 150, 90], [33, 40, 90, 70]])
    which = rng.integers(0, 3, (2, *rows.shape))
    corners = objects[which].transpose(0, 3, 1, 2) - places + rng.normal(0, 1, (2, 4, *rows.shape))
    return torch.from_numpy(rng.random((2, classes, *rows.shape)).astype("f4")), torch.from_numpy(corners.astype("f4"))


@pytest.mark.parametrize(("classes", "least", "threshold"), [(1, 0.3, 3), (2, 0.5, 1), (1, 2.0, 3)])
def test_each_class_of_each_image_has_its_rows(classes: int, least: float, threshold: int, tmp_path: Path) -> None:
    coverage, corners = drawn_maps(1, classes)
    params = f"{WIDTH}, {HEIGHT}, {STRIDE}, {least}, {threshold}, 0.1, 35{f', {classes}' if classes > 1 else ''}"
    net = net_of(tmp_path, LAYER % params, coverage.shape, corners.shape, tops=classes)
    made = net(coverage, corners)
    for label, got in enumerate(made.values() if classes > 1 else [made]):
        want = [clustered(coverage[i, label].numpy(), corners[i].numpy(), least, threshold, 0.1, 35) for i in range(2)]
        close(got, numpy.stack(want), atol=0)
        assert bool(got.any()) == (least < 1)


@pytest.mark.parametrize(
    ("params", "shapes", "reason"),
    [
        ("160, 96, 16, 0.6, 3, 0.02", [(1, 1, 6, 10), (1, 4, 6, 10)], "7 or 8 numbers"),
        ("160, 90, 16, 0.6, 3, 0.02, 22", [(1, 1, 6, 10), (1, 4, 6, 10)], "no grid"),
        ("160, 96, 16, 0.6, 3, 0.02, 22, 2", [(1, 1, 6, 10), (1, 4, 6, 10)], "(N, 2, H, W)"),
        ("160, 96, 16, 0.6, 3, 0.02, 22", [(1, 1, 6, 10), (1, 4, 6, 9)], "(N, 4, H, W)"),
        ("160, 96, 16, 0.6, 3, 0.02, 22, 2", [(1, 2, 6, 10), (1, 4, 6, 10)], "a top for each"),
        ("160, 96, 16, 0.6, three, 0.02, 22", [(1, 1, 6, 10), (1, 4, 6, 10)], "three"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_reason(params: str, shapes: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="layer 'op' of type") as caught:
        net_of(tmp_path, LAYER % params, *shapes)
    assert reason in str(caught.value)
