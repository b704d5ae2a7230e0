"""input="rgb01": the changed net on RGB in 0..1 beside the old one on what its Preprocess makes of the same image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from test_folding import TOLERANCE, convolution, drawn, layer, norm

from converter import CaffeNet, ConversionError, Preprocess, convert, save_caffemodel

MEANS = "mean_value: 104 mean_value: 117 mean_value: 123"


def image_net(transform: str = MEANS, channels: int = 3, rest: str = "") -> str:
    shape = f"shape {{ dim: 1 dim: {channels} dim: 12 dim: 10 }}"
    head = f'layer {{ name: "in" type: "Input" top: "data" input_param {{ {shape} }} transform_param {{ {transform} }} }}\n'
    return head + (rest or convolution("data", "c", "kernel_size: 3"))


DENSE = layer("InnerProduct", "data", "c", "inner_product_param { num_output: 5 bias_term: false }", "ip")
PADDED = convolution("data", "c")

FOLDED = {  # the first layer takes it all
    "BGR and means": image_net(),
    "one mean and a scale": image_net("mean_value: 127.5 scale: 0.0078125"),
    "no bias in the file": image_net(rest=convolution("data", "c", "kernel_size: 3 stride: 2 bias_term: false")),
    "padding, and no mean": image_net("scale: 0.00390625", rest=PADDED),
    "an inner product": image_net(rest=DENSE),
    "two readers": image_net(rest=convolution("data", "c", "kernel_size: 3") + convolution("data", "d", "kernel_size: 1")),
    "grey": image_net("mean_value: 120 scale: 0.01", 1),
    "grey, padded, no mean": image_net("scale: 0.01", 1, PADDED),
}
IN_FRONT = {  # a 1x1 convolution in front does: why
    "padding": (image_net(rest=PADDED), "pads with zeros"),
    "groups": (image_net(rest=convolution("data", "c", "kernel_size: 1 group: 3").replace("num_output: 4", "num_output: 6")), "has groups"),
    "no weights": (image_net(rest=layer("Pooling", "data", "c", "pooling_param { kernel_size: 2 stride: 2 }")), "of type Pooling"),
    "batch norm of the image, in place": (image_net(rest=norm("data", "data") + PADDED), "of type BatchNorm"),
    "grey and padding": (image_net("mean_value: 120", 1, PADDED), "pads with zeros"),
    "shared weights": (
        image_net(rest="".join(convolution("data", t, "kernel_size: 3").replace("top", 'param { name: "w" } top') for t in "cd")),
        "shares its weights",
    ),
}


def same_on_an_image(net: CaffeNet, other: CaffeNet) -> None:
    image = numpy.random.default_rng(0).integers(0, 256, (20, 30, 3), "u1")
    assert net.preprocess is not None and other.preprocess is not None
    x, rgb = net.preprocess(image)[None], other.preprocess(image)[None]
    assert rgb.shape[1] == 3 and rgb.min() >= 0 and rgb.max() <= 1
    torch.testing.assert_close(rgb, replace(net.preprocess, channels="RGB", mean=(0.0,), scale=1 / 255)(image)[None])
    blobs = tuple(name for name in net.outputs)
    with torch.inference_mode():
        want, got = net(x, blobs=blobs), other(rgb, blobs=blobs)
    for name in blobs:
        difference = float((got[name] - want[name]).abs().max() / want[name].abs().max())
        assert difference <= TOLERANCE, f"{name}: {difference:.1e}"


@pytest.mark.parametrize("case", FOLDED)
def test_the_first_layer_takes_order_means_and_scale(case: str, tmp_path: Path) -> None:
    files = drawn(tmp_path, FOLDED[case])
    net, other = convert(*files), convert(*files, input="rgb01")
    assert len(other.program.steps) == len(net.program.steps) and other.input_shapes["data"] == (1, 3, 12, 10)
    same_on_an_image(net, other)
    assert "RGB in 0..1" in other.changes[0] and "folded into" in other.changes[0] and other.notes == net.notes


@pytest.mark.parametrize("case", IN_FRONT)
def test_where_it_cannot_a_convolution_in_front_does(case: str, tmp_path: Path) -> None:
    text, reason = IN_FRONT[case]
    files = drawn(tmp_path, text)
    net, other = convert(*files), convert(*files, input="rgb01")
    assert [step.name for step in other.program.steps] == ["rgb01", *(step.name for step in net.program.steps)]
    assert other.rgb01.weight.shape == (net.input_shapes["data"][1], 3, 1, 1) and reason in other.changes[0]  # type: ignore[union-attr]
    same_on_an_image(net, other)


def test_what_is_done_to_images_can_be_said(tmp_path: Path) -> None:
    text = 'input: "data" input_shape { dim: 1 dim: 3 dim: 12 dim: 10 }' + convolution("data", "c", "kernel_size: 3")
    files = drawn(tmp_path, text)
    stated = Preprocess((12, 10), "RGB", (100.0, 110.0, 120.0), "the paper", (0.01, 0.02, 0.03))
    net = convert(*files, preprocess=stated)
    assert net.preprocess is stated
    same_on_an_image(net, convert(*files, preprocess=stated, input="rgb01"))


def test_the_changed_net_has_a_prototxt_and_a_caffemodel_of_its_own(tmp_path: Path) -> None:
    other = convert(*drawn(tmp_path, image_net(rest=PADDED + norm("c", "c"))), fold_batchnorm=True, input="rgb01")
    assert len(other.changes) == 2 and [step.type for step in other.program.steps] == ["Convolution", "Convolution"]
    prototxt, weights = tmp_path / "rgb.prototxt", tmp_path / "rgb.caffemodel"
    prototxt.write_text(other.prototxt)
    save_caffemodel(other, weights)
    again = convert(prototxt, weights)
    x = torch.rand(1, 3, 12, 10)
    assert torch.equal(again(x), other(x))
    assert again.preprocess is None  # Caffe's transform_param has no RGB: better nothing than BGR


REFUSED = {
    "nothing is known of the images": ('input: "data" input_shape { dim: 1 dim: 3 dim: 5 dim: 5 }' + PADDED, {}, "--mean 104,117,123"),
    "a mean image": (image_net('mean_file: "m.binaryproto"'), {}, "value for each pixel"),
    "no image": ('input: "data" input_shape { dim: 1 dim: 7 }' + DENSE, {"preprocess": Preprocess(None, "BGR", (1.0,), "")}, "data (1, 7)"),
    "another number of channels": (
        image_net(),
        {"preprocess": Preprocess((12, 10), "GRAY", (1.0,), "")},
        "do not fit an input of 3 channels",
    ),
    "another number of means": (
        image_net(),
        {"preprocess": Preprocess((12, 10), "BGR", (1.0, 2.0), "")},
        "do not fit an input of 3 channels",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_what_to_do(case: str, tmp_path: Path) -> None:
    text, more, words = REFUSED[case]
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    with pytest.raises(ConversionError) as refused:
        convert(path, input="rgb01", **more)  # type: ignore[arg-type]
    assert words in str(refused.value)
