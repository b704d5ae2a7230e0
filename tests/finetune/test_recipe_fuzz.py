"""Damaged files of every kind that the recipes read end in FinetuneError or a result, within bounds of memory and processor time."""

from __future__ import annotations

import multiprocessing
import resource
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from damaged_files import KINDS, read_damaged

pytest.importorskip("h5py", reason="h5py is not installed: HDF5 files cannot be written")
ROOM = 1 << 30  # bytes of address space beyond what the process has at its start
SECONDS = 60  # of processor time for all damaged files of a kind


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_in_words(kind: str, tmp_path: Path) -> None:
    assert not read_damaged(kind, tmp_path / "a", range(12))


def bounded(kind: str, root: Path, seeds: range, answers: Connection) -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    answers.send(read_damaged(kind, root, seeds))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files_stay_within_bounds(kind: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["damaged_files"])
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=bounded, args=(kind, tmp_path / "a", range(100, 500), theirs))
    child.start()
    theirs.close()
    try:
        wrong = ours.recv()
    except EOFError:
        wrong = ["the process died"]
    child.join()
    assert not wrong and child.exitcode == 0
