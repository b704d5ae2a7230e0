"""Layer types of several forks: convolution by depth, normalization, resizing, moving values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from converter import fork_modules
from converter.layers.convolution import _IGNORED, _geometry
from converter.layers.registry import ENGINE, TRAINING, Blob, Fields, Layer, layer


def _depthwise(p: Fields, x: Tensor, group: int) -> Layer:
    """Each channel its own kernel. The forks differ in what another num_output or group does, so there is none."""
    axis, kernel, stride, pad, dilation = _geometry(p, x)
    channels = x.shape[1]
    if x.dim() != 4 or axis != 1 or p.num_output != channels or group != channels:
        raise ValueError(f"num_output {p.num_output} and group {group} must both be the {channels} channels of a bottom (N, C, H, W)")
    module = nn.Conv2d(channels, channels, kernel, stride, pad, dilation, groups=channels, bias=p.bias_term)  # type: ignore[arg-type]
    return Layer(module, [Blob("weight", p.weight_filler), Blob("bias", p.bias_filler)][: 1 + p.bias_term])


@layer("ConvolutionDepthwise", "convolution_param", ignored=_IGNORED)
def convolution_depthwise(p: Fields, x: Tensor) -> Layer:
    return _depthwise(p, x, p.group if p.has("group") else x.shape[1])


@layer("DepthwiseConvolution", "convolution_param", ignored=_IGNORED)
def depthwise_convolution(p: Fields, x: Tensor) -> Layer:
    return _depthwise(p, x, p.group)


@layer("ReLU6", "relu6_param", ignored=ENGINE)
def relu6(p: Fields, x: Tensor) -> nn.Module:
    if p.negative_slope:
        raise ValueError(f"negative_slope {p.negative_slope}: forks do not agree on what it does below 0")
    return nn.ReLU6()


@layer("Normalize")
def normalize(p: Fields, x: Tensor) -> Layer:
    """Two layers have this name: SSD's with a weight (norm_param), happynear's for face embeddings without (normalize_param)."""
    if x.dim() < 2 or (p.has("norm_param") and p.has("normalize_param")):
        raise ValueError("Normalize takes at least two axes, and norm_param or normalize_param, not both")
    if p.has("norm_param"):
        norm = p.norm_param
        module = fork_modules.Normalize(x.shape[1], norm.across_spatial, norm.channel_shared, norm.eps)
        return Layer(module, [Blob("weight", norm.scale_filler if norm.HasField("scale_filler") else 1.0)])
    kind = p.normalize_param.normalize_type  # fix_gradient and bp_norm change gradients only
    if kind not in ("L1", "L2") or x.dim() not in (2, 4):
        raise ValueError(f"normalize_type {kind!r} on {x.dim()} axes; there are L1 and L2, on (N, C) or (N, C, H, W)")
    if not p.has("normalize_param") and x.shape[2:].numel() != 1:
        raise ValueError(
            "it has no parameters, and forks differ in what is normalized then: say norm_param { across_spatial: true }"
            ' (SSD\'s default) or normalize_param { normalize_type: "L2" } (over channels, without a weight)'
        )
    return Layer(fork_modules.FaceNormalize(kind, p.tops > 1))


@layer("BN", "bn_param", ignored={**ENGINE, "momentum": TRAINING})
def bn(p: Fields, x: Tensor) -> Layer:
    """Two layers have this name: yjxiong's and PSPNet's (slope, bias, mean, variance), SegNet's and ENet's (scale, shift)."""
    slope = _set(p, "slope_filler", "bias_filler", "momentum", "eps", "frozen")
    scale = _set(p, "scale_filler", "shift_filler", "bn_mode")
    if bool(slope) == bool(scale) or x.dim() < 2:
        raise ValueError(
            "it is either PSPNet's BN (say bn_param { slope_filler { type: \"constant\" value: 1 } }; 4 blobs) or SegNet's"
            " (say bn_param { bn_mode: INFERENCE }; 2 blobs), and its fields do not tell which one"
        )
    channels = x.shape[1]
    shape = (1, channels, 1, 1)
    if slope:
        module = fork_modules.BN(channels, p.eps, 1 - p.momentum, p.frozen, p.phase == "TRAIN" and not p.frozen)
        statistics = [Blob("running_mean", shape=shape), Blob("running_var", 1.0 if p.frozen else None, shape)]
        return Layer(module, [Blob("weight", p.slope_filler, shape), Blob("bias", p.bias_filler, shape), *statistics], _flat, _with_axes)
    # segnet's bn_layer.cpp: LEARN normalizes by the batch in every phase, with an eps of 1e-9
    learn = p.bn_mode == "LEARN"
    segnet = fork_modules.BN(channels, 1e-9, track_running_stats=False) if learn else fork_modules.ScaleShift(channels)
    return Layer(segnet, [Blob("weight", p.scale_filler, shape), Blob("bias", p.shift_filler, shape)], _flat, _with_axes)


_BN_KEYS = ("weight", "bias", "running_mean", "running_var")


def _flat(blobs: list[Tensor]) -> dict[str, Tensor]:
    """(1, C, 1, 1) becomes (C,)."""
    keys = _BN_KEYS[: len(blobs)]
    tracked = {"num_batches_tracked": torch.tensor(0)} if len(blobs) == 4 else {}
    return {key: blob.flatten() for key, blob in zip(keys, blobs, strict=True)} | tracked


def _with_axes(state: dict[str, Tensor]) -> list[Tensor]:
    """(C,) becomes (1, C, 1, 1)."""
    return [state[key].reshape(1, -1, 1, 1) for key in _BN_KEYS if key in state]


def _set(p: Fields, *names: str) -> list[str]:
    """Which of the fields are set in the file."""
    return [name for name in names if p.has(name)]


@layer("Axpy", bottoms=(3, 3))
def axpy(p: Fields, scale: Tensor, x: Tensor, y: Tensor) -> nn.Module:
    return fork_modules.Axpy()


@layer("Permute", "permute_param")
def permute(p: Fields, x: Tensor) -> nn.Module:
    order: tuple[int, ...] = p.order
    if len(set(order)) < len(order) or max(order, default=0) >= x.dim():
        raise ValueError(f"the order {order} names an axis twice, or one that {x.dim()} axes do not have")
    return fork_modules.Permute((*order, *(axis for axis in range(x.dim()) if axis not in order)))


@layer("Transpose", "transpose_param")
def transpose(p: Fields, x: Tensor) -> nn.Module:
    if sorted(p.dim) != list(range(x.dim())):
        raise ValueError(f"dim {p.dim} does not name each of {x.dim()} axes once")
    return fork_modules.Permute(p.dim)


@layer("Reverse", "reverse_param")
def reverse(p: Fields, x: Tensor) -> nn.Module:
    if not 0 <= p.axis < x.dim():
        raise ValueError(f"axis {p.axis} lies outside of {x.dim()} axes")
    return fork_modules.Flip([p.axis])


@layer("Flip", "flip_param")
def flip(p: Fields, x: Tensor) -> nn.Module:
    if x.dim() != 4:
        raise ValueError("Flip takes four axes (N, C, H, W)")
    return fork_modules.Flip([2] * p.flip_height + [3] * p.flip_width)


@layer("ShuffleChannel", "shuffle_channel_param")
def shuffle_channel(p: Fields, x: Tensor) -> nn.Module:
    if p.group < 1 or x.shape[1] % p.group:
        raise ValueError(f"{x.shape[1]} channels do not divide by group {p.group}")
    return fork_modules.ShuffleChannel(p.group)


@layer("Reorg", "reorg_param")
def reorg(p: Fields, x: Tensor) -> nn.Module:
    if p.stride < 1 or x.dim() != 4:
        raise ValueError("Reorg takes a stride of at least 1 and four axes (N, C, H, W)")
    return fork_modules.Reorg(p.stride, p.reverse)


@layer("Interp", "interp_param")
def interp(p: Fields, x: Tensor) -> nn.Module:
    size = (p.height, p.width) if p.has("height") and p.has("width") else None
    factors = p.has("zoom_factor") or p.has("shrink_factor")
    if (p.has("height") or p.has("width")) != (size is not None) or factors == (size is not None):
        raise ValueError("the new size is either height and width, or zoom_factor, shrink_factor, or both factors")
    if p.zoom_factor < 1 or p.shrink_factor < 1 or p.pad_beg > 0 or p.pad_end > 0 or x.dim() != 4 or min(size or (1,)) < 1:
        raise ValueError("sizes and factors must be at least 1, pad_beg and pad_end at most 0 (they crop), the bottom (N, C, H, W)")
    return fork_modules.Interp(size, p.shrink_factor, p.zoom_factor, p.pad_beg, p.pad_end)


@layer("Upsample", "upsample_param", bottoms=(1, 2))
def upsample(p: Fields, x: Tensor, *second: Tensor) -> nn.Module:
    """SegNet's takes a pooling mask; YOLO forks' resize, to the size of a second bottom if there is one."""
    yolo = _set(p, "height", "width", "height_scale", "width_scale", "mode")
    segnet = _set(p, "scale_h", "scale_w", "pad_out_h", "pad_out_w", "upsample_h", "upsample_w")
    if bool(yolo) == bool(segnet or p.has("scale")) or x.dim() != 4 or (segnet and not second):
        raise ValueError(
            "its fields are those of no single fork: with a mask scale or upsample_h and upsample_w; without one scale,"
            " or height, width, height_scale, width_scale and mode"
        )
    if p.has("scale") and (p.scale != int(p.scale) or p.scale < 1):
        raise ValueError(f"scale {p.scale} is no whole number of at least 1")
    if yolo:
        return _yolo_upsample(p, bool(second))
    if not second:
        return fork_modules.Upsample("nearest", (int(p.scale), int(p.scale)))
    if p.has("upsample_h") and p.has("upsample_w"):
        return fork_modules.Unpool(size=(p.upsample_h, p.upsample_w))
    pair = (p.scale_h, p.scale_w) if p.has("scale_h") and p.has("scale_w") else (int(p.scale),) * 2
    shorter = (int(p.pad_out_h), int(p.pad_out_w))
    if p.has("upsample_h") or p.has("upsample_w") or p.has("scale") == (p.has("scale_h") or p.has("scale_w")) or min(pair) < 2:
        raise ValueError("it takes upsample_h and upsample_w, or scale, or scale_h and scale_w, and scales of at least 2")
    if any(short and side != 2 for short, side in zip(shorter, pair, strict=True)):
        raise ValueError("pad_out_h and pad_out_w go with a scale of 2 only")
    return fork_modules.Unpool(pair, shorter)


def _yolo_upsample(p: Fields, like: bool) -> nn.Module:
    size = (p.height, p.width) if p.has("height") and p.has("width") else None
    scale = (p.height_scale, p.width_scale) if p.has("height_scale") and p.has("width_scale") else None
    if not like and (size is None) == (scale is None):
        raise ValueError("it takes height and width, or height_scale and width_scale, or a second bottom of the new size")
    if min(size or (2,)) < 2 or min(scale or (2,)) < 2:
        raise ValueError("heights, widths and scales must be at least 2")
    return fork_modules.Upsample(p.mode.lower(), None if like else scale, None if like else size)
