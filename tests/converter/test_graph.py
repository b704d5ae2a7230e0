"""From layers to steps: rules, wiring, in-place layers and shared memory, names, inputs, and the shapes that come out."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from converter.build import graph as graph_module
from converter.build.assemble import assemble, load
from converter.build.graph import Graph, build_graph
from converter.build.meta import QuickMeta
from converter.build.phases import kept_layers
from converter.conversion import convert
from converter.errors import CaffezooWarning, ConversionError, GraphError, UnsupportedError
from converter.net import CaffeNet
from converter.preprocess import Preprocess
from converter.read.prototxt import parse_prototxt

GOLDEN = Path(__file__).parent.parent / "golden"


def lay(name: str, kind: str, bottoms: str = "", tops: str = "", params: str = "") -> str:
    blobs = "".join(f' bottom: "{b}"' for b in bottoms.split()) + "".join(f' top: "{t}"' for t in tops.split())
    return f'layer {{ name: "{name}" type: "{kind}"{blobs} {params} }}\n'


def inp(name: str, *dims: int) -> str:
    return lay(name, "Input", "", name, f"input_param {{ shape {{ {' '.join(f'dim: {d}' for d in dims)} }} }}")


X = inp("x", 2, 3)


def graph_of(text: str, **state: Any) -> Graph:
    return build_graph(parse_prototxt(text, "net.prototxt"), **state)


def net_of(text: str, **state: Any) -> CaffeNet:
    graph = graph_of(text, **state)
    net = assemble(graph)
    load(net, graph, None)
    return net


def times(name: str, bottom: str, top: str, factor: float) -> str:
    return lay(name, "Power", bottom, top, f"power_param {{ scale: {factor} }}")


# --------------------------------------------------------------------------------------------------------- rules

RULES: list[tuple[str, dict[str, Any], bool]] = [
    # rules of the layer, the net's state, kept?
    ("", {}, True),
    ("include { phase: TEST }", {}, True),
    ("include { phase: TRAIN }", {}, False),
    ("include { phase: TRAIN }", {"phase": "TRAIN"}, True),
    ("include { phase: 1 }", {}, True),
    ("exclude { phase: TEST }", {}, False),
    ("exclude { phase: TRAIN }", {}, True),
    ("include { phase: TRAIN } include { phase: TEST }", {}, True),
    ("exclude { phase: TRAIN } exclude { phase: TEST }", {}, False),
    ("include { }", {}, True),
    ("exclude { }", {}, False),
    ('include { stage: "deploy" }', {}, False),
    ('include { stage: "deploy" }', {"stages": ["deploy"]}, True),
    ('include { stage: "a" stage: "b" }', {"stages": ["a"]}, False),
    ('include { stage: "a" stage: "b" }', {"stages": ["b", "c", "a"]}, True),
    ('include { not_stage: "deploy" }', {}, True),
    ('include { not_stage: "deploy" }', {"stages": ["deploy"]}, False),
    ('include { stage: "a" not_stage: "b" }', {"stages": ["a", "b"]}, False),
    ('exclude { stage: "a" }', {"stages": ["a"]}, False),
    ('exclude { stage: "a" }', {"stages": ["b"]}, True),
    ('exclude { phase: TEST stage: "a" }', {}, True),
    ("include { min_level: 1 }", {}, False),
    ("include { min_level: 1 }", {"level": 1}, True),
    ("include { max_level: 1 }", {"level": 2}, False),
    ("include { min_level: -1 max_level: 0 }", {}, True),
    ("exclude { min_level: 2 }", {"level": 2}, False),
    ("include { phase: TEST min_level: 3 }", {"level": 2}, False),
]


@pytest.mark.parametrize(("rules", "state", "kept"), RULES)
def test_a_layer_is_kept_where_its_rules_are_met(rules: str, state: dict[str, Any], kept: bool) -> None:
    graph = graph_of(X + lay("always", "ReLU", "x", "y") + lay("maybe", "ReLU", "x", "z", rules), **state)
    assert [step.name for step in graph.steps] == ["always"] + ["maybe"] * kept


def test_the_net_s_own_state_adds_to_the_one_asked_for() -> None:
    rules = ['include { stage: "a" }', 'include { stage: "b" }', "include { min_level: 2 }", "include { phase: TRAIN }"]
    text = (
        'state { level: 2 stage: "a" phase: TRAIN }' + X + "".join(lay(f"l{i}", "ReLU", "x", f"y{i}", rule) for i, rule in enumerate(rules))
    )
    spec = parse_prototxt(text)
    assert [layer.name for layer in kept_layers(spec, "TEST", ["b"], 0)] == ["x", "l0", "l1", "l2"]
    assert [layer.name for layer in kept_layers(spec, "TRAIN", [], 1)] == ["x", "l0", "l3"]
    assert [layer.name for layer in kept_layers(spec, "TEST", [], 0)] == ["x", "l0", "l2"]  # asking leaves no trace


def test_a_layer_with_both_kinds_of_rules_is_refused() -> None:
    with pytest.raises(GraphError, match=r"'b'.*both include and exclude"):
        graph_of(X + lay("b", "ReLU", "x", "y", "include { phase: TEST } exclude { phase: TRAIN }"))


def test_a_phase_without_layers_and_an_unknown_phase_are_refused() -> None:
    with pytest.raises(GraphError, match="no layer is left in phase TEST"):
        graph_of(lay("a", "ReLU", "x", "y", "include { phase: TRAIN }"))
    with pytest.raises(GraphError, match="'test'"):
        graph_of(X, phase="test")


def test_two_data_layers_of_one_name_are_told_apart_by_their_phase() -> None:
    text = "".join(
        lay("data", "Input", "", "x", f"input_param {{ shape {{ dim: {n} dim: 3 }} }} include {{ phase: {p} }}")
        for n, p in ((7, "TRAIN"), (5, "TEST"))
    )
    text += lay("relu", "ReLU", "x", "y")
    assert graph_of(text).inputs == {"x": (5, 3)}
    assert graph_of(text, phase="TRAIN").inputs == {"x": (7, 3)}


# ---------------------------------------------------------------------------------------- in place and shared memory

PLUS = "power_param { shift: 100 }"
ONE = torch.tensor([[-1.0, 2.0, -3.0], [4.0, -5.0, 6.0]])


def values(text: str, *blobs: str, x: Tensor = ONE) -> list[Tensor]:
    net = net_of(text)
    found = net(x, blobs=blobs)
    return [found[name] for name in blobs]


def test_readers_of_an_in_place_blob_get_what_stood_there_at_their_turn() -> None:
    """Caffe itself refuses a reader before the in-place layer: its Split gives the blob a second producer."""
    text = X + times("a", "x", "y", 2) + lay("before", "Power", "y", "b", PLUS) + lay("relu", "ReLU", "y", "y")
    text += lay("after", "Power", "y", "c", PLUS) + times("again", "y", "y", 10) + lay("last", "Power", "y", "d", PLUS)
    b, c, d, y = values(text, "b", "c", "d", "y")
    assert torch.equal(b, 2 * ONE + 100)
    assert torch.equal(c, (2 * ONE).relu() + 100)
    assert torch.equal(d, 20 * ONE.relu() + 100)
    assert torch.equal(y, 20 * ONE.relu())
    assert net_of(text).outputs == ("b", "c", "d")


def test_an_input_may_be_overwritten_in_place_and_is_an_output_then() -> None:
    net = net_of(X + lay("relu", "ReLU", "x", "x"))
    assert net.inputs == net.outputs == ("x",)
    given = ONE.clone()
    assert torch.equal(net(given), ONE.relu())
    assert torch.equal(given, ONE)  # the caller's tensor is left alone


def test_a_module_in_place_does_not_change_its_bottom_s_other_readers() -> None:
    chain = "".join(
        lay(f"l{i}", kind, "y", "y") for i, kind in enumerate(["ReLU", "Sigmoid", "TanH", "AbsVal", "Dropout", "ELU", "BNLL", "Exp"])
    )
    text = X + times("a", "x", "y", 1) + lay("copy", "Split", "x", "k l") + chain + lay("sum", "Eltwise", "k l", "s")
    (s,) = values(text, "s")
    assert torch.equal(s, 2 * ONE)


@pytest.mark.parametrize(
    ("kind", "params"),
    [("Flatten", ""), ("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }"), ("Split", ""), ("Concat", ""), ("Slice", "")],
)
def test_a_layer_that_shares_its_bottom_s_memory_passes_an_in_place_write_back(kind: str, params: str) -> None:
    text = inp("x", 2, 3) + times("a", "x", "y", 1) + lay("share", kind, "y", "f", params)
    text += lay("early", "Power", "y", "e", PLUS) + lay("relu", "ReLU", "f", "f") + lay("late", "Power", "y", "l", PLUS)
    early, late, f, y = values(text, "e", "l", "f", "y")
    assert torch.equal(early, ONE + 100)
    assert torch.equal(late, ONE.relu() + 100)
    assert torch.equal(f, ONE.relu())
    assert torch.equal(y, ONE.relu())
    assert net_of(text).outputs == ("f", "e", "l") or net_of(text).outputs == ("e", "f", "l")


def test_shared_memory_is_read_in_each_blob_s_own_shape() -> None:
    text = inp("x", 2, 3, 2, 2) + times("a", "x", "y", 1) + lay("flat", "Flatten", "y", "f")
    text += lay("shape", "Reshape", "y", "r", "reshape_param { shape { dim: 4 dim: 6 } }")
    text += lay("relu", "ReLU", "f", "f") + lay("late", "Power", "y", "l", PLUS) + lay("later", "Power", "r", "m", PLUS)
    x = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    late, later = values(text, "l", "m", x=x)
    assert torch.equal(late, x.relu() + 100)
    assert torch.equal(later, x.relu().reshape(4, 6) + 100)


def test_memory_that_was_written_behind_a_blob_s_back_makes_it_no_output() -> None:
    text = X + times("a", "x", "y", 1) + lay("flat", "Flatten", "y", "f") + lay("relu", "ReLU", "f", "f") + times("out", "f", "z", 2)
    net = net_of(text)
    assert net.outputs == ("z",)
    assert torch.equal(net(ONE), 2 * ONE.relu())
    assert torch.equal(net(ONE, blobs=["y"])["y"], ONE.relu())


def test_an_unread_blob_whose_memory_was_written_is_an_output_with_the_new_values() -> None:
    text = X + times("a", "x", "y", 1) + lay("split", "Split", "y", "p q") + lay("relu", "ReLU", "p", "p") + times("out", "p", "z", 2)
    net = net_of(text)
    assert net.outputs == ("q", "z")
    assert torch.equal(net(ONE)["q"], ONE.relu())


def test_a_new_blob_of_another_layer_shares_nothing() -> None:
    text = X + times("a", "x", "y", 1) + lay("flat", "Flatten", "y", "f") + times("copy", "f", "g", 1) + lay("relu", "ReLU", "g", "g")
    text += lay("sum", "Eltwise", "y f g", "s")
    (s,) = values(text, "s")
    assert torch.equal(s, 2 * ONE + ONE.relu())


@pytest.mark.parametrize("kind", ["Flatten", "Reshape", "Split"])
def test_layers_that_caffe_forbids_in_place_are_refused_in_place(kind: str) -> None:
    with pytest.raises(GraphError, match="in place"):
        graph_of(X + lay("it", kind, "x", "x", "reshape_param { shape { dim: -1 } }"))


# --------------------------------------------------------------------------------------------------------- wiring


def test_a_top_that_another_layer_makes_is_refused() -> None:
    with pytest.raises(GraphError, match=r"'b' of type 'ReLU' .*top 'y' is already there"):
        graph_of(X + lay("a", "ReLU", "x", "y") + lay("b", "ReLU", "x", "y"))
    with pytest.raises(GraphError, match="twice"):
        graph_of(X + lay("a", "Split", "x", "y y"))
    with pytest.raises(GraphError, match="two layers produce it"):
        graph_of(X + inp("x", 2, 3))
    with pytest.raises(GraphError, match="already there"):
        graph_of(X + inp("z", 2, 3) + lay("a", "Eltwise", "x z", "z"))  # in place is the first bottom under the first top


def test_unknown_bottoms_are_refused_with_a_hint() -> None:
    with pytest.raises(GraphError, match=r"net.prototxt: layer 'b' of type 'ReLU' \(line 3\): its bottom 'conv_1' .*did you mean 'conv1'"):
        graph_of(X + lay("a", "ReLU", "x", "conv1") + lay("b", "ReLU", "conv_1", "z"))
    with pytest.raises(GraphError, match=r"'late'.*makes it, but only later"):
        graph_of(X + lay("b", "ReLU", "y", "z") + lay("late", "ReLU", "x", "y"))
    with pytest.raises(GraphError, match="'y'"):
        graph_of(X + lay("b", "ReLU", "y", "z") + lay("train", "ReLU", "x", "y", "include { phase: TRAIN }"))


def test_a_loss_without_a_top_is_computed_but_is_no_output() -> None:
    text = X + inp("label", 2) + lay("loss", "SoftmaxWithLoss", "x label") + lay("prob", "Softmax", "x", "prob")
    net = net_of(text)
    assert net.outputs == ("prob",)
    assert torch.equal(net(ONE, torch.zeros(2)), ONE.softmax(1))
    with pytest.raises(GraphError, match="0 tops"):
        graph_of(X + lay("relu", "ReLU", "x"))


def test_outputs_are_the_unread_blobs_in_prototxt_order() -> None:
    net = net_of(
        X
        + times("c", "x", "zz", 3)
        + times("b", "x", "mid", 2)
        + times("a", "x", "aa", 1)
        + times("d", "mid", "k", 1)
        + lay("quiet", "Silence", "k")
    )
    assert net.outputs == ("zz", "aa")
    assert list(net(ONE)) == ["zz", "aa"]
    one = net_of(X + times("c", "x", "y", 3))
    assert isinstance(one(ONE), Tensor)
    assert list(one(ONE, blobs=["y"])) == ["y"]


def test_any_blob_can_be_asked_for_inputs_included() -> None:
    net = net_of(X + times("a", "x", "y", 2) + times("b", "y", "z", 2))
    found = net(ONE, blobs=["z", "x", "y"])
    assert list(found) == ["z", "x", "y"]
    assert torch.equal(found["x"], ONE)
    assert torch.equal(found["y"], 2 * ONE)
    assert set(net.blobs) == {"x", "y", "z"}
    with pytest.raises(KeyError, match="no blob 'w'; it has x, y, z"):
        net(ONE, blobs=["w"])
    with pytest.raises(TypeError, match=r"takes 1 tensor \(x\), not 2"):
        net(ONE, ONE)


def test_layers_that_the_asked_for_blobs_do_not_need_are_not_run() -> None:
    net = net_of(X + times("a", "x", "y", 2) + times("b", "y", "z", 2))
    ran: list[str] = []
    for name, module in net.named_children():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    net(ONE, blobs=["y"])
    assert ran == ["a"]


# ---------------------------------------------------------------------------------------------------------- names

STRANGE_NAMES = [
    "a.b",
    "a_b",
    "forward",
    "train",
    "",
    "inputs",
    "outputs",
    "name",
    "notes",
    "input_shapes",
    "layer_names",
    "preprocess",
    "training",
    "blobs",
    "_modules",
    "_parameters",
    "program",
    "_calls",
    "state_dict",
    "a/b-1",
    "a_b-1",
    "with \\\" and \\'",
    "new\\nline",
    "class",
    "self",
    "日本",
    "conv1 ",
    "_",
    "__init__",
    ".",
]


def test_every_layer_name_becomes_a_child_and_maps_back() -> None:
    text = X + "".join(lay(name, "PReLU", "x", f"y{i}") for i, name in enumerate(STRANGE_NAMES))
    net = net_of(text)
    plain = [name.encode().decode("unicode_escape") if name.isascii() else name for name in STRANGE_NAMES]
    assert list(net.layer_names.values()) == plain
    assert list(net.layer_names) == [name for name, _ in net.named_children()]
    assert len(net.state_dict()) == len(STRANGE_NAMES)
    assert all(key.count(".") == 1 for key in net.state_dict())
    found = net(ONE)
    assert all(torch.equal(y, torch.where(ONE > 0, ONE, 0.25 * ONE)) for y in found.values())
    keys = {name: key for key, name in net.layer_names.items()}
    assert (keys["a.b"], keys["a_b"], keys["forward"], keys["a/b-1"], keys["a_b-1"]) == ("a_b", "a_b_", "forward_", "a/b-1", "a_b-1")
    fresh = net_of(text)
    fresh.load_state_dict(net.state_dict())


def test_blobs_may_be_named_like_anything() -> None:
    names = ["self", "class", "blobs", "x y".replace(" ", "/"), "1", "-"]
    text = X
    for before, after in zip(["x", *names], names, strict=False):
        text += times(f"l{after}", before, after, 2)
    net = net_of(text)
    assert net.outputs == ("-",)
    assert torch.equal(net(ONE), 64 * ONE)


def test_layers_of_one_name_are_kept_apart() -> None:
    net = net_of(X + times("same", "x", "y", 2) + times("same", "y", "z", 3))
    assert net.layer_names == {"same": "same", "same_": "same"}
    assert torch.equal(net(ONE), 6 * ONE)


# ---------------------------------------------------------------------------------------------------------- inputs

TAIL = lay("relu", "ReLU", "data", "y") + lay("argmax", "Silence", "label")
SOURCES: dict[str, tuple[str, dict[str, Any], dict[str, tuple[int, ...]]]] = {
    # the data layer, input_shapes, the inputs that come out
    "Input": ("input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } }", {}, {"data": (2, 3), "label": (2,)}),
    "Input, one shape for all": ("input_param { shape { dim: 2 dim: 3 } }", {}, {"data": (2, 3), "label": (2, 3)}),
    "Input, another shape asked for": ("input_param { shape { dim: 2 dim: 3 } }", {"data": (5, 3)}, {"data": (5, 3), "label": (2, 3)}),
    "Input without shapes": ("", {"data": (5, 3), "label": (5,)}, {"data": (5, 3), "label": (5,)}),
    "Data": ("data_param { batch_size: 4 } transform_param { crop_size: 7 }", {}, {"data": (4, 3, 7, 7), "label": (4,)}),
    "Data, gray": (
        "data_param { batch_size: 4 } transform_param { crop_size: 7 force_gray: true }",
        {},
        {"data": (4, 1, 7, 7), "label": (4,)},
    ),
    "Data, the labels follow": ("data_param { batch_size: 4 }", {"data": (6, 3, 9, 9)}, {"data": (6, 3, 9, 9), "label": (6,)}),
    "ImageData": (
        "image_data_param { batch_size: 2 new_height: 5 new_width: 6 is_color: false }",
        {},
        {"data": (2, 1, 5, 6), "label": (2,)},
    ),
    "ImageData, cropped": (
        "image_data_param { new_height: 5 new_width: 6 } transform_param { crop_size: 4 }",
        {},
        {"data": (1, 3, 4, 4), "label": (1,)},
    ),
    "WindowData": ("window_data_param { batch_size: 2 } transform_param { crop_size: 4 }", {}, {"data": (2, 3, 4, 4), "label": (2,)}),
    "MemoryData": ("memory_data_param { batch_size: 2 channels: 1 height: 4 width: 5 }", {}, {"data": (2, 1, 4, 5), "label": (2,)}),
    "DummyData": ("dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 } }", {}, {"data": (2, 3), "label": (2,)}),
    "DummyData, old": (
        "dummy_data_param { num: 2 num: 3 channels: 3 channels: 1 height: 4 height: 1 width: 5 width: 1 data_filler { value: 3 } }",
        {},
        {"data": (2, 3, 4, 5), "label": (3, 1, 1, 1)},
    ),
    "DummyData, old, mixed": (
        "dummy_data_param { num: 2 channels: 3 channels: 1 height: 4 width: 5 }",
        {},
        {"data": (2, 3, 4, 5), "label": (2, 1, 4, 5)},
    ),
    "HDF5Data": ('hdf5_data_param { source: "list" batch_size: 8 }', {"data": (2, 3), "label": (2,)}, {"data": (2, 3), "label": (2,)}),
    "AnnotatedData": ("annotated_data_param { x: 1 }", {"data": (2, 3), "label": (2,)}, {"data": (2, 3), "label": (2,)}),
    "Python": ('python_param { module: "m" layer: "l" }', {"data": (2, 3), "label": (2,)}, {"data": (2, 3), "label": (2,)}),
}


@pytest.mark.parametrize("name", SOURCES)
def test_data_layers_become_inputs(name: str) -> None:
    params, given, inputs = SOURCES[name]
    graph = graph_of(lay("data", name.split(",")[0].split()[0], "", "data label", params) + TAIL, input_shapes=given)
    assert graph.inputs == inputs
    assert graph.outputs == ("y",)


@pytest.mark.parametrize(
    ("kind", "params", "blobs"),
    [
        ("Data", "data_param { batch_size: 4 }", "'data'"),
        ("HDF5Data", "", "'data', 'label'"),
        ("Input", "", "'data', 'label'"),
        ("ImageData", "", "'data'"),
    ],
)
def test_inputs_whose_shape_stands_nowhere_are_asked_for(kind: str, params: str, blobs: str) -> None:
    with pytest.raises(GraphError, match=f"shape of the inputs? {blobs}; give (it|them): .*--input-shape data=1,3,224,224"):
        graph_of(lay("data", kind, "", "data label", params) + TAIL)


def test_a_label_that_nobody_reads_is_no_input() -> None:
    text = lay("data", "Data", "", "data label", "data_param { batch_size: 4 } transform_param { crop_size: 7 }") + lay(
        "relu", "ReLU", "data", "y"
    )
    assert list(graph_of(text).inputs) == ["data"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"y": (2, 3)}, "'y'"),
        ({"nothing": (2, 3)}, r"\['nothing'\], but the net's inputs are \['x'\]"),
        ({"x": (2, -3)}, "cannot have the shape"),
        ({"x": (1 << 40, 1 << 40)}, "x"),
        ({"x": (1 << 63, 1)}, "x"),
    ],
)
def test_wrong_input_shapes_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(GraphError, match=words):
        graph_of(X + lay("ip", "InnerProduct", "x", "y", "inner_product_param { num_output: 2 }"), input_shapes=given)


@pytest.mark.parametrize("dims", [(1, 3, 1 << 30, 1 << 30), (-2, 3, 4, 4), (1 << 62, 4, 1, 1)])
def test_impossible_shapes_in_the_prototxt_are_refused(dims: tuple[int, ...]) -> None:
    with pytest.raises(GraphError, match="layer 'x' of type 'Input'"):
        graph_of(inp("x", *dims) + lay("relu", "ReLU", "x", "y"))


def test_any_batch_and_image_size_runs_where_the_layers_allow() -> None:
    text = inp("x", 1, 3, 8, 8) + lay("conv", "Convolution", "x", "c", "convolution_param { num_output: 2 kernel_size: 3 }")
    text += (
        lay("pool", "Pooling", "c", "p", "pooling_param { kernel_size: 3 stride: 2 }")
        + lay("sum", "Scale", "p", "p")
        + lay("flat", "Flatten", "p", "f")
    )
    net = net_of(text)
    assert net(torch.zeros(1, 3, 8, 8)).shape == (1, 2 * 3 * 3)
    assert net(torch.zeros(5, 3, 11, 9)).shape == (5, 2 * 4 * 3)


# ------------------------------------------------------------------------------------------------------- preprocess


def test_the_data_layer_says_how_images_are_prepared(tmp_path: Path) -> None:
    path = tmp_path / "train_val.prototxt"
    transform = "transform_param { scale: 0.5 mean_value: 10 mean_value: 20 mean_value: 30 crop_size: 4 mirror: true }"
    path.write_text(
        lay("data", "Data", "", "data label", f"data_param {{ batch_size: 2 }} {transform}") + lay("relu", "Power", "data", "y")
    )
    preprocess = convert(path).preprocess
    assert preprocess is not None
    expected = Preprocess((4, 4), "BGR", (10, 20, 30), "the prototxt's transform_param", 0.5, resize="keep")
    assert preprocess == expected
    assert preprocess(torch.full((3, 6, 7), 50, dtype=torch.uint8))[:, 0, 0].tolist() == [20, 15, 10]
    path.write_text(X + lay("relu", "Power", "x", "y"))
    assert convert(path).preprocess is None


# --------------------------------------------------------------------------------------------- what is not understood


def test_an_unknown_field_is_an_error_where_its_layer_is_kept_and_a_warning_where_not(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    for params in ("new_thing: 3", "relu_param { cap: 6 }", "relu_param { engine: CUDNN negative_slope: 0.1 clip { x: 1 } }"):
        path.write_text(X + lay("relu", "ReLU", "x", "y", params))
        with pytest.raises(UnsupportedError, match=r"net.prototxt: layer 'relu' of type 'ReLU' \(line 2\) has fields"):
            convert(path)
        path.write_text(X + lay("relu", "ReLU", "x", "y") + lay("train", "ReLU", "x", "z", params + " include { phase: TRAIN }"))
        with pytest.warns(CaffezooWarning, match="1 unknown field outside"):
            convert(path)
    path.write_text("fork_version: 3\n" + X + lay("relu", "ReLU", "x", "y", "engine: 'X'"))
    with pytest.warns(CaffezooWarning, match="fork_version: 3") as caught:
        assert "fork_version" in " ".join(convert(path).notes)
    assert len(caught) == 1
    assert "engine: 'X'" in str(caught[0].message)


def test_a_net_without_oddities_warns_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(X + lay("relu", "ReLU", "x", "y", "relu_param { engine: CUDNN }"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert convert(path).notes == ()


def test_hdf5_output_is_left_out_with_a_note() -> None:
    graph = graph_of(X + times("a", "x", "y", 2) + lay("save", "HDF5Output", "y", "", 'hdf5_output_param { file_name: "f" }'))
    assert [step.name for step in graph.steps] == ["a"]
    assert graph.outputs == ("y",)
    assert any("'save'" in note and "left out" in note for note in graph.notes)


def test_python_layers_and_unknown_types_are_refused_with_what_to_do() -> None:
    with pytest.raises(UnsupportedError, match=r"'p' of type 'Python'.*pkg\.Thing.*--input-shape y="):
        graph_of(X + lay("p", "Python", "x", "y", 'python_param { module: "pkg" layer: "Thing" }'))
    with pytest.raises(UnsupportedError, match=r"'p' of type 'Frobnicate'.*we leave nothing out silently"):
        graph_of(X + lay("p", "Frobnicate", "x", "y"))
    with pytest.raises(GraphError, match="shape of the input 'x'; give it"):
        graph_of(lay("p", "VideoData", "", "x") + lay("r", "ReLU", "x", "y"))
    with pytest.raises(UnsupportedError, match="type ''"):
        graph_of(X + 'layer { name: "p" bottom: "x" top: "y" }')


@pytest.mark.parametrize("shape", [(2, 3), (3, 3)])
def test_shared_parameters_must_agree_in_shape(shape: tuple[int, int]) -> None:
    params = 'param { name: "w" } inner_product_param { num_output: 3 bias_term: false }'
    text = X + inp("z", 2, shape[0]) + lay("a", "InnerProduct", "x", "y", params) + lay("b", "InnerProduct", "z", "w", params)
    if shape[0] != 3:
        with pytest.raises(GraphError, match=r"'b'.*shares its parameter 'w'.*'a'"):
            graph_of(text)
        return
    net = net_of(text)
    assert net.a.weight is net.b.weight


# ------------------------------------------------------------------------------------------------- shape inference


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*/net.prototxt")), ids=lambda path: path.parent.name)
def test_shapes_are_the_same_with_and_without_quick_meta(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = path.read_text()

    def shapes() -> list[tuple[int, ...]] | str:
        try:
            return graph_of(text).shapes
        except ConversionError as error:
            return type(error).__name__

    quick = shapes()
    assert graph_module.QuickMeta is QuickMeta
    monkeypatch.setattr(graph_module, "QuickMeta", nullcontext)
    assert shapes() == quick
