"""benchmarks/fer2013_runs.py: tiny runs for its loop, drawn run folders of FER2013's size for its tables."""

from __future__ import annotations

import json
import shlex
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import drawn_run
import numpy as np
import pytest
import torch
from drawn_faces import expressions, write_npz

from benchmarks import fer2013_plan as plan
from benchmarks import fer2013_runs
from benchmarks import fer2013_tables as tables
from finetune.config import as_json

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "fer2013_runs.py"
PRIVATE, COPIES = 3589, 314


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CAFFEZOO_OFFLINE", "1")


def draw(out: Path, name: str, seed: int = 0, started: str = "2025-01-31T10:00:00+0000") -> dict[str, Any]:
    """A finished run of the line `name` on all of FER2013, with drawn logits; returns its result.json."""
    images = {"public": PRIVATE, "private": PRIVATE}
    folder = drawn_run.draw_run(out / name, seed=seed, finished=False)
    tensors = drawn_run.predictions(seed, images)
    tensors["private/copy"] = torch.arange(PRIVATE) < COPIES
    drawn_run.write_predictions(folder, tensors)
    result = drawn_run.result(tensors, drawn_run.CLASSES, "public", "honest", 36, "ema") | {"report": "private"}
    (folder / "result.json").write_text(json.dumps(result))
    [run] = [run for run in plan.RUNS if run.name == name]
    config = json.loads((folder / "config.json").read_bytes()) | {
        "command": f"python -m finetune.fer2013 {run.words} --data /some/where/fer2013.csv --out /some/where/{name} --resume",
        "config": as_json(plan.recipe_of(shlex.split(run.words))),
        "started": started,
    }
    config["data"]["counts"] = {"train": 28709, **images}
    (folder / "config.json").write_text(json.dumps(config))
    return result


def cells(text: str, heading: str, first: str) -> list[str]:
    """The cells of the row that begins with `first`, in the first table after `heading`."""
    rows = [line.strip("| ").split(" | ") for line in text[text.index(heading) :].splitlines() if line.startswith("| ")]
    return next(row for row in rows if row[0] == first)[1:]


def figure(scores: dict[str, Any]) -> str:
    return f"{100 * scores['accuracy']:.2f} ± {100 * scores['standard_error']:.2f}"


def test_every_line_is_a_recipe_and_no_ensemble_has_members_that_were_picked_on_private() -> None:
    runs = {run.name: run for run in plan.RUNS}
    assert len(runs) == len(plan.RUNS) == len({run.about for run in plan.RUNS})
    recipes = {name: plan.recipe_of(shlex.split(run.words)) for name, run in runs.items()}
    configs = [json.dumps(as_json(recipe)) for recipe in recipes.values()]
    assert len(set(configs)) == len(configs)
    for name, members in plan.ENSEMBLES.items():
        assert 2 <= len(set(members)) == len(members) <= 8
        assert {recipes[member].protocol for member in members} == {"honest"}, name
    for members in plan.SEEDS.values():
        assert [recipes[member].training.seed for member in members] == list(range(len(members)))
    assert all(("--cpu" in run.words) == run.cpu for run in runs.values())


@pytest.mark.slow
def test_a_smoke_run_is_made_once_and_fills_no_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_npz(tmp_path / "drawn.npz", expressions(60, 20)), tmp_path / "runs"
    asked = ["--data", str(data), "--out", str(out), "--smoke", "--only", "scratch-0"]
    assert fer2013_runs.main(asked) == 0
    assert "scratch-0 " in (printed := capsys.readouterr().out) and "private, ten-crop" in printed and "finished before" not in printed
    before = (out / "smoke/scratch-0/result.json").stat().st_mtime_ns
    assert fer2013_runs.main(asked) == 0
    assert "finished before" in capsys.readouterr().out
    assert (out / "smoke/scratch-0/result.json").stat().st_mtime_ns == before
    (out / "smoke/scratch-0").rename(out / "scratch-0")
    results, record = tmp_path / "RESULTS.md", tmp_path / "record.json"
    assert fer2013_runs.main(["--out", str(out), "--write", str(results), "--results", str(record)]) == 0
    assert "fills no cell: scratch-0: not all of FER2013: train 60" in capsys.readouterr().out
    text = results.read_text()
    assert json.loads(record.read_bytes())["runs"] == {} and "not run |" not in text
    [planned] = [line for line in text.splitlines() if line.startswith("Planned and not run yet")]
    [waiting] = [line for line in text.splitlines() if line.startswith("Ensembles that wait for members: ")]
    for run in plan.RUNS:
        assert f" {run.name}" in planned and f"| {run.about} |" not in text
    assert all(name in waiting for name in plan.ENSEMBLES)
    for heading in ("Several seeds", "Ensembles", "Recall", "Curves"):
        assert f"### {heading}" not in text
    with pytest.raises(SystemExit):
        fer2013_runs.main([*asked, "--write", str(results)])


@pytest.mark.slow
def test_a_run_whose_weights_are_missing_is_named_with_the_reason_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_npz(tmp_path / "drawn.npz", expressions(60, 20))
    assert fer2013_runs.main(["--data", str(data), "--out", str(tmp_path / "runs"), "--only", "mobilefacenet-0", "vgg-face"]) == 1
    first, second, *_, total = capsys.readouterr().out.splitlines()
    for line, name, model in ((first, "mobilefacenet-0", "mobilefacenet.caffemodel"), (second, "vgg-face", "vgg_face")):
        assert line.startswith(f"{name} ") and "not run: " in line and model in line and "(status 1, " in line
        assert not (tmp_path / "runs" / name).exists() and (tmp_path / "runs" / f"{name}.log").stat().st_size
    assert total.startswith("total: 0 s")


def test_a_signal_reaches_the_run_under_way_and_no_other_is_begun(tmp_path: Path) -> None:
    """The run is a stand-in: it takes SIGTERM as the recipes do, by saving and status 143."""
    stub = tmp_path / "stub.py"
    stub.write_text(
        "import pathlib, signal, sys, time\n"
        "here = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "def save(*_):\n    here.with_suffix('.saved').touch()\n    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\nhere.with_suffix('.begun').touch()\ntime.sleep(60)\n"
    )
    (tmp_path / "data.csv").touch()
    words = ["--data", "data.csv", "--out", "runs", "--only", "scratch-0", "scratch-1", "--launch", shlex.join([sys.executable, str(stub)])]
    for number in (signal.SIGTERM, signal.SIGINT):
        child = subprocess.Popen([sys.executable, str(SCRIPT), *words], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        until = time.monotonic() + 600
        while not (tmp_path / "runs/scratch-0.begun").exists() and time.monotonic() < until:
            time.sleep(0.05)
        child.send_signal(number)
        printed, _ = child.communicate(timeout=600)
        assert child.returncode == 143 and "stopped; the same command continues it" in printed
        (tmp_path / "runs/scratch-0.begun").unlink()
        (tmp_path / "runs/scratch-0.saved").unlink()
    assert not (tmp_path / "runs/scratch-1.begun").exists()


def test_the_cells_are_the_runs_own_figures(tmp_path: Path) -> None:
    out, results, record = tmp_path / "runs", tmp_path / "RESULTS.md", tmp_path / "record.json"
    found = [draw(out, f"scratch-{seed}", seed) for seed in (0, 1, 2)]
    assert fer2013_runs.main(["--out", str(out), "--write", str(results), "--results", str(record)]) == 0
    text = results.read_text()
    labels = ("public", "private", "private, ten-crop", "private without copies", "private without copies, ten-crop")
    for seed, result in enumerate(found):
        about = f"ResNet-18 from nothing, seed {seed}"
        assert result["scores"]["private without copies"]["images"] == PRIVATE - COPIES == 3275
        wanted = [figure(result["scores"][label]) if label in result["scores"] else "–" for label in labels]
        assert cells(text, "## FER2013", about)[:6] == ["honest", *wanted]
        recall = result["scores"]["private"]["recall"]
        assert cells(text, "### Recall", about)[:7] == [f"{100 * recall[name]:.1f}" for name in drawn_run.CLASSES]
        assert cells(text, "### Recall", about)[8] == f"{result['scores']['private']['calibration_error']:.3f}"
        lines = drawn_run.metrics_lines()
        for line in (lines[0], lines[-1]):
            told = f"{line['epoch']}: {100 * line['accuracy']:.1f} / {100 * line['ema_select_accuracy']:.1f}"
            assert told in cells(text, "### Curves", about)[0]
        assert cells(text, "### What it took", about) == ["NVIDIA H100", "2 min 31 s", "9,003", "5.0 GiB", "2.6.0", "unknown"]
    values = [100 * result["scores"]["private, ten-crop"]["accuracy"] for result in found]
    spread = cells(text, "### Several seeds", "ResNet-18 from nothing")
    assert spread[0] == "3" and spread[3] == f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
    drawn = [drawn_run.predictions(seed, {"public": PRIVATE, "private": PRIVATE}) for seed in (0, 1, 2)]
    mean = np.mean([each["private/logits"].double().softmax(1).numpy() for each in drawn], 0)
    share = 100 * (mean.argmax(1) == drawn[0]["private/labels"].numpy()).mean()
    assert cells(text, "### Ensembles", "3 × ResNet-18")[2].startswith(f"{share:.2f} ± ")
    with pytest.raises(StopIteration):
        cells(text, "### Ensembles", "5 × VGG (decay, three seeds, wide), 2 × MobileFaceNet")
    assert "/some/where" not in text + record.read_text()
    assert "`python -m finetune.fer2013 --recipe scratch --seed 1 --data fer2013.csv --out runs/scratch-1`" in text


def test_a_run_that_was_made_by_hand_is_taken_in_by_its_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, results, record = tmp_path / "by hand", tmp_path / "RESULTS.md", tmp_path / "record.json"
    result = draw(tmp_path, "small-vgg-1")
    (tmp_path / "small-vgg-1").rename(folder)
    environment = json.loads((folder / "environment.json").read_bytes()) | {"commit": "cb5cb055e3a1", "device": "cpu (2 threads)"}
    (folder / "environment.json").write_text(json.dumps(environment))
    asked = ["--record", str(folder), "--write", str(results), "--results", str(record)]
    assert fer2013_runs.main(asked) == 0
    text = results.read_text()
    assert cells(text, "## FER2013", "small VGG, seed 1, CPU")[2] == figure(result["scores"]["private"])
    assert cells(text, "### What it took", "small VGG, seed 1, CPU")[0::5] == ["cpu (2 threads)", "cb5cb055e3a1"]
    assert "--seed 1 --data fer2013.csv --out runs/small-vgg-1`" in text and "/some/where" not in text
    config = json.loads((folder / "config.json").read_bytes())
    config["config"]["training"]["lr"] = 0.5
    (folder / "config.json").write_text(json.dumps(config))
    assert fer2013_runs.main(asked) == 1
    assert "no line of the tables has its settings; the nearest, small-vgg-1: other settings" in capsys.readouterr().err


def test_rows_of_other_machines_stay_and_an_ensemble_falls_with_a_member_that_was_run_anew(tmp_path: Path) -> None:
    results, record = tmp_path / "RESULTS.md", tmp_path / "record.json"

    def write(out: Path) -> str:
        assert fer2013_runs.main(["--out", str(out), "--write", str(results), "--results", str(record)]) == 0
        return results.read_text()

    first = [draw(tmp_path / "first", f"scratch-{seed}", seed) for seed in (0, 1, 2)]
    assert cells(write(tmp_path / "first"), "### Ensembles", "3 × ResNet-18")[0] == "3"
    again = draw(tmp_path / "second", "scratch-1", seed=7, started="2025-02-01T10:00:00+0000")
    text = write(tmp_path / "second")
    assert cells(text, "## FER2013", "ResNet-18 from nothing, seed 0")[2] == figure(first[0]["scores"]["private"])
    assert cells(text, "## FER2013", "ResNet-18 from nothing, seed 1")[2] == figure(again["scores"]["private"])
    assert "### Ensembles" not in text
    assert text == write(tmp_path / "nothing here")


def test_a_run_with_other_settings_or_another_device_fills_no_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "runs"
    for name in ("scratch-0", "scratch-1", "mobilefacenet-frozen-cpu", "face-resnet"):
        draw(out, name)
    changed = json.loads((out / "scratch-0/config.json").read_bytes())
    changed["config"]["training"]["lr"] = 0.2
    (out / "scratch-0/config.json").write_text(json.dumps(changed))
    environment = json.loads((out / "mobilefacenet-frozen-cpu/config.json").read_bytes())
    environment["command"] = environment["command"].replace("--cpu ", "")  # drawn_run's device is a GPU
    (out / "mobilefacenet-frozen-cpu/config.json").write_text(json.dumps(environment))
    (out / "face-resnet/result.json").unlink()
    older = json.loads((out / "scratch-1/config.json").read_bytes())
    for field in ("clip_norm", "center_rate"):  # as if the run were older than these two; both are at their defaults here
        del older["config"]["training"][field]
    del older["config"]["augment"]["hue"]
    (out / "scratch-1/config.json").write_text(json.dumps(older))
    assert fer2013_runs.main(["--out", str(out), "--write", str(tmp_path / "R.md"), "--results", str(tmp_path / "record.json")]) == 0
    printed = capsys.readouterr().out
    assert "scratch-0: other settings than this line's: training.lr is 0.2, not 0.1" in printed
    assert "mobilefacenet-frozen-cpu: a CPU's line, but it ran on NVIDIA H100" in printed
    assert "face-resnet: not finished" in printed
    assert set(json.loads((tmp_path / "record.json").read_bytes())["runs"]) == {"scratch-1"}


def test_other_sections_are_left_alone_and_broken_markers_are_refused(tmp_path: Path) -> None:
    whole = tables.inserted("# Results\n\n## CK+48\n\ntext\n", "one")
    assert whole.startswith("# Results\n\n## CK+48\n\ntext\n\n<!-- fer2013:begin -->\none\n<!-- fer2013:end -->")
    after = whole + "\n## Later\n"
    assert tables.inserted(after, "two") == after.replace("\none\n", "\ntwo\n")
    for broken in ("<!-- fer2013:begin -->", "<!-- fer2013:end --> <!-- fer2013:begin -->", whole + whole):
        with pytest.raises(ValueError, match="once each"):
            tables.inserted(broken, "three")
    broken_file = tmp_path / "R.md"
    broken_file.write_text("<!-- fer2013:end -->")
    assert fer2013_runs.main(["--write", str(broken_file), "--results", str(tmp_path / "record.json")]) == 1
    assert broken_file.read_text() == "<!-- fer2013:end -->"
