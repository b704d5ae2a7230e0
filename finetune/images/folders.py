"""Image files in a folder for each class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.errors import BadImage, FinetuneError, SizesDiffer, all_bad
from finetune.files import IMAGE_SUFFIXES, SYSTEM_FILES, check_images, own_limits, read_image, subfolders
from finetune.images.beside import about_lists
from finetune.images.records import CSV_NAMES, Decoded, Entry
from finetune.labels import (
    FER2013,
    NUMBERED,
    SPLIT_ORDER,
    about_numbers,
    about_order,
    canonical,
    class_names,
    merged,
    natural,
    split_in,
    split_of,
)
from zoo.errors import counted, printable


def class_folders(root: Path, size: int | None) -> Decoded:
    """A folder per class, below a folder per split or not: train/angry/1.png, train/0/1.png, angry/1.png.

    Seven folders 0..6, or named after FER2013's seven expressions (any case, synonyms as "happiness"), are FER2013's classes
    in its order. Any other folders are classes by their own names: sorted, numbers by value. Images come by split, then by
    file name (numbers in it by value), so files named by row number come in row order. Names that begin with Training_,
    PublicTest_ or PrivateTest_ say their split themselves: the Kaggle tree mixes the last two in test/.
    """
    found = list_images(root)
    files, notes = found.images, [*found.notes]
    classes = class_names(((entry.label, entry.split) for entry in files), root)
    position = {name: index for index, name in enumerate(classes)}
    if tuple(name.lstrip("0") or "0" for name in classes) == NUMBERED:
        classes = FER2013
        notes += about_order({entry.split for entry in files})
    notes += about_numbers(classes)
    paths = [entry.path for entry in files]
    with own_limits():
        check_images(paths, size, root)
        pixels = read_images(paths, size, root)
    return Decoded(
        pixels,
        np.array([position[canonical(entry.label)] for entry in files], np.int64),
        np.array([entry.split for entry in files]),
        classes,
        notes=tuple(notes),
        places=tuple(inside(root, entry.path) for entry in files),
    )


def read_images(paths: Sequence[Path], size: int | None, root: Path) -> np.ndarray:
    """(N, H, W) uint8, or (N, 3, H, W) where one of them has colours.

    Raises BadImage, naming all that are damaged, and SizesDiffer, naming two.
    """
    from tqdm import tqdm

    images: list[np.ndarray] = []
    bad: list[BadImage] = []
    like, first = None, root
    # One thread: on 48×48 PNG files two take 1.5 times as long, the interpreter's lock being held most of the time.
    for path in tqdm(paths, printable(root.name), delay=2, disable=None, leave=False):
        try:
            image = read_image(path, size, like)
        except BadImage as error:
            bad.append(error)
            continue
        except SizesDiffer as error:
            assert like is not None
            raise SizesDiffer(
                f"{root}: images of different sizes: {like[1]}×{like[0]} in {first}, {error}; pass size= to resize all (e.g. size=64)"
            ) from None
        images.append(image)
        if like is None and size is None:
            like, first = image.shape[:2], path
    if bad:
        raise all_bad(bad, root)
    colour, side = any(image.ndim == 3 for image in images), images[0].shape[:2]
    pixels = np.empty((len(images), 3, *side) if colour else (len(images), *side), np.uint8)
    images.reverse()
    for row in range(len(pixels)):
        image = images.pop()  # so that no image is held twice
        pixels[row] = image.transpose(2, 0, 1) if image.ndim == 3 else image
    return pixels


@dataclass(frozen=True)
class Found:
    """The images below a folder, in the order of class_folders, and what was left out."""

    images: tuple[Entry, ...]
    notes: tuple[str, ...]


def list_images(root: Path) -> Found:
    """Every image below the class folders of `root`. Raises FinetuneError for a class folder all of whose files would be left out."""
    top = subfolders(root)
    splits = [(split, folder) for folder in top if (split := split_in(folder.name))]
    if splits and len(splits) != len(top):
        strange = next(folder for folder in top if not split_in(folder.name))
        raise FinetuneError(f"{strange}: lies beside {splits[0][1].name}/ and is no split; move it away, or pass the folder to read")
    entries: list[Entry] = []
    skipped: dict[str, list[Path]] = {}
    loose, empty = [], []
    for split, parent in splits or [("train", root)]:
        loose += sorted(inside(root, path) for path in parent.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
        for folder in subfolders(parent):
            images, others = images_in(folder)
            if others and not images:
                raise FinetuneError(
                    f"{folder}: none of its {counted(len(others), 'file')} is an image that is read, as {others[0].name}: the class"
                    f" {folder.name} would be lost. Save them as PNG or JPEG, or move the folder away"
                )
            if not images:
                empty.append(inside(root, folder))
            skipped[inside(root, folder)] = others
            entries += [Entry(path, folder.name, stated_split(path.name) or split) for path in images]
    if not entries:
        lies = f" ({loose[0]} lies in no class's folder)" if loose else ""
        raise FinetuneError(f"{root}: no images found{lies}; expected [train/]class/image.png, or a folder with {' or '.join(CSV_NAMES)}")
    order = sorted(entries, key=lambda entry: (SPLIT_ORDER.index(entry.split), natural(entry.path.name), canonical(entry.label)))
    parents = [parent for _, parent in splits]
    alike = [note for parent in parents or [root] for note in merged((folder.name for folder in subfolders(parent)), canonical)]
    notes = [*about_skipped(skipped, loose, empty), *merged((folder.name for folder in parents), split_in), *dict.fromkeys(alike)]
    return Found(tuple(order), (*notes, *about_lists(root, parents, entries)))


def images_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """(the images of a class folder, its other files but for what operating systems leave)."""
    images: list[Path] = []
    others: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.lower() in SYSTEM_FILES:
            continue
        if path.is_dir():
            raise FinetuneError(f"{path}: a folder inside a class folder; expected [split/]class/image below the folder that is read")
        (images if path.suffix.lower() in IMAGE_SUFFIXES else others).append(path)
    return images, others


def stated_split(name: str) -> str | None:
    """The split that a file of Kaggle's tree says in its own name."""
    prefix, underscore, _ = name.partition("_")
    return split_of(prefix) if underscore and prefix in ("Training", "PublicTest", "PrivateTest") else None


def about_skipped(skipped: Mapping[str, Sequence[Path]], loose: Sequence[str], empty: Sequence[str]) -> Iterator[str]:
    if lost := {folder: paths for folder, paths in skipped.items() if paths}:
        places = listed([f"{folder} ({paths[0].name}{', ...' if len(paths) > 1 else ''})" for folder, paths in lost.items()])
        yield f"left out: {counted(sum(map(len, lost.values())), 'file')} in class folders, being no images, in {places}"
    if loose:
        yield f"left out: {counted(len(loose), 'image')} in no class's folder: {listed(loose)}"
    if empty:
        yield f"{counted(len(empty), 'empty folder')} where classes are expected: {listed(empty)}"


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def inside(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
