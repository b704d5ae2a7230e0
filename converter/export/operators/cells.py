"""One step of a recurrent net in layers that every Caffe has: InnerProduct, Eltwise, Sigmoid, TanH, ReLU, Slice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from converter.export.operators.registry import affine, eltwise
from converter.export.sketch import Blob, Sketch


class Cell:
    """A cell's weights, as all of its steps share them.

    of_input() is what can be computed for all steps at once, the last axis of its input being the features; step() takes its results
    for one step, and the states before it, None for zeros.
    """

    layers = 0  # of a step

    def __init__(self, net: Sketch, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None):
        self.net, self.width = net, w_hh.shape[1]
        self.w_ih, self.w_hh, self.b_ih, self.b_hh = w_ih, w_hh, b_ih, b_hh
        self._names: dict[str, str] = {}

    def of_input(self, x: Blob) -> list[Blob]:
        raise NotImplementedError

    def step(self, parts: Sequence[Blob], states: Sequence[Blob | None]) -> list[Blob]:
        raise NotImplementedError

    def times(self, name: str, x: Blob, weight: Tensor, bias: Tensor | None) -> Blob:
        """An InnerProduct of the last axis; those of one name share their blobs."""
        if name not in self._names:
            self._names[name] = self.net.param_name(name)
        weights = [weight] if bias is None else [weight, bias]
        parameters = {"num_output": weight.shape[0], "bias_term": bias is not None, "axis": len(x.shape) - 1}
        shared = [f"{self._names[name]}.{part}" for part in ("weight", "bias")[: len(weights)]]
        shape = (*x.shape[:-1], weight.shape[0])
        return self.net.one("InnerProduct", [x], shape, weights, shared, inner_product_param=parameters)

    def sliced(self, x: Blob, *sizes: int) -> list[Blob]:
        """The last axis in parts."""
        points = torch.tensor(sizes).cumsum(0)[:-1].tolist()
        shapes = [(*x.shape[:-1], size) for size in sizes]
        return self.net.layer("Slice", [x], shapes, slice_param={"axis": len(x.shape) - 1, "slice_point": points})

    def of_each(self, type_: str, x: Blob) -> Blob:
        return self.net.one(type_, [x], x.shape)


class RNNCell(Cell):
    """h = activation(w_ih x + b_ih + w_hh h + b_hh)."""

    layers = 3
    activation = "TanH"

    def of_input(self, x: Blob) -> list[Blob]:
        bias = None if self.b_ih is None or self.b_hh is None else self.b_ih + self.b_hh
        return [self.times("input", x, self.w_ih, bias)]

    def step(self, parts: Sequence[Blob], states: Sequence[Blob | None]) -> list[Blob]:
        [total], [h] = parts, states
        if h is not None:
            total = eltwise(self.net, "SUM", total, self.times("state", h, self.w_hh, None))
        return [self.of_each(self.activation, total)]


class ReluCell(RNNCell):
    activation = "ReLU"


class LSTMCell(Cell):
    """i, f, o = sigmoid, g = tanh of w_ih x + b_ih + w_hh h + b_hh (torch has i, f, g, o); c = f c + i g; h = o tanh(c)."""

    layers = 12

    def __init__(self, net: Sketch, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None):
        order = torch.arange(w_hh.shape[0]).view(4, -1)[[0, 1, 3, 2]].flatten()
        bias = None if b_ih is None or b_hh is None else (b_ih + b_hh)[order]
        super().__init__(net, w_ih[order], w_hh[order], bias)

    def of_input(self, x: Blob) -> list[Blob]:
        return [self.times("input", x, self.w_ih, self.b_ih)]

    def step(self, parts: Sequence[Blob], states: Sequence[Blob | None]) -> list[Blob]:
        net, [total], [h, c] = self.net, parts, states
        if h is not None:
            total = eltwise(net, "SUM", total, self.times("state", h, self.w_hh, None))
        gates, g = self.sliced(total, 3 * self.width, self.width)
        i, f, o = self.sliced(self.of_each("Sigmoid", gates), *[self.width] * 3)
        fresh = eltwise(net, "PROD", i, self.of_each("TanH", g))
        c = fresh if c is None else eltwise(net, "SUM", eltwise(net, "PROD", f, c), fresh)
        return [eltwise(net, "PROD", o, self.of_each("TanH", c)), c]


class GRUCell(Cell):
    """r, z = sigmoid(w_ih x + b_ih + w_hh h + b_hh); n = tanh(w_in x + b_in + r (w_hn h + b_hn)); h = n + z (h - n)."""

    layers = 11

    def __init__(self, net: Sketch, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None):
        super().__init__(net, w_ih, w_hh, b_ih, b_hh)
        split = 2 * self.width
        self._gates, self._candidate = w_hh[:split], w_hh[split:]
        self._bias = None if b_ih is None or b_hh is None else torch.cat([b_ih[:split] + b_hh[:split], b_ih[split:]])
        self._inner = None if b_hh is None else b_hh[split:]

    def of_input(self, x: Blob) -> list[Blob]:
        return self.sliced(self.times("input", x, self.w_ih, self._bias), 2 * self.width, self.width)

    def step(self, parts: Sequence[Blob], states: Sequence[Blob | None]) -> list[Blob]:
        net, [gates, n], [h] = self.net, parts, states
        if h is not None:
            gates = eltwise(net, "SUM", gates, self.times("gates", h, self._gates, None))
        r, z = self.sliced(self.of_each("Sigmoid", gates), self.width, self.width)
        if h is not None:
            n = eltwise(net, "SUM", n, eltwise(net, "PROD", r, self.times("candidate", h, self._candidate, self._inner)))
        elif self._inner is not None:
            n = eltwise(net, "SUM", n, affine(net, r, len(r.shape) - 1, self._inner, None))
        n = self.of_each("TanH", n)
        if h is None:
            return [eltwise(net, "SUM", n, eltwise(net, "PROD", z, n), (1, -1))]
        return [eltwise(net, "SUM", n, eltwise(net, "PROD", z, eltwise(net, "SUM", h, n, (1, -1))))]
