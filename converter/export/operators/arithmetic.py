"""Sums, products and powers, of blobs and of constants, broadcast as PyTorch does."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from converter.export.linear import spread
from converter.export.operators.activations import clamp
from converter.export.operators.registry import Operand, affine, eltwise, operator, power, single
from converter.export.rearranged import rearrange, written
from converter.export.sketch import Blob, NoCaffeForm, Sketch


@operator("add")
def add(net: Sketch, self: Operand, other: Operand, alpha: float = 1) -> Blob:
    return _sum(net, self, other, 1, alpha)


@operator("sub")
def sub(net: Sketch, self: Operand, other: Operand, alpha: float = 1) -> Blob:
    return _sum(net, self, other, 1, -alpha)


@operator("rsub")
def rsub(net: Sketch, self: Operand, other: Operand, alpha: float = 1) -> Blob:
    return _sum(net, self, other, -alpha, 1)


def _sum(net: Sketch, a: Operand, b: Operand, of_a: float, of_b: float) -> Blob:
    """of_a * a + of_b * b."""
    if not isinstance(a, Blob):
        a, b, of_a, of_b = b, a, of_b, of_a
    assert isinstance(a, Blob)
    if not isinstance(b, Blob):
        number = _number(b, a.shape)
        if number is not None:
            return power(net, a, scale=of_a, shift=of_b * number)
        assert isinstance(b, Tensor)
        return _with_constant(net, power(net, a, scale=of_a), None, of_b * b)
    if a.shape == b.shape:
        return eltwise(net, "SUM", a, b, (of_a, of_b))
    if prod(a.shape) < prod(b.shape):
        a, b, of_a, of_b = b, a, of_b, of_a
    a, b = power(net, a, scale=of_a), power(net, b, scale=of_b)
    short = _leading(net, b, a.shape)
    if short is not None:
        return net.one("Bias", [a, short], a.shape, bias_param={"axis": 0})
    return eltwise(net, "SUM", *_broadcast(net, a, b))


@operator("mul")
def mul(net: Sketch, self: Operand, other: Operand) -> Blob:
    a, b = (self, other) if isinstance(self, Blob) else (other, self)
    assert isinstance(a, Blob)
    if not isinstance(b, Blob):
        number = _number(b, a.shape)
        if number is not None:
            return power(net, a, scale=number)
        assert isinstance(b, Tensor)
        return _with_constant(net, a, b, None)
    if a.shape == b.shape:
        return eltwise(net, "PROD", a, b)
    if prod(a.shape) < prod(b.shape):
        a, b = b, a
    short = _leading(net, b, a.shape)
    if short is not None:
        return net.one("Scale", [a, short], a.shape, scale_param={"axis": 0})
    return eltwise(net, "PROD", *_broadcast(net, a, b))


@operator("div")
def div(net: Sketch, self: Operand, other: Operand, rounding_mode: str | None = None) -> Blob:
    if rounding_mode is not None:
        raise NoCaffeForm(f"it divides and rounds ({rounding_mode}); no Caffe layer rounds")
    if isinstance(other, Tensor) and isinstance(self, Blob):
        return mul(net, self, 1 / other)
    if isinstance(other, Blob):
        return mul(net, self, power(net, other, power=-1))
    return mul(net, self, 1 / float(other))


@operator("pow")
def pow_(net: Sketch, self: Operand, exponent: Operand) -> Blob:
    number = single(exponent)
    if not isinstance(self, Blob) or number is None:
        raise NoCaffeForm("Caffe's Power has a constant exponent, and a base that the net computes")
    if number == 1:
        return self
    if number in (2, 3):  # a product has no trouble with negative values, where some implementations take logarithms
        return mul(net, self, self) if number == 2 else mul(net, mul(net, self, self), self)
    return power(net, self, power=number)


@operator("sqrt")
def sqrt(net: Sketch, self: Blob) -> Blob:
    return power(net, self, power=0.5)


@operator("rsqrt")
def rsqrt(net: Sketch, self: Blob) -> Blob:
    return power(net, self, power=-0.5)


@operator("reciprocal")
def reciprocal(net: Sketch, self: Blob) -> Blob:
    return power(net, self, power=-1)


@operator("neg")
def neg(net: Sketch, self: Blob) -> Blob:
    return power(net, self, scale=-1)


@operator("maximum")
def maximum(net: Sketch, self: Operand, other: Operand) -> Blob:
    a, b = (self, other) if isinstance(self, Blob) else (other, self)
    assert isinstance(a, Blob)
    if not isinstance(b, Blob):
        number = single(b)
        if number is None:
            raise NoCaffeForm("Caffe's Eltwise takes the larger of two blobs; of a blob and a constant only where that is one number")
        return clamp(net, a, min=number)
    return eltwise(net, "MAX", *_broadcast(net, a, b))


@operator("minimum")
def minimum(net: Sketch, self: Operand, other: Operand) -> Blob:
    def negative(value: Operand) -> Operand:
        return neg(net, value) if isinstance(value, Blob) else -value

    return neg(net, maximum(net, negative(self), negative(other)))


@operator("max")
def max_(net: Sketch, self: Operand, other: Operand | None = None, **_: object) -> Blob:
    if other is None:
        raise NoCaffeForm("it finds the largest along an axis; Caffe's Eltwise takes the larger of two blobs, Pooling that of an image")
    return maximum(net, self, other)


@operator("min")
def min_(net: Sketch, self: Operand, other: Operand | None = None, **_: object) -> Blob:
    if other is None:
        raise NoCaffeForm("it finds the smallest value along an axis; Caffe has no layer that does")
    return minimum(net, self, other)


@operator("where")
def where(net: Sketch, condition: Operand, self: Operand, other: Operand) -> Blob:
    """condition * self + (1 - condition) * other, of a condition that is 0 or 1: right where both are numbers."""
    if not isinstance(condition, Blob):
        raise NoCaffeForm("its condition is a constant; multiply by the mask instead")
    return add(net, mul(net, condition, self), mul(net, power(net, condition, scale=-1, shift=1), other))


@operator("masked_fill")
def masked_fill(net: Sketch, self: Operand, mask: Operand, value: Operand) -> Blob:
    return where(net, mask, value, self)


@operator("square")
def square(net: Sketch, self: Blob) -> Blob:
    return eltwise(net, "PROD", self, self)


@operator("addcmul")
def addcmul(net: Sketch, self: Operand, tensor1: Operand, tensor2: Operand, value: float = 1) -> Blob:
    return add(net, self, mul(net, tensor1, tensor2), alpha=value)


@operator("lerp")
def lerp(net: Sketch, self: Operand, end: Operand, weight: Operand) -> Blob:
    number = single(weight)
    if number is None or not isinstance(self, Blob) or not isinstance(end, Blob):
        raise NoCaffeForm("a mixture whose weights are not one number, or of constants")
    return _sum(net, self, end, 1 - number, number)


def _number(value: Operand, shape: tuple[int, ...]) -> float | None:
    """A constant that is one number, or the same one everywhere in a blob of that shape."""
    if isinstance(value, Tensor) and value.numel() > 1 and tuple(torch.broadcast_shapes(value.shape, shape)) == shape:
        first = value.flatten()[:1]
        return float(first) if bool((value == first).all()) else None
    return single(value)


def _with_constant(net: Sketch, x: Blob, factor: Tensor | None, term: Tensor | None) -> Blob:
    """x times a constant, or plus one, which is broadcast: a Scale or Bias layer that holds it."""
    constant = factor if factor is not None else term
    assert constant is not None
    if constant.dim() == len(x.shape) and bool((constant == constant[:1]).all()):
        constant = constant[:1]
    shape = (1,) * (len(x.shape) - constant.dim()) + tuple(constant.shape)
    if len(shape) > len(x.shape) or any(d not in (1, size) for d, size in zip(shape, x.shape, strict=True)) or shape[0] != 1:
        raise NoCaffeForm(f"its constant {tuple(constant.shape)} is larger than the blob {x.shape}, or differs from sample to sample")
    wide = [axis for axis, d in enumerate(shape) if d != 1]
    first, last = wide[0], wide[-1] + 1
    held = constant.reshape(shape).expand(1, *(x.shape[i] if first <= i < last else 1 for i in range(1, len(shape))))
    held = held.reshape([x.shape[i] for i in range(first, last)])
    return affine(net, x, first, held, None) if factor is not None else affine(net, x, first, None, held)  # OpenCV has no Bias


def _leading(net: Sketch, small: Blob, shape: tuple[int, ...]) -> Blob | None:
    """The smaller operand without its trailing axes of 1, where what remains are the leading axes of the larger one."""
    if len(small.shape) != len(shape):
        return None
    count = len(shape)
    while count and small.shape[count - 1] == 1 and shape[count - 1] != 1:
        count -= 1
    if not count or small.shape[:count] != shape[:count]:
        return None
    return written(net, rearrange(small, lambda places: places.reshape(small.shape[:count])))


def _broadcast(net: Sketch, a: Blob, b: Blob) -> tuple[Blob, Blob]:
    """Both in the shape that broadcasting gives them."""
    shape = tuple(torch.broadcast_shapes(a.shape, b.shape))
    return spread(net, a, shape), spread(net, b, shape)
