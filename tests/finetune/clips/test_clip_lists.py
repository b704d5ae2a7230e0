"""A list beside the folders of frames is read, whatever its form, or refused by name; it is never passed over in silence."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.clips.data import Clips, read_clips
from finetune.errors import FinetuneError

CLIPS = {"vid000": "Angry", "vid001": "Happy", "vid002": "Sad", "vid003": "Happy"}
ROWS = [(f"clips/{name}", label) for name, label in CLIPS.items()]
SPLITS = ["train", "train", "train", "val"]


def frames(folder: Path, count: int = 2) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(np.full((4, 4), 9 * number + int(folder.name[3:]), np.uint8)).save(folder / f"{number}.png")


def flat(root: Path) -> Path:
    """All clips in one folder, which says no class."""
    for name in CLIPS:
        frames(root / "clips" / name)
    return root


def split_tree(root: Path) -> Path:
    for (name, _), split in zip(CLIPS.items(), SPLITS, strict=True):
        frames(root / split.capitalize() / "clips" / name)
    return root


def beside(root: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text.encode(encoding))
    return root


def table(separator: str, header: str = "", split: bool = False) -> str:
    rows = [header] if header else []
    for (path, label), part in zip(ROWS, SPLITS, strict=True):
        rows.append(separator.join([path, label, *([part] if split else [])]))
    return "\n".join(rows) + "\n"


def read(root: Path) -> tuple[Clips, list[str]]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = read_clips(root)
    return found, [str(each.message) for each in told]


READ: dict[str, Callable[[Path], Path]] = {
    "semicolons": lambda r: beside(flat(r), "labels.csv", table(";", "path;label;split", split=True)),
    "tabs": lambda r: beside(flat(r), "labels.tsv", table("\t", "path\tlabel")),
    "bars": lambda r: beside(flat(r), "labels.txt", table("|")),
    "a spreadsheet's unicode text": lambda r: beside(flat(r), "labels.txt", table("\t", "path\tlabel"), "utf-16"),
    "UTF-16 without its mark": lambda r: beside(flat(r), "labels.txt", table("\t", "path\tlabel"), "utf-16-le"),
    "comments above the header": lambda r: beside(flat(r), "labels.csv", "# by hand\n# 2020\n" + table(",", "path,label")),
    "comments above no header": lambda r: beside(flat(r), "labels.txt", "# by hand\n" + table(" ")),
    "a title": lambda r: beside(flat(r), "labels.csv", "Our labels\n\n" + table(",", "path,label")),
    "a spreadsheet's separator": lambda r: beside(flat(r), "labels.csv", "sep=;\n" + table(";", "path;label")),
    "splits in a column of another name": lambda r: beside(flat(r), "labels.csv", table(",", "path,label,phase", split=True)),
    "an old Mac's lines": lambda r: beside(flat(r), "labels.csv", table(",", "path,label").replace("\n", "\r")),
    "name,emotion": lambda r: beside(flat(r), "labels.csv", table(",", "name,emotion")),
    "path,class": lambda r: beside(flat(r), "annotations.csv", table(",", "path,class")),
    "Video Name;Class Label": lambda r: beside(flat(r), "list.csv", table(";", '"Video Name";"Class Label"')),
    "a header behind a #": lambda r: beside(flat(r), "labels.txt", table(" ", "# path label")),
    "labels.txt": lambda r: beside(flat(r), "labels.txt", table(" ")),
    "labels.txt with commas": lambda r: beside(flat(r), "labels.txt", table(", ")),
    "colons": lambda r: beside(flat(r), "labels.txt", table(": ")),
    "no ending": lambda r: beside(flat(r), "labels", table(" ")),
    "the label first": lambda r: beside(flat(r), "labels.txt", "".join(f"{label} {path}\n" for path, label in ROWS)),
    "csv without header": lambda r: beside(flat(r), "train.csv", table(",")),
    "csv without header, with splits": lambda r: beside(flat(r), "labels.csv", table(",", split=True)),
    "the label's column first": lambda r: beside(flat(r), "labels.csv", "".join(f"{label};{path}\n" for path, label in ROWS)),
    "bare names": lambda r: beside(flat(r), "labels.csv", table(",", "video,label").replace("clips/", "")),
    "names of videos": lambda r: beside(flat(r), "labels.csv", re.sub(r"(vid\d+)", r"\1.avi", table(",", "video,label"))),
    "numbers and names of the classes": lambda r: beside(
        flat(r), "labels.csv", "path,label,emotion\n" + "".join(f"{path},{'AHS'.index(label[0])},{label}\n" for path, label in ROWS)
    ),
    "beside the clips' own folders": lambda r: beside(flat(r), "clips/labels.csv", table(",", "path,label").replace("clips/", "")),
    "in a folder of lists": lambda r: beside(flat(r), "lists/all.csv", table(",", "path,label")),
    "paths in the folders of the splits": lambda r: beside(split_tree(r), "labels.csv", table(",", "path,label")),
    "a list a split": lambda r: beside(
        beside(split_tree(r), "Val/labels.txt", "clips/vid003 Happy\n"), "Train/labels.txt", "\n".join(table(" ").split("\n")[:3])
    ),
    "a line that ends with the separator": lambda r: beside(flat(r), "labels.csv", table(",").replace("\n", ",\n")),
}  # fmt: skip
WITH_SPLITS = {
    "splits in a column of another name",
    "semicolons",
    "csv without header, with splits",
    "paths in the folders of the splits",
    "a list a split",
}


@pytest.mark.parametrize("case", READ)
def test_a_list_of_any_form_says_the_labels(case: str, tmp_path: Path) -> None:
    found, told = read(READ[case](tmp_path / "d"))
    labels = {name: found.classes[label] for name, label in zip(found.ids, found.labels.tolist(), strict=True)}
    assert labels == {name: label.lower() for name, label in CLIPS.items()}
    expected = SPLITS if case in WITH_SPLITS else ["train"] * 4
    assert dict(zip(found.ids, found.split, strict=True)) == dict(zip(CLIPS, expected, strict=True))
    assert not told


ONE_LOST = "clips/vid000;Sad;val\n"
TWO_WORDS = "path,label,emotion\nclips/vid000,0,Sad\nclips/vid001,0,Happy\n"
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "an unknown header": (
        lambda r: beside(flat(r), "labels.csv", table(",", "foo,bar")),
        r"labels\.csv, line 1: 'foo,bar': no clip here",
    ),
    "a column too many": (
        lambda r: beside(flat(r), "labels.csv", table(",").replace("\n", ",7,8\n")),
        r"labels\.csv, line 1: .*which column is the label\? Put a header first: path,label",
    ),
    "numbers of frames": (
        lambda r: beside(with_another(flat(r), "clips/vid009", 5), "frames.txt", "clips/vid009 5\nclips/vid000 2\n"),
        r"frames\.txt: its numbers are those of the clips' frames, not labels",
    ),
    "paths without labels": (
        lambda r: beside(flat(r), "all.txt", "clips/vid000\nclips/vid001\n"),
        r"all\.txt, line 1: .*expected '<folder> <Emotion>'",
    ),
    "paths of another tree": (
        lambda r: beside(flat(r), "labels.csv", table(";").replace("clips/", "faces/S1/")),
        r"labels\.csv, line 1: .*names no clip below",
    ),
    "classes that contradict each other": (
        lambda r: beside(flat(r), "a.csv", TWO_WORDS),
        r"a\.csv, line 1: label and emotion say different classes",
    ),
    "columns of names that contradict each other": (
        lambda r: beside(flat(r), "a.csv", "path,label,emotion\nclips/vid000,Sad,Happy\nclips/vid001,Happy,Sad\n"),
        r"a\.csv, line 1: label and emotion say different classes",
    ),
    "two columns of splits": (
        lambda r: beside(flat(r), "a.csv", "path,label,phase,half\nclips/vid000,Sad,train,test\nclips/vid001,Happy,val,train\n"),
        r"a\.csv, line 1: phase and half both name splits",
    ),
    "no number": (
        lambda r: beside(flat(r), "labels.csv", table(",", "path,label").replace("Sad", "NaN")),
        r"labels\.csv, line 4: no label \(NaN\); complete or remove the row",
    ),
    "names, a word each": (
        lambda r: beside(flat(r), "labels.log", "".join(f"{path[6:]} looks {label}, I think\n" for path, label in ROWS)),
        r"labels\.log: names clips, but is no table",
    ),
    "packed": (lambda r: beside(flat(r), "all.csv.gz", "\x1f\0", "latin-1"), r"all\.csv\.gz: may name the clips' classes.*; unpack it"),
    "an array": (lambda r: beside(flat(r), "emotions.npy", "\x93NUMPY\0", "latin-1"), r"emotions\.npy: .*no text file.*save it as csv"),
    "json": (
        lambda r: beside(flat(r), "labels.json", '{"vid000": "Angry"}'),
        r"labels\.json: names clips, but is no table; write csv",
    ),
    "sentences": (
        lambda r: beside(flat(r), "faces.log", "".join(f"saw {path} and found {label} in it\n" for path, label in ROWS)),
        r"faces\.log: names clips, but is no table; write csv",
    ),
    "a spreadsheet": (
        lambda r: beside(flat(r), "labels.xlsx", "PK\x03\x04"),
        r"labels\.xlsx: a spreadsheet beside the clips; save it as csv",
    ),
    "a split that the folders contradict": (
        lambda r: beside(split_tree(r), "train.csv", table(",")),
        r"train\.csv, line 4: 'clips/vid003' is Val/clips/vid003, but .* says train",
    ),
    "two lists of which one says no split": (
        lambda r: beside(beside(flat(r), "train.txt", "clips/vid000 Angry\n"), "labels.txt", "clips/vid001 Angry\n"),
        r"labels\.txt: its name doesn't say the split; pass lists=",
    ),
    "a name that two clips have": (
        lambda r: beside(with_another(flat(r), "more/vid001"), "labels.csv", "name,emotion\nvid000,Angry\nvid001,Sad\n"),
        r"labels\.csv, line 3: 'vid001' may be clips/vid001 or more/vid001",
    ),
    "a row of another width": (
        lambda r: beside(flat(r), "labels.csv", table(";", "path;label") + ONE_LOST),
        r"line 6: 3 fields where the header has 2",
    ),
}


def with_another(root: Path, folder: str, count: int = 2) -> Path:
    frames(root / folder, count)
    return root


@pytest.mark.parametrize("case", REFUSED)
def test_a_list_that_is_not_understood_is_refused_by_name(case: str, tmp_path: Path) -> None:
    build, message = REFUSED[case]
    with pytest.raises(FinetuneError) as error:
        read(build(tmp_path / "d"))
    assert re.search(message, str(error.value)), error.value


def class_tree(root: Path) -> Path:
    for name, label in CLIPS.items():
        frames(root / label / name)
    return root


def test_a_list_that_contradicts_the_folders_is_followed_and_the_rest_told(tmp_path: Path) -> None:
    found, told = read(beside(class_tree(tmp_path / "d"), "labels.csv", "name;emotion\nvid000;Sad\nvid001;Happy\n"))
    assert [found.classes[label] for label in found.labels.tolist()] == ["sad", "happy"]
    assert any("1 clip in the folder of another class than the label says" in note for note in told)
    assert any("left out: 2 clips that no list names" in note for note in told)


@pytest.mark.parametrize(
    ("name", "text", "note"),
    [
        ("notes.txt", "taken in the lab\n", "notes.txt is no list of clips: not read"),
        ("classes.txt", "angry\nhappy\nsad\n", "classes.txt names classes, not clips: not read; pass it as class_index="),
        ("labels.txt", "1 angry\n2 happy\n3 sad\n", "labels.txt names classes, not clips"),
        ("README.txt", "Angry/vid000 is the first\n", None),
        ("data.json", '{"source": "the lab"}', "data.json is no list of clips: not read"),
    ],
)
def test_another_text_beside_class_folders_is_noted(name: str, text: str, note: str | None, tmp_path: Path) -> None:
    found, told = read(beside(class_tree(tmp_path / "d"), name, text))
    assert [found.classes[label] for label in found.labels.tolist()] == ["angry", "happy", "happy", "sad"]
    assert len(told) == (note is not None)
    assert note is None or note in told[0]


# --- classes that lose their files ----------------------------------------------------------------------------------------------------


def test_files_that_are_no_text_are_noted(tmp_path: Path) -> None:
    beside(beside(class_tree(tmp_path / "d"), "faces.bin", "a\0b"), "model.dat", "\0\1")
    assert [note.partition(": ")[2] for note in read(tmp_path / "d")[1]] == [
        "2 files beside the clips not read, being no text: faces.bin, ..."
    ]


def test_whole_numbers_that_are_written_with_a_point_are_numbers(tmp_path: Path) -> None:
    rows = "".join(f"{path},{number}.0\n" for number, (path, _) in enumerate(ROWS))
    assert read(beside(flat(tmp_path / "d"), "labels.csv", "path,label\n" + rows))[0].classes == ("0", "1", "2", "3")


def test_a_class_without_a_readable_clip_is_refused(tmp_path: Path) -> None:
    root = class_tree(tmp_path / "d")
    beside(root, "Surprise/vid009/0.heic", "ftypheic")
    with pytest.raises(FinetuneError, match=r"vid009: no clip of the class surprise has a frame"):
        read(root)
    (root / "Surprise/vid009/0.heic").rename(root / "Surprise/0.heic")
    (root / "Surprise/vid009").rmdir()
    with pytest.raises(FinetuneError, match=r"Surprise: holds no clip, but 1 file like 0\.heic"):
        read(root)
    (root / "Surprise/0.heic").unlink()
    _, told = read(root)
    assert any("1 empty folder where classes are expected: Surprise" in note for note in told)


def test_a_class_that_training_loses_is_refused(tmp_path: Path) -> None:
    for split in ("train", "val"):
        class_tree(tmp_path / "d" / split)
    for path in (tmp_path / "d/train/Angry/vid000").iterdir():
        path.unlink()
    with pytest.raises(FinetuneError, match="no clip of train of the class angry has a frame"):
        read(tmp_path / "d")


def test_one_file_left_out_is_named(tmp_path: Path) -> None:
    _, told = read(beside(class_tree(tmp_path / "d"), "Happy/vid001/0.heic", "ftypheic"))
    assert any(re.search(r"left out: 1 file, being no images, as Happy/vid001/0\.heic", note) for note in told)


def test_frames_are_turned_as_their_exif_orientation_says(tmp_path: Path) -> None:
    for name, label in CLIPS.items():
        frames(tmp_path / "d" / label / name, 1)
        image = Image.fromarray(np.repeat(np.array([[255], [0], [0], [0]], np.uint8), 4, 1))
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / "d" / label / name / "7.png", exif=exif)
    found, _ = read(tmp_path / "d")
    assert found.clip(0)[1].tolist() == [[0, 0, 0, 255]] * 4


def test_one_class_is_refused_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from finetune.emotiw import main

    root, out = flat(tmp_path / "d"), tmp_path / "run"
    assert main(["--recipe", "clip_mean", "--data", str(root), "--out", str(out), "--smoke", "--cpu"]) == 1
    assert "d: one class only (clips) to train on, so nothing to tell apart" in capsys.readouterr().err
    assert not out.exists()
