"""Damaged files of every kind that the recipes read end in FinetuneError or a result, within bounds of memory and processor time."""

from __future__ import annotations

from pathlib import Path

import pytest
from damaged_files import KINDS, read_damaged
from limits import bounded

pytest.importorskip("h5py", reason="h5py is not installed: HDF5 files cannot be written")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_in_words(kind: str, tmp_path: Path) -> None:
    assert not read_damaged(kind, tmp_path / "a", range(12))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files_stay_within_bounds(kind: str, tmp_path: Path) -> None:
    assert not bounded(read_damaged, kind, tmp_path / "a", range(100, 500), preload=["damaged_files"])
