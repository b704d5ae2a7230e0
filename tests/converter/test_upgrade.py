"""V0 and V1 nets, `input` fields and solver files in V2 form, as Caffe's upgrade_proto.cpp makes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from converter.build.graph import build_graph
from converter.errors import ConversionError, GraphError, PrototxtError, UnsupportedError
from converter.read.prototxt import parse_prototxt, read_prototxt
from converter.read.schema import is_repeated, message_class
from converter.read.upgrade import V0_FIELDS, V0_TYPES, NetSpec
from converter.read.v1_types import V1_TYPES


def spec_of(text: str) -> NetSpec:
    return parse_prototxt(text, "old.prototxt")


def only(text: str) -> Any:
    (layer,) = spec_of(text).layers
    return layer.message


def v2(**fields: Any) -> Any:
    return message_class("LayerParameter")(**fields)


def v0(params: str, bottoms: str = "x", top: str = "y") -> str:
    return f"layers {{ layer {{ {params} }} {' '.join(f'bottom: {b!r}' for b in bottoms.split())} top: {top!r} }}\n"


# --------------------------------------------------------------------------------------------------------------- V0

# Every field of a V0 layer: type, text, where its value goes
V0_LAYERS: list[tuple[str, str, dict[str, Any]]] = [
    (
        "conv",
        "num_output: 4 biasterm: false kernelsize: 3 pad: 1 stride: 2 group: 2",
        {"convolution_param": {"num_output": 4, "bias_term": False, "kernel_size": [3], "pad": [1], "stride": [2], "group": 2}},
    ),
    (
        "conv",
        "weight_filler { type: 'gaussian' std: 0.5 } bias_filler { value: 1 }",
        {"convolution_param": {"weight_filler": {"type": "gaussian", "std": 0.5}, "bias_filler": {"value": 1}}},
    ),
    (
        "innerproduct",
        "num_output: 4 biasterm: false weight_filler { type: 'xavier' } bias_filler { value: 1 }",
        {"inner_product_param": {"num_output": 4, "bias_term": False, "weight_filler": {"type": "xavier"}, "bias_filler": {"value": 1}}},
    ),
    ("pool", "pool: AVE kernelsize: 3 stride: 2 pad: 1", {"pooling_param": {"pool": 1, "kernel_size": [3], "stride": [2], "pad": [1]}}),
    ("pool", "pool: STOCHASTIC kernelsize: 2", {"pooling_param": {"pool": 2, "kernel_size": [2]}}),
    ("dropout", "dropout_ratio: 0.25", {"dropout_param": {"dropout_ratio": 0.25}}),
    ("lrn", "local_size: 3 alpha: 0.5 beta: 0.25 k: 2", {"lrn_param": {"local_size": 3, "alpha": 0.5, "beta": 0.25, "k": 2}}),
    ("concat", "concat_dim: 0", {"concat_param": {"concat_dim": 0}}),
    (
        "data",
        "source: 's' scale: 0.5 meanfile: 'm' batchsize: 8 cropsize: 7 mirror: true rand_skip: 3",
        {
            "data_param": {"source": "s", "batch_size": 8, "rand_skip": 3},
            "transform_param": {"scale": 0.5, "mean_file": "m", "crop_size": 7, "mirror": True},
        },
    ),
    (
        "images",
        "source: 's' batchsize: 8 rand_skip: 3 shuffle_images: true new_height: 5 new_width: 6 scale: 2",
        {
            "image_data_param": {"source": "s", "batch_size": 8, "rand_skip": 3, "shuffle": True, "new_height": 5, "new_width": 6},
            "transform_param": {"scale": 2},
        },
    ),
    ("hdf5_data", "source: 's' batchsize: 8", {"hdf5_data_param": {"source": "s", "batch_size": 8}}),
    ("hdf5_output", "hdf5_output_param { file_name: 'f' }", {"hdf5_output_param": {"file_name": "f"}}),
    ("infogain_loss", "source: 's'", {"infogain_loss_param": {"source": "s"}}),
    (
        "window_data",
        "source: 's' batchsize: 8 det_fg_threshold: 0.5 det_bg_threshold: 0.25 "
        "det_fg_fraction: 0.75 det_context_pad: 16 det_crop_mode: 'square'",
        {
            "window_data_param": {
                "source": "s",
                "batch_size": 8,
                "fg_threshold": 0.5,
                "bg_threshold": 0.25,
                "fg_fraction": 0.75,
                "context_pad": 16,
                "crop_mode": "square",
            }
        },
    ),
]


@pytest.mark.parametrize(("kind", "params", "expected"), V0_LAYERS)
def test_a_v0_layer_becomes_a_v2_layer(kind: str, params: str, expected: dict[str, Any]) -> None:
    found = only(v0(f"name: 'n' type: '{kind}' {params}"))
    assert found == v2(name="n", type=V0_TYPES[kind], bottom=["x"], top=["y"], **expected)


def test_every_v0_field_is_covered_above() -> None:
    written = {(kind, name) for kind, params, _ in V0_LAYERS for name in re.findall(r"(\w+)(?::| \{)", params)}
    for name, targets in V0_FIELDS.items():
        for kind in targets:
            assert (kind, name) in written or (kind == "*" and any(field == name for _, field in written)), (kind, name)
    schema = {known.name for known in message_class("V0LayerParameter").DESCRIPTOR.fields}
    unused = schema - set(V0_FIELDS) - {"name", "type", "blobs", "blobs_lr", "weight_decay"}
    assert unused == {"new_num", "new_channels", "new_height", "new_width"} - set(V0_FIELDS)


@pytest.mark.parametrize("kind", sorted(V0_TYPES))
def test_every_v0_type_has_its_name_of_today(kind: str) -> None:
    assert only(v0(f"name: 'n' type: '{kind}'")) == v2(name="n", type=V0_TYPES[kind], bottom=["x"], top=["y"])


def test_v0_rates_become_params() -> None:
    found = only(v0("type: 'conv' blobs_lr: 1 blobs_lr: 2 weight_decay: 0.5"))
    assert [(p.lr_mult, p.HasField("decay_mult"), p.decay_mult) for p in found.param] == [(1, True, 0.5), (2, False, 1)]


def test_a_v0_field_that_its_type_has_not_is_noted() -> None:
    spec = spec_of(v0("name: 'r' type: 'relu' kernelsize: 3"))
    assert spec.layers[0].message == v2(name="r", type="ReLU", bottom=["x"], top=["y"])
    assert len(spec.notes) == 1
    assert "'r'" in spec.notes[0] and "kernelsize" in spec.notes[0]


@pytest.mark.parametrize("kind", ["Concat", "LRN", "frobnicate", "", "padding "])
def test_a_v0_layer_of_a_type_that_v0_has_not_is_refused(kind: str) -> None:
    """Its fields would go nowhere: a V0 `Concat` with concat_dim 0 must not become a Concat along axis 1."""
    text = "input: 'x' input_dim: [1, 2, 3, 4]\n" + v0(f"name: 'n' type: '{kind}' concat_dim: 0 local_size: 7")
    with pytest.raises(UnsupportedError, match="'n' of type 'V0 "):
        build_graph(spec_of(text))


PAD = "name: 'p' type: 'padding'"


@pytest.mark.parametrize(
    ("pads", "reader", "param", "merged"),
    [
        ("pad: 2", "type: 'conv' kernelsize: 3", "convolution_param", [2]),
        ("pad: 2", "type: 'conv' kernelsize: 3 pad: 7", "convolution_param", [2]),
        ("pad: 2 pad: 3", "type: 'conv'", "convolution_param", [3]),
        ("", "type: 'conv'", "convolution_param", [0]),
        ("pad: 2", "type: 'pool' kernelsize: 3", "pooling_param", [2]),
        ("pad: 2", "type: 'pool' pad: 1", "pooling_param", [2]),
    ],
)
def test_a_v0_padding_layer_is_merged_into_its_reader(pads: str, reader: str, param: str, merged: Any) -> None:
    spec = spec_of(v0(f"{PAD} {pads}", "x", "padded") + v0(f"name: 'c' {reader}", "padded", "y"))
    (layer,) = spec.layers
    assert list(layer.message.bottom) == ["x"]
    pad = getattr(layer.message, param).pad
    assert (list(pad) if isinstance(merged, list) else pad) == merged


def test_a_padded_blob_may_have_several_readers_and_is_gone_when_written_again() -> None:
    conv = "type: 'conv' kernelsize: 3"
    spec = spec_of(
        v0(f"{PAD} pad: 2", "x", "y")
        + v0(f"name: 'a' {conv}", "y", "a")
        + v0(f"name: 'b' {conv}", "y", "y")
        + v0(f"name: 'c' {conv}", "y", "c")
    )
    assert [(layer.name, list(layer.message.bottom), list(layer.message.convolution_param.pad)) for layer in spec.layers] == [
        ("a", ["x"], [2]),
        ("b", ["x"], [2]),
        ("c", ["y"], []),
    ]


@pytest.mark.parametrize(
    "text",
    [
        v0(f"{PAD} pad: 1", "x", "p") + v0("name: 'r' type: 'relu'", "p", "y"),
        v0(f"{PAD} pad: 1", "x", "p") + v0("name: 'c' type: 'concat'", "x p", "y"),
        v0(f"{PAD} pad: 1", "x", "p") + v0("name: 'q' type: 'padding' pad: 1", "p", "q") + v0("name: 'c' type: 'conv'", "q", "y"),
        v0(f"{PAD} pad: 1", "x z", "p") + v0("name: 'c' type: 'conv'", "p", "y"),
    ],
)
def test_v0_padding_before_anything_else_is_refused(text: str) -> None:
    with pytest.raises(GraphError, match=r"old.prototxt: the V0 padding layer 'p'"):
        spec_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "layer { name: 'p' type: 'padding' bottom: 'x' top: 'q' padding_param { pad: 3 } }",
        "layers { name: 'p' type: 'padding' bottom: 'x' top: 'q' }",
    ],
)
def test_only_v0_has_padding_layers(text: str) -> None:
    """A fork's layer of that type must not vanish."""
    net = "input: 'x' input_shape { dim: 1 dim: 3 dim: 8 dim: 8 } " + text
    net += " layer { name: 'c' type: 'Convolution' bottom: 'q' top: 'y' convolution_param { num_output: 1 kernel_size: 3 } }"
    with pytest.raises(UnsupportedError, match="'p' of type 'padding'"):
        build_graph(spec_of(net))


def test_unknown_fields_of_a_v0_layer_are_kept_under_it_and_those_of_padding_under_its_reader() -> None:
    spec = spec_of(v0(f"{PAD} pad: 1 pad_mode: 'mirror'", "x", "p") + v0("name: 'c' type: 'conv' winograd: true", "p", "y"))
    (layer,) = spec.layers
    assert [u.path for u in layer.unknown] == [("winograd",), ("pad_mode",)]


# --------------------------------------------------------------------------------------------------------------- V1


@pytest.mark.parametrize("name", sorted(V1_TYPES))
def test_every_v1_type_has_its_name_of_today_and_its_number(name: str) -> None:
    number, today = V1_TYPES[name]
    declared = message_class("V1LayerParameter").DESCRIPTOR.enum_types_by_name["LayerType"].values_by_name
    assert declared[name].number == number
    assert only(f"layers {{ type: {name} }}").type == today
    assert only(f"layers {{ type: {number} }}").type == today
    assert len(V1_TYPES) == len(declared)


def test_a_v1_layer_keeps_its_messages_rules_and_blobs() -> None:
    found = only(
        "layers { name: 'c' type: CONVOLUTION bottom: 'x' bottom: 'z' top: 'y' "
        "convolution_param { num_output: 2 pad: 1 pad: 2 } relu_param { negative_slope: 2 }"
        " include { phase: TRAIN stage: 's' } exclude { } loss_weight: 3 loss_param { normalize: true } blobs { data: [1, 2] } }"
    )
    assert found == v2(
        name="c",
        type="Convolution",
        bottom=["x", "z"],
        top=["y"],
        convolution_param={"num_output": 2, "pad": [1, 2]},
        relu_param={"negative_slope": 2},
        include=[{"phase": 0, "stage": ["s"]}],
        exclude=[{}],
        loss_weight=[3],
        loss_param={"normalize": True},
        blobs=[{"data": [1, 2]}],
    )


def test_every_v1_message_has_a_place_in_v2() -> None:
    new = message_class("LayerParameter").DESCRIPTOR.fields_by_name
    moved = {"layer", "name", "type", "blobs_lr", "weight_decay", "param", "blob_share_mode"}
    for known in message_class("V1LayerParameter").DESCRIPTOR.fields:
        if known.name not in moved:
            assert new[known.name].message_type == known.message_type
            assert is_repeated(new[known.name]) == is_repeated(known)


def test_v1_lists_become_params() -> None:
    found = only(
        "layers { type: INNER_PRODUCT param: 'w' param: 'b' blob_share_mode: PERMISSIVE "
        "blobs_lr: 1 blobs_lr: 2 blobs_lr: 3 weight_decay: 4 }"
    )
    assert [(p.name, p.share_mode, p.lr_mult, p.decay_mult) for p in found.param] == [("w", 1, 1, 4), ("b", 0, 2, 1), ("", 0, 3, 1)]


@pytest.mark.parametrize(
    ("kind", "param"), [("DATA", "data_param"), ("IMAGE_DATA", "image_data_param"), ("WINDOW_DATA", "window_data_param")]
)
def test_v1_data_transformations_move_to_transform_param(kind: str, param: str) -> None:
    found = only(
        f"layers {{ type: {kind} {param} {{ scale: 0.5 mean_file: 'm' crop_size: 7 mirror: true batch_size: 3 }} "
        f"transform_param {{ scale: 9 }} }}"
    )
    assert found.transform_param == message_class("TransformationParameter")(scale=0.5, mean_file="m", crop_size=7, mirror=True)
    assert getattr(found, param).batch_size == 3
    untouched = only(f"layers {{ type: {kind} transform_param {{ scale: 9 }} }}")
    assert untouched.transform_param == message_class("TransformationParameter")(scale=9)


@pytest.mark.parametrize("written", ["WARP_CTC", '"WarpCTC"', "1000"])
def test_an_unknown_v1_type_is_refused_by_its_name_only_where_it_is_kept(written: str) -> None:
    text = "input: 'x' input_dim: [1, 2, 3, 4] layers { name: 'r' type: RELU bottom: 'x' top: 'z' }"
    odd = f"layers {{ name: 'n' type: {written} bottom: 'x' top: 'y' RULE }}"
    with pytest.raises(UnsupportedError, match=f"'n' of type '{written.strip(chr(34))}'"):
        build_graph(spec_of(text + odd.replace("RULE", "")))
    assert [s.name for s in build_graph(spec_of(text + odd.replace("RULE", "include { phase: TRAIN }"))).steps] == ["r"]


def test_a_v1_type_in_quotes_is_taken_by_its_name() -> None:
    layer = spec_of('layers { name: "s" type: "Softmax" bottom: "x" top: "y" }').layers[0]
    assert (layer.type, layer.unknown) == ("Softmax", [])


# ---------------------------------------------------------------------------------------------------- mixed and input


def test_layers_of_all_ages_in_one_file_keep_their_order() -> None:
    text = (
        "layer { name: 'a' type: 'ReLU' }"
        + v0("name: 'b' type: 'relu'")
        + "layers { name: 'c' type: RELU } layer { name: 'd' type: 'ReLU' }"
    )
    spec = spec_of(text + "layers { name: 'e' type: TANH }")
    assert [(layer.name, layer.type) for layer in spec.layers] == [
        ("a", "ReLU"),
        ("b", "ReLU"),
        ("c", "ReLU"),
        ("d", "ReLU"),
        ("e", "TanH"),
    ]


RELU = "layer { name: 'r' type: 'ReLU' bottom: 'x' top: 'y' }"


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("input: 'x' input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4", [[1, 2, 3, 4]]),
        ("input_dim: [1, 2, 3, 4, 5, 6, 7, 8] input: 'x' input: 'z'", [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ("input: 'x' input_shape { dim: 1 dim: 2 }", [[1, 2]]),
        ("input: 'x' input_shape { dim: 1 dim: 2 } input: 'z' input_shape { }", [[1, 2], []]),
        ("input: 'x'", []),
    ],
)
def test_input_fields_become_an_input_layer_in_front(text: str, shapes: list[list[int]]) -> None:
    layer, relu = spec_of(f"{RELU} {text}").layers
    assert relu.name == "r"
    assert (layer.name, layer.type, list(layer.message.top)) == ("input", "Input", ["x", "z"][: max(len(shapes), 1)])
    assert [list(shape.dim) for shape in layer.message.input_param.shape] == shapes


@pytest.mark.parametrize(
    "text",
    [
        "input: 'x' input_dim: [1, 2, 3]",
        "input: 'x' input: 'z' input_dim: [1, 2, 3, 4]",
        "input: 'x' input_dim: [1, 2, 3, 4] input_shape { dim: 1 }",
        "input: 'x' input: 'z' input: 'w' input_shape { dim: 1 } input_shape { dim: 2 }",
        "input: 'x' input: 'x' input_dim: [1, 2, 3, 4, 1, 2, 3, 4]",
    ],
)
def test_input_fields_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(GraphError, match=r"old.prototxt"):
        build_graph(spec_of(f"{text} {RELU}"))


def test_input_fields_of_several_inputs_run() -> None:
    graph = build_graph(spec_of("input: 'x' input: 'z' input_shape { dim: 2 dim: 3 } input_shape { dim: 2 } " + RELU))
    assert graph.inputs == {"x": (2, 3), "z": (2,)}


# ---------------------------------------------------------------------------------------------------------- solvers

X = "layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: 2 dim: 3 } } }"


def net(name: str) -> str:
    return f"name: '{name}' {X} {RELU} layer {{ name: 's' type: 'TanH' bottom: 'x' top: 's' include {{ stage: 'extra' }} }}"


SOLVERS: dict[str, tuple[str, str, str]] = {
    # solver, phase, the net it means
    "net": ("net: 'a.prototxt'", "TEST", "a"),
    "a path of the author's": ("net: 'models/far/away/a.prototxt'", "TEST", "a"),
    "net in training": ("net: 'a.prototxt'", "TRAIN", "a"),
    "net_param": (f"net_param {{ {net('inner')} }}", "TEST", "inner"),
    "test_net": ("train_net: 'a.prototxt' test_net: 'b.prototxt'", "TEST", "b"),
    "train_net": ("train_net: 'a.prototxt' test_net: 'b.prototxt'", "TRAIN", "a"),
    "test_net before net": ("net: 'a.prototxt' test_net: 'b.prototxt'", "TEST", "b"),
    "test_net_param": (f"train_net: 'a.prototxt' test_net_param {{ {net('inner')} }}", "TEST", "inner"),
    "train_net_param": (f"train_net_param {{ {net('inner')} }} test_net: 'b.prototxt'", "TRAIN", "inner"),
    "other fields": (
        "base_lr: 0.1 lr_policy: 'step' net: 'a.prototxt' solver_mode: GPU type: 'SGD' stepvalue: [1, 2] a_fork_s: 3",
        "TEST",
        "a",
    ),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_stands_for_its_net(name: str, tmp_path: Path) -> None:
    text, phase, expected = SOLVERS[name]
    for other in "ab":
        (tmp_path / f"{other}.prototxt").write_text(net(other))
    (tmp_path / "solver.prototxt").write_text(text)
    spec = read_prototxt(tmp_path / "solver.prototxt", phase)
    assert spec.name == expected
    assert [layer.name for layer in spec.layers] == ["x", "r", "s"]


@pytest.mark.parametrize("state", ["stage: 'extra'", "stage: 'other' stage: 'extra' level: 2"])
def test_a_solver_s_test_state_decides_what_is_kept(state: str, tmp_path: Path) -> None:
    path = tmp_path / "solver.prototxt"
    for phase, field in (("TEST", "test_state"), ("TRAIN", "train_state")):
        path.write_text(f"net_param {{ {net('n')} }}")
        assert [s.name for s in build_graph(read_prototxt(path, phase), phase=phase).steps] == ["r"]
        path.write_text(f"net_param {{ {net('n')} }} {field} {{ {state} }}")
        assert [s.name for s in build_graph(read_prototxt(path, phase), phase=phase).steps] == ["r", "s"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base_lr: 0.1", "names no net for phase TEST"),
        ("train_net: 'a.prototxt' base_lr: 0.1", "names no net for phase TEST"),
        ("net: 'missing.prototxt'", "missing.prototxt"),
        ("net: 'solver.prototxt'", "solver.prototxt"),
        (f"test_net_param {{ {X} {RELU} }} train_net_param {{ {X} }}", "more than one net"),
    ],
)
def test_a_solver_without_a_usable_net_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "solver.prototxt"
    path.write_text(text)
    with pytest.raises(PrototxtError, match=words) as error:
        read_prototxt(path)
    assert str(path) in str(error.value)


def test_solvers_that_name_each_other_are_refused(tmp_path: Path) -> None:
    for name, other in ("ab", "ba"):
        (tmp_path / f"{name}.prototxt").write_text(f"net: '{other}.prototxt' base_lr: 1")
    with pytest.raises(ConversionError):
        read_prototxt(tmp_path / "a.prototxt")


def test_unknown_fields_in_a_solver_s_net_are_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "solver.prototxt"
    path.write_text(f"base_lr: 1 net_param {{ {X} layer {{ name: 'r' type: 'ReLU' bottom: 'x' top: 'y' relu_param {{ cap: 6 }} }} }}")
    with pytest.raises(UnsupportedError, match="cap: 6"):
        build_graph(read_prototxt(path))
