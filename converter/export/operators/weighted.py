"""Linear layers, normalization, recurrence: what holds weights."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from converter.export.linear import reshaped
from converter.export.operators.arithmetic import mul
from converter.export.operators.registry import Operand, affine, eltwise, held, operator, power, some
from converter.export.sketch import Blob, NoCaffeForm, Sketch


@operator("linear")
def linear(net: Sketch, input: Blob, weight: Tensor, bias: Tensor | None = None) -> Blob:
    held(weight, "the matrix")
    axis = len(input.shape) - 1
    parameters: dict[str, Any] = {"num_output": weight.shape[0], "bias_term": bias is not None}
    if axis != 1:
        parameters["axis"] = axis
    return net.one("InnerProduct", [input], [*input.shape[:-1], weight.shape[0]], [weight, *some(bias)], inner_product_param=parameters)


@operator("addmm")
def addmm(net: Sketch, self: Operand, mat1: Blob, mat2: Tensor, beta: float = 1, alpha: float = 1) -> Blob:
    held(mat2, "the matrix")
    if not isinstance(self, Tensor):
        raise NoCaffeForm("the bias is computed by the net itself; Caffe's layers hold theirs")
    return linear(net, mat1, mat2.T * alpha, self * beta)


@operator("mm", "matmul")
def matmul(net: Sketch, self: Blob, other: Tensor | None = None, mat2: Tensor | None = None) -> Blob:
    matrix = other if mat2 is None else mat2
    if not isinstance(self, Blob) or not isinstance(matrix, Tensor) or matrix.dim() != 2:
        raise NoCaffeForm("it multiplies two matrices that the net computes; Caffe's InnerProduct holds one of them")
    return linear(net, self, matrix.T)


@operator("_native_batch_norm_legit_no_training", "batch_norm")
def batch_norm(
    net: Sketch,
    input: Blob,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    eps: float = 1e-5,
    **_: object,
) -> list[Blob]:
    if running_mean is None or running_var is None:
        raise NoCaffeForm("this BatchNorm keeps no statistics (track_running_stats=False): its result depends on the batch")
    blobs = [running_mean, running_var, torch.ones(1)]
    found = net.one("BatchNorm", [input], input.shape, blobs, batch_norm_param={"eps": eps, "use_global_stats": True})
    return [affine(net, found, 1, weight, bias)]


@operator("_native_batch_norm_legit", "native_batch_norm")
def batch_statistics(net: Sketch, *_: object, **__: object) -> Blob:
    raise NoCaffeForm("this BatchNorm keeps no statistics (track_running_stats=False): its result depends on the batch")


def _standardized(net: Sketch, x: Blob, groups: int, eps: float, centred: bool = True) -> Blob:
    """Each of `groups` equal parts of a sample minus its mean, over its deviation; `centred=False`: over its root mean square.

    MVN takes the mean away. Its deviation is not used, whose eps lies outside of the root (mvn_layer.cpp), nor a BatchNorm of the
    batch's own statistics, which is for one batch size only.
    """
    parts = x if len(x.shape) == 4 and x.shape[1] == groups else reshaped(net, x, (x.shape[0], groups, prod(x.shape[1:]) // groups, 1))
    if centred:
        parts = net.one("MVN", [parts], parts.shape, mvn_param={"normalize_variance": False})
    squares = eltwise(net, "PROD", parts, parts)
    variance = net.one("Pooling", [squares], [x.shape[0], groups, 1, 1], pooling_param={"pool": "AVE", "global_pooling": True})
    return reshaped(net, mul(net, parts, power(net, variance, power=-0.5, shift=eps)), x.shape)


@operator("group_norm", "native_group_norm")
def group_norm(
    net: Sketch,
    input: Blob,
    num_groups: int = 0,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    group: int = 0,
    **_: object,
) -> list[Blob]:
    return [affine(net, _standardized(net, input, num_groups or group, eps), 1, weight, bias)]


@operator("instance_norm")
def instance_norm(
    net: Sketch,
    input: Blob,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    use_input_stats: bool = True,
    eps: float = 1e-5,
    **_: object,
) -> Blob:
    if not use_input_stats:
        return batch_norm(net, input, weight, bias, running_mean, running_var, eps=eps)[0]
    return affine(net, _standardized(net, input, input.shape[1], eps), 1, weight, bias)


@operator("layer_norm", "native_layer_norm")
def layer_norm(
    net: Sketch,
    input: Blob,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    **_: object,
) -> list[Blob]:
    return [_over_last_axes(net, input, normalized_shape, weight, bias, eps, centred=True)]


@operator("rms_norm")
def rms_norm(
    net: Sketch, input: Blob, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None, **_: object
) -> Blob:
    return _over_last_axes(
        net, input, normalized_shape, weight, None, torch.finfo(torch.float32).eps if eps is None else eps, centred=False
    )


def _over_last_axes(
    net: Sketch, x: Blob, sizes: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float, *, centred: bool
) -> Blob:
    axis = len(x.shape) - len(sizes)
    if axis < 1:
        raise NoCaffeForm("it normalizes over the batch, too")
    return affine(net, _standardized(net, x, prod(x.shape[1:axis]), eps, centred), axis, weight, bias)


@operator("prelu")
def prelu(net: Sketch, self: Blob, weight: Tensor) -> Blob:
    held(weight, "the slope")
    # one slope for all channels is a blob without axes in Caffe, which OpenCV does not read: each channel gets it
    return net.one("PReLU", [self], self.shape, [weight.expand(self.shape[1])], prelu_param={"channel_shared": False})


@operator("embedding")
def embedding(net: Sketch, weight: Tensor, indices: Blob, *_: object, **__: object) -> Blob:
    held(weight, "the table")
    parameters = {"num_output": weight.shape[1], "input_dim": weight.shape[0], "bias_term": False}
    return net.one("Embed", [indices], [*indices.shape, weight.shape[1]], [weight], embed_param=parameters)
