"""Linear maps along one axis of a blob: what resizes, gathers, repeats, pads or sums rows, columns or channels by a fixed matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from converter.export.sketch import Blob, NoCaffeForm, Sketch


def reshaped(net: Sketch, source: Blob, shape: tuple[int, ...]) -> Blob:
    """The same values in the same order; any batch size goes through where the first axis keeps its meaning."""
    if source.shape == shape:
        return source
    if shape == (source.shape[0], prod(source.shape[1:])):
        return net.one("Flatten", [source], shape)
    # 0 copies the bottom's dim, so the batch may change; where the first axis itself changes, it is what remains
    same = bool(shape) and bool(source.shape) and shape[0] == source.shape[0]
    dims = [0, *shape[1:]] if same else [-1, *shape[1:]]
    return net.one("Reshape", [source], shape, reshape_param={"shape": {"dim": dims}})


def along(net: Sketch, x: Blob, axis: int, matrix: Tensor) -> Blob:
    """Each line of the blob along an axis, times a matrix (new length, length): an InnerProduct of the last axis, else a 1×1 Convolution.

    Raises:
        NoCaffeForm: along the batch.
    """
    if axis == 0:
        raise NoCaffeForm("it mixes the samples of a batch")
    count, size = matrix.shape
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    if axis == len(x.shape) - 1:
        parameters: dict[str, Any] = {"num_output": count, "bias_term": False, **({} if axis == 1 else {"axis": axis})}
        return net.one("InnerProduct", [x], shape, [matrix], inner_product_param=parameters)
    if axis == 1 and len(x.shape) == 4:
        parameters = {"num_output": count, "kernel_size": [1], "bias_term": False}
        return net.one("Convolution", [x], shape, [matrix.view(count, size, 1, 1)], convolution_param=parameters)
    plane = (prod(x.shape[:axis]), size, prod(x.shape[axis + 1 :]), 1)
    return reshaped(net, along(net, reshaped(net, x, plane), 1, matrix), shape)


def separable(net: Sketch, x: Blob, function: Callable[[Tensor], Tensor], axes: Sequence[int] = (2, 3)) -> Blob:
    """What maps rows and columns independently and linearly, and constants to themselves, as resizing does: its matrix of each axis."""
    for axis in axes:
        size = x.shape[axis]
        unit = torch.eye(size, dtype=torch.float64).view(size, 1, *(size if i == axis else 1 for i in range(2, len(x.shape))))
        found = function(unit.expand(size, 1, *x.shape[2:]))
        for other in sorted(set(axes) - {axis}, reverse=True):
            found = found.select(other, 0)
        matrix = found.reshape(size, -1).T.float()
        if matrix.shape[0] != size or not torch.equal(matrix, torch.eye(size)):
            x = along(net, x, axis, matrix)
    return x


def spread(net: Sketch, x: Blob, shape: tuple[int, ...]) -> Blob:
    """The blob repeated to a larger shape, as broadcasting does."""
    if len(x.shape) < len(shape):
        x = reshaped(net, x, (1,) * (len(shape) - len(x.shape)) + x.shape)
    for axis, (have, want) in enumerate(zip(x.shape, shape, strict=True)):
        if have == want:
            continue
        if have != 1:
            raise NoCaffeForm(f"a blob of shape {x.shape} does not go with one of {shape}")
        if axis == 0:
            x = net.one("Tile", [x], (want, *x.shape[1:]), tile_param={"axis": 0, "tiles": want})
        else:
            x = along(net, x, axis, torch.ones(want, 1))
    return x
