"""Functions of each value by itself, and softmax."""

from __future__ import annotations

from converter.export.operators.registry import (
    eltwise,
    operator,
    power,
)
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


@operator("softplus")
def softplus(net: Sketch, self: Blob, beta: float = 1, threshold: float = 20) -> Blob:
    x = self if beta == 1 else power(net, self, scale=beta)
    found = net.one("BNLL", [x], x.shape)
    return found if beta == 1 else power(net, found, scale=1 / beta)


@operator("hardtanh", "clamp", "relu6")
def clamp(
    net: Sketch, self: Blob, min_val: float | None = None, max_val: float | None = None, min: float | None = None, max: float | None = None
) -> Blob:
    low, high = (min if min_val is None else min_val), (max if max_val is None else max_val)
    if low is not None and high is not None and net.has("Clip"):
        return net.one("Clip", [self], self.shape, clip_param={"min": low, "max": high})
    x = self
    if low is not None:  # low + ReLU(x - low), then high - ReLU(high - x)
        x = power(net, relu(net, power(net, x, shift=-low)), shift=low)
    if high is not None:
        x = power(net, relu(net, power(net, x, scale=-1, shift=high)), scale=-1, shift=high)
    return x


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
