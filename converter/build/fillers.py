"""Caffe's fillers: the values of a net that has no weights yet (filler.hpp; gaussian_unitball is happynear/caffe-windows')."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from converter.errors import UnsupportedError
from converter.layers.registry import Filler


def fill(filler: Filler | float | None, shape: tuple[int, ...], where: str) -> Tensor:
    """A blob filled as its filler says (a float: that constant, None: zeros), with torch's random numbers.

    Raises:
        UnsupportedError: a filler that Caffe does not have, or that does not go with the shape.
    """
    if filler is None or isinstance(filler, float):
        return torch.full(shape, filler or 0.0)
    if filler.type == "constant":
        return torch.full(shape, filler.value)
    if filler.type not in _RANDOM:
        raise UnsupportedError(
            f"{where}: there is no filler {filler.type!r}; Caffe has constant, {', '.join(_RANDOM)}. Give the weights, which take the place"
            " of what fillers draw, or name one of these in the prototxt."
        )
    if filler.type == "bilinear" and (len(shape) != 4 or shape[2] != shape[3]):
        raise UnsupportedError(f"{where}: the filler 'bilinear' takes a blob of four axes and square images, not of shape {shape}.")
    return _RANDOM[filler.type](filler, torch.empty(shape))


def constant(filler: Filler | float | None) -> float | None:
    """The value that a filler sets everywhere; None where it draws."""
    if filler is None or isinstance(filler, float):
        return filler or 0.0
    return float(filler.value) if filler.type == "constant" else None


def _uniform(f: Filler, x: Tensor) -> Tensor:
    return x.uniform_(min(f.min, f.max), max(f.min, f.max))


def _gaussian(f: Filler, x: Tensor) -> Tensor:
    x.normal_(f.mean, abs(f.std))
    if f.sparse >= 0:  # on average `sparse` of a row's inputs stay
        x.mul_(torch.rand_like(x) < f.sparse / max(x.shape[0] if x.dim() else 1, 1))
    return x


def _positive_unitball(f: Filler, x: Tensor) -> Tensor:
    rows = x.uniform_(0, 1).reshape(x.shape[0] if x.dim() else 1, -1)
    return (rows / rows.sum(1, keepdim=True)).reshape(x.shape)


def _gaussian_unitball(f: Filler, x: Tensor) -> Tensor:
    rows = x.normal_().reshape(x.shape[0] if x.dim() else 1, -1)
    return (rows / (rows.square().sum(1, keepdim=True) + 1e-12).sqrt()).reshape(x.shape)


def _fan(f: Filler, x: Tensor) -> float:
    """Inputs of an output (count / the first axis), outputs of an input (count / the second), or their average."""
    fan_in = x.numel() / max(x.shape[0] if x.dim() else 1, 1)
    fan_out = x.numel() / max(x.shape[1] if x.dim() > 1 else 1, 1)
    return max({0: fan_in, 1: fan_out, 2: (fan_in + fan_out) / 2}[f.variance_norm], 1e-12)


def _xavier(f: Filler, x: Tensor) -> Tensor:
    bound = math.sqrt(3 / _fan(f, x))
    return x.uniform_(-bound, bound)


def _msra(f: Filler, x: Tensor) -> Tensor:
    return x.normal_(0, math.sqrt(2 / _fan(f, x)))


def _bilinear(f: Filler, x: Tensor) -> Tensor:
    size = x.shape[3]
    half = math.ceil(size / 2)
    center = (size - 1) / (2 * half)
    line = 1 - (torch.arange(size) / half - center).abs()
    return x.copy_(line[:, None] * line)


_RANDOM = {
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "gaussian_unitball": _gaussian_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}
