"""Layers that work on each value by itself."""

from __future__ import annotations

import math

from torch import Tensor, nn

from converter import modules
from converter.layers.registry import ENGINE, Blob, Fields, Layer, layer


@layer("ReLU", "relu_param", ignored=ENGINE)
def relu(p: Fields, x: Tensor) -> nn.Module:
    return nn.LeakyReLU(p.negative_slope) if p.negative_slope else nn.ReLU()


@layer("PReLU", "prelu_param")
def prelu(p: Fields, x: Tensor) -> Layer:
    if x.dim() < 2:
        raise ValueError("PReLU takes at least two axes")
    module = nn.PReLU(1 if p.channel_shared else x.shape[1])
    # prelu_layer.cpp: without a filler the slopes begin at 0.25; a shared slope is a blob without axes
    return Layer(module, [Blob("weight", p.filler if p.has("filler") else 0.25, () if p.channel_shared else None)])


@layer("ELU", "elu_param")
def elu(p: Fields, x: Tensor) -> nn.Module:
    return nn.ELU(p.alpha)


@layer("Sigmoid", "sigmoid_param", ignored=ENGINE)
def sigmoid(p: Fields, x: Tensor) -> nn.Module:
    return nn.Sigmoid()


@layer("TanH", "tanh_param", ignored=ENGINE)
def tanh(p: Fields, x: Tensor) -> nn.Module:
    return nn.Tanh()


@layer("AbsVal")
def absval(p: Fields, x: Tensor) -> nn.Module:
    return modules.AbsVal()


@layer("BNLL")
def bnll(p: Fields, x: Tensor) -> nn.Module:
    return nn.Softplus()  # log(1 + exp(x))


@layer("Exp", "exp_param")
def exp(p: Fields, x: Tensor) -> nn.Module:
    return modules.Exp(_base(p), p.scale, p.shift)


@layer("Log", "log_param")
def log(p: Fields, x: Tensor) -> nn.Module:
    base = _base(p)
    if base == 1:
        raise ValueError("there is no logarithm to the base 1")
    return modules.Log(base, p.scale, p.shift)


def _base(p: Fields) -> float | None:
    if p.base != -1 and not 0 < p.base < math.inf:
        raise ValueError(f"the base {p.base} is neither positive nor -1 (for e)")
    return None if p.base == -1 else p.base


@layer("Power", "power_param")
def power(p: Fields, x: Tensor) -> nn.Module:
    return modules.Power(p.power, p.scale, p.shift)


@layer("Threshold", "threshold_param")
def threshold(p: Fields, x: Tensor) -> nn.Module:
    return modules.Threshold(p.threshold)


@layer("Clip", "clip_param")
def clip(p: Fields, x: Tensor) -> nn.Module:
    if not (p.has("min") and p.has("max")):
        raise ValueError("Clip takes both min and max")
    if p.min > p.max:
        raise ValueError(f"the min {p.min} lies above the max {p.max}")
    return modules.Clip(p.min, p.max)


@layer("Swish", "swish_param")
def swish(p: Fields, x: Tensor) -> nn.Module:
    return modules.Swish(p.beta)


@layer("Dropout", "dropout_param")
def dropout(p: Fields, x: Tensor) -> nn.Module:
    if not 0 <= p.dropout_ratio <= 1:
        raise ValueError(f"the dropout_ratio {p.dropout_ratio} is no part of 1")
    return nn.Dropout(p.dropout_ratio)  # Caffe, too, scales in training: the test phase passes x on
