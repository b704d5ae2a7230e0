"""Sums, products and powers, of blobs and of constants, broadcast as PyTorch does."""

from __future__ import annotations

from math import prod

from torch import Tensor

from converter.export.operators.registry import (
    Operand,
    affine,
    eltwise,
    operator,
    power,
    single,
)
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
        number = single(b)
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
    return eltwise(net, "SUM", a, _tiled(net, b, a.shape))


@operator("mul")
def mul(net: Sketch, self: Operand, other: Operand) -> Blob:
    a, b = (self, other) if isinstance(self, Blob) else (other, self)
    assert isinstance(a, Blob)
    if not isinstance(b, Blob):
        number = single(b)
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
    return eltwise(net, "PROD", a, _tiled(net, b, a.shape))


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
    if number == 2:  # a product has no trouble with negative values, where some implementations take logarithms
        return eltwise(net, "PROD", self, self)
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
    if not isinstance(self, Blob) or not isinstance(other, Blob) or self.shape != other.shape:
        raise NoCaffeForm("Caffe's Eltwise takes the larger of two blobs of one shape; torch.clamp does it with a number")
    return eltwise(net, "MAX", self, other)


@operator("minimum")
def minimum(net: Sketch, self: Operand, other: Operand) -> Blob:
    if not isinstance(self, Blob) or not isinstance(other, Blob):
        raise NoCaffeForm("the smaller of a blob and a constant; torch.clamp does it with a number")
    return neg(net, maximum(net, neg(net, self), neg(net, other)))


def _with_constant(net: Sketch, x: Blob, factor: Tensor | None, term: Tensor | None) -> Blob:
    """x times a constant, or plus one, which is broadcast: a Scale or Bias layer that holds it."""
    constant = factor if factor is not None else term
    assert constant is not None
    shape = (1,) * (len(x.shape) - constant.dim()) + tuple(constant.shape)
    if len(shape) > len(x.shape) or any(d not in (1, size) for d, size in zip(shape, x.shape, strict=True)) or shape[0] != 1:
        raise NoCaffeForm(f"its constant {tuple(constant.shape)} is larger than the blob {x.shape}, or differs from sample to sample")
    wide = [axis for axis, d in enumerate(shape) if d != 1]
    first, last = wide[0], wide[-1] + 1
    held = constant.reshape(shape).expand(1, *(x.shape[i] if first <= i < last else 1 for i in range(1, len(shape))))
    held = held.reshape([x.shape[i] for i in range(first, last)])
    if factor is not None:
        return affine(net, x, first, held, None)
    return net.one("Bias", [x], x.shape, [held], bias_param={"axis": first, "num_axes": held.dim()})


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


def _tiled(net: Sketch, small: Blob, shape: tuple[int, ...]) -> Blob:
    """The smaller operand repeated to the shape of the larger one."""
    if len(small.shape) < len(shape):
        full = (1,) * (len(shape) - len(small.shape)) + small.shape
        small = written(net, rearrange(small, lambda places: places.reshape(full)))
    for axis, (have, want) in enumerate(zip(small.shape, shape, strict=True)):
        if have == want:
            continue
        if have != 1:
            raise NoCaffeForm(f"a blob of shape {small.shape} does not go with one of {shape}")
        size = (*small.shape[:axis], want, *small.shape[axis + 1 :])
        small = net.one("Tile", [small], size, tile_param={"axis": axis, "tiles": want})
    return small
