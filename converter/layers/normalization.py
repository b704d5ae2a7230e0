"""Layers that normalize by statistics of their input, or by learned ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converter.errors import UnsupportedError
from converter.layers.module import CaffeModule
from converter.layers.registry import ENGINE, TRAINING, Fields, Filler, Layer, Load, Param, Shape, fields_set, layer


class LRN(CaffeModule):
    """Local response normalization. Across channels: x / (k + alpha / n * sum of n neighbours' squares) ^ beta.

    Within a channel: x / (1 + alpha * the average of the n x n neighbourhood's squares) ^ beta; Caffe's pooling divides by
    n * n cut at the padded border, and k is not used (lrn_layer.cpp). pool: window and stride of the MAX pooling that Intel's
    clCaffe fuses with it.
    """

    def __init__(
        self,
        local_size: int = 5,
        alpha: float = 1.0,
        beta: float = 0.75,
        k: float = 1.0,
        within_channel: bool = False,
        pool: tuple[int, int] | None = None,
    ):
        super().__init__()
        self.local_size, self.alpha, self.beta, self.k, self.within_channel = local_size, alpha, beta, k, within_channel
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        squares, n, half = x * x, self.local_size, self.local_size // 2
        if self.within_channel:
            mean = F.avg_pool2d(squares, n, 1, half, ceil_mode=True, count_include_pad=True)
            return x * (1 + self.alpha * mean) ** -self.beta
        flat = squares.reshape(squares.shape[0], 1, squares.shape[1], -1)
        mean = F.avg_pool2d(flat, (n, 1), 1, (half, 0)).reshape(x.shape)
        y = x * (self.k + self.alpha * mean) ** -self.beta
        return y if self.pool is None else F.max_pool2d(y, self.pool[0], self.pool[1], ceil_mode=True)


@layer(
    "LRN",
    "lrn_param",
    ignored=ENGINE,
    origin="BVLC; fuse_type of Intel's clCaffe",
    refuses="FUSED_POOL_MAX but as clCaffe takes it: TEST, across channels, square images, windows one larger than the stride",
)
def lrn(p: Fields, x: Tensor) -> nn.Module:
    if p.local_size % 2 == 0 or p.local_size >= 1 << 15 or x.dim() != 4:
        raise ValueError(f"LRN takes an odd local_size below 32,768 (here {p.local_size}) and four axes (N, C, H, W)")
    return LRN(p.local_size, p.alpha, p.beta, p.k, p.norm_region == "WITHIN_CHANNEL", _fused_pool(p, x))


def _fused_pool(p: Fields, x: Tensor) -> tuple[int, int] | None:
    """Window and stride of the pooling that is fused with it; clCaffe's checks are these, and its kernels take no other fields."""
    fused, pool = p.fuse_type == "FUSED_POOL_MAX", p.pooling_param
    if not fused:
        if p.has("pooling_param"):
            raise ValueError("pooling_param in lrn_param goes with fuse_type: FUSED_POOL_MAX")
        return None
    more = [known.name for known, _ in pool.ListFields() if known.name not in ("pool", "kernel_size", "stride")]
    window, stride = (values[0] if len(values) == 1 else 0 for values in (pool.kernel_size, pool.stride))
    if more or pool.pool != 0 or window - stride != 1 or not 1 <= stride < 4:
        raise ValueError(f"FUSED_POOL_MAX takes a MAX pooling of a kernel_size one larger than a stride of 1 to 3, and no {more or 'more'}")
    if p.phase != "TEST" or p.norm_region != "ACROSS_CHANNELS" or x.shape[2] != x.shape[3]:
        raise ValueError("FUSED_POOL_MAX goes with phase TEST, norm_region ACROSS_CHANNELS and square images (clCaffe's lrn_layer.cpp)")
    return window, stride


@layer("LRNMap", "lrn_map_param", origin="BVLC's branches of 2013")
def lrn_map(p: Fields, x: Tensor) -> nn.Module:
    """What LRN WITHIN_CHANNEL was called before it was merged; it has no k (lrn_map_layer.cpp)."""
    missing = [name for name in ("local_size", "alpha", "beta") if not p.has(name)]
    if missing or p.local_size % 2 == 0 or p.local_size >= 1 << 15 or x.dim() != 4:
        raise ValueError(
            f"it takes an odd local_size below 32,768 (here {p.local_size}), alpha and beta, and four axes (N, C, H, W);"
            f" not set: {', '.join(missing) or 'none'}"
        )
    return LRN(p.local_size, p.alpha, p.beta, 1.0, within_channel=True)


class MVN(CaffeModule):
    """Mean-variance normalization over each (H, W), or over each (C, H, W): (x - mean) / (sqrt(variance) + eps)."""

    def __init__(self, normalize_variance: bool = True, across_channels: bool = False, eps: float = 1e-9):
        super().__init__()
        self.normalize_variance, self.across_channels, self.eps = normalize_variance, across_channels, eps

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(x.shape[0], -1) if self.across_channels else x.reshape(*x.shape[:2], -1)
        rows = rows - rows.mean(-1, keepdim=True)
        if self.normalize_variance:
            rows = rows / ((rows * rows).mean(-1, keepdim=True).sqrt() + self.eps)
        return rows.reshape(x.shape)


@layer("MVN", "mvn_param")
def mvn(p: Fields, x: Tensor) -> nn.Module:
    if not 1 <= x.dim() <= 4:
        raise ValueError("MVN takes up to four axes")
    return MVN(p.normalize_variance, p.across_channels, p.eps)


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Caffe's BatchNorm: statistics only, no affine part, any number of axes; (N, C, ...), or (N,) as one channel.

    With batch_statistics it normalizes by the batch in eval mode as well (use_global_stats: false). Caffe's running
    variance is the unbiased one, its normalization uses the biased one: as in torch. relu: Intel's, of the result.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.001, batch_statistics: bool = False, relu: bool = False):
        super().__init__(num_features, eps=eps, momentum=momentum, affine=False)
        self.batch_statistics, self.relu = batch_statistics, relu

    def _check_input_dim(self, input: Tensor) -> None:
        """Caffe takes any number of axes."""

    def forward(self, input: Tensor) -> Tensor:
        x = input if input.dim() > 1 else input[:, None]
        if self.batch_statistics and not self.training:
            # F.batch_norm refuses a channel with one value; Caffe gives zeros
            variance, mean = torch.var_mean(x, (0, *range(2, x.dim())), correction=0, keepdim=True)
            x = (x - mean) / (variance + self.eps).sqrt()
        else:
            x = super().forward(x)
        x = x.reshape(input.shape)
        return F.relu(x) if self.relu else x


@layer(
    "BatchNorm",
    "batch_norm_param",
    ignored={**ENGINE, "update_global_stats": TRAINING},
    origin="BVLC; NVIDIA's scale_bias, Intel's use_weight_bias and relu",
    refuses="stats_batch_size below the batch where the batch's statistics count",
)
def batch_norm(p: Fields, x: Tensor) -> Layer:
    if not 0 <= p.eps < math.inf:
        raise ValueError(f"the eps {p.eps} is no small positive number")
    # Caffe's moving_average_fraction is what stays, torch's momentum what is added
    channels, momentum = x.shape[1] if x.dim() > 1 else 1, 1 - p.moving_average_fraction
    nvidia = fields_set(p, "scale_bias", "scale_filler")
    intel = fields_set(p, "filler", "use_weight_bias", "bias_term", "stats_batch_size", "relu")
    affine = fields_set(p, "scale_filler", "bias_filler")
    if nvidia and intel:
        raise ValueError(f"{nvidia[0]} is NVIDIA Caffe's and {intel[0]} Intel Caffe's; no Caffe has both")
    if nvidia or (affine and not intel):  # NVIDIA/caffe's batch_norm_layer.cpp
        _ = p.use_global_stats  # TEST takes the stored statistics, whatever it says
        eps, batch = max(p.eps, 1e-5), p.phase == "TRAIN"
        if p.scale_bias or affine:
            return _with_scale_and_bias(p, BN(channels, eps, momentum, batch_statistics=batch), True, _stored_statistics)
        return _statistics_alone(BatchNorm(channels, eps, momentum, batch))
    global_statistics = p.use_global_stats if p.has("use_global_stats") else p.phase == "TEST"
    if p.stats_batch_size and not global_statistics and p.stats_batch_size < x.shape[0]:
        raise UnsupportedError(f"stats_batch_size {p.stats_batch_size} normalizes parts of the batch {x.shape[0]} by themselves")
    if p.has("use_weight_bias") and p.use_weight_bias:  # mkldnn_batch_norm_layer.cpp of intel/caffe
        module = BN(channels, p.eps, momentum, batch_statistics=not global_statistics, relu=p.relu)
        return _with_scale_and_bias(p, module, p.bias_term, _statistics_with_scale)
    return _statistics_alone(BatchNorm(channels, p.eps, momentum, not global_statistics, p.relu))


_STATISTICS = (Param("running_mean", squeezed=True), Param("running_var", squeezed=True), Param("factor", shape=(1,), squeezed=True))


def _statistics_alone(module: nn.Module) -> Layer:
    return Layer(module, _STATISTICS, _batch_norm_statistics, _batch_norm_sums, _three_blobs)


def _with_scale_and_bias(p: Fields, module: nn.Module, bias_term: bool, load: Load) -> Layer:
    """The five blobs of NVIDIA's and Intel's: mean, variance, factor, scale, bias; Intel's has no bias without bias_term."""
    name = "scale_filler" if p.has("scale_filler") else "filler"
    scale = Param("weight", getattr(p, name) if p.has(name) else 1.0, squeezed=True)
    params = [*_STATISTICS, scale, Param("bias", p.bias_filler, squeezed=True)]
    return Layer(module, params if bias_term else params[:4], load, _five_blobs if bias_term else _four_blobs, _any_order)


def _three_blobs(shapes: Sequence[Shape]) -> Sequence[int]:
    if len(shapes) in (4, 5):
        raise ValueError(
            "its last blobs are a scale and a bias: add scale_bias: true to its batch_norm_param where NVIDIA Caffe or DIGITS wrote the"
            f" file, use_weight_bias: true{' bias_term: false' if len(shapes) == 4 else ''} where Intel Caffe did"
        )
    return range(len(shapes))


def _any_order(shapes: Sequence[Shape]) -> Sequence[int]:
    """DIGITS once wrote scale, bias, mean, variance and a 1 (net.cpp of NVIDIA/caffe, CopyTrainedLayersFrom)."""
    if len(shapes) == 3:
        raise ValueError("it has no scale and bias: take scale_bias, use_weight_bias and their fillers out of its batch_norm_param")
    old = len(shapes) == 5 and prod(shapes[4]) == 1 and prod(shapes[2]) > 1
    return (3, 4, 0, 1, 2) if old else range(len(shapes))


def _batch_norm_statistics(blobs: list[Tensor]) -> dict[str, Tensor]:
    """Sums become means; batch_norm_layer.cpp: a factor of 0 gives zeros."""
    mean, variance, factor = blobs
    scale = torch.where(factor == 0, 0.0, 1 / factor)
    return {"running_mean": mean * scale, "running_var": variance * scale, "num_batches_tracked": torch.tensor(0)}


def _batch_norm_sums(state: dict[str, Tensor]) -> list[Tensor]:
    """Means are sums with a factor of 1."""
    return [state["running_mean"], state["running_var"], torch.ones(1)]


def _statistics_with_scale(blobs: list[Tensor]) -> dict[str, Tensor]:
    """Intel's: sums, and a scale, maybe a bias."""
    scale = blobs[3]
    return {**_batch_norm_statistics(blobs[:3]), "weight": scale, "bias": blobs[4] if len(blobs) > 4 else torch.zeros_like(scale)}


def _stored_statistics(blobs: list[Tensor]) -> dict[str, Tensor]:
    """NVIDIA's: means, whatever the third blob holds."""
    return _statistics_with_scale([*blobs[:2], torch.ones(1), *blobs[3:]])


def _five_blobs(state: dict[str, Tensor]) -> list[Tensor]:
    return [*_batch_norm_sums(state), state["weight"], state["bias"]]


def _four_blobs(state: dict[str, Tensor]) -> list[Tensor]:
    return _five_blobs(state)[:4]


@layer("Softmax", "softmax_param", ignored=ENGINE)
def softmax(p: Fields, x: Tensor) -> nn.Module:
    if p.normalize_type != "Softmax":
        raise UnsupportedError(f'normalize_type {p.normalize_type!r}: no public Caffe computes another one than "Softmax" here')
    return nn.Softmax(p.axis_of(x))


class Normalize(CaffeModule):
    """x / sqrt(sum of squares + eps) * weight: over the channels of each place, or with across_spatial over all of an item.

    x: (N, C, ...); weight: (C,), or () with channel_shared. SSD's normalize_layer.cpp.
    """

    def __init__(self, channels: int, across_spatial: bool = True, channel_shared: bool = True, eps: float = 1e-10):
        super().__init__()
        self.channels, self.across_spatial, self.channel_shared, self.eps = channels, across_spatial, channel_shared, eps
        self.weight = nn.Parameter(torch.empty(() if channel_shared else (channels,)))

    def forward(self, x: Tensor) -> Tensor:
        axes = list(range(1, x.dim())) if self.across_spatial else [1]
        norm = ((x * x).sum(axes, keepdim=True) + self.eps).sqrt()
        return x / norm * self.weight.reshape(-1, *[1] * (x.dim() - 2))


class FaceNormalize(CaffeModule):
    """x / norm over the channels of each place, without weights: "L2" sqrt(sum of squares + 1e-6), "L1" sum of |x| + 1e-6.

    (N, C) or (N, C, H, W) -> (N, C, H, W); with_norm adds the top (N, 1, H, W). happynear/caffe-windows (NormFace).
    """

    def __init__(self, kind: str = "L2", with_norm: bool = False):
        super().__init__()
        self.kind, self.with_norm = kind, with_norm

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = x.reshape(x.shape + (1,) * (4 - x.dim()))
        norm = ((x * x).sum(1, keepdim=True) + 1e-6).sqrt() if self.kind == "L2" else x.abs().sum(1, keepdim=True) + 1e-6
        return (x / norm, norm) if self.with_norm else x / norm


@layer("Normalize", origin="weiliu89/caffe (SSD); happynear/caffe-windows")
def normalize(p: Fields, x: Tensor) -> Layer:
    """Two layers have this name: SSD's with a weight (norm_param), happynear's for face embeddings without (normalize_param)."""
    if x.dim() < 2 or len(fields_set(p, "norm_param", "normalize_param", "softmax_param")) > 1:
        raise ValueError("Normalize takes at least two axes, and norm_param, normalize_param or its older softmax_param, only one of them")
    if p.has("norm_param"):
        norm = p.norm_param
        module = Normalize(x.shape[1], norm.across_spatial, norm.channel_shared, norm.eps)
        return Layer(module, [Param("weight", Filler.of(norm.scale_filler) if norm.HasField("scale_filler") else 1.0)])
    older = p.softmax_param if p.has("softmax_param") else None  # happynear's before normalize_param
    kind = (p.normalize_param if older is None else older).normalize_type  # fix_gradient and bp_norm change gradients only
    if kind not in ("L1", "L2") or x.dim() not in (2, 4):
        raise ValueError(f"normalize_type {kind!r} on {x.dim()} axes; there are L1 and L2, on (N, C) or (N, C, H, W)")
    if not p.has("normalize_param") and older is None and x.shape[2:].numel() != 1:
        raise ValueError(
            "it has no parameters, and forks differ in what is normalized then: say norm_param { across_spatial: true }"
            ' (SSD\'s default) or normalize_param { normalize_type: "L2" } (over channels, without a weight)'
        )
    return Layer(FaceNormalize(kind, p.tops > 1))


class BN(nn.modules.batchnorm._BatchNorm):
    """Batch normalization with slope (weight) and bias in one layer, and with `relu` what Intel fuses behind it; (N, C, ...).

    frozen: running statistics in training, too. batch_statistics: the batch's in eval mode, too. track_running_stats: off,
    there are none but the batch's, as in SegNet's LEARN mode.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        frozen: bool = False,
        batch_statistics: bool = False,
        track_running_stats: bool = True,
        relu: bool = False,
    ):
        super().__init__(num_features, eps=eps, momentum=momentum, track_running_stats=track_running_stats)
        self.frozen, self.batch_statistics, self.relu = frozen, batch_statistics, relu

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes, as in Caffe."""

    def forward(self, input: Tensor) -> Tensor:
        y = self.normalized(input)
        return F.relu(y) if self.relu else y

    def normalized(self, input: Tensor) -> Tensor:
        if self.frozen:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        if self.batch_statistics and not self.training:
            return F.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)
        return super().forward(input)


class BatchNormWithStatistics(CaffeModule):
    """SegNet's BN in LEARN mode with more tops: the normalized values, and the batch's mean and variance, (1, C, 1, 1) each."""

    def __init__(self, num_features: int, eps: float = 1e-9, tops: int = 3):
        super().__init__()
        self.num_features, self.eps, self.tops = num_features, eps, tops
        self.weight = nn.Parameter(torch.empty(num_features))
        self.bias = nn.Parameter(torch.empty(num_features))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        y = F.batch_norm(x, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
        return (y, mean.reshape(1, -1, 1, 1), variance.reshape(1, -1, 1, 1))[: self.tops]


class ScaleShift(CaffeModule):
    """x * weight + bias for each channel: SegNet's BN in INFERENCE mode, its statistics folded into both."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.dim() - 2))
        return x * self.weight.reshape(shape) + self.bias.reshape(shape)


@layer("BN", "bn_param", ignored={**ENGINE, "momentum": TRAINING}, origin="yjxiong/caffe, PSPNet; SegNet, ENet")
def bn(p: Fields, x: Tensor) -> Layer:
    """Two layers have this name: yjxiong's and PSPNet's (slope, bias, mean, variance), SegNet's and ENet's (scale, shift)."""
    slope = fields_set(p, "slope_filler", "bias_filler", "momentum", "eps", "frozen")
    scale = fields_set(p, "scale_filler", "shift_filler", "bn_mode")
    if bool(slope) == bool(scale) or x.dim() < 2:
        raise ValueError(
            "it is either PSPNet's BN (say bn_param { slope_filler { type: \"constant\" value: 1 } }; 4 blobs) or SegNet's"
            " (say bn_param { bn_mode: INFERENCE }; 2 blobs), and its fields do not tell which one"
        )
    channels = x.shape[1]
    shape = (1, channels, 1, 1)
    if slope:
        module = BN(channels, p.eps, 1 - p.momentum, p.frozen, p.phase == "TRAIN" and not p.frozen)
        fillers = (p.slope_filler, p.bias_filler, None, 1.0 if p.frozen else None)
        params = [Param(key, filler, (1, channels), True) for key, filler in zip(_BN_KEYS, fillers, strict=True)]
        return Layer(module, params, _flat, _with_one_axis)
    # segnet's bn_layer.cpp: LEARN normalizes by the batch in every phase, with an eps of 1e-9
    learn = p.bn_mode == "LEARN"
    segnet: nn.Module = BN(channels, 1e-9, track_running_stats=False) if learn else ScaleShift(channels)
    if p.tops > 1:  # HyeonwooNoh/caffe: the batch's mean and variance as well
        if not learn or p.tops > 3 or x.dim() != 4:
            raise ValueError(f"{p.tops} tops; with bn_mode LEARN there are up to three, of a bottom (N, C, H, W)")
        segnet = BatchNormWithStatistics(channels, 1e-9, p.tops)
    params = [Param("weight", p.scale_filler, shape, True), Param("bias", p.shift_filler, shape, True)]
    return Layer(segnet, params, _flat, _with_axes)


_BN_KEYS = ("weight", "bias", "running_mean", "running_var")


def _flat(blobs: list[Tensor]) -> dict[str, Tensor]:
    """(1, C) or (1, C, 1, 1) becomes (C,)."""
    keys = _BN_KEYS[: len(blobs)]
    tracked = {"num_batches_tracked": torch.tensor(0)} if len(blobs) == 4 else {}
    return {key: blob.flatten() for key, blob in zip(keys, blobs, strict=True)} | tracked


def _with_one_axis(state: dict[str, Tensor]) -> list[Tensor]:
    """(C,) becomes (1, C)."""
    return [state[key][None] for key in _BN_KEYS]


def _with_axes(state: dict[str, Tensor]) -> list[Tensor]:
    """(C,) becomes (1, C, 1, 1)."""
    return [state[key].reshape(1, -1, 1, 1) for key in _BN_KEYS if key in state]
