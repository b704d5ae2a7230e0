"""benchmarks/training.py in its smallest form."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.training import number
from benchmarks.training_older import PictureClips
from finetune.config import Augment
from finetune.emotiw import RECIPES
from finetune.train.augment import view

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "training.py"


def measured(net: str, folder: Path) -> tuple[dict[str, Any], str]:
    """The row of a net in --smoke, and what is printed."""
    out = folder / "found.json"
    command = [sys.executable, str(SCRIPT), "--smoke", "--cpu", "--only", net, "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    [row] = json.loads(out.read_text())
    rates = row[f"{row['unit']}_per_s"]
    assert set(rates) == {"given", "forward", "backward", "step"} and min(rates.values()) > 0
    assert row["tflops"] == pytest.approx(3 * 2 * row["multiply_adds"] * rates["step"] / 1e12)
    assert row["share"] == pytest.approx(row["tflops"] / row["matrix_tflops"])
    return row, done.stdout


@pytest.mark.slow
def test_rates_come_with_a_count_of_multiply_adds_that_agrees_with_the_net_s(tmp_path: Path) -> None:
    row, printed = measured("scratch", tmp_path)
    assert row["multiply_adds"] == resnet18_multiply_adds(48)
    assert f"| scratch 48×48 | 2 | {row['multiply_adds'] / 1e6:,.0f} |" in printed


@pytest.mark.slow
def test_clips_are_measured_beside_one_clip_a_batch(tmp_path: Path) -> None:
    row, printed = measured("vgg_gru", tmp_path)
    frames, older = row["frames"], row["older"]
    assert row["multiply_adds"] == frames * (vgg16_multiply_adds(224) + 3 * 128 * (4096 + 128)) + 128 * 7
    assert (row["batch"], older["batch"]) == (2, 1)
    assert older["share"] / row["share"] == pytest.approx(older["per_s"] / row["clips_per_s"]["step"])
    assert f"| vgg_gru {frames} × 224×224 | 2 |" in printed
    for per_s in (older["per_s"], row["clips_per_s"]["step"]):
        assert f"{number(per_s)} clips/s ({number(frames * per_s)} frames/s)" in printed


def test_the_older_loop_s_clips_are_those_of_the_recipe_but_for_what_is_drawn() -> None:
    older = PictureClips(2)
    grey = [Image.fromarray(np.full((224, 224, 3), value, np.uint8)) for value in (10, 100, 200)]
    older.clips, older.augment = [grey], Augment()
    frames, label = older[8]
    shown = view(torch.tensor([10, 100, 200], dtype=torch.uint8)[:, None, None, None].expand(3, 3, 224, 224), RECIPES["vgg_gru"].input)
    assert label == 1 and frames.shape == (2, 3, 224, 224)
    drawn = [(frame - shown).abs().amax((1, 2, 3)).argmin().item() for frame in frames]
    assert drawn == sorted(set(drawn))  # in their order, none twice
    torch.testing.assert_close(frames, shown[drawn])


def test_the_older_loop_distorts_every_frame_by_itself() -> None:
    random.seed(0)
    clips = PictureClips(4)
    clips.clips = [[clips.clips[0][0]] * 4]  # one picture four times
    frames, _ = clips[0]
    assert len({frame.numpy().tobytes() for frame in frames}) == 4


def resnet18_multiply_adds(side: int) -> int:
    """By hand: k² × inputs × outputs × places of each convolution, and the last layer."""
    total, inputs, area = 9 * 3 * 64 * side**2, 64, side**2
    for stage, outputs in enumerate((64, 128, 256, 512)):
        area = area // 4 if stage else area
        total += 9 * inputs * outputs * area + 3 * 9 * outputs * outputs * area
        total += inputs * outputs * area if stage else 0  # the shortcut's projection
        inputs = outputs
    return total + 512 * 7


def vgg16_multiply_adds(side: int) -> int:
    """By hand, up to fc6: 9 × inputs × outputs × places of each convolution, and 7 × 7 × 512 inputs of fc6."""
    total, inputs = 512 * 7 * 7 * 4096, 3
    for stage, (outputs, layers) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        area = (side // 2**stage) ** 2
        total += 9 * (inputs + (layers - 1) * outputs) * outputs * area
        inputs = outputs
    return total
