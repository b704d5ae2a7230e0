"""Sources of clips that are refused, with their place; and what is left out of others, with a note."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clip_trees import (
    EMOTIONS,
    FLAT,
    FRAMES,
    LABELS,
    LENGTHS,
    LIST,
    OFFSETS,
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
    written,
)

from finetune.clips.data import read_clips
from finetune.errors import FinetuneError
from finetune.labels import FER2013


def empty_folder(root: Path, name: str = "train/Angry/000000000") -> Path:
    (root / name).mkdir(parents=True)
    return root


def damaged(root: Path) -> Path:
    path = tree(root) / "train" / "Fear" / "000322047" / "images2.png"
    path.write_bytes(path.read_bytes()[:40])
    return root


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
    "an empty folder": (lambda r: empty_folder(tree(r)), r"left out: 1 clip without a frame: train/Angry/000000000"),
    "a listed empty folder": (
        lambda r: written(
            empty_folder(tree(r)), "train.txt", "train/Angry/000000000 Angry\ntrain/Angry/000149120 Angry\ntrain/Sad/000647360 Sad"
        ),
        "1 clip.* without a frame",
    ),
    "a file that is no image": (lambda r: file_in(tree(r), "train/Sad/000647360/log.txt"), r"left out: 1 file, being no images"),
    "the same bytes in two splits": (
        lambda r: saved(saved(tree(r) / "val/Sad/1/a.png", FRAMES[12]) and r / "train/Fear/2/b.png", FRAMES[12]) and r,
        r"1 clip in more than one split, byte for byte, as 000149120 in train and 1 in val",
    ),
    "a label that is not the folder's": (
        lambda r: written(tree(r), "train.txt", "train/Angry/000046280 Sad\ntrain/Angry/000149120 Angry"),
        "1 clip.* in the folder of another",
    ),
    "another number of frames": (
        lambda r: written(tree(r), "train.txt", "train/Angry/000046280 99 Angry"),
        "1 clip with another number of frames than the list says",
    ),
    "paths of another machine": (
        lambda r: written(tree(r), "train.txt", "D:\\AFEW\\train\\Sad\\000647360 Sad"), r"1 path of another machine in the lists"
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
