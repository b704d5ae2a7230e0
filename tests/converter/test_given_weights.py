"""Forks' InnerProduct, Convolution and Scale: unit weights, weights that are bottoms, bounded factors; and which Normalize a net means."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy
import pytest
import torch
import torch.nn.functional as F
from one_layer import close, draw, net_of

from converter import ConversionError, convert, save_caffemodel
from converter.errors import CaffezooWarning
from converter.write.encode import write_caffemodel

HAPPYNEAR = 'type: "InnerProduct" inner_product_param { bias_term: %s %s }'


@pytest.mark.parametrize(("shape", "fields"), [((3, 5), ""), ((3, 5, 1, 2), ""), ((2, 3, 4), "axis: 2")])
@pytest.mark.parametrize("bias", ["true", "false"])
def test_normalize_divides_the_rows_of_the_weight(shape: tuple[int, ...], fields: str, bias: str, tmp_path: Path) -> None:
    """inner_product_layer.cpp of happynear/caffe-windows, in float64."""
    x = draw(*shape)
    columns = x[0].numel() if not fields else shape[2]
    weight, term = draw(6, columns, seed=1), draw(6, seed=2)
    net = net_of(
        tmp_path, HAPPYNEAR % (bias, f"num_output: 6 normalize: true {fields}"), shape, blobs=[weight, term][: 1 + (bias == "true")]
    )
    w = weight.double().numpy()
    w = w / numpy.sqrt((w**2).sum(1, keepdims=True) + 1e-6)
    want = x.double().numpy().reshape(-1, columns) @ w.T + (term.numpy() if bias == "true" else 0)
    close(net(x), want.reshape(*((3,) if not fields else (2, 3)), 6))


def test_a_weight_and_a_bias_may_be_bottoms_of_an_inner_product(tmp_path: Path) -> None:
    x, weight, bias = draw(3, 5, 1, 2), draw(4, 10, 1, 1, seed=1), draw(4, seed=2)
    want = x.numpy().reshape(3, 10) @ weight.numpy().reshape(4, 10).T
    close(net_of(tmp_path, HAPPYNEAR % ("false", ""), x.shape, weight.shape)(x, weight), want)
    net = net_of(tmp_path, "param_bottoms: 2 " + HAPPYNEAR % ("true", "num_output: 4"), x.shape, weight.shape, bias.shape)
    close(net(x, weight, bias), want + bias.numpy())


def test_a_weight_and_a_bias_may_be_bottoms_of_a_convolution(tmp_path: Path) -> None:
    x, weight, bias = draw(2, 4, 9, 8), draw(6, 2, 3, 3, seed=1), draw(6, seed=2)
    layer = 'type: "Convolution" convolution_param { num_output: 6 kernel_size: 3 pad: 1 stride: 2 group: 2 bias_term: %s }'
    want = F.conv2d(x, weight, None, 2, 1, 1, 2)
    close(net_of(tmp_path, "param_bottoms: 1 " + layer % "false", x.shape, weight.shape)(x, weight), want)
    net = net_of(tmp_path, "param_bottoms: 2 " + layer % "true", x.shape, weight.shape, bias.shape)
    close(net(x, weight, bias), want + bias[:, None, None])


@pytest.mark.parametrize(
    ("fields", "low", "high"), [("min_value: 0.5", 0.5, 9), ("max_value: 0.25", -9, 0.25), ("min_value: -0.1 max_value: 0.3", -0.1, 0.3)]
)
def test_a_scale_s_factor_is_kept_within_its_bounds(fields: str, low: float, high: float, tmp_path: Path) -> None:
    x, factor, bias = draw(2, 9, 3), draw(9, seed=1), draw(9, seed=2)
    net = net_of(tmp_path, f'type: "Scale" scale_param {{ bias_term: true {fields} }}', x.shape, blobs=[factor, bias])
    close(net(x), x.numpy() * numpy.clip(factor.numpy(), low, high)[:, None] + bias.numpy()[:, None])
    assert torch.equal(net.op.weight, factor)


SIGNS = [
    'layer { name: "d" type: "InnerDistance" bottom: "n" top: "d" inner_distance_param { num_output: 2 bias_term: false } }',
    'layer { name: "p" type: "InnerProduct" bottom: "n" top: "d" inner_product_param { num_output: 2 bias_term: false normalize: true } }',
]


@pytest.mark.parametrize("sign", SIGNS)
def test_a_bare_normalize_is_happynear_s_where_another_layer_of_the_net_is(sign: str, tmp_path: Path) -> None:
    text = 'input: "x" input_shape { dim: 2 dim: 3 dim: 4 dim: 5 } layer { name: "n" type: "Normalize" bottom: "x" top: "n" }'
    (tmp_path / "net.prototxt").write_text(text)
    with pytest.raises(ConversionError, match="forks differ in what is normalized"):
        convert(tmp_path / "net.prototxt")
    (tmp_path / "net.prototxt").write_text(text + sign)
    with pytest.warns(CaffezooWarning, match="'n' of type 'Normalize'.* is that of happynear's fork"):
        net = convert(tmp_path / "net.prototxt")
    x = draw(2, 3, 4, 5)
    with torch.inference_mode():
        close(net(x, blobs=("n",))["n"], x / ((x * x).sum(1, keepdim=True) + 1e-6).sqrt())
    assert "n.weight" not in net.state_dict()


@pytest.mark.parametrize(
    ("layer", "shapes", "reason"),
    [
        (HAPPYNEAR % ("false", "num_output: 4 normalize: true transpose: true"), [(3, 5)], "mixes up rows"),
        (HAPPYNEAR % ("true", ""), [(3, 5), (4, 5)], "a third bottom for the bias or bias_term: false"),
        (HAPPYNEAR % ("false", ""), [(3, 5), (4, 6)], r"\(num_output, 5\)"),
        (HAPPYNEAR % ("false", "num_output: 3"), [(3, 5), (4, 5)], "its weight has 4 rows"),
        ("param_bottoms: 2 " + HAPPYNEAR % ("false", ""), [(3, 5), (4, 5)], r"\(num_output, 5\)"),
        ('param_bottoms: 1 type: "PReLU"', [(3, 5), (5,)], "for Convolution and InnerProduct only"),
        (
            'param_bottoms: 1 type: "Convolution" convolution_param { num_output: 2 kernel_size: 1 }',
            [(1, 2, 3, 3), (2, 2, 1, 1)],
            "and its bias",
        ),
        ('type: "Scale" scale_param { min_value: 0 }', [(3, 5), (5,)], "a factor of the layer's own"),
        ('type: "Scale" scale_param { min_value: 2 max_value: 1 }', [(3, 5)], "the one below the other"),
    ],
)
def test_what_the_forks_do_not_take_is_refused(layer: str, shapes: list[tuple[int, ...]], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=f"layer 'op' of type.*{reason}"):
        net_of(tmp_path, layer, *shapes)


def test_a_tied_autoencoder_has_one_weight(tmp_path: Path) -> None:
    """The decoder's weight is the encoder's, as it is stored: transpose makes it (K, num_output)."""
    text = 'input: "x" input_shape { dim: 3 dim: 5 }\n'
    for name, bottom, params in (("encode", "x", "num_output: 2"), ("decode", "encode", "num_output: 5 transpose: true")):
        text += f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" param {{ name: "w" }}'
        text += f" inner_product_param {{ {params} }} }}\n"
    (tmp_path / "net.prototxt").write_text(text)
    weight, low, high, x = draw(2, 5), draw(2, seed=1), draw(5, seed=2), draw(3, 5, seed=3)
    write_caffemodel(tmp_path / "net.caffemodel", [("encode", "any", [weight, low]), ("decode", "any", [weight, high])])
    net = convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    w = weight.numpy()
    close(net(x), (x.numpy() @ w.T + low.numpy()) @ w + high.numpy())
    assert net.encode.weight is net.decode.weight
    save_caffemodel(net, tmp_path / "back.caffemodel")
    assert torch.equal(convert(tmp_path / "net.prototxt", tmp_path / "back.caffemodel")(x), net(x))


@pytest.mark.parametrize(("sign", "size"), [("quantization_param { bw_layer_in: 8 }", 4), ("", 5)])
def test_a_pooling_of_single_values_has_the_windows_of_intel_s_fork_in_its_nets(sign: str, size: int, tmp_path: Path) -> None:
    """pooling_layer.cpp of intel/caffe clips the last window where the kernel is 1, as if there were a pad."""
    text = 'input: "x" input_shape { dim: 1 dim: 2 dim: 8 dim: 8 }\n'
    text += f'layer {{ name: "c" type: "Convolution" bottom: "x" top: "c" {sign} convolution_param {{ num_output: 2 kernel_size: 1 }} }}\n'
    text += 'layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { kernel_size: 1 stride: 2 } }\n'
    (tmp_path / "net.prototxt").write_text(text)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        net = convert(tmp_path / "net.prototxt")
    assert any("as in Intel's fork" in str(each.message) for each in said) == bool(sign)
    made = net(draw(1, 2, 8, 8), blobs=("c", "p"))
    assert tuple(made["p"].shape[2:]) == (size, size)
    close(made["p"][:, :, :4, :4], made["c"][:, :, ::2, ::2], 0)
