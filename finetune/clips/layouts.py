"""The layouts that labelled clips come in, decoded to frames: folders of frames, list files, CK+.

A raw video is no clip yet: finetune.prepare_video makes folders of aligned faces of it. Every refusal is a FinetuneError.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from finetune.clips.beside import lists_beside
from finetune.clips.classes import class_order, number_labels
from finetune.clips.folders import cohn_kanade, in_class_folders
from finetune.clips.lists import given_lists, listed
from finetune.clips.places import Places
from finetune.clips.records import ClassIndex, Clip, Decoded, Listing, Lists
from finetune.errors import BadImage, FinetuneError, SizesDiffer, all_bad
from finetune.files import LARGEST_SIDE, check_images, header, own_limits, read_image
from finetune.labels import SPLIT_ORDER
from zoo.errors import counted, printable


def list_clips(root: Path, lists: Lists | None, class_index: ClassIndex | None) -> Listing:
    """The clips below `root`: as its list files say, or else as its folders do. Raises FinetuneError."""
    notes: list[str] = []
    places = Places(root)
    handed_out = (root / "Emotion").is_dir() and (root / "cohn-kanade-images").is_dir()
    if lists is not None:
        tables = given_lists(lists, places)
    else:
        tables = [] if handed_out else lists_beside(places, notes)
    order = class_order(class_index, [root, *{table.path.parent: None for table in tables}])
    if tables:
        found = list(listed(tables, places, notes, whole=lists is None))
    else:
        found = list((cohn_kanade if handed_out else in_class_folders)(root, notes))
    if not found:
        raise FinetuneError(f"{root}: no clips found; expected [train/]class/video/image0001.jpg, or list files in it")
    classes, labels, more = number_labels([clip.label for clip in found], order, root)
    whole = [row for row, clip in enumerate(found) if clip.frames]
    notes += empty_clips(found, [classes[label] for label in labels], root)
    whole.sort(key=lambda row: SPLIT_ORDER.index(found[row].label.split))
    clips = tuple(found[row] for row in whole)
    notes += about_subjects(clips)
    return Listing(root, clips, labels[whole], classes, ids_of(clips, root), (*notes, *more))


def empty_clips(found: Sequence[Clip], classes: Sequence[str], root: Path) -> list[str]:
    """A note on clips without frames. Raises FinetuneError where a class has no others."""
    empty = [clip.folder.relative_to(root).as_posix() for clip in found if not clip.frames]
    if not empty:
        return []
    if len(empty) == len(found):
        raise FinetuneError(f"{root}: all {len(empty)} folders of clips are empty; run python -m finetune.prepare_video SRC DST first")
    for split in (None, "train"):
        rows = [(clip, name) for clip, name in zip(found, classes, strict=True) if split in (None, clip.label.split)]
        if lost := sorted({name for _, name in rows} - {name for clip, name in rows if clip.frames}):
            first = next(clip.folder for clip, name in rows if name == lost[0])
            where = f" of {split}" if split else ""
            raise FinetuneError(
                f"{first}: no clip{where} of the class {lost[0]} has a frame ({', '.join(lost)} would be lost); its files are no images"
                " that are read, or no face was found in its videos. Add frames, or remove the class"
            )
    return [f"left out: {counted(len(empty), 'clip')} without a frame: {', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}"]


def about_subjects(clips: Sequence[Clip]) -> list[str]:
    notes = []
    if len({clip.subject for clip in clips} - {None}) and any(clip.subject is None for clip in clips):
        notes.append("subjects left out: not every clip has one")
    parts: dict[str, set[str]] = {}
    for clip in clips:
        if clip.subject is not None:
            parts.setdefault(clip.subject, set()).add(clip.label.split)
    if mixed := sorted(subject for subject, splits in parts.items() if len(splits) > 1):
        notes.append(f"{counted(len(mixed), 'subject')} in more than one split, as {mixed[0]}")
    return notes


def ids_of(clips: Sequence[Clip], root: Path) -> tuple[str, ...]:
    """The names of the clips' folders, or where names repeat, their paths below `root`."""
    names = [clip.name or clip.folder.name for clip in clips]
    if len(set(names)) == len(names):
        return tuple(names)
    return tuple("/".join(filter(None, (clip.folder.relative_to(root).as_posix(), clip.name))) for clip in clips)


def decode(listing: Listing, size: tuple[int, int] | None) -> Decoded:
    """Reads the frames of all clips, resized to `size` (H, W)."""
    everything = [path for clip in listing.clips for path in clip.frames]
    with own_limits():
        check_images(everything, size, listing.root)
        parts = read_frames(listing, size)
    offsets = np.cumsum([0, *map(len, parts)])
    height, width = parts[0][0].shape[:2]
    colour = any(frame.ndim == 3 for frames in parts for frame in frames)
    tensor = np.empty((offsets[-1], 3, height, width) if colour else (offsets[-1], height, width), np.uint8)
    for clip_number, start in enumerate(offsets[:-1]):
        frames, parts[clip_number] = parts[clip_number], []  # so that a clip's memory is free once it is copied
        for position, frame in enumerate(frames, start):
            tensor[position] = frame.transpose(2, 0, 1) if frame.ndim == 3 else frame
    subjects = tuple(clip.subject or "" for clip in listing.clips)
    return Decoded(
        tensor,
        offsets.astype(np.int64),
        listing.labels,
        tuple(clip.label.split for clip in listing.clips),
        listing.classes,
        listing.ids,
        subjects if all(subjects) else None,
        listing.notes,
    )


def read_frames(listing: Listing, size: tuple[int, int] | None) -> list[list[np.ndarray]]:
    """The frames of each clip, on several threads. Raises BadImage, naming all that are damaged, and SizesDiffer, naming two."""
    from tqdm import tqdm

    first = listing.clips[0].frames[0]
    like = None if size is not None else header(first)[:2]
    bad: list[BadImage] = []

    def frames_of(clip: Clip) -> list[np.ndarray]:
        frames = []
        for path in clip.frames:
            try:
                frames.append(read_image(path, size, like))
            except BadImage as error:
                bad.append(error)
        return frames

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            decoded = pool.map(frames_of, listing.clips)
            parts = list(tqdm(decoded, printable(listing.root.name), len(listing.clips), delay=2, disable=None, leave=False))
        except BaseException as error:
            pool.shutdown(cancel_futures=True)
            if like is None or not isinstance(error, SizesDiffer):
                raise
            raise SizesDiffer(
                f"{listing.root}: frames of different sizes: {like[1]}×{like[0]} in {first}, {error}; pass size=(height, width) to resize"
                " all, e.g. size=(112, 112)"
            ) from None
    if bad:
        raise all_bad(sorted(bad, key=str), listing.root)
    return parts


def check_size(size: tuple[int, int] | None) -> None:
    if size is not None and (len(size) != 2 or not all(isinstance(side, int) and 0 < side <= LARGEST_SIDE for side in size)):
        raise FinetuneError(f"size={size}: expected (height, width) in pixels, e.g. (112, 112)")
