"""From Caffe to PyTorch: prototxt and caffemodel in, a module that computes the same numbers out.

    from converter import convert
    net = convert("deploy.prototxt", "net.caffemodel")
    prob = net(images)

Importing this package imports neither torch nor protobuf; the first use of a name does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converter.conversion import convert, fold_batchnorm
    from converter.errors import CaffezooWarning, ConversionError
    from converter.export.to_caffe import to_caffe
    from converter.net import CaffeNet
    from converter.preprocess import Preprocess
    from converter.read.weights import read_blobs, read_mean
    from converter.winograd import use_winograd
    from converter.write.back import save_caffemodel
    from converter.write.output import save

__version__ = "0.1.0"
__all__ = [
    "CaffeNet",
    "CaffezooWarning",
    "ConversionError",
    "Preprocess",
    "convert",
    "fold_batchnorm",
    "read_blobs",
    "read_mean",
    "save",
    "save_caffemodel",
    "to_caffe",
    "use_winograd",
]

_HOMES = {
    "convert": "converter.conversion",
    "fold_batchnorm": "converter.conversion",
    "CaffezooWarning": "converter.errors",
    "ConversionError": "converter.errors",
    "CaffeNet": "converter.net",
    "Preprocess": "converter.preprocess",
    "read_blobs": "converter.read.weights",
    "read_mean": "converter.read.weights",
    "save": "converter.write.output",
    "save_caffemodel": "converter.write.back",
    "to_caffe": "converter.export.to_caffe",
    "use_winograd": "converter.winograd",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'converter' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
