"""The way back: a converted net's weights as a caffemodel, its structure as a deploy prototxt, and layers of another num_output."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import numpy
import pytest
import torch
from encode import blob, layer
from golden import CASES, FOLDER, arrays, assert_as_caffe, converted, files, inputs
from test_cli import run

from converter import CaffeNet, convert, read_blobs, save_caffemodel
from converter.errors import ConversionError, GraphError, MismatchError, UnsupportedError
from converter.program import Program
from converter.read.schema import message_class

HEAD = 'input: "data" input_shape { dim: 2 dim: 3 dim: 6 dim: 6 }\n'
CONV = 'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }\n'
FC = 'layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 5 } }\n'
PROB = 'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }\n'
WEIGHTED = [case for case in CASES if files(case)[1] is not None]


def net_of(folder: Path, *parts: str, **how: object) -> CaffeNet:
    path = folder / "net.prototxt"
    path.write_text("".join(parts))
    return convert(path, **how)  # type: ignore[arg-type]


def same_state(one: CaffeNet, other: CaffeNet) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(a[key].numpy().tobytes() == b[key].numpy().tobytes() for key in a)


# --- caffemodels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", WEIGHTED)
def test_a_golden_net_s_weights_come_back_bit_for_bit(case: str, tmp_path: Path) -> None:
    net, path = converted(case), tmp_path / "back.caffemodel"
    save_caffemodel(net, path)
    again = convert(files(case)[0], path)
    assert same_state(net, again)
    with torch.inference_mode():
        assert_as_caffe(case, again(*inputs(case, again), blobs=tuple(arrays(case, "output"))))


@pytest.mark.parametrize("case", WEIGHTED)
def test_blobs_have_the_shapes_that_caffe_itself_writes(case: str, tmp_path: Path) -> None:
    """And the values, but for BatchNorm's, which are sums with a factor there and means with a factor of 1 here."""
    save_caffemodel(converted(case), tmp_path / "back.caffemodel")
    ours, theirs = read_blobs(tmp_path / "back.caffemodel"), read_blobs(files(case)[1])  # type: ignore[arg-type]
    sums = set(re.findall(r'name: "([^"]+)"\s+type: "BatchNorm"', files(case)[0].read_text()))
    for name in ours.keys() & theirs.keys():
        assert [b.shape for b in ours[name]] == [b.shape for b in theirs[name]], name
        for one, other in zip(ours[name], theirs[name], strict=True):
            assert name in sums or numpy.array_equal(numpy.asarray(one), numpy.asarray(other), equal_nan=True), name
    assert {name for name, blobs in theirs.items() if blobs} >= {name for name, blobs in ours.items() if blobs}


def test_protobuf_reads_the_file_as_caffe_would(tmp_path: Path) -> None:
    net = net_of(tmp_path, 'name: "small"\n', HEAD, CONV, FC)
    save_caffemodel(net, tmp_path / "net.caffemodel")
    message = message_class("NetParameter").FromString((tmp_path / "net.caffemodel").read_bytes())
    assert message.name == "small"
    assert [(each.name, each.type) for each in message.layer] == [("conv", "Convolution"), ("fc", "InnerProduct")]
    assert list(message.layer[1].blobs[0].shape.dim) == [5, 64]
    assert list(message.layer[0].blobs[1].data) == net.state_dict()["conv.bias"].tolist()


BN = """layer {{ name: "bn" type: "BN" bottom: "data" top: "bn" bn_param {{ {0} }} }}"""


@pytest.mark.parametrize("fields", ["slope_filler { type: 'uniform' }", "bn_mode: INFERENCE", "bn_mode: LEARN"])
def test_the_forks_bn_comes_back_with_its_axes(fields: str, tmp_path: Path) -> None:
    net = net_of(tmp_path, HEAD, BN.format(fields))
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    save_caffemodel(net, tmp_path / "net.caffemodel")
    assert {b.shape for b in read_blobs(tmp_path / "net.caffemodel")["bn"]} == {(1, 3) if "slope" in fields else (1, 3, 1, 1)}
    assert same_state(net, convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel"))


@pytest.mark.parametrize(
    "layer_text",
    [
        'layer { name: "l" type: "PReLU" bottom: "data" top: "l" prelu_param { channel_shared: true } }',
        'layer { name: "l" type: "Scale" bottom: "data" top: "l" scale_param { num_axes: 0 bias_term: true } }',
        'layer { name: "l" type: "Scale" bottom: "data" top: "l" scale_param { axis: 2 num_axes: 2 } }',
        'layer { name: "l" type: "Bias" bottom: "data" top: "l" bias_param { axis: 0 num_axes: -1 } }',
        'layer { name: "l" type: "Deconvolution" bottom: "data" top: "l" convolution_param { num_output: 6 kernel_size: 3 group: 3 } }',
        'layer { name: "l" type: "Parameter" top: "l" parameter_param { shape { dim: 2 dim: 3 } } }',
    ],
)
def test_layers_without_a_golden_case_come_back_too(layer_text: str, tmp_path: Path) -> None:
    net = net_of(tmp_path, HEAD, layer_text, 'layer { name: "abs" type: "AbsVal" bottom: "data" top: "abs" }')
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    save_caffemodel(net, tmp_path / "net.caffemodel")
    assert same_state(net, convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel"))


def test_trained_weights_of_half_precision_are_written_as_float32(tmp_path: Path) -> None:
    net = net_of(tmp_path, HEAD, CONV, FC)
    torch.nn.init.normal_(net.get_parameter("fc.weight"))
    save_caffemodel(net.half(), tmp_path / "net.caffemodel")
    again = convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert torch.equal(again.state_dict()["fc.weight"], net.state_dict()["fc.weight"].float())


def test_half_rounds_the_kernels_and_nothing_else(tmp_path: Path) -> None:
    """Held against protobuf's reading of NVIDIA's fields, not only against our own."""
    net = net_of(tmp_path, HEAD, CONV, FC)
    for value in net.state_dict().values():
        torch.nn.init.normal_(value)
    save_caffemodel(net, tmp_path / "net.caffemodel", half=True)
    state, again = net.state_dict(), convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel").state_dict()
    assert all(torch.equal(again[key], value.half().float() if value.dim() > 1 else value) for key, value in state.items())
    assert not torch.equal(again["fc.weight"], state["fc.weight"])
    message = message_class("NetParameter").FromString((tmp_path / "net.caffemodel").read_bytes())
    blobs = {layer.name: layer.blobs for layer in message.layer}
    weight, bias = blobs["fc"]
    assert weight.raw_data_type == 2 and not weight.data and tuple(weight.shape.dim) == tuple(state["fc.weight"].shape)
    assert numpy.array_equal(numpy.frombuffer(weight.raw_data, "<f2"), state["fc.weight"].half().numpy().ravel())
    assert numpy.array_equal(numpy.array(bias.data, "f4"), state["fc.bias"].numpy()) and not bias.raw_data


def test_a_kernel_beyond_half_precision_is_refused_by_name(tmp_path: Path) -> None:
    net = net_of(tmp_path, HEAD, CONV, FC)
    with torch.no_grad():
        net.get_parameter("fc.weight")[0, 0], net.get_parameter("fc.bias")[0] = 70_000, 1e9
    with pytest.raises(UnsupportedError, match=r"ends at 65,504; write float32, without half: layer 'fc', blob 0: 70,000\.$"):
        save_caffemodel(net, tmp_path / "net.caffemodel", half=True)
    assert not (tmp_path / "net.caffemodel").exists()
    save_caffemodel(net, tmp_path / "net.caffemodel")


def test_a_copied_and_a_pickled_net_can_be_written_too(tmp_path: Path) -> None:
    net = converted("BatchNorm-0")
    for i, twin in enumerate([copy.deepcopy(net), pickle.loads(pickle.dumps(net))]):
        save_caffemodel(twin, tmp_path / f"{i}.caffemodel")
        assert same_state(net, convert(files("BatchNorm-0")[0], tmp_path / f"{i}.caffemodel"))
        assert twin.prototxt == net.prototxt


SHARED = """layer {{ name: "a" type: "InnerProduct" bottom: "data" top: "a" param {{ name: "w" }} inner_product_param {{ {0} }} }}
            layer {{ name: "b" type: "InnerProduct" bottom: "data" top: "b" param {{ name: "w" }} inner_product_param {{ {0} }} }}"""
STATISTICS = """layer { name: "a" type: "BatchNorm" bottom: "data" top: "a" param { name: "m" } }
                layer { name: "b" type: "BatchNorm" bottom: "data" top: "b" param { name: "m" } }"""


@pytest.mark.parametrize("more", ["", "transpose: true"])
def test_shared_weights_are_written_for_each_layer_and_stay_shared(more: str, tmp_path: Path) -> None:
    net = net_of(tmp_path, HEAD, SHARED.format(f"num_output: 4 bias_term: false {more}"))
    torch.nn.init.normal_(net.get_parameter("a.weight"))
    save_caffemodel(net, tmp_path / "net.caffemodel")
    assert list(read_blobs(tmp_path / "net.caffemodel")) == ["a", "b"]
    again = convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert same_state(net, again) and again.a.weight is again.b.weight


def test_shared_statistics_that_have_parted_are_refused_by_name(tmp_path: Path) -> None:
    net = net_of(tmp_path, HEAD, STATISTICS)
    save_caffemodel(net, tmp_path / "net.caffemodel")
    net.state_dict()["b.running_mean"].fill_(1)
    with pytest.raises(UnsupportedError, match="layers 'a' and 'b' share 'm'"):
        save_caffemodel(net, tmp_path / "other.caffemodel")
    assert not (tmp_path / "other.caffemodel").exists()


TWICE = HEAD + CONV + CONV.replace("data", "conv").replace('top: "conv"', 'top: "two"').replace("kernel_size: 3", "kernel_size: 1")


def test_a_second_layer_of_a_name_is_left_out_while_it_has_its_fillers_constants(tmp_path: Path) -> None:
    net = net_of(tmp_path, TWICE)
    torch.nn.init.normal_(net.get_parameter("conv.weight"))
    save_caffemodel(net, tmp_path / "net.caffemodel")
    with pytest.warns(UserWarning, match="there twice"):
        assert same_state(net, convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel"))
    torch.nn.init.normal_(net.get_parameter("conv_.weight"))
    with pytest.raises(UnsupportedError, match=r"layer 'conv'.*Rename one"):
        save_caffemodel(net, tmp_path / "other.caffemodel")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["net.caffemodel", "net.prototxt"]


def test_every_layer_that_is_no_longer_the_prototxt_s_is_named_at_once(tmp_path: Path) -> None:
    net = net_of(tmp_path, HEAD, CONV, FC)
    net.fc = torch.nn.Linear(64, 7, bias=False)
    net.conv = net.conv.double()
    with pytest.raises(MismatchError) as caught:
        save_caffemodel(net, tmp_path / "net.caffemodel")
    for words in ("fc.bias (5,) is missing", "fc.weight is (7, 64), the prototxt's (5, 64)", "conv.weight is float64", "num_output"):
        assert words in str(caught.value)
    assert not (tmp_path / "net.caffemodel").exists()


def test_a_net_without_values_or_origin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="meta device"):
        save_caffemodel(net_of(tmp_path, HEAD, CONV, FC).to("meta"), tmp_path / "net.caffemodel")
    with pytest.raises(UnsupportedError, match="not made by convert"):
        save_caffemodel(CaffeNet({}, Program(), {}), tmp_path / "net.caffemodel")
    with pytest.raises(ConversionError, match="cannot be written"):
        save_caffemodel(net_of(tmp_path, HEAD, CONV, FC), tmp_path / "nowhere" / "net.caffemodel")


def test_the_command_writes_a_caffemodel_of_the_newest_form(tmp_path: Path) -> None:
    prototxt, weights = files("Graph-0")
    out = tmp_path / "net.caffemodel"
    said = run(str(prototxt), str(weights), "-o", str(out))
    assert said.returncode == 0 and "every blob of the net found" in said.stdout
    assert same_state(convert(prototxt, weights), convert(prototxt, out))
    assert "V2" in run(str(out)).stdout
    half = run(str(prototxt), str(weights), "-o", str(tmp_path / "half.caffemodel"), "--half")
    assert half.returncode == 0 and (tmp_path / "half.caffemodel").stat().st_size < 0.75 * out.stat().st_size
    wrong = run(str(prototxt), str(weights), "-o", str(tmp_path / "bf16.caffemodel"), "--bf16")
    assert wrong.returncode == 2 and "no Caffe reads bfloat16" in wrong.stderr


# --- prototxts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_the_net_s_own_prototxt_makes_the_same_net(case: str, tmp_path: Path) -> None:
    net = converted(case)
    path = tmp_path / "deploy.prototxt"
    path.write_text(net.prototxt)
    again = convert(path, files(case)[1])
    assert (again.inputs, again.outputs, again.input_shapes, again.blobs) == (net.inputs, net.outputs, net.input_shapes, net.blobs)
    assert (again.layer_names, again.preprocess) == (net.layer_names, net.preprocess)
    assert again.state_dict().keys() == net.state_dict().keys()
    assert again.prototxt == net.prototxt
    with torch.inference_mode():
        assert_as_caffe(case, again(*inputs(case, again), blobs=tuple(arrays(case, "output"))))


TRAINED = """name: "with \\"quotes\\" and \\n"
layer { name: "data" type: "ImageData" top: "data" top: "label" include { phase: TEST stage: "val" }
  transform_param { scale: 0.00390625 mean_value: 127.5 crop_size: 24 }
  image_data_param { source: "list.txt" batch_size: 2 is_color: false new_height: 32 new_width: 28 } }
layer { name: "data" type: "Data" top: "data" include { phase: TRAIN } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 5 } }
layer { name: "drop" type: "Dropout" bottom: "fc" top: "fc" exclude { phase: TEST } }"""


def test_a_training_net_becomes_the_deploy_net_of_its_phase_and_stage(tmp_path: Path) -> None:
    net = net_of(tmp_path, TRAINED, stages=("val",), input_shapes={"data": (2, 1, 24, 24)})
    (tmp_path / "deploy.prototxt").write_text(net.prototxt)
    again = convert(tmp_path / "deploy.prototxt")
    assert "include" not in net.prototxt and "label" not in net.prototxt
    assert again.name == net.name == 'with "quotes" and \n'
    assert again.input_shapes == {"data": (2, 1, 24, 24)}
    assert again.preprocess == net.preprocess and net.preprocess is not None and net.preprocess.channels == "GRAY"
    assert list(again.layer_names) == ["fc"]


# --- num_output --------------------------------------------------------------------------------------------------


def weights(folder: Path) -> Path:
    path = folder / "net.caffemodel"
    draw = numpy.random.default_rng(0)
    shapes = {"conv": [(4, 3, 3, 3), (4,)], "fc": [(5, 64), (5,)]}
    path.write_bytes(b"".join(layer(name, [blob(draw.normal(size=s)) for s in each]) for name, each in shapes.items()))
    return path


def test_a_layer_of_another_num_output_is_drawn_and_all_others_are_loaded(tmp_path: Path) -> None:
    caffemodel = weights(tmp_path)
    net = net_of(tmp_path, HEAD, CONV, FC, PROB, weights=caffemodel, num_output={"fc": 7})
    assert torch.equal(net.state_dict()["conv.weight"], torch.from_numpy(numpy.asarray(read_blobs(caffemodel)["conv"][0])))
    assert net.state_dict()["fc.weight"].shape == (7, 64)
    bound = (3 / 64) ** 0.5  # xavier's
    assert bound / 2 < net.state_dict()["fc.weight"].abs().max() <= bound
    assert not net.state_dict()["fc.bias"].any()
    assert net(torch.zeros(2, 3, 6, 6)).shape == (2, 7)
    assert "num_output: 7" in net.prototxt and "num_output: 5" not in net.prototxt
    save_caffemodel(net, tmp_path / "seven.caffemodel")
    (tmp_path / "seven.prototxt").write_text(net.prototxt)
    assert same_state(net, convert(tmp_path / "seven.prototxt", tmp_path / "seven.caffemodel"))


def test_the_prototxt_s_own_filler_draws_where_it_has_one(tmp_path: Path) -> None:
    fc = FC.replace("num_output: 5", 'num_output: 5 weight_filler { type: "constant" value: 2 } bias_filler { type: "constant" value: 3 }')
    net = net_of(tmp_path, HEAD, CONV, fc, weights=weights(tmp_path), num_output={"fc": 7})
    assert set(net.state_dict()["fc.weight"].flatten().tolist()) == {2.0} and set(net.state_dict()["fc.bias"].tolist()) == {3.0}


def test_the_same_num_output_draws_anew_too(tmp_path: Path) -> None:
    net = net_of(tmp_path, HEAD, CONV, FC, weights=weights(tmp_path), num_output={"fc": 5})
    assert not net.state_dict()["fc.bias"].any()


def test_old_nets_can_be_changed_as_well(tmp_path: Path) -> None:
    v1 = """input: "data" input_dim: 2 input_dim: 3 input_dim: 6 input_dim: 6
        layers { name: "fc" type: INNER_PRODUCT bottom: "data" top: "fc" inner_product_param { num_output: 5 } }"""
    assert net_of(tmp_path, v1, num_output={"fc": 7})(torch.zeros(2, 3, 6, 6)).shape == (2, 7)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"fc9": 7}, GraphError, "there is no layer 'fc9'. Those that have one: layer 'conv' .*layer 'fc'"),
        ({"prob": 7}, GraphError, "layer 'prob' of type 'Softmax' .*has none"),
        ({"fc": 0}, GraphError, "cannot have the num_output 0"),
        ({"fc": 1 << 40}, GraphError, "cannot have the num_output"),
        ({"conv": 9}, MismatchError, r"layer 'fc', blob 0 \(weight\): the file has \(5, 64\), the net \(5, 144\)"),
    ],
)
def test_a_num_output_that_cannot_be_is_refused(change: dict[str, int], error: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        net_of(tmp_path, HEAD, CONV, FC, PROB, weights=weights(tmp_path), num_output=change)


def test_a_layer_that_shares_its_weights_changes_with_the_other_or_not_at_all(tmp_path: Path) -> None:
    shared = SHARED.format("num_output: 4 bias_term: false")
    with pytest.raises(GraphError, match="share"):
        net_of(tmp_path, HEAD, shared, num_output={"a": 7})
    with pytest.raises(GraphError, match="num_output has to name both"):
        net_of(tmp_path, HEAD, shared, num_output={"b": 4})
    net = net_of(tmp_path, HEAD, shared, num_output={"a": 7, "b": 7})
    assert net.a.weight is net.b.weight and net.a.weight.std() > 0


def test_every_golden_case_with_weights_is_among_the_round_trips() -> None:
    assert len(WEIGHTED) == len(list(FOLDER.glob("*/net.caffemodel"))) > 0
