"""architectures/contract.py against every net of the package: what a class says that it offers, it does."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import architectures
from architectures import CenterLossFace, FaceClipNet, FaceResNet, MobileFaceNet, SmallResNet, SqueezeNet, load_from_caffe
from architectures.contract import Adjusted, CaffeTwin, Classifier, Encoder, convolutions, nets
from architectures.video import ClipNet

# What each net offers, and an input that it takes. MTCNN is three nets and a cascade: it offers none of it.
OFFERS: dict[str, tuple[set[type], tuple[int, ...]]] = {
    "VGGFace": ({Classifier, CaffeTwin}, (1, 3, 224, 224)),
    "CenterLossFace": ({Classifier, CaffeTwin}, (1, 3, 112, 96)),
    "SphereFace20": ({Classifier, CaffeTwin}, (1, 3, 112, 96)),
    "MobileFaceNet": ({Classifier, CaffeTwin}, (1, 3, 112, 112)),
    "SqueezeNet": ({Classifier, CaffeTwin}, (1, 3, 227, 227)),
    "PNet": ({CaffeTwin, Adjusted}, (1, 3, 12, 12)),
    "RNet": ({CaffeTwin, Adjusted}, (1, 3, 24, 24)),
    "ONet": ({CaffeTwin, Adjusted}, (1, 3, 48, 48)),
    "FaceResNet": ({Classifier, Encoder, CaffeTwin}, (2, 3, 112, 96)),
    "SmallResNet": ({Classifier, Encoder, CaffeTwin}, (2, 3, 48, 48)),
    "SmallVGG": ({Classifier, Encoder, CaffeTwin}, (2, 1, 44, 44)),
    "MobileFaceExpression": ({Classifier, Encoder, CaffeTwin}, (2, 3, 64, 64)),
    "VGGFaceRNN": ({Classifier, Encoder}, (1, 3, 224, 224)),
    "FaceResNetRNN": ({Classifier, Encoder}, (1, 3, 112, 96)),
    "FaceClipNet": ({Classifier, Encoder}, (1, 3, 112, 112)),
    "MTCNN": (set(), ()),
}
PROTOCOLS = (Classifier, Encoder, CaffeTwin, Adjusted)


def built(name: str, **arguments: Any) -> nn.Module:
    with torch.device("meta"):
        return nets()[name](**arguments).eval()


def test_every_net_of_the_package_is_in_the_table() -> None:
    assert set(nets()) == set(OFFERS)
    assert set(nets()) <= set(architectures.__all__)


@pytest.mark.parametrize("name", OFFERS)
def test_a_net_and_its_class_offer_what_the_table_says_and_no_more(name: str) -> None:
    offers, _ = OFFERS[name]
    assert {protocol for protocol in PROTOCOLS if isinstance(nets()[name], protocol)} == offers
    assert {protocol for protocol in PROTOCOLS if isinstance(built(name), protocol)} == offers


@pytest.mark.parametrize("name", [name for name, (offers, _) in OFFERS.items() if Classifier in offers])
def test_the_classifier_has_as_many_outputs_as_the_net_is_built_with(name: str) -> None:
    net = built(name, num_classes=5)
    assert isinstance(net, Classifier)
    last = net.get_submodule(net.CLASSIFIER)
    assert isinstance(last, (nn.Linear, nn.Conv2d)) and len(last.weight) == 5


@pytest.mark.parametrize("name", [name for name, (offers, _) in OFFERS.items() if Encoder in offers])
def test_the_children_above_the_embedding_are_those_that_embed_does_not_run(name: str) -> None:
    net = built(name)
    assert isinstance(net, Encoder)
    ran = set[str]()
    for path, module in net.named_modules():
        child = path.partition(".")[0]
        if child:
            module.register_forward_hook(lambda *_, child=child: ran.add(child))
    features = net.embed(torch.empty(OFFERS[name][1], device="meta"))
    assert features.dim() == 2
    assert list(net.ABOVE_EMBEDDING) == [child for child, _ in net.named_children() if child not in ran]
    assert net.ABOVE_EMBEDDING[-1] == net.CLASSIFIER


@pytest.mark.parametrize("name", [name for name, (offers, _) in OFFERS.items() if Encoder in offers and "RNN" not in name])
@torch.inference_mode()
def test_the_net_is_classify_of_embed(name: str) -> None:
    torch.manual_seed(0)
    net = nets()[name]().eval()
    assert isinstance(net, Encoder)
    x = torch.randn(OFFERS[name][1])
    if isinstance(net, ClipNet):
        assert torch.equal(net.classify(net.embed(x)[None]), net(x[None]))
    else:
        assert torch.equal(net.classify(net.embed(x)), net(x))


@pytest.mark.parametrize("name", [name for name, (offers, _) in OFFERS.items() if CaffeTwin in offers])
def test_the_table_names_every_module_that_has_weights(name: str) -> None:
    net = built(name)
    assert isinstance(net, CaffeTwin)
    held = {key.rpartition(".")[0] for key in net.state_dict()}
    assert {path for path in net.FROM_CAFFE.values() if path is not None} == held


def test_the_convolutions_are_the_net_inside_the_net() -> None:
    clips = FaceClipNet(3, "SmallResNet", {"width": 8})
    assert convolutions(clips) is clips.cnn
    assert convolutions(SmallResNet(width=8)) is None


def test_a_net_without_a_table_takes_no_caffe_weights() -> None:
    state: dict[str, Tensor] = {}
    with pytest.raises(TypeError, match="FaceClipNet has no FROM_CAFFE"):
        load_from_caffe(FaceClipNet(3, "SmallResNet", {"width": 8}), state)


def test_a_last_layer_that_was_not_asked_for_is_named_but_not_there() -> None:
    for kind in (CenterLossFace, MobileFaceNet):
        assert kind.CLASSIFIER not in dict(kind().named_modules())
        assert inspect.signature(kind).parameters["num_classes"].default is None
    assert "num_classes" in inspect.signature(SqueezeNet).parameters and "num_classes" in inspect.signature(FaceResNet).parameters
