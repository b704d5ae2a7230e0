"""Labelled clips for a video recipe: read from any usual layout, decoded once, kept as one uint8 tensor.

    clips = read_clips("AFEW-faces", size=(112, 96))        # folders of frames, list files, csv, CK+, npz
    train, val = clips.part("train"), clips.part("val")
    indices, lengths = draw_frames(train.lengths(), 16, generator)              # training: 16 frames of each clip
    batch = train.frames[train.offsets[:-1, None] + indices]                    # (N, 16, ...) uint8

The decoded tensor lies in the cache under the sha256 of its source: <home>/clips/<sha256>.safetensors.
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

import torch
from torch import Tensor

from finetune.clips import layouts
from finetune.clips.arrays import decode_npz
from finetune.clips.classes import class_order
from finetune.clips.folders import raw_video
from finetune.clips.records import ClassIndex, Decoded, Listing, Lists
from finetune.errors import FinetuneError
from finetune.files import VIDEO_SUFFIXES, first_bytes, sha256_of
from finetune.labels import split_counts
from finetune.protocol import split_rows
from finetune.tensor_cache import DAMAGED, load_tensors, store_tensors
from zoo.disk import digests, home
from zoo.errors import CacheError, counted, printable

DECODER = "4"  # part of the cache's names: raise it when the same source decodes to something else


@dataclass(frozen=True)
class Clips:
    """Decoded clips with their labels; the i-th entry of labels, split, ids and subjects belongs to the i-th clip.

    frames    (F, H, W) uint8 grey or (F, 3, H, W) uint8 RGB, 0..255, on the CPU: the frames of all clips, one clip after the other
    offsets   (N+1,) int64: clip i is frames[offsets[i] : offsets[i + 1]], at least one frame
    labels    (N,) int64, positions in `classes`
    split     (N,) str: "train", "public", "private", "val" or "test"
    classes   class names in label order
    ids       (N,) str: the names of the videos, or where names repeat, their paths
    subjects  (N,) str: who is seen, or None where the source doesn't say
    name      the source's file name; sha256: of its bytes, names and labels
    notes     what was left out of the source or looks wrong in it
    """

    frames: Tensor
    offsets: Tensor
    labels: Tensor
    split: tuple[str, ...]
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    subjects: tuple[str, ...] | None
    name: str
    sha256: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def lengths(self) -> Tensor:
        """(N,) int64: the number of frames of each clip, at least 1."""
        return self.offsets.diff()

    def clip(self, row: int) -> Tensor:
        """The frames of one clip, (T, H, W) or (T, 3, H, W) uint8: a view."""
        return self.frames[int(self.offsets[row]) : int(self.offsets[row + 1])]

    def counts(self) -> dict[str, int]:
        """Clips per split, in the order train, public, private, val, test."""
        return split_counts(self.split)

    def rows(self, *splits: str) -> Tensor:
        """(n,) int64 positions of the clips of these splits. Raises FinetuneError where there are none."""
        return split_rows(self.split, splits, f"{self.name}: no clips")

    def part(self, *splits: str) -> Clips:
        """The clips of these splits, in their order."""
        return self.take(self.rows(*splits))

    def take(self, rows: Tensor) -> Clips:
        """The clips at `rows` (n,) int64. Clips that lie together are not copied: the frames are a view."""
        lengths = self.lengths()[rows]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        if len(rows) and (rows.diff() == 1).all():
            frames = self.frames[int(self.offsets[rows[0]]) : int(self.offsets[rows[-1] + 1])]
        else:
            frames = self.frames[torch.arange(int(offsets[-1])) + (self.offsets[rows] - offsets[:-1]).repeat_interleave(lengths)]
        positions = rows.tolist()
        return replace(
            self,
            frames=frames,
            offsets=offsets,
            labels=self.labels[rows],
            split=tuple(self.split[row] for row in positions),
            ids=tuple(self.ids[row] for row in positions),
            subjects=None if self.subjects is None else tuple(self.subjects[row] for row in positions),
        )


def read_clips(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    lists: Lists | None = None,
    class_index: ClassIndex | None = None,
    cache: bool = True,
) -> Clips:
    """Reads labelled clips. What `path` is follows from its content:

    - a folder with lists beside the clips' folders, a line per clip, with any separator: under a header such as path,label or
      name,emotion, perhaps with split and subject; or without one, `<folder> <Emotion>`, `<folder> <frames> <number>` (Former-DFER's).
      A list's name or folder may say its split: trainlist.txt, Emotiw_VAL.txt, val/labels.csv. Paths begin at `path`, at the list's
      folder or at that of the split; a path from another machine's root is found by its end, a bare name wherever the clip lies.
      `lists` names the files where they lie elsewhere or don't say their split: {"train": file, "val": file}
    - [train|val|test/]<Emotion>/<video>/images0001.jpg, ...: frames by their numbers; without split folders all is "train"
    - CK+: class folders of S005_001_00000009.png, grouped to sequences; or cohn-kanade-images/ and Emotion/ as distributed
    - npz with frames, labels and perhaps subjects (arrays.decode_npz); a list file itself

    `size` (H, W) resizes the frames, which frames of different sizes need. Classes are the EmotiW ones, alphabetically, where the
    names are those seven; other names are sorted. `class_index`, or a classInd.txt beside the lists, gives another order, and says
    what numbers mean: a file of lines `1 Angry`, or the names in order, numbered from 0.

    A list is followed where it contradicts the folders, which is noted; a file that seems to be a list and is not understood is
    refused by name, as are frames whose order their names don't say, and a class all of whose files would be left out.

    Decoding is done once; later calls map the cached tensor, unless `cache` is false. A cache that cannot be written is no error.
    Raises FinetuneError for everything that is no labelled clips, with file, line and value, and warns (UserWarning) of what
    was left out: empty folders, files that are no images. FileNotFoundError and PermissionError stay what they are.
    """
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    layouts.check_size(size)
    listing = None
    if source.is_dir() or source.suffix.lower() in (".csv", ".txt"):
        root = source if source.is_dir() else source.parent
        listing = layouts.list_clips(root, lists if source.is_dir() else lists or source, class_index)
        sha256, copies = fingerprint(listing)
        listing = replace(listing, notes=(*listing.notes, *copies))
        key = f"{sha256} {json.dumps([*listing.notes, *listing.ids])}"
    else:
        if lists is not None:
            raise FinetuneError(f"{source}: lists= belongs to a folder of clips; pass the folder")
        if source.suffix.lower() in VIDEO_SUFFIXES:
            raise raw_video(source)
        if not first_bytes(source).startswith(b"PK\x03\x04"):
            raise FinetuneError(f"{source}: neither a folder, a list (.txt, .csv), nor an npz file")
        sha256 = digests(source, ())["sha256"]
        key = f"{sha256} {class_order(class_index, [])}"
    place = home() / "clips" / f"{hashlib.sha256(f'{DECODER} {key} {size}'.encode()).hexdigest()}.safetensors"
    found = load_cached(place) if cache else None
    if found is None:
        decoded = decode_npz(source, size, class_index) if listing is None else layouts.decode(listing, size)
        found = as_clips(decoded, source.name, sha256)
        if listing is None:
            names = [found.classes[label] for label in found.labels.tolist()]
            copies = about_copies(contents(found, torch.arange(len(found))), found.ids, found.split, names)
            found = replace(found, notes=(*found.notes, *copies))
        if cache:
            with suppress(CacheError):
                store(found, place)
    found = replace(found, name=source.name or source.resolve().name)
    for note in found.notes:
        warnings.warn(f"{source}: {note}", stacklevel=2)
    return found


def fingerprint(listing: Listing) -> tuple[str, list[str]]:
    """(sha256 over the clips' frames, their names and labels; notes where clips of two splits or labels have the same bytes)."""
    from tqdm import tqdm

    digest = hashlib.sha256(json.dumps(listing.classes).encode())
    shown: list[bytes] = []
    for row, clip in enumerate(tqdm(listing.clips, f"{printable(listing.root.name)}, hashing", delay=2, disable=None, leave=False)):
        content = hashlib.sha256()
        names = [path.relative_to(listing.root).as_posix() for path in clip.frames]
        for path in clip.frames:
            content.update(sha256_of(path))
        about = [names, int(listing.labels[row]), clip.label.split, clip.subject]
        digest.update(json.dumps(about).encode() + content.digest())
        shown.append(content.digest())
    splits, names = [clip.label.split for clip in listing.clips], [listing.classes[label] for label in listing.labels]
    return digest.hexdigest(), about_copies(shown, listing.ids, splits, names)


def about_copies(shown: Sequence[bytes], ids: Sequence[str], splits: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Notes where clips with the same digest stand in several splits, or under several labels."""
    notes = []
    for values, what in ((splits, "in more than one split"), (labels, "under several labels")):
        places: dict[bytes, dict[str, str]] = {}
        for digest, name, value in zip(shown, ids, values, strict=True):
            places.setdefault(digest, {}).setdefault(value, name)
        if twice := [found for found in places.values() if len(found) > 1]:
            first = " and ".join(f"{name} in {value}" for value, name in twice[0].items())
            notes.append(f"{counted(len(twice), 'clip')} {what}, byte for byte, as {first}")
    return notes


def copied(data: Clips, rows: Tensor, among: Tensor) -> Tensor:
    """(len(rows),) bool: which of these clips have the same frames, byte by byte, as one of those others."""
    known = set(contents(data, among))
    return torch.tensor([digest in known for digest in contents(data, rows)], dtype=torch.bool)


def contents(data: Clips, rows: Tensor) -> list[bytes]:
    """A digest of the frames of each of these clips."""
    return [hashlib.sha256(data.clip(row).contiguous().numpy().reshape(-1).data).digest() for row in rows.tolist()]


def as_clips(decoded: Decoded, name: str, sha256: str) -> Clips:
    return Clips(
        torch.from_numpy(decoded.frames),
        torch.from_numpy(decoded.offsets),
        torch.from_numpy(decoded.labels),
        decoded.split,
        decoded.classes,
        decoded.ids,
        decoded.subjects,
        name,
        sha256,
        decoded.notes,
    )


def store(clips: Clips, place: Path) -> None:
    """Writes the cache's file. Raises CacheError."""
    about = json.dumps({"split": clips.split, "classes": clips.classes, "ids": clips.ids, "subjects": clips.subjects, "notes": clips.notes})
    tensors = {
        "frames": clips.frames.contiguous(),
        "offsets": clips.offsets,
        "labels": clips.labels,
        "words": torch.frombuffer(bytearray(about.encode()), dtype=torch.uint8),  # a tensor, so that the content's hash covers it
    }
    store_tensors(tensors, {"name": clips.name, "sha256": clips.sha256}, place, "clips")


def load_cached(place: Path) -> Clips | None:
    """The cached clips, or None where there are none or they are not what was written."""
    try:
        tensors, about = load_tensors(place, "clips")
        texts = json.loads(tensors["words"].numpy().tobytes())
        subjects = None if texts["subjects"] is None else tuple(texts["subjects"])
        return Clips(
            tensors["frames"],
            tensors["offsets"],
            tensors["labels"],
            tuple(texts["split"]),
            tuple(texts["classes"]),
            tuple(texts["ids"]),
            subjects,
            about["name"],
            about["sha256"],
            tuple(texts["notes"]),
        )
    except DAMAGED:
        return None
