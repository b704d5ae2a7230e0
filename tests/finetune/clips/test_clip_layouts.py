"""Every layout that clips come in gives the same tensor; which frames a net sees; folds that share no subject."""

from __future__ import annotations

import itertools
import os
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from architectures.video import frame_mask
from finetune.clips import layouts
from finetune.clips.data import Clips, read_clips
from finetune.clips.folds import subject_folds
from finetune.clips.sampling import draw_frames, draw_segments, windows
from finetune.errors import FinetuneError
from finetune.labels import EMOTIW, FER2013

REAL = Path(__file__).parents[4] / "shared" / "data" / "ck48" / "ck48_sequences.npz"
real = pytest.mark.skipif(not REAL.is_file(), reason="CK+48 may not be handed on; it is not beside this checkout")

RNG = np.random.default_rng(3)
HEIGHT, WIDTH = 8, 6
# split, class, video, frames: in the order of the folders; 12 frames, so that images10 comes after images9
VIDEOS = [
    ("train", "Angry", "000046280", 12), ("train", "Angry", "000149120", 1), ("train", "Disgust", "000247600", 2),
    ("train", "Fear", "000322047", 3), ("train", "Happy", "000322600", 2), ("train", "Neutral", "000439654", 1),
    ("train", "Sad", "000647360", 4), ("train", "Surprise", "000758680", 2), ("val", "Angry", "000929080", 2),
    ("val", "Sad", "000941320", 3),
]  # fmt: skip
LABELS = [0, 0, 1, 2, 3, 4, 5, 6, 0, 5]  # positions in alphabetical order
SPLIT = [split for split, *_ in VIDEOS]
IDS = [video for _, _, video, _ in VIDEOS]
LENGTHS = [length for *_, length in VIDEOS]
OFFSETS = np.cumsum([0, *LENGTHS])
AFEW = {"train": "Train_AFEW_all", "val": "Val_AFEW"}
FRAMES = RNG.integers(0, 256, (sum(LENGTHS), HEIGHT, WIDTH), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (sum(LENGTHS), HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "home"))


def saved(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def tree(
    root: Path,
    folder: str = "{split}/{emotion}/{video}",
    name: str = "images{number}.png",
    frames: np.ndarray = FRAMES,
    rename: dict[str, str] | None = None,
) -> Path:
    for row, (split, emotion, video, length) in enumerate(VIDEOS):
        place = folder.format(split=(rename or {}).get(split, split), emotion=(rename or {}).get(emotion, emotion), video=video)
        for number in range(length):
            saved(root / place / name.format(number=number + 1), frames[OFFSETS[row] + number])
    return root


def lists(
    root: Path,
    line: str,
    names: dict[str, str] | None = None,
    order: Sequence[str] = EMOTIW,
    first: int = 0,
    end: str = "\n",
    start: str = "",
) -> Path:
    """Writes a list per split; `line` may use split, afew, emotion, video, frames and number."""
    for split, name in (names or {"train": "trainlist.txt", "val": "vallist.txt"}).items():
        lines = []
        for part, emotion, video, frames in VIDEOS:
            if part == split:
                number = order.index(emotion.lower()) + first
                lines.append(line.format(split=part, afew=AFEW[part], emotion=emotion, video=video, frames=frames, number=number))
        (root / name).write_bytes((start + end.join(lines) + end).encode())
    return root


def written(root: Path, name: str, text: str) -> Path:
    (root / name).write_text(text)
    return root


def class_index(root: Path, names: Sequence[str] = EMOTIW, first: int = 1) -> Path:
    return written(root, "classInd.txt", "\n".join(f"{first + row} {name.capitalize()}" for row, name in enumerate(names)))


def csv_file(root: Path, header: str, line: str, name: str = "clips.csv") -> Path:
    rows = [line.format(split=s, emotion=e, video=v, number=EMOTIW.index(e.lower())) for s, e, v, _ in VIDEOS]
    return written(root, name, "\n".join([header, *rows]) + "\n")


def npz(root: Path, **arrays: object) -> Path:
    root.mkdir(exist_ok=True)
    np.savez(root / "clips.npz", **arrays)  # type: ignore[arg-type]
    return root / "clips.npz"


def padded(frames: np.ndarray = FRAMES) -> np.ndarray:
    clips = RNG.integers(0, 256, (len(VIDEOS), max(LENGTHS), *frames.shape[1:]), dtype=np.uint8)
    for row, length in enumerate(LENGTHS):
        clips[row, :length] = frames[OFFSETS[row] : OFFSETS[row + 1]]
    return clips


EMOTIONS = [emotion for _, emotion, *_ in VIDEOS]
FLAT = "{emotion}/{video}"
DFER = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
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


def quietly(*arguments: object, **options: object) -> Clips:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return read_clips(*arguments, **options)  # type: ignore[arg-type]


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


# --- CK+ ------------------------------------------------------------------------------------------------------------------------------

CK = [("S005", "001", "disgust", 3), ("S010", "002", "surprise", 2), ("S010", "004", "anger", 1), ("S999", "003", "contempt", 3)]
CK_CLASSES = ("angry", "contempt", "disgust", "surprise")


def ck48(root: Path) -> Path:
    for row, (subject, session, emotion, frames) in enumerate(CK):
        for number in range(frames):
            saved(root / emotion / f"{subject}_{session}_{number + 9:08}.png", FRAMES[4 * row + number])
    return root


def cohn_kanade(root: Path) -> Path:
    number_of = {"anger": 1, "contempt": 2, "disgust": 3, "surprise": 7}
    for row, (subject, session, emotion, frames) in enumerate(CK):
        for number in range(frames):
            saved(root / "cohn-kanade-images" / subject / session / f"{subject}_{session}_{number + 1:08}.png", FRAMES[4 * row + number])
        label = root / "Emotion" / subject / session / f"{subject}_{session}_{frames:08}_emotion.txt"
        label.parent.mkdir(parents=True)
        label.write_text(f"   {number_of[emotion]}.0000000e+00\n")
    saved(root / "cohn-kanade-images" / "S005" / "002" / "S005_002_00000001.png", FRAMES[0])  # most sequences have no emotion
    (root / "Emotion" / "S005" / "002").mkdir()
    return root


def ck_lists(root: Path) -> Path:
    cohn_kanade(root)
    (root / "Emotion").rename(root / "Emotion_labels")
    lines = [f"cohn-kanade-images/{subject}/{session} {emotion}" for subject, session, emotion, _ in CK]
    return written(root, "train.txt", "\n".join(lines))


def ck_npz(root: Path) -> Path:
    clips = np.zeros((len(CK), 3, HEIGHT, WIDTH), np.uint8)
    for row, (*_, frames) in enumerate(CK):
        clips[row, :frames] = FRAMES[4 * row : 4 * row + frames]
    subject, session, label, lengths = (list(column) for column in zip(*CK, strict=True))
    return npz(root, frames=clips, subject=subject, session=session, label=label, lengths=lengths)


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
    with pytest.warns(UserWarning, match=r"2 subject\(s\) are in more than one split, as Angry-actor"):
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


# --- what is refused, and what is told ------------------------------------------------------------------------------------------------


def empty_folder(root: Path, name: str = "train/Angry/000000000") -> Path:
    (root / name).mkdir(parents=True)
    return root


def file_in(root: Path, name: str, content: bytes = b"RIFF") -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)
    return root


def damaged(root: Path) -> Path:
    path = tree(root) / "train" / "Fear" / "000322047" / "images2.png"
    path.write_bytes(path.read_bytes()[:40])
    return root


LIST = "{split}/{emotion}/{video} {emotion}"
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a listed folder that is missing": (
        lambda r: written(tree(r), "train.txt", "train/Angry/000046280 Angry\n\ntrain/Angry/nowhere Angry\nval/x Sad\n"),
        r"train\.txt, line 3: no folder 'train/Angry/nowhere' below .*\(and 1 more such lines\)",
    ),
    "a list that leads out": (lambda r: written(tree(r), "train.txt", "train/../../x Angry"), r"train\.txt, line 1: .* leads out of"),
    "a path too long": (lambda r: written(tree(r), "train.txt", f"{'x' * 5000} Angry"), "line 1: no folder 'xxx"),
    "a list that is no text": (lambda r: file_in(tree(r), "train.txt", b"a\0b Angry"), "is no text file"),
    "a line without label": (lambda r: written(tree(r), "train.txt", "train/Angry/000046280"), "line 1: .*expected '<folder> <Emotion>'"),
    "a list of a split's own folder": (lambda r: written(tree(r), "train.txt", ". Angry"), "a folder inside a clip's folder"),
    "one video in two splits": (
        lambda r: written(lists(tree(r), LIST), "vallist.txt", "val/Sad/000941320 Sad\ntrain/./Sad/000647360 Sad"),
        r"vallist\.txt, line 2: .*stands in .*trainlist\.txt, line 7, too: it would be in train and in val",
    ),
    "a line twice": (lambda r: written(tree(r), "train.txt", "val/Sad/000941320 Sad\n" * 2), "line 2: .*stands in .*line 1, too; remove"),
    "a class the index lacks": (
        lambda r: class_index(written(tree(r), "train.txt", "val/Sad/000941320 Melancholy")),
        "line 1: class 'Melancholy'; the classes are angry, disgust",
    ),
    "a number the index lacks": (
        lambda r: class_index(written(tree(r), "train.txt", "val/Sad/000941320 0")),
        "line 1: label 0; the classes are 1 angry to 7 surprise",
    ),
    "a negative number": (
        lambda r: class_index(written(tree(r), "train.txt", "val/Sad/000941320 -1"), first=0),
        "label -1; the classes are 0 angry to 6 surprise",
    ),
    "numbers of another order": (
        lambda r: class_index(lists(tree(r), "{split}/{emotion}/{video} {number}", order=FER2013, first=1)),
        r"line 6: label 7 is surprise in the class order .* but the clip lies in Neutral/",
    ),
    "numbers among names": (
        lambda r: written(tree(r), "train.txt", "train/Sad/000647360 Sad\nval/Sad/000941320 3"), "line 2: label 3, but .*line 1 has 'sad'"
    ),
    "a class index with a gap": (lambda r: written(lists(tree(r), LIST), "classInd.txt", "1 Angry\n3 Sad"), "line 2: '3 Sad'; expected"),
    "a class index that counts from 2": (lambda r: class_index(lists(tree(r), LIST), first=2), "numbers from 2"),
    "a class index with a name twice": (lambda r: class_index(lists(tree(r), LIST), ("sad", "sadness")), "class sad stands there twice"),
    "an empty class index": (lambda r: written(lists(tree(r), LIST), "classInd.txt", "\n"), "no classes"),
    "a class that training lacks": (
        lambda r: tree(r, rename={"Disgust": "Joy"}) and empty_folder(r, "val/Awe/1"),
        "class awe has no training",
    ),
    "texts and csv": (
        lambda r: csv_file(lists(tree(r), LIST), "path,label", "{split}/{emotion}/{video},{emotion}"), "holds trainlist.txt and clips.csv"
    ),
    "a csv row with a comma too many": (
        lambda r: written(tree(r), "a.csv", "path,label\nval/Sad/000941320,Sad,val"), r"a\.csv, line 2: 3 fields where the header has 2"
    ),
    "a csv quote that never ends": (
        lambda r: written(tree(r), "a.csv", 'path,label\n"val/Sad'),
        r"a\.csv, line 2: .*a row stands on one line",
    ),
    "a csv split of another name": (
        lambda r: written(tree(r), "a.csv", "path,label,split\nval/Sad/000941320,Sad,most"), "split: unknown value 'most'"
    ),
    "a csv row without label": (lambda r: written(tree(r), "a.csv", "path,label\nval/Sad/000941320,"), "line 2: no label"),
    "AFEW's own tree": (
        lambda r: file_in(r, "Train_AFEW/Angry/000046280.avi"), r"000046280\.avi: a raw video.*python -m finetune\.prepare_video SRC DST"
    ),
    "a list of raw videos": (
        lambda r: written(file_in(r, "Angry/000046280.avi"), "train.txt", "Angry/000046280.avi Angry"),
        r"a raw video.*finetune\.prepare_video",
    ),
    "a raw video": (lambda r: file_in(r, "a.mp4") / "a.mp4", "a raw video"),
    "a video in a clip's folder": (lambda r: file_in(tree(r), "train/Angry/000046280/a.avi"), "a raw video"),
    "only empty folders": (lambda r: empty_folder(r, "train/Angry/1"), "all 1 folders of clips are empty"),
    "an empty folder": (lambda r: r, "no clips found"),
    "frames of different sizes": (
        lambda r: saved(tree(r) / "val/Sad/000941320/images3.png", FRAMES[0][:5]) and r,
        r"frames of different sizes: 6×8 in .*images1\.png, 6×5 in .*images3\.png; pass size=\(height, width\)",
    ),
    "a damaged image": (damaged, r"Fear/000322047/images2\.png: not a whole image"),
    "images without folders": (lambda r: saved(r / "train/Angry/1.png", FRAMES[0]) and r, r"1\.png: an image where a folder per video"),
    "a folder too deep": (
        lambda r: saved(r / "train/Angry/1/faces/1.png", FRAMES[0]) and tree(r),
        "faces: a folder inside a clip's folder",
    ),
    "a folder beside the splits": (lambda r: empty_folder(tree(r), "notes"), "notes: lies beside train/ and is no split"),
    "an emotion that CK+ lacks": (
        lambda r: file_in(cohn_kanade(r), "Emotion/S005/002/S005_002_00000001_emotion.txt", b" 9.0e+00"),
        "'9.0e",
    ),
    "an emotion without frames": (
        lambda r: file_in(cohn_kanade(r), "Emotion/S006/001/S006_001_00000001_emotion.txt", b"1.0"),
        "frames are missing",
    ),
    "another file": (lambda r: file_in(r, "a.bin") / "a.bin", "neither a folder, a list"),
    "npz without labels": (lambda r: npz(r, frames=padded()), "no array 'labels'; found frames"),
    "npz of single images": (lambda r: npz(r, frames=FRAMES, labels=range(len(FRAMES))), r"frames: shape .*expected \(31, T|frames: shape"),
    "npz with fewer labels": (lambda r: npz(r, frames=padded(), labels=LABELS[:-1]), r"frames: shape \(10, .*expected \(9, T, H, W\)"),
    "npz with a clip of no frame": (
        lambda r: npz(r, frames=padded(), labels=LABELS, lengths=[0, *LENGTHS[1:]]),
        "row 1: 0 frames; every clip",
    ),
    "npz with a clip too long": (
        lambda r: npz(r, frames=padded(), labels=LABELS, lengths=[13, *LENGTHS[1:]]),
        "row 1: 13 frames, but clips have 12",
    ),
    "npz with offsets that fall": (
        lambda r: npz(r, frames=FRAMES, labels=LABELS, offsets=[0, 5, 4, *OFFSETS[3:]]), "row 2: -1 frames; every clip"
    ),
    "npz with offsets too short": (lambda r: npz(r, frames=FRAMES, labels=LABELS, offsets=OFFSETS - 1), r"offsets: .*from 0 to 32"),
    "npz of floats": (lambda r: npz(r, frames=padded() / 255, labels=EMOTIONS), "float64 pixels; expected whole numbers"),
    "npz of objects": (lambda r: npz(r, frames=padded(), labels=np.array([*EMOTIONS[:-1], None], dtype=object)), "refused"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_source_is_refused_with_its_place(case: str, tmp_path: Path) -> None:
    build, message = REFUSED[case]
    (tmp_path / "d").mkdir()
    source = build(tmp_path / "d")
    with pytest.raises(FinetuneError) as error:
        quietly(source)
    assert re.search(message, str(error.value)), error.value
    assert str(tmp_path) in str(error.value)
    assert not (tmp_path / "home").exists()


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", FLAT)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_clips(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"list\.txt: no such file, neither here nor in"):
        read_clips(root, lists={"train": "list.txt"})
    with pytest.raises(FinetuneError, match="'trian' is no split"):
        read_clips(root, lists={"trian": "list.txt"})
    written(root, "mine.txt", "Angry/000046280 Angry")
    with pytest.raises(FinetuneError, match=r"mine\.txt: its name doesn't say the split; pass lists="):
        read_clips(written(root, "val.txt", "Sad/000941320 Sad"), lists=["mine.txt", "val.txt"])
    assert read_clips(root, lists="mine.txt").split == ("train",)
    with pytest.raises(FinetuneError, match=r"header path,label"):
        read_clips(written(root, "mine.csv", "a,b\n1,2"), lists=["mine.csv"])
    with pytest.raises(FinetuneError, match="lists= belongs to a folder"):
        read_clips(npz(tmp_path, frames=padded(), labels=LABELS), lists="x")
    with pytest.raises(FinetuneError, match=r"size=\(0, 8\): expected \(height, width\)"):
        read_clips(root, size=(0, 8))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("Angry/1/1.png", b"")
    with pytest.raises(FinetuneError, match="an archive without arrays; unpack it"):
        read_clips(tmp_path / "a.zip")


TOLD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "an empty folder": (lambda r: empty_folder(tree(r)), r"1 clip\(s\) without a frame left out: train/Angry/000000000"),
    "a listed empty folder": (
        lambda r: written(
            empty_folder(tree(r)), "train.txt", "train/Angry/000000000 Angry\ntrain/Angry/000149120 Angry\ntrain/Sad/000647360 Sad"
        ),
        "1 clip.* without a frame",
    ),
    "a file that is no image": (lambda r: file_in(tree(r), "train/Sad/000647360/log.txt"), r"1 file\(s\) that are no images left out"),
    "the same bytes in two splits": (
        lambda r: saved(saved(tree(r) / "val/Sad/1/a.png", FRAMES[12]) and r / "train/Fear/2/b.png", FRAMES[12]) and r,
        r"1 clip\(s\) are in more than one split, byte by byte, as 000149120 in train and 1 in val",
    ),
    "a label that is not the folder's": (
        lambda r: written(tree(r), "train.txt", "train/Angry/000046280 Sad\ntrain/Angry/000149120 Angry"),
        "1 clip.* lie in the folder of another",
    ),
    "another number of frames": (
        lambda r: written(tree(r), "train.txt", "train/Angry/000046280 99 Angry"),
        "1 clip.* have another number of frames than the list says",
    ),
    "paths of another machine": (
        lambda r: written(tree(r), "train.txt", "D:\\AFEW\\train\\Sad\\000647360 Sad"), r"1 path\(s\) of the lists lie on another machine"
    ),
    "subjects of some clips": (
        lambda r: written(tree(r), "a.csv", "path,label,subject\nval/Sad/000941320,Sad,me\ntrain/Sad/000647360,Sad,"),
        "not every clip has one",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TOLD)
def test_what_is_left_out_is_told_also_from_the_cache(case: str, tmp_path: Path) -> None:
    build, message = TOLD[case]
    source = build(tmp_path / "d")
    for _ in range(2):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = read_clips(source)
        assert any(re.search(message, str(each.message)) for each in told)
        assert any(re.search(message, note) for note in found.notes)
        assert (found.lengths() > 0).all()


# --- the cache ------------------------------------------------------------------------------------------------------------------------


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
    assert found.sha256 == seen[-1] and any("no images left out" in note for note in found.notes)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    assert len(read_clips(tree(tmp_path / "d"))) == len(VIDEOS)


# --- parts of clips -------------------------------------------------------------------------------------------------------------------


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


# --- sampling -------------------------------------------------------------------------------------------------------------------------

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
    assert frame_mask(batch[:, :, None], valid).sum(1).tolist() == [min(length, 4) for length in LENGTHS]
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


# --- folds ----------------------------------------------------------------------------------------------------------------------------


def drawn_subjects(rows: int = 400, people: int = 45) -> tuple[list[str], torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return [f"p{number}" for number in torch.randint(people, (rows,), generator=generator)], torch.randint(5, (rows,), generator=generator)


@pytest.mark.parametrize("folds", [2, 5, 10, 45])
def test_no_subject_is_in_two_folds_and_every_clip_in_one(folds: int) -> None:
    subjects, labels = drawn_subjects()
    found = subject_folds(subjects, labels, folds)
    assert len(found) == folds
    for train, test in found:
        assert len(test)
        assert sorted([*train.tolist(), *test.tolist()]) == list(range(400))
        assert not {subjects[row] for row in train} & {subjects[row] for row in test}
    assert sorted(row for _, test in found for row in test.tolist()) == list(range(400))


def test_folds_are_about_equal_in_size_and_classes() -> None:
    subjects, labels = drawn_subjects()
    for _, test in subject_folds(subjects, labels, 5):
        assert abs(len(test) - 80) <= 4
        assert ((labels[test].bincount(minlength=5) - labels.bincount() / 5).abs() <= 5).all()


def test_folds_depend_on_the_seed_and_not_on_the_order_of_the_clips() -> None:
    subjects, labels = drawn_subjects()

    def together(seed: int, order: list[int]) -> set[frozenset[str]]:
        found = subject_folds([subjects[row] for row in order], labels[order], 5, seed)
        return {frozenset(subjects[order[row]] for row in test) for _, test in found}

    rows = list(range(400))
    assert together(0, rows) == together(0, rows[::-1])
    assert together(0, rows) != together(1, rows)


def test_fewer_subjects_than_folds_are_refused() -> None:
    with pytest.raises(FinetuneError, match="10 folds of 3 subjects; take 2 to 3 folds"):
        subject_folds(["a", "b", "c", "a"], [0, 1, 0, 1])
    with pytest.raises(FinetuneError, match="2 subjects for 3 labels"):
        subject_folds(["a", "b"], [0, 1, 0], 2)
