"""The cache of decoded clips, and parts of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_trees import (
    EMOTIONS,
    FRAMES,
    HEIGHT,
    IDS,
    LABELS,
    LENGTHS,
    LIST,
    OFFSETS,
    SPLIT,
    VIDEOS,
    WIDTH,
    class_index,
    file_in,
    lists,
    npz,
    padded,
    quietly,
    saved,
    tree,
)

from finetune.clips import layouts
from finetune.clips.data import read_clips
from finetune.errors import FinetuneError
from finetune.labels import EMOTIW, FER2013


def cached(tmp_path: Path) -> Path:
    [path] = (tmp_path / "home").rglob("*.safetensors")
    return path


def test_the_second_reading_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_clips(tree(tmp_path / "d"))

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(layouts, "decode", never)
    again = read_clips(tmp_path / "d")
    assert torch.equal(again.frames, first.frames)
    assert again.sha256 == first.sha256
    copied = read_clips(tree(tmp_path / "copied"))
    assert (copied.name, copied.sha256) == ("copied", first.sha256)


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b"", lambda b: b"\xff" * 99])
def test_a_damaged_cache_is_rebuilt(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    read_clips(tree(tmp_path / "d"))
    whole = cached(tmp_path).read_bytes()
    cached(tmp_path).write_bytes(damage(whole))
    np.testing.assert_array_equal(read_clips(tmp_path / "d").frames.numpy(), FRAMES)
    assert cached(tmp_path).read_bytes() == whole


def test_every_change_of_the_source_is_seen(tmp_path: Path) -> None:
    root = lists(tree(tmp_path / "d"), LIST)
    seen = [read_clips(root).sha256]
    saved(root / "train/Angry/000149120/images1.png", FRAMES[0])
    seen.append(read_clips(root).sha256)
    assert torch.equal(read_clips(root).clip(1)[0], torch.from_numpy(FRAMES[0]))
    (root / "train/Sad/000647360/images4.png").rename(root / "train/Sad/000647360/images0.png")
    seen.append(read_clips(root).sha256)
    assert torch.equal(read_clips(root).clip(6), torch.from_numpy(FRAMES[OFFSETS[6] : OFFSETS[7]][[3, 0, 1, 2]]))
    class_index(root, FER2013)
    seen.append(read_clips(root).sha256)
    assert read_clips(root).labels.tolist() == [FER2013.index(EMOTIW[label]) for label in LABELS]
    (root / "vallist.txt").rename(root / "testlist.txt")
    seen.append(read_clips(root).sha256)
    assert read_clips(root).counts() == {"train": 8, "test": 2}
    (root / "testlist.txt").unlink()  # so that two clips are in no list, which is told
    seen.append(quietly(root).sha256)
    assert len(set(seen)) == len(seen)
    assert quietly(root, size=(5, 4)).frames.shape[1:] == (5, 4)
    assert quietly(root).frames.shape[1:] == (HEIGHT, WIDTH)
    file_in(root, "train/Sad/000647360/log.txt")
    found = quietly(root)  # told, though the frames are the same
    assert found.sha256 == seen[-1] and any("being no images" in note for note in found.notes)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    assert len(read_clips(tree(tmp_path / "d"))) == len(VIDEOS)


@pytest.mark.parametrize("rows", [[0], [8, 9], [3, 4, 5], [9, 0, 4], [2, 2], [5, 3], [1, 4, 6]])
def test_taken_clips_keep_their_frames_labels_and_names(rows: list[int], tmp_path: Path) -> None:
    whole = read_clips(npz(tmp_path, frames=padded(), labels=EMOTIONS, split=SPLIT, ids=IDS, subjects=IDS, lengths=LENGTHS))
    taken = whole.take(torch.tensor(rows))
    assert len(taken) == len(rows)
    assert taken.lengths().tolist() == [LENGTHS[row] for row in rows]
    for position, row in enumerate(rows):
        np.testing.assert_array_equal(taken.clip(position).numpy(), FRAMES[OFFSETS[row] : OFFSETS[row + 1]])
    assert taken.labels.tolist() == [LABELS[row] for row in rows]
    assert taken.ids == taken.subjects == tuple(IDS[row] for row in rows)
    assert taken.split == tuple(SPLIT[row] for row in rows)


def test_a_split_is_a_view_of_the_whole(tmp_path: Path) -> None:
    whole = read_clips(tree(tmp_path / "d"))
    part = whole.part("val")
    assert whole.counts() == {"train": 8, "val": 2}
    assert part.counts() == {"val": 2}
    assert part.frames.untyped_storage().data_ptr() == whole.frames.untyped_storage().data_ptr()
    assert torch.equal(torch.cat([whole.part("train").frames, part.frames]), whole.frames)
    with pytest.raises(FinetuneError, match=r"d: no clips in test; it has \{'train': 8, 'val': 2\}"):
        whole.part("test")
