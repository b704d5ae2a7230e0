"""A training that is killed again and again, at random points, ends as the one that was not."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn_faces import expressions, write_npz
from safetensors.torch import load_file

KILLS = 20
SEED = 14
WORDS = ["--recipe", "scratch", "--smoke", "--cpu", "--epochs", "6", "--set", "arguments.width=8", "--set", "input.size=[16,16]",
         "--set", "training.batch_size=20", "--set", "training.ema=0.9", "--set", "training.precision=no", "--resume"]  # fmt: skip
TIMES = ("seconds", "images_per_s", "memory_mb")


def train(data: Path, out: Path) -> None:
    """In a process of its own, which has imported everything already."""
    from finetune.fer2013 import main

    os.environ["CAFFEZOO_HOME"] = str(data.parent / "cache")
    with contextlib.redirect_stdout(io.StringIO()):
        raise SystemExit(main([*WORDS, "--data", str(data), "--out", str(out)]))


def started(data: Path, out: Path) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["finetune.fer2013", "finetune.images.job", "finetune.train.loop", "finetune.runs.report"])
    child = context.Process(target=train, args=(data, out))
    child.start()
    return child


def waited(child: ForkServerProcess) -> float:
    begun = time.monotonic()
    child.join()
    assert child.exitcode == 0
    return time.monotonic() - begun


def lines(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in found]


def check_same(out: Path, whole: Path) -> None:
    assert lines(out) == lines(whole)
    for name in ("best.safetensors", "last.safetensors", "predictions.safetensors"):
        ours, theirs = load_file(out / name), load_file(whole / name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours), name
    ours, theirs = (json.loads((folder / "result.json").read_bytes()) for folder in (out, whole))
    assert (ours["scores"], ours["selected"]) == (theirs["scores"], theirs["selected"])
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


def at_a_time(rng: random.Random, out: Path, lasting: float) -> Callable[[], bool]:
    """True from some time on."""
    end = time.monotonic() + rng.uniform(0, lasting)
    return lambda: time.monotonic() > end


def at_a_change(rng: random.Random, out: Path, lasting: float) -> Callable[[], bool]:
    """True once a file of the run has been begun, replaced or written to so many times."""
    left, before = rng.randrange(1, 25), ""

    def asked() -> bool:
        nonlocal left, before
        now = ""
        with contextlib.suppress(OSError):  # a file that was there a moment ago
            now = str(sorted((path.name, path.stat().st_size, path.stat().st_ino) for path in out.glob("*")))
        left, before = left - (now != before), now
        return left < 0

    return asked


@pytest.mark.slow
def test_a_run_killed_at_random_is_the_run_that_was_not(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    data, whole, out = write_npz(tmp_path / "drawn.npz", expressions(40, 20)), tmp_path / "whole", tmp_path / "run"
    waited(started(data, whole))  # the first one imports, too
    shutil.rmtree(whole)
    lasting = waited(started(data, whole))
    kills = finished = 0
    while kills < KILLS:
        child, killing = started(data, out), rng.choice((at_a_time, at_a_change))(rng, out, lasting)
        while child.is_alive() and not killing():
            time.sleep(0.004)
        child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL
        assert child.exitcode in (0, -signal.SIGKILL)
        if child.exitcode == 0:
            check_same(out, whole)
            shutil.rmtree(out)
            finished += 1
    waited(started(data, out))
    check_same(out, whole)
