"""Recurrence: LSTM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from converter.export.operators.joining import cat
from converter.export.operators.registry import Operand, operator, power
from converter.export.rearranged import Rearranged, cut, rearrange, written
from converter.export.sketch import Blob, NoCaffeForm, Sketch


@operator("lstm")
def lstm(
    net: Sketch,
    input: Blob,
    hx: Sequence[Operand],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> list[Any]:
    """Caffe's LSTM reads (T, N, D) and a second bottom that is 0 where a sequence begins; its gates come in the order i, f, o, g."""
    if params[1].shape[0] != 4 * params[1].shape[1]:
        raise NoCaffeForm("Caffe's LSTM does not project its state (proj_size)")
    if bidirectional or any(not isinstance(each, Tensor) or bool(each.any()) for each in hx) or len(input.shape) != 3:
        raise NoCaffeForm("Caffe's LSTM runs forward over (T, N, D), from states of zeros: no bidirectional, no states given")
    x = written(net, rearrange(input, lambda places: places.transpose(0, 1))) if batch_first else input
    steps, count, _ = x.shape
    places = cut(net, x, 2, 0, 1)
    first = power(net, cut(net, places, 0, 0, 1), scale=0)
    begin = first if steps == 1 else cat(net, [first, power(net, cut(net, places, 0, 1, steps), scale=0, shift=1)])
    goes_on = written(net, rearrange(begin, lambda places: places.squeeze(2)))
    each = 4 if has_biases else 2
    last: list[Blob] = []
    for layer in range(num_layers):
        held = params[layer * each : (layer + 1) * each]
        width = held[0].shape[0] // 4
        order = torch.cat([torch.arange(width) + gate * width for gate in (0, 1, 3, 2)])
        bias = held[2] + held[3] if has_biases else torch.zeros(4 * width)
        weights = [held[0][order], bias[order], held[1][order]]
        x = net.one("LSTM", [x, goes_on], (steps, count, width), weights, recurrent_param={"num_output": width})
        last.append(x)

    def hidden() -> Blob | Rearranged:
        ends = [cut(net, each, 0, steps - 1, steps) for each in last]
        return ends[0] if len(ends) == 1 else cat(net, ends)

    def cells() -> Blob:
        raise NoCaffeForm("Caffe's LSTM keeps its cell state to itself")

    return [rearrange(x, lambda places: places.transpose(0, 1)) if batch_first else x, hidden, cells]
