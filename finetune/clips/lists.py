"""Clips in lists: a line a clip, in text or csv files."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from finetune.clips.folders import CK_SEQUENCE, frames_in, inner_folder, raw_video, split_in, told, visible
from finetune.clips.records import Clip, Label, Lists
from finetune.clips.tables import text_lines
from finetune.errors import FinetuneError
from finetune.files import LONGEST_LINE, VIDEO_SUFFIXES, subfolders
from finetune.labels import SPLIT_ORDER, split_of

COLUMNS = {
    "path": ("path", "folder", "video", "clip", "file", "filename", "id"), "label": ("label", "emotion", "expression", "class"),
    "split": ("split", "usage", "set"), "subject": ("subject", "person", "actor"),
}  # fmt: skip
NO_LISTS = ("classind.txt", "report.csv")  # the latter is prepare_video's: it has rows for videos without a face, too


@dataclass(frozen=True)
class Row:
    path: str
    label: str
    split: str
    place: str
    subject: str | None = None


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
