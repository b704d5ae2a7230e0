"""fer2013.csv and its kin: a row for each image, its pixels as decimal numbers."""

from __future__ import annotations

import math
import re
import warnings
from itertools import chain
from typing import IO

import numpy as np

from finetune.errors import FinetuneError
from finetune.files import check_room, numbered_lines
from finetune.images.records import Decoded
from finetune.labels import FER2013, about_first, canonical, split_of
from finetune.tables import columns_with
from zoo.errors import counted

CHECKED_EVERY = 64 << 20  # bytes of pixels between two looks at the memory
SEPARATORS = (b",", b";", b"\t", b"|")
BLANKS = b' "\t\r\n\0'


def csv_file(stream: IO[bytes], what: str, on_disk: int) -> Decoded:
    """fer2013.csv and its kin: columns emotion, pixels and perhaps Usage (split, set, ...), in any order, spaces and quotes allowed in
    names; separated by commas, semicolons, tabs or bars.

    emotion is 0..6 in FER2013's order, or a name; pixels are H·W numbers 0..255 of a square grey image. Without Usage every
    row is "train". Lines after the last row that are no rows at all (neither an emotion nor pixels: in the wild, text behind
    the 35,887th row) are left out with a note; anywhere else, or half a row, they are an error. `on_disk` is
    the size of the file that is read, packed as it may be.
    """
    lines = numbered_lines(stream, what)
    header, separator = header_of(next(lines)[1], what)
    first = next(lines, None)
    emotion_at, pixels_at, usage_at = columns_of(header, [] if first is None else fields_of(first[1], separator), what)
    lines = chain([] if first is None else [first], lines)
    pixels = bytearray()
    labels: list[int] = []
    split: list[str] = []
    count, asked, named = 0, CHECKED_EVERY, False
    stray: list[int] = []
    number_of = {str(label).encode(): label for label in range(len(FER2013))}
    split_names: dict[bytes, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # numpy's way to say that a text is not all numbers
        for number, line in lines:
            fields = fields_of(line, separator)
            if not any(fields):
                continue
            place = f"{what}, line {number} (row {len(labels) + 1})"
            if is_stray(fields, emotion_at, pixels_at):
                stray.append(number)
                continue
            if stray:
                raise FinetuneError(f"{what}, line {stray[0]}: not a row, but rows follow; expected {','.join(header)}. Remove the line")
            if len(fields) != len(header):
                raise FinetuneError(f"{place}: {len(fields)} fields where the header has {len(header)}: the file may be cut short")
            label = number_of.get(fields[emotion_at])
            named |= label is None
            labels.append(emotion_of(fields[emotion_at], place) if label is None else label)
            if usage_at is not None:
                usage = fields[usage_at]
                if usage not in split_names:
                    split_names[usage] = usage_of(usage, place)
                split.append(split_names[usage])
            try:
                values = np.fromstring(fields[pixels_at], np.int64, sep=" ")
            except (DeprecationWarning, ValueError):
                raise bad_pixel(fields[pixels_at], place) from None
            if values.size != count:
                if count or math.isqrt(values.size) ** 2 != values.size or not values.size:
                    expected = f"the rows before have {count:,}" if count else "a square image is expected (FER2013: 2,304, 48×48)"
                    raise FinetuneError(f"{place}, pixels: {values.size:,} numbers where {expected}; remove the row")
                count = values.size
            if (values.view(np.uint64) > 255).any():
                raise bad_pixel(fields[pixels_at], place)
            pixels += values.astype(np.uint8).tobytes()
            if len(pixels) > asked:
                check_room(len(pixels), on_disk, what)
                asked = len(pixels) + CHECKED_EVERY
    if not labels:
        raise FinetuneError(f"{what}: a header and no rows; fetch the file again")
    side = math.isqrt(count)
    notes = [f"left out: {counted(len(stray), 'line')} after the last row, from line {stray[0]} on, being no rows"] if stray else []
    notes += [] if named else about_first(labels)
    return Decoded(
        np.frombuffer(pixels, np.uint8).reshape(-1, side, side),
        np.array(labels, np.int64),
        np.array(split if usage_at is not None else ["train"] * len(labels)),
        FER2013,
        notes=tuple(notes),
    )


def header_of(line: bytes, what: str) -> tuple[list[str], bytes]:
    """(the names of the columns, lower case; the separator) of a file's first line."""
    for separator in SEPARATORS:
        header = [field.lower().decode("latin-1") for field in fields_of(line.removeprefix(b"\xef\xbb\xbf"), separator)]
        if "pixels" in header:
            return header, separator
        if any(len(field.split()) > 16 for field in header):
            raise FinetuneError(
                f"{what}, line 1: there is no header, the first line is an image; put one in front of it: emotion,pixels,Usage, or the"
                f" names of its {len(header)} columns in their order"
            )
    named = ", ".join(field.strip(BLANKS).decode("latin-1")[:40] for field in line.removeprefix(b"\xef\xbb\xbf").lower().split(b",")[:6])
    raise FinetuneError(f"{what}, line 1: no column 'pixels' in the header ({named}); expected emotion,pixels,Usage")


def fields_of(line: bytes, separator: bytes) -> list[bytes]:
    return [field.strip(BLANKS) for field in line.split(separator)]


def columns_of(header: list[str], first: list[bytes], what: str) -> tuple[int, int, int | None]:
    """(the column of the label, of the pixels, of the split or None). A column that names a split in the `first` row is one, too."""
    labels, splits = columns_with("label", header), columns_with("split", header)
    if "emotion" in header:
        labels = [header.index("emotion")]
    if not labels:
        shown = ", ".join(field[:40] for field in header[:6])
        raise FinetuneError(
            f"{what}: has no labels: no column 'emotion' in the header ({shown}). Kaggle's test.csv is for prediction only; train on"
            " train.csv, icml_face_data.csv or fer2013.csv"
        )
    if not splits:
        others = [column for column in range(min(len(header), len(first))) if column not in (*labels, header.index("pixels"))]
        splits = [column for column in others if split_of(first[column].decode("latin-1"))]
    for columns, role in ((labels, "label"), ([header.index("pixels")], "pixels"), (splits, "split")):
        if names := [header[column] for column in columns if header.count(header[column]) > 1] or [header[each] for each in columns[1:]]:
            both = " and ".join(dict.fromkeys([header[columns[0]], *names]))
            raise FinetuneError(f"{what}, line 1: several columns may be the {role}: {both}; leave one of them")
    return labels[0], header.index("pixels"), splits[0] if splits else None


def is_stray(fields: list[bytes], emotion_at: int, pixels_at: int) -> bool:
    """True for a line that has neither an emotion nor pixels where the header puts them."""
    emotion = fields[emotion_at] if emotion_at < len(fields) else b""
    pixels = fields[pixels_at][:4] if pixels_at < len(fields) else b""
    return not (emotion.lstrip(b"-").isdigit() or pixels[:1].isdigit() or canonical(emotion.decode("latin-1")) in FER2013)


def emotion_of(field: bytes, place: str) -> int:
    text = field.decode("utf-8", "replace")
    if not text:
        raise FinetuneError(f"{place}, emotion: empty, the row has no label; remove the row, or use a file that is labelled")
    name = canonical(text)
    if re.fullmatch(r"0{0,8}[0-6](\.0{1,8})?", name):
        return int(name.partition(".")[0])
    if name in FER2013:
        return FER2013.index(name)
    known = ", ".join(f"{number} {name}" for number, name in enumerate(FER2013))
    raise FinetuneError(f"{place}, emotion: unknown value {text[:40]!r}; known are {known}")


def usage_of(field: bytes, place: str) -> str:
    split = split_of(text := field.decode("utf-8", "replace"))
    if split is None:
        raise FinetuneError(f"{place}, Usage: unknown value {text[:40]!r}; known are Training, PublicTest, PrivateTest")
    return split


def bad_pixel(field: bytes, place: str) -> FinetuneError:
    for position, token in enumerate(field.split()):
        if not token.isdigit() or int(token[:9]) > 255:
            value = token[:40].decode("utf-8", "replace")
            kind = "is outside 0..255" if re.fullmatch(rb"-?\d+", token) else "is not a whole number"
            return FinetuneError(f"{place}, pixels: value {value!r} at position {position + 1} {kind}; remove the row")
    return FinetuneError(f"{place}, pixels: empty; fetch the file again or remove the row")
