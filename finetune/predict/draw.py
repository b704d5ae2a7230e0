"""A picture with the answers in it: a box, the label, and bars of the likeliest ones beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.labels import canonical
from zoo.errors import printable

Colour = tuple[int, int, int]
# Okabe and Ito's palette, which colour-blind people can tell apart.
COLOURS: dict[str, Colour] = {
    "happy": (230, 159, 0), "surprise": (86, 180, 233), "disgust": (0, 158, 115), "contempt": (240, 228, 66), "sad": (0, 114, 178),
    "angry": (213, 94, 0), "fear": (204, 121, 167), "neutral": (150, 150, 150),
}  # fmt: skip
DARK, LIGHT = (15, 15, 15), (255, 255, 255)


@dataclass(frozen=True)
class Mark:
    """What is drawn of a face: box x, y, width, height in pixels; None: the whole picture."""

    box: tuple[float, float, float, float] | None
    probabilities: np.ndarray  # (K,)
    number: int | None = None  # what tells it from others: a video's track, or the face's place among those of a picture


def colours(labels: Sequence[str]) -> list[Colour]:
    """One colour a label: an expression's own, the palette's in turn for others."""
    palette = list(COLOURS.values())
    return [COLOURS.get(canonical(label), palette[number % len(palette)]) for number, label in enumerate(labels)]


def annotated(image: np.ndarray, marks: Sequence[Mark], labels: Sequence[str], top: int = 3) -> np.ndarray:
    """A copy of (H, W, 3) uint8 RGB with the marks on it; `top` bars a face, those of the largest face on top."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture, "RGBA")
    known = colours(labels)
    for mark in reversed(marks):
        best = np.argsort(-mark.probabilities, kind="stable")[: max(1, top)]
        colour = known[best[0]]
        x, y, w, h = mark.box or (0, 0, *picture.size)
        line = max(1, round(max(picture.size) / 300))
        size = int(np.clip(min(w, h) / 7, 11, max(11.0, max(picture.size) / 32)))
        words = f"{labels[best[0]]} {mark.probabilities[best[0]]:.0%}"
        words = printable(words if mark.number is None else f"{mark.number}: {words}")
        pen.rectangle((x, y, x + w - 1, y + h - 1), outline=colour, width=line)
        _tag(pen, (x, y, w, h), words, colour, size, picture.size)
        if top > 1 and h >= (len(best) + 1) * size:
            bars = [(printable(labels[index]), float(mark.probabilities[index]), known[index]) for index in best]
            _bars(pen, (x, y, w, h), bars, size, picture.size)
    return np.asarray(picture)


def font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def on(colour: Colour) -> Colour:
    """Black or white: what can be read on that colour (luma of BT.601)."""
    return DARK if np.dot(colour, (0.299, 0.587, 0.114)) > 100 else LIGHT


def _tag(pen: Any, box: tuple[float, float, float, float], words: str, colour: Colour, size: int, canvas: tuple[int, int]) -> None:
    """The label above the box; inside of it where there is no room above."""
    letters = font(size)
    width, height = letters.getlength(words) + size * 0.6, size * 1.4
    left = max(0.0, min(box[0], canvas[0] - width))
    upper = box[1] - height if box[1] >= height else box[1]
    pen.rectangle((left, upper, left + width, upper + height), fill=colour)
    pen.text((left + size * 0.3, upper + height / 2), words, font=letters, fill=on(colour), anchor="lm")


def _bars(
    pen: Any, box: tuple[float, float, float, float], bars: Sequence[tuple[str, float, Colour]], size: int, canvas: tuple[int, int]
) -> None:
    """Beside the box: at its right, its left, or below it; nowhere where none has room, since they would hide the face."""
    letters = font(max(10, round(size * 0.8)))
    row, words = size * 1.3, max(letters.getlength(label) for label, _, _ in bars)
    width = words + size * 4.5
    height, gap = row * len(bars), size * 0.3
    x, y, w, h = box
    level = max(0.0, min(y, canvas[1] - height))
    places = ((x + w + gap, level), (x - width - gap, level), (max(0.0, min(x, canvas[0] - width)), y + h + gap))
    room = [(left, y) for left, y in places if left >= 0 and left + width <= canvas[0] and y + height <= canvas[1]]
    if not room:
        return
    left, y = room[0]
    pen.rectangle((left, y, left + width, y + height), fill=(*DARK, 150))
    for number, (label, probability, colour) in enumerate(bars):
        middle = y + row * (number + 0.5)
        start = left + words + size * 0.6
        pen.text((left + size * 0.3, middle), label, font=letters, fill=LIGHT, anchor="lm")
        pen.rectangle((start, middle - size * 0.35, start + max(1.0, size * 3.5 * probability), middle + size * 0.35), fill=colour)
