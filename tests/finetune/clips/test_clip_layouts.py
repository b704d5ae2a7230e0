"""Every layout that clips come in gives the same tensor."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_trees import (
    AFEW,
    CK,
    CK_CLASSES,
    COLOUR,
    DFER,
    EMOTIONS,
    FLAT,
    FRAMES,
    IDS,
    LABELS,
    LENGTHS,
    OFFSETS,
    SPLIT,
    VIDEOS,
    ck48,
    ck_lists,
    ck_npz,
    class_index,
    cohn_kanade,
    csv_file,
    file_in,
    lists,
    npz,
    padded,
    quietly,
    saved,
    tree,
)
from PIL import Image

from finetune.clips.data import read_clips
from finetune.clips.folds import subject_folds
from finetune.errors import FinetuneError
from finetune.labels import EMOTIW, FER2013

REAL = Path(__file__).parents[4] / "shared" / "data" / "ck48" / "ck48_sequences.npz"
real = pytest.mark.skipif(not REAL.is_file(), reason="CK+48 may not be handed on; it is not beside this checkout")
LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "folders": tree,
    "names padded with zeros": lambda r: tree(r, name="images{number:04}.png"),
    "other images": lambda r: tree(r, name="frame_{number}.BMP"),
    "grey saved as RGB": lambda r: tree(r, frames=FRAMES[..., None].repeat(3, -1)),
    "AFEW's names of splits": lambda r: tree(r, rename={"train": "Train", "val": "Val"}),
    "synonyms": lambda r: tree(r, rename={"Angry": "anger", "Happy": "HAPPINESS", "Sad": "Sadness"}),
    "a folder between": lambda r: tree(r, "{split}/Emotiw-faces/{emotion}/{video}", rename=AFEW),
    "as prepare_video leaves it": lambda r: file_in(
        csv_file(tree(r), "video,emotion,frames,faces,status,message,folder", "{video}.avi,{emotion},1,1,done,,x", "report.csv"),
        ".prepared/train/Angry/000046280.json",
    ),
    "lists": lambda r: lists(tree(r, FLAT), "{emotion}/{video} {emotion}"),
    "lists with a class index": lambda r: class_index(lists(tree(r, FLAT), "{emotion}/{video} {emotion}")),
    "lists of numbers with a class index": lambda r: class_index(lists(tree(r, FLAT), "{emotion}/{video} {number}", first=1)),
    "lists from another machine": lambda r: lists(
        tree(r, "{split}/Emotiw-faces/{emotion}/{video}", rename=AFEW),
        "/home/me/disk/{afew}/Emotiw-faces/{emotion}/{video} {emotion}",
        {"train": "Emotiw_TRAIN.txt", "val": "Emotiw_VAL.txt"},
    ),
    "lists with windows paths": lambda r: lists(tree(r, FLAT), "{emotion}\\{video}\t{emotion}", end="\r\n", start="\ufeff"),
    "lists relative to the split": lambda r: lists(
        tree(r, rename={"train": "train_afew", "val": "val_afew"}),
        "{emotion}/{video} {emotion}",
        {"train": "list_train.txt", "val": "list_eval.txt"},
    ),
    "lists with numbers of frames": lambda r: lists(
        tree(r), "/home/user/AFEW_Face/{split}/{emotion}/{video} {frames} {number}", order=DFER
    ),
    "folders with spaces": lambda r: lists(tree(r, "the {emotion}/video {video}"), "the {emotion}/video {video} {emotion}"),
    "csv": lambda r: csv_file(tree(r), "path,label,split", "{split}/{emotion}/{video},{emotion},{split}"),
    "csv in other words": lambda r: csv_file(tree(r), 'Usage,"Emotion",Folder', '{split},"{number}","{split}/{emotion}/{video}"'),
    "npz, padded": lambda r: npz(r, frames=padded(), labels=EMOTIONS, split=SPLIT, ids=IDS, lengths=LENGTHS),
    "npz with offsets": lambda r: npz(r, clips=FRAMES[..., None], y=LABELS, usage=SPLIT, id=IDS, offsets=OFFSETS, classes=EMOTIW),
}  # fmt: skip
SEEN = {"lists from another machine", "lists with numbers of frames", "csv in other words"}  # those that warn of what they found
OWN_IDS = {"folders with spaces": [f"video {video}" for video in IDS]}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_tensor(layout: str, tmp_path: Path) -> None:
    source = LAYOUTS[layout](tmp_path / "d")
    for cache in (False, True, True):
        found = quietly(source, cache=cache) if layout in SEEN else read_clips(source, cache=cache)
        assert found.frames.dtype == torch.uint8
        assert found.labels.dtype == found.offsets.dtype == torch.int64
        np.testing.assert_array_equal(found.frames.numpy(), FRAMES)
        assert found.offsets.tolist() == OFFSETS.tolist()
        assert found.labels.tolist() == LABELS
        assert list(found.split) == SPLIT
        assert list(found.ids) == OWN_IDS.get(layout, IDS)
        assert found.classes == EMOTIW
        assert found.subjects is None
        assert len(found) == len(VIDEOS)


def test_colour_is_rgb_planes_and_grey_frames_among_them_are_repeated(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", frames=COLOUR)
    saved(root / "train" / "Angry" / "000149120" / "images1.png", FRAMES[0])
    found = read_clips(root)
    expected = COLOUR.transpose(0, 3, 1, 2).copy()
    expected[12] = FRAMES[0]
    np.testing.assert_array_equal(found.frames.numpy(), expected)


@pytest.mark.parametrize("pixels", [FRAMES, COLOUR], ids=["grey", "colour"])
def test_size_is_height_and_width_in_every_layout(pixels: np.ndarray, tmp_path: Path) -> None:
    root = tree(tmp_path / "d", frames=pixels)
    odd = np.ascontiguousarray(np.rot90(pixels[5]))
    saved(root / "train" / "Angry" / "000046280" / "images6.png", odd)
    found = read_clips(root, size=(11, 9))
    assert found.frames.shape[-2:] == (11, 9)
    images = [Image.fromarray(odd if row == 5 else frame) for row, frame in enumerate(pixels)]
    expected = np.stack([np.asarray(image.resize((9, 11), Image.Resampling.BICUBIC)) for image in images])
    np.testing.assert_array_equal(found.frames.numpy(), expected if pixels.ndim == 3 else expected.transpose(0, 3, 1, 2))
    arrays = read_clips(npz(tmp_path, frames=pixels, offsets=OFFSETS, labels=EMOTIONS), size=(11, 9))
    keep = [row for row in range(len(FRAMES)) if row != 5]
    assert torch.equal(arrays.frames[keep], found.frames[keep])


def test_lists_may_lie_elsewhere_and_be_named_by_split(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", FLAT)
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    lists(elsewhere, "{emotion}/{video} {number}", {"train": "a.txt", "val": "b.txt"}, order=FER2013, first=1)
    class_index(elsewhere, FER2013)
    found = read_clips(root, lists={"train": elsewhere / "a.txt", "validation": elsewhere / "b.txt"})
    assert found.classes == FER2013
    assert [found.classes[label] for label in found.labels] == [EMOTIW[label] for label in LABELS]
    assert list(found.split) == SPLIT
    with pytest.raises(FinetuneError, match="line 6: label 7; the classes are 0 angry to 6 neutral"):
        read_clips(root, lists={"train": elsewhere / "a.txt"}, class_index=FER2013)


def test_a_list_itself_can_be_read(tmp_path: Path) -> None:
    root = csv_file(tree(tmp_path / "d"), "path,label,split", "{split}/{emotion}/{video},{emotion},{split}")
    assert read_clips(root / "clips.csv").ids == read_clips(root).ids == tuple(IDS)
    lists(root, "{split}/{emotion}/{video} {emotion}")
    assert read_clips(root / "vallist.txt", class_index=EMOTIW).counts() == {"val": 2}


def test_a_lists_numbers_follow_its_folders_where_nothing_else_says_what_they_mean(tmp_path: Path) -> None:
    root = lists(tree(tmp_path / "d"), "{split}/{emotion}/{video} {number}", order=DFER)
    with pytest.warns(UserWarning, match="named after their folders: 0 happy, 1 sad, 2 neutral, 3 angry"):
        found = read_clips(root)
    assert found.classes == EMOTIW
    assert found.labels.tolist() == LABELS


def test_numbers_alone_stay_numbers_with_a_warning(tmp_path: Path) -> None:
    root = lists(tree(tmp_path / "d", "{video}"), "{video} {number}", order=DFER)
    with pytest.warns(UserWarning, match="nothing says what they mean; pass class_index="):
        found = read_clips(root)
    assert found.classes == tuple("0123456")
    known = read_clips(root, class_index=DFER)
    assert known.classes == DFER
    assert [DFER[label] for label in known.labels] == [EMOTIW[label] for label in LABELS]


def test_any_classes_can_be_read(tmp_path: Path) -> None:
    for row, (name, frames) in enumerate([("train/jump10", 2), ("train/jump9", 1), ("train/trainspotting", 3), ("test/jump9", 2)]):
        for number in range(frames):
            saved(tmp_path / "d" / name / "v" / f"{number}.png", FRAMES[row])
    found = read_clips(tmp_path / "d")
    assert found.classes == ("jump9", "jump10", "trainspotting")
    assert found.labels.tolist() == [0, 1, 2, 0]
    assert found.counts() == {"train": 3, "test": 1}
    assert found.ids == ("train/jump9/v", "train/jump10/v", "train/trainspotting/v", "test/jump9/v")
    assert read_clips(tmp_path / "d" / "test").counts() == {"train": 1}


def test_a_folder_name_that_is_no_utf8_survives_the_cache(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    try:
        saved(tmp_path / "d" / "happy" / name / "1.png", FRAMES[0])
    except OSError:
        pytest.skip("this file system has only UTF-8 names")
    assert read_clips(tmp_path / "d").ids == read_clips(tmp_path / "d").ids == (name,)
    (tmp_path / "d" / "train.txt").write_bytes(b"happy/caf\xe9 Happy")
    assert read_clips(tmp_path / "d").ids == (name,)


@pytest.mark.parametrize("layout", [ck48, cohn_kanade, ck_lists, ck_npz])
def test_ck_sequences_come_with_their_subjects(layout: Callable[[Path], Path], tmp_path: Path) -> None:
    found = quietly(layout(tmp_path / "d"))  # the lists leave one sequence out, and say so
    again = quietly(tmp_path / "d" if layout is not ck_npz else tmp_path / "d" / "clips.npz")
    assert found.classes == CK_CLASSES
    assert found.subjects == again.subjects
    assert found.subjects is not None
    pairs = zip(found.subjects, found.labels, strict=True)
    held = {(subject, found.classes[label]): found.clip(row) for row, (subject, label) in enumerate(pairs)}
    for row, (subject, session, emotion, frames) in enumerate(CK):
        clip = held[subject, {"anger": "angry"}.get(emotion, emotion)]
        np.testing.assert_array_equal(clip.numpy(), FRAMES[4 * row : 4 * row + frames])
        assert layout is ck_lists or f"{subject}_{session}" in found.ids


def test_a_csv_may_say_the_subjects(tmp_path: Path) -> None:
    root = csv_file(tree(tmp_path / "d"), "path,label,split,subject", "{split}/{emotion}/{video},{emotion},{split},{emotion}-actor")
    with pytest.warns(UserWarning, match=r"2 subjects in more than one split, as Angry-actor"):
        assert read_clips(root).subjects == tuple(f"{emotion}-actor" for emotion in EMOTIONS)


@real
def test_ck48_has_327_sequences_of_118_subjects() -> None:
    found = read_clips(REAL)
    assert len(found) == 327
    assert found.subjects is not None
    assert len(set(found.subjects)) == 118
    assert found.classes == ("angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")
    assert found.labels.bincount().tolist() == [45, 18, 59, 25, 69, 28, 83]  # Lucey et al. 2010, table 2
    assert found.lengths().unique().tolist() == [3]
    with np.load(REAL) as arrays:
        np.testing.assert_array_equal(found.frames.reshape(327, 3, 48, 48).numpy(), arrays["frames"])


@real
def test_no_subject_of_ck48_is_in_both_training_and_test() -> None:
    found = read_clips(REAL)
    assert found.subjects is not None
    folds = subject_folds(found.subjects, found.labels)
    for train, test in folds:
        learnt, measured = found.take(train), found.take(test)
        assert learnt.subjects is not None
        assert measured.subjects is not None
        assert not set(learnt.subjects) & set(measured.subjects)
        assert len(learnt) + len(measured) == 327
        assert 31 <= len(measured) <= 35
        assert (measured.labels.bincount(minlength=7) > 0).all()
    assert sorted(torch.cat([test for _, test in folds]).tolist()) == list(range(327))
