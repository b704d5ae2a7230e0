"""RNN and LSTM over (T, N, ...) with `cont` (T, N)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor

from converter import modules
from converter.layers.registry import Blob, Fields, Layer, layer


def _recurrent(p: Fields, kind: type[modules.Recurrent], keys: Sequence[str], bottoms: tuple[Tensor, ...]) -> Layer:
    x, cont, *more = bottoms
    if p.num_output < 1 or x.dim() < 2 or cont.shape != x.shape[:2]:
        raise ValueError("a recurrent layer takes (T, N, ...) with cont (T, N), and a num_output of at least 1")
    states = kind.states if p.expose_hidden else 0
    static = more[0] if len(more) == states + 1 else None
    if len(more) not in (states, states + 1) or p.tops != 1 + states:
        takes = f"with {states} exposed states it takes {2 + states} or {3 + states} and {1 + states}"
        raise ValueError(f"{len(bottoms)} bottoms and {p.tops} tops; {takes}")
    if static is not None and static.shape[:1] != x.shape[1:2]:
        raise ValueError(f"the static input takes (N, ...), here with N = {x.shape[1]}")
    module = kind(prod(x.shape[2:]), p.num_output, None if static is None else prod(static.shape[1:]), p.expose_hidden)
    fillers = {"weight": p.weight_filler, "bias": p.bias_filler}
    blobs = [Blob(key, fillers[key.split("_")[0]]) for key in keys if static is not None or key != "weight_static"]
    return Layer(module, blobs)


_IGNORED = {"debug_info": "prints"}


@layer("RNN", "recurrent_param", bottoms=(2, 4), ignored=_IGNORED)
def rnn(p: Fields, *bottoms: Tensor) -> Layer:
    return _recurrent(p, modules.RNN, ("weight_x", "bias", "weight_static", "weight_h", "weight_o", "bias_o"), bottoms)


@layer("LSTM", "recurrent_param", bottoms=(2, 5), ignored=_IGNORED)
def lstm(p: Fields, *bottoms: Tensor) -> Layer:
    return _recurrent(p, modules.LSTM, ("weight_x", "bias", "weight_static", "weight_h"), bottoms)
