"""R-C3D's detection of activities in clips: windows of frames, proposed and pooled over. The facts are those of the authors' repository."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from converter.errors import UnsupportedError
from converter.layers.module import CaffeModule, kept_boxes
from converter.layers.registry import Fields, Layer


class WindowProposals(CaffeModule):
    """R-C3D's proposals: scores and deltas, (1, 2 A, L, 1, 1) each -> rois (R, 3) of 0, first and last frame; with `scores` theirs (R, 1).

    A window is moved by dx of its length, and made exp(dl) times as long; one is left of those that overlap by more than
    nms_thresh. R depends on the values: on meta tensors it is 1. Equal scores keep the order of the places (step, anchor).
    lib/rpn/proposal_layer.py, which takes the numbers that a prototxt does not hold from its configuration: the defaults are
    those of its config.py for tests.

    Args:
        feat_stride: frames a step.
        scales: the anchors' lengths, in eights of frames.
        pre_nms_topn: candidates that are compared; post_nms_topn: windows that stay.
        min_size: the least length, in frames.
    """

    def __init__(
        self,
        feat_stride: float,
        scales: Sequence[float] = tuple(range(1, 64)),
        pre_nms_topn: int = 6000,
        post_nms_topn: int = 300,
        nms_thresh: float = 0.7,
        min_size: float = 8,
        scores: bool = False,
    ):
        super().__init__()
        self.feat_stride, self.scales, self.scores = feat_stride, tuple(scales), scores
        self.pre_nms_topn, self.post_nms_topn, self.nms_thresh, self.min_size = pre_nms_topn, post_nms_topn, nms_thresh, min_size

    def forward(self, score: Tensor, delta: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        a = len(self.scales)
        if score.shape != delta.shape or score.dim() != 5 or score.shape[:2] != (1, 2 * a) or score.shape[3:] != (1, 1):
            raise ValueError(f"with {a} scales it takes scores and deltas (1, {2 * a}, L, 1, 1), of one clip")
        if score.is_meta:
            return (score.new_empty(1, 3), score.new_empty(1, 1)) if self.scores else score.new_empty(1, 3)
        rois, scores = self.proposed(score.detach().cpu(), delta.detach().cpu())
        return (rois.to(score.device), scores.to(score.device)) if self.scores else rois.to(score.device)

    def proposed(self, score: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        a, steps = len(self.scales), score.shape[2]
        scores = score[0, a:, :, 0, 0].T.flatten()
        move, grow = delta[0, :, :, 0, 0].reshape(a, 2, steps).permute(1, 2, 0).reshape(2, -1)
        half = (8 * torch.tensor(self.scales, dtype=torch.float64) - 1) / 2
        shift = torch.arange(steps, dtype=torch.float64)[:, None] * self.feat_stride + 3.5
        first, last = ((shift + side).flatten().to(delta.dtype) for side in (-half, half))
        length = last - first + 1
        middle, half_length = move * length + (first + 0.5 * length), 0.5 * (grow.exp() * length)
        windows = torch.stack((middle - half_length, middle + half_length), 1).clamp(0, steps * self.feat_stride - 1)
        large = windows[:, 1] - windows[:, 0] + 1 >= self.min_size
        windows, scores = windows[large], scores[large]
        order = scores.sort(descending=True, stable=True).indices[: self.pre_nms_topn or None]
        windows, scores = windows[order], scores[order]
        kept = kept_boxes(windows, self.overlaps, self.post_nms_topn)
        return torch.cat((windows.new_zeros(len(kept), 1), windows[kept]), 1), scores[kept, None]

    def overlaps(self, window: Tensor, others: Tensor) -> Tensor:
        """Intersection over union, in frames, above nms_thresh."""
        shared = (torch.minimum(window[1], others[:, 1]) - torch.maximum(window[0], others[:, 0]) + 1).clamp(min=0)
        length, lengths = window[1] - window[0] + 1, others[:, 1] - others[:, 0] + 1
        return shared / (length + lengths - shared) > self.nms_thresh


def window_proposals(p: Fields, params: dict[str, object], scales: Sequence[float], feat_stride: float) -> Layer:
    """The module for the param_str that the caller has read."""
    if unknown := sorted(set(params) - {"feat_stride", "scales"}):
        raise UnsupportedError(f"R-C3D's ProposalLayer reads feat_stride and scales of its param_str, not {', '.join(unknown)}")
    training = p.phase == "TRAIN"
    module = WindowProposals(
        feat_stride, scales, pre_nms_topn=12000 if training else 6000, post_nms_topn=2000 if training else 300, scores=p.tops > 1
    )
    numbers = f"nms_thresh {module.nms_thresh}, min_size {module.min_size}, post_nms_topn {module.post_nms_topn}"
    return Layer(
        module, note=f"its numbers ({numbers}) are those of R-C3D's config.py; where an experiment's yml has others, set the module's"
    )


class WindowPooling(CaffeModule):
    """The maximum of each bin of each window: (N, C, L, H, W), rois (R, 3) of item, first and last frame -> (R, C, *size).

    A window is round(frame * temporal_scale) in L, and the first 7 x 7 places of each step, whatever spatial_scale says; an
    empty bin is 0 (R-C3D's roi_pooling_layer.cu).
    """

    side = 7

    def __init__(self, size: Sequence[int], temporal_scale: float = 1.0):
        super().__init__()
        self.size, self.temporal_scale = tuple(size), temporal_scale

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        rois = rois.flatten(1)
        if rois.shape[1] != 3:
            raise ValueError(f"a window has {rois.shape[1]} numbers; R-C3D's have 3: item, first and last frame")
        if x.is_meta:
            return x.new_empty(rois.shape[0], x.shape[1], *self.size)
        for axis in (3, 4):
            x = self.pooled(x, axis, 0, self.side)
        at = rois[:, 1:].detach() * self.temporal_scale
        ends = (at.sign() * (at.abs() + 0.5).floor()).long().tolist()  # C's round()
        windows = [
            self.pooled(x[item : item + 1], 2, first, max(last - first + 1, 1))
            for item, (first, last) in zip(rois[:, 0].long().tolist(), ends, strict=True)
        ]
        return torch.cat(windows) if windows else x.new_empty(0, x.shape[1], *self.size)

    def pooled(self, x: Tensor, axis: int, start: int, length: int) -> Tensor:
        """The maximum of each bin along an axis, of the places from start on; 0 where there are none."""
        bins, places = self.size[axis - 2], x.shape[axis]
        at = torch.arange(bins + 1, dtype=torch.float32) * (torch.tensor(float(length)) / bins)
        found = []
        for low, high in zip(at[:-1].floor().long().tolist(), at[1:].ceil().long().tolist(), strict=True):
            low, high = (min(max(end + start, 0), places) for end in (low, high))
            part = x.narrow(axis, low, max(high - low, 0))
            found.append(part.amax(axis, keepdim=True) if high > low else torch.zeros_like(x.narrow(axis, 0, 1)))
        return torch.cat(found, axis)


def window_pooling(p: Fields, x: Tensor, rois: Tensor) -> nn.Module:
    """ROIPooling with pooled_l."""
    size = p.pooled_l, p.pooled_h, p.pooled_w
    _ = p.spatial_scale
    if min(size) < 1 or p.temporal_scale <= 0 or p.pad_ratio or x.dim() != 5 or rois.flatten(1).shape[1] != 3:
        raise ValueError(
            "with pooled_l it takes (N, C, L, H, W) and windows (R, 3), a pooled_l, pooled_h and pooled_w of at least 1, and a"
            " positive temporal_scale"
        )
    return WindowPooling(size, p.temporal_scale)
