"""Functions of each value by itself, and softmax."""

from __future__ import annotations

import math
from typing import Any

from converter.export.operators.registry import eltwise, operator, power, single
from converter.export.sketch import Blob, NoCaffeForm, Sketch


@operator("relu")
def relu(net: Sketch, self: Blob) -> Blob:
    return net.one("ReLU", [self], self.shape)


@operator("leaky_relu")
def leaky_relu(net: Sketch, self: Blob, negative_slope: float = 0.01) -> Blob:
    return net.one("ReLU", [self], self.shape, relu_param={"negative_slope": negative_slope})


@operator("elu")
def elu(net: Sketch, self: Blob, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Blob:
    if input_scale != 1:
        raise NoCaffeForm(f"input_scale {input_scale} is not Caffe's ELU")
    found = net.one("ELU", [self], self.shape, elu_param={"alpha": alpha})
    return found if scale == 1 else power(net, found, scale=scale)


@operator("selu")
def selu(net: Sketch, self: Blob) -> Blob:
    return elu(net, self, 1.6732632423543772, 1.0507009873554805)


@operator("sigmoid")
def sigmoid(net: Sketch, self: Blob) -> Blob:
    return net.one("Sigmoid", [self], self.shape)


@operator("tanh")
def tanh(net: Sketch, self: Blob) -> Blob:
    return net.one("TanH", [self], self.shape)


@operator("abs")
def absolute(net: Sketch, self: Blob) -> Blob:
    return net.one("AbsVal", [self], self.shape)


@operator("exp")
def exp(net: Sketch, self: Blob) -> Blob:
    return net.one("Exp", [self], self.shape)


@operator("log")
def log(net: Sketch, self: Blob) -> Blob:
    return net.one("Log", [self], self.shape)


@operator("log2")
def log2(net: Sketch, self: Blob) -> Blob:
    return power(net, log(net, self), scale=1 / math.log(2))


@operator("log1p")
def log1p(net: Sketch, self: Blob) -> Blob:
    return log(net, power(net, self, shift=1))


@operator("softplus")
def softplus(net: Sketch, self: Blob, beta: float = 1, threshold: float = 20) -> Blob:
    if threshold < 15:
        raise NoCaffeForm(f"Softplus becomes a line at {threshold}; Caffe's BNLL does not, and the two are the same from 15 on")
    x = self if beta == 1 else power(net, self, scale=beta)
    found = net.one("BNLL", [x], x.shape)
    return found if beta == 1 else power(net, found, scale=1 / beta)


@operator("log_sigmoid", "log_sigmoid_forward")
def log_sigmoid(net: Sketch, self: Blob) -> list[Blob]:
    return [power(net, softplus(net, power(net, self, scale=-1)), scale=-1)]


@operator("mish")
def mish(net: Sketch, self: Blob) -> Blob:
    return eltwise(net, "PROD", self, tanh(net, softplus(net, self)))


@operator("celu")
def celu(net: Sketch, self: Blob, alpha: float = 1.0) -> Blob:
    return power(net, elu(net, power(net, self, scale=1 / alpha)), scale=alpha)


@operator("gelu")
def gelu(net: Sketch, self: Blob, approximate: str = "none") -> Blob:
    if approximate != "tanh":
        raise NoCaffeForm('Caffe has no error function; GELU(approximate="tanh"), ReLU, ELU and SiLU have a form')
    cube = eltwise(net, "PROD", eltwise(net, "PROD", self, self), self)
    inner = eltwise(net, "SUM", self, cube, (math.sqrt(2 / math.pi), math.sqrt(2 / math.pi) * 0.044715))
    return eltwise(net, "PROD", self, power(net, tanh(net, inner), scale=0.5, shift=0.5))


@operator("glu")
def glu(net: Sketch, self: Blob, dim: int = -1) -> Blob:
    axis = dim % len(self.shape)
    half = self.shape[axis] // 2
    shape = [half if i == axis else size for i, size in enumerate(self.shape)]
    values, gates = net.layer("Slice", [self], [shape, shape], slice_param={"axis": axis, "slice_point": [half]})
    return eltwise(net, "PROD", values, sigmoid(net, gates))


@operator("threshold")
def threshold(net: Sketch, self: Blob, threshold: float, value: float) -> Blob:
    found = eltwise(net, "PROD", power(net, self, shift=-value), gt(net, self, threshold))
    return power(net, found, shift=value)


@operator("gt")
def gt(net: Sketch, self: Blob, other: Any) -> Blob:
    """1 above the number, 0 elsewhere."""
    number = single(other)
    if number is None:
        raise NoCaffeForm("Caffe's Threshold compares with one number")
    return net.one("Threshold", [self], self.shape, threshold_param={"threshold": number})


@operator("lt")
def lt(net: Sketch, self: Blob, other: Any) -> Blob:
    return gt(net, power(net, self, scale=-1), -other)


@operator("ge")
def ge(net: Sketch, self: Blob, other: Any) -> Blob:
    return power(net, lt(net, self, other), scale=-1, shift=1)


@operator("le")
def le(net: Sketch, self: Blob, other: Any) -> Blob:
    return power(net, gt(net, self, other), scale=-1, shift=1)


@operator("sign")
def sign(net: Sketch, self: Blob) -> Blob:
    return eltwise(net, "SUM", gt(net, self, 0.0), lt(net, self, 0.0), (1, -1))


@operator("softshrink")
def softshrink(net: Sketch, self: Blob, lambd: float = 0.5) -> Blob:
    above, below = relu(net, power(net, self, shift=-lambd)), relu(net, power(net, self, scale=-1, shift=-lambd))
    return eltwise(net, "SUM", above, below, (1, -1))


@operator("relu6")
def relu6(net: Sketch, self: Blob) -> Blob:
    return clamp(net, self, 0, 6)


@operator("hardtanh")
def hardtanh(net: Sketch, self: Blob, min_val: float = -1, max_val: float = 1) -> Blob:
    return clamp(net, self, min_val, max_val)


@operator("clamp", "clamp_min", "clamp_max")
def clamp(net: Sketch, self: Blob, min: Any = None, max: Any = None) -> Blob:
    low, high = _bound(min), _bound(max)
    if low is not None and high is not None and net.has("Clip"):
        return net.one("Clip", [self], self.shape, clip_param={"min": low, "max": high})
    x = self
    if low is not None:  # low + ReLU(x - low), then high - ReLU(high - x)
        x = power(net, relu(net, power(net, x, shift=-low)), shift=low)
    if high is not None:
        x = power(net, relu(net, power(net, x, scale=-1, shift=high)), scale=-1, shift=high)
    return x


def _bound(value: Any) -> float | None:
    if value is None or isinstance(value, (int, float)):
        return value
    number = single(value)
    if number is None:
        raise NoCaffeForm("it is clamped to limits that are not one number each")
    return number


@operator("silu")
def silu(net: Sketch, self: Blob) -> Blob:
    if net.has("Swish"):
        return net.one("Swish", [self], self.shape)
    return eltwise(net, "PROD", self, sigmoid(net, self))


@operator("hardsigmoid")
def hardsigmoid(net: Sketch, self: Blob) -> Blob:
    return power(net, clamp(net, power(net, self, shift=3), 0, 6), scale=1 / 6)


@operator("hardswish")
def hardswish(net: Sketch, self: Blob) -> Blob:
    return eltwise(net, "PROD", self, hardsigmoid(net, self))


@operator("softmax", "_softmax")
def softmax(net: Sketch, self: Blob, dim: int, *_: object, **__: object) -> Blob:
    return net.one("Softmax", [self], self.shape, softmax_param={"axis": dim % len(self.shape)})


@operator("log_softmax", "_log_softmax")
def log_softmax(net: Sketch, self: Blob, dim: int, *_: object, **__: object) -> Blob:
    return log(net, softmax(net, self, dim))
