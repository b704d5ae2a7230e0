"""Layers around recurrent ones: the `cont` that they read, and greedy CTC decoding of what they give."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from converter.errors import UnsupportedError
from converter.layers.module import CaffeModule
from converter.layers.registry import Fields, layer


class ContinuationIndicator(CaffeModule):
    """x -> (time_step, N) of a row of zeros, where sequences begin, then ones: the `cont` of an LSTM. N: x's length along `axis`.

    jolibrain/caffe: continuation_indicator_layer.cpp; an older one has a fixed batch_size, and then no bottom is needed.
    """

    def __init__(self, time_step: int, axis: int = 0, batch_size: int | None = None):
        super().__init__()
        self.time_step, self.axis, self.batch_size = time_step, axis, batch_size

    def forward(self, *bottom: Tensor) -> Tensor:
        like = bottom[0] if bottom else torch.empty(0)
        batch = like.shape[self.axis] if self.batch_size is None else self.batch_size
        return torch.cat((like.new_zeros(1, batch), like.new_ones(self.time_step - 1, batch)))


@layer("ContinuationIndicator", "continuation_indicator_param", bottoms=(0, 1), origin="jolibrain")
def continuation_indicator(p: Fields, *bottom: Tensor) -> nn.Module:
    if p.time_step < 1:
        raise ValueError(f"time_step is {p.time_step}; it must be at least 1")
    if bool(p.batch_size) == p.has("axis") and (p.batch_size or not bottom):
        raise ValueError("batch_size, or a bottom with an axis: of two versions of the layer it takes one")
    return ContinuationIndicator(p.time_step, p.axis_of(bottom[0]) if bottom else 0, p.batch_size or None)


class CTCGreedyDecoder(CaffeModule):
    """(T, N, C) scores -> (N, T, 1, 1): the best class of each step without blanks and, with `merge_repeated`, repeats; then -1.

    Of equal scores the first class counts (senlinuc/caffe_ocr: ctc_decoder_layer.cpp). blank_index: from 0.
    """

    def __init__(self, blank_index: int = 0, merge_repeated: bool = True):
        super().__init__()
        self.blank_index, self.merge_repeated = blank_index, merge_repeated

    def forward(self, x: Tensor) -> Tensor:
        classes = torch.arange(x.shape[2], device=x.device)
        best = torch.where(x == x.amax(2, keepdim=True), classes, x.shape[2]).amin(2).T  # (N, T)
        kept = best != self.blank_index
        if self.merge_repeated:
            kept = kept & torch.cat((torch.ones_like(kept[:, :1]), best[:, 1:] != best[:, :-1]), 1)
        place = torch.where(kept, kept.cumsum(1) - 1, x.shape[0])  # what is not kept goes behind the end
        out = x.new_full((x.shape[1], x.shape[0] + 1), -1)
        return out.scatter(1, place, best.to(x.dtype))[:, :-1, None, None]


@layer(
    "CTCGreedyDecoder",
    "ctc_decoder_param",
    bottoms=(1, 3),
    origin="senlinuc/caffe_ocr",
    refuses="bottoms beside the scores: labels, indicators",
)
def ctc_greedy_decoder(p: Fields, x: Tensor, *more: Tensor) -> nn.Module:
    if more:
        raise UnsupportedError(
            f"{1 + len(more)} bottoms: forks differ in whether the second is a label or an indicator; with the scores alone it decodes"
        )
    if x.dim() != 3 or p.tops != 1:
        raise ValueError(f"it takes scores (T, N, C) and one top, here {p.tops}")
    if p.blank_index >= x.shape[2]:
        raise ValueError(f"blank_index {p.blank_index} is none of {x.shape[2]} classes")
    return CTCGreedyDecoder(p.blank_index if p.blank_index >= 0 else x.shape[2] - 1, p.ctc_merge_repeated)
