"""Labelled clips for a video recipe: read from any usual layout, decoded once, kept as one uint8 tensor; which frames a net sees.

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

from finetune.clips import layouts as clip_layouts
from finetune.clips.layouts import EMOTIW, ClassIndex, Decoded, Listing, Lists
from finetune.errors import FinetuneError
from finetune.files import VIDEO_SUFFIXES, first_bytes
from finetune.labels import split_counts
from finetune.protocol import split_rows
from finetune.tensor_cache import DAMAGED, load_tensors, store_tensors
from zoo.errors import CacheError
from zoo.files.store import digests, home

__all__ = ["EMOTIW", "Clips", "FinetuneError", "draw_frames", "draw_segments", "read_clips", "subject_folds", "windows"]

DECODER = "1"  # part of the cache's names: raise it when the same source decodes to something else


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
    notes     what was left out of the source or looks wrong in it, in words
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
        chosen = rows.tolist()
        return replace(
            self,
            frames=frames,
            offsets=offsets,
            labels=self.labels[rows],
            split=tuple(self.split[row] for row in chosen),
            ids=tuple(self.ids[row] for row in chosen),
            subjects=None if self.subjects is None else tuple(self.subjects[row] for row in chosen),
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

    - a folder with list files, a line per clip: `<folder> <Emotion>` in trainlist.txt and testlist.txt, Emotiw_TRAIN.txt and
      Emotiw_VAL.txt, ...; `<folder> <frames> <number>` (Former-DFER's); or csv with a header path,label[,split][,subject].
      Folders are relative to `path` or its folder of that split; a path from another machine's root is found by its end.
      `lists` names the files where they lie elsewhere or don't say their split: {"train": file, "val": file}
    - [train|val|test/]<Emotion>/<video>/images0001.jpg, ...: numbers in names by value; without split folders all is "train"
    - CK+: class folders of S005_001_00000009.png, grouped to sequences; or cohn-kanade-images/ and Emotion/ as distributed
    - npz with frames, labels and perhaps subjects (clip_layouts.decode_npz); a list file itself

    `size` (H, W) resizes the frames, which frames of different sizes need. Classes are the EmotiW ones, alphabetically, where the
    names are those seven; other names are sorted. `class_index`, or a classInd.txt beside the lists, gives another order, and says
    what numbers mean: a file of lines `1 Angry`, or the names in order, numbered from 0.

    Decoding is done once; later calls map the cached tensor, unless `cache` is false. A cache that cannot be written is no error.
    Raises FinetuneError for everything that is no labelled clips, with file, line and value, and warns (UserWarning) of what
    was left out: empty folders, files that are no images. FileNotFoundError and PermissionError stay what they are.
    """
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    clip_layouts.check_size(size)
    listing = None
    if source.is_dir() or source.suffix.lower() in (".csv", ".txt"):
        root = source if source.is_dir() else source.parent
        listing = clip_layouts.list_clips(root, lists if source.is_dir() else lists or source, class_index)
        sha256, copies = fingerprint(listing)
        listing = replace(listing, notes=(*listing.notes, *copies))
        key = f"{sha256} {json.dumps([*listing.notes, *listing.ids])}"
    else:
        if lists is not None:
            raise FinetuneError(f"{source}: lists= belongs to a folder of clips; pass the folder")
        if source.suffix.lower() in VIDEO_SUFFIXES:
            raise clip_layouts.raw_video(source)
        if not first_bytes(source).startswith(b"PK\x03\x04"):
            raise FinetuneError(f"{source}: neither a folder, a list (.txt, .csv), nor an npz file")
        sha256 = digests(source, ())["sha256"]
        key = f"{sha256} {clip_layouts.class_order(class_index, [])}"
    place = home() / "clips" / f"{hashlib.sha256(f'{DECODER} {key} {size}'.encode()).hexdigest()}.safetensors"
    found = load_cached(place) if cache else None
    if found is None:
        decoded = clip_layouts.decode_npz(source, size, class_index) if listing is None else clip_layouts.decode(listing, size)
        found = as_clips(decoded, source.name, sha256)
        if cache:
            with suppress(CacheError):
                store(found, place)
    found = replace(found, name=source.name or source.resolve().name)
    for note in found.notes:
        warnings.warn(f"{source}: {note}", stacklevel=2)
    return found


def fingerprint(listing: Listing) -> tuple[str, list[str]]:
    """(sha256 over the clips' frames, their names and labels; a note where clips in two splits have the same bytes)."""
    from tqdm import tqdm

    digest = hashlib.sha256(json.dumps(listing.classes).encode())
    splits: dict[bytes, dict[str, str]] = {}
    for row, clip in enumerate(tqdm(listing.clips, f"{listing.root.name}, hashing", delay=2, disable=None, leave=False)):
        content = hashlib.sha256()
        names = [path.relative_to(listing.root).as_posix() for path in clip.frames]
        for path in clip.frames:
            content.update(hashlib.sha256(path.read_bytes()).digest())
        about = [names, int(listing.labels[row]), clip.label.split, clip.subject]
        digest.update(json.dumps(about).encode() + content.digest())
        splits.setdefault(content.digest(), {}).setdefault(clip.label.split, listing.ids[row])
    twice = [ids for ids in splits.values() if len(ids) > 1]
    if not twice:
        return digest.hexdigest(), []
    shown = " and ".join(f"{name} in {split}" for split, name in twice[0].items())
    return digest.hexdigest(), [f"{len(twice)} clip(s) are in more than one split, byte by byte, as {shown}"]


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
    words = json.dumps({"split": clips.split, "classes": clips.classes, "ids": clips.ids, "subjects": clips.subjects, "notes": clips.notes})
    tensors = {
        "frames": clips.frames.contiguous(),
        "offsets": clips.offsets,
        "labels": clips.labels,
        "words": torch.frombuffer(bytearray(words.encode()), dtype=torch.uint8),  # a tensor, so that the content's hash covers it
    }
    store_tensors(tensors, {"name": clips.name, "sha256": clips.sha256}, place, "clips")


def load_cached(place: Path) -> Clips | None:
    """The cached clips, or None where there are none or they are not what was written."""
    try:
        tensors, about = load_tensors(place, "clips")
        words = json.loads(tensors["words"].numpy().tobytes())
        subjects = None if words["subjects"] is None else tuple(words["subjects"])
        return Clips(
            tensors["frames"],
            tensors["offsets"],
            tensors["labels"],
            tuple(words["split"]),
            tuple(words["classes"]),
            tuple(words["ids"]),
            subjects,
            about["name"],
            about["sha256"],
            tuple(words["notes"]),
        )
    except DAMAGED:
        return None


# --- which frames a net sees ----------------------------------------------------------------------------------------------------------


def draw_frames(lengths: Tensor, frames: int = 16, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """(indices (N, frames) int64 into each clip, valid (N,) int64): frames at random without replacement, in their order.

    A clip that is shorter gives all its frames, then repeats its last one; `valid` is how many are no repetition,
    min(length, frames): the `lengths` that the nets of architectures.video take. How XiaoYee/emotion_classification trains
    (VGG_GRU/dataset.py). `generator` is the CPU's. Raises FinetuneError for a clip without frames.
    """
    lengths = checked(lengths, frames)
    longest = max(int(lengths.max()), frames) if len(lengths) else frames
    keys = torch.rand(len(lengths), longest, generator=generator)
    keys.masked_fill_(torch.arange(longest) >= lengths[:, None], 2.0)
    drawn = keys.argsort(1)[:, :frames]
    return in_order(drawn, lengths)


def draw_segments(lengths: Tensor, frames: int = 16, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """As draw_frames, but one random frame of each of `frames` equal segments of the clip, so that all of it is seen.

    The segments of Wang et al., ECCV 2016 (TSN); where the length is no multiple, they differ by one frame.
    """
    lengths = checked(lengths, frames)
    edges = torch.arange(frames + 1) * lengths[:, None] // frames
    start, width = edges[:, :-1], edges.diff(dim=1)
    random = torch.rand(len(lengths), frames, generator=generator, dtype=torch.float64)
    drawn = start + (random * width).long().minimum((width - 1).clamp(min=0))
    short = lengths[:, None] < frames
    return in_order(torch.where(short, torch.arange(frames), drawn), lengths)


def checked(lengths: Tensor, frames: int) -> Tensor:
    if frames < 1 or lengths.dim() != 1 or lengths.is_floating_point() or (lengths < 1).any():
        raise FinetuneError(f"{frames} frames of clips of {lengths.min().item()} frames and more: both are whole numbers from 1 on")
    return lengths.cpu().long()


def in_order(drawn: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Sorts what was drawn (N, T); what lies behind the end of its clip becomes the clip's last frame."""
    indices = drawn.sort(1).values
    return indices.minimum(lengths[:, None] - 1), lengths.clamp(max=drawn.shape[1])


def windows(length: int, frames: int = 16, stride: int = 8, *, tail: bool) -> tuple[Tensor, Tensor]:
    """(indices (W, frames) int64 into one clip, valid (W,) int64): windows of `frames` every `stride`, from the first frame on.

    A clip that is shorter is one window that repeats its last frame; `valid` is how many are no repetition. Frames behind the last
    whole window are dropped with tail=False, the way of XiaoYee/emotion_classification (VGG_GRU/dataset.py); tail=True adds a
    window that ends at the last frame. The logits of a clip's windows are averaged.
    """
    if min(length, frames, stride) < 1:
        raise FinetuneError(f"windows of {frames} frames every {stride} over {length}: all are whole numbers from 1 on")
    starts = list(range(0, max(length - frames, 0) + 1, stride))
    if tail and starts[-1] + frames < length:
        starts.append(length - frames)
    indices = torch.tensor(starts)[:, None] + torch.arange(frames)
    return indices.clamp(max=length - 1), torch.full((len(starts),), min(length, frames))


def subject_folds(subjects: Sequence[str], labels: Tensor | Sequence[int], folds: int = 10, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """(training rows, test rows), ascending int64, of each fold: no subject is in two folds, every row is in one fold's test rows.

    Folds have about the same size and share of each class: the subject with the most clips comes first, each goes to the fold
    that has least of its classes. `seed` orders subjects with equally many. Raises FinetuneError for fewer subjects than folds.
    """
    classes = torch.as_tensor(labels, dtype=torch.int64)
    if len(subjects) != len(classes):
        raise FinetuneError(f"{len(subjects)} subjects for {len(classes)} labels: one of each a clip")
    names = sorted(set(subjects))
    if not 2 <= folds <= len(names):
        raise FinetuneError(f"{folds} folds of {len(names)} subjects; take 2 to {len(names)} folds, so that each has a subject of its own")
    position = {name: row for row, name in enumerate(names)}
    who = torch.tensor([position[name] for name in subjects])
    _, classes = classes.unique(return_inverse=True)
    counts = torch.zeros(len(names), int(classes.max()) + 1, dtype=torch.float64)
    counts.index_put_((who, classes), torch.ones(1, dtype=torch.float64), accumulate=True)
    shares = torch.cat([counts / counts.sum(0), counts.sum(1, keepdim=True) / len(subjects)], 1)  # of each class, and of all clips
    order = sorted(range(len(names)), key=lambda row: (-counts[row].sum().item(), hashlib.sha256(f"{seed} {names[row]}".encode()).digest()))
    held = torch.zeros(folds, shares.shape[1], dtype=torch.float64)
    fold_of = torch.empty(len(names), dtype=torch.int64)
    for row in order:
        # What the sum of squares, which is least for equal folds, would grow by; where folds tie, the first.
        growth = ((held + shares[row]).square() - held.square()).sum(1)
        fold_of[row] = growth.argmin()
        held[fold_of[row]] += shares[row]
    fold = fold_of[who]
    return [((fold != number).nonzero().flatten(), (fold == number).nonzero().flatten()) for number in range(folds)]
