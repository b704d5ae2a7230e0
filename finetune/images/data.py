"""Labelled face images for a recipe: read from any usual layout, decoded once, kept as one uint8 tensor.

    faces = read("fer2013.csv")                     # or .zip, .tar.gz, class folders, .h5, .npz
    train, public = faces.part("train"), faces.part("public")

The decoded tensor lies in the cache under the sha256 of its source: <home>/expressions/<sha256>.safetensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finetune.files import sha256_of, subfolders
from finetune.images import layouts
from finetune.images.folders import list_images
from finetune.images.records import CSV_NAMES, Decoded
from finetune.labels import FER2013, NUMBERED, SPLIT_ORDER, canonical, check_classes, split_counts, split_of
from finetune.protocol import check_held_out, sample, split_rows, with_every_class
from finetune.tensor_cache import DAMAGED, load_tensors, store_tensors
from zoo.disk import digests, home
from zoo.errors import CacheError, counted

DECODER = "4"  # part of the cache's names: raise it when the same source decodes to something else
SIDE = 12  # cells on a side of the grid by which images are compared
ALIKE = 2.0  # grey levels, root mean square over the grid; faces of different people differ by 20 and more
CONTRADICTED = "under several labels"
FER2013_COUNTS = ({"train": 28709, "public": 3589, "private": 3589}, {"train": 28709, "test": 7178}, {"train": 32298, "test": 3589})


@dataclass(frozen=True)
class Expressions:
    """Decoded images with their labels; the i-th entry of every field belongs to the i-th image.

    images   (N, H, W) uint8 grey or (N, 3, H, W) uint8 RGB, 0..255, on the CPU
    labels   (N,) int64, positions in `classes`
    split    (N,) str: "train", "public", "private", "val" or "test"
    classes  class names in label order
    name     the source's file name; sha256: of the file's bytes, or of a folder's names and bytes
    votes    (N, 10) float32 counts in the order of votes.FERPLUS_VOTES, or None
    notes    what was left out of the source, as sentences
    """

    images: Tensor
    labels: Tensor
    split: tuple[str, ...]
    classes: tuple[str, ...]
    name: str
    sha256: str
    votes: Tensor | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self) -> dict[str, int]:
        """Images per split, in the order train, public, private, val, test."""
        return split_counts(self.split)

    def rows(self, *splits: str) -> Tensor:
        """(n,) int64 positions of the images of these splits. Raises FinetuneError where there are none."""
        return split_rows(self.split, splits, f"{self.name}: no images")

    def part(self, *splits: str) -> Expressions:
        """The images of these splits, in their order."""
        return self.take(self.rows(*splits))

    def take(self, rows: Tensor) -> Expressions:
        """The images at `rows` (n,) int64."""
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            split=tuple(self.split[row] for row in rows.tolist()),
            votes=None if self.votes is None else self.votes[rows],
        )


def read(path: str | os.PathLike[str], *, cache: bool = True, size: int | None = None) -> Expressions:
    """Reads labelled images. What `path` is follows from its content:

    - fer2013.csv (emotion,pixels,Usage), icml_face_data.csv, Kaggle's train.csv; also gzipped, or inside a zip, tar or tar.gz
    - a folder per class, below train/, test/, ... or not (folders.class_folders says how they are named and ordered);
      `size` resizes these to size × size, which images of different sizes need
    - HDF5 with Training_pixel, Training_label, PublicTest_pixel, ...; npz with images and labels (arrays.npz)
    - a folder that holds one of the csv files or fer2013.tar.gz

    Decoding is done once; later calls map the cached tensor, unless `cache` is false. A cache that cannot be written is no error.
    Raises FinetuneError for everything that is no labelled image, with file, row and value, and warns (UserWarning) of what
    was left out. FileNotFoundError and PermissionError stay what they are.
    """
    source = located(Path(path))
    folder = list_images(source) if source.is_dir() else None
    sha256 = digests(source, ())["sha256"] if folder is None else folder_sha256(source, [entry.path for entry in folder.images])
    about = [DECODER, sha256, size, None if folder is None else folder.notes]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    place = home() / "expressions" / f"{key}.safetensors"
    found = load_cached(place) if cache else None
    if found is None:
        decoded = layouts.decode(source, size)
        found = Expressions(
            torch.from_numpy(np.require(decoded.images, requirements=("C", "W"))),
            torch.from_numpy(decoded.labels),
            tuple(decoded.split.tolist()),
            decoded.classes,
            source.name,
            sha256,
            None if decoded.votes is None else torch.from_numpy(decoded.votes),
            (*decoded.notes, *contradicting(decoded)),
        )
        if cache:
            with suppress(CacheError):
                store(found, place)
    found = replace(found, name=source.name)
    known = {"public", "private"} & set(found.split)  # FER2013 or a part of it: 57 of its images are known to contradict themselves
    for note in [*(note for note in found.notes if not (known and CONTRADICTED in note)), *unofficial_split(found)]:
        warnings.warn(f"{source}: {note}", stacklevel=2)
    return found


def contradicting(decoded: Decoded) -> list[str]:
    """A note where one image, byte for byte, stands under several labels."""
    seen: dict[bytes, dict[int, int]] = {}
    for row, (image, label) in enumerate(zip(decoded.images, decoded.labels.tolist(), strict=True)):
        seen.setdefault(hashlib.sha256(image.tobytes()).digest(), {}).setdefault(label, row)
    both = [rows for rows in seen.values() if len(rows) > 1]
    if not both:
        return []
    places = decoded.places or [f"row {row + 1}" for row in range(len(decoded.labels))]
    first = " and ".join(f"{places[row]} ({decoded.classes[label]})" for label, row in both[0].items())
    return [f"{counted(len(both), 'image')} {CONTRADICTED}, byte for byte, as {first}"]


def located(path: Path) -> Path:
    """`path`, or the csv or archive inside where it is a folder that holds one, and no folders of splits or expressions."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if not path.is_dir():
        return path
    names = (*CSV_NAMES, "fer2013.tar.gz", "fer2013.zip")
    inside = next((path / name for name in names if (path / name).is_file()), None)
    folders = [folder.name for folder in subfolders(path)]
    unpacked = any(split_of(name) or canonical(name) in (*FER2013, *NUMBERED) for name in folders)
    return path if inside is None or unpacked else inside


def folder_sha256(root: Path, files: Sequence[Path]) -> str:
    """Over each file's path below `root` and its bytes, in the order of `files`."""
    digest = hashlib.sha256()
    for path in files:
        relative = path.relative_to(root).as_posix().encode("utf-8", "surrogateescape")
        digest.update(len(relative).to_bytes(8, "little") + relative + sha256_of(path))
    return digest.hexdigest()


def store(data: Expressions, place: Path) -> None:
    """Writes the cache's file. Raises CacheError."""
    split = torch.tensor([SPLIT_ORDER.index(name) for name in data.split], dtype=torch.uint8)
    tensors = {"images": data.images, "labels": data.labels, "split": split}
    if data.votes is not None:
        tensors["votes"] = data.votes
    about = {"classes": data.classes, "name": data.name, "sha256": data.sha256, "notes": data.notes}
    store_tensors(tensors, about, place, "expressions")


def load_cached(place: Path) -> Expressions | None:
    """The cached data, or None where there are none or they are not what was written."""
    try:
        tensors, about = load_tensors(place, "expressions")
        split = tuple(SPLIT_ORDER[index] for index in tensors["split"].tolist())
        names, notes = tuple(about["classes"]), tuple(about["notes"])
        votes = tensors.get("votes")
        return Expressions(tensors["images"], tensors["labels"], split, names, about["name"], about["sha256"], votes, notes)
    except DAMAGED:
        return None


def unofficial_split(data: Expressions) -> list[str]:
    """A warning where all of FER2013 is there, but split in another way than the challenge's."""
    if data.classes != FER2013 or len(data) != 35887 or data.counts() in FER2013_COUNTS:
        return []
    return [f"{data.counts()} is not FER2013's split (28,709/3,589/3,589): its numbers compare with nobody's"]


def is_fer2013(data: Expressions) -> bool:
    """Whether these are FER2013's pictures, or are in its form: 48×48, its seven classes in its order. Parts of it count, too."""
    return data.classes == FER2013 and tuple(data.images.shape[-2:]) == (48, 48)


def reorder(data: Expressions, classes: Sequence[str]) -> Expressions:
    """The same images with labels renumbered to the order of `classes`. Raises FinetuneError unless the names are the same."""
    if sorted(data.classes) != sorted(classes):
        check_classes(classes, data.classes)
    position = torch.tensor([list(classes).index(name) for name in data.classes])
    return replace(data, labels=position[data.labels], classes=tuple(classes))


def exact_duplicates(data: Expressions, of: Sequence[str] = ("private",), among: Sequence[str] = ("train", "public")) -> Tensor:
    """(n,) int64 positions of the images of splits `of` that have a byte-identical copy in the splits `among`, ascending.

    In FER2013 314 private images have one in train or public, 288 in train.
    """

    rows = data.rows(*of)
    return rows[copied(data, rows, data.rows(*among))]


def copied(data: Expressions, rows: Tensor, among: Tensor) -> Tensor:
    """(len(rows),) bool: which of these images have a byte-identical copy among those others."""
    known = set(contents(data, among))
    return torch.tensor([digest in known for digest in contents(data, rows)], dtype=torch.bool)


def alike(data: Expressions, rows: Tensor, among: Tensor) -> Tensor:
    """(len(rows),) bool: which of these images look like one of those, as saved in another format or quality, or mirrored.

    Told by means over a grid of SIDE × SIDE, which differ by less than ALIKE grey levels; images without contrast are not compared.
    """
    if not len(rows) or not len(among):
        return torch.zeros(len(rows), dtype=torch.bool)
    ours, theirs = thumbnails(data.images[rows]), thumbnails(data.images[among])
    theirs = torch.cat([theirs, theirs.unflatten(1, (SIDE, SIDE)).flip(2).flatten(1)])
    nearest = torch.cat([torch.cdist(part, theirs).amin(1) for part in ours.split(512)])
    return (nearest / SIDE < ALIKE) & (ours.std(1) > 4 * ALIKE)


def thumbnails(images: Tensor) -> Tensor:
    """(n, SIDE²) float32: the means of grey values over a grid."""
    parts = [images[start : start + 2048].float() for start in range(0, len(images), 2048)]
    grey = (part[:, None] if part.dim() == 3 else part.mean(1, keepdim=True) for part in parts)
    return torch.cat([torch.nn.functional.adaptive_avg_pool2d(part, SIDE).flatten(1) for part in grey])


def contents(data: Expressions, rows: Tensor) -> list[bytes]:
    """A digest of each of these images' pixels."""
    return [hashlib.sha256(image.tobytes()).digest() for image in data.images[rows].numpy()]


def held_out(data: Expressions, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The rows without, and with only, every tenth image of each class, copies of one image staying together.

    A class keeps an image to train on. Raises FinetuneError where that leaves none to hold out.
    """
    taken = sample(data, rows, len(rows) // 10)
    mask = torch.isin(rows, taken)
    mask[~mask] = copied(data, rows[~mask], taken)
    mask = with_every_class(data.labels[rows], contents(data, rows), mask)
    check_held_out(data, rows[~mask], rows[mask], "images")
    return rows[~mask], rows[mask]
