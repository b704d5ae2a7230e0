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
SEPARATORS = (*DELIMITERS, BLANK)
COMMENT = re.compile(r"#\s|#[^\W\d]|sep=.$", re.IGNORECASE)
DELIMITER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar", "=": "equals sign", ":": "colon", BLANK: "blank"}
TITLES = 5  # lines that may stand above a header: a title, a spreadsheet's sep=;
# Headers in the wild, lower case, letters and digits only; where a header has several, the first of these is the column.
HEADER_WORDS = {
    "path": (
        "path", "paths", "folderpath", "videopath", "clippath", "filepath", "folder", "foldername", "dir", "directory", "video",
        "videos", "videoname", "clip", "clips", "clipname", "sequence", "file", "files", "filename", "name", "sample", "videoid",
        "clipid", "id",
    ),
    "label": (
        "label", "labels", "emotion", "emotions", "emotionlabel", "expression", "expressions", "expressionlabel", "class", "classname",
        "classes", "classlabel", "category", "target", "groundtruth", "annotation", "labelid",
        "emotionid", "expressionid", "classid",
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
    """The lines that aren't blank, with their numbers, without comments at the beginning (# ..., and a spreadsheet's sep=;).

    A name that is not UTF-8 comes as the operating system has it. Raises FinetuneError for what is no text.
    """
    if path.stat().st_size > LARGEST_BLOCK:
        raise FinetuneError(f"{path}: {path.stat().st_size:,} bytes: is it a list of clips?")
    with opened(path) as file:
        data = file.read(LARGEST_BLOCK)
    encoding = encoding_of(data[:4096])
    if encoding is None:
        raise FinetuneError(f"{path}: is no text file")
    try:
        text = os.fsdecode(data.removeprefix(codecs.BOM_UTF8)) if encoding == "utf-8" else data.decode(encoding)
    except UnicodeDecodeError as error:
        raise FinetuneError(f"{path}: is no text file ({error}); save it as UTF-8") from error
    if "\0" in text:
        raise FinetuneError(f"{path}: is no text file")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    found = [(number, line.strip(" \r\n\f\v\ufeff")) for number, line in enumerate(lines, 1) if line.strip()]
    while len(found) > 1 and COMMENT.match(found[0][1]) and not any(is_header(fields) for fields in divided(path, found[0])):
        found.pop(0)
    return found


def encoding_of(start: bytes) -> str | None:
    """The encoding of a text file that begins so; None where it is no text. UTF-16 is told by its mark, or by every other byte being 0."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for encoding, zeros, others in (("utf-16-le", start[1::2], start[::2]), ("utf-16-be", start[::2], start[1::2])):
        if len(start) > 3 and zeros.count(0) * 2 > len(zeros) and 0 not in others:
            return encoding
    return None if b"\0" in start else "utf-8"


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
    for at, line in enumerate(lines[:TITLES]):
        for delimiter, fields in zip(SEPARATORS, divided(path, line), strict=True):
            if is_header(fields):
                header = Line(line[0], fields)
                return [Table(path, delimiter, header, tuple(fitting(path, each, delimiter, header) for each in lines[at + 1 :]))]
    tables = []
    for delimiter in DELIMITERS:
        split = [fields_of(path, line, delimiter) for line in lines]
        known = [line for line in split if line is not None]
        if len(known) == len(lines) and len({len(line.fields) for line in known}) == 1 and len(known[0].fields) > 1:
            tables.append(Table(path, delimiter, None, without_empty_end(known)))
    return tables


def divided(path: Path, line: tuple[int, str]) -> list[tuple[str, ...]]:
    """The line's fields by each separator; none where its quotes don't match."""
    text = (line[0], line[1].removeprefix("#").strip())
    return [() if (found := fields_of(path, text, delimiter)) is None else found.fields for delimiter in SEPARATORS]


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
