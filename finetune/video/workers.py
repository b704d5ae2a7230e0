"""Jobs over processes, where a process that dies costs one job and not the run."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Generic, TypeVar, cast

from finetune.errors import FinetuneError

J = TypeVar("J")
R = TypeVar("R")
Tick = Callable[[int], None]  # called with how much has been done since the last call

SILENCE = 600.0  # seconds without a sign of life after which a process hangs


@dataclass(frozen=True)
class Failed:
    """A job without a result: its process died or hung, or raised what nobody expected. The text says which."""

    message: str


class Fatal(Exception):
    """Raised by a job: no other job would do better (a full disk). The run ends with its text."""


def cpus() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class Worker(Generic[J]):
    process: BaseProcess
    pipe: connection.Connection
    job: J
    heard: float = 0.0  # time of the last sign of life
    ready: bool = False  # setup() is done


def run(
    jobs: Sequence[J],
    setup: Callable[[], Callable[[J, Tick], R]],
    count: int,
    ticked: Tick = lambda amount: None,
    silence: float = SILENCE,
) -> Generator[tuple[J, R | Failed], None, None]:
    """Pairs of (job, its result or Failed), as they get done by `count` processes.

    Each process calls `setup` once, and what that returned for each of its jobs; all of these are pickled, so `setup` is a
    function of a module, or a partial of one. Raises FinetuneError with the text of what setup() or a Fatal job raised.
    """
    waiting = list(reversed(jobs))
    staff: list[Worker[J]] = []
    try:
        while waiting or staff:
            while waiting and len(staff) < count:
                staff.append(hire(setup, waiting.pop()))
            ready = connection.wait([worker.pipe for worker in staff], timeout=min(1.0, silence))
            for worker in list(staff):
                answer = listen(worker, ticked) if worker.pipe in ready else overdue(worker, silence)
                if answer is None:
                    continue
                yield worker.job, cast("R | Failed", answer[0])
                if waiting and worker.process.is_alive():
                    give(worker, waiting.pop())
                else:
                    staff.remove(worker)
                    dismiss([worker])
    finally:
        dismiss(staff)


def hire(setup: Callable[[], Callable[[J, Tick], R]], job: J) -> Worker[J]:
    context = multiprocessing.get_context("spawn")
    parent, child = context.Pipe()
    process = context.Process(target=work, args=(child, setup), daemon=True)
    # Ctrl-C goes to every process of the terminal; a process born with it ignored leaves the answer to its parent.
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        process.start()
    finally:
        if main:
            signal.signal(signal.SIGINT, signal.default_int_handler if handler is None else handler)
    child.close()
    worker = Worker(process, parent, job)
    give(worker, job)
    return worker


def give(worker: Worker[J], job: J) -> None:
    worker.job, worker.heard = job, time.monotonic()
    with contextlib.suppress(OSError):  # it has died since; listen() finds out
        worker.pipe.send(job)


def listen(worker: Worker[J], ticked: Tick) -> tuple[object] | None:
    """What the worker says: (its result,) or (Failed,), None while it is busy."""
    worker.heard = time.monotonic()
    try:
        kind, value = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join(10)
        return (Failed(f"its process {ending(worker, worker.process.exitcode)}"),)
    if kind == "fatal":
        raise FinetuneError(value)
    if kind == "ready":
        worker.ready = True
    if kind == "tick":
        ticked(value)
    return (value,) if kind == "done" else None


def ending(worker: Worker[J], code: int | None) -> str:
    if code is not None and code < 0:
        try:
            cause = signal.Signals(-code).name
        except ValueError:
            cause = f"signal {-code}"
        text = f"was killed by {cause}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
    else:
        text = f"ended with status {code}"
    if not worker.ready:
        raise FinetuneError(f"a worker process {text} before its first job; try --workers 1 to see whether memory is short")
    return text


def overdue(worker: Worker[J], silence: float) -> tuple[Failed] | None:
    # Before it is ready it imports and loads, which says nothing.
    if time.monotonic() - worker.heard < (silence if worker.ready else max(silence, SILENCE)):
        return None
    dismiss([worker])
    return (Failed(f"its process gave no sign of life for {silence:g} s and was ended"),)


def dismiss(staff: Sequence[Worker[J]]) -> None:
    for worker in staff:
        worker.pipe.close()
        worker.process.terminate()
    for worker in staff:
        worker.process.join(5)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def work(pipe: connection.Connection, setup: Callable[[], Callable[[J, Tick], R]]) -> None:
    """The life of a worker process."""

    def tick(amount: int) -> None:
        pipe.send(("tick", amount))

    # Whatever happens here is the parent's to tell; a pipe without a parent ends the process quietly.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            do = setup()
        except Exception as error:
            pipe.send(("fatal", str(error) or type(error).__name__))
            return
        pipe.send(("ready", None))
        while True:
            job = pipe.recv()
            try:
                result: R | Failed = do(job, tick)
            except (BrokenPipeError, ConnectionResetError):
                return
            except Fatal as error:
                pipe.send(("fatal", str(error)))
                return
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                result = Failed(f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})")
            pipe.send(("done", result))
