"""Layers that work on each value by itself."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converter.layers.module import CaffeModule
from converter.layers.registry import ENGINE, Fields, Layer, Param, layer


@layer("ReLU", "relu_param", ignored=ENGINE)
def relu(p: Fields, x: Tensor) -> nn.Module:
    return nn.LeakyReLU(p.negative_slope) if p.negative_slope else nn.ReLU()


@layer("PReLU", "prelu_param")
def prelu(p: Fields, x: Tensor) -> Layer:
    if x.dim() < 2:
        raise ValueError("PReLU takes at least two axes")
    module = nn.PReLU(1 if p.channel_shared else x.shape[1])
    # prelu_layer.cpp: without a filler the slopes begin at 0.25; a shared slope is a blob without axes
    return Layer(module, [Param("weight", p.filler if p.has("filler") else 0.25, () if p.channel_shared else None)])


class ScaledELU(CaffeModule):
    """scale * (x where x > 0, else alpha * (e^x - 1))."""

    def __init__(self, alpha: float = 1.0, scale: float = 1.0):
        super().__init__()
        self.alpha, self.scale = alpha, scale

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(x, self.alpha) * self.scale


@layer("ELU", "elu_param", origin="BVLC; NVIDIA's lambda")
def elu(p: Fields, x: Tensor) -> nn.Module:
    scale: float = getattr(p, "lambda")
    return nn.ELU(p.alpha) if scale == 1 else ScaledELU(p.alpha, scale)


class Insanity(CaffeModule):
    """The randomized leaky ReLU of happynear/caffe-windows: x where x > 0, else x / m (insanity_layer.cpp).

    m is drawn from [lb, ub] for each value in training; in eval mode it is (ub - lb) / (ln |ub| - ln |lb|).
    """

    def __init__(self, lb: float = 5.0, ub: float = 10.0):
        super().__init__()
        self.lb, self.ub = lb, ub

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return torch.where(x > 0, x, x / torch.empty_like(x).uniform_(self.lb, self.ub))
        return torch.where(x > 0, x, x / ((self.ub - self.lb) / (math.log(abs(self.ub)) - math.log(abs(self.lb)))))


@layer("Insanity", "insanity_param", origin="happynear", refuses="an lb and ub of which no mean slope can be made")
def insanity(p: Fields, x: Tensor) -> nn.Module:
    if not p.lb < p.ub or p.lb * p.ub == 0 or p.lb == -p.ub:
        raise ValueError(
            f"lb {p.lb} and ub {p.ub} have no mean slope (ub - lb) / (ln |ub| - ln |lb|): lb must be the lesser, and neither 0"
        )
    return Insanity(p.lb, p.ub)


class RReLU(Insanity):
    """The randomized leaky ReLU of a BVLC pull request of 2015: as Insanity, but m is (lb + ub) / 2 in eval mode (rrelu_layer.cpp)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else torch.where(x > 0, x, x * (2 / (self.lb + self.ub)))


@layer("RReLU", "rrelu_param", origin="ducha-aiki, BVLC's pull request of 2015")
def rrelu(p: Fields, x: Tensor) -> nn.Module:
    lower, upper = p.negative_slope_lower, p.negative_slope_upper
    if not 0 < lower <= upper:
        raise ValueError(f"negative_slope_lower {lower} and negative_slope_upper {upper}: the lesser first, both positive")
    return RReLU(lower, upper)


@layer("SeLu", "selu_param", origin="jolibrain")
def selu(p: Fields, x: Tensor) -> nn.Module:
    return ScaledELU(p.alpha, getattr(p, "lambda"))  # selu_layer.cpp


@layer("Sigmoid", "sigmoid_param", ignored=ENGINE)
def sigmoid(p: Fields, x: Tensor) -> nn.Module:
    return nn.Sigmoid()


@layer("TanH", "tanh_param", ignored=ENGINE)
def tanh(p: Fields, x: Tensor) -> nn.Module:
    return nn.Tanh()


class AbsVal(CaffeModule):
    """|x|."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


@layer("AbsVal")
def absval(p: Fields, x: Tensor) -> nn.Module:
    return AbsVal()


@layer("BNLL")
def bnll(p: Fields, x: Tensor) -> nn.Module:
    return nn.Softplus()  # log(1 + exp(x))


class Exp(CaffeModule):
    """base ^ (shift + scale * x); base None is e."""

    def __init__(self, base: float | None = None, scale: float = 1.0, shift: float = 0.0):
        super().__init__()
        self.base, self.scale, self.shift = base, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        log_base = 1.0 if self.base is None else math.log(self.base)
        return torch.exp(x * (self.scale * log_base)) * math.exp(self.shift * log_base)


@layer("Exp", "exp_param")
def exp(p: Fields, x: Tensor) -> nn.Module:
    return Exp(_base(p), p.scale, p.shift)


class Log(CaffeModule):
    """log to the base of (shift + scale * x); base None is e."""

    def __init__(self, base: float | None = None, scale: float = 1.0, shift: float = 0.0):
        super().__init__()
        self.base, self.scale, self.shift = base, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        y = torch.log(x * self.scale + self.shift)
        return y if self.base is None else y / math.log(self.base)


@layer("Log", "log_param")
def log(p: Fields, x: Tensor) -> nn.Module:
    base = _base(p)
    if base == 1:
        raise ValueError("there is no logarithm to the base 1")
    return Log(base, p.scale, p.shift)


def _base(p: Fields) -> float | None:
    if p.base != -1 and not 0 < p.base < math.inf:
        raise ValueError(f"the base {p.base} is neither positive nor -1 (for e)")
    return None if p.base == -1 else p.base


class Power(CaffeModule):
    """(shift + scale * x) ^ power."""

    def __init__(self, power: float = 1.0, scale: float = 1.0, shift: float = 0.0):
        super().__init__()
        self.power, self.scale, self.shift = power, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        if self.power == 0 or self.scale == 0:  # power_layer.cpp does not look at x, be it infinite
            return torch.full_like(x, self.shift if self.power else 1.0) ** self.power
        y = x if self.scale == 1 else x * self.scale
        y = y if self.shift == 0 else y + self.shift
        return y if self.power == 1 else y**self.power


@layer("Power", "power_param")
def power(p: Fields, x: Tensor) -> nn.Module:
    return Power(p.power, p.scale, p.shift)


class Threshold(CaffeModule):
    """1 where x > threshold, else 0."""

    def __init__(self, threshold: float = 0.0):
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        return (x > self.threshold).to(x.dtype)


@layer("Threshold", "threshold_param")
def threshold(p: Fields, x: Tensor) -> nn.Module:
    return Threshold(p.threshold)


class Clip(CaffeModule):
    """x, held between min and max."""

    def __init__(self, min: float, max: float):
        super().__init__()
        self.min, self.max = min, max

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(self.min, self.max)


@layer("Clip", "clip_param")
def clip(p: Fields, x: Tensor) -> nn.Module:
    if not (p.has("min") and p.has("max")):
        raise ValueError("Clip takes both min and max")
    if p.min > p.max:
        raise ValueError(f"the min {p.min} lies above the max {p.max}")
    return Clip(p.min, p.max)


class Swish(CaffeModule):
    """x * sigmoid(beta * x)."""

    def __init__(self, beta: float = 1.0):
        super().__init__()
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


@layer("Swish", "swish_param")
def swish(p: Fields, x: Tensor) -> nn.Module:
    return Swish(p.beta)


@layer("ReLU6", "relu6_param", ignored=ENGINE, origin="chuanqi305/MobileNet-SSD's forks")
def relu6(p: Fields, x: Tensor) -> nn.Module:
    if p.negative_slope:
        raise ValueError(f"negative_slope {p.negative_slope}: forks do not agree on what it does below 0")
    return nn.ReLU6()
