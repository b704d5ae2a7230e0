"""Caffe's layer types, in one file per family: for each type a short function, beside it the module that torch lacks.

A function takes the fields of its parameter message and the bottoms as meta tensors (shapes without values) and returns
the nn.Module that computes the layer, with what its blobs are called:

    @layer("PReLU", "prelu_param")
    def prelu(p: Fields, x: Tensor) -> Layer: ...

The module is then run on the meta tensors, and what comes out is the shape inference: there are no shape functions.
A field that is set but that the function neither reads nor names as ignored is an error.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from converter.layers.registry import Fields, Filler, Layer, LayerType, Param, Sources, build, layer_type, layer_types

_MACHINERY = ("document", "dropped", "fork_data", "module", "refused", "registry")
FAMILIES = tuple(info.name for info in pkgutil.iter_modules(__path__) if info.name not in _MACHINERY)
for _family in FAMILIES:
    import_module(f"{__name__}.{_family}")

__all__ = ["FAMILIES", "Fields", "Filler", "Layer", "LayerType", "Param", "Sources", "build", "layer_type", "layer_types"]
