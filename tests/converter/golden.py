"""The golden cases: nets with Caffe's own outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import torch

from converter import CaffeNet, convert

FOLDER = Path(__file__).parent.parent / "golden"
CASES = sorted(path.parent.name for path in FOLDER.glob("*/io.npz"))
TOLERANCE = 1e-5  # of an output's largest magnitude; the worst case seen is 1e-6


def files(case: str) -> tuple[Path, Path | None]:
    weights = FOLDER / case / "net.caffemodel"
    return FOLDER / case / "net.prototxt", weights if weights.exists() else None


def arrays(case: str, kind: str) -> dict[str, Any]:
    """ "input" or "output" arrays by blob name."""
    with numpy.load(FOLDER / case / "io.npz") as held:
        return {name.removeprefix(kind + " "): held[name] for name in held.files if name.startswith(kind + " ")}


def converted(case: str) -> CaffeNet:
    return convert(*files(case))


def inputs(case: str, net: Any) -> list[torch.Tensor]:
    held = arrays(case, "input")
    assert set(net.inputs) == set(held)
    return [torch.from_numpy(held[name]) for name in net.inputs]


def assert_as_caffe(case: str, found: dict[str, torch.Tensor]) -> None:
    """Every output has Caffe's shape and, within TOLERANCE, Caffe's values."""
    for name, want in arrays(case, "output").items():
        got = found[name].numpy()
        assert got.size == want.size, f"{name}: shape {got.shape}, Caffe has {want.shape}"
        scale = max(float(numpy.abs(want).max(initial=0)), 1e-3)
        difference = float(numpy.abs(got.reshape(want.shape) - want).max(initial=0)) / scale
        assert difference <= TOLERANCE, f"{name}: {difference:.1e} of its largest magnitude away from Caffe"
