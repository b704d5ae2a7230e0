"""Clips in an npz file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from finetune.arrays import SPLIT_ARRAYS, about_unread, as_images, named_splits, npy
from finetune.clips.classes import class_order, number_labels
from finetune.clips.records import ClassIndex, Decoded, Label
from finetune.errors import FinetuneError
from finetune.files import check_room, damage_named

ARRAYS = {
    "frames": ("frames", "sequences", "clips", "videos", "images"), "labels": ("labels", "label", "emotion", "y"),
    "subjects": ("subjects", "subject"), "session": ("session", "sessions"), "ids": ("ids", "id"), "split": SPLIT_ARRAYS,
    "classes": ("classes", "class_names"), "lengths": ("lengths", "length"), "offsets": ("offsets",),
}  # fmt: skip


def decode_npz(path: Path, size: tuple[int, int] | None, class_index: ClassIndex | None) -> Decoded:
    """Sequences in an npz, as ck48_sequences.npz: frames (N, T, H, W), (N, T, H, W, 3) or (N, T, 3, H, W), labels (N,) of names or
    numbers, and perhaps subjects (N,), session (N,), ids (N,), split (N,) of 0 train, 1 public, 2 private or of names, classes (K,),
    lengths (N,) where the clips are padded at the end. With offsets (N+1,), frames are (F, H, W), (F, H, W, 3) or (F, 3, H, W).
    """
    with damage_named(path), zipfile.ZipFile(path) as archive:
        arrays = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        members = {member.filename.removesuffix(".npy").lower(): member for member in arrays}
        if not members:
            raise FinetuneError(f"{path}: an archive without arrays; unpack it and pass the folder")
        names = {role: next((name for name in known if name in members), None) for role, known in ARRAYS.items()}
        check_room(sum(members[name].file_size for name in names.values() if name), path.stat().st_size, path)
        held = {role: npy(archive, members[name], path) for role, name in names.items() if name}
    for role in ("frames", "labels"):
        if role not in held:
            raise FinetuneError(f"{path}: no array '{role}'; found {', '.join(list(members)[:8]) or 'nothing'}")
    frames, labels = held["frames"], held["labels"]
    clips = len(labels) if labels.ndim == 1 else -1
    for role in ("labels", "subjects", "session", "ids", "lengths"):
        kinds = "ui" if role == "lengths" else "uiU"
        if role in held and (held[role].shape != (clips,) or held[role].dtype.kind not in kinds or not clips):
            what = f"{path}, {names[role]}: {held[role].dtype} of shape {held[role].shape}"
            raise FinetuneError(f"{what}; expected {'' if kinds == 'ui' else 'names or '}whole numbers, one a clip")
    if "offsets" in held:
        offsets = held["offsets"]
        if offsets.shape != (clips + 1,) or offsets.dtype.kind not in "ui" or offsets[0] != 0 or offsets[-1] != len(frames):
            what = f"{path}, offsets: {offsets.dtype} of shape {offsets.shape}"
            raise FinetuneError(f"{what}; expected whole numbers of shape ({clips + 1},), from 0 to {len(frames)}")
        lengths = np.diff(offsets.astype(np.int64))
        flat = as_images(frames, f"{path}, {names['frames']}")
    else:
        if frames.ndim not in (4, 5) or len(frames) != clips:
            raise FinetuneError(f"{path}, {names['frames']}: shape {frames.shape}; expected ({clips}, T, H, W) or ({clips}, T, H, W, 3)")
        steps = frames.shape[1]
        lengths = held["lengths"].astype(np.int64) if "lengths" in held else np.full(clips, steps)
        if (lengths > steps).any():
            row = int((lengths > steps).argmax())
            raise FinetuneError(f"{path}, {names['lengths']}, row {row + 1}: {lengths[row]} frames, but clips have {steps}")
        flat = as_images(frames.reshape(-1, *frames.shape[2:]), f"{path}, {names['frames']}")
        flat = flat[(np.arange(steps) < lengths[:, None]).ravel()]
    if (lengths < 1).any():
        row = int((lengths < 1).argmax())
        raise FinetuneError(f"{path}, row {row + 1}: {lengths[row]} frames; every clip has at least one")
    split = named_splits(held["split"], path, clips).tolist() if "split" in held else ["train"] * clips
    if class_index is None and "classes" in held:
        class_index = [str(name) for name in held["classes"].ravel()]
    rows = enumerate(zip(labels, split, strict=True), 1)
    said = [Label(str(text), part, f"{path}, {names['labels']}, row {row}") for row, (text, part) in rows]
    classes, positions, notes = number_labels(said, class_order(class_index, []), path)
    subjects = tuple(map(str, held["subjects"].tolist())) if "subjects" in held else None
    ids = tuple(map(str, held["ids"].tolist() if "ids" in held else range(clips)))
    if "ids" not in held and subjects is not None and "session" in held:
        ids = tuple(f"{subject}_{session}" for subject, session in zip(subjects, held["session"].tolist(), strict=True))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Decoded(resized(flat, size), offsets, positions, tuple(split), classes, ids, subjects, (*notes, *about_unread(members, names)))


def resized(frames: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """(F, H, W) or (F, 3, H, W) frames at `size`, as read_image resizes them."""
    from PIL import Image

    if size is None or frames.shape[-2:] == size:
        return frames
    planes = frames.reshape(-1, *frames.shape[-2:])  # Pillow resizes the channels of an RGB image one by one, too
    smaller = [np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BICUBIC)) for plane in planes]
    return np.stack(smaller).reshape(*frames.shape[:-2], *size)
