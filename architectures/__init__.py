"""Readable, hand-written face nets, each with the name table of the Caffe net that it equals.

vgg_face, center_loss_face, sphereface, mobilefacenet: a face to a descriptor; squeezenet: ImageNet; mtcnn: where the faces
are; face_resnet, mobile_face_expression, small_resnet, small_vgg, video: expressions in images and clips; legacy: the weight
files of XiaoYee/emotion_classification. Importing this package does not import torch: each name does so when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from architectures._from_caffe import WeightsMismatch, from_caffe_state, load_from_caffe
    from architectures.center_loss_face import CenterLossFace
    from architectures.face_resnet import FaceResNet
    from architectures.legacy import LegacyFileError, load_best7164, load_best_resnet, load_vgg_face_torch
    from architectures.mobile_face_expression import MobileFaceExpression
    from architectures.mobilefacenet import MobileFaceNet
    from architectures.mtcnn import MTCNN, Detections, ONet, PNet, RNet
    from architectures.small_resnet import SmallResNet
    from architectures.small_vgg import SmallVGG
    from architectures.sphereface import SphereFace20
    from architectures.squeezenet import SqueezeNet
    from architectures.vgg_face import VGGFace
    from architectures.video import FaceClipNet, FaceResNetRNN, VGGFaceRNN

_MODULES = {
    "VGGFace": "vgg_face",
    "CenterLossFace": "center_loss_face",
    "FaceResNet": "face_resnet",
    "SphereFace20": "sphereface",
    "MobileFaceNet": "mobilefacenet",
    "SqueezeNet": "squeezenet",
    "SmallResNet": "small_resnet",
    "SmallVGG": "small_vgg",
    "MobileFaceExpression": "mobile_face_expression",
    "MTCNN": "mtcnn",
    "Detections": "mtcnn",
    "PNet": "mtcnn",
    "RNet": "mtcnn",
    "ONet": "mtcnn",
    "VGGFaceRNN": "video",
    "FaceResNetRNN": "video",
    "FaceClipNet": "video",
    "load_vgg_face_torch": "legacy",
    "load_best7164": "legacy",
    "load_best_resnet": "legacy",
    "LegacyFileError": "legacy",
    "from_caffe_state": "_from_caffe",
    "load_from_caffe": "_from_caffe",
    "WeightsMismatch": "_from_caffe",
}

__all__ = [
    "MTCNN",
    "CenterLossFace",
    "Detections",
    "FaceClipNet",
    "FaceResNet",
    "FaceResNetRNN",
    "LegacyFileError",
    "MobileFaceExpression",
    "MobileFaceNet",
    "ONet",
    "PNet",
    "RNet",
    "SmallResNet",
    "SmallVGG",
    "SphereFace20",
    "SqueezeNet",
    "VGGFace",
    "VGGFaceRNN",
    "WeightsMismatch",
    "from_caffe_state",
    "load_best7164",
    "load_best_resnet",
    "load_from_caffe",
    "load_vgg_face_torch",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        # torchvision's own word where its operators were built for another torch: "operator torchvision::nms does not exist"
        raise ImportError(str(error), name="torchvision") from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
