"""The labels of a video over its time: of all of it as a picture, and of the last seconds as a strip below each frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.predict.draw import DARK, Colour, colours, font
from finetune.video.faces import MEMORY
from zoo.errors import printable

BINS = 1024  # columns of time; a longer video has wider ones
FINEST = 1 / 32  # seconds of a column at first
MOST_TRACKS = 64  # that are remembered: the longest ones, and those that go on
MOST_LABELS = 16  # that a picture can tell apart
HELD = 1.0  # seconds that an answer holds until the next one
SHOWN = 6  # tracks in the picture
ROW, SIDE, TOP = 110, 90, 40  # pixels: a track's height, the margin at its left, the title's height
PAPER, EMPTY = (255, 255, 255), (240, 240, 240)


@dataclass
class Seen:
    """What is known of a track."""

    track: int
    first: float  # seconds
    last: float
    count: int  # frames
    total: np.ndarray  # (K,) sum of probabilities
    sums: np.ndarray  # (BINS, K)
    counts: np.ndarray  # (BINS,)


class Timeline:
    """The tracks of one video, in memory that doesn't grow with it: when the columns are full, two become one."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)
        self.bins = BINS if len(labels) <= MOST_LABELS else 0
        self.width = FINEST  # seconds of a column
        self.tracks: dict[int, Seen] = {}
        self.end = 0.0

    def add(self, time: float, track: int, probabilities: np.ndarray) -> None:
        self.end = max(self.end, time)
        while self.bins and time >= self.width * self.bins:
            self._fold()
        seen = self.tracks.get(track)
        if seen is None:
            if not self._room(time):
                return
            kinds = len(self.labels)
            empty = np.zeros((self.bins, kinds), np.float32), np.zeros(self.bins, np.float32)
            seen = self.tracks[track] = Seen(track, time, time, 0, np.zeros(kinds), *empty)
        seen.last, seen.count = time, seen.count + 1
        seen.total += probabilities
        if self.bins:
            at = int(time / self.width)
            seen.sums[at] += probabilities
            seen.counts[at] += 1

    def _fold(self) -> None:
        self.width *= 2
        for seen in self.tracks.values():
            for values in (seen.sums, seen.counts):
                half = len(values) // 2
                values[:half] = values[::2] + values[1::2]
                values[half:] = 0

    def _room(self, time: float) -> bool:
        """Whether another track finds a place: the shortest of those that are over goes."""
        if len(self.tracks) < MOST_TRACKS:
            return True
        over = [seen for seen in self.tracks.values() if time - seen.last > MEMORY]
        if over:
            del self.tracks[min(over, key=lambda seen: seen.count).track]
        return bool(over)

    def longest(self, most: int = SHOWN) -> list[Seen]:
        """The tracks that were seen in the most frames, in the order in which they began."""
        best = sorted(self.tracks.values(), key=lambda seen: -seen.count)[:most]
        return sorted(best, key=lambda seen: seen.track)

    def picture(self, title: str) -> np.ndarray:
        """(H, W, 3) uint8: for each of the longest tracks the mean probabilities of a column's time, stacked up to 1."""
        from PIL import Image, ImageDraw

        tracks = self.longest()
        used = max(1, min(self.bins, int(self.end / self.width) + 1))
        known = colours(self.labels)
        letters, small = font(18), font(13)
        canvas = Image.new("RGB", (SIDE + BINS + 20, TOP + ROW * max(1, len(tracks)) + 62), PAPER)
        pen = ImageDraw.Draw(canvas)
        pen.text((12, TOP / 2), printable(title)[:100], font=letters, fill=DARK, anchor="lm")
        at = np.arange(BINS) * used // BINS
        for number, seen in enumerate(tracks):
            upper = TOP + ROW * number
            canvas.paste(Image.fromarray(stacked(self._means(seen)[at], ROW - 16, known)), (SIDE, upper))
            pen.text((12, upper + ROW / 2 - 8), f"face {seen.track}", font=small, fill=DARK, anchor="lm")
        lower = TOP + ROW * max(1, len(tracks)) - 10
        span = self.width * used
        step = tick_step(span)
        for tick in range(int(span / step) + 1):
            x = SIDE + tick * step / span * BINS
            pen.line((x, lower - 6, x, lower), fill=DARK)
            words = f"{tick * step:.1f} s" if step < 1 else clock(tick * step)
            pen.text((x, lower + 3), words, font=small, fill=DARK, anchor="lt" if tick == 0 else "mt")
        x = float(SIDE)
        for label, colour in zip(self.labels, known, strict=True):
            pen.rectangle((x, lower + 34, x + 14, lower + 48), fill=colour)
            pen.text((x + 20, lower + 41), printable(label), font=small, fill=DARK, anchor="lm")
            x += 38 + small.getlength(printable(label))
        return np.asarray(canvas)

    def _means(self, seen: Seen) -> np.ndarray:
        """(BINS, K): a column's mean; what was seen holds until the next frame, for HELD seconds at most; else NaN."""
        full = np.flatnonzero(seen.counts)
        latest = np.searchsorted(full, np.arange(self.bins), side="right") - 1
        source = full[latest.clip(min=0)]
        known = (latest >= 0) & (np.arange(self.bins) - source <= HELD / self.width) & (np.arange(self.bins) * self.width <= seen.last)
        means = np.full_like(seen.sums, np.nan)
        means[known] = (seen.sums[source] / seen.counts[source, None])[known]
        return means

    def save(self, path: Path, title: str) -> bool:
        """Writes picture() as PNG; False where there is nothing that it could show."""
        if not self.bins or not self.tracks:
            return False
        from PIL import Image

        Image.fromarray(self.picture(title)).save(path, "PNG")
        return True


class Recent:
    """The last seconds of the largest face, as a strip that moves from right to left."""

    def __init__(self, labels: Sequence[str], seconds: float = 10.0) -> None:
        self.labels, self.seconds = list(labels), seconds
        self.past: deque[tuple[float, np.ndarray | None]] = deque()

    def add(self, time: float, probabilities: np.ndarray | None) -> None:
        self.past.append((time, probabilities))
        # One older than the window is kept: it reaches into it.
        while len(self.past) > 2 and self.past[1][0] < time - self.seconds:
            self.past.popleft()

    def strip(self, width: int, height: int) -> np.ndarray:
        """(height, width, 3) uint8; what was seen holds until the next frame, for HELD seconds at most."""
        values = np.full((width, len(self.labels)), np.nan, np.float32)
        if self.past:
            end = self.past[-1][0]
            times = end - self.seconds + (np.arange(width) + 1) / width * self.seconds
            begins = np.array([time for time, _ in self.past])
            unseen = np.full(len(self.labels), np.nan, np.float32)
            known = np.stack([unseen if seen is None else seen for _, seen in self.past])
            index = np.searchsorted(begins, times + 1e-9, side="right") - 1
            fresh = (index >= 0) & (times - begins[index] <= HELD)
            values[fresh] = known[index[fresh]]
        return stacked(values, height, colours(self.labels))


def stacked(values: np.ndarray, height: int, known: Sequence[Colour]) -> np.ndarray:
    """(height, n, 3) uint8: each row of (n, K) as a column of K colours, as high as they are probable; grey where it is NaN."""
    edges = np.nan_to_num(values.cumsum(1), nan=-1.0)
    level = (np.arange(height)[::-1] + 0.5) / height
    index = (level[:, None, None] > edges[None]).sum(2).clip(max=values.shape[1] - 1)
    picture = np.array(known, np.uint8)[index]
    picture[:, np.isnan(values).any(1)] = EMPTY
    result: np.ndarray = picture
    return result


def tick_step(span: float) -> float:
    """Seconds between ticks: at most twelve of them."""
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
    return next((step for step in steps if span / step <= 12), 3600 * float(np.ceil(span / 3600 / 12)))


def clock(seconds: float) -> str:
    """1:02:03, 2:03 or 0.5 s."""
    if seconds % 1 > 1e-6:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
