"""Drawn runs side by side: the numbers against numpy, the table read back, every refusal in one line and with status 2."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import drawn_run
import numpy as np
import pytest
import torch

from finetune.ensemble import averaged, check_alike, main
from finetune.errors import FinetuneError
from finetune.runs.metrics import read_predictions

SEEDS = (0, 1, 2)


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    return [str(drawn_run.draw_run(tmp_path / f"seed{seed}", seed=seed)) for seed in SEEDS]


def softmax(logits: torch.Tensor) -> np.ndarray:
    powers = np.exp(logits.double().numpy())
    return powers / powers.sum(1, keepdims=True)


def accuracies(seeds: tuple[int, ...], field: str, split: str = "private", copies: bool = True) -> tuple[list[float], float]:
    """Each seed's accuracy and the ensemble's, in %, by numpy. `field` is logits or logits_ten_crop."""
    drawn = [drawn_run.predictions(seed) for seed in seeds]
    labels, kept = drawn[0][f"{split}/labels"].numpy(), np.ones(len(drawn[0][f"{split}/labels"]), bool)
    if not copies:
        kept = ~drawn[0][f"{split}/copy"].numpy()
    probabilities = [softmax(each[f"{split}/{field}"]) for each in drawn]
    right = [(each.argmax(1) == labels)[kept].mean() * 100 for each in [*probabilities, np.mean(probabilities, 0)]]
    return right[:-1], right[-1]


COLUMNS: list[dict[str, Any]] = [
    {"split": "public", "field": "logits"},
    {"split": "public", "field": "logits_ten_crop"},
    {"split": "private", "field": "logits"},
    {"split": "private", "field": "logits_ten_crop"},
    {"split": "private", "field": "logits", "copies": False},
    {"split": "private", "field": "logits_ten_crop", "copies": False},
]


def test_the_table_holds_each_run_their_mean_spread_and_ensemble(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(runs) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = {re.split(r"\s{2,}", line)[0]: line.split() for line in lines}
    columns = [accuracies(SEEDS, **column) for column in COLUMNS]
    for number, run in enumerate(runs):
        assert cells[run][1:] == [str(SEEDS[number]), *(f"{single[number]:.2f}" for single, _ in columns)]
    assert cells["mean"][1:] == [f"{np.mean(single):.2f}" for single, _ in columns]
    assert cells["sd over runs"][3:] == [f"{np.std(single, ddof=1):.2f}" for single, _ in columns]
    assert cells["ensemble of 3"][3:] == [f"{whole:.2f}" for _, whole in columns]
    assert cells["run"][1:] == ["seed", *["single", "ten-crop"] * 3]
    assert re.split(r"\s{2,}", lines[2].strip()) == ["public", "private", "private without copies"]
    assert len({len(line) for line in lines[3 : 4 + len(runs)]}) == 1  # the columns stand under each other
    assert "over recipes" not in "\n".join(lines) and "Optimistic" not in "\n".join(lines)


def test_the_note_states_the_standard_error_of_the_ensemble(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(runs)
    _, whole = accuracies(SEEDS, "logits")
    error = np.sqrt(whole * (100 - whole) / 150)
    assert f"One standard error at {whole:.2f} % of 150 images of private is {error:.2f} points." in capsys.readouterr().out


def test_json_holds_the_same_numbers_for_programs(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*runs, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    single, whole = accuracies(SEEDS, "logits_ten_crop")
    label = "private, ten-crop"
    assert [100 * each["scores"][label]["accuracy"] for each in found["runs"]] == pytest.approx(single)
    assert 100 * found["mean"][label]["accuracy"] == pytest.approx(np.mean(single))
    assert 100 * found["mean"][label]["standard_deviation"] == pytest.approx(np.std(single, ddof=1))
    assert 100 * found["ensemble"][label]["accuracy"] == pytest.approx(whole)
    assert np.sum(found["ensemble"]["public"]["confusion"]) == 120
    assert [(each["run"], each["seed"]) for each in found["runs"]] == list(zip(runs, SEEDS, strict=True))
    assert (found["split"], found["data_sha256"], found["classes"]) == ("private", drawn_run.SHA256, list(drawn_run.CLASSES))


def test_one_run_has_neither_spread_nor_ensemble(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(runs[:1]) == 0
    text = capsys.readouterr().out
    assert runs[0] in text and "sd over runs" not in text and "ensemble of" not in text
    assert main([runs[0], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["standard_deviation"] for row in found["mean"].values()} == {None}


def test_split_chooses_what_is_reported(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*runs, "--split", "public"]) == 0
    text = capsys.readouterr().out
    assert "private" not in text and "120 images of public" in text


def test_val_stands_beside_the_test_split_that_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = {"test": 30, "val": 20}
    runs = [str(drawn_run.draw_run(tmp_path / str(seed), seed=seed, images=images, on="val")) for seed in SEEDS]
    assert main(runs) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[2].split() == ["val", "test"] and "Pick the members by val; picked by test" in text


def test_where_a_run_lacks_ten_crop_the_others_are_not_averaged_without_it(
    tmp_path: Path, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    single = str(drawn_run.draw_run(tmp_path / "single", seed=3, ten_crop=False))
    assert main([*runs, single]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("mean", "sd over runs", "ensemble of 4"):
        [line] = [line for line in lines if line.startswith(name)]
        assert line.split()[-5::2] == ["-"] * 3
    assert f"No ten-crop predictions for private: {single}." in lines


def test_runs_that_cannot_be_read_as_seeds_of_one_recipe_are_named(
    tmp_path: Path, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(drawn_run.draw_run(tmp_path / "other", seed=3, recipe="resnet18\x1b[31m", protocol="seed", on="private"))
    assert main([*runs, other]) == 0
    text = capsys.readouterr().out
    assert "recipes mobilefacenet, resnet18\\x1b[31m" in text and "\x1b" not in text
    assert "mean and sd are over recipes, not over seeds" in text
    assert f"Optimistic, for their epoch is the best on the split they report (protocol best-on-reported): {other}." in text


def test_the_ensemble_is_the_mean_of_the_probabilities(runs: list[str]) -> None:
    found = averaged([read_predictions(Path(run)) for run in runs]).splits["private"]
    drawn = [drawn_run.predictions(seed) for seed in SEEDS]
    for field in ("logits", "logits_ten_crop"):
        mean = np.mean([softmax(each[f"private/{field}"]) for each in drawn], 0)
        assert getattr(found, field).exp().numpy() == pytest.approx(mean, abs=1e-6)
    assert torch.equal(found.labels, drawn[0]["private/labels"]) and torch.equal(found.copy, drawn[0]["private/copy"])


def permuted(run: Path) -> None:
    tensors = {name: tensor.flip(0).contiguous() for name, tensor in drawn_run.predictions(7).items()}
    drawn_run.write_predictions(run, tensors)


def relabelled(run: Path) -> None:
    tensors = drawn_run.predictions(7)
    tensors["private/labels"][2] = (tensors["private/labels"][2] + 1) % 7
    drawn_run.write_predictions(run, tensors)


def diverged(run: Path) -> None:
    tensors = drawn_run.predictions(7)
    tensors["private/logits"][0] = torch.nan
    drawn_run.write_predictions(run, tensors)


def removed(name: str) -> Any:
    return lambda run: (run / name).unlink()


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"data_sha256": "ab" * 32}, None, r"made on other data: sha256 abababababababab\.\.\., expected 5f5f"),
        ({"images": {"public": 120, "private": 140}}, None, "140 images of private, expected 150"),
        ({}, permuted, "public/rows, image 1: 28828, expected 28709; .* in the same order"),
        ({}, relabelled, "private/labels, image 3: "),
        ({}, diverged, "private: image 1: logits nan"),
        ({"images": {"public": 120}}, None, "no predictions for private; it has public. Choose another --split"),
        ({"finished": False}, None, "predictions.safetensors: no such file; .* finished"),
        ({}, removed("config.json"), "config.json: no such file, so .* is no run folder"),
        ({}, lambda run: (run / "predictions.safetensors").write_bytes(b"\0" * 20), "cut short"),
    ],
)
def test_runs_that_do_not_go_together_are_refused_in_one_line(
    tmp_path: Path, runs: list[str], capsys: pytest.CaptureFixture[str], settings: dict[str, Any], change: Any, message: str
) -> None:
    bad = drawn_run.draw_run(tmp_path / "bad", **{"seed": 7, **settings})
    if change:
        change(bad)
    assert main([*runs, str(bad)]) == 1
    streams = capsys.readouterr()
    assert not streams.out and streams.err.count("\n") == 1
    assert streams.err.startswith(f"error: {bad}") and re.search(message, streams.err)


def test_another_class_order_is_shown_beside_the_expected_one(tmp_path: Path, runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    other = drawn_run.draw_run(tmp_path / "other", seed=7, classes=sorted(drawn_run.CLASSES))
    assert main([*runs, str(other)]) == 1
    error = capsys.readouterr().err
    assert f"{other} (against {runs[0]}): class names differ" in error and "order of EmotiW" in error
    with pytest.raises(FinetuneError, match="class names differ"):
        check_alike(read_predictions(Path(runs[0])), read_predictions(other))


def test_runs_on_clips_are_counted_in_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = drawn_run.draw_run(tmp_path / "run", ten_crop=False)
    config = json.loads((run / "config.json").read_text())
    config["config"]["sampling"] = {"frames": 16}
    (run / "config.json").write_text(json.dumps(config))
    assert main([str(run)]) == 0
    text = capsys.readouterr().out
    assert "150 clips of private" in text and "images" not in text and "Ten-crop" not in text


def test_a_run_given_twice_counts_not_twice(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    again = f"{runs[0]}/../{Path(runs[0]).name}"
    assert main([runs[0], again]) == 1
    assert f"{again}: given twice" in capsys.readouterr().err


def test_the_command_ends_with_status_1_and_without_a_traceback(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "finetune.ensemble", "nowhere"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: nowhere/config.json: no such file, so nowhere is no run folder; a recipe's --out makes one\n"
