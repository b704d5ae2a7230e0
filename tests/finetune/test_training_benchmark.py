"""benchmarks/training.py in its smallest form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "training.py"


@pytest.mark.slow
def test_rates_come_with_a_count_of_multiply_adds_that_agrees_with_the_net_s(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, str(SCRIPT), "--smoke", "--cpu", "--only", "scratch", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    [row] = json.loads(out.read_text())
    assert row["multiply_adds"] == resnet18_multiply_adds(48)
    rates = row["images_per_s"]
    assert set(rates) == {"given", "forward", "backward", "step"} and min(rates.values()) > 0
    assert row["tflops"] == pytest.approx(3 * 2 * row["multiply_adds"] * rates["step"] / 1e12)
    assert row["share"] == pytest.approx(row["tflops"] / row["matrix_tflops"])
    assert f"| scratch 48×48 | 2 | {row['multiply_adds'] / 1e6:,.0f} |" in done.stdout


def resnet18_multiply_adds(side: int) -> int:
    """By hand: k² × inputs × outputs × places of each convolution, and the last layer."""
    total, inputs, area = 9 * 3 * 64 * side**2, 64, side**2
    for stage, outputs in enumerate((64, 128, 256, 512)):
        area = area // 4 if stage else area
        total += 9 * inputs * outputs * area + 3 * 9 * outputs * outputs * area
        total += inputs * outputs * area if stage else 0  # the shortcut's projection
        inputs = outputs
    return total + 512 * 7
