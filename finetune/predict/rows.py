"""A row a face, and a row where there is none: as csv, as JSON, and as a table for people."""

from __future__ import annotations

import contextlib
import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np

from finetune.errors import FinetuneError
from finetune.predict.sources import Media
from zoo.disk import replacing
from zoo.errors import printable

SCHEMA_VERSION = 1
FIXED = (
    "source", "media", "frame", "time_s", "face", "track_id", "status", "box_x", "box_y", "box_w", "box_h", "box_score", "label", "score",
)  # fmt: skip
Status = Literal["ok", "no_face", "whole_image", "unreadable"]
WIDEST = 40  # letters of a name in the table


@dataclass(frozen=True)
class Row:
    source: str
    media: Media
    frame: int
    time: float | None  # seconds; None for pictures
    status: Status
    face: int | None = None  # from 1, the largest first
    track: int | None = None
    box: tuple[float, float, float, float] | None = None  # x, y of the upper left corner, width, height: pixels of the upright image
    box_score: float = math.nan
    probabilities: np.ndarray | None = None  # (K,)


def columns(labels: Sequence[str]) -> list[str]:
    """FIXED, and prob_<label> of every label; where two labels are the same, the later has its number behind it."""
    names: list[str] = []
    for number, label in enumerate(labels):
        name = f"prob_{printable(label)}"
        names.append(f"{name}_{number}" if name in names else name)
    return [*FIXED, *names]


def values(row: Row, labels: Sequence[str]) -> list[Any]:
    """The row's values in the order of columns(), None where there is none."""
    box = [None] * 4 if row.box is None else [round(float(each), 1) for each in row.box]
    score = None if math.isnan(row.box_score) else round(row.box_score, 4)
    fixed = [printable(row.source), row.media, row.frame, None if row.time is None else round(row.time, 3), row.face, row.track, row.status]
    if row.probabilities is None:
        return [*fixed, *box, score, None, None, *[None] * len(labels)]
    best = int(row.probabilities.argmax())
    known = [round(float(each), 5) for each in row.probabilities]
    return [*fixed, *box, score, printable(labels[best]), known[best], *known]


class Sink(Protocol):
    def row(self, row: Row) -> None: ...

    def finish(self, counts: Mapping[str, Any]) -> None: ...


class Csv:
    def __init__(self, stream: IO[str], labels: Sequence[str]) -> None:
        self.labels, self.writer = labels, csv.writer(stream)
        self.writer.writerow(columns(labels))

    def row(self, row: Row) -> None:
        self.writer.writerow(["" if value is None else value for value in values(row, self.labels)])

    def finish(self, counts: Mapping[str, Any]) -> None:
        pass


class Json:
    """One object; its rows are written as they come, so memory holds none."""

    def __init__(self, stream: IO[str], labels: Sequence[str], facts: Mapping[str, Any]) -> None:
        self.stream, self.labels, self.names, self.first = stream, labels, columns(labels), True
        head = json.dumps({"schema_version": SCHEMA_VERSION, **facts}, indent=1)
        stream.write(f'{head[:-2]},\n "rows": [')

    def row(self, row: Row) -> None:
        record = dict(zip(self.names, values(row, self.labels), strict=True))
        self.stream.write(f"{'' if self.first else ','}\n  {json.dumps(record)}")
        self.first = False

    def finish(self, counts: Mapping[str, Any]) -> None:
        self.stream.write(f'\n ],\n "counts": {json.dumps(dict(counts))}\n}}\n')


class Nowhere:
    def row(self, row: Row) -> None:
        pass

    def finish(self, counts: Mapping[str, Any]) -> None:
        pass


@contextlib.contextmanager
def written(path: Path | None, labels: Sequence[str], facts: Mapping[str, Any]) -> Iterator[Sink]:
    """A Sink for a .csv or .json file, which appears when all is in it; for none where `path` is None."""
    if path is None:
        yield Nowhere()
        return
    if not path.parent.is_dir():
        raise FinetuneError(f"{path}: there is no folder {path.parent}; make it first")
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        yield Csv(stream, labels) if path.suffix.lower() == ".csv" else Json(stream, labels, facts)


class Table:
    """Prints a line a face; of a video or camera, lines where what is seen changes would be too many: its tracks at the end."""

    def __init__(self, names: Sequence[str], labels: Sequence[str], top: int, show: Callable[[str], None]) -> None:
        self.width = min(WIDEST, max([6, *map(len, names)]))
        self.labels, self.top, self.show = [printable(label) for label in labels], top, show
        self.begun = False

    def line(self, name: str, face: str, box: str, words: str) -> None:
        if not self.begun:
            self.begun = True
            self.show(f"{'source':<{self.width}}  {'face':>4}  {'box x,y w×h':<21}  label, probability")
        name = printable(name)
        name = name if len(name) <= self.width else f"…{name[1 - self.width :]}"
        self.show(f"{name:<{self.width}}  {face:>4}  {box:<21}  {words}".rstrip())

    def row(self, row: Row, problem: str = "") -> None:
        box = "" if row.box is None else "{:.0f},{:.0f} {:.0f}×{:.0f}".format(*row.box)
        if row.probabilities is not None:
            self.line(row.source, "" if row.face is None else str(row.face), box, self.words(row.probabilities))
        else:
            self.line(row.source, "-", "", "no face found" if row.status == "no_face" else f"unreadable: {printable(problem)}")

    def words(self, probabilities: np.ndarray) -> str:
        best = np.argsort(-probabilities, kind="stable")[: self.top]
        return "   ".join(f"{self.labels[index]} {probabilities[index]:.2f}" for index in best)
