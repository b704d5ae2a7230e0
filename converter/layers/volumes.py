"""Convolution and pooling over volumes (N, C, L, H, W): C3D's layers, and R-C3D's Nd ones."""

from __future__ import annotations

from torch import Tensor, nn

from converter.errors import UnsupportedError
from converter.layers.pooling import Pool3d
from converter.layers.registry import ENGINE, Fields, Layer, Param, layer

_IGNORED = {
    **ENGINE,
    "group": "C3D's code does not read it",
    "filter_group": "C3D splits the outputs to save memory; every part sees all channels",
}
_C3D = "C3D"


def _one(p: Fields, name: str) -> int:
    """kernel_size, stride or pad, which C3D has once for height and width; V1 files keep them in a list."""
    value = getattr(p, name)
    if not isinstance(value, tuple):
        return int(value)
    if len(value) > 1:
        raise ValueError(f"{name} has {len(value)} values; C3D takes one, for height and width")
    return int(value[0]) if value else {"stride": 1, "pad": 0}.get(name, 0)


def _convolution3d(p: Fields, x: Tensor, transposed: bool) -> Layer:
    side, step, edge = (_one(p, name) for name in ("kernel_size", "stride", "pad"))
    kernel, stride, pad = (p.kernel_depth, side, side), (p.temporal_stride, step, step), (p.temporal_pad, edge, edge)
    if x.dim() != 5 or p.num_output < 1 or min(kernel + stride) < 1:
        raise ValueError(
            "a convolution over volumes takes (N, C, L, H, W), and a num_output, kernel_size, kernel_depth and strides of at least 1"
        )
    if not transposed and (p.filter_group < 1 or p.num_output % p.filter_group):
        raise ValueError(f"num_output {p.num_output} does not divide by filter_group {p.filter_group}")
    convolution = nn.ConvTranspose3d if transposed else nn.Conv3d
    module = convolution(x.shape[1], p.num_output, kernel, stride, pad, bias=p.bias_term)
    params = [Param("weight", p.weight_filler), Param("bias", p.bias_filler, (1, 1, 1, 1, p.num_output))]
    return Layer(module, params[: 1 + p.bias_term], _flat_bias, _bias_of_five_axes)


def _flat_bias(blobs: list[Tensor]) -> dict[str, Tensor]:
    """(1, 1, 1, 1, out) becomes (out,)."""
    return {key: blob.flatten() if key == "bias" else blob for key, blob in zip(("weight", "bias"), blobs, strict=False)}


def _bias_of_five_axes(state: dict[str, Tensor]) -> list[Tensor]:
    """(out,) becomes (1, 1, 1, 1, out)."""
    return [state["weight"], *([state["bias"].reshape(1, 1, 1, 1, -1)] if "bias" in state else [])]


@layer("Convolution3D", "convolution3d_param", ignored=_IGNORED, origin=_C3D)
def convolution3d(p: Fields, x: Tensor) -> Layer:
    return _convolution3d(p, x, transposed=False)


@layer("Deconvolution3D", "convolution3d_param", ignored=_IGNORED, origin=_C3D)
def deconvolution3d(p: Fields, x: Tensor) -> Layer:
    return _convolution3d(p, x, transposed=True)


@layer("CONVOLUTION3D", "convolution_param", ignored=_IGNORED, origin=_C3D)
def convolution3d_v1(p: Fields, x: Tensor) -> Layer:
    """C3D-v1.0's name, of the V1 format."""
    return _convolution3d(p, x, transposed=False)


@layer("DECONVOLUTION3D", "convolution_param", ignored=_IGNORED, origin=_C3D)
def deconvolution3d_v1(p: Fields, x: Tensor) -> Layer:
    return _convolution3d(p, x, transposed=True)


def _pooling3d(p: Fields, x: Tensor) -> nn.Module:
    kernel, stride, pad = (_one(p, name) for name in ("kernel_size", "stride", "pad"))
    if p.pool == "STOCHASTIC" or (pad and p.pool != "AVE"):
        raise UnsupportedError(f"C3D's code has no {p.pool} pooling{' with a pad' if pad else ''} (pool3d_layer.cpp)")
    if x.dim() != 5 or min(kernel, p.kernel_depth, stride, p.temporal_stride) < 1:
        raise ValueError("a pooling over volumes takes (N, C, L, H, W), and a kernel_size, kernel_depth and strides of at least 1")
    return Pool3d(p.pool, (p.kernel_depth, kernel, kernel), (p.temporal_stride, stride, stride), (0, pad, pad))


_NO_STOCHASTIC = "STOCHASTIC, and a pad of MAX pooling: C3D's code has neither"


@layer("Pooling3D", "pooling3d_param", ignored=ENGINE, origin=_C3D, refuses=_NO_STOCHASTIC)
def pooling3d(p: Fields, x: Tensor) -> nn.Module:
    return _pooling3d(p, x)


@layer("POOLING3D", "pooling_param", ignored=ENGINE, origin=_C3D, refuses=_NO_STOCHASTIC)
def pooling3d_v1(p: Fields, x: Tensor) -> nn.Module:
    """C3D-v1.0's name, of the V1 format."""
    return _pooling3d(p, x)


_Triple = tuple[int, int, int]


def _shape(p: Fields, name: str, default: int | None) -> _Triple:
    """kernel_shape, stride_shape or pad_shape: one number for each spatial axis."""
    dims = tuple(getattr(p, name).dim) or (() if default is None else (default,) * 3)
    if len(dims) != 3:
        raise ValueError(f"{name} has {len(dims)} values for three spatial axes")
    if min(dims) < (0 if name == "pad_shape" else 1):
        raise ValueError(f"{name} {dims} is too small")
    return dims[0], dims[1], dims[2]


def _nd(p: Fields, x: Tensor) -> tuple[_Triple, _Triple, _Triple]:
    if x.dim() != 5:
        raise UnsupportedError(f"a bottom of {x.dim()} axes: we compute Nd layers on volumes (N, C, L, H, W)")
    return _shape(p, "kernel_shape", None), _shape(p, "stride_shape", 1), _shape(p, "pad_shape", 0)


_AXES = "other than three spatial axes"


@layer("NdConvolution", "convolution_param", ignored=ENGINE, origin="R-C3D", refuses=_AXES)
def nd_convolution(p: Fields, x: Tensor) -> Layer:
    """cudnn_ndconv_layer.cpp. Axes of length 1, which it drops from the top's shape, stay: the values are the same."""
    kernel, stride, pad = _nd(p, x)
    channels, outputs, groups = x.shape[1], p.num_output, p.group
    if outputs < 1 or groups < 1 or channels % groups or outputs % groups:
        raise ValueError(f"{channels} channels and num_output {outputs} do not both divide by group {groups}")
    module = nn.Conv3d(channels, outputs, kernel, stride, pad, groups=groups, bias=p.bias_term)
    return Layer(module, [Param("weight", p.weight_filler), Param("bias", p.bias_filler)][: 1 + p.bias_term])


@layer("NdPooling", "pooling_param", ignored=ENGINE, origin="R-C3D", refuses=f"STOCHASTIC; {_AXES}")
def nd_pooling(p: Fields, x: Tensor) -> nn.Module:
    """cudnn_ndpooling_layer.cpp: whole windows only."""
    if p.global_pooling and x.dim() == 5:
        kernel, stride, pad = (x.shape[2], x.shape[3], x.shape[4]), _shape(p, "stride_shape", 1), _shape(p, "pad_shape", 0)
    else:
        kernel, stride, pad = _nd(p, x)
    if p.pool == "STOCHASTIC" or x.dim() != 5:
        raise UnsupportedError(f"{p.pool} pooling of {x.dim()} axes: we compute NdPooling as MAX or AVE of volumes (N, C, L, H, W)")
    if any(pad[i] >= kernel[i] for i in range(3)):
        raise ValueError(f"pad_shape {pad} does not lie below kernel_shape {kernel}")
    return Pool3d(p.pool, kernel, stride, pad, ceil_mode=False)
