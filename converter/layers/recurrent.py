"""RNN and LSTM over (T, N, ...) with `cont` (T, N)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converter.errors import UnsupportedError
from converter.layers.module import CaffeModule
from converter.layers.registry import Fields, Layer, Param, layer


class Recurrent(CaffeModule):
    """What RNN and LSTM share: (T, N, ...) inputs, `cont` (T, N) that is 0 where a sequence begins, a static input.

    The state starts from zeros at every call (Caffe's own test net carries it on from one call to the next; with
    expose_hidden it is a bottom and a top, here as there). weight_x: (G * D, K), weight_h: (G * D, D) for G gates.
    """

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, static_size: int | None = None, expose_hidden: bool = False):
        super().__init__()
        self.input_size, self.hidden_size, self.static_size, self.expose_hidden = input_size, hidden_size, static_size, expose_hidden
        rows = self.gates * hidden_size
        self.weight_x = nn.Parameter(torch.empty(rows, input_size))
        self.bias = nn.Parameter(torch.empty(rows))
        if static_size is not None:
            self.weight_static = nn.Parameter(torch.empty(rows, static_size))
        self.weight_h = nn.Parameter(torch.empty(rows, hidden_size))

    def step(self, x: Tensor, cont: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One time step: gate inputs (N, G * D), cont (N, 1), states (N, D) each -> the output and the new states."""
        raise NotImplementedError

    states = 1

    def forward(self, x: Tensor, cont: Tensor, *more: Tensor) -> Tensor | tuple[Tensor, ...]:
        steps, batch = x.shape[:2]
        static = more[0].flatten(1) if self.static_size is not None else None
        hidden = more[len(more) - self.states :] if self.expose_hidden else ()
        states = tuple(h.reshape(batch, self.hidden_size) for h in hidden) or (x.new_zeros(batch, self.hidden_size),) * self.states
        gates = F.linear(x.flatten(2), self.weight_x, self.bias)
        if static is not None:
            gates = gates + F.linear(static, self.weight_static)
        if x.is_meta:  # shapes need no loop over time
            outputs = x.new_empty(steps, batch, self.hidden_size)
        else:
            outs = []
            for t in range(steps):
                out, states = self.step(gates[t], cont[t].reshape(batch, 1), states)
                outs.append(out)
            outputs = torch.stack(outs)
        return (outputs, *(s[None] for s in states)) if self.expose_hidden else outputs


def _recurrent(p: Fields, kind: type[Recurrent], keys: Sequence[str], bottoms: tuple[Tensor, ...]) -> Layer:
    x, cont, *more = bottoms
    if p.num_output < 1 or x.dim() < 2 or cont.shape != x.shape[:2]:
        fits = f": for this cont ({', '.join(map(str, cont.shape))}, ...)" if cont.dim() == 2 and cont.shape != x.shape[:2] else ""
        raise ValueError(f"a recurrent layer takes (T, N, ...) with cont (T, N){fits}, and a num_output of at least 1")
    states = kind.states if p.expose_hidden else 0
    static = more[0] if len(more) == states + 1 else None
    if len(more) not in (states, states + 1) or p.tops != 1 + states:
        takes = f"with {states} exposed states it takes {2 + states} or {3 + states} and {1 + states}"
        raise ValueError(f"{len(bottoms)} bottoms and {p.tops} tops; {takes}")
    if static is not None and static.shape[:1] != x.shape[1:2]:
        raise ValueError(f"the static input takes (N, ...), here with N = {x.shape[1]}")
    module = kind(prod(x.shape[2:]), p.num_output, None if static is None else prod(static.shape[1:]), p.expose_hidden)
    fillers = {"weight": p.weight_filler, "bias": p.bias_filler}
    blobs = [Param(key, fillers[key.split("_")[0]]) for key in keys if static is not None or key != "weight_static"]
    return Layer(module, blobs)


_IGNORED = {"debug_info": "prints"}


class RNN(Recurrent):
    """h = tanh(weight_h (cont * h) + weight_x x + bias); the output is tanh(weight_o h + bias_o) (rnn_layer.cpp)."""

    def __init__(self, input_size: int, hidden_size: int, static_size: int | None = None, expose_hidden: bool = False):
        super().__init__(input_size, hidden_size, static_size, expose_hidden)
        self.weight_o = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.bias_o = nn.Parameter(torch.empty(hidden_size))

    def step(self, x: Tensor, cont: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h = torch.tanh(x + F.linear(cont * states[0], self.weight_h))
        return torch.tanh(F.linear(h, self.weight_o, self.bias_o)), (h,)


@layer("RNN", "recurrent_param", bottoms=(2, 4), ignored=_IGNORED)
def rnn(p: Fields, *bottoms: Tensor) -> Layer:
    return _recurrent(p, RNN, ("weight_x", "bias", "weight_static", "weight_h", "weight_o", "bias_o"), bottoms)


class LSTM(Recurrent):
    """Gates i, f, o, g in this order; c = cont * f * c + i * g, h = o * tanh(c) (lstm_unit_layer.cpp)."""

    gates = 4
    states = 2

    def step(self, x: Tensor, cont: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, c = states
        i, f, o, g = (x + F.linear(cont * h, self.weight_h)).chunk(4, 1)
        c = cont * torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)


@layer("LSTM", "recurrent_param", bottoms=(2, 5), ignored=_IGNORED)
def lstm(p: Fields, *bottoms: Tensor) -> Layer:
    return _recurrent(p, LSTM, ("weight_x", "bias", "weight_static", "weight_h"), bottoms)


class Lstm(LSTM):
    """Junhyuk's Lstm layer (senlinuc/caffe_ocr, CTPN: lstm_layer.cpp): one sequence an item, from zeros; `cont` only as a bottom.

    (T, N, ...) -> (T, N, hidden_size). `cont`: (T,) for a batch of one, 0 where a sequence begins. At N > 1 this is the
    GPU's result; the CPU code adds the first item's recurrent input to all.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)

    def forward(self, x: Tensor, *cont: Tensor) -> Tensor:
        steps, batch = x.shape[:2]
        begun = torch.cat((x.new_zeros(1, batch), x.new_ones(steps - 1, batch)))
        y = super().forward(x, (cont[0].reshape(steps, batch) != 0).to(x.dtype) if cont else begun)
        assert isinstance(y, Tensor)
        return y


@layer(
    "Lstm",
    "lstm_param",
    bottoms=(1, 2),
    ignored={"clipping_threshold": "clips gradients"},
    origin="CTPN, senlinuc/caffe_ocr",
    refuses="the older form whose bottom has T * N rows and whose batch_size says N",
)
def lstm_of_junhyuk(p: Fields, x: Tensor, *cont: Tensor) -> Layer:
    if x.dim() < 3 or (p.has("batch_size") and p.batch_size != x.shape[1]):
        raise UnsupportedError(
            f"a bottom of {x.dim()} axes with batch_size {p.batch_size}: we compute the form that takes (T, N, ...); Reshape it before"
        )
    if p.num_output < 1:
        raise ValueError(f"num_output is {p.num_output}; it must be at least 1")
    if cont and (cont[0].numel() != cont[0].shape[0] or x.shape[1] != 1 or cont[0].shape[0] != x.shape[0]):
        raise ValueError("its second bottom is one value for each of T steps, for a batch of one (lstm_layer.cpp)")
    weight = p.weight_filler
    params = [Param("weight_x", weight), Param("weight_h", weight), Param("bias", p.bias_filler)]
    return Layer(Lstm(prod(x.shape[2:]), p.num_output), params)
