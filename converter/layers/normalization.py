"""Layers that normalize by statistics of their input, or by learned ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from converter import modules
from converter.layers.registry import ENGINE, Blob, Fields, Layer, layer


@layer("LRN", "lrn_param", ignored=ENGINE)
def lrn(p: Fields, x: Tensor) -> nn.Module:
    if p.local_size % 2 == 0 or p.local_size >= 1 << 15 or x.dim() != 4:
        raise ValueError(f"LRN takes an odd local_size below 32,768 (here {p.local_size}) and four axes (N, C, H, W)")
    return modules.LRN(p.local_size, p.alpha, p.beta, p.k, p.norm_region == "WITHIN_CHANNEL")


@layer("MVN", "mvn_param")
def mvn(p: Fields, x: Tensor) -> nn.Module:
    if not 1 <= x.dim() <= 4:
        raise ValueError("MVN takes up to four axes")
    return modules.MVN(p.normalize_variance, p.across_channels, p.eps)


@layer("BatchNorm", "batch_norm_param")
def batch_norm(p: Fields, x: Tensor) -> Layer:
    channels = x.shape[1] if x.dim() > 1 else 1
    global_statistics = p.use_global_stats if p.has("use_global_stats") else p.phase == "TEST"
    # Caffe's moving_average_fraction is what stays, torch's momentum what is added
    if not 0 <= p.eps < math.inf:
        raise ValueError(f"the eps {p.eps} is no small positive number")
    module = modules.BatchNorm(channels, p.eps, 1 - p.moving_average_fraction, not global_statistics)
    blobs = [Blob("running_mean"), Blob("running_var"), Blob("factor", shape=(1,))]
    return Layer(module, blobs, _batch_norm_statistics, _batch_norm_sums)


def _batch_norm_statistics(blobs: list[Tensor]) -> dict[str, Tensor]:
    """Sums become means; batch_norm_layer.cpp: a factor of 0 gives zeros."""
    mean, variance, factor = blobs
    scale = torch.where(factor == 0, 0.0, 1 / factor)
    return {"running_mean": mean * scale, "running_var": variance * scale, "num_batches_tracked": torch.tensor(0)}


def _batch_norm_sums(state: dict[str, Tensor]) -> list[Tensor]:
    """Means are sums with a factor of 1."""
    return [state["running_mean"], state["running_var"], torch.ones(1)]


@layer("Softmax", "softmax_param", ignored=ENGINE)
def softmax(p: Fields, x: Tensor) -> nn.Module:
    return nn.Softmax(p.axis_of(x))
