"""Which blob of a weight file goes where, and what is said of files that hold another net's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from encode import VERSIONS, blob, layer, legacy, packed, same, shape
from torch import nn

from converter import ConversionError, convert, read_blobs
from converter.errors import CaffezooWarning, MismatchError, UnsupportedError
from converter.write.encode import write_caffemodel

RNG = numpy.random.default_rng(11)
HEAD = 'input: "data" input_shape { dim: 2 dim: 3 dim: 6 dim: 6 }\n'
CONV = 'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }\n'
FC = 'layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 5 } }\n'
SHAPES = {"conv": [(4, 3, 3, 3), (4,)], "fc": [(5, 64), (5,)]}


def drawn(*dims: int) -> Any:
    return RNG.standard_normal(dims).astype("<f4")


ARRAYS = {name: [drawn(*dims) for dims in shapes] for name, shapes in SHAPES.items()}
KINDS = {"conv": "Convolution", "fc": "InnerProduct"}


def text(folder: Path, *parts: str) -> Path:
    path = folder / "net.prototxt"
    path.write_text("".join(parts))
    return path


def weights(folder: Path, *layers: bytes) -> Path:
    path = folder / "net.caffemodel"
    path.write_bytes(b"".join(layers))
    return path


def whole(name: str, version: str = "V2") -> bytes:
    return layer(name, [blob(array, version != "V2") for array in ARRAYS[name]], KINDS[name], version)


def reference(image: torch.Tensor) -> torch.Tensor:
    """The net by torch's own functions."""
    (filters, offsets), (matrix, bias) = ([torch.from_numpy(array) for array in ARRAYS[name]] for name in ("conv", "fc"))
    return nn.functional.linear(nn.functional.conv2d(image, filters, offsets).flatten(1), matrix, bias)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_of_the_format_loads_the_same_net(version: str, tmp_path: Path) -> None:
    net = convert(text(tmp_path, HEAD, CONV, FC), weights(tmp_path, whole("conv", version), whole("fc", version)))
    for name, arrays in ARRAYS.items():
        for key, array in zip(("weight", "bias"), arrays, strict=True):
            assert numpy.array_equal(net.state_dict()[f"{name}.{key}"].numpy(), array)
    image = torch.from_numpy(drawn(2, 3, 6, 6))
    with torch.inference_mode():
        assert torch.allclose(net(image), reference(image), atol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_our_writer_s_files_are_those_of_another_hand(version: str, tmp_path: Path) -> None:
    kinds = {"conv": "conv", "fc": "innerproduct"} if version == "V0" else KINDS
    path = tmp_path / "ours.caffemodel"
    write_caffemodel(path, [(name, kinds[name], ARRAYS[name]) for name in ARRAYS], name="n", version=version)
    other = read_blobs(weights(tmp_path, *(whole(name, version) for name in ARRAYS)))
    assert same(read_blobs(path), {name: [numpy.asarray(each) for each in blobs] for name, blobs in other.items()})


LEGACY = {
    "a bias of 1, 1, 1, N": ([legacy(num=4, channels=3, height=3, width=3), legacy(num=1, channels=1, height=1, width=4)], True),
    "dimensions left out where they are 1": ([legacy(num=4, channels=3, height=3, width=3), legacy(width=4)], True),
    "a bias of N, 1, 1, 1": ([legacy(num=4, channels=3, height=3, width=3), legacy(num=4, channels=1, height=1, width=1)], False),
    "a weight of another order": ([legacy(num=3, channels=4, height=3, width=3), legacy(width=4)], False),
    "a weight of 1, 1, out, in": ([legacy(num=1, channels=1, height=4, width=27), legacy(width=4)], False),
    "new shapes padded as old ones were": ([shape(4, 3, 3, 3), shape(1, 1, 1, 4)], False),
}


@pytest.mark.parametrize("case", LEGACY)
def test_old_shapes_count_leading_axes_of_one_as_caffe_does(case: str, tmp_path: Path) -> None:
    heads, fits = LEGACY[case]
    file = weights(tmp_path, layer("conv", [head + packed(5, array) for head, array in zip(heads, ARRAYS["conv"], strict=True)]))
    prototxt = text(tmp_path, HEAD, CONV)
    if not fits:
        with pytest.raises(MismatchError, match="layer 'conv', blob "):
            convert(prototxt, file)
        return
    state = convert(prototxt, file).state_dict()
    assert numpy.array_equal(state["conv.weight"].numpy(), ARRAYS["conv"][0])
    assert numpy.array_equal(state["conv.bias"].numpy(), ARRAYS["conv"][1])


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("transpose", [False, True])
def test_a_fully_connected_layer_loads_from_old_and_new_shapes(outputs: int, transpose: bool, tmp_path: Path) -> None:
    matrix, bias = drawn(outputs, 4), drawn(outputs)
    stored = matrix.T if transpose else matrix
    prototxt = text(
        tmp_path,
        'input: "data" input_shape { dim: 2 dim: 4 }\n',
        'layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"',
        f"inner_product_param {{ num_output: {outputs} transpose: {str(transpose).lower()} }} }}",
    )
    x = torch.from_numpy(drawn(2, 4))
    for old in (False, True):
        net = convert(prototxt, weights(tmp_path, layer("fc", [blob(stored, old), blob(bias, old)])))
        with torch.inference_mode():
            assert torch.allclose(net(x), x @ torch.from_numpy(matrix).T + torch.from_numpy(bias), atol=1e-6)


def test_everything_that_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    prototxt = text(
        tmp_path,
        HEAD,
        CONV,
        FC,
        'layer { name: "fc2" type: "InnerProduct" bottom: "fc" top: "fc2" inner_product_param { num_output: 3 } }\n',
        'layer { name: "fc3" type: "InnerProduct" bottom: "fc2" top: "fc3" inner_product_param { num_output: 2 } }\n',
        'layer { name: "relu" type: "ReLU" bottom: "fc3" top: "fc3" }\n',
    )
    file = weights(
        tmp_path,
        layer("conv", [blob(drawn(4, 3, 5, 5)), blob(drawn(4))]),  # another shape
        layer("fc", [blob(drawn(5, 64))]),  # another count
        layer("relu", [blob(drawn(1))]),  # blobs for a layer that has none
        layer("stranger", [blob(drawn(2))]),  # not in the net
        # and fc2, fc3 are missing
    )
    with pytest.raises(MismatchError) as told:
        convert(prototxt, file)
    message = str(told.value)
    assert message.startswith(str(file)) and str(prototxt) in message
    for part in (
        "layer 'conv', blob 0 (weight): the file has (4, 3, 5, 5), the net (4, 3, 3, 3)",
        "layer 'fc' (InnerProduct): the file has 1 blob (5×64), the net 2 (5×64, 5)",
        "layer 'relu': the file has 1 blob",
        "'stranger'",
        "the file lacks 4",
        "layer 'fc2', blob 0 (weight) of shape (3, 5)",
        "layer 'fc3', blob 1 (bias) of shape (2,)",
    ):
        assert part in message, part
    assert "layer 'conv', blob 1" not in message and "'conv', blob 1" not in message, "the bias fits"


def test_a_message_about_thousands_of_layers_is_still_short(tmp_path: Path) -> None:
    layers = [layer(f"other{i}", [blob(drawn(1))]) for i in range(3_000)]
    with pytest.raises(MismatchError) as told:
        convert(text(tmp_path, HEAD, CONV), weights(tmp_path, *layers))
    assert len(str(told.value)) < 2_000 and "2988 more" in str(told.value)


def test_layers_that_the_net_lacks_and_splits_are_a_note_and_no_error(tmp_path: Path) -> None:
    file = weights(tmp_path, layer("data_split_0", type_="Split"), whole("conv"), whole("fc"), layer("aux.loss", [blob(drawn(3, 3))]))
    with pytest.warns(CaffezooWarning, match=r"aux\.loss"):
        net = convert(text(tmp_path, HEAD, CONV, FC), file)
    assert any("aux.loss" in note and "split" not in note for note in net.notes)


def test_of_layers_that_share_a_name_in_the_file_the_last_one_counts(tmp_path: Path) -> None:
    first = layer("conv", [blob(drawn(4, 3, 3, 3)), blob(drawn(4))])
    with pytest.warns(CaffezooWarning, match="several layers named conv"):
        net = convert(text(tmp_path, HEAD, CONV), weights(tmp_path, first, whole("conv"), layer("conv")))
    assert numpy.array_equal(net.state_dict()["conv.weight"].numpy(), ARRAYS["conv"][0])


def second(filler: str) -> str:
    return (
        'layer { name: "conv" type: "Convolution" bottom: "conv" top: "again" convolution_param {'
        f" num_output: 4 kernel_size: 3 {filler} }} }}\n"
    )


def test_the_second_layer_of_a_name_keeps_its_constant_fillers(tmp_path: Path) -> None:
    constant = 'weight_filler { type: "constant" value: 0.25 } bias_filler { type: "constant" value: -1 }'
    with pytest.warns(CaffezooWarning, match="there twice"):
        net = convert(text(tmp_path, HEAD, CONV, second(constant)), weights(tmp_path, whole("conv")))
    state = net.state_dict()
    assert numpy.array_equal(state["conv.weight"].numpy(), ARRAYS["conv"][0])
    assert torch.equal(state["conv_.weight"], torch.full((4, 4, 3, 3), 0.25)) and torch.equal(state["conv_.bias"], torch.full((4,), -1.0))
    assert list(net.layer_names.values()) == ["conv", "conv"]


def test_the_second_layer_of_a_name_with_random_fillers_is_refused(tmp_path: Path) -> None:
    prototxt = text(tmp_path, HEAD, CONV, second('weight_filler { type: "xavier" }'))
    with pytest.raises(UnsupportedError, match="random numbers"):
        convert(prototxt, weights(tmp_path, whole("conv")))


def siamese(*names: str) -> str:
    fc = 'layer {{ name: "{0}" type: "InnerProduct" bottom: "{1}" top: "{0}" {2} inner_product_param {{ num_output: 4 }} }}\n'
    params = " ".join(f'param {{ name: "{name}" }}' if name else "param { lr_mult: 1 }" for name in names)
    head = 'input: "a" input_shape { dim: 1 dim: 4 } input: "b" input_shape { dim: 1 dim: 4 }\n'
    return head + fc.format("left", "a", params) + fc.format("right", "b", params)


def test_shared_parameters_stay_one_parameter_and_take_the_last_copy(tmp_path: Path) -> None:
    old, new = ([drawn(4, 4), drawn(4)] for _ in range(2))
    for order in (("left", "right"), ("right", "left")):
        file = weights(tmp_path, layer(order[0], map(blob, old)), layer(order[1], map(blob, new)))
        net = convert(text(tmp_path, siamese("w", "b")), file)
        left, right = net.get_submodule("left"), net.get_submodule("right")
        assert left.weight is right.weight and left.bias is right.bias
        assert len(list(net.parameters())) == 2 and len(net.state_dict()) == 4
        assert numpy.array_equal(net.state_dict()["left.weight"].numpy(), new[0])
        assert numpy.array_equal(net.state_dict()["right.bias"].numpy(), new[1])


def test_only_the_named_parameters_are_shared(tmp_path: Path) -> None:
    old, new = ([drawn(4, 4), drawn(4)] for _ in range(2))
    net = convert(text(tmp_path, siamese("w", "")), weights(tmp_path, layer("left", map(blob, old)), layer("right", map(blob, new))))
    assert net.get_submodule("left").weight is net.get_submodule("right").weight
    state = net.state_dict()
    assert numpy.array_equal(state["left.bias"].numpy(), old[1]) and numpy.array_equal(state["right.bias"].numpy(), new[1])


def test_a_training_step_keeps_shared_parameters_equal(tmp_path: Path) -> None:
    torch.manual_seed(0)
    arrays = [drawn(4, 4), drawn(4)]
    net = convert(text(tmp_path, siamese("w", "b")), weights(tmp_path, layer("left", map(blob, arrays)), layer("right", map(blob, arrays))))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    found = net(torch.ones(1, 4), torch.zeros(1, 4))
    (found["left"].sum() + found["right"].square().sum()).backward()
    optimizer.step()
    state = net.state_dict()
    assert torch.equal(state["left.weight"], state["right.weight"])
    assert not numpy.array_equal(state["left.weight"].numpy(), arrays[0])


def test_parameters_that_share_a_name_but_no_shape_are_refused(tmp_path: Path) -> None:
    prototxt = siamese("w", "b").replace("num_output: 4", "num_output: 3", 1)
    with pytest.raises(ConversionError, match="shares its parameter"):
        convert(text(tmp_path, prototxt))


BATCH_NORM = 'input: "data" input_shape { dim: 2 dim: 3 dim: 2 dim: 2 }\nlayer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" }\n'


@pytest.mark.parametrize("factor", [1.0, 999.98236, 0.5, 0.0])
def test_batch_norm_divides_by_its_factor_and_a_factor_of_zero_means_zeros(factor: float, tmp_path: Path) -> None:
    mean, variance = drawn(3), numpy.abs(drawn(3)) + 1
    file = weights(tmp_path, layer("bn", [blob(mean), blob(variance), blob(numpy.array([factor], "f4"))]))
    net = convert(text(tmp_path, BATCH_NORM), file)
    x = torch.from_numpy(drawn(2, 3, 2, 2))
    scale = 0.0 if factor == 0 else 1 / factor
    centre, spread = (torch.from_numpy(a.astype("f8") * scale).reshape(1, 3, 1, 1) for a in (mean, variance))
    with torch.inference_mode():
        want = (x.double() - centre) / (spread + 1e-5).sqrt()
        assert torch.allclose(net(x).double(), want, rtol=1e-5, atol=1e-6)
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())


SCALARS: list[tuple[str, list[Any]]] = [
    ('layer { name: "p" type: "PReLU" bottom: "data" top: "y" prelu_param { channel_shared: true } }', [numpy.float32(0.3)]),
    ('layer { name: "p" type: "PReLU" bottom: "data" top: "y" }', [drawn(3)]),
    ('layer { name: "p" type: "Bias" bottom: "data" top: "y" bias_param { num_axes: 0 } }', [numpy.float32(0.3)]),
]


@pytest.mark.parametrize(("line", "arrays"), SCALARS)
@pytest.mark.parametrize("old", [False, True])
def test_blobs_of_one_value_load_with_and_without_axes(line: str, arrays: Sequence[Any], old: bool, tmp_path: Path) -> None:
    net = convert(text(tmp_path, HEAD, line), weights(tmp_path, layer("p", [blob(array, old) for array in arrays])))
    held = list(net.state_dict().values())
    assert [value.numpy().reshape(-1).tolist() for value in held] == [array.reshape(-1).tolist() for array in arrays]


def test_blobs_of_a_data_layer_are_not_passed_over(tmp_path: Path) -> None:
    head = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }\n'
    with pytest.raises(MismatchError, match="layer 'data': the file has 1 blob"):
        convert(text(tmp_path, head, CONV), weights(tmp_path, layer("data", [blob(drawn(1))]), whole("conv")))


def test_damaged_values_of_an_unused_layer_do_not_reach_the_net(tmp_path: Path) -> None:
    broken = layer("unused", [shape(9, 9) + packed(5, drawn(2))])
    file = weights(tmp_path, whole("conv"), broken)
    with pytest.raises(ConversionError, match="layer 'unused', blob 0"):
        read_blobs(file)
    with pytest.warns(CaffezooWarning, match="unused"):
        net = convert(text(tmp_path, HEAD, CONV), file)
    assert numpy.array_equal(net.state_dict()["conv.weight"].numpy(), ARRAYS["conv"][0])
