"""The nets of the image recipes, with their initial weights: (number of classes, arguments, initial weights) -> the net.

Each raises FinetuneError for initial weights that are another net's, and ZooError for weights that cannot be had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import zoo
from architectures import contract
from finetune.errors import FinetuneError
from zoo import LocalCard, Preprocess

if TYPE_CHECKING:
    from torch import nn

Build = Callable[[int, Mapping[str, Any], str], "nn.Module"]
UNSAID = Preprocess(None, "BGR", (0.0,) * 3, "the prototxt")  # the recipe caffe's input before its prototxt is read


@runtime_checkable
class Converted(Protocol):
    """A net that was converted from a prototxt. `prototxt` is the net as it is now, with its new last layer."""

    prototxt: str
    card: LocalCard


def vgg_face(classes: int, arguments: Mapping[str, Any], init: str) -> nn.Module:
    """VGG-Face as the zoo builds it."""
    return zoo.load("vgg_face" if init == "none" else init, pretrained=init != "none", num_classes=classes)


def on_top_of(name: str, below: str, weights: str) -> Build:
    """The class `name` of architectures around a net of the class `below`: the zoo's model `weights`, or drawn."""

    def build(classes: int, arguments: Mapping[str, Any], init: str) -> nn.Module:
        cnn = None if init == "none" else zoo.load(init)
        if cnn is not None and not isinstance(cnn, contract.nets()[below]):
            raise FinetuneError(f"--init {init}: a {type(cnn).__name__}; {name} begins with a {below} (--init {weights}), or none")
        return contract.nets()[name](classes, **arguments, cnn=cnn)

    return build


def drawn(name: str) -> Build:
    """The class `name` of architectures, for which there are no published weights."""

    def build(classes: int, arguments: Mapping[str, Any], init: str) -> nn.Module:
        if init != "none":
            raise FinetuneError(f"--init {init}: no weights are published for {name}; it takes none, or a run's folder")
        return contract.nets()[name](classes, **arguments)

    return build


face_resnet = on_top_of("FaceResNet", "CenterLossFace", "center_loss_face")
mobilefacenet = on_top_of("MobileFaceExpression", "MobileFaceNet", "mobilefacenet")
small_resnet = drawn("SmallResNet")
small_vgg = drawn("SmallVGG")


def caffe_net(classes: int, arguments: Mapping[str, Any], init: str) -> nn.Module:
    """The user's own Caffe net with a new last layer. arguments: prototxt, and perhaps caffemodel and classifier, the layer's name."""
    from zoo.models.weights import classifier_of

    if not arguments.get("prototxt"):
        raise FinetuneError("the recipe caffe takes a net of yours: --prototxt deploy.prototxt --caffemodel net.caffemodel")
    if init != "none":
        raise FinetuneError(f"--init {init}: the recipe caffe begins with --caffemodel, or with the folder of a run")
    prototxt, weights = arguments["prototxt"], arguments.get("caffemodel")
    model: Any = zoo.load_caffe(prototxt, weights, num_classes=classes, classifier=arguments.get("classifier"))
    model.CLASSIFIER = classifier_of(model, model.card.classifier)
    net: nn.Module = model
    return net


def input_of(prototxt: str, classifier: str | None, stated: Preprocess) -> Preprocess:
    """What a Caffe net's prototxt says of its input, or where fields of UNSAID were set, `stated` at the net's size.

    Raises FinetuneError for an input that has neither 1 nor 3 channels.
    """
    model = zoo.load_caffe(prototxt, classifier=classifier)
    said = model.preprocess
    if said is None:
        [shape] = dict(model.input_shapes).values()
        raise FinetuneError(f"{prototxt}: the net's input is {tuple(shape)}; images have 1 channel or 3: (N, 1, H, W) or (N, 3, H, W)")
    said = replace(said, resize=None) if said.resize == "keep" else said  # the whole face, not the middle of a small image
    if stated == UNSAID:
        return said
    if said.channels != "GRAY":
        return replace(stated, size=said.size)
    if stated.channels not in (UNSAID.channels, "GRAY") or len(set(stated.mean)) > 1 or not isinstance(stated.scale, int | float):
        raise FinetuneError(
            f"{prototxt}: the net takes 1 channel; --set input.channels=GRAY, one number as input.mean=[127.5], and one as input.scale=0.01"
        )
    return replace(stated, size=said.size, channels="GRAY", mean=stated.mean[:1])
