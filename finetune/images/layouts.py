"""The files that expression data come in, decoded to arrays: csv, class folders, HDF5, npz. Nothing is extracted to disk.

What a file is follows from its first bytes, not from its name. Every refusal is a FinetuneError.
"""

from __future__ import annotations

import io
import math
import re
import tarfile
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from finetune.arrays import as_images, as_labels, named_splits, npy
from finetune.errors import FinetuneError, SizesDiffer
from finetune.files import (
    IMAGE_SUFFIXES,
    LIMIT,
    SYSTEM_FILES,
    damage_named,
    decompressed,
    first_bytes,
    numbered_lines,
    read_image,
    subfolders,
)
from finetune.labels import FER2013, NUMBERED, SPLIT_ORDER, canonical, class_names, natural, split_of

MOST_MEMBERS = 10_000
CSV_NAMES = ("fer2013.csv", "icml_face_data.csv", "train.csv")


@dataclass(frozen=True)
class Decoded:
    """Arrays in the source's order: images (N, H, W) or (N, 3, H, W) uint8 RGB, labels (N,) int64, split (N,) of str."""

    images: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    classes: tuple[str, ...]
    votes: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def decode(path: Path, size: int | None) -> Decoded:
    """Recognises `path` and decodes it. `size` resizes the images of class folders to size × size."""
    if path.is_dir():
        return class_folders(path, size)
    if size is not None:
        raise FinetuneError(f"{path}: size={size} is for class folders; images of a csv, npz or HDF5 file keep their size")
    start = first_bytes(path)
    if not start:
        raise FinetuneError(f"{path}: the file is empty; fetch it again")
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return hdf5(path)
    if start.startswith(b"PK\x03\x04"):
        return zipped(path)
    with damage_named(path), decompressed(path, start) as stream:
        inner = stream.read(512)
        stream.seek(0)
        if inner[257:262] == b"ustar":
            return tarred(path, stream)
        return csv_file(stream, str(path))


# --- csv, plain and packed ------------------------------------------------------------------------------------------------------------


def best_csv(names: Sequence[str], path: Path) -> str:
    """The member to read: the first known name, or the only csv."""
    tables = [name for name in names if name.lower().endswith(".csv")]
    for wanted in CSV_NAMES:
        for name in tables:
            if name.replace("\\", "/").rsplit("/", 1)[-1].lower() == wanted:
                return name
    if len(tables) == 1:
        return tables[0]
    held = ", ".join(repr(name[:80]) for name in (tables or names)[:8]) or "nothing"
    raise FinetuneError(f"{path}: expected {' or '.join(CSV_NAMES)} inside, found {held}; pass the csv itself")


def zipped(path: Path) -> Decoded:
    with damage_named(path), zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist() if not member.is_dir()}
        if members and all(name.endswith(".npy") for name in members):
            return npz(path, archive)
        name = best_csv(list(members), path)
        if members[name].file_size > LIMIT:
            raise FinetuneError(f"{path}: {name!r} unpacks to {members[name].file_size:,} bytes, more than {LIMIT:,}: refused")
        with archive.open(name) as member:
            return csv_file(cast(IO[bytes], io.BufferedReader(member, 1 << 20)), f"{path}, {name!r}")


def tarred(path: Path, stream: IO[bytes]) -> Decoded:
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        members: dict[str, tarfile.TarInfo] = {}
        for position, member in enumerate(archive):
            if position >= MOST_MEMBERS:
                raise FinetuneError(f"{path}: more than {MOST_MEMBERS:,} files inside: refused; pass the csv itself")
            if member.isreg():
                members[member.name] = member
        name = best_csv(list(members), path)
        source = archive.extractfile(members[name])
        assert source is not None  # true of every regular member
        return csv_file(source, f"{path}, {name!r}")


BLANKS = b' "\t\r\n\0'


def csv_file(stream: IO[bytes], what: str) -> Decoded:
    """fer2013.csv and its kin: columns emotion, pixels and perhaps Usage, in any order, spaces and quotes allowed in names.

    emotion is 0..6 in FER2013's order, or a name; pixels are H·W numbers 0..255 of a square grey image. Without Usage every
    row is "train". Lines after the last row that are no rows at all (neither an emotion nor pixels: in the wild, text behind
    the 35,887th row) are left out with a note; anywhere else, or half a row, they are an error.
    """
    lines = numbered_lines(stream, what)
    header = [field.strip(BLANKS).lower().decode("latin-1") for field in next(lines)[1].removeprefix(b"\xef\xbb\xbf").split(b",")]
    if "pixels" not in header:
        raise FinetuneError(f"{what}, line 1: no column 'pixels' in the header {header[:6]}; expected emotion,pixels,Usage")
    if "emotion" not in header:
        raise FinetuneError(
            f"{what}: has no labels: no column 'emotion' in the header {header[:6]}. Kaggle's test.csv is for prediction only;"
            " train on train.csv, icml_face_data.csv or fer2013.csv"
        )
    emotion_at, pixels_at = header.index("emotion"), header.index("pixels")
    usage_at = header.index("usage") if "usage" in header else None
    pixels = bytearray()
    labels: list[int] = []
    split: list[str] = []
    count = 0
    stray: list[int] = []
    number_of = {str(label).encode(): label for label in range(len(FER2013))}
    split_names: dict[bytes, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # numpy's way to say that a text is not all numbers
        for number, line in lines:
            fields = [field.strip(BLANKS) for field in line.split(b",")]
            if not any(fields):
                continue
            place = f"{what}, line {number} (row {len(labels) + 1})"
            if is_stray(fields, emotion_at, pixels_at):
                stray.append(number)
                continue
            if stray:
                raise FinetuneError(f"{what}, line {stray[0]}: not a row, but rows follow; expected {','.join(header)}. Remove the line")
            if len(fields) != len(header):
                raise FinetuneError(f"{place}: {len(fields)} fields where the header has {len(header)}: the file may be cut short")
            label = number_of.get(fields[emotion_at])
            labels.append(emotion_of(fields[emotion_at], place) if label is None else label)
            if usage_at is not None:
                usage = fields[usage_at]
                if usage not in split_names:
                    split_names[usage] = usage_of(usage, place)
                split.append(split_names[usage])
            try:
                values = np.fromstring(fields[pixels_at], np.int64, sep=" ")
            except (DeprecationWarning, ValueError):
                raise bad_pixel(fields[pixels_at], place) from None
            if values.size != count:
                if count or math.isqrt(values.size) ** 2 != values.size or not values.size:
                    expected = f"the rows before have {count:,}" if count else "a square image is expected (FER2013: 2,304, 48×48)"
                    raise FinetuneError(f"{place}, pixels: {values.size:,} numbers where {expected}; remove the row")
                count = values.size
            if (values.view(np.uint64) > 255).any():
                raise bad_pixel(fields[pixels_at], place)
            pixels += values.astype(np.uint8).tobytes()
    if not labels:
        raise FinetuneError(f"{what}: a header and no rows; fetch the file again")
    side = math.isqrt(count)
    notes = (f"{len(stray)} line(s) after the last row left out, from line {stray[0]} on: they are no rows",) if stray else ()
    return Decoded(
        np.frombuffer(pixels, np.uint8).reshape(-1, side, side),
        np.array(labels, np.int64),
        np.array(split if usage_at is not None else ["train"] * len(labels)),
        FER2013,
        notes=notes,
    )


def is_stray(fields: list[bytes], emotion_at: int, pixels_at: int) -> bool:
    """True for a line that has neither an emotion nor pixels where the header puts them."""
    emotion = fields[emotion_at] if emotion_at < len(fields) else b""
    pixels = fields[pixels_at][:4] if pixels_at < len(fields) else b""
    return not (emotion.lstrip(b"-").isdigit() or pixels[:1].isdigit() or canonical(emotion.decode("latin-1")) in FER2013)


def emotion_of(field: bytes, place: str) -> int:
    text = field.decode("utf-8", "replace")
    if not text:
        raise FinetuneError(f"{place}, emotion: empty, the row has no label; remove the row, or use a file that is labelled")
    name = canonical(text)
    if name.isdecimal() and name.isascii() and int(name[:9]) < len(FER2013):
        return int(name)
    if name in FER2013:
        return FER2013.index(name)
    known = ", ".join(f"{number} {name}" for number, name in enumerate(FER2013))
    raise FinetuneError(f"{place}, emotion: unknown value {text[:40]!r}; known are {known}")


def usage_of(field: bytes, place: str) -> str:
    split = split_of(text := field.decode("utf-8", "replace"))
    if split is None:
        raise FinetuneError(f"{place}, Usage: unknown value {text[:40]!r}; known are Training, PublicTest, PrivateTest")
    return split


def bad_pixel(field: bytes, place: str) -> FinetuneError:
    for position, token in enumerate(field.split()):
        if not token.isdigit() or int(token[:9]) > 255:
            value = token[:40].decode("utf-8", "replace")
            kind = "is outside 0..255" if re.fullmatch(rb"-?\d+", token) else "is not a whole number"
            return FinetuneError(f"{place}, pixels: value {value!r} at position {position + 1} {kind}; remove the row")
    return FinetuneError(f"{place}, pixels: empty; fetch the file again or remove the row")


# --- class folders --------------------------------------------------------------------------------------------------------------------


def class_folders(root: Path, size: int | None) -> Decoded:
    """A folder per class, below a folder per split or not: train/angry/1.png, train/0/1.png, angry/1.png.

    Seven folders 0..6, or named after FER2013's seven expressions (any case, synonyms as "happiness"), are FER2013's classes
    in its order. Any other folders are classes by their own names: sorted, numbers by value. Images come by split, then by
    file name (numbers in it by value), so files named by row number come in row order. Names that begin with Training_,
    PublicTest_ or PrivateTest_ say their split themselves: the Kaggle tree mixes the last two in test/.
    """
    from PIL import Image
    from tqdm import tqdm

    files = list_images(root)
    classes = class_names(((entry.label, entry.split) for entry in files), root)
    position = {name: index for index, name in enumerate(classes)}
    if classes == NUMBERED:
        classes = FER2013
    # One thread: on 48×48 PNG files two take 1.5 times as long, the interpreter's lock being held most of the time.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # read_image refuses by its own limit
        images = [read_image(entry.path, size) for entry in tqdm(files, root.name, delay=2, disable=None, leave=False)]
    shapes = {image.shape[:2]: entry.path for image, entry in zip(reversed(images), reversed(files), strict=True)}
    if len(shapes) > 1:
        (first, first_path), (second, second_path) = list(shapes.items())[:2]
        raise SizesDiffer(
            f"{root}: images of different sizes: {first[1]}×{first[0]} in {first_path}, {second[1]}×{second[0]} in {second_path};"
            " pass size= to resize all (e.g. size=64)"
        )
    if any(image.ndim == 3 for image in images):
        images = [np.repeat(image[None], 3, 0) if image.ndim == 2 else image.transpose(2, 0, 1) for image in images]
    other = sum(entry.skipped for entry in files)
    notes = (f"{other} file(s) in class folders that are no images left out",) if other else ()
    return Decoded(
        np.stack(images),
        np.array([position[canonical(entry.label)] for entry in files], np.int64),
        np.array([entry.split for entry in files]),
        classes,
        notes=notes,
    )


@dataclass(frozen=True)
class Entry:
    path: Path
    label: str  # the folder's name
    split: str
    skipped: int = 0  # files that are no images, left out before this one


def list_images(root: Path) -> list[Entry]:
    """Every image below the class folders of `root`, in the order of class_folders."""
    top = subfolders(root)
    splits = [(split, folder) for folder in top if (split := split_of(folder.name))]
    if splits and len(splits) != len(top):
        strange = next(folder for folder in top if not split_of(folder.name))
        raise FinetuneError(f"{strange}: lies beside {splits[0][1].name}/ and is no split; move it away, or pass the folder to read")
    entries: list[Entry] = []
    skipped = 0
    for split, parent in splits or [("train", root)]:
        for folder in subfolders(parent):
            for path in sorted(folder.iterdir()):
                if path.name.startswith(".") or path.name.lower() in SYSTEM_FILES:
                    continue
                if path.is_dir():
                    raise FinetuneError(f"{path}: a folder inside a class folder; expected {root.name}/[split/]class/image")
                if path.suffix.lower() not in IMAGE_SUFFIXES:
                    skipped += 1
                    continue
                prefix, underscore, _ = path.name.partition("_")
                stated = split_of(prefix) if underscore and prefix in ("Training", "PublicTest", "PrivateTest") else None
                entries.append(Entry(path, folder.name, stated or split, skipped))
                skipped = 0
    if not entries:
        raise FinetuneError(f"{root}: no images found; expected [train/]class/image.png, or a folder with {' or '.join(CSV_NAMES)}")
    return sorted(entries, key=lambda entry: (SPLIT_ORDER.index(entry.split), natural(entry.path.name), canonical(entry.label)))


# --- arrays in files ------------------------------------------------------------------------------------------------------------------


def hdf5(path: Path) -> Decoded:
    """Training_pixel, Training_label, PublicTest_pixel, ...: each (n, 48, 48) uint8 and (n,), FER2013's labels.

    Names and types as preprocess_fer2013.py of WuJie1010/Facial-Expression-Recognition.Pytorch writes them. Needs h5py.
    """
    try:
        import h5py
    except ImportError as error:
        raise FinetuneError(f"{path}: an HDF5 file needs h5py: pip install 'caffezoo[hdf5]'") from error
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def dataset(file: Any, name: str) -> np.ndarray:
        link = file.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
            raise FinetuneError(f"{path}: {name!r} is missing or not a data set of this file; found {', '.join(list(file)[:8])}")
        found = file[name]
        if found.external or found.is_virtual:
            raise FinetuneError(f"{path}: {name!r} keeps its numbers in other files: refused")
        if found.dtype.kind not in "ui" or found.nbytes > LIMIT:
            raise FinetuneError(f"{path}: {name!r} is {found.dtype} of shape {found.shape}; expected whole numbers, up to {LIMIT:,} bytes")
        return np.asarray(found[()])

    try:
        with h5py.File(path, "r") as file:
            names = [name.removesuffix("_pixel") for name in file if name.endswith("_pixel") and split_of(name.removesuffix("_pixel"))]
            if not names:
                raise FinetuneError(f"{path}: no data set Training_pixel; found {', '.join(list(file)[:8]) or 'nothing'}")
            for name in names:
                images = as_images(dataset(file, f"{name}_pixel"), f"{path}, {name}_pixel")
                labels = as_labels(dataset(file, f"{name}_label"), f"{path}, {name}_label", len(images))
                parts[str(split_of(name))] = (images, labels)
    except (OSError, RuntimeError, KeyError) as error:
        raise FinetuneError(f"{path}: the HDF5 file is damaged or cut short ({error}); fetch it again") from error
    return joined(parts, path, None)


def joined(parts: dict[str, tuple[np.ndarray, np.ndarray]], path: Path, classes: tuple[str, ...] | None) -> Decoded:
    order = sorted(parts, key=SPLIT_ORDER.index)
    shapes = {parts[name][0].shape[1:] for name in order}
    if len(shapes) > 1:
        raise FinetuneError(f"{path}: the splits hold images of different shapes: {sorted(shapes)}; make them equal")
    labels = np.concatenate([parts[name][1] for name in order])
    return Decoded(
        np.concatenate([parts[name][0] for name in order]),
        labels,
        np.repeat(order, [len(parts[name][1]) for name in order]),
        names_for(labels, classes, path),
    )


def names_for(labels: np.ndarray, classes: tuple[str, ...] | None, path: Path) -> tuple[str, ...]:
    """`classes`, or FER2013's where the labels are 0..6, or else the numbers themselves."""
    highest = int(labels.max())
    if classes is None:
        if highest >= len(np.unique(labels)) + 1000:
            raise FinetuneError(f"{path}: label {highest} of {len(np.unique(labels))} classes; labels count from 0 without gaps")
        return FER2013 if highest < len(FER2013) else tuple(map(str, range(highest + 1)))
    if highest >= len(classes):
        row = int(labels.argmax())
        raise FinetuneError(f"{path}, row {row + 1}: label {highest}, but there are {len(classes)} classes: {', '.join(classes)}")
    return classes


NPZ_NAMES = {
    "images": ("images", "image", "pixels", "x"), "labels": ("labels", "label", "emotion", "y"), "split": ("split", "usage"),
    "classes": ("classes", "class_names"), "votes": ("votes",),
}  # fmt: skip


def npz(path: Path, archive: zipfile.ZipFile) -> Decoded:
    """images (see as_images), labels (N,), perhaps split (N,) of 0 train, 1 public, 2 private or of names, classes (K,) of
    names, votes (N, 10) of FER+; or x_train, y_train, x_test, y_test. Without classes, labels 0..6 are FER2013's.
    """
    arrays = {member.filename.removesuffix(".npy").lower(): member for member in archive.infolist()}
    pairs = {known: name[2:] for name in arrays if name.startswith("x_") and (known := split_of(name[2:]))}
    if pairs:
        parts = {}
        for part, end in pairs.items():
            if f"y_{end}" not in arrays:
                raise FinetuneError(f"{path}: x_{end} without y_{end}: has no labels")
            images = as_images(npy(archive, arrays[f"x_{end}"], path), f"{path}, x_{end}")
            parts[part] = (images, as_labels(npy(archive, arrays[f"y_{end}"], path), f"{path}, y_{end}", len(images)))
        return joined(parts, path, None)
    found = {role: next((name for name in names if name in arrays), None) for role, names in NPZ_NAMES.items()}
    held = {role: npy(archive, arrays[name], path) for role, name in found.items() if name}
    if "images" not in held:
        raise FinetuneError(f"{path}: no array 'images'; found {', '.join(list(arrays)[:8])}")
    if "labels" not in held:
        raise FinetuneError(f"{path}: has no labels: no array 'labels' or 'label'; found {', '.join(list(arrays)[:8])}")
    images = as_images(held["images"], f"{path}, {found['images']}")
    labels = as_labels(held["labels"], f"{path}, {found['labels']}", len(images))
    classes = tuple(str(name) for name in held["classes"].ravel()) if "classes" in held else None
    split = named_splits(held["split"], path, len(images)) if "split" in held else np.full(len(images), "train")
    votes = held.get("votes")
    if votes is not None and (votes.shape != (len(images), 10) or votes.dtype.kind not in "uif"):
        raise FinetuneError(f"{path}, votes: {votes.dtype} of shape {votes.shape}; expected ({len(images)}, 10) counts in FER+'s order")
    return Decoded(images, labels, split, names_for(labels, classes, path), None if votes is None else votes.astype(np.float32))
