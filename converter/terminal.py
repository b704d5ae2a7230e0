"""How the commands talk to a terminal: nothing that a file, a server or a name holds moves its cursor or hides text."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import IO, Any, NoReturn

from converter.errors import CaffezooWarning, printable


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are safe to print: an argument may be the name of a file that somebody else made."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def say(text: object, file: IO[str] | None = None) -> None:
    """Prints lines of text: everything in them that a terminal would obey is shown as an escape."""
    print(printable(text, "\n"), file=file, flush=True)


@contextlib.contextmanager
def notes() -> Iterator[None]:
    """Warnings and the log's warnings as lines that begin with "note:", without the place in the code, safe to print."""
    before = warnings.formatwarning

    def plain(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
        ours = category is UserWarning or issubclass(category, CaffezooWarning)
        return printable(f"note: {message}\n" if ours else before(message, category, filename, lineno, line), "\n")

    log, handler = logging.getLogger("caffezoo"), logging.StreamHandler()
    handler.setFormatter(_Note())
    handles = not log.hasHandlers()
    if handles:
        log.addHandler(handler)
    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = before
        log.removeHandler(handler)


class _Note(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(f"note: {super().format(record)}", "\n")


class Bar:
    """A progress bar for outputs that take a while, where a person looks on."""

    def __init__(self, total: int, name: str, wanted: bool = True):
        self._bar: Any = None
        if wanted and total > 64 << 20 and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="B", unit_scale=True, desc=printable(name), leave=False)

    def __call__(self, count: int) -> None:
        if self._bar is not None:
            self._bar.update(count)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
