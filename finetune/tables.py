"""Text files of lines and fields, whatever separates the fields; what the words of a header mean."""

from __future__ import annotations

import codecs
import csv
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import FinetuneError
from finetune.files import LARGEST_BLOCK, opened

DELIMITERS = (",", ";", "\t", "|", "=", ":")
BLANK = " "  # stands for any run of blanks and tabs
DELIMITER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar", "=": "equals sign", ":": "colon", BLANK: "blank"}
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Headers in the wild, lower case, letters and digits only; where a header has several, the first of these is the column.
HEADER_WORDS = {
    "path": (
        "path", "paths", "folderpath", "videopath", "clippath", "filepath", "folder", "foldername", "dir", "directory", "video",
        "videos", "videoname", "clip", "clips", "clipname", "sequence", "file", "files", "filename", "name", "sample", "videoid",
        "clipid", "id",
    ),
    "label": (
        "label", "labels", "emotion", "emotions", "emotionlabel", "expression", "expressions", "expressionlabel", "class", "classname",
        "classes", "classlabel", "category", "target", "groundtruth", "annotation",
    ),
    "split": ("split", "splits", "usage", "set", "subset", "partition"),
    "subject": ("subject", "subjects", "subjectid", "person", "personid", "actor", "actorid", "participant", "speaker", "identity"),
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    number: int  # in the file, from 1
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return ",".join(self.fields)[:60]


@dataclass(frozen=True)
class Table:
    """A file's lines, each with as many fields. `header` is the first line where its words say what the columns are."""

    path: Path
    delimiter: str
    header: Line | None
    lines: tuple[Line, ...]

    def columns(self) -> dict[str, int]:
        """role -> column, for the roles of HEADER_WORDS that the header has; nothing without a header."""
        return {} if self.header is None else roles_of(self.header.fields)


def text_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that aren't blank, with their numbers. A name that is not UTF-8 comes as the operating system has it."""
    if path.stat().st_size > LARGEST_BLOCK:
        raise FinetuneError(f"{path}: {path.stat().st_size:,} bytes: is it a list of clips?")
    with opened(path) as file:
        data = file.read(LARGEST_BLOCK)
    if data.startswith(UTF16):  # a spreadsheet's "Unicode text"
        try:
            text = data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise FinetuneError(f"{path}: is no text file ({error}); save it as UTF-8") from error
    else:
        text = os.fsdecode(data.removeprefix(codecs.BOM_UTF8))
    if "\0" in text:
        raise FinetuneError(f"{path}: is no text file")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [(number, line.strip(" \r\n\f\v")) for number, line in enumerate(lines, 1) if line.strip()]


def plain_word(field: str) -> str:
    return re.sub(r"[^a-z0-9]", "", field.lower())


def columns_with(role: str, header: Sequence[str]) -> list[int]:
    """The columns whose header is one of the role's words, the likeliest first."""
    words = [plain_word(field) for field in header]
    return [words.index(word) for word in HEADER_WORDS[role] if word in words]


def roles_of(header: Sequence[str]) -> dict[str, int]:
    return {role: found[0] for role in HEADER_WORDS if (found := columns_with(role, header))}


def is_header(fields: Sequence[str]) -> bool:
    """Whether the words name a path and a label, as in `name,emotion`."""
    return {"path", "label"} <= roles_of(fields).keys()


def readings(path: Path) -> list[Table]:
    """The ways in which a file can be read as a table: by its header where it has one, else by each separator that fits every line.

    Raises FinetuneError for a line that does not fit the header.
    """
    lines = text_lines(path)
    if not lines:
        return []
    first, body = lines[0], lines[1:]
    for delimiter in (*DELIMITERS, BLANK):
        header = fields_of(path, (first[0], first[1].removeprefix("#").strip()), delimiter)
        if header is not None and is_header(header.fields):
            return [Table(path, delimiter, header, tuple(fitting(path, line, delimiter, header) for line in body))]
    tables = []
    for delimiter in DELIMITERS:
        split = [fields_of(path, line, delimiter) for line in lines]
        known = [line for line in split if line is not None]
        if len(known) == len(lines) and len({len(line.fields) for line in known}) == 1 and len(known[0].fields) > 1:
            tables.append(Table(path, delimiter, None, without_empty_end(known)))
    return tables


def fields_of(path: Path, line: tuple[int, str], delimiter: str) -> Line | None:
    """The line's fields, without blanks around them and without quotes; None where the quotes don't match."""
    number, text = line
    try:
        if delimiter == BLANK:
            return Line(number, tuple(text.split()))
        [fields] = csv.reader([text], delimiter=delimiter, strict=True, skipinitialspace=True)
    except (csv.Error, ValueError):
        return None
    return Line(number, tuple(field.strip() for field in fields))


def fitting(path: Path, line: tuple[int, str], delimiter: str, header: Line) -> Line:
    found = fields_of(path, line, delimiter)
    place = f"{path}, line {line[0]}"
    if found is None:
        raise FinetuneError(f"{place}: {line[1][:60]!r}: a quote that does not end; a row stands on one line")
    if len(found.fields) != len(header.fields):
        counts = f"{len(found.fields)} fields where the header has {len(header.fields)}"
        raise FinetuneError(f"{place}: {counts}; put paths with a {DELIMITER_NAMES[delimiter]} in quotes")
    return found


def without_empty_end(lines: Sequence[Line]) -> tuple[Line, ...]:
    """The lines without the last column where it is empty throughout: every line ends with the separator."""
    if len(lines[0].fields) > 2 and not any(line.fields[-1] for line in lines):
        return tuple(Line(line.number, line.fields[:-1]) for line in lines)
    return tuple(lines)


def values(lines: Sequence[Line], column: int) -> list[str]:
    return [line.fields[column] for line in lines]


def value_of(line: Line, columns: Mapping[str, int], role: str) -> str | None:
    """The field of this role, None where there is no such column or nothing in it."""
    return (line.fields[columns[role]] or None) if role in columns else None
