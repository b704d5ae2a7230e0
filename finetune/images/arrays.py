"""Images as arrays in HDF5 and npz files."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.arrays import SPLIT_ARRAYS, about_unread, as_images, as_labels, named_splits, npy
from finetune.errors import FinetuneError
from finetune.files import LIMIT, check_room
from finetune.images.records import Decoded
from finetune.labels import FER2013, SPLIT_ORDER, about_first, about_order, check_names, split_of

if TYPE_CHECKING:
    import h5py


def hdf5(path: Path) -> Decoded:
    """Training_pixel, Training_label, PublicTest_pixel, ...: each (n, 48, 48) uint8 and (n,), FER2013's labels.

    Names and types as preprocess_fer2013.py of WuJie1010/Facial-Expression-Recognition.Pytorch writes them. Needs h5py.
    """
    try:
        import h5py
    except ImportError as error:
        raise FinetuneError(f"{path}: an HDF5 file needs h5py: pip install h5py") from error
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def dataset(file: h5py.File, name: str) -> h5py.Dataset:
        link = file.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
            raise FinetuneError(f"{path}: {name!r} is missing or not a data set of this file; found {', '.join(list(file)[:8])}")
        found = file[name]
        if found.external or found.is_virtual:
            raise FinetuneError(f"{path}: {name!r} keeps its numbers in other files: refused")
        if found.dtype.kind not in "ui" or found.nbytes > LIMIT:
            raise FinetuneError(f"{path}: {name!r} is {found.dtype} of shape {found.shape}; expected whole numbers, up to {LIMIT:,} bytes")
        return found

    try:
        with h5py.File(path, "r") as file:
            names = [name.removesuffix("_pixel") for name in file if name.endswith("_pixel") and split_of(name.removesuffix("_pixel"))]
            if twice := [name for name in names if [*map(split_of, names)].count(split_of(name)) > 1]:
                raise FinetuneError(f"{path}: {' and '.join(f'{name}_pixel' for name in twice)} are of one split; leave one of them")
            if not names:
                raise FinetuneError(f"{path}: no data set Training_pixel; found {', '.join(list(file)[:8]) or 'nothing'}")
            sets = {key: dataset(file, key) for name in names for key in (f"{name}_pixel", f"{name}_label")}
            check_room(sum(found.nbytes for found in sets.values()), path.stat().st_size, path)
            for name in names:
                images = as_images(np.asarray(sets[f"{name}_pixel"][()]), f"{path}, {name}_pixel")
                labels = as_labels(np.asarray(sets[f"{name}_label"][()]), f"{path}, {name}_label", len(images))
                parts[str(split_of(name))] = (images, labels)
    except FinetuneError:
        raise
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, ArithmeticError, MemoryError) as error:  # a name of bytes: TypeError
        raise FinetuneError(f"{path}: the HDF5 file is damaged or cut short ({str(error)[:200]}); fetch it again") from error
    found = joined(parts, path)
    return replace(found, notes=tuple(about_first(found.labels.tolist())))  # the names of the data sets say that they are FER2013's


def joined(parts: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> Decoded:
    order = sorted(parts, key=SPLIT_ORDER.index)
    shapes = {parts[name][0].shape[1:] for name in order}
    if len(shapes) > 1:
        raise FinetuneError(f"{path}: the splits hold images of different shapes: {sorted(shapes)}; make them equal")
    labels = np.concatenate([parts[name][1] for name in order])
    named = names_for(labels, None, path)
    return Decoded(
        np.concatenate([parts[name][0] for name in order]),
        labels,
        np.repeat(order, [len(parts[name][1]) for name in order]),
        named,
        notes=about_order(parts) if named == FER2013 else (),
    )


def names_for(labels: np.ndarray, classes: tuple[str, ...] | None, path: Path) -> tuple[str, ...]:
    """`classes`, or FER2013's where the labels are 0..6, or else the numbers themselves."""
    highest = int(labels.max())
    if classes is None:
        if highest < len(FER2013):
            return FER2013
        if missing := sorted(set(range(min(highest, 1000))) - set(np.unique(labels).tolist())):
            raise FinetuneError(
                f"{path}: labels go to {highest}, but none is {missing[0]}; labels count from 0 without gaps. Number them so, or name the"
                " classes: an array 'classes' of names"
            )
        return tuple(map(str, range(highest + 1)))
    check_names(classes, str(path))
    if highest >= len(classes):
        row = int(labels.argmax())
        raise FinetuneError(f"{path}, row {row + 1}: label {highest}, but there are {len(classes)} classes: {', '.join(classes)}")
    return classes


NPZ_NAMES = {
    "images": ("images", "image", "pixels", "x"), "labels": ("labels", "label", "emotion", "y"), "split": SPLIT_ARRAYS,
    "classes": ("classes", "class_names"), "votes": ("votes",),
}  # fmt: skip


def npz(path: Path, archive: zipfile.ZipFile) -> Decoded:
    """images (see as_images), labels (N,), perhaps split (N,) of 0 train, 1 public, 2 private or of names, classes (K,) of
    names, votes (N, 10) of FER+; or x_train, y_train, x_test, y_test. Without classes, labels 0..6 are FER2013's.
    """
    arrays = {member.filename.removesuffix(".npy").lower(): member for member in archive.infolist()}
    pairs = {known: name[2:] for name in arrays if name.startswith("x_") and (known := split_of(name[2:]))}
    wanted = [arrays[name].file_size for name in arrays if pairs or any(name in names for names in NPZ_NAMES.values())]
    check_room(sum(wanted), path.stat().st_size, path)
    if pairs:
        parts = {}
        for part, end in pairs.items():
            if f"y_{end}" not in arrays:
                raise FinetuneError(f"{path}: x_{end} without y_{end}: has no labels")
            images = as_images(npy(archive, arrays[f"x_{end}"], path), f"{path}, x_{end}")
            parts[part] = (images, as_labels(npy(archive, arrays[f"y_{end}"], path), f"{path}, y_{end}", len(images)))
        return joined(parts, path)
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
    named = names_for(labels, classes, path)
    notes = about_order(split.tolist()) if classes is None and named == FER2013 else ()
    notes = (*notes, *about_unread(arrays, found))
    return Decoded(images, labels, split, named, None if votes is None else votes.astype(np.float32), notes)
