"""Layers with weights that are neither convolutions, recurrent nor losses."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converter.layers.module import CaffeModule, aligned
from converter.layers.registry import Fields, Layer, Param, layer


class InnerProduct(CaffeModule):
    """(..., K...) -> (..., num_output): the axes from `axis` on are one row of K values. weight: (num_output, K)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, axis: int = 1):
        super().__init__()
        self.in_features, self.out_features, self.axis = in_features, out_features, axis
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != self.axis + 1:
            x = x.flatten(self.axis) if x.dim() > self.axis else x[..., None]
        return F.linear(x, self.weight, self.bias)


@layer("InnerProduct", "inner_product_param")
def inner_product(p: Fields, x: Tensor) -> Layer:
    axis = p.axis_of(x)
    if p.num_output < 1:
        raise ValueError(f"num_output is {p.num_output}; it must be at least 1")
    rows, columns = p.num_output, prod(x.shape[axis:])
    plain = x.dim() == axis + 1
    module = nn.Linear(columns, rows, p.bias_term) if plain else InnerProduct(columns, rows, p.bias_term, axis)
    weight = Param("weight", p.weight_filler, (columns, rows) if p.transpose else None)
    blobs = [weight, Param("bias", p.bias_filler)][: 1 + p.bias_term]
    return Layer(module, blobs, _transposed, _transposed_back) if p.transpose else Layer(module, blobs)


@layer("SparseInnerProduct", "inner_product_param", origin="jolibrain, alemagnani")
def sparse_inner_product(p: Fields, x: Tensor) -> Layer:
    """On dense input it is InnerProduct (sparse_inner_product_layer.cpp), and ours is dense."""
    return inner_product(p, x)


def _transposed(blobs: list[Tensor]) -> dict[str, Tensor]:
    return {"weight": blobs[0].T.contiguous(), **({"bias": blobs[1]} if len(blobs) > 1 else {})}


def _transposed_back(state: dict[str, Tensor]) -> list[Tensor]:
    return [state["weight"].T.contiguous(), *([state["bias"]] if "bias" in state else [])]


class Embed(CaffeModule):
    """Indices of any shape -> the rows of weight (input_dim, num_output), plus a bias."""

    def __init__(self, input_dim: int, num_output: int, bias: bool = True):
        super().__init__()
        self.input_dim, self.num_output = input_dim, num_output
        self.weight = nn.Parameter(torch.empty(input_dim, num_output))
        self.bias = nn.Parameter(torch.empty(num_output)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.embedding(x.long(), self.weight)
        return y if self.bias is None else y + self.bias


@layer("Embed", "embed_param")
def embed(p: Fields, x: Tensor) -> Layer:
    if p.num_output < 1 or p.input_dim < 1:
        raise ValueError("num_output and input_dim must be at least 1")
    module = Embed(p.input_dim, p.num_output, p.bias_term)
    return Layer(module, [Param("weight", p.weight_filler), Param("bias", p.bias_filler)][: 1 + p.bias_term])


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


class Scale(CaffeModule):
    """x * weight + bias, each laid along `axis` and the axes behind it; with two bottoms the second is the factor."""

    def __init__(self, shape: Sequence[int], axis: int = 1, bias: bool = False, learned: bool = True):
        super().__init__()
        self.shape, self.axis, self.learned = tuple(shape), axis, learned
        self.weight = nn.Parameter(torch.empty(self.shape)) if learned else None
        self.bias = nn.Parameter(torch.empty(self.shape)) if bias else None

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        weight = self.weight if self.weight is not None else factor
        assert weight is not None
        y = x * aligned(weight, x, self.axis)
        return y if self.bias is None else y + aligned(self.bias, x, self.axis)


@layer("Scale", "scale_param", bottoms=(1, 2))
def scale(p: Fields, x: Tensor, *factor: Tensor) -> Layer:
    axis, shape = _extent(p, x, factor)
    module = Scale(shape, axis, p.bias_term, learned=not factor)
    filler = p.filler if p.has("filler") else 1.0  # scale_layer.cpp: no filler is a factor of 1
    blobs = ([] if factor else [Param("weight", filler)]) + ([Param("bias", p.bias_filler)] if p.bias_term else [])
    return Layer(module, blobs)


class Bias(CaffeModule):
    """x + bias, laid along `axis` and the axes behind it; with two bottoms the second is the bias."""

    def __init__(self, shape: Sequence[int], axis: int = 1, learned: bool = True):
        super().__init__()
        self.shape, self.axis, self.learned = tuple(shape), axis, learned
        self.bias = nn.Parameter(torch.empty(self.shape)) if learned else None

    def forward(self, x: Tensor, term: Tensor | None = None) -> Tensor:
        bias = self.bias if self.bias is not None else term
        assert bias is not None
        return x + aligned(bias, x, self.axis)


@layer("Bias", "bias_param", bottoms=(1, 2))
def bias(p: Fields, x: Tensor, *term: Tensor) -> Layer:
    axis, shape = _extent(p, x, term)
    module = Bias(shape, axis, learned=not term)
    return Layer(module, [] if term else [Param("bias", p.filler)])


class Parameter(CaffeModule):
    """A learned tensor as a top."""

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self.shape = tuple(shape)
        self.weight = nn.Parameter(torch.empty(self.shape))

    def forward(self) -> Tensor:
        return self.weight


@layer("Parameter", "parameter_param", bottoms=(0, 0))
def parameter(p: Fields) -> Layer:
    return Layer(Parameter(tuple(p.shape.dim)), [Param("weight")])
