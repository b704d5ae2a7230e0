"""Dropout, and the forks' ways of doing it at test time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from converter.errors import UnsupportedError
from converter.layers.module import CaffeModule
from converter.layers.registry import Fields, Layer, layer
from converter.read.param_str import parse_param_str


class UnscaledDropout(CaffeModule):
    """Dropout that does not scale in training, so that eval mode multiplies by 1 - p (py-faster-rcnn's dropout_layer.cpp)."""

    def __init__(self, p: float = 0.5):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) >= self.p) if self.training else x * (1 - self.p)


def _ratio(p: Fields) -> float:
    if not 0 <= p.dropout_ratio <= 1:
        raise ValueError(f"the dropout_ratio {p.dropout_ratio} is no part of 1")
    return float(p.dropout_ratio)


@layer(
    "Dropout",
    "dropout_param",
    ignored={"random_seed": "seeds the masks of training", "engine": "chooses an implementation, not a result"},
    origin="BVLC; py-faster-rcnn's scale_train, IQA_CNN's scale_test, its inverse",
    refuses="sample_weights_test: true (Bayesian SegNet), which is random",
)
def dropout(p: Fields, x: Tensor) -> nn.Module:
    if p.sample_weights_test:
        raise UnsupportedError(
            "sample_weights_test: true draws a mask at test time, too (Bayesian SegNet averages many runs); say sample_weights_test: false"
            " to get the net without dropout, which is the mean"
        )
    if p.has("scale_test") and p.has("scale_train"):
        raise ValueError("scale_train and scale_test are two forks' names for opposites; no Caffe has both")
    ratio = _ratio(p)
    return (
        nn.Dropout(ratio) if p.scale_train and not p.scale_test else UnscaledDropout(ratio)
    )  # Caffe, too, scales in training: the test phase passes x on


@layer("SpatialDropout", "spatial_dropout_param", origin="Intel")
def spatial_dropout(p: Fields, x: Tensor) -> nn.Module:
    if x.dim() != 4:
        raise ValueError("SpatialDropout takes four axes (N, C, H, W)")
    return nn.Dropout2d(_ratio(p))


class SeLuDropout(CaffeModule):
    """x in eval mode; in training values become alpha with probability p, then all a * x + b, which keeps mean and variance.

    jolibrain/caffe: selu_dropout_layer.cpp.
    """

    def __init__(self, p: float = 0.1, alpha: float = -1.75809934):
        super().__init__()
        self.p, self.alpha = p, alpha

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        scale: float = ((1 - self.p) * (1 + self.alpha**2 * self.p)) ** -0.5
        return scale * (torch.where(torch.rand_like(x) >= self.p, x, self.alpha) - self.p * self.alpha)


@layer("SeLuDropout", "selu_dropout_param", origin="jolibrain")
def selu_dropout(p: Fields, x: Tensor) -> nn.Module:
    if not 0 < p.dropout_ratio < 1:
        raise ValueError(f"the dropout_ratio {p.dropout_ratio} is not between 0 and 1")
    return SeLuDropout(p.dropout_ratio, p.alpha)


class InverseDropout(CaffeModule):
    """x / (1 - p) at test time, and in training for the channels that stay: ENet's SpatialDropoutLayer."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        y = x / (1 - self.p)
        return y * (torch.rand(*x.shape[:2], *[1] * (x.dim() - 2), device=x.device) >= self.p) if self.training else y


@layer(
    "Python:spatial_dropout.SpatialDropoutLayer",
    "python_param",
    ignored={"share_in_parallel": "there is one process"},
    origin="ENet",
)
def python_spatial_dropout(p: Fields, x: Tensor) -> Layer:
    """TimoSaemann/caffe-enet's spatial_dropout.py: the phase is the param_str's, not the net's; here it is train() or eval()."""
    _ = p.module, p.layer
    given = parse_param_str(p.param_str)
    if set(given) != {"phase", "p"}:
        raise UnsupportedError(f"its param_str has {', '.join(given) or 'nothing'}; SpatialDropoutLayer takes phase and p")
    ratio = float(given["p"])  # type: ignore[arg-type]
    if not 0 <= ratio < 1:
        raise ValueError(f"its param_str has the p {given['p']!r}; it takes a number from 0 to below 1")
    random = "its param_str has the phase 'TRAIN', in which Caffe drops channels at random: so does train(); eval() is the phase 'TEST'"
    return Layer(InverseDropout(ratio), note=random if given["phase"] == "TRAIN" else "")
