"""zoo.save_caffe: hand-written nets as Caffe nets, read back by the converter and held against the model's own numbers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import google.protobuf.text_format
import numpy as np
import pytest
import torch
from torch import nn

import architectures
import zoo
from architectures import (
    CenterLossFace,
    FaceResNet,
    MobileFaceExpression,
    MobileFaceNet,
    SmallResNet,
    SmallVGG,
    SphereFace20,
    SqueezeNet,
)
from architectures.contract import CaffeTwin, nets
from converter import convert, read_blobs
from converter.read.schema import message_class
from zoo.errors import SaveError
from zoo.models.export import forms


def drawn(net: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that keep activations of one size, and BatchNorm statistics that are neither 0 nor 1."""
    draw = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=draw)
        elif value.dim() > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=draw)
        elif value.is_floating_point():
            value.uniform_(0.1, 0.4, generator=draw)
    return net


# the model, the blob that it returns, its input
MODELS: dict[str, tuple[Any, str, tuple[int, ...]]] = {
    "MobileFaceNet": (lambda: MobileFaceNet(), "fc1", (2, 3, 112, 112)),
    "MobileFaceNet with classes": (lambda: MobileFaceNet(5), "classifier", (2, 3, 112, 112)),
    "MobileFaceExpression": (lambda: MobileFaceExpression(), "classifier", (2, 3, 112, 112)),
    "MobileFaceExpression of 3": (lambda: MobileFaceExpression(3, dropout=0.5), "classifier", (2, 3, 112, 112)),
    "SqueezeNet": (lambda: SqueezeNet(), "pool10", (1, 3, 227, 227)),
    "SqueezeNet of 7": (lambda: SqueezeNet(7), "pool10", (1, 3, 227, 227)),
    "CenterLossFace with classes": (lambda: CenterLossFace(7), "classifier", (1, 3, 112, 96)),
    "SphereFace20": (lambda: SphereFace20(), "fc5", (1, 3, 112, 96)),
    "FaceResNet": (lambda: FaceResNet(), "fc8_final", (2, 3, 112, 96)),
    "SmallResNet": (lambda: SmallResNet(), "classifier", (2, 3, 48, 48)),
    "SmallResNet of 3, narrow": (lambda: SmallResNet(3, width=8), "classifier", (2, 3, 48, 48)),
    "SmallVGG": (lambda: SmallVGG(), "classifier", (2, 1, 44, 44)),
    "SmallVGG of 8, other widths": (lambda: SmallVGG(8, widths=(8, 24, 64, 40)), "classifier", (2, 1, 44, 44)),
}


@pytest.mark.parametrize(("build", "blob", "shape"), MODELS.values(), ids=MODELS.keys())
@torch.inference_mode()
def test_the_pair_converts_back_to_the_model_s_own_numbers(build: Any, blob: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    model = drawn(build()).eval()
    prototxt, caffemodel = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    compared = zoo.save_caffe(model, prototxt, caffemodel)
    assert [each.blob for each in compared if each.reference == "the module itself"] == [blob]
    assert all(each.equal for each in compared)
    net = convert(prototxt, caffemodel)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    want, got = model(x), net(x, blobs=(blob,))[blob].reshape(shape[0], -1)
    assert want.std() > 1e-3
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()
    twin = build()
    classes = {} if blob != "classifier" or "classifier" in twin.FROM_CAFFE else {"classifier": "classifier"}
    state = architectures.from_caffe_state(twin.FROM_CAFFE | classes, net.state_dict(), twin.state_dict())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())


@pytest.mark.parametrize(("build", "blob", "shape"), MODELS.values(), ids=MODELS.keys())
@torch.inference_mode()
def test_opencv_s_importer_computes_the_converted_net_s_numbers_from_kernels_in_half_precision(
    build: Any, blob: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is what the pair is read with (the extra `verify`)")
    model = drawn(build()).eval()
    prototxt, caffemodel = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    zoo.save_caffe(model, prototxt, caffemodel, half=True)
    net = cv2.dnn.readNetFromCaffe(str(prototxt), str(caffemodel))
    x = torch.randn((1, *shape[1:]), generator=torch.Generator().manual_seed(1))  # the prototxt's batch size
    net.setInput(x.numpy())
    # OpenCV knows layers, not blobs: of those that write fc1 the last one is its Scale
    want = convert(prototxt, caffemodel)(x, blobs=(blob,))[blob].reshape(1, -1)
    got = torch.from_numpy(net.forward({"fc1": "fc1_scale"}.get(blob, blob)).copy()).reshape(1, -1)
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()


@pytest.mark.parametrize(
    ("model", "rates"),
    [
        (SmallVGG(dropout=0.125), {"dropout": 0.125}),
        (FaceResNet(conv_dropout=0.0), {"dropout1_a": 0.0, "dropout2": 0.0}),
        (MobileFaceExpression(3), {"dropout": 0.2}),
        (SqueezeNet(7), {"drop9": 0.5}),
    ],
    ids=lambda each: type(each).__name__,
)
def test_the_prototxt_has_the_model_s_rates_of_dropout(model: nn.Module, rates: dict[str, float], tmp_path: Path) -> None:
    zoo.save_caffe(model, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    net = google.protobuf.text_format.Parse((tmp_path / "net.prototxt").read_text(), message_class("NetParameter")())
    found = {layer.name: layer.dropout_param.dropout_ratio for layer in net.layer if layer.type == "Dropout"}
    assert found == pytest.approx(rates)


def test_batchnorm_and_scale_each_take_their_own(tmp_path: Path) -> None:
    model = drawn(MobileFaceNet())
    zoo.save_caffe(model, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    blobs = {name: [torch.from_numpy(np.asarray(b)) for b in each] for name, each in read_blobs(tmp_path / "net.caffemodel").items()}
    mean, variance, factor = blobs["bn6f"]
    assert torch.equal(mean, model.bn6f.running_mean) and torch.equal(variance, model.bn6f.running_var) and factor.tolist() == [1]
    assert [torch.equal(*pair) for pair in zip(blobs["bn6f_scale"], (model.bn6f.weight, model.bn6f.bias), strict=True)] == [True, True]


def test_a_model_in_training_of_half_precision_is_written_and_left_as_it_is(tmp_path: Path) -> None:
    model = drawn(MobileFaceNet(3)).half().train()
    before = copy.deepcopy(model.state_dict())
    zoo.save_caffe(model, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert model.training and all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    net = convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert torch.equal(net.state_dict()["classifier.weight"], before["classifier.weight"].float())


def test_a_trained_caffe_net_goes_back_with_its_classes(tmp_path: Path) -> None:
    golden = Path(__file__).parents[2] / "golden" / "InnerProduct-1"
    net = convert(golden / "net.prototxt", golden / "net.caffemodel")
    zoo.save_caffe(net, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    again = convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: MobileFaceExpression(7, ("res_4_block4", "res_5_block1", "bn6f")), "has the taps res_4_block4, res_5_block1, bn6f"),
        (lambda: MobileFaceExpression(7, ("dconv_34",)), "the default taps .res_4_block5, res_5_block1, bn6f. only"),
        (lambda: SmallVGG(widths=(8, 8, 8)), r"this SmallVGG has no bn4_1, .*conv4_2; small_vgg\.prototxt .* widths may differ"),
        (lambda: SmallVGG(widths=(8, 8, 8, 8, 8)), r"unexpected: \"SmallVGG's conv5_1\.weight\""),
        (
            lambda: architectures.FaceClipNet(3, "SmallResNet", {"width": 8}),
            "FaceClipNet reads clips of different lengths.*VGGFace, .*FaceResNet",
        ),
        (lambda: architectures.FaceResNetRNN(), r"clips of different lengths.*torch.zeros\(1, 16, 3, 112, 96\)"),
        (lambda: architectures.MTCNN(), "three nets and a cascade"),
        (lambda: nn.Linear(2, 2), "Linear has no Caffe form"),
    ],
)
def test_a_model_without_a_caffe_form_is_refused_with_the_reason(model: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(SaveError, match=words):
        zoo.save_caffe(model(), tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert not list(tmp_path.iterdir())


def test_a_model_that_was_changed_is_refused(tmp_path: Path) -> None:
    other = drawn(MobileFaceNet())
    other.bn6f.eps = 0.5  # in no state dict
    wider = drawn(MobileFaceNet())
    wider.pre_fc1 = nn.Linear(512, 64)  # without the BatchNorm above it
    more = drawn(MobileFaceNet(3))
    more.extra = nn.Linear(3, 3)
    for model, words in [
        (other, r"computes something else \(fc1 by"),
        (wider, r"wrong shape: fc1\.running_mean is \(128,\), the net has \(64,\)"),
        (more, r"unexpected: \"MobileFaceNet's extra\.weight\""),
    ]:
        with pytest.raises(SaveError, match=f"(?s){words}"):
            zoo.save_caffe(model, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert not list(tmp_path.iterdir())


def test_both_files_appear_or_none(tmp_path: Path) -> None:
    model = drawn(MobileFaceNet())
    with pytest.raises(SaveError, match="cannot be written"):
        zoo.save_caffe(model, tmp_path / "net.prototxt", tmp_path / "nowhere" / "net.caffemodel")
    with pytest.raises(SaveError, match="cannot be written"):
        zoo.save_caffe(model, tmp_path / "nowhere" / "net.prototxt", tmp_path / "net.caffemodel")
    with pytest.raises(SaveError, match="two names"):
        zoo.save_caffe(model, tmp_path / "net", tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_every_form_is_an_architecture_with_a_table() -> None:
    offered = {name for name, kind in nets().items() if isinstance(kind, CaffeTwin)}
    assert set(forms()) == offered - {"PNet", "RNet", "ONet"}  # MTCNN's, whose weights are turned
