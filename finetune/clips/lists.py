"""Clips in lists: a line a clip, with any separator, under a header or not. What cannot be understood is refused by name."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from finetune.clips.classes import NUMBER
from finetune.clips.folders import CK_SEQUENCE, LeftOut, frames_in
from finetune.clips.places import Places, is_absolute
from finetune.clips.records import Clip, Label, Lists
from finetune.errors import FinetuneError
from finetune.labels import SPLIT_ORDER, canonical, split_in, split_of
from finetune.tables import BLANK, Line, Table, columns_with, readings, text_lines, value_of, values
from zoo.errors import counted

LineT = TypeVar("LineT")
HEADER = "path,label[,split][,subject]"
NAMED = "lists={'train': ..., 'test': ...} (--lists train=FILE test=FILE)"
MISSING = frozenset({"nan", "null", "n/a", "#n/a", "<na>", "?", "-"})  # what programs write where there is no label
SAMPLE = 50  # lines at a file's beginning and end by which it is recognised
COUNTED = re.compile(r"(.*\S)\s+(\d{1,9})")  # Former-DFER's "path n_frames label", without its label


@dataclass(frozen=True)
class Row:
    path: str
    label: str
    place: str
    split: str | None = None
    subject: str | None = None


@dataclass(frozen=True)
class ListFile:
    """A list that was understood; `split` is what its name, its folder or the caller says."""

    path: Path
    split: str | None
    rows: tuple[Row, ...]


# --- which lists ----------------------------------------------------------------------------------------------------------------------


def given_lists(lists: Lists, places: Places) -> list[ListFile]:
    """The lists that the caller names. Raises FinetuneError for one that is none."""
    root = places.root
    if isinstance(lists, Mapping):
        if unknown := [name for name in lists if split_of(name) is None]:
            raise FinetuneError(f"lists: {unknown[0]!r} is no split; known are {', '.join(SPLIT_ORDER)}")
        named = [(located_list(root, path), split_of(name)) for name, path in lists.items()]
    else:
        paths = [lists] if isinstance(lists, str | os.PathLike) else lists
        named = [(path, split_in(path.stem)) for path in (located_list(root, each) for each in paths)]
    return [ListFile(path, split, tuple(rows_of(path, places))) for path, split in named]


def located_list(root: Path, path: str | os.PathLike[str]) -> Path:
    found = next((each for each in (Path(path), root / path) if each.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{path}: no such file, neither here nor in {root}")
    return found


def rows_of(path: Path, places: Places) -> list[Row]:
    """The rows of a file that is meant to be a list, though none of its clips may be here."""
    rows = known_rows(path, places)
    if rows is None:
        lines = text_lines(path)
        if path.suffix.lower() != ".txt":
            raise FinetuneError(f"{path}, line 1: {lines[0][1][:60] if lines else ''!r}; expected a header {HEADER}")
        rows = blank_rows(path, lines)
    return rows


# --- a file's rows --------------------------------------------------------------------------------------------------------------------


def known_rows(path: Path, places: Places) -> list[Row] | None:
    """The rows of a file that has a known header, or lines that name clips below the root; None for any other file.

    Raises FinetuneError where lines name clips, but not which column is the label.
    """
    tables = readings(path)
    if tables and tables[0].header is not None:
        return header_rows(tables[0], places)
    problems = []
    for table in tables:
        try:
            if rows := column_rows(table, places):
                return rows
        except FinetuneError as error:
            problems.append(error)
    lines = text_lines(path)
    for last in (True, False):  # "<folder> <label>", or the other way round
        sampled = blank_rows(path, sample(lines), label_last=last, strict=False)
        if any(names_a_clip(row, places, path.parent) for row in sampled):
            return blank_rows(path, lines, label_last=last)
    if problems:
        raise problems[0]
    if any(places.knows(text, path.parent) for _, text in sample(lines)):
        raise FinetuneError(f"{path}, line {lines[0][0]}: {lines[0][1][:60]!r}; expected '<folder> <Emotion>'")
    return None


def names_a_clip(row: Row, places: Places, beside: Path) -> bool:
    fields = COUNTED.fullmatch(row.path)
    return places.knows(row.path, beside) or (fields is not None and places.knows(fields[1], beside))


def sample(lines: Sequence[LineT]) -> list[LineT]:
    return [*lines[:SAMPLE], *lines[max(SAMPLE, len(lines) - SAMPLE) :]]


def header_rows(table: Table, places: Places) -> list[Row]:
    """The rows as the header says; of several columns for the path, the one that names most clips here."""
    assert table.header is not None
    some = sample(table.lines)
    paths = columns_with("path", table.header.fields)
    hits = [sum(places.knows(text, table.path.parent) for text in values(some, column)) for column in paths]
    columns = {**table.columns(), "path": paths[hits.index(max(hits))], "label": label_column(table)}
    if "split" not in columns and (split := split_column(table, set(columns.values()))) is not None:
        columns["split"] = split
    return [row_of(table.path, line, columns) for line in table.lines]


def split_column(table: Table, taken: Collection[int]) -> int | None:
    """The column whose values all are splits, whatever its header. Raises FinetuneError where several are."""
    assert table.header is not None
    free = [column for column in range(len(table.header.fields)) if column not in taken]
    found = [column for column in free if table.lines and all(split_of(text) for text in values(table.lines, column))]
    if len(found) > 1:
        names = " and ".join(table.header.fields[column] for column in found)
        raise FinetuneError(f"{table.path}, line {table.header.number}: {names} both name splits; call the right one split")
    return found[0] if found else None


def label_column(table: Table) -> int:
    """The header's column for the label; of several that say the same, the one with names."""
    assert table.header is not None
    found = columns_with("label", table.header.fields)
    first = found[0]
    for other in found[1:]:
        pairs = set(zip(values(table.lines, first), values(table.lines, other), strict=True))
        both_named = not any(NUMBER.fullmatch(text) for pair in pairs for text in pair)
        same = all(canonical(one) == canonical(two) for one, two in pairs)
        if not len(pairs) == len({one for one, _ in pairs}) == len({two for _, two in pairs}) or (both_named and not same):
            names = " and ".join(table.header.fields[column] for column in (first, other))
            raise FinetuneError(f"{table.path}, line {table.header.number}: {names} say different classes; leave one of the columns")
        if all(map(NUMBER.fullmatch, values(table.lines, first))):
            first = other
    return first


def column_rows(table: Table, places: Places) -> list[Row]:
    """The rows of a file without a known header: the column that names clips is the path, one of split names the split.

    Nothing where no column names clips. Raises FinetuneError where the label is not the one column that is left.
    """
    beside, some = table.path.parent, sample(table.lines)
    width = len(some[0].fields)
    paths = [column for column in range(width) if any(places.knows(text, beside) for text in values(some, column))]
    if not paths:
        return []
    splits = [column for column in range(width) if all(split_of(text) for text in values(table.lines, column))]
    labels = [column for column in range(width) if column not in (*paths, *splits)]
    first = table.lines[0]
    if len(paths) > 1 or len(splits) > 1 or len(labels) != 1:
        raise FinetuneError(f"{table.path}, line {first.number}: {str(first)!r}: which column is the label? Put a header first: {HEADER}")
    if len(table.lines) > 1 and not places.knows(first.fields[paths[0]], beside):
        raise FinetuneError(f"{table.path}, line {first.number}: {str(first)!r}: no clip here, and no header as {HEADER}")
    columns = {"path": paths[0], "label": labels[0], **({"split": splits[0]} if splits else {})}
    return [row_of(table.path, line, columns) for line in table.lines]


def row_of(path: Path, line: Line, columns: Mapping[str, int]) -> Row:
    place = f"{path}, line {line.number}"
    where, label, said = (value_of(line, columns, role) for role in ("path", "label", "split"))
    if not where or not label or label.lower() in MISSING:
        raise FinetuneError(
            f"{place}: no {'label' if where else 'path'}{f' ({label})' if label and where else ''}; complete or remove the row"
        )
    split = None if said is None else split_of(said)
    if said is not None and split is None:
        raise FinetuneError(f"{place}, split: unknown value {said[:40]!r}; known are {', '.join(SPLIT_ORDER)}")
    return Row(where, label, place, split, value_of(line, columns, "subject"))


def blank_rows(path: Path, lines: Sequence[tuple[int, str]], *, label_last: bool = True, strict: bool = True) -> list[Row]:
    """Rows `<folder> <label>`, whose folder may have blanks in it; with label_last=False the label comes first."""
    rows = []
    for number, line in lines:
        text = line.replace("\t", BLANK)
        folder, _, label = text.rpartition(BLANK) if label_last else text.partition(BLANK)[::-1]
        folder = folder.strip().strip('"')
        if folder and label:
            rows.append(Row(folder, label, f"{path}, line {number}"))
        elif strict:
            raise FinetuneError(f"{path}, line {number}: {line[:60]!r}; expected '<folder> <Emotion>'")
    return rows


# --- the clips ------------------------------------------------------------------------------------------------------------------------


def listed(tables: Sequence[ListFile], places: Places, notes: list[str], *, whole: bool) -> Iterator[Clip]:
    """The clips of the lists, in their order. `whole`: the lists stand for all clips, so those that they leave out are noted."""
    root = places.root
    seen: dict[Path, tuple[Row, str]] = {}
    missing: list[Row] = []
    left_out = LeftOut(root)
    elsewhere = miscounted = misplaced = 0
    for table in tables:
        counts: list[tuple[str, int]] = []
        for row in table.rows:
            folder, count = place_of(row, table, places)
            if folder is None:
                refuse_other_split(row, table, places)
                missing.append(row)
                continue
            split = row.split or table.split or places.split_of(folder)
            if split is None and len(tables) > 1:
                raise FinetuneError(f"{table.path}: its name doesn't say the split; pass {NAMED}")
            split = split or "train"
            if folder in seen:
                before, earlier = seen[folder]
                leak = f": it would be in {earlier} and in {split}" if earlier != split else ""
                raise FinetuneError(f"{row.place}: {row.path[:200]!r} stands in {before.place}, too{leak}; remove one of them")
            seen[folder] = row, split
            misplaced += places.split_of(folder) is not None and (places.split_of(folder) == "train") != (split == "train")
            elsewhere += is_absolute(row.path) and not os.path.isdir(row.path)  # noqa: PTH112 - as in Places
            frames = frames_in(folder, left_out)
            counts.append((row.label, len(frames)))
            miscounted += count is not None and count != len(frames)
            ck = CK_SEQUENCE.search(folder.relative_to(root).as_posix())
            yield Clip(folder, frames, Label(row.label, split, row.place, folder.parent.name), row.subject or (ck[1] if ck else None))
        refuse_counts(table, counts)
    if missing:
        more = f" (and {len(missing) - 1} more such lines)" if len(missing) > 1 else ""
        raise FinetuneError(
            f"{missing[0].place}: no folder {missing[0].path[:200]!r} below {root}{more}; lists name the folders of clips, and paths are"
            " relative to the folder that is read. Remove the lines, or pass the folder that they start from"
        )
    notes += left_out.notes()
    if elsewhere:
        notes.append(f"{counted(elsewhere, 'path')} of another machine in the lists: the ends were found here")
    if miscounted:
        notes.append(f"{counted(miscounted, 'clip')} with another number of frames than the list says")
    if misplaced:
        notes.append(f"{counted(misplaced, 'clip')} of train in the folder of another split, or the reverse: the lists are followed")
    if whole and (others := [folder for folder in places.clips if folder not in seen]):
        notes.append(f"left out: {counted(len(others), 'clip')} that no list names, as {others[0].relative_to(root).as_posix()}")


def place_of(row: Row, table: ListFile, places: Places) -> tuple[Path | None, int | None]:
    """(the clip's folder or None, the number of frames that the row says)."""
    split, beside = row.split or table.split, table.path.parent
    folder = places.find(row.path, row.place, split, beside)
    if folder is None and (fields := COUNTED.fullmatch(row.path)):
        return places.find(fields[1], row.place, split, beside), int(fields[2])
    return folder, None


def refuse_other_split(row: Row, table: ListFile, places: Places) -> None:
    """Raises FinetuneError where the row's path leads to a clip, but in the folder of another split."""
    if others := places.matches(row.path, None, table.path.parent):
        where, split = others[0].relative_to(places.root).as_posix(), row.split or table.split
        raise FinetuneError(
            f"{row.place}: {row.path[:200]!r} is {where}, but {'the row' if row.split else 'the name of the list'} says {split}; give the"
            f" rows a column of their split ({HEADER}), or write paths from {places.root} on"
        )


def refuse_counts(table: ListFile, counts: Sequence[tuple[str, int]]) -> None:
    """Raises FinetuneError where what was taken for labels is the number of frames of each clip."""
    if len(set(counts)) > 1 and all(label == str(count) for label, count in counts):
        raise FinetuneError(f"{table.path}: its numbers are those of the clips' frames, not labels; expected a header {HEADER}")
