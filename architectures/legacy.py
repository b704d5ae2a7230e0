"""Weights of XiaoYee/emotion_classification (PyTorch 0.3), into today's nets.

It offered three files for download, each a state dict:
VGG_Face_torch.pth   VGG-Face, converted by way of Torch7; its nn.Sequential has numbers for names
best7164.model       the same net, finetuned on FER2013 (71.64 % on the private test), 7 classes
best_resnet.model    the face ResNet of the video recipe, trained on FER2013, 7 classes

Files are read with weights_only=True: nothing in them is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

import torch
from torch import Tensor, nn

from architectures._from_caffe import renamed
from architectures.face_resnet import FaceResNet
from architectures.vgg_face import VGGFace

Net = TypeVar("Net", bound=nn.Module)

# Linears are nested: each sits behind a view in a Sequential of two. 31 is the flattening.
VGG_FACE_TORCH: dict[str, str | None] = {
    "0": "conv1_1", "2": "conv1_2",
    "5": "conv2_1", "7": "conv2_2",
    "10": "conv3_1", "12": "conv3_2", "14": "conv3_3",
    "17": "conv4_1", "19": "conv4_2", "21": "conv4_3",
    "24": "conv5_1", "26": "conv5_2", "28": "conv5_3",
    "32.1": "fc6", "35.1": "fc7", "38.1": "fc8",
}  # fmt: skip

BEST7164: dict[str, str | None] = {
    "pre_model.0": "conv1_1", "pre_model.2": "conv1_2",
    "pre_model.5": "conv2_1", "pre_model.7": "conv2_2",
    "pre_model.10": "conv3_1", "pre_model.12": "conv3_2", "pre_model.14": "conv3_3",
    "pre_model.17": "conv4_1", "pre_model.19": "conv4_2", "pre_model.21": "conv4_3",
    "pre_model.24": "conv5_1", "pre_model.26": "conv5_2", "pre_model.28": "conv5_3",
    "pre_model.32.1": "fc6", "pre_model.35.1": "fc7", "classifier": "fc8",
}  # fmt: skip

BEST_RESNET: dict[str, str | None] = {
    "conv1_a": "conv1_a", "bn1_a": "bn1_a", "conv1_b": "conv1_b", "bn1_b": "bn1_b",
    "layer1.0.conv1": "layer1.0.conv1", "layer1.0.conv2": "layer1.0.conv2",
    "conv2": "conv2", "bn2": "bn2",
    "layer2.0.conv1": "layer2.0.conv1", "layer2.0.conv2": "layer2.0.conv2",
    "layer2.1.conv1": "layer2.1.conv1", "layer2.1.conv2": "layer2.1.conv2",
    "conv3": "conv3", "bn3": "bn3",
    "layer3.0.conv1": "layer3.0.conv1", "layer3.0.conv2": "layer3.0.conv2",
    "layer3.1.conv1": "layer3.1.conv1", "layer3.1.conv2": "layer3.1.conv2",
    "layer3.2.conv1": "layer3.2.conv1", "layer3.2.conv2": "layer3.2.conv2",
    "layer3.3.conv1": "layer3.3.conv1", "layer3.3.conv2": "layer3.3.conv2",
    "layer3.4.conv1": "layer3.4.conv1", "layer3.4.conv2": "layer3.4.conv2",
    "conv4": "conv4", "bn4": "bn4",
    "layer4.0.conv1": "layer4.0.conv1", "layer4.0.conv2": "layer4.0.conv2",
    "layer4.1.conv1": "layer4.1.conv1", "layer4.1.conv2": "layer4.1.conv2",
    "layer4.2.conv1": "layer4.2.conv1", "layer4.2.conv2": "layer4.2.conv2",
    "fc5_new": "fc5_new", "fc8_final": "fc8_final",
}  # fmt: skip


class LegacyFileError(ValueError):
    """A file that isn't the state dict that XiaoYee/emotion_classification published."""


def load_vgg_face_torch(path: str | Path) -> VGGFace:
    """VGG_Face_torch.pth: VGG-Face with 2622 classes, in eval mode. Input as VGGFace's.

    Raises LegacyFileError where the file holds something else than a state dict, WeightsMismatch where that doesn't fit.
    """
    with torch.device("meta"):
        net = VGGFace()
    return _load(net, VGG_FACE_TORCH, path)


def load_best7164(path: str | Path) -> VGGFace:
    """best7164.model: VGGFace with FER2013's 7 classes, in eval mode. Raises as load_vgg_face_torch does.

    Input (N, 3, 224, 224): grey faces as RGB in [0, 1], minus 0.507395516207, divided by 0.255128989415. Classes: angry,
    disgust, fear, happy, sad, surprise, neutral.
    """
    with torch.device("meta"):
        net = VGGFace(7)
    return _load(net, BEST7164, path)


def load_best_resnet(path: str | Path) -> FaceResNet:
    """best_resnet.model: FaceResNet with FER2013's 7 classes, in eval mode. Raises as load_vgg_face_torch does."""
    with torch.device("meta"):
        net = FaceResNet(7)
    return _load(net, BEST_RESNET, path)


def _load(net: Net, table: Mapping[str, str | None], path: str | Path) -> Net:
    state = renamed(table, read_state_dict(path), net.state_dict(), f"{path} doesn't fit {type(net).__name__}")
    net.load_state_dict(state, assign=True)
    return net.eval()


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a state dict that torch.save wrote, on the CPU; LegacyFileError for any other file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as e:
        raise LegacyFileError(
            f"{path} holds more than tensors, or is no file of torch.save's. PyTorch 0.3 could save a whole module, and "
            "to load one runs code that the file chooses, so it isn't done here. Where you trust the file, and that "
            "project's classes can be imported, turn it into a state dict there: "
            "torch.save(torch.load(PATH, weights_only=False).state_dict(), NEW_PATH)"
        ) from e
    except (EOFError, RuntimeError) as e:
        raise LegacyFileError(f"{path} is cut short or damaged ({e or 'it ends too early'}): fetch it again") from e
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise LegacyFileError(f"{path} is a {type(state).__name__}, not a state dict (names to tensors)")
    return dict(state)
