"""The layouts that labelled clips come in, decoded to frames: folders of frames, list files, csv lists, CK+, npz.

A raw video is no clip yet: finetune.prepare_video makes folders of aligned faces of it. Every refusal is a FinetuneError.
"""

from __future__ import annotations

import csv
import os
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from finetune.arrays import as_images, named_splits, npy
from finetune.errors import FinetuneError, SizesDiffer
from finetune.files import (
    IMAGE_SUFFIXES,
    LARGEST_BLOCK,
    LARGEST_SIDE,
    LONGEST_LINE,
    SYSTEM_FILES,
    VIDEO_SUFFIXES,
    damage_named,
    read_image,
    subfolders,
)  # fmt: skip
from finetune.labels import EMOTIW, SPLIT_ORDER, canonical, class_names, natural, split_of

CK_FRAME = re.compile(r"(S\d{3})_(\d{3})_\d{8}", re.ASCII)  # CK+'s file names: subject, sequence, frame (Lucey et al. 2010)
CK_SEQUENCE = re.compile(r"(?:^|/)(S\d{3})[/_]\d{3}$", re.ASCII)  # and its folders
CK_EMOTIONS = ("neutral", "angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")  # numbers in its *_emotion.txt
SPLIT_WORD = re.compile(r"(?<![a-z])(?:e(?=val))?(train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?|dev)(?:list|set)?(?![a-z])")
NUMBER = re.compile(r"-?\d{1,6}", re.ASCII)
COLUMNS = {
    "path": ("path", "folder", "video", "clip", "file", "filename", "id"), "label": ("label", "emotion", "expression", "class"),
    "split": ("split", "usage", "set"), "subject": ("subject", "person", "actor"),
}  # fmt: skip
ARRAYS = {
    "frames": ("frames", "sequences", "clips", "videos", "images"), "labels": ("labels", "label", "emotion", "y"),
    "subjects": ("subjects", "subject"), "session": ("session", "sessions"), "ids": ("ids", "id"), "split": ("split", "usage"),
    "classes": ("classes", "class_names"), "lengths": ("lengths", "length"), "offsets": ("offsets",),
}  # fmt: skip
NO_LISTS = ("classind.txt", "report.csv")  # the latter is prepare_video's: it has rows for videos without a face, too
Lists = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]]
ClassIndex = str | os.PathLike[str] | Sequence[str]


@dataclass(frozen=True)
class Label:
    text: str
    split: str
    place: str  # where it stands, for messages
    folder: str = ""  # the name of the folder above the clip, where that isn't the label itself


@dataclass(frozen=True)
class Clip:
    folder: Path
    frames: tuple[Path, ...]
    label: Label
    subject: str | None = None
    name: str = ""  # where the folder doesn't name it


@dataclass(frozen=True)
class Listing:
    """The clips of a folder before their frames are read; labels (N,) int64 are positions in `classes`."""

    root: Path
    clips: tuple[Clip, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Decoded:
    """frames (F, H, W) or (F, 3, H, W) uint8 RGB; offsets (N+1,) and labels (N,) int64."""

    frames: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    split: tuple[str, ...]
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    subjects: tuple[str, ...] | None
    notes: tuple[str, ...]


# --- classes and splits ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassOrder:
    names: tuple[str, ...]
    first: int  # the number of the first class in the lists


def class_order(source: ClassIndex | None, beside: Sequence[Path]) -> ClassOrder | None:
    """Of the names in `source` (numbered from 0), of the file `source`, or of a classInd.txt in one of the folders `beside`.

    The file has a line per class, `1 Angry`, numbered from 1 or 0 without gaps.
    """
    if source is None:
        found = [path for folder in beside for path in sorted(folder.iterdir()) if path.name.lower() == "classind.txt"]
        if not found:
            return None
        source = found[0]
    if not isinstance(source, str | os.PathLike):
        names, first, what = tuple(map(canonical, source)), 0, "class_index"
    else:
        what = str(source)
        rows = [(number, line.replace(",", " ").split()) for number, line in text_lines(Path(source))]
        for row, (number, fields) in enumerate(rows):
            if len(fields) != 2 or not fields[0].isdecimal() or int(fields[0][:9]) != int(rows[0][1][0][:9]) + row:
                found_text = " ".join(fields)[:60]
                raise FinetuneError(f"{what}, line {number}: {found_text!r}; expected number and name, as '1 Angry', without gaps")
        names, first = tuple(canonical(fields[1]) for _, fields in rows), int(rows[0][1][0][:9]) if rows else 0
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise FinetuneError(f"{what}: class {twice[0]} stands there twice; remove one")
    if not names or first > 1:
        raise FinetuneError(f"{what}: {f'numbers from {first}' if names else 'no classes'}; expected a line per class, from '1 Angry' on")
    return ClassOrder(names, first)


def number_labels(labels: Sequence[Label], order: ClassOrder | None, root: Path) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
    """(classes, positions (N,) int64, notes). Without `order`, EmotiW's where the names are its seven; else sorted.

    Numbers mean what `order` says. Without it, they get the names of the folders that the clips lie in, if each number has its
    own; or else stay numbers, with a note. Raises FinetuneError where numbers and folders contradict each other.
    """
    texts = [canonical(label.text) for label in labels]
    numbers = [NUMBER.fullmatch(text) is not None for text in texts]
    notes = []
    if any(numbers):
        if not all(numbers):
            raise FinetuneError(
                f"{labels[numbers.index(True)].place}: label {texts[numbers.index(True)]}, but {labels[numbers.index(False)].place} has"
                f" {texts[numbers.index(False)]!r}: labels are all numbers or all names"
            )
        if order is not None:
            high = order.first + len(order.names) - 1
            for label, text in zip(labels, texts, strict=True):
                if not order.first <= int(text) <= high:
                    known = f"{order.first} {order.names[0]} to {high} {order.names[-1]}"
                    raise FinetuneError(f"{label.place}: label {text}; the classes are {known}")
            texts = [order.names[int(text) - order.first] for text in texts]
        elif named := folders_of_numbers(labels, texts):
            texts = [named[text] for text in texts]
            notes.append("labels are numbers, named after their folders: " + ", ".join(f"{n} {named[n]}" for n in sorted(named, key=int)))
        else:
            notes.append("labels are numbers, and nothing says what they mean; pass class_index= (classInd.txt, or the names in order)")
    if order is not None:
        names = order.names
    else:
        names = class_names([(text, label.split) for text, label in zip(texts, labels, strict=True)], root)
        names = EMOTIW if set(names) == set(EMOTIW) else names
    elsewhere = []
    for label, text, number in zip(labels, texts, numbers, strict=True):
        if text not in names:
            raise FinetuneError(f"{label.place}: class {label.text[:40]!r}; the classes are {', '.join(names)}")
        folder = canonical(label.folder)
        if folder in names and folder != text:
            if number:
                raise FinetuneError(
                    f"{label.place}: label {label.text} is {text} in the class order {', '.join(names)}, but the clip lies in"
                    f" {label.folder}/: another order of the classes. Pass the list's own order as class_index="
                )
            elsewhere.append(label.place)
    if elsewhere:
        notes.append(f"{len(elsewhere)} clip(s) lie in the folder of another class than their label's, the first in {elsewhere[0]}")
    return names, np.array([names.index(text) for text in texts], np.int64), notes


def folders_of_numbers(labels: Sequence[Label], texts: Sequence[str]) -> dict[str, str]:
    """The folder's name for each number, or nothing where a number has several folders or two have the same."""
    pairs = {(text, canonical(label.folder)) for label, text in zip(labels, texts, strict=True)}
    named = dict(pairs)
    return named if len(pairs) == len(named) == len(set(named.values())) > 1 and not any(map(NUMBER.fullmatch, named.values())) else {}


def split_in(name: str) -> str | None:
    """The split that a folder's or list's name says: train, Val_AFEW, Emotiw_TRAIN, testlist01, afew_eval."""
    if split := split_of(name):
        return split
    said = {split_of(word) for word in SPLIT_WORD.findall(name.lower())}
    return said.pop() if len(said) == 1 else None


# --- folders of frames ----------------------------------------------------------------------------------------------------------------


def list_clips(root: Path, lists: Lists | None, class_index: ClassIndex | None) -> Listing:
    """The clips below `root`: as its list files say, or else as its folders do. Raises FinetuneError."""
    tables = list_files(root, lists)
    order = class_order(class_index, [root, *{path.parent: None for path, _ in tables}])
    notes: list[str] = []
    if tables:
        found = list(listed(tables, root, notes))
    elif (root / "Emotion").is_dir() and (root / "cohn-kanade-images").is_dir():
        found = list(cohn_kanade(root, notes))
    else:
        found = list(in_class_folders(root, notes))
    if not found:
        raise FinetuneError(f"{root}: no clips found; expected [train/]class/video/image0001.jpg, or list files in it")
    classes, labels, more = number_labels([clip.label for clip in found], order, root)
    whole = [row for row, clip in enumerate(found) if clip.frames]
    if empty := [clip.folder.relative_to(root).as_posix() for clip in found if not clip.frames]:
        if not whole:
            raise FinetuneError(f"{root}: all {len(empty)} folders of clips are empty; run python -m finetune.prepare_video SRC DST first")
        notes.append(f"{len(empty)} clip(s) without a frame left out: {', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}")
    whole.sort(key=lambda row: SPLIT_ORDER.index(found[row].label.split))
    clips = tuple(found[row] for row in whole)
    if len({clip.subject for clip in clips} - {None}) and any(clip.subject is None for clip in clips):
        notes.append("subjects left out: not every clip has one")
    parts: dict[str, set[str]] = {}
    for clip in clips:
        if clip.subject is not None:
            parts.setdefault(clip.subject, set()).add(clip.label.split)
    if mixed := sorted(subject for subject, splits in parts.items() if len(splits) > 1):
        notes.append(f"{len(mixed)} subject(s) are in more than one split, as {mixed[0]}")
    return Listing(root, clips, labels[whole], classes, ids_of(clips, root), (*notes, *more))


def ids_of(clips: Sequence[Clip], root: Path) -> tuple[str, ...]:
    """The names of the clips' folders, or where names repeat, their paths below `root`."""
    names = [clip.name or clip.folder.name for clip in clips]
    if len(set(names)) == len(names):
        return tuple(names)
    return tuple("/".join(filter(None, (clip.folder.relative_to(root).as_posix(), clip.name))) for clip in clips)


def raw_video(path: Path) -> FinetuneError:
    return FinetuneError(f"{path}: a raw video; cut the faces out first: python -m finetune.prepare_video SRC DST, then read DST")


def visible(folder: Path) -> list[Path]:
    """What is in a folder, numbers in names by value, without the files that operating systems leave."""
    found = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")) and path.name.lower() not in SYSTEM_FILES]
    return sorted(found, key=lambda path: (natural(path.name), path.name))


def told(skipped: Counter[str]) -> list[str]:
    texts = {
        "files": "file(s) that are no images left out",
        "elsewhere": "path(s) of the lists lie on another machine: their ends were found here",
        "counts": "clip(s) have another number of frames than the list says",
    }
    return [f"{skipped[key]} {text}" for key, text in texts.items() if skipped[key]]


def frames_in(folder: Path, skipped: Counter[str]) -> tuple[Path, ...]:
    frames = []
    for path in visible(folder):
        if path.is_dir():
            raise FinetuneError(f"{path}: a folder inside a clip's folder; expected only images in {folder.name}/")
        if path.suffix.lower() in VIDEO_SUFFIXES:
            raise raw_video(path)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            frames.append(path)
        else:
            skipped["files"] += 1
    return tuple(frames)


def split_folders(root: Path) -> list[tuple[str, Path]]:
    """The folders of classes with their splits; a folder that is alone between, as Train_AFEW/Emotiw-faces/Angry, is passed."""
    top = subfolders(root)
    if not any(split_in(folder.name) for folder in top):
        return [("train", inner_folder(root))]
    if strange := [folder for folder in top if not split_in(folder.name)]:
        beside = next(folder.name for folder in top if split_in(folder.name))
        raise FinetuneError(f"{strange[0]}: lies beside {beside}/ and is no split; move it away, or pass the folder to read")
    return [(str(split_in(folder.name)), inner_folder(folder)) for folder in top]


def inner_folder(folder: Path) -> Path:
    inside = subfolders(folder)
    if len(inside) == 1 and any(subfolders(each) for each in subfolders(inside[0])):
        return inside[0]
    return folder


def in_class_folders(root: Path, notes: list[str]) -> Iterator[Clip]:
    """[split/]class/video/frames; or [split/]class/S005_001_00000009.png, grouped to sequences by subject and sequence."""
    skipped: Counter[str] = Counter()
    for split, parent in split_folders(root):
        for folder in sorted(subfolders(parent), key=lambda each: natural(canonical(each.name))):
            label = Label(folder.name, split, str(folder))
            sequences: dict[str, list[Path]] = {}
            for path in visible(folder):
                if path.is_dir():
                    ck = CK_SEQUENCE.search(path.name)
                    yield Clip(path, frames_in(path, skipped), label, ck[1] if ck else None)
                elif path.suffix.lower() in VIDEO_SUFFIXES:
                    raise raw_video(path)
                elif path.suffix.lower() not in IMAGE_SUFFIXES:
                    skipped["files"] += 1
                elif ck := CK_FRAME.fullmatch(path.stem):
                    sequences.setdefault(f"{ck[1]}_{ck[2]}", []).append(path)
                else:
                    raise FinetuneError(
                        f"{path}: an image where a folder per video is expected (or CK+'s names, S005_001_00000009.png);"
                        " single images are read by finetune.images.data.read"
                    )
            for name, files in sequences.items():
                yield Clip(folder, tuple(files), label, name[:4], name)
    notes += told(skipped)


def cohn_kanade(root: Path, notes: list[str]) -> Iterator[Clip]:
    """CK+ as its authors give it: cohn-kanade-images/S005/001/*.png, and the sequences that have an Emotion/S005/001/*_emotion.txt."""
    skipped: Counter[str] = Counter()
    for path in sorted((root / "Emotion").glob("S*/*/*_emotion.txt")):
        text = path.read_text("latin-1")[:100].strip()
        number = int(float(text)) if re.fullmatch(r"\d(\.\d*)?(e\+?0+)?", text) else -1
        if not 0 <= number < len(CK_EMOTIONS):
            raise FinetuneError(f"{path}: {text[:40]!r}; expected a number 0..{len(CK_EMOTIONS) - 1}")
        subject, session = path.parts[-3:-1]
        folder = root / "cohn-kanade-images" / subject / session
        if not folder.is_dir():
            raise FinetuneError(f"{path}: its frames are missing: no folder {folder}; unpack extended-cohn-kanade-images.zip there")
        yield Clip(folder, frames_in(folder, skipped), Label(CK_EMOTIONS[number], "train", str(path)), subject, f"{subject}_{session}")
    notes += told(skipped)


# --- list files -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    path: str
    label: str
    split: str
    place: str
    subject: str | None = None


def text_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that aren't blank, with their numbers. A name that is not UTF-8 comes as the operating system has it."""
    if path.stat().st_size > LARGEST_BLOCK:
        raise FinetuneError(f"{path}: {path.stat().st_size:,} bytes: is it a list of clips?")
    text = os.fsdecode(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    if "\0" in text:
        raise FinetuneError(f"{path}: is no text file")
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def list_files(root: Path, lists: Lists | None) -> list[tuple[Path, str | None]]:
    """The list files with their splits, None where a csv's column says it. Without `lists`, those that lie in `root`."""
    if isinstance(lists, Mapping):
        if unknown := [name for name in lists if split_of(name) is None]:
            raise FinetuneError(f"lists: {unknown[0]!r} is no split; known are {', '.join(SPLIT_ORDER)}")
        return [(located_list(root, path), split_of(name)) for name, path in lists.items()]
    if lists is None:
        files = [path for path in visible(root) if path.is_file() and path.name.lower() not in NO_LISTS]
        texts = [path for path in files if path.suffix.lower() == ".txt" and split_in(path.stem)]
        tables = [path for path in files if path.suffix.lower() == ".csv" and {"path", "label"} <= columns_of(path).keys()]
        if texts and tables:
            both = f"{texts[0].name} and {tables[0].name}"
            raise FinetuneError(f"{root}: holds {both}; say which to read: lists={{'train': ..., 'test': ...}}")
        found = texts or tables
    else:
        found = [located_list(root, path) for path in ([lists] if isinstance(lists, str | os.PathLike) else lists)]
    for path in found:
        if split_in(path.stem) is None and path.suffix.lower() != ".csv":
            raise FinetuneError(f"{path}: its name doesn't say the split; pass lists={{'train': ..., 'test': ...}}")
    return [(path, split_in(path.stem)) for path in found]


def located_list(root: Path, path: str | os.PathLike[str]) -> Path:
    found = next((each for each in (Path(path), root / path) if each.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{path}: no such file, neither here nor in {root}")
    return found


def columns_of(path: Path) -> dict[str, int]:
    """Which column of a csv has the path, the label, the split and the subject; nothing for another file."""
    with path.open("rb") as stream:
        first = stream.readline(LONGEST_LINE).removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    header = [name.strip(' "').lower() for name in first.strip().split(",")]
    roles = {role: next((name for name in names if name in header), None) for role, names in COLUMNS.items()}
    return {role: header.index(name) for role, name in roles.items() if name is not None}


def csv_rows(path: Path, split: str | None) -> Iterator[Row]:
    columns = columns_of(path)
    lines = text_lines(path)
    if not {"path", "label"} <= columns.keys():
        raise FinetuneError(f"{path}, line 1: {lines[0][1][:60] if lines else ''!r}; expected a header path,label[,split][,subject]")
    width = lines[0][1].count(",") + 1
    for number, line in lines[1:]:
        place = f"{path}, line {number}"
        try:
            [fields] = csv.reader([line], strict=True)
        except csv.Error as error:
            raise FinetuneError(f"{place}: {error}; a row stands on one line") from error
        if len(fields) != width:
            raise FinetuneError(f"{place}: {len(fields)} fields where the header has {width}; put paths with commas in quotes")
        value = {role: fields[column].strip() for role, column in columns.items()}
        part = split_of(value["split"]) if "split" in value else split or "train"
        if part is None:
            raise FinetuneError(f"{place}, split: unknown value {value['split'][:40]!r}; known are {', '.join(SPLIT_ORDER)}")
        if not value["path"] or not value["label"]:
            raise FinetuneError(f"{place}: no {'label' if value['path'] else 'path'}; complete or remove the row")
        yield Row(value["path"], value["label"], part, place, value.get("subject") or None)


def text_rows(path: Path, split: str | None) -> Iterator[Row]:
    for number, line in text_lines(path):
        folder, _, label = line.replace("\t", " ").rpartition(" ")
        if not folder.strip():
            raise FinetuneError(f"{path}, line {number}: {line[:60]!r}; expected '<folder> <Emotion>'")
        yield Row(folder.strip(), label, split or "train", f"{path}, line {number}")


def listed(tables: Sequence[tuple[Path, str | None]], root: Path, notes: list[str]) -> Iterator[Clip]:
    """The clips of the list files, in their order."""
    bases: dict[str, list[Path]] = {split: [root] for split in SPLIT_ORDER}
    for base in subfolders(root):
        if split_here := split_in(base.name):
            bases[split_here].append(inner_folder(base))
    places: dict[Path, Row] = {}
    missing: list[Row] = []
    skipped: Counter[str] = Counter()
    for path, split in tables:
        for row in csv_rows(path, split) if path.suffix.lower() == ".csv" else text_rows(path, split):
            folder, count = clip_folder(row, root, bases[row.split]), None
            if folder is None and (fields := re.fullmatch(r"(.*\S)\s+(\d{1,9})", row.path)):  # Former-DFER's "path n_frames label"
                folder, count = clip_folder(Row(fields[1], row.label, row.split, row.place), root, bases[row.split]), int(fields[2])
            if folder is None:
                missing.append(row)
                continue
            if folder in places:
                before = places[folder]
                leak = f": it would be in {before.split} and in {row.split}" if before.split != row.split else ""
                raise FinetuneError(f"{row.place}: {row.path[:200]!r} stands in {before.place}, too{leak}; remove one of them")
            places[folder] = row
            skipped["elsewhere"] += is_absolute(row.path) and not os.path.isdir(row.path)  # noqa: PTH112 - as in clip_folder
            frames = frames_in(folder, skipped)
            skipped["counts"] += count is not None and count != len(frames)
            ck = CK_SEQUENCE.search(folder.relative_to(root).as_posix())
            yield Clip(folder, frames, Label(row.label, row.split, row.place, folder.parent.name), row.subject or (ck[1] if ck else None))
    if missing:
        more = f" (and {len(missing) - 1} more such lines)" if len(missing) > 1 else ""
        raise FinetuneError(
            f"{missing[0].place}: no folder {missing[0].path[:200]!r} below {root}{more}; paths are relative to the folder that is read."
            " Remove the lines, or pass the folder that they start from"
        )
    notes += told(skipped)


def is_absolute(path: str) -> bool:
    return re.match(r"[/\\]|[A-Za-z]:", path) is not None


def clip_folder(row: Row, root: Path, bases: Sequence[Path]) -> Path | None:
    """The folder that a row means: below one of `bases`, or, where its path starts at a disk's root, its longest end below `root`."""
    text = row.path.replace("\\", "/")
    parts = [part for part in PurePosixPath(text).parts if part != "/"]
    if ".." in parts:
        raise FinetuneError(f"{row.place}: {row.path[:200]!r} leads out of {root}; paths are relative to it")
    if is_absolute(text):
        ends = [root.joinpath(*parts[start:]) for start in range(len(parts))]
    else:
        ends = [base.joinpath(*parts) for base in bases]
    for end in ends:
        if os.path.isdir(end) and end != root:  # noqa: PTH112 - Path.is_dir raises for a name that is too long
            return end
        if end.suffix.lower() in VIDEO_SUFFIXES and os.path.isfile(end):  # noqa: PTH113 - so does Path.is_file
            raise raw_video(end)
    return None


# --- decoding -------------------------------------------------------------------------------------------------------------------------


def decode(listing: Listing, size: tuple[int, int] | None) -> Decoded:
    """Reads the frames of all clips, resized to `size` (H, W)."""
    from PIL import Image
    from tqdm import tqdm

    def frames_of(clip: Clip) -> list[np.ndarray]:
        return [read_image(path, size) for path in clip.frames]

    parts: list[list[np.ndarray]] = []
    seen: dict[tuple[int, ...], Path] = {}
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # read_image refuses by its own limit
        try:
            decoded = pool.map(frames_of, listing.clips)
            for clip, frames in tqdm(
                zip(listing.clips, decoded, strict=True), listing.root.name, len(listing.clips), delay=2, disable=None, leave=False
            ):
                for path, frame in zip(clip.frames, frames, strict=True):
                    seen.setdefault(frame.shape[:2], path)
                if len(seen) > 1:
                    (first, first_path), (second, second_path) = seen.items()
                    raise SizesDiffer(
                        f"{listing.root}: frames of different sizes: {first[1]}×{first[0]} in {first_path}, {second[1]}×{second[0]} in"
                        f" {second_path}; pass size=(height, width) to resize all, e.g. size=(112, 112)"
                    )
                parts.append(frames)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    offsets = np.cumsum([0, *map(len, parts)])
    [(height, width)] = seen
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
    return Decoded(resized(flat, size), offsets, positions, tuple(split), classes, ids, subjects, tuple(notes))


def resized(frames: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """(F, H, W) or (F, 3, H, W) frames at `size`, as read_image resizes them."""
    from PIL import Image

    if size is None or frames.shape[-2:] == size:
        return frames
    planes = frames.reshape(-1, *frames.shape[-2:])  # Pillow resizes the channels of an RGB image one by one, too
    smaller = [np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BICUBIC)) for plane in planes]
    return np.stack(smaller).reshape(*frames.shape[:-2], *size)


def check_size(size: tuple[int, int] | None) -> None:
    if size is not None and (len(size) != 2 or not all(isinstance(side, int) and 0 < side <= LARGEST_SIDE for side in size)):
        raise FinetuneError(f"size={size}: expected (height, width) in pixels, e.g. (112, 112)")
