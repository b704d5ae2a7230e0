"""Layers with weights that are neither convolutions, recurrent nor losses."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from converter import modules
from converter.layers.registry import Blob, Fields, Layer, layer


@layer("InnerProduct", "inner_product_param")
def inner_product(p: Fields, x: Tensor) -> Layer:
    axis = p.axis_of(x)
    if p.num_output < 1:
        raise ValueError(f"num_output is {p.num_output}; it must be at least 1")
    rows, columns = p.num_output, prod(x.shape[axis:])
    plain = x.dim() == axis + 1
    module = nn.Linear(columns, rows, p.bias_term) if plain else modules.InnerProduct(columns, rows, p.bias_term, axis)
    weight = Blob("weight", p.weight_filler, (columns, rows) if p.transpose else None)
    blobs = [weight, Blob("bias", p.bias_filler)][: 1 + p.bias_term]
    return Layer(module, blobs, _transposed, _transposed_back) if p.transpose else Layer(module, blobs)


def _transposed(blobs: list[Tensor]) -> dict[str, Tensor]:
    return {"weight": blobs[0].T.contiguous(), **({"bias": blobs[1]} if len(blobs) > 1 else {})}


def _transposed_back(state: dict[str, Tensor]) -> list[Tensor]:
    return [state["weight"].T.contiguous(), *([state["bias"]] if "bias" in state else [])]


@layer("Embed", "embed_param")
def embed(p: Fields, x: Tensor) -> Layer:
    if p.num_output < 1 or p.input_dim < 1:
        raise ValueError("num_output and input_dim must be at least 1")
    module = modules.Embed(p.input_dim, p.num_output, p.bias_term)
    return Layer(module, [Blob("weight", p.weight_filler), Blob("bias", p.bias_filler)][: 1 + p.bias_term])


def _extent(p: Fields, x: Tensor, other: tuple[Tensor, ...]) -> tuple[int, tuple[int, ...]]:
    """The first axis, and the shape of a factor or term: the second bottom's, or that of num_axes axes from `axis` on."""
    axis = p.axis + x.dim() if p.axis < 0 else p.axis
    end = x.dim() if p.num_axes == -1 else axis + p.num_axes
    shape = tuple(other[0].shape) if other else tuple(x.shape[axis:end])
    if other and not shape:
        axis = 0  # a scalar meets every axis: scale_layer.cpp
    if p.num_axes < -1 or not 0 <= axis <= x.dim() or axis + len(shape) > x.dim() or tuple(x.shape[axis : axis + len(shape)]) != shape:
        raise ValueError(f"axis {p.axis} and num_axes {p.num_axes} do not fit a factor of shape {shape}")
    if not other and end > x.dim():
        raise ValueError(f"num_axes {p.num_axes} from axis {p.axis} on goes beyond {x.dim()} axes")
    return axis, shape


@layer("Scale", "scale_param", bottoms=(1, 2))
def scale(p: Fields, x: Tensor, *factor: Tensor) -> Layer:
    axis, shape = _extent(p, x, factor)
    module = modules.Scale(shape, axis, p.bias_term, learned=not factor)
    filler = p.filler if p.has("filler") else 1.0  # scale_layer.cpp: no filler is a factor of 1
    blobs = ([] if factor else [Blob("weight", filler)]) + ([Blob("bias", p.bias_filler)] if p.bias_term else [])
    return Layer(module, blobs)


@layer("Bias", "bias_param", bottoms=(1, 2))
def bias(p: Fields, x: Tensor, *term: Tensor) -> Layer:
    axis, shape = _extent(p, x, term)
    module = modules.Bias(shape, axis, learned=not term)
    return Layer(module, [] if term else [Blob("bias", p.filler)])


@layer("Parameter", "parameter_param", bottoms=(0, 0))
def parameter(p: Fields) -> Layer:
    return Layer(modules.Parameter(tuple(p.shape.dim)), [Blob("weight")])
