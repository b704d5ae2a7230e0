"""Which frames of a clip a net sees: drawn for training, in windows for evaluation."""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.errors import FinetuneError


def draw_frames(lengths: Tensor, frames: int = 16, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """(indices (N, frames) int64 into each clip, valid (N,) int64): frames at random without replacement, in their order.

    A clip that is shorter gives all its frames, then repeats its last one; `valid` is how many are no repetition,
    min(length, frames): the `lengths` that the nets of architectures.video take. How XiaoYee/emotion_classification trains
    (VGG_GRU/dataset.py). `generator` is the CPU's. Raises FinetuneError for a clip without frames.
    """
    lengths = checked(lengths, frames)
    longest = max(int(lengths.max()), frames) if len(lengths) else frames
    keys = torch.rand(len(lengths), longest, generator=generator)
    keys.masked_fill_(torch.arange(longest) >= lengths[:, None], 2.0)
    drawn = keys.argsort(1)[:, :frames]
    return in_order(drawn, lengths)


def draw_segments(lengths: Tensor, frames: int = 16, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """As draw_frames, but one random frame of each of `frames` equal segments of the clip, so that all of it is seen.

    The segments of Wang et al., ECCV 2016 (TSN); where the length is no multiple, they differ by one frame.
    """
    lengths = checked(lengths, frames)
    edges = torch.arange(frames + 1) * lengths[:, None] // frames
    start, width = edges[:, :-1], edges.diff(dim=1)
    random = torch.rand(len(lengths), frames, generator=generator, dtype=torch.float64)
    drawn = start + (random * width).long().minimum((width - 1).clamp(min=0))
    short = lengths[:, None] < frames
    return in_order(torch.where(short, torch.arange(frames), drawn), lengths)


def checked(lengths: Tensor, frames: int) -> Tensor:
    if frames < 1 or lengths.dim() != 1 or lengths.is_floating_point() or (lengths < 1).any():
        raise FinetuneError(f"{frames} frames of clips of {lengths.min().item()} frames and more: both are whole numbers from 1 on")
    return lengths.cpu().long()


def in_order(drawn: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Sorts what was drawn (N, T); what lies behind the end of its clip becomes the clip's last frame."""
    indices = drawn.sort(1).values
    return indices.minimum(lengths[:, None] - 1), lengths.clamp(max=drawn.shape[1])


def windows(length: int, frames: int = 16, stride: int = 8, *, tail: bool) -> tuple[Tensor, Tensor]:
    """(indices (W, frames) int64 into one clip, valid (W,) int64): windows of `frames` every `stride`, from the first frame on.

    A clip that is shorter is one window that repeats its last frame; `valid` is how many are no repetition. Frames behind the last
    whole window are dropped with tail=False, the way of XiaoYee/emotion_classification (VGG_GRU/dataset.py); tail=True adds a
    window that ends at the last frame. The logits of a clip's windows are averaged.
    """
    if min(length, frames, stride) < 1:
        raise FinetuneError(f"windows of {frames} frames every {stride} over {length}: all are whole numbers from 1 on")
    starts = list(range(0, max(length - frames, 0) + 1, stride))
    if tail and starts[-1] + frames < length:
        starts.append(length - frames)
    indices = torch.tensor(starts)[:, None] + torch.arange(frames)
    return indices.clamp(max=length - 1), torch.full((len(starts),), min(length, frames))
