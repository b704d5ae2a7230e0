"""Small videos whose faces are coloured squares, a detector that finds those, and detectors that misbehave.

As a command (SRC DST [options]) it is prepare_video with the slow one of them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from finetune.prepare_video import main
from finetune.video.faces import REFERENCE, Detect, Face

RED, GREEN, BLUE, WHITE = (230, 20, 20), (20, 230, 20), (20, 20, 230), (230, 230, 230)
SIZE = (96, 128)  # height, width


def picture(*squares: tuple[float, float, int, tuple[int, int, int]], size: tuple[int, int] = SIZE, shade: int = 30) -> np.ndarray:
    """(H, W, 3) uint8: squares of (left, top, side, colour) on grey."""
    image = np.full((*size, 3), shade, np.uint8)
    for left, top, side, colour in squares:
        image[round(top) : round(top) + side, round(left) : round(left) + side] = colour
    return image


def moving(count: int = 10, colour: tuple[int, int, int] = RED, side: int = 40) -> list[np.ndarray]:
    return [picture((8 + 4 * i, 6 + 3 * i, side, colour)) for i in range(count)]


def write(
    path: Path, images: Sequence[np.ndarray], codec: str = "mpeg4", layout: str = "yuv420p", title: str = "", **settings: Any
) -> Path:
    """Encodes at 25 frames a second. `settings` are of the codec context."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, av.open(file, "w", format=CONTAINERS[path.suffix]) as target:
        if title:
            target.metadata["title"] = title
        stream: Any = target.add_stream(codec, rate=25)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = layout, 2_000_000
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for image in images:
            target.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        target.mux(stream.encode())
    return path


CONTAINERS = {".avi": "avi", ".mp4": "mp4", ".mkv": "matroska", ".ts": "mpegts", ".m4v": "m4v"}


def sound(path: Path) -> Path:
    """A file of the same containers without pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, av.open(file, "w", format=CONTAINERS[path.suffix]) as target:
        stream: Any = target.add_stream("mp2", rate=44100)
        for _ in range(4):
            part = av.AudioFrame.from_ndarray(np.zeros((1, 2304), np.int16), format="s16", layout="stereo")
            part.sample_rate = 44100
            target.mux(stream.encode(part))
        target.mux(stream.encode())
    return path


# ------------------------------------------------------------------------------------------------------------------- detectors


def spot(image: np.ndarray, colour: tuple[int, int, int]) -> list[Face]:
    ys, xs = np.nonzero((np.abs(image.astype(int) - colour) < 60).all(2))
    if len(xs) < 100:
        return []
    box = np.array([xs.min(), ys.min(), xs.max(), ys.max()], float)
    return [Face(box, 0.99, box[:2] + (box[2:] - box[:2]) * REFERENCE / (95, 111))]


def find(image: np.ndarray, smallest: float) -> list[Face]:
    return [face for colour in (RED, GREEN) for face in spot(image, colour)]


def squares(device: str) -> Detect:
    return find


def fatal(device: str) -> Detect:
    raise RuntimeError("no such device: " + device)


def mortal(device: str) -> Detect:
    """Ends its process where it sees white, raises where it sees blue."""

    def look(image: np.ndarray, smallest: float) -> list[Face]:
        if spot(image, WHITE):
            os.kill(os.getpid(), signal.SIGSEGV)
        if spot(image, BLUE):
            raise ZeroDivisionError("blue")
        return find(image, smallest)

    return look


def slow(device: str) -> Detect:
    def look(image: np.ndarray, smallest: float) -> list[Face]:
        time.sleep(0.1)
        return find(image, smallest)

    return look


def sleeper() -> Callable[[float, Callable[[int], None]], float]:
    """A job for workers.run() that takes some seconds."""

    def sleep(length: float, tick: Callable[[int], None]) -> float:
        for _ in range(3):
            time.sleep(length)
            tick(1)
        return length

    return sleep


if __name__ == "__main__":
    sys.exit(main(detector=slow))
