"""zoo.load_caffe on small nets with drawn weights, written byte by byte by tests/zoo/helpers/drawn.py."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import drawn
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import zoo
from converter import convert, save_caffemodel
from zoo.errors import LoadError

HEAD = 'name: "tiny" input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }\n'
CONV = 'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }\n'
FC = 'layer { name: "fc/out" type: "InnerProduct" bottom: "conv" top: "fc/out" inner_product_param { num_output: 5 } }\n'
PROB = 'layer { name: "prob" type: "Softmax" bottom: "fc/out" top: "prob" }\n'
SHAPES: dict[str, Sequence[tuple[int, ...]]] = {"conv": [(4, 3, 3, 3), (4,)], "fc/out": [(5, 144), (5,)]}
LAYERS = drawn.draw(SHAPES)


def files(folder: Path, *parts: str, layers: Mapping[str, Sequence[np.ndarray]] = LAYERS) -> tuple[Path, Path]:
    (folder / "net.prototxt").write_text("".join(parts))
    (folder / "net.caffemodel").write_bytes(drawn.caffemodel(layers))
    return folder / "net.prototxt", folder / "net.caffemodel"


def images() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def expected(x: torch.Tensor) -> torch.Tensor:
    hidden = F.conv2d(x, *map(torch.from_numpy, LAYERS["conv"])).flatten(1)
    return F.linear(hidden, *map(torch.from_numpy, LAYERS["fc/out"]))


@torch.inference_mode()
def test_a_net_of_the_user_s_gives_its_logits_and_keeps_its_blobs(tmp_path: Path) -> None:
    model = zoo.load_caffe(*files(tmp_path, HEAD, CONV, FC, PROB))
    assert not model.training and model.labels == ()
    torch.testing.assert_close(model(images()), expected(images()))
    torch.testing.assert_close(model(images(), blobs=("prob",))["prob"], expected(images()).softmax(1))
    assert (model.card.name, model.card.architecture, model.card.classifier) == ("tiny", "caffe", "fc/out")


@torch.inference_mode()
def test_other_classes_replace_the_last_layer_and_nothing_else(tmp_path: Path) -> None:
    model = zoo.load_caffe(*files(tmp_path, HEAD, CONV, FC, PROB), num_classes=7)
    state = model.state_dict()
    assert model(images()).shape == (2, 7) and state["fc/out.weight"].std() > 0
    np.testing.assert_array_equal(state["conv.weight"].numpy(), LAYERS["conv"][0])
    torch.testing.assert_close(model(images(), blobs=("prob",))["prob"].sum(1), torch.ones(2))
    # and back: the changed net and its weights are a Caffe net of their own
    (tmp_path / "seven.prototxt").write_text(model.prototxt)
    save_caffemodel(model, tmp_path / "seven.caffemodel")
    again = convert(tmp_path / "seven.prototxt", tmp_path / "seven.caffemodel")
    assert again.outputs == ("prob",)
    assert torch.equal(again(images()), model(images(), blobs=("prob",))["prob"])


POOLED = """layer { name: "conv10" type: "Convolution" bottom: "conv" top: "conv10" convolution_param { num_output: 5 kernel_size: 1 } }
layer { name: "relu" type: "ReLU" bottom: "conv10" top: "conv10" }
layer { name: "pool10" type: "Pooling" bottom: "conv10" top: "pool10" pooling_param { pool: AVE global_pooling: true } }
layer { name: "prob" type: "Softmax" bottom: "pool10" top: "prob" }"""


@torch.inference_mode()
def test_a_convolution_that_gives_the_classes_is_found_below_its_pool(tmp_path: Path) -> None:
    layers = drawn.draw({"conv": SHAPES["conv"], "conv10": [(5, 4, 1, 1), (5,)]})
    model = zoo.load_caffe(*files(tmp_path, HEAD, CONV, POOLED, layers=layers))
    hidden = F.conv2d(F.conv2d(images(), *map(torch.from_numpy, layers["conv"])), *map(torch.from_numpy, layers["conv10"]))
    torch.testing.assert_close(model(images()), hidden.relu().mean((2, 3)))
    assert model.card.classifier == "conv10"
    seven = zoo.load_caffe(*files(tmp_path, HEAD, CONV, POOLED, layers=layers), num_classes=7)
    for net in (seven, copy.deepcopy(seven), pickle.loads(pickle.dumps(seven))):
        assert net(images()).shape == (2, 7)
        assert net(images(), blobs=("pool10",))["pool10"].shape == (2, 7, 1, 1)


def test_gradients_reach_every_weight(tmp_path: Path) -> None:
    model = zoo.load_caffe(*files(tmp_path, HEAD, CONV, FC, PROB), num_classes=3).train()
    F.cross_entropy(model(images()), torch.tensor([0, 2])).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_device_dtype_and_drawn_weights(tmp_path: Path) -> None:
    prototxt, weights = files(tmp_path, HEAD, CONV, FC, PROB)
    assert {p.dtype for p in zoo.load_caffe(prototxt, weights, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}
    assert {p.device.type for p in zoo.load_caffe(prototxt, weights, device="meta").parameters()} == {"meta"}
    assert zoo.load_caffe(prototxt, num_classes=3)(images()).shape == (2, 3)


EMBEDDING = """layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }
layer { name: "fc5" type: "InnerProduct" bottom: "bn" top: "fc5" inner_product_param { num_output: 5 } }
layer { name: "norm" type: "Scale" bottom: "fc5" top: "norm" }\n"""
TWO = """layer { name: "left" type: "InnerProduct" bottom: "conv" top: "left" inner_product_param { num_output: 5 } }
layer { name: "right" type: "InnerProduct" bottom: "conv" top: "right" inner_product_param { num_output: 5 } }\n"""
SUM = 'layer { name: "sum" type: "Eltwise" bottom: "left" bottom: "right" top: "sum" }\n'
NONE = 'layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }\n'
LABEL = 'input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 } input: "label" input_shape { dim: 1 }\n'
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc/out" bottom: "label" top: "loss" }\n'
OVERWRITTEN = PROB.replace('top: "prob"', 'top: "fc/out"')


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((HEAD, CONV, EMBEDDING), r"the output 'norm' comes from 'norm' \(Scale\). Name it with classifier= \('fc5'\)"),
        ((HEAD, CONV, TWO, SUM), r"'left' \(InnerProduct\), 'right' \(InnerProduct\)|'right' \(InnerProduct\), 'left'"),
        ((HEAD, NONE), "no layer with weights.*no InnerProduct and no Convolution"),
        ((HEAD, CONV), r"'conv' has the shape \(1, 7, 6, 6\), which is not \(N, 7\)"),
        ((HEAD, CONV, TWO), "the net has the outputs left, right"),
        ((LABEL, CONV, FC, LOSS), "the net has the inputs data, label.*deploy"),
        ((HEAD, CONV, FC, OVERWRITTEN), "writes over the logits"),
        ((HEAD, CONV, FC, PROB.replace("Softmax", "Softmaxx")), "Did you mean 'Softmax'"),
    ],
)
def test_a_net_whose_classifier_is_not_clear_is_refused_with_the_candidates(parts: Sequence[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=words):
        zoo.load_caffe(files(tmp_path, *parts)[0], num_classes=7)


def test_the_classifier_can_be_named(tmp_path: Path) -> None:
    prototxt, _ = files(tmp_path, HEAD, CONV, TWO)
    model = zoo.load_caffe(prototxt, num_classes=7, classifier="right")
    assert model.outputs == ("right",) and model(images()).shape == (2, 7)
    with pytest.raises(LoadError, match=r"the outputs left, right"):
        zoo.load_caffe(prototxt, num_classes=7, classifier="middle")
    with pytest.raises(LoadError, match="there is no layer 'fc'"):
        zoo.load_caffe(files(tmp_path, HEAD, CONV, FC)[0], num_classes=7, classifier="fc")


@torch.inference_mode()
def test_a_new_layer_above_an_embedding_takes_no_weights(tmp_path: Path) -> None:
    new = 'layer { name: "new" type: "InnerProduct" bottom: "fc/out" top: "new" inner_product_param { num_output: 1 } }'
    model = zoo.load_caffe(*files(tmp_path, HEAD, CONV, FC, new), num_classes=7, classifier="new")
    torch.testing.assert_close(model(images(), blobs=("fc/out",))["fc/out"], expected(images()))
    assert model(images()).shape == (2, 7)


def test_everything_else_has_to_fit(tmp_path: Path) -> None:
    prototxt, weights = files(tmp_path, HEAD, CONV, FC, PROB, layers={"conv": LAYERS["conv"][:1]})
    with pytest.raises(LoadError, match=r"layer 'conv' \(Convolution\): the file has 1 blob"):
        zoo.load_caffe(prototxt, weights, num_classes=7)
    with pytest.raises(LoadError, match="num_classes is 0"):
        zoo.load_caffe(prototxt, num_classes=0)
    with pytest.raises(LoadError, match=r"nowhere\.prototxt"):
        zoo.load_caffe(tmp_path / "nowhere.prototxt")


# --- the images' way in ------------------------------------------------------------------------------------------

DATA = """layer { name: "data" type: "Data" top: "data"
  transform_param { scale: 0.5 mean_value: 10 mean_value: 20 mean_value: 30 crop_size: 8 } }\n"""


def rgb() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)


def test_images_come_in_as_the_prototxt_says(tmp_path: Path) -> None:
    prototxt, weights = files(tmp_path, DATA, CONV, FC)
    model = zoo.load_caffe(prototxt, weights, input_shapes={"data": (1, 3, 8, 8)})
    bgr = rgb()[:, :, ::-1].transpose(2, 0, 1).astype(np.float32)
    np.testing.assert_allclose(model.preprocess(rgb()).numpy(), (bgr - np.float32([[[10]], [[20]], [[30]]])) * 0.5)
    assert model.card.preprocess.size == (8, 8)


def test_images_come_in_as_caffe_reads_them_where_the_prototxt_says_nothing(tmp_path: Path) -> None:
    model = zoo.load_caffe(*files(tmp_path, HEAD, CONV, FC))
    np.testing.assert_array_equal(model.preprocess(rgb()).numpy(), rgb()[:, :, ::-1].transpose(2, 0, 1))
    spec = zoo.Preprocess((8, 8), "RGB", (1.0, 2.0, 3.0), "this test", 2.0)
    model = zoo.load_caffe(*files(tmp_path, HEAD, CONV, FC), preprocess=spec)
    np.testing.assert_array_equal(model.preprocess(rgb()).numpy(), (rgb().transpose(2, 0, 1) - np.float32([[[1]], [[2]], [[3]]])) * 2)
    assert model.card.preprocess is spec


def test_a_mean_image_has_to_be_said_and_other_inputs_have_no_preprocessing(tmp_path: Path) -> None:
    mean = DATA.replace("mean_value: 10 mean_value: 20 mean_value: 30", 'mean_file: "mean.binaryproto"')
    prototxt, _ = files(tmp_path, mean, CONV, FC)
    with pytest.raises(LoadError, match=r"mean\.binaryproto.*preprocess="):
        zoo.load_caffe(prototxt, input_shapes={"data": (1, 3, 8, 8)})
    spec = zoo.Preprocess((8, 8), "BGR", (1.0, 2.0, 3.0), "this test")
    assert zoo.load_caffe(prototxt, input_shapes={"data": (1, 3, 8, 8)}, preprocess=spec).card.preprocess is spec
    five = HEAD.replace("dim: 3", "dim: 5")
    assert zoo.load_caffe(files(tmp_path, five, CONV, FC)[0]).preprocess is None


def test_a_net_of_one_channel_takes_grey_images_as_they_are(tmp_path: Path) -> None:
    model = zoo.load_caffe(files(tmp_path, HEAD.replace("dim: 3", "dim: 1"), CONV, FC)[0])
    grey = rgb()[:, :, 0]
    assert model.preprocess(grey).tolist() == [grey.tolist()]
    assert model(model.preprocess(grey)[None]).shape[0] == 1


def test_a_caffemodel_alone_brings_its_own_net() -> None:
    """converter's files hold weights only, so Caffe's own are needed: the golden ones."""
    case = Path(__file__).parents[2] / "golden" / "InnerProduct-1"
    with_both = zoo.load_caffe(case / "net.prototxt", case / "net.caffemodel")
    alone = zoo.load_caffe(case / "net.caffemodel")
    assert all(torch.equal(a, b) for a, b in zip(with_both.parameters(), alone.parameters(), strict=True))
