"""A grey net that was trained on single images is the encoder of a recipe for clips: an expression net first, then time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn_clips import CLASSES, clips, write_npz
from safetensors.torch import load_file

import zoo
from architectures import SmallVGG
from finetune.clips.nets import encoder_of, start, with_encoder
from finetune.emotiw import RECIPES, main
from finetune.errors import FinetuneError
from finetune.runs.folder import Run
from finetune.runs.metrics import read_predictions

WIDTHS = (4, 6)
SHORT = ["--set", "sampling.frames=4", "--set", "sampling.stride=2", "--epochs", "1", "--set", "training.batch_size=8", "--cpu"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The folder of a finished run of SmallVGG on grey crops, 14×14 of 16×16, with drawn weights."""
    torch.manual_seed(9)
    (tmp_path / "fer").mkdir()
    folder = Run(tmp_path / "fer")
    folder.save_tensors("best.safetensors", SmallVGG(len(CLASSES), widths=WIDTHS).state_dict())
    spec = {"size": [14, 14], "resize": [16, 16], "channels": "GRAY", "mean": [127.5], "scale": 1 / 64}
    arguments = {"num_classes": len(CLASSES), "widths": list(WIDTHS)}
    folder.write_card({"architecture": "SmallVGG", "arguments": arguments, "classes": list(CLASSES), "preprocess": spec})
    return tmp_path / "fer"


@pytest.mark.parametrize(("recipe", "colour"), [("clip_gru", False), ("vgg_gru", True), ("vgg_lstm", False)])
def test_a_recipe_reads_what_the_run_of_grey_images_learnt(recipe: str, colour: bool, images: Path, tmp_path: Path) -> None:
    data = write_npz(tmp_path / "drawn.npz", clips(12, 6, people=4, colour=colour))
    out = tmp_path / "run"
    command = ["--recipe", recipe, "--data", str(data), "--out", str(out), "--encoder", str(images), "--frozen", "--set", "views=1"]
    assert main([*command, "--protocol", "last", *SHORT]) == 0
    given, kept = load_file(images / "best.safetensors"), load_file(out / "best.safetensors")
    for name, value in kept.items():
        assert not name.startswith("cnn.") or torch.equal(value, given[name.removeprefix("cnn.")])
    card = json.loads((out / "card.json").read_text())
    assert (card["arguments"]["encoder"], card["arguments"]["arguments"]["widths"]) == ("SmallVGG", list(WIDTHS))
    assert card["preprocess"] == {"size": [14, 14], "resize": [16, 16], "channels": "GRAY", "mean": [127.5], "scale": 1 / 64}
    model: Any = zoo.load(out)
    frame = torch.randint(256, (3, 16, 16), dtype=torch.uint8)
    clip = torch.stack([model.preprocess(frame)] * 3)
    assert clip.shape == (3, 1, 14, 14)
    with torch.inference_mode():
        assert model(clip[None]).shape == (1, 4)
        torch.testing.assert_close(model.embed(clip), zoo.load(images).embed(clip))  # type: ignore[operator]


def test_the_net_sees_frames_as_the_run_saw_its_images(images: Path, tmp_path: Path) -> None:
    """The logits of the run's folder are those of the loaded net on frames that its own preprocess() made."""
    drawn = clips(12, 6, people=4, colour=True)
    data, out = write_npz(tmp_path / "drawn.npz", drawn), tmp_path / "run"
    command = ["--recipe", "clip_gru", "--data", str(data), "--out", str(out), "--encoder", str(images), "--protocol", "last"]
    assert main([*command, *SHORT, "--set", "training.precision=no"]) == 0
    model: Any = zoo.load(out)
    found = read_predictions(out).splits["val"]
    row = int(found.rows[4])
    assert drawn.lengths()[row] == 3  # one window
    clip = torch.stack([model.preprocess(frame) for frame in drawn.clip(row)])
    with torch.inference_mode():
        torch.testing.assert_close(model(clip[None])[0], found.logits[4], atol=1e-4, rtol=1e-4)


def test_smoke_draws_the_same_net_without_the_run_s_weights(images: Path) -> None:
    recipe = replace(with_encoder(RECIPES["clip_gru"], str(images)), init="none")
    net: Any = start(recipe, clips()).model
    assert [tuple(p.shape) for p in net.cnn.parameters()] == [tuple(p.shape) for p in SmallVGG(4, widths=WIDTHS).parameters()][:-2]
    assert not torch.equal(net.cnn.conv1_1.weight, load_file(images / "best.safetensors")["conv1_1.weight"])


def test_a_run_of_clips_is_no_encoder(images: Path, tmp_path: Path) -> None:
    begun = start(with_encoder(RECIPES["clip_gru"], str(images)), clips())
    (tmp_path / "clips").mkdir()
    folder = Run(tmp_path / "clips")
    folder.save_tensors("best.safetensors", begun.model.state_dict())
    spec = {"size": [14, 14], "channels": "GRAY", "mean": [127.5]}
    card = {"architecture": begun.architecture, "arguments": dict(begun.arguments), "classes": list(CLASSES), "preprocess": spec}
    folder.write_card(card)
    with pytest.raises(FinetuneError, match="a run of clips, which has an encoder of its own; continue it with --init"):
        encoder_of(str(tmp_path / "clips"))
