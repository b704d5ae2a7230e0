"""SIGTERM and Ctrl-C end a run between two steps, with its state saved."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

StopSignal = Callable[[], int]  # the signal that has come, or 0


@contextmanager
def stop_requested() -> Iterator[StopSignal]:
    """Which of SIGTERM and SIGINT has come inside the block; a second Ctrl-C interrupts at once."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        if number == signal.SIGINT and asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: asked[0] if asked else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
