"""Lists beside class folders: images are read by their folders, and a list that says otherwise is not passed over."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from finetune.errors import FinetuneError
from finetune.files import IMAGE_SUFFIXES, LARGEST_BLOCK, SYSTEM_FILES
from finetune.images.records import CSV_NAMES, Entry
from finetune.labels import canonical
from finetune.tables import BLANK, Line, Table, columns_with, encoding_of, readings, text_lines
from zoo.disk import head
from zoo.errors import counted

LISTS = frozenset({".csv", ".tsv", ".tab", ".psv", ".txt", ".lst", ".list", ""})
SAMPLE = 50  # rows by which the column of the images is found


def about_lists(root: Path, parents: Sequence[Path], entries: Sequence[Entry]) -> Iterator[str]:
    """A note on each list in `root` and the folders of its splits that cannot be held against the folders of its images.

    Raises FinetuneError for one that gives an image another class than its folder.
    """
    folder_of: dict[str, set[str]] = {}
    classes = {canonical(entry.label) for entry in entries}
    for entry in entries:
        for name in (entry.path.name, entry.path.stem, f"{entry.label}/{entry.path.name}"):
            folder_of.setdefault(name.lower(), set()).add(entry.label)
    for parent in dict.fromkeys((root, *parents)):
        for path in sorted(parent.iterdir()):
            if not path.is_file() or not may_be_list(path):
                continue
            if pairs := next((found for table in tables_of(path) if (found := said(table, folder_of))), None):
                check(path, pairs, classes)
            else:
                yield f"{path.relative_to(root).as_posix()} lies beside the class folders and is not read"


def may_be_list(path: Path) -> bool:
    name = path.name.lower()
    known = name.startswith((".", "readme", "license")) or name in (*SYSTEM_FILES, *CSV_NAMES) or path.suffix.lower() in IMAGE_SUFFIXES
    small = 0 < path.stat().st_size <= LARGEST_BLOCK
    return not known and small and path.suffix.lower() in LISTS and encoding_of(head(path, 4096)) is not None


def tables_of(path: Path) -> list[Table]:
    try:
        tables = readings(path)
    except FinetuneError:  # a line that does not fit: it is not understood
        return []
    words = [Line(number, tuple(text.split())) for number, text in text_lines(path)]
    return [*tables, Table(path, BLANK, None, tuple(line for line in words if len(line.fields) == 2))]


def said(table: Table, folder_of: Mapping[str, set[str]]) -> list[tuple[str, str, str]]:
    """(image, label, the folder of the image) of the table's rows that name an image here; none where it has no such column."""
    columns = range(len(table.lines[0].fields)) if table.lines else range(0)

    def folders(text: str) -> set[str]:
        parts = text.replace("\\", "/").lower().split("/")
        return folder_of.get("/".join(parts[-2:])) or folder_of.get(parts[-1]) or set()

    hits = [sum(bool(folders(line.fields[column])) for line in islice(table.lines, SAMPLE)) for column in columns]
    if not any(hits):
        return []
    image = hits.index(max(hits))
    labels = columns_with("label", (table.header or table.lines[0]).fields) or [each for each in columns if each != image]
    if len(labels) != 1:
        return []
    rows = ((line.fields[image], line.fields[labels[0]], folders(line.fields[image])) for line in table.lines)
    return [(name, label, next(iter(found))) for name, label, found in rows if len(found) == 1 and label]


def check(path: Path, pairs: Sequence[tuple[str, str, str]], classes: Collection[str]) -> None:
    """Raises FinetuneError unless each label means one folder, and none the folder of another class."""
    means: dict[str, str] = {}
    wrong = []
    for name, label, folder in pairs:
        here, text = canonical(folder), canonical(label)
        meant = text if text in classes else means.setdefault(text, here)
        if meant != here:
            wrong.append((name, label, folder))
    if wrong:
        name, label, folder = wrong[0]
        raise FinetuneError(
            f"{path}: another class than the folder's in {counted(len(wrong), 'row')} of {len(pairs):,}, the first: {name[:100]} is"
            f" {label[:40]} there, and lies in {folder}/. Images are read by their folders: move the list away if these are right, or sort"
            " the images by it"
        )
