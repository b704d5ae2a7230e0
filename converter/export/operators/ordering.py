"""What changes nothing, or only the order of values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from converter.export.operators.registry import (
    REARRANGING,
    operator,
)
from converter.export.rearranged import rearrange
from converter.export.sketch import Blob, NoCaffeForm, Sketch


@operator("dropout", "feature_dropout", "alpha_dropout", "native_dropout")
def dropout(net: Sketch, input: Blob, p: float = 0.5, train: bool = False) -> Blob:
    if train:
        raise NoCaffeForm("the module is in training mode")
    return net.one("Dropout", [input], input.shape, dropout_param={"dropout_ratio": p})


@operator("zeros_like", "new_zeros")
def zeros(net: Sketch, self: Blob, size: Sequence[int] | None = None, **_: object) -> Tensor:
    return torch.zeros(self.shape if size is None else tuple(size))


@operator("ones_like", "new_ones")
def ones(net: Sketch, self: Blob, size: Sequence[int] | None = None, **_: object) -> Tensor:
    return torch.ones(self.shape if size is None else tuple(size))


@operator("full_like", "new_full")
def full(net: Sketch, self: Blob, fill_value: float, size: Sequence[int] | None = None, **_: object) -> Tensor:
    return torch.full(self.shape if size is None else tuple(size), float(fill_value))


@operator("_to_copy", "to", "contiguous", "detach", "lift_fresh_copy", "alias")
def same(net: Sketch, self: Blob, *_: object, **__: object) -> Blob:
    return self


def _rearranging(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            REARRANGING[name] = lambda net, self, *a, **k: rearrange(self, lambda places: function(places, *a, **k))
        return function

    return register


_rearranging("view", "reshape", "_unsafe_view")(lambda places, size=None, shape=None: places.reshape(list(size or shape)))


_rearranging("flatten")(lambda places, start_dim=0, end_dim=-1: places.flatten(start_dim, end_dim))


_rearranging("permute")(lambda places, dims: places.permute(dims))


_rearranging("transpose")(lambda places, dim0, dim1: places.transpose(dim0, dim1))


_rearranging("t")(lambda places: places.t())


_rearranging("unsqueeze")(lambda places, dim: places.unsqueeze(dim))


_rearranging("squeeze")(lambda places, dim=None: places.squeeze() if dim is None else places.squeeze(dim))


_rearranging("clone")(lambda places, memory_format=None: places)


_rearranging("flip")(lambda places, dims: places.flip(dims))


_rearranging("pixel_shuffle")(lambda places, upscale_factor: torch.pixel_shuffle(places, upscale_factor))


_rearranging("pixel_unshuffle")(lambda places, downscale_factor: torch.pixel_unshuffle(places, downscale_factor))


_rearranging("channel_shuffle", "native_channel_shuffle")(
    lambda places, groups: places.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
)


_rearranging("expand")(lambda places, size, implicit=False: places.expand(size))


_rearranging("repeat")(lambda places, repeats: places.repeat(repeats))


_rearranging("repeat_interleave")(lambda places, repeats, dim=None, output_size=None: places.repeat_interleave(repeats, dim))


_rearranging("roll")(lambda places, shifts, dims=(): places.roll(shifts, dims))


_rearranging("index")(lambda places, indices: places[tuple(slice(None) if each is None else each for each in indices)])


_rearranging("index_select")(lambda places, dim, index: places.index_select(dim, index))


_rearranging("movedim")(lambda places, source, destination: places.movedim(source, destination))
