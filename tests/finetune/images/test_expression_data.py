"""Every layout that expression data come in gives the same tensor; everything else is refused with its place."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune import files
from finetune.errors import FinetuneError
from finetune.images import data, layouts
from finetune.images.data import (
    Expressions,
    exact_duplicates,
    read,
    reorder,
)
from finetune.images.votes import vote_targets, with_votes
from finetune.labels import FER2013, LABEL_ORDERS, check_classes

REAL = Path(__file__).parents[4] / "shared" / "data" / "fer2013"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the images of FER2013 may not be handed on; they are not beside this checkout")
USAGE = {"train": "Training", "public": "PublicTest", "private": "PrivateTest"}

RNG = np.random.default_rng(7)
SIDE = 8
LABELS = [0, 1, 2, 3, 4, 5, 6, 3, 6, 0, 3, 5]
SPLIT = ["train"] * 8 + ["public"] * 2 + ["private"] * 2
IMAGES = RNG.integers(0, 256, (len(LABELS), SIDE, SIDE), dtype=np.uint8)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "home"))


def text(image: np.ndarray) -> str:
    return " ".join(map(str, image.ravel().tolist()))


def csv_bytes(header: str = "emotion,pixels,Usage", row: str = "{emotion},{pixels},{usage}") -> bytes:
    lines = [header]
    for label, image, split in zip(LABELS, IMAGES, SPLIT, strict=True):
        lines.append(row.format(emotion=label, pixels=text(image), usage=USAGE[split]))
    return ("\n".join(lines) + "\n").encode()


def zipped(folder: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(folder / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return folder / "data.zip"


def tarred(folder: Path, members: dict[str, bytes], mode: str = "w:gz", name: str = "data.tar.gz") -> Path:
    with tarfile.open(folder / name, mode) as archive:  # type: ignore[call-overload]
        for inside, content in members.items():
            info = tarfile.TarInfo(inside)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return folder / name


def written(folder: Path, content: bytes, name: str = "fer2013.csv") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def folders(root: Path, class_of: Callable[[int], str], split_of: Callable[[str], str] = str, name: str = "{row}.png") -> Path:
    from PIL import Image

    for row, (label, image, split) in enumerate(zip(LABELS, IMAGES, SPLIT, strict=True)):
        path = root / split_of(split) / class_of(label) / name.format(row=row, usage=USAGE[split])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return root


def hdf5(folder: Path) -> Path:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: HDF5 files cannot be written")
    with h5py.File(folder / "data.h5", "w") as file:
        for split, usage in USAGE.items():
            rows = [row for row, each in enumerate(SPLIT) if each == split]
            file.create_dataset(f"{usage}_pixel", data=IMAGES[rows], dtype="uint8")
            file.create_dataset(f"{usage}_label", data=np.array(LABELS)[rows], dtype="int64")
    return folder / "data.h5"


def npz(folder: Path, **arrays: object) -> Path:
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    return folder / "data.npz"


SPLIT_NUMBERS = [["train", "public", "private"].index(split) for split in SPLIT]
LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "fer2013.csv": lambda t: written(t, csv_bytes()),
    "a folder with fer2013.csv": lambda t: written(t, csv_bytes()).parent,
    "windows line ends and a byte order mark": lambda t: written(t, b"\xef\xbb\xbf" + csv_bytes().replace(b"\n", b"\r\n")),
    "gzipped csv": lambda t: written(t, gzip.compress(csv_bytes()), "fer2013.csv.gz"),
    "zip": lambda t: zipped(t, {"readme.txt": b"hello", "fer2013/fer2013.csv": csv_bytes()}),
    "kaggle's zip": lambda t: zipped(t, {"test.csv": b"pixels\n", "train.csv": b"", "icml_face_data.csv": csv_bytes()}),
    "tar.gz": lambda t: tarred(t, {"fer2013/README": b"hello", "fer2013/fer2013.csv": csv_bytes(), "fer2013/fer2013.bib": b"@a"}),
    "tar": lambda t: tarred(t, {"fer2013.csv": csv_bytes()}, "w", "plain.tar"),
    "tar.xz under another name": lambda t: tarred(t, {"fer2013.csv": csv_bytes()}, "w:xz", "what.bin"),
    "a member outside": lambda t: tarred(t, {"../../fer2013.csv": csv_bytes()}),
    "icml_face_data.csv": lambda t: written(t, csv_bytes("emotion, Usage, pixels", "{emotion},{usage},{pixels}")),
    "quoted pixels": lambda t: written(t, csv_bytes('"emotion","pixels","Usage"', '{emotion},"{pixels}","{usage}"')),
    "semicolons": lambda t: written(t, csv_bytes().replace(b",", b";")),
    "tabs and a label of another name": lambda t: written(t, csv_bytes("label,pixels,split").replace(b",", b"\t")),
    "a split under a name of nobody's": lambda t: written(t, csv_bytes("emotion,pixels,phase")),
    "whole numbers with a point": lambda t: written(t, csv_bytes(row="{emotion}.0,{pixels},{usage}")),
    "folders by padded number": lambda t: folders(t / "d", "0{}".format),
    "folders of sets": lambda t: folders(t / "d", str, lambda split: {"train": "train_set"}.get(split, USAGE[split])),
    "folders by number": lambda t: folders(t / "d", str, lambda split: USAGE[split]),
    "folders by name": lambda t: folders(t / "d", lambda label: FER2013[label].capitalize()),
    "folders in capitals": lambda t: folders(t / "d", lambda label: FER2013[label].upper()),
    "folders by synonym": lambda t: folders(t / "d", lambda label: {0: "Anger", 3: "happiness"}.get(label, FER2013[label])),
    "splits in file names": lambda t: folders(
        t / "d", lambda label: FER2013[label], lambda s: "train" if s == "train" else "test", "{usage}_{row}.png"
    ),
    "hdf5": hdf5,
    "npz": lambda t: npz(t, images=IMAGES, label=np.array(LABELS, np.uint8), split=np.array(SPLIT_NUMBERS, np.uint8)),
    "npz with phases": lambda t: npz(t, images=IMAGES, labels=np.array(LABELS), phase=[USAGE[s] for s in SPLIT]),
    "npz with names": lambda t: npz(t, X=IMAGES[..., None].astype(int), y=LABELS, Usage=[USAGE[s] for s in SPLIT], classes=FER2013),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_tensor(layout: str, tmp_path: Path) -> None:
    source = LAYOUTS[layout](tmp_path)
    for cache in (False, True, True):
        found = read(source, cache=cache)
        assert found.images.dtype == torch.uint8
        assert found.labels.dtype == torch.int64
        np.testing.assert_array_equal(found.images.numpy(), IMAGES)
        assert found.labels.tolist() == LABELS
        assert list(found.split) == SPLIT
        assert found.classes == FER2013


def test_kaggles_train_csv_is_all_training_data(tmp_path: Path) -> None:
    found = read(written(tmp_path, csv_bytes("emotion,pixels", '{emotion},"{pixels}"'), "train.csv"))
    assert found.counts() == {"train": len(LABELS)}
    assert found.labels.tolist() == LABELS


def test_the_older_projects_folders_have_a_test_part(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="labels are numbers, taken in FER2013's order: 0 angry, 1 disgust"):
        found = read(folders(tmp_path / "d", str, lambda split: "test" if split == "private" else "train"))
    assert found.classes == FER2013
    assert found.counts() == {"train": 10, "test": 2}
    assert found.part("test").labels.tolist() == LABELS[10:]


def test_any_classes_can_be_read(tmp_path: Path) -> None:
    from PIL import Image

    colours = RNG.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
    for number, colour in enumerate(colours):
        (tmp_path / "d" / f"id{number}").mkdir(parents=True)
        Image.fromarray(colour).save(tmp_path / "d" / f"id{number}" / "a.png")
    found = read(tmp_path / "d")
    assert found.classes == tuple(f"id{number}" for number in range(12))
    assert found.counts() == {"train": 12}
    order = found.labels.argsort()
    np.testing.assert_array_equal(found.images[order].permute(0, 2, 3, 1).numpy(), colours)
    assert read(tmp_path / "d", size=16).images.shape == (12, 3, 16, 16)


def test_numbered_folders_that_are_not_0_to_6_keep_their_numbers(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="classes are called 5 to 11, and nothing says what they mean"):
        found = read(folders(tmp_path / "d", lambda label: str(label + 5)))
    assert found.classes == ("5", "6", "7", "8", "9", "10", "11")
    assert found.labels.tolist() == LABELS


def test_grey_pictures_saved_as_colour_are_grey(tmp_path: Path) -> None:
    from PIL import Image

    for row, image in enumerate(IMAGES[:2]):
        (tmp_path / "d" / "ab"[row]).mkdir(parents=True)
        Image.fromarray(image).convert("RGB").save(tmp_path / "d" / "ab"[row] / "x.png")
    np.testing.assert_array_equal(read(tmp_path / "d").images.numpy(), IMAGES[:2])


STRAY = b"\0\0\0 README\nThe rest of an archive, with commas\n@article{a, b}\n\n"


def test_text_behind_the_last_row_is_left_out_with_a_warning_each_time(tmp_path: Path) -> None:
    path = written(tmp_path, csv_bytes() + STRAY)
    for _ in range(2):  # decoded, then from the cache
        with pytest.warns(UserWarning, match=rf"left out: 3 lines after the last row, from line {len(LABELS) + 2} on"):
            assert read(path).labels.tolist() == LABELS


def test_files_that_are_no_images_are_left_out_with_a_warning(tmp_path: Path) -> None:
    root = folders(tmp_path / "d", str)
    (root / "train" / "0" / "notes.txt").write_text("mine")
    (root / "train" / "0" / "Thumbs.db").write_text("the system's")
    with pytest.warns(UserWarning, match=r"1 file in class folders, being no images"):
        assert len(read(root)) == len(LABELS)


def with_files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\0\0\0\x18ftypheic")
    return root


def twice_labelled(tmp_path: Path) -> Path:
    root = folders(tmp_path / "d", lambda label: FER2013[label], lambda split: "train" if split == "train" else "val")
    (root / "train/sad/copy.png").write_bytes((root / "train/angry/0.png").read_bytes())
    return root


def with_image(root: Path, name: str) -> Path:
    from PIL import Image

    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(IMAGES[0] + 1).save(root / name)
    return root


def with_text(root: Path, name: str, text: str) -> Path:
    (root / name).write_text(text)
    return root


LISTS = {
    "a header": ("labels.csv", "path,label\nangry/0.png,happy\n", r"in 1 row of 1, .*angry/0\.png is happy there.*angry/"),
    "as Kaggle's AffectNet": ("train/l.csv", ",pth,label,relFCs\n0,angry/0.png,sad,0.9\n", "another class than the folder's"),
    "blanks": ("list.txt", "0.png 5\n1.png 5\n", r"in 1 row of 2, the first: 1\.png is 5 there"),
    "what agrees": ("labels.csv", "path,label\nangry/0.png,Anger\ndisgust/1.png,Disgust\n", None),
    "numbers that agree": ("list.txt", "0.png 7\n1.png 3\n9.png 7\n", None),
}  # fmt: skip


@pytest.mark.parametrize("case", LISTS)
def test_a_list_beside_class_folders_may_not_contradict_them(case: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    name, content, message = LISTS[case]
    root = with_text(folders(tmp_path / "d", lambda label: FER2013[label]), name, content)
    if message is None:
        read(root)
        assert not recwarn.list
        return
    with pytest.raises(FinetuneError, match=message):
        read(root)


def one_based_hdf5(folder: Path, **more: object) -> Path:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: HDF5 files cannot be written")
    with h5py.File(folder / "data.h5", "w") as file:
        for name, values in {"Training_pixel": IMAGES, "Training_label": np.array(LABELS) % 6 + 1, **more}.items():
            file[name] = values
    return folder / "data.h5"


NOTED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "the last folder's": (lambda t: with_files(folders(t / "d", str), "train/6/z.heic"), r"1 file in .*in train/6 \(z\.heic\)"),
    "of two folders": (
        lambda t: with_files(folders(t / "d", str), "train/0/a.heic", "train/0/b.heic", "train/3/c.txt"),
        r"3 files .*train/0 \(a\.heic, \.\.\.\), train/3 \(c\.txt\)",
    ),
    "in no class": (lambda t: with_files(folders(t / "d", str), "train/stray.png"), r"1 image in no class's folder.*train/stray\.png"),
    "an empty folder": (lambda t: with_files(folders(t / "d", str), "train/7/.keep"), r"1 empty folder .*train/7"),
    "two labels": (
        twice_labelled,
        r"1 image under several labels.*train/angry/0\.png \(angry\) and train/sad/copy\.png \(sad\)",
    ),
    "two labels in rows": (
        lambda t: written(t, f"emotion,pixels\n1,{GOOD}\n0,{text(IMAGES[1])}\n2,{GOOD}\n".encode()),
        r"row 1 \(disgust\) and row 3 \(fear\)",
    ),
    "no label 0": (
        lambda t: written(t, f"emotion,pixels\n1,{GOOD}\n6,{text(IMAGES[1])}\n".encode()),
        "no label is 0; they are taken in FER2013's order, from 1 disgust on",
    ),
    "other numbers": (
        lambda t: folders(t / "d", lambda label: str(label + 1)),
        "classes are called 1 to 7, and.*RAF-DB: surp",
    ),
    "two folders of a split": (
        lambda t: folders(t / "d", str, lambda split: {"train": "Train", "public": "train"}.get(split, split)),
        "Train and train are read as one, train",
    ),
    "two folders of a class": (
        lambda t: with_image(folders(t / "d", lambda label: FER2013[label]), "train/Anger/9.png"),
        "Anger and angry are read as one, angry",
    ),
    "a list beside the folders": (lambda t: with_text(folders(t / "d", str), "labels.csv", "a,b,c\n"), "labels.csv lies beside the class"),
    "labels of an HDF5 file that count from 1": (one_based_hdf5, "no label is 0; they are taken in FER2013's order"),
    "arrays that nobody reads": (
        lambda t: npz(t, images=IMAGES, labels=LABELS, classes=FER2013, emotion=LABELS, ages=LABELS),
        "2 arrays not read: 'emotion', 'ages'",
    ),
    "numbers in an npz": (lambda t: npz(t, images=IMAGES, labels=LABELS), "labels are numbers, taken in FER2013's order"),
}


@pytest.mark.parametrize("case", NOTED)
def test_what_may_be_wrong_is_noted_also_from_the_cache(case: str, tmp_path: Path) -> None:
    make, message = NOTED[case]
    source = make(tmp_path)
    for _ in range(2):
        with pytest.warns(UserWarning, match=message):
            read(source)


GOOD = text(IMAGES[0])
ROWS: dict[str, tuple[str, str]] = {
    "unlabelled": (f",{GOOD},Training", r"line 4 \(row 3\), emotion: empty, the row has no label"),
    "short": (f"3,{GOOD.rsplit(' ', 1)[0]},Training", r"line 4 \(row 3\), pixels: 63 numbers where the rows before have 64"),
    "over-long": (f"3,{GOOD} 1,Training", r"line 4 \(row 3\), pixels: 65 numbers where the rows before have 64"),
    "a word": (f"3,x {GOOD},Training", r"line 4 \(row 3\), pixels: value 'x' at position 1 is not a whole number"),
    "a fraction": (f"3,{GOOD.rsplit(' ', 1)[0]} 1.5,Training", r"value '1.5' at position 64 is not a whole number"),
    "too bright": (f"3,{GOOD.rsplit(' ', 1)[0]} 256,Training", r"value '256' at position 64 is outside 0..255"),
    "negative": (f"3,-1 {GOOD.split(' ', 1)[1]},Training", r"value '-1' at position 1 is outside 0..255"),
    "huge": (f"3,{'9' * 30} {GOOD.split(' ', 1)[1]},Training", r"at position 1 is outside 0..255"),
    "no pixels": ("3,,Training", r"line 4 \(row 3\), pixels"),
    "unknown emotion": (f"7,{GOOD},Training", r"line 4 \(row 3\), emotion: unknown value '7'; known are 0 angry"),
    "negative emotion": (f"-1,{GOOD},Training", r"emotion: unknown value '-1'"),
    "unknown usage": (f"3,{GOOD},Elsewhere", r"line 4 \(row 3\), Usage: unknown value 'Elsewhere'"),
    "too few fields": (f"3,{GOOD}", r"line 4 \(row 3\): 2 fields where the header has 3"),
    "stray text between rows": ("hello", r"line 4: not a row, but rows follow"),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_bad_row_is_named(case: str, tmp_path: Path) -> None:
    row, message = ROWS[case]
    lines = csv_bytes().decode().splitlines()
    path = written(tmp_path, "\n".join([*lines[:3], row, *lines[3:]]).encode())
    with pytest.raises(FinetuneError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_a_row_cut_off_by_the_end_of_the_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FinetuneError, match=rf"line {len(LABELS) + 1} \(row {len(LABELS)}\): 2 fields where the header has 3"):
        read(written(tmp_path, csv_bytes()[:-40]))


def forged_npy(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + b"\0" * 64


def corrupt_image(tmp_path: Path, content: bytes) -> Path:
    root = folders(tmp_path / "d", str)
    (root / "train" / "3" / "99.png").write_bytes(content)
    return root


def other_image(tmp_path: Path, mode: str, size: tuple[int, int]) -> Path:
    from PIL import Image

    root = folders(tmp_path / "d", str)
    Image.new(mode, size).save(root / "train" / "3" / "99.png")
    return root


def other_class(tmp_path: Path) -> Path:
    root = folders(tmp_path / "d", str)
    (root / "private" / "0").mkdir(exist_ok=True)
    (root / "private" / "3").rename(root / "private" / "happy")
    return root


def empty_folder(tmp_path: Path) -> Path:
    (tmp_path / "d").mkdir()
    return tmp_path / "d"


def pickled(tmp_path: Path) -> Path:
    objects = np.empty(2, object)
    return npz(tmp_path, images=objects, labels=[0, 1])


WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "an empty file": (lambda t: written(t, b""), "the file is empty"),
    "one split twice in HDF5": (
        lambda t: one_based_hdf5(t, train_pixel=IMAGES, train_label=LABELS),
        "Training_pixel and train_pixel are of one split; leave one",
    ),
    "UTF-16": (lambda t: written(t, csv_bytes().decode().encode("utf-16-le")), r"UTF-16 text; expected fer2013\.csv .*in UTF-8"),
    "a page": (lambda t: written(t, b"<!DOCTYPE html>\n<html>"), "a web page"),
    "parquet": (lambda t: written(t, b"PAR1" + bytes(100)), "no text; expected fer2013.csv"),
    "an array": (lambda t: written(t, b"\x93NUMPY\1\0" + bytes(100)), "a NumPy array"),
    "two labels": (lambda t: written(t, csv_bytes("emotion,pixels,emotion")), "several columns may be the label: emotion; leave"),
    "two splits": (lambda t: written(t, f"emotion,pixels,set,usage\n1,{GOOD},train,test\n".encode()), "several columns may be the split"),
    "some text": (lambda t: written(t, b"hello\nworld\n"), r"line 1: no column 'pixels'"),
    "kaggle's test.csv": (lambda t: written(t, f"pixels\n{GOOD}\n".encode()), "has no labels: no column 'emotion'.*train.csv"),
    "a header alone": (lambda t: written(t, b"emotion,pixels,Usage\n"), "a header and no rows"),
    "no header": (lambda t: written(t, csv_bytes().split(b"\n", 1)[1]), "there is no header, the first line is an image"),
    "no square image": (lambda t: written(t, b"emotion,pixels\n1,1 2 3\n"), "pixels: 3 numbers where a square image is expected"),
    "a line without end": (lambda t: written(t, b"emotion,pixels\n" + b"1" * (2 << 20)), "line 2: longer than any image's row"),
    "half a gzip": (lambda t: written(t, gzip.compress(csv_bytes())[:-200]), "damaged or cut short"),
    "half a zip": (lambda t: written(t, zipped(t, {"fer2013.csv": csv_bytes()}).read_bytes()[:-100]), "damaged or cut short"),
    "a zip of nothing known": (lambda t: zipped(t, {"a.csv": b"", "b.csv": b""}), r"expected fer2013.csv .* found 'a.csv', 'b.csv'"),
    "an empty folder": (empty_folder, "no images found"),
    "half a png": (lambda t: corrupt_image(t, (folders(t / "e", str) / "train/0/0.png").read_bytes()[:-40]), r"99\.png: not a whole image"),
    "text called png": (lambda t: corrupt_image(t, b"hello"), r"99\.png: not a whole image"),
    "16 bits": (lambda t: other_image(t, "I;16", (SIDE, SIDE)), r"99\.png: I;16 pixels; expected 8 bits"),
    "a bomb": (lambda t: other_image(t, "1", (9000, 9000)), r"99\.png: 9000×9000 pixels, more than 8192"),
    "another size": (lambda t: other_image(t, "L", (9, 7)), r"different sizes: .*9×7 in .*99\.png.*pass size="),
    "classes named in two ways": (other_class, "class happy has no training images; train has 0, 1, 2"),
    "a class that would be lost": (
        lambda t: with_files(folders(t / "d", lambda label: FER2013[label]), "train/zzz/a.heic", "train/zzz/b.heic"),
        r"train/zzz: none of its 2 files is an image that is read, as a\.heic: the class zzz would be lost",
    ),
    "images one level up": (lambda t: with_files(t / "d", "train/a.png"), r"no images found \(train/a\.png lies in no class's folder\)"),
    "a padded label": (lambda t: written(t, f"emotion,pixels\n0000000009,{GOOD}\n".encode()), "unknown value '0000000009'"),
    "a label of 64 bits": (
        lambda t: npz(t, images=IMAGES, labels=np.array([*LABELS[1:], 2**64 - 1], np.uint64)),
        "row 12: label 18446744073709551615; labels count",
    ),
    "a gap": (lambda t: npz(t, images=IMAGES, labels=np.array(LABELS) + 1), "labels go to 7, but none is 0; .*an array 'classes'"),
    "one class twice": (lambda t: npz(t, images=IMAGES, labels=LABELS, classes=[*"abcdef", "A"]), "'a' and 'A' are the same class"),
    "a class without a name": (lambda t: npz(t, images=IMAGES, labels=LABELS, classes=[*"abcdef", " "]), "' ' is no name"),
    "nested folders": (lambda t: folders(t / "d" / "train" / "0", str).parents[1], "a folder inside a class folder"),
    "an npz without labels": (lambda t: npz(t, images=IMAGES), "has no labels"),
    "an npz of floats": (lambda t: npz(t, images=IMAGES / 255, labels=LABELS), "float64 pixels; expected whole numbers"),
    "an npz out of range": (lambda t: npz(t, images=IMAGES.astype(int) + 9, labels=LABELS), r"images, row \d+: pixels outside 0..255"),
    "too few labels": (lambda t: npz(t, images=IMAGES, labels=LABELS[1:]), r"shape \(11,\); expected whole numbers of shape \(12,\)"),
    "a label beyond": (lambda t: npz(t, images=IMAGES, labels=LABELS, classes=["a", "b"]), "row 7: label 6, but there are 2 classes: a, b"),
    "pickles": (pickled, "object values: refused"),
    "a forged header": (lambda t: zipped(t, {"images.npy": forged_npy((1 << 40, 48, 48)), "labels.npy": b""}), "its header promises"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_read_is_refused(case: str, tmp_path: Path) -> None:
    make, message = WRONG[case]
    source = make(tmp_path)
    with pytest.raises(FinetuneError, match=f"(?s){message}") as error:
        read(source)
    assert source.name in str(error.value)


@pytest.mark.parametrize("kind", ["gzip", "zip", "tar"])
def test_an_archive_that_unpacks_to_more_than_the_limit_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LIMIT", 3 << 20)
    content = csv_bytes() + b"\n" * (5 << 20)
    make = {
        "gzip": lambda: written(tmp_path, gzip.compress(content)),
        "zip": lambda: zipped(tmp_path, {"fer2013.csv": content}),
        "tar": lambda: tarred(tmp_path, {"first": b"\0" * (5 << 20), "fer2013.csv": csv_bytes()}),
    }
    with pytest.raises(FinetuneError, match=r"refused|too large"):
        read(make[kind]())


def test_a_tar_header_of_a_gigabyte_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST_BLOCK", 2 << 20)
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.XHDTYPE, 4 << 20
    path = written(tmp_path, gzip.compress(info.tobuf() + b"\0" * (5 << 20)), "fer2013.tar.gz")
    with pytest.raises(FinetuneError, match="in one piece: refused"):
        read(path)


def test_hdf5_links_to_other_files_are_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: HDF5 files cannot be written")
    hdf5(tmp_path)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["Training_pixel"] = h5py.ExternalLink("data.h5", "Training_pixel")
        file["Training_label"] = h5py.ExternalLink("data.h5", "Training_label")
    with pytest.raises(FinetuneError, match="'Training_pixel' is missing or not a data set of this file"):
        read(tmp_path / "link.h5")
    with h5py.File(tmp_path / "large.h5", "w") as file:
        file.create_dataset("Training_pixel", (1 << 40, 48, 48), "uint8", chunks=(64, 48, 48))
        file.create_dataset("Training_label", (1 << 40,), "int64", chunks=(64,))
    with pytest.raises(FinetuneError, match="'Training_pixel' is uint8 of shape"):
        read(tmp_path / "large.h5")


def test_a_missing_file_stays_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        read(tmp_path / "nowhere.csv")


def cached(tmp_path: Path) -> Path:
    [path] = (tmp_path / "home").rglob("*.safetensors")
    return path


def test_the_second_reading_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(written(tmp_path, csv_bytes()))

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(layouts, "decode", never)
    again = read(written(tmp_path, csv_bytes(), "copied.csv"))
    assert torch.equal(again.images, first.images)
    assert again.sha256 == first.sha256 == hashlib.sha256(csv_bytes()).hexdigest()
    assert again.name == "copied.csv"


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b"", lambda b: b"\xff" * 99])
def test_a_damaged_cache_is_rebuilt(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = written(tmp_path, csv_bytes())
    read(path)
    whole = cached(tmp_path).read_bytes()
    cached(tmp_path).write_bytes(damage(whole))
    np.testing.assert_array_equal(read(path).images.numpy(), IMAGES)
    assert cached(tmp_path).read_bytes() == whole
    assert [each.name for each in (tmp_path / "home").rglob("*") if each.is_file()] == [cached(tmp_path).name]


def test_a_changed_source_is_decoded_anew(tmp_path: Path) -> None:
    from PIL import Image

    root = folders(tmp_path / "d", str)
    before = read(root)
    Image.fromarray(IMAGES[5]).save(root / "train" / "0" / "0.png")
    after = read(root)
    assert after.sha256 != before.sha256
    np.testing.assert_array_equal(after.images[0].numpy(), IMAGES[5])


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    assert len(read(written(tmp_path, csv_bytes()))) == len(LABELS)


def test_wrong_class_names_show_both_orders() -> None:
    check_classes(FER2013, list(FER2013))
    emotiw = sorted(FER2013)
    with pytest.raises(FinetuneError) as error:
        check_classes(FER2013, emotiw)
    message = str(error.value)
    rows = [line.split() for line in message.splitlines()[2:9]]
    assert [row[1] for row in rows] == list(FER2013)
    assert [row[2] for row in rows] == emotiw
    assert "expected is the order of FER2013" in message
    assert "found is the order of EmotiW" in message
    assert "reorder" in message
    with pytest.raises(FinetuneError, match=r"(?s)  7  -  +contempt   <.*train a new head"):
        check_classes(FER2013, (*FER2013, "contempt"))


def test_reordered_labels_keep_their_meaning(tmp_path: Path) -> None:
    found = read(written(tmp_path, csv_bytes()))
    other = reorder(found, sorted(FER2013))
    assert [other.classes[label] for label in other.labels] == [FER2013[label] for label in LABELS]
    with pytest.raises(FinetuneError, match="class names differ"):
        reorder(found, ["a", "b"])


def test_images_in_no_split_are_an_error(tmp_path: Path) -> None:
    found = read(written(tmp_path, csv_bytes()))
    with pytest.raises(FinetuneError, match=r"no images in val; it has \{'train': 8"):
        found.part("val")


def expressions(images: np.ndarray, split: list[str]) -> Expressions:
    labels = torch.zeros(len(images), dtype=torch.int64)
    return Expressions(torch.from_numpy(images), labels, tuple(split), FER2013, "drawn", "0" * 64)


def test_exact_duplicates_are_found_across_splits_only() -> None:
    images = IMAGES[[0, 0, 1, 2, 0, 2, 3, 3]].copy()
    images[5, 0, 0] ^= 1  # nearly a copy
    drawn = expressions(images, ["train", "train", "public", "public", "private", "private", "private", "private"])
    assert exact_duplicates(drawn).tolist() == [4]
    images[6] = IMAGES[1]
    drawn = expressions(images, list(drawn.split))
    assert exact_duplicates(drawn).tolist() == [4, 6]
    assert exact_duplicates(drawn, among=("train",)).tolist() == [4]


# neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF
VOTES = [[0, 0, 0, 0, 10, 0, 0, 0, 0, 0], [2, 0, 0, 6, 2, 0, 0, 0, 0, 0], [0] * 9 + [10], [0, 0, 5, 0, 0, 0, 5, 0, 0, 0],
         [1, 0, 0, 0, 0, 0, 0, 9, 0, 0], [0, 3, 0, 0, 0, 0, 0, 0, 6, 1], *[[0, 8, 0, 0, 0, 0, 0, 2, 0, 0]] * 6]  # fmt: skip


def votes_bytes(votes: list[list[int]], usage: list[str]) -> bytes:
    lines = ["Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"]
    for row, (each, split) in enumerate(zip(votes, usage, strict=True)):
        lines.append(f"{USAGE[split]},fer{row:07}.png,{','.join(map(str, each))}")
    return ("\n".join(lines) + "\n").encode()


def test_votes_join_by_row_and_become_targets_by_meaning(tmp_path: Path) -> None:
    joined = with_votes(read(written(tmp_path, csv_bytes())), written(tmp_path, votes_bytes(VOTES, SPLIT), "fer2013new.csv"))
    assert joined.votes is not None
    assert joined.votes.tolist() == VOTES
    hard, usable = vote_targets(joined, FER2013, "hard")
    assert usable.tolist() == [True, True, False, False, False, False, *[True] * 6]
    assert hard[usable].argmax(1).tolist() == [0, 4, *[3] * 6]
    assert hard.sum(1).tolist() == usable.float().tolist()
    soft, usable = vote_targets(joined, FER2013, "soft")
    assert usable.tolist() == [True, True, False, True, False, False, *[True] * 6]
    assert soft[1].tolist() == pytest.approx([0.2, 0, 0, 0, 0.6, 0, 0.2])
    assert soft[3].tolist() == [0, 0, 0.5, 0, 0, 0.5, 0]
    assert soft[6].tolist() == [0, 0, 0, 1, 0, 0, 0]
    eight, usable = vote_targets(joined, LABEL_ORDERS["FER+"], "soft")
    assert eight[4].tolist() == pytest.approx([0.1, *[0] * 6, 0.9])
    assert usable[4]
    with pytest.raises(FinetuneError, match="FER\\+ has no votes for bored"):
        vote_targets(joined, ["bored"], "hard")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (votes_bytes(VOTES[1:], SPLIT[1:]), "11 rows for 12 images"),
        (votes_bytes(VOTES, SPLIT[::-1]), r"line 2 \(row 1\), Usage: 'PrivateTest', but image 1 of fer2013.csv is train"),
        (votes_bytes(VOTES, SPLIT).replace(b",10,", b",ten,", 1), r"line 2 \(row 1\), anger: 'ten' is no count"),
        (votes_bytes(VOTES, SPLIT).replace(b"NF", b"no face"), "line 1: no column NF"),
        (votes_bytes(VOTES, SPLIT)[:-3], r"line 13 \(row 12\): 11 fields where the header has 12"),
    ],
)
def test_votes_that_do_not_fit_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    faces = read(written(tmp_path, csv_bytes()))
    with pytest.raises(FinetuneError, match=message):
        with_votes(faces, written(tmp_path, content, "fer2013new.csv"))
    with pytest.raises(FinetuneError, match="has no FER\\+ votes"):
        vote_targets(faces, FER2013, "hard")


# --- the real data --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """FER2013 as npz, and as the csv made from it here."""
    place = tmp_path_factory.mktemp("fer2013")
    subprocess.run([sys.executable, REAL / "unpack.py", "npz", place / "fer2013.npz"], check=True, capture_output=True)
    yield place
    for path in place.iterdir():
        path.unlink()


@real
def test_all_of_fer2013_is_read_from_npz_with_its_votes(unpacked: Path) -> None:
    meta = json.loads((REAL / "meta.json").read_text())
    faces = read(unpacked / "fer2013.npz")
    assert faces.counts() == {"train": 28709, "public": 3589, "private": 3589}
    assert faces.classes == tuple(meta["classes"])
    assert hashlib.sha256(faces.images.numpy().tobytes()).hexdigest() == meta["sha256_all_pixels"]
    for split in USAGE:
        assert faces.part(split).labels.bincount().tolist() == meta[split]["class_counts"]
    known = np.load(REAL / "private_exact_dup_idx.npy")
    np.testing.assert_array_equal(exact_duplicates(faces).numpy(), known)
    assert len(known) == 314
    assert len(exact_duplicates(faces, among=("train",))) == 288

    assert faces.votes is not None
    assert faces.votes.shape == (35887, 10)
    new = unpacked / "fer2013new.csv"
    new.write_bytes(votes_bytes(faces.votes.int().tolist(), list(faces.split)))
    joined = with_votes(faces, new)
    assert joined.votes is not None
    assert torch.equal(joined.votes, faces.votes)
    rolled = new.with_name("rolled.csv")
    rolled.write_bytes(votes_bytes(faces.votes.roll(1, 0).int().tolist(), list(faces.split)))
    with pytest.raises(FinetuneError, match="rows 1 to 1000: the votes agree with"):
        with_votes(faces, rolled)


@real
def test_all_of_fer2013_is_read_from_csv_in_its_tar(unpacked: Path) -> None:
    faces = read(unpacked / "fer2013.npz")
    words = [str(value) for value in range(256)]
    with tarfile.open(unpacked / "fer2013.tar.gz", "w:gz", compresslevel=1) as archive:
        rows = ["emotion,pixels,Usage"]
        for image, label, split in zip(faces.images.numpy(), faces.labels.tolist(), faces.split, strict=True):
            rows.append(f"{label},{' '.join(map(words.__getitem__, image.tobytes()))},{USAGE[split]}")
        content = ("\n".join(rows) + "\n").encode()
        info = tarfile.TarInfo("fer2013/fer2013.csv")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    packed = read(unpacked / "fer2013.tar.gz")
    assert torch.equal(packed.images, faces.images)
    assert torch.equal(packed.labels, faces.labels)
    assert packed.split == faces.split
    assert packed.classes == faces.classes


@real
def test_a_slice_of_fer2013_is_the_same_from_folders(unpacked: Path, tmp_path: Path) -> None:
    from PIL import Image

    faces = read(unpacked / "fer2013.npz")
    rows = torch.cat([faces.rows(split)[:500] for split in USAGE])
    for row in rows.tolist():
        folder = tmp_path / "d" / USAGE[faces.split[row]] / str(int(faces.labels[row]))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(faces.images[row].numpy()).save(folder / f"{row}.png")
    part, expected = read(tmp_path / "d"), faces.take(rows)
    assert torch.equal(part.images, expected.images)
    assert torch.equal(part.labels, expected.labels)
    assert part.split == expected.split


def test_a_resplit_fer2013_is_warned_about() -> None:
    images = np.zeros((35887, 1, 1), np.uint8)
    drawn = expressions(images, ["train"] * 28821 + ["val"] * 7066)
    [note] = data.unofficial_split(drawn)
    assert "28821" in note
    assert data.unofficial_split(expressions(images, ["train"] * 28709 + ["test"] * 7178)) == []
