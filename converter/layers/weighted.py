"""Layers with weights that are neither convolutions, recurrent nor losses."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converter.layers.given_weights import GivenInnerProduct
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


class UnitInnerProduct(InnerProduct):
    """With the rows of weight divided by sqrt(sum of squares + 1e-6) first: happynear's `normalize`."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight / ((self.weight * self.weight).sum(1, keepdim=True) + 1e-6).sqrt()
        return F.linear(x.reshape(*x.shape[: self.axis], self.in_features), weight, self.bias)


@layer(
    "InnerProduct",
    "inner_product_param",
    bottoms=(1, 3),
    origin="BVLC; happynear's normalize and weights as bottoms, param_bottoms",
    refuses="normalize, or weights as bottoms, together with transpose; a bias of its own beside a weight that is a bottom",
)
def inner_product(p: Fields, x: Tensor, *given: Tensor) -> Layer:
    axis = p.axis_of(x)
    columns = prod(x.shape[axis:])
    if given:
        return _given(p, axis, columns, given)
    if p.num_output < 1:
        raise ValueError(f"num_output is {p.num_output}; it must be at least 1")
    rows, plain = p.num_output, x.dim() == axis + 1
    weight = Param("weight", p.weight_filler, (columns, rows) if p.transpose else None)
    blobs = [weight, Param("bias", p.bias_filler)][: 1 + p.bias_term]
    if p.normalize:
        if p.transpose:
            raise ValueError("normalize and transpose are both set; inner_product_layer.cpp of happynear/caffe-windows mixes up rows then")
        return Layer(UnitInnerProduct(columns, rows, p.bias_term, axis), blobs)
    module = nn.Linear(columns, rows, p.bias_term) if plain else InnerProduct(columns, rows, p.bias_term, axis)
    return Layer(module, blobs, _transposed, _transposed_back) if p.transpose else Layer(module, blobs)


def _given(p: Fields, axis: int, columns: int, given: tuple[Tensor, ...]) -> Layer:
    """The weight (num_output, ...) is the second bottom, the bias the third; a normalize is for a weight of its own only."""
    _ = p.normalize
    outputs = given[0].shape[0] if given[0].dim() else 0
    if p.param_bottoms not in (0, len(given)) or p.transpose or len(given) != 1 + p.bias_term or given[0].numel() != outputs * columns:
        raise ValueError(
            f"with its weight as a bottom it takes one of (num_output, {columns}), a third bottom for the bias or bias_term: false,"
            " and no transpose"
        )
    if p.has("num_output") and p.num_output != outputs:
        raise ValueError(f"num_output is {p.num_output}, and its weight has {outputs} rows")
    return Layer(GivenInnerProduct(columns, axis))


class TransposedInnerProduct(InnerProduct):
    """With the weight as Caffe stores it where it is transposed: (K, num_output), so that another layer can share it."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, axis: int = 1):
        super().__init__(in_features, out_features, bias, axis)
        self.weight = nn.Parameter(torch.empty(in_features, out_features))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.reshape(*x.shape[: self.axis], self.in_features), self.weight.T, self.bias)


def as_stored(module: nn.Module) -> nn.Module:
    """A transposed InnerProduct's module with its weight as it is stored."""
    assert isinstance(module, (nn.Linear, InnerProduct))
    axis = getattr(module, "axis", 1)
    with torch.device("meta"):
        return TransposedInnerProduct(module.in_features, module.out_features, module.bias is not None, axis).eval()


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


class BoundedScale(CaffeModule):
    """x * weight + bias with a weight that is kept between min_value and max_value: happynear/caffe-windows."""

    def __init__(
        self, shape: Sequence[int], axis: int = 1, bias: bool = False, min_value: float | None = None, max_value: float | None = None
    ):
        super().__init__()
        self.shape, self.axis, self.min_value, self.max_value = tuple(shape), axis, min_value, max_value
        self.weight = nn.Parameter(torch.empty(self.shape))
        self.bias = nn.Parameter(torch.empty(self.shape)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = x * aligned(self.weight.clamp(self.min_value, self.max_value), x, self.axis)
        return y if self.bias is None else y + aligned(self.bias, x, self.axis)


@layer(
    "Scale",
    "scale_param",
    bottoms=(1, 2),
    origin="BVLC; happynear's min_value and max_value",
    refuses="min_value or max_value with two bottoms, where the code writes to the second",
)
def scale(p: Fields, x: Tensor, *factor: Tensor) -> Layer:
    axis, shape = _extent(p, x, factor)
    least, most = (getattr(p, name) if p.has(name) else None for name in ("min_value", "max_value"))
    filler = p.filler if p.has("filler") else 1.0  # scale_layer.cpp: no filler is a factor of 1
    blobs = ([] if factor else [Param("weight", filler)]) + ([Param("bias", p.bias_filler)] if p.bias_term else [])
    if least is None and most is None:
        return Layer(Scale(shape, axis, p.bias_term, learned=not factor), blobs)
    if factor or (least is not None and most is not None and least > most):
        raise ValueError("min_value and max_value bound a factor of the layer's own, the one below the other (scale_layer.cpp)")
    return Layer(BoundedScale(shape, axis, p.bias_term, least, most), blobs)


@layer("EltwiseAffine", "eltwise_affine_param", origin="happynear")
def eltwise_affine(p: Fields, x: Tensor) -> Layer:
    if x.dim() not in (2, 4):
        raise ValueError("EltwiseAffine takes (N, C) or (N, C, H, W)")
    module = Scale((), 0, bias=True) if p.channel_shared else Scale((x.shape[1],), bias=True)
    fillers = p.slope_filler if p.has("slope_filler") else 1.0001, p.bias_filler if p.has("bias_filler") else 0.0001
    return Layer(module, [Param("weight", fillers[0]), Param("bias", fillers[1])])  # eltwise_affine_layer.cpp


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
