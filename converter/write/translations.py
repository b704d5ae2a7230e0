"""Operators whose translation to ONNX torch gets wrong or lacks (seen in torch 2.14); the arguments are those of torch's operators."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Sequence
from math import prod
from typing import Any

import torch


def translations() -> dict[Any, Any]:
    """By operator, what torch.onnx.export takes as its custom_translation_table."""
    import onnx_ir
    from onnxscript import opset18

    op: Any = opset18

    def floordiv(x: Any, y: Any) -> Any:
        """Python's, which rounds down: ONNX's Div rounds towards 0, and windows are counted with negative numbers."""
        return op.Div(op.Sub(x, op.Mod(x, y)), y)

    def remainder(x: Any, y: Any) -> Any:
        """torch's own takes no length of an axis for y."""
        if x.dtype in (onnx_ir.DataType.INT64, onnx_ir.DataType.INT32):
            return op.Mod(x, y)
        return op.Sub(x, op.Mul(op.Floor(op.Div(x, y)), y))

    def sort(x: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
        """torch has none for the stable one; ONNX's TopK puts the lower index first where values are equal."""
        count = op.Reshape(op.Gather(op.Shape(x), op.Constant(value_int=dim), axis=0), op.Constant(value_ints=[1]))
        return op.TopK(x, count, axis=dim, largest=int(descending), sorted=1)

    def avg_pool(x: Any, kernel_size: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,), ceil_mode: bool = False,
                 count_include_pad: bool = True, divisor_override: int | None = None) -> Any:  # fmt: skip
        """torch's own passes divisor_override over."""
        kernel = list(kernel_size)
        pads = list(padding) * (len(kernel) // len(padding))
        found = op.AveragePool(
            x,
            kernel_shape=kernel,
            strides=list(stride) or kernel,
            pads=pads + pads,
            ceil_mode=int(ceil_mode),
            count_include_pad=int(count_include_pad or divisor_override is not None),
        )
        return found if divisor_override is None else op.Mul(found, op.Constant(value_float=prod(kernel) / divisor_override))

    def roi_pool(x: Any, rois: Any, spatial_scale: float, height: int, width: int) -> Any:
        """torch's own takes one size. The second result would be the places of the maxima, which no layer asks for."""
        found = op.MaxRoiPool(x, rois, pooled_shape=[height, width], spatial_scale=spatial_scale)
        return found, found

    aten = torch.ops.aten
    table: dict[Any, Any] = {operator.floordiv: floordiv, aten.sort.stable: sort, aten.remainder.Scalar: remainder}
    table |= dict.fromkeys((aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default), avg_pool)
    with contextlib.suppress(AttributeError):  # torchvision is not imported: no layer of the net needs it
        table[torch.ops.torchvision.roi_pool.default] = roi_pool
    return table
