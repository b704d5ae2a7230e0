"""Convolutions, plain and transposed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from converter.export.operators.registry import (
    geometry,
    held,
    operator,
    per_axis,
    some,
)
from converter.export.rearranged import cut
from converter.export.sketch import Blob, NoCaffeForm, Sketch


def _axes(x: Blob, kernel: Sequence[int]) -> int:
    if len(x.shape) != 2 + len(kernel):
        raise NoCaffeForm(f"its input {x.shape} has no axis for the samples of a batch; give the example one")
    return len(kernel)


@operator("conv1d", "conv2d", "conv3d")
def convolution(
    net: Sketch,
    input: Blob,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Blob:
    held(weight, "the kernel")
    kernel = list(weight.shape[2:])
    axes = _axes(input, kernel)
    steps, holes = per_axis(stride, axes), per_axis(dilation, axes)
    if padding == "same":
        both = [hole * (k - 1) for hole, k in zip(holes, kernel, strict=True)]
        if any(total % 2 for total in both):
            raise NoCaffeForm(f"padding='same' with a kernel of {kernel} pads one side more than the other; take an odd kernel")
        padding = [total // 2 for total in both]
    pad = per_axis(0 if isinstance(padding, str) else padding, axes)
    shape = [
        input.shape[0],
        weight.shape[0],
        *(
            (size + 2 * p - hole * (k - 1) - 1) // step + 1
            for size, p, hole, k, step in zip(input.shape[2:], pad, holes, kernel, steps, strict=True)
        ),
    ]
    parameters: dict[str, Any] = {
        "num_output": weight.shape[0],
        **({} if bias is not None else {"bias_term": False}),
        **geometry(kernel_size=kernel, stride=steps, pad=pad, dilation=holes),
    }
    if groups > 1:
        parameters["group"] = groups
    return net.one("Convolution", [input], shape, [weight, *some(bias)], convolution_param=parameters)


@operator("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(
    net: Sketch,
    input: Blob,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Blob:
    held(weight, "the kernel")
    kernel = list(weight.shape[2:])
    axes = _axes(input, kernel)
    steps, holes = per_axis(stride, axes), per_axis(dilation, axes)
    pad, more = per_axis(padding, axes), per_axis(output_padding, axes)
    if any(extra > p for extra, p in zip(more, pad, strict=True)):
        raise NoCaffeForm(f"output_padding {more} is larger than the padding {pad}: Caffe's Deconvolution makes no such rows")
    whole = [(size - 1) * step + hole * (k - 1) + 1 for size, step, hole, k in zip(input.shape[2:], steps, holes, kernel, strict=True)]
    outputs = weight.shape[1] * groups
    own = [0] * axes if any(more) else pad  # rows beyond the padded ones: make all, cut the rest off
    parameters: dict[str, Any] = {
        "num_output": outputs,
        **({} if bias is not None else {"bias_term": False}),
        **geometry(kernel_size=kernel, stride=steps, pad=own, dilation=holes),
    }
    if groups > 1:
        parameters["group"] = groups
    size = [length - 2 * p for length, p in zip(whole, own, strict=True)]
    found = net.one("Deconvolution", [input], [input.shape[0], outputs, *size], [weight, *some(bias)], convolution_param=parameters)
    if any(more):
        for axis, (length, p, extra) in enumerate(zip(whole, pad, more, strict=True), 2):
            found = cut(net, found, axis, p, length - p + extra)
    return found
