"""Which blobs are inputs: what data layers make, what they say of its shape, and any blob that input_shapes names."""

from __future__ import annotations

import pytest

from converter.errors import GraphError, UnsupportedError
from tests.converter.test_graph import X, graph_of, inp, lay, net_of

FC = lay("fc", "InnerProduct", "x", "fc", "inner_product_param { num_output: 4 }")
CONV = lay("c", "Convolution", "data", "c", "convolution_param { num_output: 4 kernel_size: 3 }")
VIDEO = "video_data_param { batch_size: 5 new_length: 2"

STATED = [
    # data layer, its parameters, the shapes of its tops
    ("Fork", "fork_param { batch_size: 4 crop_size: 8 channels: 2 }", {"data": (4, 2, 8, 8)}),
    ("data", "input_param { shape { dim: 1 dim: 3 dim: 9 dim: 9 } }", {"data": (1, 3, 9, 9)}),
    ("AnnotatedData", "data_param { batch_size: 2 } transform_param { resize_param { height: 6 width: 7 } }", {"data": (2, 3, 6, 7)}),
    ("VideoData", VIDEO + " num_segments: 3 modality: FLOW } transform_param { crop_size: 7 }", {"data": (5, 12, 7, 7)}),
    ("RandVec", "randvec_param { batch_size: 6 dim: 5 lower: -1 upper: 1 height: 4 width: 3 }", {"data": (6, 5, 4, 3)}),
    ("VideoData", VIDEO + " num_segments: 3 modality: RGB } transform_param { crop_size: 7 }", {"data": (5, 18, 7, 7)}),
]


@pytest.mark.parametrize(("type_", "params", "shapes"), STATED)
def test_a_fork_s_data_layer_says_its_shape(type_: str, params: str, shapes: dict[str, tuple[int, ...]]) -> None:
    graph = graph_of(lay("d", type_, "", "data label", params) + CONV)
    assert graph.inputs == shapes  # nobody reads the label
    assert any("taken for a data layer" in note for note in graph.notes)


def test_labels_of_dense_data_have_a_value_for_each_place() -> None:
    params = "dense_image_data_param { batch_size: 2 new_height: 8 new_width: 6 label_divide_factor: 2 }"
    pool = lay("p", "Pooling", "data", "p", "pooling_param { pool: AVE kernel_size: 2 stride: 2 }")
    text = lay("d", "DenseImageData", "", "data label", params) + pool + lay("l", "SoftmaxWithLoss", "p label", "l")
    assert graph_of(text).inputs == {"data": (2, 3, 8, 6), "label": (2, 1, 4, 3)}


def test_all_shapes_that_nobody_says_are_asked_for_in_one_message_in_the_command_s_form() -> None:
    python = 'python_param { module: "roi_data_layer.layer" layer: "RoIDataLayer" }'
    text = lay("d", "Python", "", "data im_info gt_boxes", python) + CONV + lay("e", "ReLU", "im_info", "e")
    words = "--input-shape data=1,3,224,224 --input-shape im_info=1,3 on the command line"
    with pytest.raises(GraphError, match=f"shape of the inputs 'data', 'im_info'; give them: {words}"):
        graph_of(text)


def test_a_file_without_a_graph_in_the_phase_says_how_to_convert_it() -> None:
    data = lay("d", "Data", "", "data label", "include { phase: TRAIN } data_param { batch_size: 2 } transform_param { crop_size: 8 }")
    with pytest.raises(GraphError, match=r"'data' is made by no layer of phase TEST.*--phase TRAIN.*--input-shape data=1,3,224,224"):
        graph_of(data + CONV)
    with pytest.raises(GraphError, match=r"no layer is left in phase TEST.*--phase TRAIN"):
        graph_of(data)
    assert graph_of(data + CONV, phase="TRAIN").inputs == {"data": (2, 3, 8, 8)}
    loss = lay("l", "SoftmaxWithLoss", "c label", "l")
    graph = graph_of(data + CONV + loss, input_shapes={"data": (1, 3, 8, 8)})
    assert (graph.inputs, graph.outputs) == ({"data": (1, 3, 8, 8)}, ("c",))
    assert any("'l'" in note and "left out" in note for note in graph.notes)


def test_the_stages_that_a_file_names_are_said() -> None:
    data = lay("d", "Input", "", "data", 'include { stage: "deploy" } input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } }')
    with pytest.raises(GraphError, match="--stage deploy"):
        graph_of(data + CONV)


CHAIN = X + lay("a", "ReLU", "x", "a") + lay("b", "Sigmoid", "a", "b") + lay("c", "TanH", "b", "c") + lay("d", "Power", "a", "d")


def test_any_blob_may_be_an_input_and_what_only_makes_it_is_cut() -> None:
    graph = graph_of(CHAIN, input_shapes={"b": (5, 4)})
    assert (graph.inputs, graph.outputs) == ({"b": (5, 4), "x": (2, 3)}, ("c", "d"))
    assert [step.name for step in graph.steps] == ["a", "c", "d"]
    graph = graph_of(CHAIN, input_shapes={"b": (5, 4), "d": (1,)})
    assert (graph.inputs, graph.outputs) == ({"b": (5, 4)}, ("c",))
    assert any("'a'" in note and "'b'" in note and "cut" in note for note in graph.notes)


def test_the_shape_of_an_input_that_is_cut_off_may_still_be_given() -> None:
    graph = graph_of(CHAIN, input_shapes={"x": (5, 4), "b": (5, 4), "d": (1,)})
    assert graph.inputs == {"b": (5, 4)}


def test_a_cut_net_needs_no_layer_that_nobody_can_compute() -> None:
    text = X + lay("a", "Python", "x", "a", 'python_param { module: "m" layer: "L" }') + lay("b", "ReLU", "a", "b")
    with pytest.raises(GraphError, match=r"shape of the input 'a'; give it: --input-shape a=1,3,224,224.*cut.*m\.L"):
        graph_of(text)
    assert graph_of(text, input_shapes={"a": (2, 6)}).inputs == {"a": (2, 6)}


def test_a_given_blob_is_what_it_is_after_the_layers_in_place() -> None:
    text = X + lay("a", "Power", "x", "a") + lay("r", "ReLU", "a", "a") + lay("b", "TanH", "a", "b")
    graph = graph_of(text, input_shapes={"a": (2, 3)})
    assert [step.name for step in graph.steps] == ["b"]
    early = text.replace(lay("r", "ReLU", "a", "a"), lay("e", "Exp", "a", "e") + lay("r", "ReLU", "a", "a"))
    with pytest.raises(GraphError, match=r"'e' of type 'Exp'.*reads 'a' before another layer writes over it"):
        graph_of(early, input_shapes={"a": (2, 3)})


def test_an_input_that_is_written_in_place_stays_one() -> None:
    graph = graph_of(X + lay("s", "Power", "x", "x", "power_param { scale: 2 }"), input_shapes={"x": (4, 3)})
    assert (graph.inputs, [step.name for step in graph.steps]) == ({"x": (4, 3)}, ["s"])


def test_the_prototxt_of_a_cut_net_converts_to_the_same_net() -> None:
    net = net_of(CHAIN, input_shapes={"b": (5, 4), "d": (1,)})
    again = net_of(net.prototxt)
    assert (again.input_shapes, again.outputs) == (net.input_shapes, net.outputs)


def test_an_input_field_without_a_shape_beside_an_input_layer_is_passed_over() -> None:
    graph = graph_of('input: "x"\n' + X + lay("r", "ReLU", "x", "y"))
    assert graph.inputs == {"x": (2, 3)}
    with pytest.raises(GraphError, match="shape of the input 'z'"):
        graph_of('input: "z"\n' + inp("x", 2) + lay("r", "Eltwise", "x z", "y"))


UNKNOWN = lay("u", "Unheard", "x", "u") + lay("f", "InnerProduct", "u", "f", "inner_product_param { num_output: 4 }")


def test_a_layer_of_an_unknown_type_is_refused_with_its_top_as_the_way_out() -> None:
    words = (
        r"shape of the input 'u'; give it: --input-shape u=1,3,224,224.*'u': layer 'u' of type 'Unheard' \(line 2\) is of a type that we"
    )
    with pytest.raises(UnsupportedError, match=words + ".*--list-layers"):
        graph_of(X + UNKNOWN)
    graph = graph_of(X + UNKNOWN, input_shapes={"u": (2, 6)})
    assert (graph.inputs, [step.name for step in graph.steps]) == ({"u": (2, 6)}, ["f"])


def test_an_unknown_type_in_place_is_an_input_with_what_it_writes_over() -> None:
    text = X + FC + lay("u", "Unheard", "fc", "fc") + lay("r", "ReLU", "fc", "r")
    with pytest.raises(UnsupportedError, match="shape of the input 'fc'"):
        graph_of(text)
    assert [step.name for step in graph_of(text, input_shapes={"fc": (2, 4)}).steps] == ["r"]


def test_of_several_unknown_types_only_what_is_left_to_give_is_asked_for() -> None:
    """What lies before the last of them is cut, data layers without a shape, too."""
    text = lay("d", "HDF5Data", "", "x", "hdf5_data_param { batch_size: 2 }") + UNKNOWN + lay("v", "Unheard", "f", "v")
    with pytest.raises(UnsupportedError, match="shape of the input 'v'; give it"):
        graph_of(text + lay("r", "ReLU", "v", "r"))
    with pytest.raises(UnsupportedError, match="shape of the inputs 'u', 'v'; give them"):
        graph_of(text + lay("r", "ReLU", "v", "r") + lay("s", "ReLU", "u", "s"))


def test_a_blob_that_no_layer_makes_is_asked_for_with_its_reader() -> None:
    """As in a piece of a net that is to be put behind another one."""
    with pytest.raises(
        GraphError, match=r"shape of the input 'pool9'; give it: --input-shape pool9=.*'pool9', which layer 'r' of type 'ReLU'"
    ):
        graph_of(X + lay("r", "ReLU", "pool9", "r"))
    assert graph_of(lay("r", "ReLU", "pool9", "r"), input_shapes={"pool9": (2, 5)}).inputs == {"pool9": (2, 5)}


def test_an_input_that_only_a_stage_has_is_asked_for_with_the_stage() -> None:
    data = lay("d", "Input", "", "data", 'include { stage: "deploy" } input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } }')
    with pytest.raises(GraphError, match=r"shape of the input 'data'; give it: .*'d' of type 'Input' .*--stage deploy takes it"):
        graph_of(data + CONV)
    assert graph_of(data + CONV, stages=("deploy",)).inputs == {"data": (1, 3, 8, 8)}
    assert graph_of(data + CONV, input_shapes={"data": (2, 3, 9, 9)}).inputs == {"data": (2, 3, 9, 9)}


@pytest.mark.parametrize("type_", ["LSTM", "RNN"])
def test_the_shape_of_cont_follows_from_the_sequences(type_: str) -> None:
    data = lay("d", "HDF5Data", "", "cont words", "hdf5_data_param { batch_size: 2 }")
    net = data + lay("e", "Embed", "words", "e", "embed_param { input_dim: 9 num_output: 4 }")
    net += lay("r", type_, "e cont", "y", "recurrent_param { num_output: 3 }")
    with pytest.raises(GraphError, match="shape of the input 'words'; give it"):
        graph_of(net)
    graph = graph_of(net, input_shapes={"words": (5, 2)})
    assert list(graph.inputs.items()) == [("cont", (5, 2)), ("words", (5, 2))]
    assert list(graph.program.inputs) == ["cont", "words"]
    assert graph.shapes[graph.names["y"]] == (5, 2, 3)


@pytest.mark.parametrize("reader", ["", lay("score", "DetectionEvaluate", "u", "score")])
def test_an_unknown_layer_whose_top_is_the_answer_ends_the_net_where_its_top_is_named(reader: str) -> None:
    text = X + FC + lay("s", "Sigmoid", "fc", "s") + lay("u", "Unheard", "s x", "u") + reader
    with pytest.raises(UnsupportedError, match=r"'u' of type 'Unheard'.*the net ends before it: --input-shape u=1,3,224,224"):
        graph_of(text)
    graph = graph_of(text, input_shapes={"u": (1,)})
    assert (graph.inputs, graph.outputs) == ({"x": (2, 3)}, ("s",))


def test_a_given_blob_that_a_known_loss_reads_is_its_input_and_what_makes_it_is_cut() -> None:
    graph = graph_of(X + inp("label", 2) + FC + lay("l", "SoftmaxWithLoss", "fc label", "l"), input_shapes={"fc": (2, 4)})
    assert (graph.inputs, [step.name for step in graph.steps]) == ({"fc": (2, 4), "label": (2,)}, ["l"])


def test_a_layer_that_only_shapes_labels_goes_where_it_cannot_be_built_and_stays_where_it_can() -> None:
    """PSPNet's label_shrink in phase TEST, whose loss is in phase TRAIN."""
    loss = lay("l", "SoftmaxWithLoss", "c small", "l", "include { phase: TRAIN }")
    interp = lay("i", "Interp", "label", "small", "interp_param { height: 4 width: 4 }")
    data = 'layer { name: "d" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "x" batch_size: 2 } }\n'
    shapes = {"data": (2, 3, 8, 8), "label": (2,)}
    graph = graph_of(data + CONV + interp + loss, input_shapes=shapes)
    assert graph.outputs == ("c",) and any("'i'" in note and "left out" in note for note in graph.notes)
    assert graph_of(data + CONV + interp + loss, input_shapes={**shapes, "label": (2, 1, 8, 8)}).outputs == ("c", "small")
    with pytest.raises(GraphError, match="'i' of type 'Interp'"):  # no loss reads it
        graph_of(data + CONV + interp, input_shapes=shapes)


def test_an_input_that_a_layer_of_a_stage_makes_is_asked_for() -> None:
    """A siamese net that slices pairs in training, and takes images in stage deploy."""
    text = lay("s", "Slice", "pairs", "data other", 'include { stage: "train" } slice_param { slice_point: 1 }') + CONV
    with pytest.raises(GraphError, match=r"shape of the input 'data'; give it: .*'s' of type 'Slice' .*--stage train takes it"):
        graph_of(text)


def test_of_records_that_a_slice_takes_apart_the_parts_are_asked_for() -> None:
    """BVLC's siamese example: pairs of images, packed as channels of one record."""
    share = 'param { name: "w" } param { name: "b" } convolution_param { num_output: 4 kernel_size: 3 }'
    text = lay("d", "Data", "", "pair similar", "data_param { batch_size: 4 }")
    text += lay("s", "Slice", "pair", "one other", "slice_param { slice_point: 1 }")
    text += lay("a", "Convolution", "one", "a", share) + lay("b", "Convolution", "other", "b", share)
    words = "shape of the inputs 'one', 'other'; give them: .*'one', 'other' are parts of 'pair'; give the shape of that instead"
    with pytest.raises(GraphError, match=words):
        graph_of(text)
    parts = graph_of(text, input_shapes={"one": (1, 1, 8, 8), "other": (1, 1, 8, 8)})
    assert (parts.inputs, [step.name for step in parts.steps]) == ({"one": (1, 1, 8, 8), "other": (1, 1, 8, 8)}, ["a", "b"])
    packed = graph_of(text, input_shapes={"pair": (1, 2, 8, 8)})
    assert (packed.inputs, [step.name for step in packed.steps]) == ({"pair": (1, 2, 8, 8)}, ["s", "a", "b"])
    with pytest.raises(GraphError, match="shape of the input 'other'; give it"):
        graph_of(text, input_shapes={"one": (1, 1, 8, 8)})
    more = text + lay("p", "Power", "pair", "p")  # somebody else reads the record
    with pytest.raises(GraphError, match="shape of the input 'pair'; give it"):
        graph_of(more)


EXAMPLES = [
    (
        lay("c", "Convolution", "x", "c", "convolution_param { num_output: 4 kernel_size: 3 kernel_size: 3 kernel_size: 3 }"),
        "1,3,16,112,112",
    ),
    (lay("c", "Convolution3D", "x", "c", "convolution3d_param { num_output: 4 kernel_size: 3 kernel_depth: 3 }"), "1,3,16,112,112"),
    (lay("p", "Pooling", "x", "p", "pooling_param { kernel_size: 2 kernel_size: 2 kernel_size: 2 }"), "1,3,16,112,112"),
    (lay("e", "Embed", "x", "e", "embed_param { input_dim: 9 num_output: 4 }"), "10,1"),
    (lay("h", "HDF5Data", "", "x", "hdf5_data_param { batch_size: 7 }") + lay("f", "InnerProduct", "x", "f"), "7,3,224,224"),
    (lay("h", "HDF5Data", "", "x", "hdf5_data_param { batch_size: 7 }") + lay("e", "Embed", "x", "e"), "7,1"),
]


@pytest.mark.parametrize(("layers", "shape"), EXAMPLES)
def test_the_examples_have_the_axes_and_the_batch_that_the_layers_say(layers: str, shape: str) -> None:
    text = layers if "HDF5Data" in layers else lay("d", "Fork", "", "x") + layers
    with pytest.raises(GraphError, match=f"give it: --input-shape x={shape} on the command line"):
        graph_of(text)


def test_a_layer_that_does_not_take_a_given_shape_says_which_was_given_and_what_the_file_says_of_it() -> None:
    text = lay("h", "HDF5Data", "", "x", "hdf5_data_param { batch_size: 7 }") + lay(
        "f", "InnerProduct", "x", "f", "inner_product_param { num_output: 1 }"
    )
    text += lay("k", "Concat", "x f", "k")
    words = (
        r"'k' of type 'Concat'.*follow from what was given, --input-shape x=1,3,4,4; give the one .* data layer of 'x' says batch_size: 7"
    )
    with pytest.raises(GraphError, match=words):
        graph_of(text, input_shapes={"x": (1, 3, 4, 4)})
    assert graph_of(text, input_shapes={"x": (7, 3)}).shapes[-1] == (7, 4)


@pytest.mark.parametrize("type_", ["RBMInnerProduct", "TRT", "ImResize"])
def test_what_no_file_says_is_refused_by_name_with_the_reason(type_: str) -> None:
    for reader in ("", lay("r", "ReLU", "t", "r")):
        with pytest.raises(
            GraphError if reader else UnsupportedError, match=rf"layer 't' of type '{type_}'.*(random|TensorRT|the program)"
        ) as caught:
            graph_of(inp("x", 1, 3, 8, 8) + lay("t", type_, "x", "t") + reader)
        assert "--input-shape t=1,3,224,224" in str(caught.value)
