"""Layers of single forks that have no golden case, or fields beyond them, against numpy written from the forks' sources."""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from test_fork_layers import close, draw, net_of

from converter import ConversionError, convert, read_blobs, save_caffemodel


def comes_back(net: Any, folder: Path, *inputs: Any) -> None:
    """Written as a caffemodel and read again, the net gives the same; the file's blobs have the shapes of the one it came from."""
    path = folder / "back.caffemodel"
    save_caffemodel(net, path)
    assert [b.shape for b in read_blobs(path)["op"]] == [b.shape for b in read_blobs(folder / "net.caffemodel")["op"]]
    again = convert(folder / "net.prototxt", path)
    for one, other in zip(results(again(*inputs)), results(net(*inputs)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def results(made: Any) -> list[Any]:
    return list(made.values()) if isinstance(made, dict) else [made]


# ---------------------------------------------------------------------------------------------- faces


def with_margin(x: Any, weight: Any, labels: Any, m: int, factor: float, unit: bool) -> Any:
    """The papers' definition: |x| |w| psi(angle), psi = (-1)^k cos(m angle) - 2k where angle is in [k pi / m, (k + 1) pi / m]."""
    x, weight = x.astype("f8"), weight.astype("f8")
    if unit:
        weight = weight / numpy.linalg.norm(weight, axis=1, keepdims=True)
    logits = x @ weight.T
    if m == 1:
        return logits
    new = logits.copy()
    for i, c in enumerate(labels):
        length = numpy.linalg.norm(x[i]) * numpy.linalg.norm(weight[c])
        angle = math.acos(logits[i, c] / length)
        k = math.floor(angle * m / math.pi)
        new[i, c] = length * ((-1) ** k * math.cos(m * angle) - 2 * k)
    return (new + factor * logits) / (1 + factor)


@pytest.mark.parametrize("kind", ["MarginInnerProduct", "LargeMarginInnerProduct"])
@pytest.mark.parametrize(("name", "m"), [("SINGLE", 1), ("DOUBLE", 2), ("TRIPLE", 3), ("QUADRUPLE", 4)])
def test_the_margin_is_the_one_of_the_papers(kind: str, name: str, m: int, tmp_path: Path) -> None:
    x, weight = draw(9, 4, 1, 1), draw(5, 4, seed=1)
    labels = numpy.arange(9) % 5
    message = "margin_inner_product_param" if kind[0] == "M" else "largemargin_inner_product_param"
    fields = f"num_output: 5 type: {name} base: 3 gamma: 0.5 power: 2 iteration: 2 lambda_min: 0.1"
    net = net_of(tmp_path, f'type: "{kind}" {message} {{ {fields} }}', x.shape, (9,), tops=2, blobs=[weight])
    factor = max(3 * (1 + 0.5 * 3) ** -2, 0.1)
    made = net(x, torch.from_numpy(labels).float())
    close(made["out1"], [factor])
    close(made["out0"], with_margin(x.flatten(1).numpy(), weight.numpy(), labels, m, factor, kind[0] == "M"), atol=1e-4)
    comes_back(net, tmp_path, x, torch.from_numpy(labels).float())


@pytest.mark.parametrize("kind", ["L1", "L2"])
@pytest.mark.parametrize("normalize", ["true", "false"])
def test_inner_distance_measures_from_each_row_of_the_weight(kind: str, normalize: str, tmp_path: Path) -> None:
    x, weight = draw(3, 2, 2, 1), draw(5, 4, seed=1)
    fields = f'num_output: 5 distance_type: "{kind}" normalize: {normalize} bias_term: false'
    net = net_of(tmp_path, f'type: "InnerDistance" inner_distance_param {{ {fields} }}', x.shape, blobs=[weight])
    rows = weight.numpy() / numpy.sqrt((weight.numpy() ** 2).sum(1, keepdims=True) + 1e-6) if normalize == "true" else weight.numpy()
    apart = x.flatten(1).numpy()[:, None] - rows
    close(net(x), numpy.abs(apart).sum(2) if kind == "L1" else (apart**2).sum(2))
    comes_back(net, tmp_path, x)
    close(net_of(tmp_path, 'type: "InnerDistance"', x.shape, (5, 4))(x, weight), ((x.flatten(1)[:, None] - weight) ** 2).sum(2))


def test_normalize_takes_its_type_from_an_older_message_too(tmp_path: Path) -> None:
    x = draw(2, 3, 2, 2)
    net = net_of(tmp_path, 'type: "Normalize" softmax_param { normalize_type: "L2" }', x.shape)
    close(net(x), x / ((x * x).sum(1, keepdim=True) + 1e-6).sqrt())
    close(net_of(tmp_path, 'type: "Softmax" softmax_param { normalize_type: "Softmax" }', x.shape)(x), x.softmax(1))


# ---------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("kind", ["ConvolutionSK", "Convolution"])
def test_kstride_is_a_dilation(kind: str, tmp_path: Path) -> None:
    x, weight, bias = draw(1, 4, 12, 11), draw(6, 2, 3, 3, seed=1), draw(6, seed=2)
    fields = "num_output: 6 kernel_size: 3 group: 2 kstride: 2 stride: 2"
    stored = bias.reshape(1, 1, 1, 6) if kind == "ConvolutionSK" else bias
    net = net_of(tmp_path, f'type: "{kind}" convolution_param {{ {fields} }}', x.shape, blobs=[weight, stored])
    close(net(x), F.conv2d(x, weight, bias, 2, 0, 2, 2), atol=1e-4)


@pytest.mark.parametrize(("fields", "size"), [("", 5), ("stride: 2 pad: 1", 4), ("pad: 2 bias_term: false", 9)])
def test_a_local_layer_has_a_kernel_for_each_place(fields: str, size: int, tmp_path: Path) -> None:
    stride, pad, bias_term = (
        (2 if "stride" in fields else 1),
        int(fields[fields.find("pad: ") + 5] if "pad" in fields else 0),
        "bias" not in fields,
    )
    x, weight, bias = draw(2, 3, 7, 7), draw(4, 1, 27, size**2, seed=1), draw(1, 1, 4, size**2, seed=2)
    layer = f'type: "Local" local_param {{ num_output: 4 kernel_size: 3 {fields} }}'
    net = net_of(tmp_path, layer, x.shape, blobs=[weight, bias][: 1 + bias_term])
    padded = numpy.pad(x.numpy(), [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    want = numpy.zeros((2, 4, size, size))
    for n, o, i, j in numpy.ndindex(*want.shape):
        window = padded[n, :, i * stride : i * stride + 3, j * stride : j * stride + 3].reshape(-1)
        want[n, o, i, j] = window @ weight[o, 0, :, i * size + j].numpy() + (float(bias[0, 0, o, i * size + j]) if bias_term else 0)
    close(net(x), want, atol=1e-4)
    comes_back(net, tmp_path, x)


@pytest.mark.parametrize("mode", ["MAX", "AVE", "TILE"])
@pytest.mark.parametrize(("kernel", "stride", "size"), [(2, 2, (8, 6)), (3, 2, (9, 6)), (3, 1, (5, 5)), (1, 2, (8, 6))])
def test_unpooling_spreads_values_over_their_windows(mode: str, kernel: int, stride: int, size: tuple[int, int], tmp_path: Path) -> None:
    x = draw(2, 2, 4, 3)
    fields = f"unpool: {mode} kernel_size: {kernel} stride: {stride} unpool_h: {size[0]} unpool_w: {size[1]}"
    net = net_of(tmp_path, f'type: "Unpooling" unpooling_param {{ {fields} }}', x.shape)
    want = numpy.zeros((2, 2, *size))
    for i in range(4):
        for j in range(3):
            window = want[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            if mode == "MAX":
                want[:, :, i * stride, j * stride] = x[:, :, i, j]
            else:
                window += (x[:, :, i, j].numpy() / (window.shape[2] * window.shape[3] if mode == "AVE" else 1))[..., None, None]
    close(net(x), want)


def test_unpooling_puts_maxima_back_where_they_were(tmp_path: Path) -> None:
    x = draw(1, 2, 6, 8)
    y, mask = F.max_pool2d(x, 2, return_indices=True)
    layer = 'type: "Unpooling" unpooling_param { kernel_size: 2 stride: 2 unpool_h: 6 unpool_w: 8 }'
    close(net_of(tmp_path, layer, y.shape, mask.shape)(y, mask.float()), F.max_unpool2d(y, mask, 2))


def test_deconvnet_s_v1_names_and_statistics_are_known(tmp_path: Path) -> None:
    """UNPOOLING, and BN with the batch's mean and variance as tops (HyeonwooNoh/caffe: bn_layer.cpp)."""
    (tmp_path / "net.prototxt").write_text(
        """input: "data" input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 4
        layers { type: POOLING bottom: "data" top: "pool" top: "mask" name: "pool" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
        layers { type: UNPOOLING bottom: "pool" bottom: "mask" top: "un" name: "un"
          unpooling_param { unpool: MAX kernel_size: 2 stride: 2 unpool_size: 4 } }
        layers { type: BN bottom: "un" top: "bn" top: "mean" top: "var" name: "bn"
          bn_param { scale_filler { value: 2 } bn_mode: LEARN } }"""
    )
    x = draw(2, 3, 4, 4)
    made = convert(tmp_path / "net.prototxt")(x)
    y, mask = F.max_pool2d(x, 2, return_indices=True)
    un = F.max_unpool2d(y, mask, 2).numpy().astype("f8")
    mean, var = un.mean((0, 2, 3), keepdims=True), (un**2).mean((0, 2, 3), keepdims=True) - un.mean((0, 2, 3), keepdims=True) ** 2
    close(made["mean"], mean)
    close(made["var"], var)
    close(made["bn"], 2 * (un - mean) / numpy.sqrt(var + 1e-9), atol=1e-4)


def test_interp_takes_the_second_bottom_s_size(tmp_path: Path) -> None:
    x = draw(1, 2, 5, 6)
    net = net_of(tmp_path, 'type: "Interp" interp_param { use_blob_size: true pad_end: -1 }', x.shape, (1, 7, 9, 8))
    close(net(x, draw(1, 7, 9, 8)), F.interpolate(x[:, :, :-1, :-1], (9, 8), mode="bilinear", align_corners=True))


def test_merge_crop_keeps_the_middle_of_volumes_too(tmp_path: Path) -> None:
    a, b = draw(1, 2, 3, 3, 3), draw(1, 2, 6, 5, 3, seed=1)
    for name in ("MergeCrop", "Mergecrop"):
        net = net_of(tmp_path, f'type: "{name}" mergecrop_param {{ backward: true backward: false }}', a.shape, b.shape)
        close(net(a, b), torch.cat((a, b[:, :, 1:4, 1:4]), 1))
    close(net_of(tmp_path, 'type: "MergeCrop"', a.shape, b.shape)(a, b), torch.cat((a, b[:, :, 1:4, 1:4]), 1))


def test_broadcast_mul_takes_its_factor_first_or_second(tmp_path: Path) -> None:
    x, factor = draw(2, 3, 2, 2), draw(2, 3, 1, 1, seed=1)
    close(net_of(tmp_path, 'type: "BroadcastMul"', x.shape, factor.shape)(x, factor), x * factor)
    close(net_of(tmp_path, 'type: "BroadcastMul"', factor.shape, x.shape)(factor, x), x * factor)


def test_sparse_inner_product_is_inner_product_on_dense_input(tmp_path: Path) -> None:
    x, weight, bias = draw(3, 6), draw(4, 6, seed=1), draw(4, seed=2)
    net = net_of(tmp_path, 'type: "SparseInnerProduct" inner_product_param { num_output: 4 }', x.shape, blobs=[weight, bias])
    close(net(x), x @ weight.T + bias)


# ---------------------------------------------------------------------------------------------- sequences


def lstm(x: Any, cont: Any, wx: Any, wh: Any, b: Any) -> Any:
    """lstm_layer.cpp of CTPN, one item at a time (as the GPU computes it)."""

    def sigmoid(v: Any) -> Any:
        return 1 / (1 + numpy.exp(-v))

    steps, batch = x.shape[:2]
    size = wh.shape[1]
    out = numpy.zeros((steps, batch, size))
    for n in range(batch):
        h, c = numpy.zeros(size), numpy.zeros(size)
        for t in range(steps):
            gates = wx @ x[t, n] + b + (wh @ h if cont[t, n] else 0)
            i, f, o, g = numpy.split(gates, 4)
            c = (sigmoid(f) * c if cont[t, n] else 0) + sigmoid(i) * numpy.tanh(g)
            h = sigmoid(o) * numpy.tanh(c)
            out[t, n] = h
    return out


@pytest.mark.parametrize("batch", [1, 3])
def test_lstm_begins_each_item_s_sequence_from_zeros(batch: int, tmp_path: Path) -> None:
    x, blobs = draw(5, batch, 4), [draw(8, 4, seed=1), draw(8, 2, seed=2), draw(8, seed=3)]
    net = net_of(tmp_path, 'type: "Lstm" lstm_param { num_output: 2 clipping_threshold: 1 }', x.shape, blobs=blobs)
    begun = numpy.ones((5, batch))
    begun[0] = 0
    close(net(x), lstm(x.numpy(), begun, *(b.numpy() for b in blobs)))
    comes_back(net, tmp_path, x)


def test_lstm_begins_again_where_its_second_bottom_is_zero(tmp_path: Path) -> None:
    x, blobs = draw(6, 1, 4), [draw(8, 4, seed=1), draw(8, 2, seed=2), draw(8, seed=3)]
    cont = torch.tensor([0.0, 1, 1, 0, 2, 1])
    net = net_of(tmp_path, 'type: "Lstm" lstm_param { num_output: 2 }', x.shape, (6,), blobs=blobs)
    close(net(x, cont), lstm(x.numpy(), cont.numpy()[:, None], *(b.numpy() for b in blobs)))


def test_an_older_continuation_indicator_needs_no_bottom(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(
        """input: "data" input_dim: 2 input_dim: 1 input_dim: 3 input_dim: 1
        layer { name: "cont" type: "ContinuationIndicator" top: "cont" continuation_indicator_param { time_step: 2 batch_size: 1 } }
        layer { name: "lstm" type: "LSTM" bottom: "data" bottom: "cont" top: "lstm" recurrent_param { num_output: 2 } }"""
    )
    net = convert(tmp_path / "net.prototxt")
    assert net(draw(2, 1, 3, 1)).shape == (2, 1, 2) and net(draw(2, 1, 3, 1), blobs=("cont",))["cont"].tolist() == [[0], [1]]


def test_an_older_continuation_indicator_has_its_batch_size_as_a_field(tmp_path: Path) -> None:
    net = net_of(tmp_path, 'type: "ContinuationIndicator" continuation_indicator_param { time_step: 3 batch_size: 2 }', (7, 4))
    assert net(draw(7, 4)).tolist() == [[0, 0], [1, 1], [1, 1]]


@pytest.mark.parametrize(("blank", "merge"), [(0, True), (0, False), (-1, True), (2, True), (2, False)])
def test_ctc_decoding_drops_blanks_and_repeats(blank: int, merge: bool, tmp_path: Path) -> None:
    x = draw(15, 4, 3).round()  # of equal scores the first counts
    fields = f"blank_index: {blank} ctc_merge_repeated: {str(merge).lower()}"
    got = net_of(tmp_path, f'type: "CTCGreedyDecoder" ctc_decoder_param {{ {fields} }}', x.shape)(x)
    for n in range(4):
        best = [int(numpy.argmax(row)) for row in x[:, n].numpy()]
        kept = [c for t, c in enumerate(best) if c != blank % 3 and not (merge and t and best[t - 1] == c)]
        assert got[n].flatten().tolist() == kept + [-1] * (15 - len(kept))


# ---------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("factor", [0.0, 1.0, 4.0])
def test_a_dense_block_of_the_gpu_has_a_factor_of_zero(bottleneck: bool, factor: float, tmp_path: Path) -> None:
    """The CPU's code divides by the factor that it counted; the GPU's neither writes nor reads it."""
    x, steps, growth, widths = draw(2, 3, 4, 4), 2, 2, [3, 5]
    inner = [4 * growth] * steps if bottleneck else widths
    filters = [draw(growth, inner[i], 3, 3, seed=i) for i in range(steps)]
    norms = [[draw(1, w, 1, 1, seed=10 * k + i).abs() + 0.5 for i, w in enumerate(widths)] for k in range(4)]
    squeezes = [draw(4 * growth, w, 1, 1, seed=70 + i) for i, w in enumerate(widths)]
    norms2 = [[draw(1, 4 * growth, 1, 1, seed=80 + 10 * k + i).abs() + 0.5 for i in range(steps)] for k in range(4)]
    blobs = [*filters, *chain(*norms), *((*squeezes, *chain(*norms2)) if bottleneck else ()), torch.tensor([factor])]
    fields = f"numTransition: {steps} growthRate: {growth} use_BC: {str(bottleneck).lower()} initChannel: 99 gpuIdx: 1"
    net = net_of(tmp_path, f'type: "DenseBlock" denseblock_param {{ {fields} }}', x.shape, blobs=blobs)
    divisor, want = factor or 1, x

    def normalized(value: Any, by: Any, i: int) -> Any:
        scale, bias, mean, var = (kind[i] for kind in by)
        return F.relu((value - mean / divisor) / (var / divisor + 1e-5).sqrt() * scale + bias)

    for i in range(steps):
        y = normalized(want, norms, i)
        if bottleneck:
            y = normalized(F.conv2d(y, squeezes[i]), norms2, i)
        want = torch.cat((want, F.conv2d(y, filters[i].flip(2, 3), padding=1)), 1)
    close(net(x), want, atol=1e-3)
    comes_back(net, tmp_path, x)


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("layer", "shapes", "reason"),
    [
        ('type: "ConvolutionSK" convolution_param { num_output: 2 kernel_size: 3 pad: 1 }', [(1, 2, 8, 8)], "no pad"),
        ('type: "Convolution" convolution_param { num_output: 2 kernel_size: 3 kstride: 2 dilation: 2 }', [(1, 2, 8, 8)], "both set"),
        ('type: "Local" local_param { num_output: 2 kernel_size: 9 }', [(1, 2, 8, 8)], "at least the kernel's size"),
        ('type: "Unpooling" unpooling_param { kernel_size: 2 pad: 1 unpool_size: 8 }', [(1, 2, 4, 4)], "no pad"),
        ('type: "Unpooling" unpooling_param { unpool: AVE kernel_size: 2 unpool_size: 8 }', [(1, 2, 4, 4)] * 2, "MAX only"),
        ('type: "MergeCrop"', [(1, 2, 4, 4), (1, 3, 6, 6)], "mixes them up"),
        ('type: "MergeCrop"', [(1, 2, 4, 4), (1, 2, 3, 6)], "smaller"),
        ('type: "MergeCrop" mergecrop_param { operation: ADD }', [(1, 2, 4, 4), (2, 2, 6, 6)], "same batch"),
        ('type: "BroadcastMul"', [(1, 2, 4, 4), (1, 3, 1, 1)], "(N, C, 1, 1)"),
        ('type: "Interp" interp_param { use_blob_size: true }', [(1, 2, 4, 4)], "second bottom"),
        ('type: "Interp" interp_param { use_blob_size: true height: 3 }', [(1, 2, 4, 4)] * 2, "height"),
        ('type: "Interp" interp_param { height: 3 width: 3 }', [(1, 2, 4, 4)] * 2, "use_blob_size: true"),
        ('type: "ContinuationIndicator"', [(3, 4)], "time_step"),
        ('type: "ContinuationIndicator" continuation_indicator_param { time_step: 2 batch_size: 1 axis: 1 }', [(3, 4)], "two versions"),
        ('type: "CROP"', [(1, 2, 8, 8), (1, 2, 4, 4)], "crop_param { axis: 2 offset: 19 }"),
        ('type: "CTCGreedyDecoder"', [(3, 1, 4), (3, 1)], "a label or an indicator"),
        ('type: "CTCGreedyDecoder" ctc_decoder_param { blank_index: 4 }', [(3, 1, 4)], "none of 4 classes"),
        ('type: "CTCGreedyDecoder"', [(3, 4)], "(T, N, C)"),
        ('type: "Lstm" lstm_param { num_output: 2 batch_size: 3 }', [(6, 1, 4)], "(T, N, ...)"),
        ('type: "Lstm" lstm_param { num_output: 2 }', [(6, 4)], "(T, N, ...)"),
        ('type: "Lstm" lstm_param { num_output: 2 }', [(6, 2, 4), (6, 2)], "a batch of one"),
        ('type: "Lstm"', [(6, 2, 4)], "num_output"),
        ('type: "MarginInnerProduct" margin_inner_product_param { num_output: 2 }', [(6, 2), (5,)], "one label a row"),
        ('type: "InnerDistance" inner_distance_param { num_output: 2 bias_term: true }', [(6, 2)], "bias_term: true"),
        ('type: "InnerDistance" inner_distance_param { num_output: 2 transpose: true }', [(6, 2)], "transpose: true"),
        ('type: "InnerDistance" inner_distance_param { num_output: 2 distance_type: "L3" }', [(6, 2)], "L1 and L2"),
        ('type: "InnerDistance"', [(6, 2)], "num_output 0"),
        ('type: "Softmax" softmax_param { normalize_type: "L2" }', [(6, 2)], "normalize_type 'L2'"),
        ('type: "DenseBlock" denseblock_param { growthRate: 0 }', [(1, 2, 4, 4)], "at least 1"),
        ('type: "DenseBlock" denseblock_param { numTransition: 100000 }', [(1, 2, 4, 4)], "more than any net's"),
        ('type: "BN" bn_param { bn_mode: INFERENCE }', [(1, 2, 4, 4)], "tops"),
    ],
)
def test_what_a_fork_s_code_cannot_do_is_refused_with_the_reason(layer: str, shapes: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="layer 'op' of type") as caught:
        net_of(tmp_path, layer, *shapes, tops=3 if '"BN"' in layer else 1)
    assert reason in str(caught.value)
