"""Which frames of a clip a net sees."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from clip_trees import (
    LENGTHS,
    tree,
)

from architectures.video import RealFrames
from finetune.clips.data import read_clips
from finetune.clips.sampling import draw_frames, draw_segments, windows
from finetune.errors import FinetuneError

MANY = torch.tensor([1, 2, 5, 15, 16, 17, 31, 32, 33, 100, 320])


@pytest.mark.parametrize("draw", [draw_frames, draw_segments])
@pytest.mark.parametrize("frames", [1, 3, 16])
def test_drawn_frames_are_in_order_and_a_short_clip_repeats_its_last(
    draw: Callable[..., tuple[torch.Tensor, torch.Tensor]], frames: int
) -> None:
    generator = torch.Generator().manual_seed(5)
    for _ in range(20):
        indices, valid = draw(MANY, frames, generator)
        assert indices.shape == (len(MANY), frames)
        assert indices.dtype == valid.dtype == torch.int64
        for row, length in enumerate(MANY.tolist()):
            assert valid[row] == min(length, frames)
            real_frames = indices[row, : valid[row]].tolist()
            assert real_frames == sorted(set(real_frames))
            assert 0 <= real_frames[0] <= real_frames[-1] < length
            assert indices[row, valid[row] :].tolist() == [length - 1] * (frames - int(valid[row]))
            if length <= frames:
                assert real_frames == list(range(length))


@pytest.mark.parametrize("draw", [draw_frames, draw_segments])
def test_a_seed_draws_the_same_frames_again(draw: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> None:
    first, again, other = (draw(MANY, 16, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_choice_of_frames_is_equally_likely() -> None:
    indices, _ = draw_frames(torch.full((15000,), 6), 4, torch.Generator().manual_seed(1))
    drawn = Counter(map(tuple, indices.tolist()))
    assert len(drawn) == 15  # of 6 choose 4
    assert all(abs(count - 1000) < 5 * 1000**0.5 for count in drawn.values())


@pytest.mark.parametrize("length", [4, 6, 9, 10, 12])
def test_a_segment_gives_each_of_its_frames_equally_often(length: int) -> None:
    edges = [length * part // 4 for part in range(5)]
    indices, valid = draw_segments(torch.full((6000,), length), 4, torch.Generator().manual_seed(1))
    assert (valid == 4).all()
    for part, (start, end) in enumerate(itertools.pairwise(edges)):
        counts = indices[:, part].bincount(minlength=length)
        assert counts[start:end].sum() == 6000
        assert ((counts[start:end] - 6000 / (end - start)).abs() < 5 * (6000 / (end - start)) ** 0.5).all()


@pytest.mark.parametrize("draw", [draw_frames, draw_segments])
def test_a_clip_without_frames_cannot_be_drawn_from(draw: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> None:
    for lengths, frames in ((torch.tensor([3, 0]), 16), (torch.tensor([3.0]), 16), (torch.tensor([3]), 0)):
        with pytest.raises(FinetuneError, match="whole numbers from 1 on"):
            draw(lengths, frames)


def test_the_drawn_lengths_are_what_the_nets_take(tmp_path: Path) -> None:
    clips = read_clips(tree(tmp_path / "d"))
    indices, valid = draw_frames(clips.lengths(), 4, torch.Generator().manual_seed(0))
    batch = clips.frames[clips.offsets[:-1, None] + indices]
    mask = RealFrames(batch[:, :, None], valid).mask
    assert mask is not None and mask.sum(1).tolist() == [min(length, 4) for length in LENGTHS]
    for row in range(len(clips)):
        assert torch.equal(batch[row], clips.clip(row)[indices[row]])


WINDOWS = [  # length, tail, starts, valid
    (1, False, [0], 1), (1, True, [0], 1), (15, False, [0], 15), (15, True, [0], 15), (16, False, [0], 16), (16, True, [0], 16),
    (17, False, [0], 16), (17, True, [0, 1], 16), (23, False, [0], 16), (23, True, [0, 7], 16), (24, False, [0, 8], 16),
    (24, True, [0, 8], 16), (25, False, [0, 8], 16), (25, True, [0, 8, 9], 16), (40, False, [0, 8, 16, 24], 16),
]  # fmt: skip


@pytest.mark.parametrize(("length", "tail", "starts", "valid"), WINDOWS)
def test_windows_come_every_eight_frames(length: int, tail: bool, starts: list[int], valid: int) -> None:
    indices, real_frames = windows(length, tail=tail)
    assert indices.tolist() == [[min(start + step, length - 1) for step in range(16)] for start in starts]
    assert real_frames.tolist() == [valid] * len(starts)


def test_a_tail_leaves_no_frame_unseen() -> None:
    for length in range(1, 80):
        for frames, stride in ((16, 8), (4, 1), (3, 3), (8, 5)):
            assert set(windows(length, frames, stride, tail=True)[0].flatten().tolist()) == set(range(length))
            older = [start for start in range(0, length, stride) if start + frames <= length] or [0]
            assert windows(length, frames, stride, tail=False)[0][:, 0].tolist() == older
    with pytest.raises(FinetuneError, match="windows of 16 frames every 0 over 5"):
        windows(5, stride=0, tail=True)
