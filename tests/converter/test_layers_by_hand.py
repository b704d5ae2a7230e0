"""Layer parameters that no golden case covers, each against loops written from Caffe's definition; and what Caffe's CHECKs refuse."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from converter.build.assemble import assemble, load
from converter.build.graph import Graph, build_graph
from converter.errors import ConversionError
from converter.net import CaffeNet
from converter.read.prototxt import parse_prototxt

Array = NDArray[Any]
FLT_MAX = float(np.finfo(np.float32).max)
FLT_MIN = float(np.finfo(np.float32).tiny)


# ------------------------------------------------------------------------------------------ one layer as a net


def text_of(kind: str, params: str, shapes: Sequence[Sequence[int]], tops: Sequence[str]) -> str:
    """A net of one layer, `it`, over inputs x0, x1, ..."""
    dims = [" ".join(f"dim: {d}" for d in shape) for shape in shapes]
    inputs = [f'layer {{ name: "x{i}" type: "Input" top: "x{i}" input_param {{ shape {{ {d} }} }} }}' for i, d in enumerate(dims)]
    blobs = " ".join([*(f'bottom: "x{i}"' for i in range(len(shapes))), *(f'top: "{top}"' for top in tops)])
    return "\n".join([*inputs, f'layer {{ name: "it" type: "{kind}" {blobs} {params} }}'])


def net_of(text: str) -> tuple[CaffeNet, dict[str, list[Array]]]:
    """The net with drawn parameters, and each layer's blobs as a caffemodel would hold them."""
    _, net, blobs = built(text)
    return net, blobs


def built(text: str) -> tuple[Graph, CaffeNet, dict[str, list[Array]]]:
    graph = build_graph(parse_prototxt(text))
    net = assemble(graph)
    load(net, graph, None)
    rng = np.random.default_rng(0)
    drawn: dict[str, list[Array]] = {}
    values = net.state_dict()
    for step in graph.steps:
        blobs = [rng.standard_normal(shape).astype(np.float32) for shape in step.shapes]
        tensors = [torch.from_numpy(np.ascontiguousarray(blob)) for blob in blobs]
        named = step.load(tensors) if step.load else {b.key: t for b, t in zip(step.params, tensors, strict=True)}
        values |= {f"{step.key}.{key}": value.reshape(values[f"{step.key}.{key}"].shape) for key, value in named.items()}
        drawn[step.name] = blobs
    net.load_state_dict(values)
    return graph, net, drawn


def outputs_of(kind: str, params: str, inputs: Sequence[Array], tops: Sequence[str] = ("y",)) -> tuple[list[Array], list[Array]]:
    """The layer's tops for these bottoms, of the shapes that were inferred, and its blobs."""
    graph, net, blobs = built(text_of(kind, params, [x.shape for x in inputs], tops))
    with torch.no_grad():
        found = net(*[torch.from_numpy(x) for x in inputs], blobs=tops)
    if kind != "Filter":  # how many items it keeps is data
        assert {top: tuple(found[top].shape) for top in tops} == {top: graph.shapes[graph.names[top]] for top in tops}
    return [found[top].numpy() for top in tops], blobs["it"]


def drawn(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def labels(*shape: int, classes: int, seed: int = 2) -> Array:
    return np.random.default_rng(seed).integers(0, classes, shape).astype(np.float32)


def same(found: Array, expected: Any, tolerance: float = 1e-5) -> None:
    wanted = np.asarray(expected, np.float64)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


# -------------------------------------------------------------------------------------------------- convolution


def convolved(
    x: Array, weight: Array, bias: Array | None, stride: Sequence[int], pad: Sequence[int], dilation: Sequence[int], group: int
) -> Array:
    """(N, C, *spatial), any number of axes: every product in its own step."""
    n, spatial = x.shape[0], x.shape[2:]
    outputs, per_group = weight.shape[0], weight.shape[1]
    out = [(s + 2 * p - d * (k - 1) - 1) // t + 1 for s, p, d, k, t in zip(spatial, pad, dilation, weight.shape[2:], stride, strict=True)]
    y = np.zeros((n, outputs, *out))
    for i, o in itertools.product(range(n), range(outputs)):
        for at in np.ndindex(*out):
            total = 0.0 if bias is None else float(bias[o])
            for c in range(per_group):
                channel = o // (outputs // group) * per_group + c
                for k in np.ndindex(*weight.shape[2:]):
                    where = tuple(a * t - p + j * d for a, t, p, j, d in zip(at, stride, pad, k, dilation, strict=True))
                    if all(0 <= w < s for w, s in zip(where, spatial, strict=True)):
                        total += float(x[(i, channel, *where)]) * float(weight[(o, c, *k)])
            y[(i, o, *at)] = total
    return y


def deconvolved(
    x: Array, weight: Array, bias: Array | None, stride: Sequence[int], pad: Sequence[int], dilation: Sequence[int], group: int
) -> Array:
    """The transpose: each input value is spread over its window. weight: (C, num_output / group, *kernel)."""
    n, channels, spatial = x.shape[0], x.shape[1], x.shape[2:]
    per_group = weight.shape[1]
    out = [t * (s - 1) + d * (k - 1) + 1 - 2 * p for s, p, d, k, t in zip(spatial, pad, dilation, weight.shape[2:], stride, strict=True)]
    y = np.zeros((n, per_group * group, *out))
    for i, c in itertools.product(range(n), range(channels)):
        for at in np.ndindex(*spatial):
            for o, k in itertools.product(range(per_group), np.ndindex(*weight.shape[2:])):
                where = tuple(a * t - p + j * d for a, t, p, j, d in zip(at, stride, pad, k, dilation, strict=True))
                if all(0 <= w < s for w, s in zip(where, out, strict=True)):
                    y[(i, c // (channels // group) * per_group + o, *where)] += float(x[(i, c, *at)]) * float(weight[(c, o, *k)])
    return y if bias is None else y + np.reshape(bias, (-1, *[1] * len(out)))


# params, bottom shape, channel axis, stride, pad, dilation, group
GEOMETRIES: dict[str, tuple[str, tuple[int, ...], int, list[int], list[int], list[int], int]] = {
    "no spatial axis": ("num_output: 3 kernel_size: 1", (4, 2), 1, [], [], [], 1),
    "no spatial axis and no kernel_size, in two groups": ("num_output: 4 group: 2", (3, 6), 1, [], [], [], 2),
    "one spatial axis": ("num_output: 3 kernel_size: 3 stride: 2 pad: 1", (2, 2, 7), 1, [2], [1], [1], 1),
    "one axis, dilated": ("num_output: 2 kernel_size: 2 dilation: 3", (1, 2, 9), 1, [1], [0], [3], 1),
    "two axes, kernel_h and kernel_w": (
        "num_output: 2 kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 2 pad_h: 0 pad_w: 1",
        (2, 2, 5, 4),
        1,
        [1, 2],
        [0, 1],
        [1, 1],
        1,
    ),
    "two axes, only pad_w": ("num_output: 2 kernel_size: 3 pad_w: 1", (1, 2, 5, 4), 1, [1, 1], [0, 1], [1, 1], 1),
    "two axes, one value each": (
        "num_output: 4 kernel_size: 3 kernel_size: 2 stride: 1 stride: 2 pad: 2 pad: 0 dilation: 2 dilation: 1 group: 2",
        (1, 4, 5, 6),
        1,
        [1, 2],
        [2, 0],
        [2, 1],
        2,
    ),
    "three spatial axes": (
        "num_output: 2 kernel_size: [2, 1, 3] stride: 2 pad: [1, 0, 1]",
        (1, 2, 3, 4, 5),
        1,
        [2, 2, 2],
        [1, 0, 1],
        [1, 1, 1],
        1,
    ),
    "four spatial axes": (
        "num_output: 2 kernel_size: 2 stride: [2, 1, 1, 2] pad: [0, 1, 0, 1] dilation: [1, 1, 2, 1]",
        (2, 2, 4, 2, 3, 3),
        1,
        [2, 1, 1, 2],
        [0, 1, 0, 1],
        [1, 1, 2, 1],
        1,
    ),
    "four spatial axes in groups": (
        "num_output: 4 kernel_size: 2 group: 2 bias_term: false",
        (1, 2, 2, 3, 2, 2),
        1,
        [1] * 4,
        [0] * 4,
        [1] * 4,
        2,
    ),
    "the channels on axis 2": ("num_output: 3 kernel_size: 2 axis: 2", (2, 3, 2, 4), 2, [1], [0], [1], 1),
    "the channels on axis 0": ("num_output: 3 kernel_size: 2 stride: 2 axis: 0", (2, 4, 5), 0, [2, 2], [0, 0], [1, 1], 1),
    "a negative axis": ("num_output: 2 kernel_size: 3 axis: -3", (2, 2, 4, 5), 1, [1, 1], [0, 0], [1, 1], 1),
    "axis -1: no spatial axis": ("num_output: 2 kernel_size: 1 axis: -1", (2, 3, 4), 2, [], [], [], 1),
    "axis -2 over two batch axes": ("num_output: 2 kernel_size: 3 pad: 1 axis: -2", (2, 3, 2, 4), 2, [1], [1], [1], 1),
}


@pytest.mark.parametrize("several", [1, 2], ids=["one bottom", "two bottoms"])
@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_convolution_is_the_sum_of_its_products(name: str, kind: str, several: int) -> None:
    params, shape, axis, *geometry = GEOMETRIES[name]
    inputs = [drawn(*shape, seed=i) for i in range(several)]
    tops = [f"y{i}" for i in range(several)]
    found, blobs = outputs_of(kind, f"convolution_param {{ {params} }}", inputs, tops)
    by_hand = convolved if kind == "Convolution" else deconvolved
    for x, y in zip(inputs, found, strict=True):
        whole = by_hand(x.reshape(-1, *shape[axis:]), blobs[0], blobs[1] if len(blobs) > 1 else None, *geometry)
        same(y, whole.reshape(*shape[:axis], *whole.shape[1:]))


IM2COLS = {
    "kernel_h and kernel_w": (
        "kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0",
        (2, 3, 5, 4),
        1,
        [3, 2],
        [2, 1],
        [1, 0],
        [1, 1],
    ),
    "dilated": ("kernel_size: 2 dilation: 2 pad: 1", (1, 2, 5, 5), 1, [2, 2], [1, 1], [1, 1], [2, 2]),
    "axis 2": ("kernel_size: 2 stride: 2 axis: 2", (2, 3, 2, 6), 2, [2], [2], [0], [1]),
    "axis -2": ("kernel_size: 3 axis: -2", (2, 2, 5), 1, [3], [1], [0], [1]),
    "three axes": ("kernel_size: 2", (1, 2, 3, 3, 2), 1, [2] * 3, [1] * 3, [0] * 3, [1] * 3),
}


@pytest.mark.parametrize("name", IM2COLS)
def test_im2col_lays_out_every_window_as_a_column(name: str) -> None:
    params, shape, axis, kernel, stride, pad, dilation = IM2COLS[name]
    x = drawn(*shape)
    (found,), _ = outputs_of("Im2col", f"convolution_param {{ {params} }}", [x])
    flat = x.reshape(-1, *shape[axis:])
    out = [(s + 2 * p - d * (k - 1) - 1) // t + 1 for s, k, t, p, d in zip(flat.shape[2:], kernel, stride, pad, dilation, strict=True)]
    columns = np.zeros((len(flat), flat.shape[1], *kernel, *out))
    for i, c in np.ndindex(*flat.shape[:2]):
        for k, at in itertools.product(np.ndindex(*kernel), np.ndindex(*out)):
            where = tuple(a * t - p + j * d for a, t, p, j, d in zip(at, stride, pad, k, dilation, strict=True))
            if all(0 <= w < s for w, s in zip(where, flat.shape[2:], strict=True)):
                columns[(i, c, *k, *at)] = flat[(i, c, *where)]
    same(found, columns.reshape(*shape[:axis], -1, *out), 0)


# ------------------------------------------------------------------------------------------------------ pooling


def pooled(x: Array, mode: str, kernel: tuple[int, int], stride: tuple[int, int], pad: tuple[int, int], floor: bool) -> tuple[Array, Array]:
    """Values and mask, window by window as pooling_layer.cpp (STOCHASTIC: pooling_layer.cu at test time)."""
    size = x.shape[2:]
    n = []
    for i in (0, 1):
        room = (size[i] + 2 * pad[i] - kernel[i]) / stride[i]
        n.append(int(math.floor(room) if floor else math.ceil(room)) + 1)
    if any(pad):
        n = [n[i] - 1 if (n[i] - 1) * stride[i] >= size[i] + pad[i] else n[i] for i in (0, 1)]
    y, mask = np.zeros((*x.shape[:2], *n)), np.full((*x.shape[:2], *n), -1.0)
    for b, c, ph, pw in np.ndindex(*y.shape):
        start = [ph * stride[0] - pad[0], pw * stride[1] - pad[1]]
        end = [min(start[i] + kernel[i], size[i] + pad[i]) for i in (0, 1)]
        count = (end[0] - start[0]) * (end[1] - start[1])
        cells = [(h, w) for h in range(max(start[0], 0), min(end[0], size[0])) for w in range(max(start[1], 0), min(end[1], size[1]))]
        values = [float(x[b, c, h, w]) for h, w in cells]
        if mode == "MAX":
            best, index = -FLT_MAX, -1
            for value, (h, w) in zip(values, cells, strict=True):
                if value > best:
                    best, index = value, h * size[1] + w
            y[b, c, ph, pw], mask[b, c, ph, pw] = best, index
        elif mode == "AVE":
            y[b, c, ph, pw] = sum(values) / count
        else:
            y[b, c, ph, pw] = sum(v * v for v in values) / sum(values) if sum(values) > 0 else 0
    return y, mask


POOLS = {
    "FLOOR": ("kernel_size: 3 stride: 2 round_mode: FLOOR", (3, 3), (2, 2), (0, 0), (1, 2, 6, 8)),
    "FLOOR with padding": ("kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR", (3, 3), (2, 2), (1, 1), (2, 1, 6, 7)),
    "CEIL with padding, the last window clipped": ("kernel_size: 2 stride: 2 pad: 1", (2, 2), (2, 2), (1, 1), (1, 2, 5, 6)),
    "a pad in one direction": ("kernel_h: 2 kernel_w: 3 pad_h: 0 pad_w: 1 stride_h: 2 stride_w: 2", (2, 3), (2, 2), (0, 1), (1, 1, 5, 6)),
    "a stride above the kernel": ("kernel_size: 2 stride: 3", (2, 2), (3, 3), (0, 0), (1, 2, 8, 11)),
    "a stride above the kernel in one direction": ("kernel_h: 3 kernel_w: 1 stride_h: 1 stride_w: 2", (3, 1), (1, 2), (0, 0), (1, 1, 4, 7)),
    "a pad above half the kernel": ("kernel_size: 3 stride: 2 pad: 2", (3, 3), (2, 2), (2, 2), (1, 2, 5, 5)),
    "a pad above half the kernel, FLOOR": ("kernel_size: 4 stride: 3 pad: 3 round_mode: FLOOR", (4, 4), (3, 3), (3, 3), (1, 1, 7, 6)),
}


@pytest.mark.parametrize("mode", ["MAX", "AVE", "STOCHASTIC"])
@pytest.mark.parametrize("name", POOLS)
def test_pooling_takes_every_window_as_caffe_does(name: str, mode: str) -> None:
    params, kernel, stride, pad, shape = POOLS[name]
    if mode == "STOCHASTIC" and pad != (0, 0):
        with pytest.raises(ConversionError, match="STOCHASTIC"):
            net_of(text_of("Pooling", f"pooling_param {{ pool: {mode} {params} }}", [shape], ["y"]))
        return
    x = drawn(*shape)
    x = np.abs(x) if mode == "STOCHASTIC" else x
    expected, mask = pooled(x, mode, kernel, stride, pad, "FLOOR" in params)
    (found,), _ = outputs_of("Pooling", f"pooling_param {{ pool: {mode} {params} }}", [x])
    same(found, expected)
    if mode == "MAX":
        (found, found_mask), _ = outputs_of("Pooling", f"pooling_param {{ {params} }}", [x], ("y", "mask"))
        same(found, expected, 0)
        same(found_mask, mask, 0)


def test_a_window_of_stochastic_pooling_without_positive_values_gives_zero() -> None:
    x = np.array([[-1, -2, 3, 1], [0, 0, 2, 0]], np.float32).reshape(1, 1, 2, 4)
    (found,), _ = outputs_of("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }", [x])
    same(found, np.array([0, (9 + 1 + 4) / 6]).reshape(1, 1, 1, 2))


@pytest.mark.parametrize("mode", ["MAX", "AVE", "STOCHASTIC"])
def test_global_pooling_takes_the_whole_image_of_any_size(mode: str) -> None:
    x = np.abs(drawn(2, 3, 4, 5))
    expected, mask = pooled(x, mode, (4, 5), (1, 1), (0, 0), False)
    (found,), _ = outputs_of("Pooling", f"pooling_param {{ pool: {mode} global_pooling: true }}", [x])
    same(found, expected)
    if mode == "MAX":
        (_, found_mask), _ = outputs_of("Pooling", "pooling_param { global_pooling: true }", [x], ("y", "mask"))
        same(found_mask, mask, 0)


# -------------------------------------------------------------------------------------------------- normalization


@pytest.mark.parametrize(
    ("size", "alpha", "beta", "k"), [(5, 2.0, 0.75, 3.0), (3, 1.0, 0.5, 0.25), (1, 0.5, 1.0, 2.0), (7, 1e-4, 0.75, 2.0)]
)
def test_lrn_across_channels_divides_alpha_by_the_size_and_adds_k(size: int, alpha: float, beta: float, k: float) -> None:
    x = drawn(2, 6, 2, 3)
    (found,), _ = outputs_of("LRN", f"lrn_param {{ local_size: {size} alpha: {alpha} beta: {beta} k: {k} }}", [x])
    expected = np.zeros(x.shape)
    for n, c, h, w in np.ndindex(*x.shape):
        near = x[n, max(c - size // 2, 0) : c + size // 2 + 1, h, w].astype(np.float64)
        expected[n, c, h, w] = x[n, c, h, w] / (k + alpha / size * (near**2).sum()) ** beta
    same(found, expected)


def test_lrn_within_a_channel_divides_by_the_whole_window_and_ignores_k() -> None:
    x, size, alpha, beta = drawn(1, 2, 4, 3), 3, 2.0, 0.75
    (found,), _ = outputs_of("LRN", f"lrn_param {{ norm_region: WITHIN_CHANNEL local_size: {size} alpha: {alpha} beta: {beta} k: 5 }}", [x])
    expected = np.zeros(x.shape)
    for n, c, h, w in np.ndindex(*x.shape):
        near = x[n, c, max(h - 1, 0) : h + 2, max(w - 1, 0) : w + 2].astype(np.float64)
        expected[n, c, h, w] = x[n, c, h, w] * (1 + alpha * (near**2).sum() / size**2) ** -beta
    same(found, expected)


@pytest.mark.parametrize("shape", [(3, 4, 2, 2), (1, 4, 3, 2), (5, 3), (1, 3), (1, 2, 1, 1), (6,), (2, 3, 4), (2, 2, 2, 2, 2)])
def test_batch_norm_without_global_statistics_takes_those_of_the_batch_in_the_test_phase(shape: tuple[int, ...]) -> None:
    x = drawn(*shape)
    (found,), _ = outputs_of("BatchNorm", "batch_norm_param { use_global_stats: false eps: 0.01 }", [x])
    rows = x.astype(np.float64).reshape(shape[0], shape[1] if len(shape) > 1 else 1, -1)
    mean = rows.mean((0, 2), keepdims=True)
    variance = ((rows - mean) ** 2).mean((0, 2), keepdims=True)
    same(found, ((rows - mean) / np.sqrt(variance + 0.01)).reshape(shape))


def test_batch_norm_divides_its_sums_by_the_factor() -> None:
    x = drawn(2, 3, 2, 2)
    net, _ = net_of(text_of("BatchNorm", "", [x.shape], ["y"]))
    graph = build_graph(parse_prototxt(text_of("BatchNorm", "batch_norm_param { eps: 0.5 }", [x.shape], ["y"])))
    mean, variance = np.array([1, 2, 3], np.float32), np.array([4, 5, 6], np.float32)
    for factor, divisor in ((2.0, 2.0), (0.0, math.inf), (0.5, 0.5)):
        values = graph.steps[0].load([torch.from_numpy(mean), torch.from_numpy(variance), torch.tensor([factor])])
        net.load_state_dict({f"it.{key}": value for key, value in values.items()})
        with torch.no_grad():
            found = net(torch.from_numpy(x)).numpy()
        m, v = (a.astype(np.float64).reshape(1, 3, 1, 1) / divisor for a in (mean, variance))
        same(found, (x - m) / np.sqrt(v + 1e-5), 1e-4)


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("variance", [False, True])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4), (2, 3, 2, 2)])
def test_mvn_takes_each_image_or_each_channel_of_it(shape: tuple[int, ...], variance: bool, across: bool) -> None:
    x = drawn(*shape)
    params = f"mvn_param {{ normalize_variance: {str(variance).lower()} across_channels: {str(across).lower()} eps: 0.1 }}"
    (found,), _ = outputs_of("MVN", params, [x])
    rows = x.astype(np.float64).reshape(shape[0] if across else shape[0] * shape[1], -1)
    expected = rows - rows.mean(1, keepdims=True)
    if variance:
        expected /= np.sqrt((expected**2).mean(1, keepdims=True)) + 0.1
    same(found, expected.reshape(shape))


@pytest.mark.parametrize("axis", [0, 1, 3, -1, -3])
def test_softmax_counts_a_negative_axis_from_the_end(axis: int) -> None:
    x = drawn(2, 3, 2, 4)
    (found,), _ = outputs_of("Softmax", f"softmax_param {{ axis: {axis} }}", [x])
    e = np.exp(x.astype(np.float64))
    same(found, e / e.sum(axis, keepdims=True))


# ---------------------------------------------------------------------------------------------------- elementwise

X = np.array([[-2.0, -0.5, 0.0], [0.25, 1.0, 3.0]], np.float32)
ELEMENTWISE: dict[str, tuple[str, str, Callable[[Array], Any], Array]] = {
    "Exp to the base e": ("Exp", "", np.exp, X),
    "Exp, base -1 is e": ("Exp", "exp_param { base: -1 scale: 2 shift: 1 }", lambda x: np.exp(1 + 2 * x), X),
    "Exp to the base 2": ("Exp", "exp_param { base: 2 scale: 0.5 shift: -3 }", lambda x: 2.0 ** (0.5 * x - 3), X),
    "Exp to the base 1": ("Exp", "exp_param { base: 1 shift: 4 }", lambda x: np.ones_like(x), X),
    "Exp to a base below 1": ("Exp", "exp_param { base: 0.5 }", lambda x: 0.5**x, X),
    "Exp with scale 0": ("Exp", "exp_param { scale: 0 shift: 2 }", lambda x: np.full_like(x, math.exp(2)), X),
    "Log to the base e": ("Log", "log_param { shift: 3 }", lambda x: np.log(x + 3), X),
    "Log, base -1 is e": ("Log", "log_param { base: -1 scale: 2 shift: 5 }", lambda x: np.log(2 * x + 5), X),
    "Log to the base 10": ("Log", "log_param { base: 10 scale: 0.5 shift: 2 }", lambda x: np.log10(0.5 * x + 2), X),
    "Log to a base below 1": ("Log", "log_param { base: 0.5 shift: 3 }", lambda x: np.log(x + 3) / math.log(0.5), X),
    "Log with scale 0": ("Log", "log_param { scale: 0 shift: 2 }", lambda x: np.full_like(x, math.log(2)), X),
    "Power 1": ("Power", "power_param { scale: -3 shift: 0.5 }", lambda x: 0.5 - 3 * x, X),
    "Power 0 is one, even of infinities": (
        "Power",
        "power_param { power: 0 scale: 2 }",
        np.ones_like,
        np.array([-np.inf, 0, np.inf, np.nan], np.float32),
    ),
    "Power with scale 0 ignores the bottom": (
        "Power",
        "power_param { power: 2 scale: 0 shift: 3 }",
        lambda x: np.full_like(x, 9),
        np.array([-np.inf, 0, np.inf, np.nan], np.float32),
    ),
    "Power with power 1 and scale 0": (
        "Power",
        "power_param { scale: 0 shift: 3 }",
        lambda x: np.full_like(x, 3),
        np.array([np.inf, 1, np.nan], np.float32),
    ),
    "Power 2 of negative values": ("Power", "power_param { power: 2 }", np.square, X),
    "Power -1": ("Power", "power_param { power: -1 shift: 5 }", lambda x: 1 / (x + 5), X),
    "Power 0.5": ("Power", "power_param { power: 0.5 shift: 5 }", lambda x: np.sqrt(x + 5), X),
    "Threshold is strict": ("Threshold", "threshold_param { threshold: 0.25 }", lambda x: x > 0.25, X),
    "Clip": ("Clip", "clip_param { min: -0.75 max: 1.5 }", lambda x: np.clip(x, -0.75, 1.5), X),
    "Swish": ("Swish", "swish_param { beta: -2 }", lambda x: x / (1 + np.exp(2 * x)), X),
    "ELU": ("ELU", "elu_param { alpha: 0.3 }", lambda x: np.where(x > 0, x, 0.3 * (np.exp(x) - 1)), X),
    "ReLU with a slope": ("ReLU", "relu_param { negative_slope: 0.3 }", lambda x: np.where(x > 0, x, 0.3 * x), X),
    "ReLU with a slope above one": ("ReLU", "relu_param { negative_slope: 2 }", lambda x: np.where(x > 0, x, 2 * x), X),
    "BNLL of large values": (
        "BNLL",
        "",
        lambda x: np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0),
        np.array([-100, -5, 0, 19.9, 20.1, 100], np.float32),
    ),
    "Dropout passes on": ("Dropout", "dropout_param { dropout_ratio: 0.9 }", lambda x: x, X),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_layers_compute_their_definition(name: str) -> None:
    kind, params, function, x = ELEMENTWISE[name]
    (found,), _ = outputs_of(kind, params, [x])
    same(found, function(x.astype(np.float64)))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 2, 2)])
def test_prelu_has_one_slope_a_channel_or_one_for_all(shape: tuple[int, ...], shared: bool) -> None:
    x = drawn(*shape)
    (found,), (slope,) = outputs_of("PReLU", f"prelu_param {{ channel_shared: {str(shared).lower()} }}", [x])
    assert slope.shape == (() if shared else (shape[1],))
    slopes = slope if shared else slope.reshape(-1, *[1] * (len(shape) - 2))
    same(found, np.where(x > 0, x, slopes * x))


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize(
    ("params", "function"),
    [
        ("operation: MAX", lambda xs: np.max(xs, 0)),
        ("operation: PROD", lambda xs: np.prod(xs, 0)),
        ("", lambda xs: np.sum(xs, 0)),
        ("COEFF", lambda xs: sum((i - 1.5) * x for i, x in enumerate(xs))),
    ],
)
def test_eltwise_takes_any_number_of_bottoms(params: str, function: Callable[[Any], Array], count: int) -> None:
    inputs = [drawn(2, 3, 2, seed=i) for i in range(count)]
    coeff = " ".join(f"coeff: {i - 1.5}" for i in range(count))
    (found,), _ = outputs_of("Eltwise", f"eltwise_param {{ {params.replace('COEFF', coeff)} }}", inputs)
    same(found, function([x.astype(np.float64) for x in inputs]))


@pytest.mark.parametrize(
    ("params", "shapes", "axis", "extent"),
    [
        ("axis: 0 num_axes: -1", [(2, 3, 2)], 0, (2, 3, 2)),
        ("axis: 1 num_axes: 2", [(2, 3, 4, 2)], 1, (3, 4)),
        ("axis: -2 num_axes: 1", [(2, 3, 4, 2)], 2, (4,)),
        ("num_axes: 0", [(2, 3)], 1, ()),
        ("axis: 0", [(2, 3, 4), (2,)], 0, (2,)),
        ("axis: 1", [(2, 3, 4), (3, 4)], 1, (3, 4)),
        ("axis: 2", [(2, 3, 4), ()], 0, ()),
        ("axis: -1", [(2, 3, 4), (4,)], 2, (4,)),
    ],
)
def test_scale_and_bias_lie_along_their_axes(params: str, shapes: list[tuple[int, ...]], axis: int, extent: tuple[int, ...]) -> None:
    inputs = [drawn(*shape) for shape in shapes]
    x = inputs[0]

    def laid(term: Array) -> Array:
        return term.reshape(*[1] * axis, *extent, *[1] * (x.ndim - axis - len(extent))).astype(np.float64)

    (found,), blobs = outputs_of("Bias", f"bias_param {{ {params} }}", inputs)
    same(found, x + laid(inputs[1] if len(inputs) > 1 else blobs[0]))
    (found,), blobs = outputs_of("Scale", f"scale_param {{ {params} bias_term: true }}", inputs)
    factor, bias = (inputs[1], blobs[0]) if len(inputs) > 1 else blobs
    same(found, x * laid(factor) + laid(bias))


# ---------------------------------------------------------------------------------------------- shapes and indices


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("shape { dim: 0 dim: -1 }", (2, 12)),
        ("shape { dim: 4 dim: 0 dim: 2 }", (4, 3, 2)),
        ("shape { dim: -1 }", (24,)),
        ("shape { dim: 2 dim: 6 } axis: 1", (2, 2, 6)),
        ("shape { dim: 6 } axis: 1 num_axes: 1", None),
        ("shape { dim: 3 dim: 1 } axis: 1 num_axes: 1", (2, 3, 1, 4)),
        ("shape { dim: 12 } axis: -3 num_axes: 2", (2, 12)),
        ("shape { dim: 2 dim: 2 } axis: -2", (2, 3, 2, 2)),
        ("shape { dim: 1 } axis: -1 num_axes: 0", (2, 3, 4, 1)),
        ("shape { dim: 1 dim: 1 } axis: 0 num_axes: 0", (1, 1, 2, 3, 4)),
        ("shape { dim: 1 } axis: 3", (2, 3, 4, 1)),
        ("axis: 1 num_axes: 0", (2, 3, 4)),
        ("shape { dim: 0 dim: 0 dim: 0 dim: 1 }", (2, 3, 4, 1)),
        ("shape { dim: 0 dim: 0 dim: 0 dim: 0 }", None),
        ("shape { dim: -1 dim: -1 }", None),
        ("shape { dim: 5 dim: -1 }", None),
        ("shape { dim: 1 } axis: 4", None),
        ("shape { dim: 1 } axis: -5", None),
        ("shape { dim: 24 } num_axes: 4", None),
        ("shape { dim: 24 } num_axes: -2", None),
        ("shape { dim: 7 }", None),
    ],
)
def test_reshape_replaces_axes_or_refuses(params: str, expected: tuple[int, ...] | None) -> None:
    x = drawn(2, 3, 4)
    text = f"reshape_param {{ {params} }}"
    if expected is None:
        with pytest.raises(ConversionError, match="'it' of type 'Reshape'"):
            outputs_of("Reshape", text, [x])
        return
    (found,), _ = outputs_of("Reshape", text, [x])
    same(found, x.reshape(expected), 0)


@pytest.mark.parametrize(
    ("params", "cuts", "axis"),
    [
        ("slice_point: 1 slice_point: 4", [1, 4], 1),
        ("slice_dim: 1 slice_point: 2 slice_point: 3", [2, 3], 1),
        ("slice_dim: 0", [1, 2], 0),
        ("axis: -1", [3, 6], 2),
        ("axis: -2", [2, 4], 1),
        ("", [2, 4], 1),
    ],
)
def test_slice_cuts_at_its_points_or_into_equal_parts(params: str, cuts: list[int], axis: int) -> None:
    x = drawn(3, 6, 9)
    found, _ = outputs_of("Slice", f"slice_param {{ {params} }}", [x], ("a", "b", "c"))
    for part, expected in zip(found, np.split(x, cuts, axis), strict=True):
        same(part, expected, 0)


@pytest.mark.parametrize("kind", ["Slice", "Split"])
def test_a_single_top_of_slice_or_split_is_the_bottom(kind: str) -> None:
    x = drawn(2, 3)
    text = text_of(kind, "", [x.shape], ["a"]) + '\nlayer { name: "after" type: "Power" bottom: "a" top: "y" power_param { scale: 2 } }'
    net, _ = net_of(text)
    same(net(torch.from_numpy(x)).numpy(), 2 * x)


@pytest.mark.parametrize(("params", "axis"), [("axis: -1", 2), ("axis: -3", 0), ("concat_dim: 2", 2), ("concat_dim: 0", 0), ("", 1)])
def test_concat_joins_along_its_axis(params: str, axis: int) -> None:
    shapes = [[2, 3, 4] for _ in range(3)]
    for i in range(3):
        shapes[i][axis] = i + 1
    inputs = [drawn(*shape) for shape in shapes]
    (found,), _ = outputs_of("Concat", f"concat_param {{ {params} }}", inputs)
    same(found, np.concatenate(inputs, axis), 0)


def test_concat_and_eltwise_of_one_bottom() -> None:
    x = drawn(2, 3)
    (found,), _ = outputs_of("Concat", "", [x])
    same(found, x, 0)
    with pytest.raises(ConversionError, match="1 bottom; it takes 2 or more"):
        outputs_of("Eltwise", "", [x])


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize(
    ("operation", "function"), [("SUM", lambda x: x), ("ASUM", np.abs), ("SUMSQ", np.square), ("MEAN", lambda x: x / x.shape[-1])]
)
def test_reduction_folds_the_axis_and_all_behind_it(operation: str, function: Callable[[Array], Array], axis: int) -> None:
    x = drawn(2, 3, 4)
    (found,), _ = outputs_of("Reduction", f"reduction_param {{ operation: {operation} axis: {axis} coeff: -1.5 }}", [x])
    rows = x.astype(np.float64).reshape(*x.shape[: axis % 3], -1)
    same(found, -1.5 * function(rows).sum(-1))


@pytest.mark.parametrize(("params", "shape"), [("tiles: 3", (2, 9, 2)), ("tiles: 2 axis: 0", (4, 3, 2)), ("tiles: 2 axis: -1", (2, 3, 4))])
def test_tile_repeats_whole_blocks(params: str, shape: tuple[int, ...]) -> None:
    x = drawn(2, 3, 2)
    (found,), _ = outputs_of("Tile", f"tile_param {{ {params} }}", [x])
    expected = np.zeros(shape)
    for at in np.ndindex(*shape):
        expected[at] = x[tuple(a % n for a, n in zip(at, x.shape, strict=True))]
    same(found, expected, 0)


@pytest.mark.parametrize(
    ("params", "start"),
    [
        ("axis: 1 offset: 1", (0, 1, 1, 1)),
        ("offset: 2 offset: 0", (0, 0, 2, 0)),
        ("axis: -1 offset: 2", (0, 0, 0, 2)),
        ("axis: 2", (0, 0, 0, 0)),
    ],
)
def test_crop_begins_at_its_offsets(params: str, start: tuple[int, ...]) -> None:
    x = drawn(2, 4, 5, 6)
    axis = {"axis: 1 offset: 1": 1, "axis: -1 offset: 2": 3}.get(params, 2)
    like = drawn(2, 3 if axis == 1 else 4, 2 if axis < 3 else 5, 3)
    (found,), _ = outputs_of("Crop", f"crop_param {{ {params} }}", [x, like])
    ends = tuple(s + (like.shape[i] if i >= axis else x.shape[i]) for i, s in enumerate(start))
    same(found, x[tuple(slice(s, e) for s, e in zip(start, ends, strict=True))], 0)


@pytest.mark.parametrize("out_max_val", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 4), (2, 3, 2, 2)])
def test_argmax_takes_the_later_of_equal_values_first(shape: tuple[int, ...], axis: int | None, out_max_val: bool) -> None:
    x = labels(*shape, classes=3)  # many ties
    params = f"top_k: 2 out_max_val: {str(out_max_val).lower()}" + ("" if axis is None else f" axis: {axis}")
    (found,), _ = outputs_of("ArgMax", f"argmax_param {{ {params} }}", [x])
    rows = x.reshape(shape[0], -1) if axis is None else np.moveaxis(x, axis, -1)
    order = np.array([sorted(range(len(row)), key=lambda i: (row[i], i), reverse=True)[:2] for row in rows.reshape(-1, rows.shape[-1])])
    order = order.reshape(*rows.shape[:-1], 2)
    values = np.take_along_axis(rows, order, -1)
    if axis is None:
        both = np.stack([order, values], 1) if out_max_val else order[:, None]
        same(found, both.reshape(both.shape + (1,) * max(len(shape) - 3, 0)), 0)
    else:
        same(found, np.moveaxis(values if out_max_val else order, -1, axis), 0)


@pytest.mark.parametrize("keep", [(1, 0, 2, 0), (0, 0, 0, 0), (1, 1, 1, 1)])
def test_filter_keeps_the_same_items_of_every_bottom(keep: tuple[int, ...]) -> None:
    a, b, selector = drawn(4, 3), drawn(4, 2, 2), np.array(keep, np.float32)
    found, _ = outputs_of("Filter", "", [a, b, selector], ("fa", "fb"))
    same(found[0], a[selector != 0], 0)
    same(found[1], b[selector != 0], 0)
    (one,), _ = outputs_of("Filter", "", [b, selector.reshape(4, 1, 1)])
    same(one, b[selector != 0], 0)


def test_silence_takes_blobs_off_the_outputs() -> None:
    text = text_of("Split", "", [(2, 3)], ["a", "b", "c"]) + '\nlayer { name: "quiet" type: "Silence" bottom: "a" bottom: "c" }'
    net, _ = net_of(text)
    x = torch.from_numpy(drawn(2, 3))
    assert net.outputs == ("b",)
    assert torch.equal(net(x), x)


def test_parameter_is_a_blob_of_its_own() -> None:
    text = 'layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 2 dim: 3 } } }'
    net, blobs = net_of(
        text_of("Power", "", [(2, 3)], ["y"]) + text + 'layer { name: "sum" type: "Eltwise" bottom: "y" bottom: "p" top: "z" }'
    )
    x = drawn(2, 3)
    with torch.no_grad():
        found = net(torch.from_numpy(x))
    assert net.outputs == ("z",)
    same(found.numpy(), x + blobs["p"][0])


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_inner_product_makes_one_row_of_the_axes_from_its_own_on(axis: int, transpose: bool) -> None:
    x = drawn(2, 3, 4)
    (found,), (weight, bias) = outputs_of(
        "InnerProduct", f"inner_product_param {{ num_output: 5 axis: {axis} transpose: {str(transpose).lower()} }}", [x]
    )
    rows = x.reshape(*x.shape[: axis % 3], -1)
    assert weight.shape == ((rows.shape[-1], 5) if transpose else (5, rows.shape[-1]))
    same(found, rows.astype(np.float64) @ (weight if transpose else weight.T) + bias)


def test_embed_looks_up_rows_for_indices_of_any_shape() -> None:
    index = labels(2, 3, 1, classes=6)
    (found,), (weight, bias) = outputs_of("Embed", "embed_param { num_output: 4 input_dim: 6 }", [index])
    same(found, weight[index.astype(int)] + bias)
    (found,), (weight,) = outputs_of("Embed", "embed_param { num_output: 4 input_dim: 6 bias_term: false }", [index])
    same(found, weight[index.astype(int)])


def test_batch_reindex_may_repeat_and_leave_out_items() -> None:
    x, index = drawn(3, 2, 2), np.array([2, 0, 2, 2], np.float32)
    (found,), _ = outputs_of("BatchReindex", "", [x, index])
    same(found, x[[2, 0, 2, 2]], 0)


@pytest.mark.parametrize("mode", ["MAX", "AVE"])
@pytest.mark.parametrize("size", [(7, 6), (8, 9), (4, 4)])
def test_spp_pools_into_ever_smaller_windows(size: tuple[int, int], mode: str) -> None:
    x = drawn(2, 2, *size)
    (found,), _ = outputs_of("SPP", f"spp_param {{ pyramid_height: 3 pool: {mode} }}", [x])
    parts = []
    for bins in (1, 2, 4):
        kernel = (math.ceil(size[0] / bins), math.ceil(size[1] / bins))
        pad = ((kernel[0] * bins - size[0] + 1) // 2, (kernel[1] * bins - size[1] + 1) // 2)
        parts.append(pooled(x, mode, kernel, kernel, pad, False)[0].reshape(2, -1))
    same(found, np.concatenate(parts, 1))


# ------------------------------------------------------------------------------------------------------ recurrent


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def unrolled(kind: str, x: Array, cont: Array, static: Array | None, blobs: list[Array], states: list[Array]) -> tuple[Array, list[Array]]:
    """One time step after the other, in double precision."""
    values = [b.astype(np.float64) for b in blobs]
    weight_x, bias = values[:2]
    weight_static = values[2] if static is not None else None
    weight_h, *out = values[3 if static is not None else 2 :]
    tops = []
    for t in range(len(x)):
        begun = cont[t][:, None]
        gates = x[t].reshape(x.shape[1], -1) @ weight_x.T + bias + (begun * states[0]) @ weight_h.T
        if static is not None and weight_static is not None:
            gates = gates + static.reshape(len(static), -1) @ weight_static.T
        if kind == "RNN":
            states = [np.tanh(gates)]
            tops.append(np.tanh(states[0] @ out[0].T + out[1]))
        else:
            i, f, o, g = np.split(gates, 4, 1)
            c = begun * sigmoid(f) * states[1] + sigmoid(i) * np.tanh(g)
            states = [sigmoid(o) * np.tanh(c), c]
            tops.append(states[0])
    return np.stack(tops), states


@pytest.mark.parametrize("exposed", [False, True], ids=["hidden", "exposed"])
@pytest.mark.parametrize("with_static", [False, True], ids=["", "static"])
@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_recurrent_layers_begin_anew_where_cont_is_zero(kind: str, with_static: bool, exposed: bool) -> None:
    steps, batch, size = 5, 3, 4
    x, static = drawn(steps, batch, 2, 3), drawn(batch, 2, 2)
    cont = np.ones((steps, batch), np.float32)
    cont[0], cont[2, 1], cont[3, 0] = int(exposed), 0, 0  # sequences also begin in the middle
    count = {"RNN": 1, "LSTM": 2}[kind] if exposed else 0
    begin = [drawn(1, batch, size, seed=7 + i) for i in range(count)]
    inputs = [x, cont, *([static] if with_static else []), *begin]
    params = f"recurrent_param {{ num_output: {size} expose_hidden: {str(exposed).lower()} }}"
    found, blobs = outputs_of(kind, params, inputs, ("y", "h", "c")[: 1 + count])
    states = [b[0].astype(np.float64) for b in begin] or [np.zeros((batch, size))] * 2
    expected, ends = unrolled(kind, x.astype(np.float64), cont, static if with_static else None, blobs, states)
    same(found[0], expected)
    for top, end in zip(found[1:], ends, strict=False):
        same(top, end[None])


# --------------------------------------------------------------------------------------------------------- losses


def softmaxed(x: Array, axis: int) -> Array:
    e = np.exp(x.astype(np.float64) - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)  # type: ignore[no-any-return]


def normalizer(mode: str, outer: int, inner: int, valid: int) -> int:
    return max({"FULL": outer * inner, "VALID": valid, "BATCH_SIZE": outer, "NONE": 1}[mode], 1)


NORMALIZATIONS = [
    ("", "VALID"),
    ("loss_param { normalization: FULL }", "FULL"),
    ("loss_param { normalization: VALID }", "VALID"),
    ("loss_param { normalization: BATCH_SIZE }", "BATCH_SIZE"),
    ("loss_param { normalization: NONE }", "NONE"),
    ("loss_param { normalization: 2 }", "BATCH_SIZE"),
    ("loss_param { normalize: true }", "VALID"),
    ("loss_param { normalize: false }", "BATCH_SIZE"),
    ("loss_param { normalize: false normalization: FULL }", "FULL"),
]


@pytest.mark.parametrize("ignored", [None, 0, 2])
@pytest.mark.parametrize("axis", [1, -1, 0])
@pytest.mark.parametrize(("params", "mode"), NORMALIZATIONS)
def test_softmax_loss_normalizes_as_its_parameters_say(params: str, mode: str, axis: int, ignored: int | None) -> None:
    x = drawn(4, 5, 3)
    shape = [s for i, s in enumerate(x.shape) if i != axis % 3]
    label = labels(*shape, classes=3)
    extra = "" if ignored is None else f"loss_param {{ ignore_label: {ignored} }}"
    (found, prob), _ = outputs_of(
        "SoftmaxWithLoss", f"softmax_param {{ axis: {axis} }} {params} {extra} loss_weight: 7", [x, label], ("loss", "prob")
    )
    expected = softmaxed(x, axis)
    same(prob, expected)
    rows = np.moveaxis(expected, axis % 3, -1)
    total, valid = 0.0, 0
    for at in np.ndindex(*shape):
        if label[at] != ignored:
            total -= math.log(rows[at][int(label[at])])
            valid += 1
    outer = math.prod(x.shape[: axis % 3])
    same(found, total / normalizer(mode, outer, math.prod(x.shape[axis % 3 + 1 :]), valid))
    (alone,), _ = outputs_of("SoftmaxWithLoss", f"softmax_param {{ axis: {axis} }} {params} {extra}", [x, label])
    same(alone, found, 0)


def test_a_loss_over_ignored_labels_only_is_zero() -> None:
    x, label = drawn(3, 4), np.full((3,), 2, np.float32)
    params = "loss_param { ignore_label: 2 }"
    assert outputs_of("SoftmaxWithLoss", params, [x, label])[0][0] == 0
    assert outputs_of("SigmoidCrossEntropyLoss", params, [x, np.full((3, 4), 2, np.float32)])[0][0] == 0
    assert outputs_of("Accuracy", "accuracy_param { ignore_label: 2 }", [x, label])[0][0] == 0


def test_a_probability_of_zero_is_held_above_the_smallest_float() -> None:
    x, label = np.array([[200, 0], [0, 0]], np.float32), np.array([1, 0], np.float32)
    (found,), _ = outputs_of("SoftmaxWithLoss", "", [x, label])
    same(found, (-math.log(FLT_MIN) + math.log(2)) / 2)


@pytest.mark.parametrize("ignored", [None, 0, 1])
@pytest.mark.parametrize(("params", "mode"), [("", "BATCH_SIZE"), *NORMALIZATIONS[1:]])
def test_sigmoid_cross_entropy_divides_by_the_batch_unless_told_otherwise(params: str, mode: str, ignored: int | None) -> None:
    x, target = 4 * drawn(3, 2, 4), labels(3, 2, 4, classes=2)
    extra = "" if ignored is None else f"loss_param {{ ignore_label: {ignored} }}"
    (found,), _ = outputs_of("SigmoidCrossEntropyLoss", f"{params} {extra}", [x, target])
    keep = np.ones(x.shape, bool) if ignored is None else target != ignored
    p = sigmoid(x.astype(np.float64))
    total = -(target * np.log(p) + (1 - target) * np.log(1 - p))[keep].sum()
    same(found, total / normalizer(mode, 3, 8, int(keep.sum())))


@pytest.mark.parametrize("ignored", [None, 1])
@pytest.mark.parametrize(
    ("params", "mode"), [(p, "VALID" if p == "loss_param { normalize: false }" else m) for p, m in NORMALIZATIONS if "true" not in p]
)
def test_infogain_loss_takes_its_own_softmax(params: str, mode: str, ignored: int | None) -> None:
    x, label, matrix = drawn(3, 4, 2), labels(3, 2, classes=4), np.abs(drawn(1, 1, 4, 4))
    extra = "" if ignored is None else f"loss_param {{ ignore_label: {ignored} }}"
    (found, prob), _ = outputs_of("InfogainLoss", f"{params} {extra}", [x, label, matrix], ("loss", "prob"))
    expected = softmaxed(x, 1)
    same(prob, expected)
    total, valid = 0.0, 0
    for i, j in np.ndindex(3, 2):
        if label[i, j] != ignored:
            total -= sum(matrix[0, 0, int(label[i, j]), k] * math.log(max(expected[i, k, j], 1e-20)) for k in range(4))
            valid += 1
    same(found, total / normalizer(mode, 3, 2, valid))


@pytest.mark.parametrize("axis", [2, -1])
def test_infogain_loss_takes_classes_on_any_axis(axis: int) -> None:
    x, label, matrix = drawn(3, 2, 4), labels(3, 2, classes=4), np.abs(drawn(1, 1, 4, 4))
    (found,), _ = outputs_of("InfogainLoss", f"infogain_loss_param {{ axis: {axis} }}", [x, label, matrix])
    log = np.log(softmaxed(x, 2))
    same(found, -sum(matrix[0, 0, int(label[at])] @ log[at] for at in np.ndindex(3, 2)) / 6)


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("ignored", [None, 1])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("top_k", [1, 2])
def test_accuracy_counts_ties_against_the_label(top_k: int, axis: int, ignored: int | None, per_class: bool) -> None:
    x = labels(4, 5, 3, classes=4, seed=9)  # many ties
    shape = [s for i, s in enumerate(x.shape) if i != axis % 3]
    label = labels(*shape, classes=x.shape[axis] - 1)  # the last class never occurs
    params = f"top_k: {top_k} axis: {axis}" + ("" if ignored is None else f" ignore_label: {ignored}")
    found, _ = outputs_of("Accuracy", f"accuracy_param {{ {params} }}", [x, label], ("accuracy", "each")[: 1 + per_class])
    rows = np.moveaxis(x, axis, -1)
    hits, counts = np.zeros(rows.shape[-1]), np.zeros(rows.shape[-1])
    for at in np.ndindex(*shape):
        true = int(label[at])
        if true != ignored:
            counts[true] += 1
            hits[true] += sum(value >= rows[at][true] for value in rows[at]) - 1 < top_k
    same(found[0], hits.sum() / counts.sum())
    if per_class:
        same(found[1], hits / np.maximum(counts, 1))


@pytest.mark.parametrize(("shape", "axis"), [((4, 3), 1), ((4, 3), -1), ((4, 3, 2), 1), ((4, 3, 2), -2)])
def test_center_loss_measures_the_distance_to_the_label_s_center(shape: tuple[int, ...], axis: int) -> None:
    x, label = drawn(*shape), labels(4, classes=6)
    (found,), (centers,) = outputs_of("CenterLoss", f"center_loss_param {{ num_output: 6 axis: {axis} }}", [x, label])
    assert centers.shape == (6, math.prod(shape[1:]))
    same(found, sum(((x[i].ravel().astype(np.float64) - centers[int(label[i])]) ** 2).sum() for i in range(4)) / 8)


def test_the_other_losses_are_averages_over_the_batch() -> None:
    a, b = drawn(4, 3, seed=3), drawn(4, 3, seed=4)
    label, similar = labels(4, classes=3), np.array([1, 0, 1, 0], np.float32)
    double = a.astype(np.float64)
    (found,), _ = outputs_of("EuclideanLoss", "", [a, b])
    same(found, ((double - b) ** 2).sum() / 8)
    for norm, power in (("L1", 1), ("L2", 2)):
        (found,), _ = outputs_of("HingeLoss", f"hinge_loss_param {{ norm: {norm} }}", [a, label])
        signs = np.where(np.arange(3) == label[:, None], -1, 1)
        same(found, (np.maximum(0, 1 + signs * double) ** power).sum() / 4)
    for legacy in (False, True):
        (found,), _ = outputs_of(
            "ContrastiveLoss", f"contrastive_loss_param {{ margin: 4 legacy_version: {str(legacy).lower()} }}", [a, b, similar]
        )
        square = ((double - b) ** 2).sum(1)
        apart = np.maximum(4 - square, 0) if legacy else np.maximum(4 - np.sqrt(square), 0) ** 2
        same(found, np.where(similar == 1, square, apart).sum() / 8)
    prob = softmaxed(a, 1).astype(np.float32)
    (found,), _ = outputs_of("MultinomialLogisticLoss", "", [prob, label])
    same(found, -np.log(prob[np.arange(4), label.astype(int)]).sum() / 4)


# ------------------------------------------------------------------------------------------------------- refusals

IMAGE, ROWS, LABEL = (2, 4, 5, 5), (2, 6), (2,)
REFUSED: list[tuple[str, str, list[tuple[int, ...]], str]] = [
    # type, parameters, bottoms, what the message has to name
    ("Convolution", "convolution_param { num_output: 2 }", [IMAGE], "kernel_size"),
    ("Convolution", "convolution_param { kernel_size: 3 }", [IMAGE], "num_output"),
    ("Convolution", "convolution_param { num_output: 2 kernel_size: 0 }", [IMAGE], "kernel_size"),
    ("Convolution", "convolution_param { num_output: 2 kernel_size: 3 stride: 0 }", [IMAGE], "stride"),
    ("Convolution", "convolution_param { num_output: 2 kernel_size: 3 kernel_h: 2 kernel_w: 2 }", [IMAGE], "kernel_h"),
    ("Convolution", "convolution_param { num_output: 2 kernel_h: 3 }", [IMAGE], "kernel"),
    ("Convolution", "convolution_param { num_output: 2 kernel_size: 3 stride_h: 2 }", [IMAGE], "stride"),
    ("Convolution", "convolution_param { num_output: 2 kernel_size: 3 pad: 1 pad_h: 1 }", [IMAGE], "pad"),
    ("Convolution", "convolution_param { num_output: 2 kernel_size: [3, 3, 3] }", [IMAGE], "kernel_size has 3 values"),
    ("Convolution", "convolution_param { num_output: 2 kernel_h: 1 kernel_w: 1 }", [(2, 4, 5)], "kernel_h"),
    ("Convolution", "convolution_param { num_output: 3 kernel_size: 1 group: 2 }", [IMAGE], "group"),
    ("Convolution", "convolution_param { num_output: 3 kernel_size: 1 group: 3 }", [IMAGE], "group"),
    ("Convolution", "convolution_param { num_output: 3 kernel_size: 1 group: 0 }", [IMAGE], "group"),
    ("Convolution", "convolution_param { num_output: 3 kernel_size: 1 axis: 4 }", [IMAGE], "axis"),
    ("Convolution", "convolution_param { num_output: 3 kernel_size: 6 }", [IMAGE], "kernel"),
    ("Convolution", "convolution_param { num_output: 3 kernel_size: 1 }", [IMAGE, (2, 3, 5, 5)], "differ"),
    ("Convolution", "convolution_param { num_output: 3 kernel_size: 1 }", [IMAGE, (2, 4, 6, 5)], "differ"),
    ("Deconvolution", "convolution_param { num_output: 2 kernel_size: 1 pad: 4 }", [IMAGE], "pad"),
    ("Im2col", "convolution_param { kernel_size: 9 }", [IMAGE], ""),
    ("Im2col", "", [IMAGE], "kernel_size"),
    ("Pooling", "", [IMAGE], "kernel_size"),
    ("Pooling", "pooling_param { kernel_size: 0 }", [IMAGE], "kernel_size"),
    ("Pooling", "pooling_param { kernel_size: 2 stride: 0 }", [IMAGE], "stride"),
    ("Pooling", "pooling_param { kernel_size: 2 pad: 2 }", [IMAGE], "pad"),
    ("Pooling", "pooling_param { kernel_h: 3 kernel_w: 1 pad: 1 }", [IMAGE], "pad"),
    ("Pooling", "pooling_param { kernel_size: 3 pad: 1 pool: STOCHASTIC }", [IMAGE], "pad"),
    ("Pooling", "pooling_param { kernel_size: 2 kernel_h: 2 kernel_w: 2 }", [IMAGE], "kernel_h"),
    ("Pooling", "pooling_param { kernel_h: 2 }", [IMAGE], "kernel_h"),
    ("Pooling", "pooling_param { kernel_size: 2 pad: 1 pad_h: 1 pad_w: 1 }", [IMAGE], "pad_h"),
    ("Pooling", "pooling_param { kernel_size: 2 stride_h: 1 }", [IMAGE], "stride_h"),
    ("Pooling", "pooling_param { global_pooling: true kernel_size: 2 }", [IMAGE], "global_pooling"),
    ("Pooling", "pooling_param { global_pooling: true stride: 2 }", [IMAGE], "global_pooling"),
    ("Pooling", "pooling_param { kernel_size: 7 }", [IMAGE], ""),
    ("Pooling", "pooling_param { kernel_size: 2 }", [ROWS], "four axes"),
    ("LRN", "lrn_param { local_size: 4 }", [IMAGE], "local_size"),
    ("LRN", "", [ROWS], "four axes"),
    ("PReLU", "", [(3,)], "two axes"),
    ("InnerProduct", "", [ROWS], "num_output"),
    ("InnerProduct", "inner_product_param { num_output: 2 axis: 2 }", [ROWS], "axis"),
    ("InnerProduct", "inner_product_param { num_output: 2 axis: -3 }", [ROWS], "axis"),
    ("Embed", "embed_param { num_output: 2 }", [LABEL], "input_dim"),
    ("Scale", "scale_param { axis: 2 }", [ROWS], "axis"),
    ("Scale", "scale_param { num_axes: 2 }", [ROWS], "num_axes"),
    ("Scale", "scale_param { num_axes: -2 }", [ROWS], "num_axes"),
    ("Scale", "", [IMAGE, (3,)], "axis"),
    ("Bias", "bias_param { axis: 0 num_axes: 3 }", [ROWS], "num_axes"),
    ("Concat", "concat_param { axis: 1 concat_dim: 1 }", [ROWS, ROWS], "concat_dim"),
    ("Concat", "", [ROWS, (3, 6)], ""),
    ("Concat", "concat_param { axis: 2 }", [ROWS, ROWS], ""),
    ("Slice", "slice_param { axis: 1 slice_dim: 1 }", [ROWS], "slice_dim"),
    ("Slice", "slice_param { slice_point: [3, 4] }", [ROWS], "2 slice points for 2 tops"),
    ("Slice", "slice_param { slice_point: 6 }", [ROWS], "ascend"),
    ("Slice", "slice_param { slice_point: 0 }", [ROWS], "ascend"),
    ("Slice", "slice_param { axis: 0 }", [(3, 2)], "divide"),
    ("Slice", "slice_param { axis: 2 }", [ROWS], ""),
    ("Eltwise", "eltwise_param { operation: PROD coeff: 1 coeff: 2 }", [ROWS, ROWS], "coeff"),
    ("Eltwise", "eltwise_param { coeff: 1 }", [ROWS, ROWS], "coeff"),
    ("Eltwise", "", [ROWS, (2, 1)], "shapes"),
    ("Flatten", "flatten_param { axis: 2 }", [ROWS], "axes"),
    ("Flatten", "flatten_param { axis: 1 end_axis: 0 }", [IMAGE], "axes"),
    ("Tile", "", [ROWS], "tiles"),
    ("Tile", "tile_param { tiles: 2 axis: 2 }", [ROWS], ""),
    ("Crop", "crop_param { offset: 1 offset: 1 offset: 1 }", [IMAGE, IMAGE], "offset"),
    ("Crop", "crop_param { offset: 3 }", [IMAGE, (2, 4, 3, 3)], "crop"),
    ("Crop", "crop_param { axis: 4 }", [IMAGE, IMAGE], "axis"),
    ("Reduction", "reduction_param { axis: 2 }", [ROWS], ""),
    ("ArgMax", "argmax_param { top_k: 7 }", [ROWS], "top_k"),
    ("ArgMax", "argmax_param { top_k: 0 }", [ROWS], "top_k"),
    ("ArgMax", "argmax_param { axis: 2 }", [ROWS], ""),
    ("Softmax", "softmax_param { axis: 2 }", [ROWS], "axis"),
    ("Softmax", "softmax_param { axis: -3 }", [ROWS], "axis"),
    ("SoftmaxWithLoss", "softmax_param { axis: 2 }", [ROWS, LABEL], "axis"),
    ("SoftmaxWithLoss", "", [ROWS, (3,)], "labels"),
    ("SoftmaxWithLoss", "", [IMAGE, LABEL], "labels"),
    ("InfogainLoss", 'infogain_loss_param { source: "h.binaryproto" }', [ROWS, LABEL], "h.binaryproto"),
    ("InfogainLoss", "", [ROWS, LABEL, (1, 1, 5, 5)], "matrix"),
    ("InfogainLoss", "loss_param { normalize: true }", [ROWS, LABEL, (1, 1, 6, 6)], "normalize"),
    ("SigmoidCrossEntropyLoss", "", [ROWS, (2, 5)], ""),
    ("EuclideanLoss", "", [ROWS, (2, 5)], "shapes"),
    ("EuclideanLoss", "", [ROWS, (3, 4)], "shapes"),
    ("MultinomialLogisticLoss", "", [ROWS, (3,)], "labels"),
    ("MultinomialLogisticLoss", "", [ROWS, (1,)], "labels"),
    ("HingeLoss", "", [ROWS, (3,)], "labels"),
    ("ContrastiveLoss", "", [ROWS, (2, 5), LABEL], ""),
    ("ContrastiveLoss", "", [IMAGE, IMAGE, LABEL], "axes"),
    ("CenterLoss", "center_loss_param { }", [ROWS, LABEL], "num_output"),
    ("CenterLoss", "center_loss_param { num_output: 3 axis: 2 }", [IMAGE, LABEL], "axis"),
    ("CenterLoss", "center_loss_param { num_output: 3 }", [ROWS, (3,)], "labels"),
    ("Accuracy", "", [ROWS, (3,)], "labels"),
    ("Accuracy", "accuracy_param { top_k: 7 }", [ROWS, LABEL], "top_k"),
    ("Accuracy", "accuracy_param { axis: 2 }", [ROWS, LABEL], "axis"),
    ("Exp", "exp_param { base: 0 }", [ROWS], "base"),
    ("Exp", "exp_param { base: -2 }", [ROWS], "base"),
    ("Log", "log_param { base: 1 }", [ROWS], "base"),
    ("Log", "log_param { base: 0 }", [ROWS], "base"),
    ("Clip", "clip_param { min: 0 }", [ROWS], "max"),
    ("Clip", "", [ROWS], "min"),
    ("Clip", "clip_param { min: 2 max: 1 }", [ROWS], "above"),
    ("SPP", "", [IMAGE], "pyramid_height"),
    ("SPP", "spp_param { pyramid_height: 4 }", [IMAGE], "pyramid"),
    ("MVN", "", [(1, 2, 3, 2, 2)], "axes"),
    ("BatchReindex", "", [ROWS, (2, 2)], "axis"),
    ("Filter", "", [ROWS, (3,)], "selector"),
    ("Filter", "", [ROWS, (2, 2)], "selector"),
    ("LSTM", "", [(3, 2, 4), (3, 2)], "num_output"),
    ("LSTM", "recurrent_param { num_output: 2 }", [(3, 2, 4), (2, 3)], "cont"),
    ("LSTM", "recurrent_param { num_output: 2 expose_hidden: true }", [(3, 2, 4), (3, 2)], "bottoms"),
    ("RNN", "recurrent_param { num_output: 2 }", [(3, 2, 4), (3, 2), (3, 4)], "static"),
    ("ReLU", "", [ROWS, ROWS], "2 bottoms"),
    ("Python", 'python_param { module: "m" layer: "L" }', [ROWS], "m.L"),
    ("NoSuchLayer", "", [ROWS], "NoSuchLayer"),
    ("Relu", "", [ROWS], "Did you mean 'ReLU'"),
    ("ReLU", "relu_param { slope: 2 }", [ROWS], "slope: 2"),
    ("Pooling", "pooling_param { kernel_size: 2 pool: MEDIAN }", [IMAGE], "pool: MEDIAN"),
    ("Convolution", "convolution_param { num_output: 2 kernel_size: 1 quantize: -3 }", [IMAGE], "quantize: -3"),
]


@pytest.mark.parametrize(("kind", "params", "shapes", "named"), REFUSED, ids=[f"{k} {p} {i}" for i, (k, p, *_) in enumerate(REFUSED)])
def test_what_caffe_refuses_is_refused_by_name(kind: str, params: str, shapes: list[tuple[int, ...]], named: str) -> None:
    text = text_of(kind, params, shapes, ["y", "z"] if kind == "Slice" else ["y"][: len(shapes)])
    if kind == "Convolution" and len(shapes) > 1:
        text = text.replace('top: "y"', 'top: "y" top: "z"')
    with pytest.raises(ConversionError) as error:
        build_graph(parse_prototxt(text, "some.prototxt"))
    message = str(error.value)
    assert message.startswith("some.prototxt: layer 'it' of type")
    assert f"(line {len(shapes) + 1})" in message
    assert named in message


@pytest.mark.parametrize(
    ("kind", "params", "tops", "count"),
    [
        ("ReLU", "", ["a", "b"], 1),
        ("Filter", "", ["a", "b", "c"], None),
        ("Pooling", "pooling_param { kernel_size: 2 pool: AVE }", ["a", "b"], None),
        ("Slice", "slice_param { slice_point: [2, 3] }", ["a", "b"], None),
    ],
)
def test_a_wrong_number_of_tops_is_refused(kind: str, params: str, tops: list[str], count: int | None) -> None:
    shapes = [IMAGE, LABEL] if kind == "Filter" else [IMAGE]
    with pytest.raises(ConversionError, match=f"{len(tops)} tops" if kind != "Slice" else "2 slice points for 2 tops"):
        build_graph(parse_prototxt(text_of(kind, params, shapes, tops)))
