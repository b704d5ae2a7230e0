"""Which files beside the folders of clips are lists of them: all that name clips are read, or refused by name."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path

from finetune.clips.classes import EXPRESSIONS
from finetune.clips.lists import HEADER, NAMED, ListFile, known_rows, rows_of, sample
from finetune.clips.places import Places
from finetune.errors import FinetuneError
from finetune.files import IMAGE_SUFFIXES, LARGEST_BLOCK, SYSTEM_FILES, VIDEO_SUFFIXES
from finetune.labels import canonical, split_in
from finetune.tables import encoding_of, readings, text_lines
from zoo.errors import counted

PACKED = frozenset({".gz", ".bz2", ".xz", ".zip", ".7z", ".rar", ".zst"})
SOUNDS = frozenset({".wav", ".mp3", ".aac", ".m4a", ".flac", ".ogg"})
LABELS = re.compile(r"label|annot|emotion|expression|(?<![a-z])lists?(?![a-z])|(?<![a-z])splits?(?![a-z])|ground.?truth")
TABLES = frozenset({".csv", ".tsv", ".tab", ".psv"})
SPREADSHEETS = frozenset({".xlsx", ".xls", ".ods", ".numbers"})
STRUCTURED = frozenset({".json", ".jsonl", ".yaml", ".yml", ".xml"})
DOCUMENTS = frozenset({".md", ".rst", ".html", ".htm", ".pdf", ".py", ".ipynb", ".sh", ".m"})
ABOUT = ("readme", "license", "licence", "copying", "notice", "citation", "changelog", "requirements")
PREPARED = "video,emotion,frames,faces,status,message,folder"  # prepare_video's report.csv has rows for videos without a face, too


def lists_beside(places: Places, notes: list[str]) -> list[ListFile]:
    """The lists among the files in the folder that is read and in those that are no clip's.

    Raises FinetuneError for a file that seems to be a list and is not understood, and for lists of which the caller has to say one.
    """
    found = []
    unread: list[Path] = []
    for path in places.walked[1]:
        if not may_be_list(path) or is_prepared(path):
            continue
        split = split_in(path.stem) or (None if path.parent == places.root else places.split_of(path))
        if path.suffix.lower() == ".txt" and path.parent == places.root and split is not None:
            found.append(ListFile(path, split, tuple(rows_of(path, places))))
        elif is_text(path):
            if (rows := known_rows(path, places)) is not None:
                found.append(ListFile(path, split, tuple(rows)))
            else:
                notes += about_other(path, places)
        elif path.stat().st_size:
            unread.append(path)
    if unread:
        notes += about_unread(unread, places)
    kinds = {(file.path.suffix.lower() == ".txt"): file.path for file in reversed(found)}
    if len(kinds) > 1:
        both = f"{kinds[True].name} and {kinds[False].name}"
        raise FinetuneError(f"{places.root}: holds {both}; say which to read: {NAMED}")
    return found


def may_be_list(path: Path) -> bool:
    """Whether to look into the file. Raises FinetuneError for a spreadsheet, which nobody can."""
    name, suffix = path.name.lower(), path.suffix.lower()
    if suffix in SPREADSHEETS:
        raise FinetuneError(f"{path}: a spreadsheet beside the clips; save it as csv with a header {HEADER}, or move it away")
    if name in SYSTEM_FILES or name == "classind.txt" or suffix in DOCUMENTS | IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        return False
    return not name.startswith(ABOUT) and path.is_file()


def is_prepared(path: Path) -> bool:
    if path.name != "report.csv":
        return False
    with path.open("rb") as stream:
        return stream.readline(200).strip() == PREPARED.encode()


def is_text(path: Path) -> bool:
    with path.open("rb") as stream:
        start = stream.read(4096)
    return bool(start) and encoding_of(start) is not None and path.stat().st_size <= LARGEST_BLOCK


def about_unread(paths: Sequence[Path], places: Places) -> list[str]:
    """A note on files that are no text. Raises FinetuneError for one whose name says that it has the labels."""
    for path in paths:
        packed = path.suffix.lower() in PACKED and Path(path.stem).suffix.lower() in TABLES | {".txt"}
        if packed or (LABELS.search(path.stem.lower()) and path.suffix.lower() not in SOUNDS):
            advice = "unpack it" if packed else f"save it as csv with a header {HEADER}"
            raise FinetuneError(f"{path}: may name the clips' classes, and is no text file that is read; {advice}, or move it away")
    shown = paths[0].relative_to(places.root).as_posix()
    return [f"{counted(len(paths), 'file')} beside the clips not read, being no text: {shown}{', ...' if len(paths) > 1 else ''}"]


def about_other(path: Path, places: Places) -> list[str]:
    """A note on a text that names no clip; deeper in the tree there are none. Raises FinetuneError where it seems to be a list."""
    lines = text_lines(path)
    if not lines:
        return []
    classes = EXPRESSIONS | {canonical(folder.parent.name) for folder in places.clips}
    text, structured = "\n".join(line for _, line in lines), path.suffix.lower() in STRUCTURED
    if not structured and has_labels(path, lines, classes):
        raise FinetuneError(
            f"{path}, line {lines[0][0]}: {lines[0][1][:60]!r}: seems to be a list, but names no clip below {places.root}. Write paths"
            f" from there on, under a header {HEADER}, or move the file away"
        )
    some = [folder for folder in islice(places.clips, 100) if len(folder.name) > 2]
    words = set(re.findall(r"[^\s,;|=:\"'/\\]+", text))
    named = sum(folder.name in words for folder in some)
    if named > (0 if structured else len(some) // 2) or any(folder.relative_to(places.root).as_posix() in text for folder in some):
        raise FinetuneError(f"{path}: names clips, but is no table; write csv with a header {HEADER}, or move the file away")
    if path.parent != places.root:
        return []
    if all(canonical(line.split()[-1]) in classes for _, line in lines):
        return [f"{path.name} names classes, not clips: not read; pass it as class_index= (--class-index) for their order"]
    return [f"{path.name} is no list of clips: not read"]


def has_labels(path: Path, lines: Sequence[tuple[int, str]], classes: Collection[str]) -> bool:
    """Whether half of the lines have a class's name in one column, and another column is more than a number."""
    some = sample(lines)
    tables: list[list[Sequence[str]]] = [[line.fields for line in sample(table.lines)] for table in readings(path)]
    blank: list[list[Sequence[str]]] = [[line.split(maxsplit=1) for _, line in some], [line.rsplit(maxsplit=1) for _, line in some]]
    for rows in (*tables, *blank):
        whole = [row for row in rows if len(row) > 1]
        for column in range(min(map(len, whole), default=0)):
            named = [row for row in whole if canonical(row[column]) in classes]
            others = {field for row in named for other, field in enumerate(row) if other != column}
            if 2 * len(named) >= max(2, len(rows)) and not all(field.isdecimal() for field in others):
                return True
    return False
