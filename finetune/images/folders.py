"""Image files in a folder for each class."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.errors import FinetuneError, SizesDiffer
from finetune.files import IMAGE_SUFFIXES, SYSTEM_FILES, read_image, subfolders
from finetune.images.records import CSV_NAMES, Decoded
from finetune.labels import FER2013, NUMBERED, SPLIT_ORDER, canonical, class_names, natural, split_of
from zoo.errors import printable


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
        images = [read_image(entry.path, size) for entry in tqdm(files, printable(root.name), delay=2, disable=None, leave=False)]
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
