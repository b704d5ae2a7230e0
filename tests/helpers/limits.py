"""Limits of the operating system around what a test does."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOM = 1 << 30  # bytes of address space beyond what the process has at its start
SECONDS = 60  # of processor time


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: as a full disk, but for the error's number (EFBIG).

    Around no more than what is tested, never a fixture: pytest's own output goes to a file, too, where somebody redirects it.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def bounded(work: Callable[..., list[str]], *arguments: Any, preload: Sequence[str]) -> list[str]:
    """What work(*arguments) finds wrong, in a process of its own with little memory and time; its death is one more fault."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(work, arguments, theirs))
    child.start()
    theirs.close()
    try:
        wrong: list[str] = ours.recv()
    except EOFError:
        wrong = ["the process died"]
    child.join()
    return wrong if child.exitcode == 0 else [*wrong, f"exit status {child.exitcode}"]


def _answer(work: Callable[..., list[str]], arguments: Sequence[Any], answers: Connection) -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    answers.send(work(*arguments))
