"""Caffe's layer types: one short function each, in one file per family.

A function takes the fields of its parameter message and the bottoms as meta tensors (shapes without values) and returns
the nn.Module that computes the layer, with what its blobs are called:

    @layer("PReLU", "prelu_param")
    def prelu(p: Fields, x: Tensor) -> Layer: ...

The module is then run on the meta tensors, and what comes out is the shape inference: there are no shape functions.
A field that is set but that the function neither reads nor names as ignored is an error.
"""

from __future__ import annotations

from converter.layers import activations, convolution, data, detection, forks, losses, normalization, pooling, recurrent, shapes, weighted
from converter.layers.registry import Blob, Fields, Layer, LayerType, Sources, build, layer_type, layer_types

__all__ = [
    "Blob",
    "Fields",
    "Layer",
    "LayerType",
    "Sources",
    "activations",
    "build",
    "convolution",
    "data",
    "detection",
    "forks",
    "layer_type",
    "layer_types",
    "losses",
    "normalization",
    "pooling",
    "recurrent",
    "shapes",
    "weighted",
]
