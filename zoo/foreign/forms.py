"""The forms in which converted weights are passed around: names of the layers, order of the input's channels. Facts, each with its source.

A form's `layers` maps its names to those of the Caffe net. Where a net is BGR, as all of these are, and a form takes RGB, the first
layer's kernels are turned around.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Channels = Literal["RGB", "BGR"]
Kind = Literal["torch", "keras"]


@dataclass(frozen=True)
class Form:
    name: str
    kind: Kind
    layers: Mapping[str, str]
    channels: Channels
    source: str  # who says how the channels lie


@dataclass(frozen=True)
class Family:
    """What is known of one model's copies. `first` reads the image, `flat` reads feature maps of (channels, height, width) in a row."""

    forms: tuple[Form, ...]
    first: str
    flat: Mapping[str, tuple[int, int, int]]
    classifier: str | None = None  # the only layer that a copy may lack; it is then loaded with num_classes


def canonical(layer: str) -> str:
    """A layer's name as the frameworks that allow no "/" in it write it."""
    return layer.replace("/", "_").replace(".", "_")


# --- VGG-Face ----------------------------------------------------------------------------------------------------

_CONVS = ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3", "5_1", "5_2", "5_3")
_OWN = {name: name for name in (*(f"conv{each}" for each in _CONVS), "fc6", "fc7", "fc8")}
# Positions in an nn.Sequential of 3×3 convolutions, each with a ReLU, and a pool behind every stage.
_NUMBERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
_TORCHVISION = {f"features.{number}": f"conv{each}" for number, each in zip(_NUMBERS, _CONVS, strict=True)}
# XiaoYee/emotion_classification's VGG_Face_torch.pth; each Linear sits behind a view in a Sequential of two.
_NUMBERED = {str(number): f"conv{each}" for number, each in zip(_NUMBERS, _CONVS, strict=True)}
_T7 = "made from VGG_FACE.t7, which takes BGR"

_VGG_FACE = Family(
    (
        Form(
            "pytorch-mcn",
            "torch",
            _OWN,
            "RGB",
            "pytorch-mcn's vgg_face_dag.py: the mean is (129.186, 104.762, 93.594), so red comes first",
        ),
        Form(
            "prlz77/vgg-face.pytorch",
            "torch",
            {**{f"conv_{each}": f"conv{each}" for each in _CONVS}, "fc6": "fc6", "fc7": "fc7", "fc8": "fc8"},
            "BGR",
            f"prlz77/vgg-face.pytorch issue 2; {_T7}",
        ),
        Form(
            "chi0tzp/PyVGGFace",
            "torch",
            {**{f"features.conv_{each}": f"conv{each}" for each in _CONVS}, "fc.fc6": "fc6", "fc.fc7": "fc7", "fc.fc8": "fc8"},
            "BGR",
            f"PyVGGFace's convert_weights.py: {_T7}",
        ),
        Form(
            "torchvision's VGG-16",
            "torch",
            {**_TORCHVISION, "classifier.0": "fc6", "classifier.3": "fc7", "classifier.6": "fc8"},
            "BGR",
            f"nobody: taken for {_T7}",
        ),
        Form(
            "Torch7's nn.Sequential (VGG_Face_torch.pth)",
            "torch",
            {**_NUMBERED, "32.1": "fc6", "35.1": "fc7", "38.1": "fc8"},
            "BGR",
            f"XiaoYee/emotion_classification: {_T7}",
        ),
        Form(
            "keras-vggface",
            "keras",
            _OWN,
            "BGR",
            "rcmalli/keras-vggface utils.py, preprocess_input(version=1)",
        ),
        # Its layers have no names worth the word; 16 with weights in the order of the net. Its fully connected ones are convolutions.
        Form(
            "deepface",
            "keras",
            {},
            "RGB",
            "serengil/tensorflow-101 Matlab-Model-to-Keras.ipynb: the kernels of MatConvNet's vgg_face.mat as they are, which takes RGB;"
            " deepface itself feeds BGR (serengil/deepface issue 1457)",
        ),
    ),
    first="conv1_1",
    flat={"fc6": (512, 7, 7)},
)

# --- the center-loss net -----------------------------------------------------------------------------------------

_CENTER_LOSS = ("1a", "1b", "2", "3", "4", *(f"{stage}_{number}" for stage, count in ((2, 2), (3, 4), (4, 10), (5, 6))
                                             for number in range(1, count + 1)))  # fmt: skip
_CENTER_LOSS_OWN = {f"{kind}{each}": f"{kind}{each}" for each in _CENTER_LOSS for kind in ("conv", "relu")} | {"fc5": "fc5"}


def _of_this_package(layers: Iterable[str]) -> dict[str, str]:
    """CenterLossFace's own names: a residual block is called after the blob of its sum."""
    names = {}
    for layer in layers:
        kind, (stage, _, number) = layer[:4], layer[4:].partition("_")
        if number:
            block = (int(number) + 1) // 2 * 2
            names[f"res{stage}_{block}.{kind}{2 - int(number) % 2}"] = layer
        else:
            names[layer] = layer
    return names


_CENTER_LOSS_FACE = Family(
    (
        Form("Caffe's own names", "torch", _CENTER_LOSS_OWN, "BGR", "ydwen/caffe-face: Caffe's order"),
        Form("architectures.CenterLossFace", "torch", _of_this_package(_CENTER_LOSS_OWN), "BGR", "architectures.CenterLossFace"),
    ),
    first="conv1a",
    flat={"fc5": (512, 5, 4)},
)

# --- VGGFace2 ----------------------------------------------------------------------------------------------------


def _blocks(squeezed: bool) -> dict[str, str]:
    """conv1 and the four stages of 3, 4, 6 and 3 blocks; a BatchNorm's name ends in _bn or /bn, its Caffe layers' in /bn, /bn/scale."""
    convs = ["conv1/7x7_s2"]
    single = ["classifier"]
    for stage, count in ((2, 3), (3, 4), (4, 6), (5, 3)):
        for number in range(1, count + 1):
            block = f"conv{stage}_{number}"
            convs += [f"{block}_1x1_reduce", f"{block}_3x3", f"{block}_1x1_increase", *([f"{block}_1x1_proj"] if number == 1 else [])]
            single += [f"{block}_1x1_down", f"{block}_1x1_up"] if squeezed else []
    return {canonical(name): name for conv in convs for name in (conv, f"{conv}/bn")} | {name: name for name in single}


def _like_torchvision(squeezed: bool) -> dict[str, str]:
    """VGGFace2-pytorch's names: torchvision's ResNet-50, and conv4 and conv5 for squeezing and exciting."""
    names = {"conv1": "conv1/7x7_s2", "bn1": "conv1/7x7_s2/bn", "fc": "classifier"}
    for stage, count in ((2, 3), (3, 4), (4, 6), (5, 3)):
        for number in range(1, count + 1):
            block, here = f"conv{stage}_{number}", f"layer{stage - 1}.{number - 1}"
            for at, kind in enumerate(("1x1_reduce", "3x3", "1x1_increase"), 1):
                names |= {f"{here}.conv{at}": f"{block}_{kind}", f"{here}.bn{at}": f"{block}_{kind}/bn"}
            if number == 1:
                names |= {f"{here}.downsample.0": f"{block}_1x1_proj", f"{here}.downsample.1": f"{block}_1x1_proj/bn"}
            if squeezed:
                names |= {f"{here}.conv4": f"{block}_1x1_down", f"{here}.conv5": f"{block}_1x1_up"}
    return names


def _vggface2(squeezed: bool) -> Family:
    layers = _blocks(squeezed)
    mean = f"{'senet' if squeezed else 'resnet'}50_ft_dag.py: the mean is (131.0912, 103.8827, 91.4953), so red comes first"
    return Family(
        (
            Form("pytorch-mcn", "torch", layers, "RGB", f"pytorch-mcn's {mean}"),
            Form("VGGFace2-pytorch", "torch", _like_torchvision(squeezed), "BGR", "cydonia999/VGGFace2-pytorch datasets/vgg_face2.py"),
            Form("keras-vggface", "keras", layers, "BGR", "rcmalli/keras-vggface utils.py, preprocess_input(version=2)"),
        ),
        first="conv1/7x7_s2",
        flat={},
        classifier="classifier",
    )


FAMILIES: dict[str, Family] = {
    "vgg_face": _VGG_FACE,
    "center_loss_face": _CENTER_LOSS_FACE,
    **{f"vggface2_{net}50_{kind}": _vggface2(net == "senet") for net in ("resnet", "senet") for kind in ("ft", "scratch")},
}
