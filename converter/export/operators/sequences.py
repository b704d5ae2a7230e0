"""Recurrence: Caffe's LSTM layer where that computes the same, and otherwise each step of time as layers of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from converter.export.operators.cells import Cell, GRUCell, LSTMCell, ReluCell, RNNCell
from converter.export.operators.joining import cat, split
from converter.export.operators.registry import Operand, operator, power
from converter.export.rearranged import cut, rearrange, written
from converter.export.sketch import Blob, NoCaffeForm, Sketch

LONGEST = 64  # steps that are written as layers of their own: eleven each of a GRU


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
    """Caffe's LSTM runs forward over (T, N, D) from states of zeros, and keeps its cell state to itself; else step by step."""
    if params[1].shape[0] != 4 * params[1].shape[1]:
        raise NoCaffeForm("Caffe's LSTM does not project its state (proj_size)")
    stack = _layers(params, has_biases, num_layers, bidirectional)
    turns = batch_first and input.shape[0] > 1 and not net.has("Permute")  # its transposition has no form
    if turns or 2 in net.read or not all(isinstance(each, Tensor) and not each.any() for each in hx):
        one = "; from zeros, with the time first and the cell state left alone, it is one LSTM layer"
        return _unrolled(net, LSTMCell, input, hx, stack, batch_first, one)
    return _lstm_layers(net, input, stack, batch_first)


def _recurrent(
    kind: type[Cell],
    net: Sketch,
    input: Blob,
    hx: Operand,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> list[Any]:
    return _unrolled(net, kind, input, [hx], _layers(params, has_biases, num_layers, bidirectional), batch_first)


def _one_step(
    kind: type[Cell],
    net: Sketch,
    input: Blob,
    hx: Operand | Sequence[Operand],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> list[Blob]:
    """One call of a cell; those of the same weights share them."""
    key = kind, id(w_hh)
    if key not in net.kept:
        net.kept[key] = kind(net, w_ih, w_hh, b_ih, b_hh)
    cell: Cell = net.kept[key]
    parts = cell.of_input(input)
    states = hx if isinstance(hx, Sequence) else [hx]
    return cell.step(parts, [each if isinstance(each, Blob) else _constant(net, each, parts[0], cell.width) for each in states])


_CELLS: dict[str, type[Cell]] = {"lstm": LSTMCell, "gru": GRUCell, "rnn_tanh": RNNCell, "rnn_relu": ReluCell}
for _name, _kind in _CELLS.items():
    operator(f"{_name}_cell")(partial(_one_step, _kind))
    if _name != "lstm":  # not Caffe's RNN for torch's: its output is tanh of another matrix times the state
        operator(_name)(partial(_recurrent, _kind))


def _layers(params: Sequence[Tensor], has_biases: bool, num_layers: int, bidirectional: bool) -> list[list[Sequence[Tensor]]]:
    """The weights (w_ih, w_hh, and b_ih, b_hh) of each layer's directions."""
    each, directions = 4 if has_biases else 2, 2 if bidirectional else 1
    parts = [params[i * each : (i + 1) * each] for i in range(num_layers * directions)]
    return [list(parts[i * directions : (i + 1) * directions]) for i in range(num_layers)]


def _lstm_layers(net: Sketch, input: Blob, stack: Sequence[Sequence[Sequence[Tensor]]], batch_first: bool) -> list[Any]:
    """Caffe's layer reads (T, N, D) and a second bottom that is 0 where a sequence begins; its gates come in the order i, f, o, g."""
    x = written(net, rearrange(input, lambda places: places.transpose(0, 1))) if batch_first else input
    steps, count, _ = x.shape
    places = cut(net, x, 2, 0, 1)
    first = power(net, cut(net, places, 0, 0, 1), scale=0)
    begin = first if steps == 1 else cat(net, [first, power(net, cut(net, places, 0, 1, steps), scale=0, shift=1)])
    goes_on = written(net, rearrange(begin, lambda places: places.squeeze(2)))
    last: list[Blob] = []
    for directions in stack:
        outputs = []
        for backward, held in enumerate(directions):
            width = held[1].shape[1]
            order = torch.cat([torch.arange(width) + gate * width for gate in (0, 1, 3, 2)])
            bias = held[2] + held[3] if len(held) == 4 else torch.zeros(4 * width)
            weights = [held[0][order], bias[order], held[1][order]]
            read = _backward(net, x) if backward else x
            made = net.one("LSTM", [read, goes_on], (steps, count, width), weights, recurrent_param={"num_output": width})
            last.append(made)
            outputs.append(_backward(net, made) if backward else made)
        x = cat(net, outputs, 2)

    def hidden() -> Blob:
        return cat(net, [cut(net, each, 0, steps - 1, steps) for each in last])

    def cells() -> Blob:
        raise NoCaffeForm("Caffe's LSTM keeps its cell state to itself")

    return [rearrange(x, lambda places: places.transpose(0, 1)) if batch_first else x, hidden, cells]


def _backward(net: Sketch, x: Blob) -> Blob:
    """The steps of time in the reverse order."""
    return x if x.shape[0] == 1 else cat(net, split(net, x, 1, 0)[::-1])


def _unrolled(
    net: Sketch,
    kind: type[Cell],
    input: Blob,
    hx: Sequence[Operand],
    stack: Sequence[Sequence[Sequence[Tensor]]],
    batch_first: bool,
    otherwise: str = "",
) -> list[Any]:
    """Every step as layers that share their weights. Returns the outputs, and the last value of each state (layers, N, D)."""
    axis = 1 if batch_first else 0
    steps = input.shape[axis]
    if steps > LONGEST:
        raise NoCaffeForm(
            f"{steps} steps of time would be {steps * kind.layers} layers for each direction: up to {LONGEST} steps are written;"
            f" shorten the example's{otherwise}"
        )
    x, number = input, 0
    last: list[list[Blob]] = [[] for _ in hx]
    for directions in stack:
        outputs = []
        for backward, held in enumerate(directions):
            cell = kind(net, *held)
            parts = [split(net, part, 1, axis) for part in cell.of_input(x)]
            moments = list(zip(*parts, strict=True))
            states: Sequence[Blob | None] = [_initial(net, each, number, moments[0][0], cell.width, axis) for each in hx]
            made = []
            for moment in moments[::-1] if backward else moments:
                states = ends = cell.step(moment, states)
                made.append(ends[0])
            for kept, state in zip(last, ends, strict=True):
                kept.append(state)
            outputs.append(cat(net, made[::-1] if backward else made, axis))
            number += 1
        x = cat(net, outputs, 2)

    def joined(kept: list[Blob]) -> Blob:
        if axis == 1:  # (N, 1, D) each; any batch goes through
            shape = (1, input.shape[0], kept[0].shape[2])
            kept = [net.one("Reshape", [each], shape, reshape_param={"shape": {"dim": [1, -1, shape[2]]}}) for each in kept]
        return cat(net, kept)

    return [x, *(lambda kept=kept: joined(kept) for kept in last)]


def _initial(net: Sketch, given: Operand, number: int, like: Blob, width: int, axis: int) -> Blob | None:
    """The state before the first step, of (layers, N, D) the given layer's; None: zeros."""
    if isinstance(given, Blob):
        state = cut(net, given, 0, number, number + 1)
        if axis == 0:
            return state
        return net.one("Reshape", [state], (state.shape[1], 1, width), reshape_param={"shape": {"dim": [-1, 1, width]}})
    return _constant(net, given[number] if isinstance(given, Tensor) else given, like, width)


def _constant(net: Sketch, given: Operand, like: Blob, width: int) -> Blob | None:
    """A state that the net does not compute, (N, D), in the shape of `like` but for its last axis; None: zeros."""
    if not isinstance(given, Tensor) or bool((given != given[:1]).any()):
        raise NoCaffeForm("its first state is a constant that differs from sample to sample; make it an input of the module")
    if not given.any():
        return None
    parameters = {"num_output": width, "bias_term": True, "axis": len(like.shape) - 1}
    weights = [torch.zeros(width, like.shape[-1]), given[0]]
    return net.one("InnerProduct", [like], (*like.shape[:-1], width), weights, inner_product_param=parameters)
