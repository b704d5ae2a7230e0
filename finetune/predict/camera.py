"""A camera: always its newest frame, so that a slow net falls behind nothing."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import FinetuneError
from finetune.extras import to_install
from finetune.predict.sources import End, Look, Shots, Source

WAIT = 10.0  # seconds without a frame, after which the camera is gone


class Newest:
    """Reads a camera in a thread and keeps one frame: the newest that nobody has taken yet."""

    def __init__(self, capture: Any) -> None:
        self.capture, self.frame, self.number, self.ended = capture, None, -1, False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while not self.ended:
            good, frame = self.capture.read()
            with self.changed:
                if not good:
                    self.ended = True
                else:
                    self.frame, self.number = frame, self.number + 1
                self.changed.notify()

    def take(self) -> tuple[int, Any] | None:
        """(number, BGR frame), or None where no more come."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.frame is not None or self.ended, WAIT) or self.frame is None:
                return None
            frame, self.frame = self.frame, None
            return self.number, frame

    def close(self) -> None:
        self.ended = True
        self.thread.join(WAIT)
        self.capture.release()


def open_capture(number: int) -> Any:
    """OpenCV's capture of a camera of this machine. Raises FinetuneError where there is none."""
    try:
        cv2: Any = importlib.import_module("cv2")  # its stubs lack the log's level
    except ImportError as error:
        raise FinetuneError(f"a camera is read by OpenCV, which cannot be imported ({error}): {to_install('predict')}") from None
    log = cv2.utils.logging
    level = log.setLogLevel(log.LOG_LEVEL_SILENT)  # what it would print of a camera that is not there is said below
    capture = cv2.VideoCapture(number)
    log.setLogLevel(level)
    if not capture.isOpened():
        raise FinetuneError(f"there is no camera {number}, or another program has it; --camera takes 0 for the first one, 1 for the next")
    return capture


def camera(
    number: int, every: int = 1, seconds: float | None = None, capture: Callable[[int], Any] | None = None
) -> tuple[Source, Iterator[Look | End]]:
    """The camera as a source, and its frames until it ends, or for so many seconds. Raises FinetuneError where it cannot be opened."""
    source = Source(Path(f"camera{number}"), "camera", f"camera{number}")
    return source, _looks(source, Newest((capture or open_capture)(number)), every, seconds)


def _looks(source: Source, newest: Newest, every: int, seconds: float | None) -> Iterator[Look | End]:
    shots, begin, count = Shots(), None, 0
    try:
        while (taken := newest.take()) is not None:
            begin = time.monotonic() if begin is None else begin
            now = time.monotonic() - begin
            if seconds is not None and now >= seconds:
                break
            if count % every == 0:
                image = np.ascontiguousarray(taken[1][:, :, ::-1])
                yield Look(
                    source, taken[0], now, image, shot=shots.begins(image[:: max(1, len(image) // 18), :: max(1, image.shape[1] // 32), 1])
                )
            count += 1
        if begin is None:
            yield Look(source, 0, None, None, f"the camera gave no frame in {WAIT:.0f} seconds")
        yield End(source)
    finally:
        newest.close()
