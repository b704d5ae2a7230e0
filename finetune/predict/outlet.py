"""Where the answers go: rows, the table, annotated pictures and videos, timelines, and the counts at the end."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from finetune.errors import FinetuneError
from finetune.predict.crops import face_crop
from finetune.predict.draw import Mark, annotated
from finetune.predict.movie import FALLBACK, Movie
from finetune.predict.pipeline import Answer
from finetune.predict.rows import Row, Sink, Table
from finetune.predict.sources import End, Source
from finetune.predict.timeline import Recent, Timeline, clock
from finetune.video.faces import Face
from zoo.cards.record import Crop
from zoo.errors import counted, printable

STRIP = 0.12  # of a frame's height: the last seconds below it
LOSSY = frozenset({".jpg", ".jpeg"})


class Outlet:
    """Takes the answers in their order. `folder` is for annotated pictures and videos, `crops` for the faces of pictures."""

    def __init__(
        self,
        sink: Sink,
        table: Table,
        labels: Sequence[str],
        *,
        folder: Path | None,
        top: int,
        inputs: set[Path],
        live: bool = False,
        crops: Path | None = None,
        margin: float = 0.0,
    ) -> None:
        self.sink, self.table, self.labels, self.folder, self.top = sink, table, list(labels), folder, top
        self.crops, self.square = crops, Crop(margin)
        self.inputs = inputs  # resolved: what must not be written over
        self.live, self.told = live, -math.inf  # a camera's answers are shown once a second
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self.video: Video | None = None

    def take(self, item: Answer | End) -> None:
        if isinstance(item, End):
            self._end(item)
            return
        for row in item.rows:
            self.sink.row(row)
            self.counts["faces"] += row.status == "ok"
        look, status = item.look, item.rows[0].status
        self.counts["looks"] += 1
        if look.source.media == "image" or status == "unreadable":
            self._count(status)
            for row in item.rows:
                self.table.row(row, look.problem)
            if self.folder is not None and look.image is not None:
                self._save_picture(look.source, look.image, item.rows)
            if self.crops is not None and look.image is not None:
                self._save_faces(look.source, look.image, item.rows)
            return
        if self.video is None:
            self.video = Video(look.source, self.labels, self._target(self.folder, look.source, ".mp4"))
        self.video.add(item, self.labels, self.top)
        if self.live and look.time is not None and look.time - self.told >= 1:
            self.told = look.time
            for row in item.rows:
                self.table.row(row)

    def _count(self, status: str) -> None:
        self.counts["files"] += 1
        self.counts[{"ok": "with faces", "no_face": "without a face", "whole_image": "whole", "unreadable": "unreadable"}[status]] += 1

    def _end(self, end: End) -> None:
        self.notes += [f"{printable(end.source.name)}: {printable(note)}" for note in end.notes]
        video, self.video = self.video, None
        if video is None:
            return
        self._count("whole_image" if video.whole else "ok" if video.timeline.tracks else "no_face")
        video.close()
        for face, mean, words in video.lines():
            self.table.line(end.source.name, face, "", words if mean is None else f"{self.table.words(mean)}   ({words})")
        if video.target is not None and video.codec == FALLBACK:
            self.notes.append(f"{video.target}: this PyAV has no H.264 encoder, so it is MPEG-4 part 2, which browsers don't play")

    def close(self) -> None:
        """Makes whole what is under way, as when somebody presses Ctrl-C."""
        if self.video is not None:
            self._end(End(self.video.source, ("stopped before its end",)))

    def _target(self, folder: Path | None, source: Source, ending: str) -> Path | None:
        """The file for a source's result, its folder made. Raises FinetuneError where that is one of the inputs."""
        if folder is None:
            return None
        path = folder / f"{source.output}{ending}"
        if path.resolve() in self.inputs:
            raise FinetuneError(
                f"{path} is one of the files to look at; give {'--crops' if folder == self.crops else '--annotate'} another folder"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _save_picture(self, source: Source, image: np.ndarray, rows: Sequence[Row]) -> None:
        from PIL import Image

        path = self._target(self.folder, source, _suffix(source))
        assert path is not None
        Image.fromarray(annotated(image, marks(rows), self.labels, self.top)).save(path, quality=92)

    def _save_faces(self, source: Source, image: np.ndarray, rows: Sequence[Row]) -> None:
        from PIL import Image

        for row in rows:
            if row.box is None:
                continue
            x, y, width, height = row.box
            face = Face(np.array([x, y, x + width - 1, y + height - 1]), row.box_score, np.zeros((5, 2)))
            path = self._target(self.crops, source, f".{row.face}{_suffix(source)}")
            assert path is not None
            Image.fromarray(face_crop(image, face, self.square, (0, 0))).save(path, quality=95)

    def summary(self, others: int, seconds: float) -> str:
        """The counts, for people."""
        counts = self.counts
        one = "with a face" if counts["with faces"] == counts["faces"] == 1 else "with faces"
        words = {"with faces": one, "without a face": "without a face", "unreadable": "unreadable"}
        parts = [f"{counts[name]:,} {said}" for name, said in words.items() if counts[name]]
        parts += [f"{counts['whole']:,} read as a whole"] if counts["whole"] else []
        frames = f" in {counts['looks']:,} pictures and frames" if counts["looks"] != counts["files"] else ""
        found = [] if counts["whole"] == counts["files"] else [f"{counted(counts['faces'], 'face')}{frames}"]
        left = [f"{counted(others, 'other file')} left out"] if others else []
        files = f"{counted(counts['files'], 'file')}: {', '.join(parts) or 'nothing'}"
        return "; ".join([files, *found, *left, f"{seconds:.1f} s"])


def _suffix(source: Source) -> str:
    return ".jpg" if source.path.suffix.lower() in LOSSY else ".png"


def marks(rows: Sequence[Row]) -> list[Mark]:
    """What is drawn of the faces of a picture or frame; those of a picture are numbered where there are several."""
    several = len(rows) > 1
    return [
        Mark(row.box, row.probabilities, row.track if row.track is not None else row.face if several else None)
        for row in rows
        if row.probabilities is not None
    ]


class Video:
    """A video or camera under way: its tracks, its annotated copy, its timeline."""

    def __init__(self, source: Source, labels: Sequence[str], target: Path | None) -> None:
        self.source, self.target = source, target
        self.timeline, self.recent = Timeline(labels), Recent(labels)
        self.movie: Movie | None = None
        self.codec = ""
        self.whole = False  # whether its frames were read as a whole
        self.frames = 0

    def add(self, answer: Answer, labels: Sequence[str], top: int) -> None:
        look, time = answer.look, answer.look.time or 0.0
        self.frames += 1
        for row in answer.rows:
            if row.probabilities is not None and row.track is not None:
                self.timeline.add(time, row.track, row.probabilities)
            self.whole = self.whole or row.status == "whole_image"
        if self.target is None or look.image is None:
            return
        if self.movie is None:
            self.movie = Movie(self.target)
            self.codec = self.movie.codec
        picture = annotated(look.image, marks(answer.rows), labels, top)
        if self.timeline.bins:
            self.recent.add(time, answer.rows[0].probabilities)
            strip = self.recent.strip(picture.shape[1], max(16, round(picture.shape[0] * STRIP)))
            picture = np.concatenate([picture, strip])
        self.movie.add(picture, time)

    def close(self) -> None:
        if self.movie is not None:
            self.movie.close()
        if self.target is not None:
            self.timeline.save(self.target.with_suffix(".timeline.png"), self.source.path.name)

    def lines(self) -> list[tuple[str, np.ndarray | None, str]]:
        """(face, mean probabilities (K,), when it was seen) of the longest tracks; one that says so where there is no face."""
        seen: list[tuple[str, np.ndarray | None, str]] = [
            (
                str(each.track),
                each.total / each.count,
                f"{clock(round(each.first))}-{clock(round(each.last))}, {counted(each.count, 'frame')}",
            )
            for each in self.timeline.longest()
        ]
        return seen or [("-", None, f"no face found in {counted(self.frames, 'frame')}")]


@contextlib.contextmanager
def closing(outlet: Outlet) -> Iterator[Outlet]:
    try:
        yield outlet
    finally:
        outlet.close()
