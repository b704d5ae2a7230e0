"""Losses, evaluations and choices of training samples that nobody reads are left out with a note; what is read is never."""

from __future__ import annotations

import pytest

from converter.errors import GraphError, UnsupportedError
from tests.converter.test_graph import X, graph_of, inp, lay, net_of

LABEL = inp("label", 2)
FC = lay("fc", "InnerProduct", "x", "fc", "inner_product_param { num_output: 4 }")


@pytest.mark.parametrize(
    "type_",
    [
        "SmoothL1LossX" + "Loss",
        "MultiBoxLoss",
        "RegionLoss",
        "Yolov3",
        "DetectionEvaluate",
        "ConfusionMatrix",
        "SegAccuracy",
        "ACCURACY_TREE",
    ],
)
def test_a_loss_or_evaluation_that_nobody_reads_is_left_out_with_its_label(type_: str) -> None:
    graph = graph_of(X + LABEL + FC + lay("end", type_, "fc label", "end"))
    assert (list(graph.inputs), graph.outputs) == (["x"], ("fc",))
    assert any("'end'" in note and "left out" in note for note in graph.notes)


def test_one_without_a_top_is_left_out_too() -> None:
    for type_ in ("MultiBoxLoss", "implicit"):
        graph = graph_of(X + LABEL + FC + lay("end", type_, "fc label"))
        assert graph.outputs == ("fc",)
        assert any("'end'" in note for note in graph.notes)


@pytest.mark.parametrize("type_", ["Yolov3DetectionOutputX", "CTCGreedyDecoderX", "MultiStageMeanfieldX", "Unheard"])
def test_a_layer_whose_top_is_the_answer_is_refused_with_the_words_to_type(type_: str) -> None:
    with pytest.raises(UnsupportedError, match=f"'end' of type '{type_}'.*--input-shape end=1,3,224,224"):
        graph_of(X + FC + lay("end", type_, "fc", "end"))


def test_a_loss_whose_top_is_read_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="'end' of type 'MultiBoxLoss'"):
        graph_of(X + LABEL + FC + lay("end", "MultiBoxLoss", "fc label", "loss") + lay("r", "ReLU", "loss", "y"))


def test_known_losses_that_lack_a_bottom_then_go_too_to_a_fixed_point() -> None:
    """py-faster-rcnn's training graph: an anchor target whose labels only known losses read, one of them through a Reshape."""
    target = 'python_param { module: "rpn.anchor_target_layer" layer: "AnchorTargetLayer" }'
    text = (
        lay("in", "Unheard_Data", "", "x gt_boxes")
        + FC
        + lay("target", "Python", "fc gt_boxes", "labels targets", target)
        + lay("rows", "Reshape", "labels", "rows", "reshape_param { shape { dim: -1 } }")
        + lay("loss", "SoftmaxWithLoss", "fc rows", "loss")
        + lay("loss2", "EuclideanLoss", "fc targets", "loss2")
    )
    graph = graph_of(text, input_shapes={"x": (2, 3)})
    assert (graph.inputs, graph.outputs) == ({"x": (2, 3)}, ("fc",))
    assert [step.name for step in graph.steps] == ["fc"]
    assert all(any(f"'{name}'" in note for note in graph.notes) for name in ("target", "rows", "loss", "loss2"))


def test_a_known_loss_with_all_its_bottoms_stays() -> None:
    graph = graph_of(X + LABEL + FC + lay("a", "MultiBoxLoss", "fc label", "a") + lay("b", "SoftmaxWithLoss", "fc label", "b"))
    assert (list(graph.inputs), graph.outputs) == (["x", "label"], ("b",))


def test_a_silence_of_what_is_left_out_goes_and_keeps_the_rest() -> None:
    text = X + LABEL + FC + lay("split", "Split", "x", "a b")
    text += lay("loss", "FocalLoss", "fc label", "loss prob") + lay("quiet", "Silence", "a b loss prob")
    graph = graph_of(text)
    assert graph.outputs == ("fc",)
    assert [tuple(step.tops) for step in graph.steps if step.name == "quiet"] == [()]


def test_python_losses_are_known_by_name_or_by_their_loss_weight() -> None:
    named = 'python_param { module: "m" layer: "DiceLossLayer" }'
    weighted = 'python_param { module: "m" layer: "Odd" } loss_weight: 1'
    for params in (named, weighted):
        assert graph_of(X + FC + lay("end", "Python", "fc", "end", params)).outputs == ("fc",)
    with pytest.raises(UnsupportedError, match=r"m\.Odd"):
        graph_of(X + FC + lay("end", "Python", "fc", "end", 'python_param { module: "m" layer: "Odd" }'))


def test_choosing_samples_that_the_net_reads_asks_for_their_shape_and_says_what_is_cut() -> None:
    text = X + LABEL + lay("pick", "ProposalTarget", "x label", "rois labels") + FC.replace('"x"', '"rois"')
    text += lay("loss", "SoftmaxWithLoss", "fc labels", "loss")
    with pytest.raises(
        GraphError, match=r"shape of the input 'rois'; give it: --input-shape rois=1,5 .*'pick' of type 'ProposalTarget'.*at random"
    ):
        graph_of(text)
    graph = graph_of(text, input_shapes={"rois": (7, 5)})
    assert (graph.inputs, graph.outputs) == ({"rois": (7, 5)}, ("fc",))


def test_the_prototxt_of_a_pruned_net_converts_to_the_same_net() -> None:
    net = net_of(X + LABEL + FC + lay("end", "MultiBoxLoss", "fc label", "end"))
    again = net_of(net.prototxt)
    assert (again.inputs, again.outputs, list(again.state_dict())) == (net.inputs, net.outputs, list(net.state_dict()))
    assert not again.notes


def test_the_loss_of_each_place_goes_with_the_choice_of_samples_that_it_is_for() -> None:
    """R-FCN with OHEM: a third top of SoftmaxWithLoss, summed with another loss, chooses the labels of the real one."""
    text = X + LABEL + FC + lay("each", "SoftmaxWithLoss", "fc label", "l p each") + lay("other", "SmoothL1LossOHEM", "fc label", "m more")
    text += lay("sum", "Eltwise", "each more", "sum") + lay("ohem", "BoxAnnotatorOHEM", "sum label", "labels")
    text += lay("loss", "SoftmaxWithLoss", "fc labels", "loss") + lay("quiet", "Silence", "l p m", "")
    graph = graph_of(text)
    assert (list(graph.inputs), graph.outputs, [step.name for step in graph.steps]) == (["x"], ("fc",), ["fc"])


def test_long_chains_of_losses_take_no_time() -> None:
    text = X + "".join(lay(f"l{i}", "EuclideanLoss" if i % 2 else "OddLoss", f"b{i}" if i else "x", f"b{i + 1}") for i in range(2000))
    text += lay("y", "ReLU", "x", "y")
    assert graph_of(text).outputs == ("y",)


def test_a_loss_whose_labels_have_no_shape_is_left_out_unless_the_shape_is_given() -> None:
    data = 'layer { name: "d" type: "HDF5Data" top: "x" top: "label" hdf5_data_param { source: "x" batch_size: 4 } }\n'
    net = data + FC + lay("end", "EuclideanLoss", "fc label", "end") + lay("score", "Accuracy", "fc label", "score")
    graph = graph_of(net, input_shapes={"x": (4, 5)})
    assert (list(graph.inputs), graph.outputs) == (["x"], ("fc",))
    assert sum("--input-shape label=... keeps it" in note for note in graph.notes) == 2
    kept = graph_of(data + FC + lay("end", "EuclideanLoss", "fc label", "end"), input_shapes={"x": (4, 5), "label": (4, 4)})
    assert (list(kept.inputs), kept.outputs) == (["x", "label"], ("end",))


def test_a_loss_that_does_not_fit_its_labels_is_left_out_but_what_the_net_computes_is_never() -> None:
    wrong = inp("label", 3)
    graph = graph_of(X + wrong + FC + lay("end", "EuclideanLoss", "fc label", "end"))
    assert graph.outputs == ("fc",) and any("'end'" in note and "as many values of each" in note for note in graph.notes)
    assert list(graph.modules) == ["fc"]
    with pytest.raises(GraphError, match="as many values of each"):  # nothing else is there to convert
        graph_of(X + wrong + lay("end", "EuclideanLoss", "x label", "end"))
    with pytest.raises(GraphError, match="as many values of each"):  # somebody reads it
        graph_of(X + wrong + FC + lay("end", "EuclideanLoss", "fc label", "end") + lay("more", "Power", "end", "more"))
