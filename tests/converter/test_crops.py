"""Layers that cut: V1's CROP, whose offset is a property of the net, against the offsets that FCN's authors published; and forks' own."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from one_layer import close, draw, net_of

from converter import ConversionError, convert
from converter.errors import CaffezooWarning, UnsupportedError
from tests.converter.test_graph import graph_of, inp


def v1(name: str, kind: str, bottoms: str, params: str = "") -> str:
    """A V1 layer whose top has its name."""
    ends = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    return f'layers {{ name: "{name}" type: {kind} {ends} top: "{name}" {params} }}\n'


def conv(name: str, bottom: str, kernel: int, pad: int = 0, kind: str = "CONVOLUTION", stride: int = 1) -> str:
    return v1(name, kind, bottom, f"convolution_param {{ num_output: 2 kernel_size: {kernel} pad: {pad} stride: {stride} }}")


def up(name: str, bottom: str, stride: int) -> str:
    return conv(name, bottom, 2 * stride, kind="DECONVOLUTION", stride=stride)


def vgg() -> str:
    """The places of VGG-16 as FCN takes it: a pad of 100, five poolings, fc6 as a 7 x 7 convolution."""
    text, last = conv("conv1", "data", 3, 100) + v1("relu1", "RELU", "conv1"), "relu1"
    for i in range(1, 6):
        text += v1(f"pool{i}", "POOLING", last, "pooling_param { pool: MAX kernel_size: 2 stride: 2 }")
        last = f"pool{i}"
        if i < 5:
            text += conv(f"conv{i + 1}", last, 3, 1)
            last = f"conv{i + 1}"
    return text + conv("fc6", last, 7) + v1("drop6", "DROPOUT", "fc6") + conv("score", "drop6", 1)


TWO = up("up2", "score", 2) + conv("score4", "pool4", 1) + v1("crop4", "CROP", "score4 up2") + v1("sum4", "ELTWISE", "up2 crop4")
THREE = up("up4", "sum4", 2) + conv("score3", "pool3", 1) + v1("crop3", "CROP", "score3 up4") + v1("sum3", "ELTWISE", "up4 crop3")


# fcn-32s, fcn-16s and fcn-8s as their V2 prototxts in shelhamer/fcn.berkeleyvision.org have them
@pytest.mark.parametrize(
    ("text", "offsets"),
    [
        (up("big", "score", 32) + v1("crop", "CROP", "big data"), [19]),
        (TWO + up("big", "sum4", 16) + v1("crop", "CROP", "big data"), [5, 27]),
        (TWO + THREE + up("big", "sum3", 8) + v1("crop", "CROP", "big data"), [5, 9, 31]),
    ],
)
def test_a_v1_crop_begins_where_the_authors_prototxts_say(text: str, offsets: list[int]) -> None:
    graph = graph_of(inp("data", 1, 2, 64, 96) + vgg() + text)
    assert [graph.modules[step.key].offset for step in graph.steps if step.type == "Crop"] == [(offset, offset) for offset in offsets]
    assert graph.shapes[graph.names["crop"]][2:] == (64, 96)
    assert all(any(f"begins at {offset}, {offset}" in note for note in graph.notes) for offset in offsets)


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution", "Pooling"])
def test_a_crop_puts_the_place_of_a_single_value_where_it_was(kind: str, tmp_path: Path) -> None:
    """Independent of the formula: the middle of what a value spreads to, at odd kernels, lies over the value after the crop."""
    window = "kernel_size: 5 pad: 1" if kind != "Deconvolution" else "kernel_size: 3"
    message = "pooling_param { pool: AVE" if kind == "Pooling" else "convolution_param { num_output: 1 weight_filler { value: 1 }"
    text = 'input: "x" input_shape { dim: 1 dim: 1 dim: 15 dim: 17 }\n'
    text += f'layers {{ name: "a" type: {kind.upper()} bottom: "x" top: "a" {message} {window} }} }}\n'
    text += 'layers { name: "p" type: POOLING bottom: "x" top: "p" pooling_param { pool: AVE kernel_size: 9 } }\n'
    text += 'layers { name: "c" type: CROP bottom: "a" bottom: "p" top: "c" }\n'
    (tmp_path / "net.prototxt").write_text(text)
    with pytest.warns(CaffezooWarning, match="begins at"):
        net = convert(tmp_path / "net.prototxt")
    x = torch.zeros(1, 1, 15, 17)
    x[0, 0, 7, 8] = 1
    made = net(x, blobs=("c", "p"))
    rows, columns = (made["c"][0, 0] > 1e-6).nonzero().double().mean(0).tolist()
    assert (rows, columns) == (3, 4)  # of 7 x 9 places of p the middle one, where x's middle is
    assert tuple(made["c"].shape) == tuple(made["p"].shape)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (v1("ip", "CONCAT", "data") + v1("crop", "CROP", "ip data"), "no blob in common.*crop_param { axis: 2 offset: 19 }"),
        (conv("a", "data", 3, 1, stride=2) + v1("crop", "CROP", "data a"), "a factor of 1/2"),
        (conv("a", "data", 3, 2) + conv("b", "data", 3) + v1("crop", "CROP", "b a"), "-2 places"),
        (conv("a", "data", 4) + v1("crop", "CROP", "data a"), "3/2 places"),
    ],
)
def test_a_crop_that_is_no_whole_one_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=f"layer 'crop' of type 'CROP'.*{reason}"):
        graph_of(inp("data", 1, 2, 16, 16) + text)


def test_simple_crop_cuts_the_end_to_a_second_bottom_or_to_a_blob_that_it_names(tmp_path: Path) -> None:
    x, like = draw(2, 3, 6, 7), draw(1, 1, 4, 5)
    close(net_of(tmp_path, 'type: "SimpleCrop"', x.shape, like.shape)(x, like), x[:, :, :4, :5], 0)
    text = 'input: "x" input_shape { dim: 2 dim: 3 dim: 6 dim: 7 }\n'
    text += 'layer { name: "p" type: "Pooling" bottom: "x" top: "p" pooling_param { kernel_size: 3 } }\n'
    text += 'layer { name: "c" type: "SimpleCrop" bottom: "x" top: "c" crop_param { blob_name: "p" } }\n'
    (tmp_path / "net.prototxt").write_text(text)
    net = convert(tmp_path / "net.prototxt")
    close(net(x, blobs=("c",))["c"], x[:, :, :4, :5], 0)
    (tmp_path / "again.prototxt").write_text(net.prototxt)
    assert convert(tmp_path / "again.prototxt").outputs == net.outputs == ("c",)


def test_crop_center_cuts_both_ends(tmp_path: Path) -> None:
    x = draw(2, 5, 8, 9)
    layer = 'type: "CropCenter" crop_center_param { crop_size: 0 crop_size: 1 crop_size: 2 crop_size: 3 }'
    close(net_of(tmp_path, layer, x.shape)(x), x.numpy()[:, 1:-1, 2:-2, 3:-3], 0)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ('type: "CropCenter" crop_center_param { crop_size: 1 }', "1 values of crop_size for 4 axes"),
        ('type: "CropCenter" crop_center_param { crop_size: 0 crop_size: 0 crop_size: 4 crop_size: 0 }', "leaves nothing of axis 2"),
        ('type: "LRNMap" lrn_map_param { local_size: 4 alpha: 1 beta: 1 }', "odd local_size"),
        ('type: "LRNMap" lrn_map_param { local_size: 3 }', "not set: alpha, beta"),
    ],
)
def test_what_these_layers_do_not_take_is_refused(layer: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=f"layer 'op' of type.*{reason}"):
        net_of(tmp_path, layer, (1, 2, 8, 8))


def test_lrn_map_divides_by_the_mean_of_squares_around_each_place(tmp_path: Path) -> None:
    """lrn_map_layer.cpp of 2013, in its first form: a convolution with ones over the squares, divided by the window."""
    x = draw(2, 3, 6, 5)
    text = 'input: "x" input_dim: 2 input_dim: 3 input_dim: 6 input_dim: 5\n'
    (tmp_path / "net.prototxt").write_text(text + v1("y", "LRN_MAP", "x", "lrn_map_param { local_size: 3 alpha: 0.7 beta: 0.75 }"))
    want, padded = x.double().numpy().copy(), numpy.pad(x.double().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    for i, j in numpy.ndindex(6, 5):
        total = (padded[:, :, i : i + 3, j : j + 3] ** 2).sum((2, 3))
        want[:, :, i, j] *= (1 + 0.7 / 9 * total) ** -0.75
    close(convert(tmp_path / "net.prototxt")(x), want)
