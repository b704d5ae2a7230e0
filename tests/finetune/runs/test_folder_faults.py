"""What happens to a run folder when the disk is full, a bit flips, or a process dies in the middle of anything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from drawn_faces import expressions, write_npz
from limits import file_size_limit

from finetune.errors import FinetuneError
from finetune.fer2013 import main
from finetune.runs.folder import FILES, Run
from finetune.runs.lock import alone
from finetune.train.loop import Trainer
from zoo.disk import write_json

SMALL = ["--smoke", "--cpu", "--set", "arguments.width=8", "--set", "input.size=[16,16]", "--set", "training.batch_size=20"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {"recipe": "test"})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("data") / "drawn.npz", expressions(40, 20))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert train(data, out) == 0
    return out


def train(data: Path, out: Path, *more: str) -> int:
    return main(["--recipe", "scratch", "--data", str(data), "--out", str(out), "--epochs", "2", *SMALL, *more])


def figures(out: Path) -> dict[str, object]:
    return {name: value for name, value in json.loads((out / "result.json").read_bytes()).items() if name in ("scores", "selected")}


def epochs(out: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines()]


# --- the state ------------------------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_of_a_state_is_noticed(run: Run) -> None:
    run.save_state({"model": {"w": torch.arange(64.0)}, "progress": {"epoch": 1}})
    path = run / "state.pt"
    whole = path.read_bytes()
    loaded = run.load_state()
    assert loaded is not None and torch.equal(loaded["model"]["w"], torch.arange(64.0))
    for place in range(0, len(whole), 31):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            state = run.load_state()
        except FinetuneError as error:
            assert "state.pt" in str(error) and "--overwrite" in str(error)
        else:  # the words before the hash: the state itself is whole
            assert place >= len(whole) - 72 and state is not None and torch.equal(state["model"]["w"], loaded["model"]["w"])


@pytest.mark.parametrize("length", [0, 1, 300, -70, -1])
def test_a_state_cut_short_is_refused(length: int, run: Run) -> None:
    run.save_state({"model": {"w": torch.arange(64.0)}})
    (run / "state.pt").write_bytes((run / "state.pt").read_bytes()[:length])
    if length == -70:  # only the hash is gone, as in a state of an older release
        assert run.load_state() is not None
        return
    with pytest.raises(FinetuneError, match="start anew with --overwrite"):
        run.load_state()


def test_a_state_of_another_net_is_refused_in_a_sentence(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = begun(data, tmp_path / "run")
    Run(out).save_state({"model": {"other": torch.zeros(2)}, "progress": {"epoch": 1}})
    assert train(data, out, "--resume") == 1
    assert "the saved state is not of this net and recipe" in capsys.readouterr().err


# --- metrics.jsonl --------------------------------------------------------------------------------------------------------------------

LINES = ['{"epoch": 1}\n', '{"epoch": 2}\n', '{"epoch": 3}\n']


@pytest.mark.parametrize(
    ("content", "count", "kept"),
    [
        ("".join(LINES) + '{"epo', 3, LINES),
        ("".join(LINES), 2, LINES[:2]),
        (LINES[0] + '{"epoch": 2', 1, LINES[:1]),
        ("".join(LINES), 0, []),
        ("".join([*LINES[:2], LINES[1], LINES[2]]), 3, LINES),
    ],
)
def test_lines_of_epochs_that_will_come_again_are_dropped(content: str, count: int, kept: list[str], run: Run) -> None:
    (run / "metrics.jsonl").write_text(content)
    run.keep_lines(count)
    assert (run / "metrics.jsonl").read_text() == "".join(kept)


@pytest.mark.parametrize("content", ["", LINES[0], LINES[0] + '{"epoch": 2', LINES[1], "[1]\nnull\n"])
def test_a_missing_epoch_is_named(content: str, run: Run) -> None:
    (run / "metrics.jsonl").write_text(content)
    with pytest.raises(FinetuneError, match=r"metrics.jsonl: no line of epoch \d.*--overwrite"):
        run.keep_lines(2)


@pytest.mark.parametrize("content", ["", LINES[0], LINES[0] + '{"epoch": 2', "\0" * 40])
def test_lines_that_the_disk_has_lost_come_from_the_state(content: str, run: Run) -> None:
    for number in (1, 2):
        run.log({"epoch": number})
    run.save_state({})
    (run / "metrics.jsonl").write_text(content)
    state = run.load_state()
    assert state is not None
    run.keep_lines(2, state["lines"])
    assert (run / "metrics.jsonl").read_text() == "".join(LINES[:2])


def test_a_state_that_was_removed_is_missed(data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "result.json").unlink()
    assert train(data, out, "--resume") == 0
    assert "state.pt is gone, though 2 epochs are over: they are trained again" in capsys.readouterr().out
    assert epochs(out) == [1, 2] and figures(out) == figures(finished)


@pytest.mark.parametrize("damage", ["removed", "cut short", "another net's"])
def test_weights_that_are_gone_are_missed_before_anything_is_trained(
    damage: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AT["the predictions"], killed)
        with pytest.raises(Killed):
            train(data, out)
    best = out / "best.safetensors"
    if damage == "another net's":
        Run(out).save_tensors(best.name, {"w": torch.zeros(2)})
    else:
        best.write_bytes(best.read_bytes()[:200])
        best.unlink() if damage == "removed" else None
    monkeypatch.setattr(Trainer, "epoch", killed)
    assert train(data, out, "--resume") == 1
    assert "best.safetensors: " in (error := capsys.readouterr().err) and "--overwrite" in error


@pytest.mark.parametrize("name", ["state.pt", "result.json"])
def test_a_run_without_its_settings_is_not_begun_anew(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"kept")
    with pytest.raises(FinetuneError, match=r"holds a run without its config\.json; copy that back and --resume"):
        Run.create(tmp_path, {"recipe": "test"})
    assert (tmp_path / name).read_bytes() == b"kept"
    Run.create(tmp_path, {"recipe": "test"}, overwrite=True)


# --- killed -----------------------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def begun(data: Path, out: Path) -> Path:
    """A run that was killed when its first epoch was over, before its state was saved."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "save", killed)
        with pytest.raises(Killed):
            train(data, out)
    return out


def killed(*arguments: object, **options: object) -> None:
    raise Killed


AT = {  # what is never reached
    "the state": "finetune.train.loop.Trainer.save", "the result": "finetune.runs.folder.Run.finish",
    "the first line": "finetune.runs.folder.Run.log", "the predictions": "finetune.train.job.read_predictions",
    "the card": "finetune.runs.folder.Run.write_card", "removing the state": "finetune.runs.folder.Run.remove_state",
}  # fmt: skip
POINTS = [pytest.param(point, marks=[pytest.mark.slow] if number > 1 else []) for number, point in enumerate(AT)]


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_at_any_point_goes_on_as_if_it_had_not_been(point: str, data: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AT[point], killed)
        with pytest.raises(Killed):
            train(data, out)
    (out / ".best.safetensors.4711-0badcafe.tmp").write_bytes(b"half")
    if not (out / "result.json").exists():
        with (out / "metrics.jsonl").open("a") as stream:
            stream.write('{"epoch": ')
    assert train(data, out, "--resume") == 0
    assert epochs(out) == [1, 2] and figures(out) == figures(finished)
    assert {path.name for path in out.iterdir()} == {path.name for path in finished.iterdir()}


def test_a_report_that_is_missing_is_written(data: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "report.html").unlink()
    (out / "state.pt").write_bytes(b"left over")
    assert train(data, out, "--resume") == 0
    assert (out / "report.html").read_bytes()[:9] and not (out / "state.pt").exists()


def test_a_folder_that_was_never_begun_is_taken(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in ("environment.json", ".config.json.12-01234567.tmp", ".tmpFLA1PC"):
        (out / name).write_text("{}")
    Run.create(out, {"recipe": "test"})
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "environment.json"]
    (out / "mine.txt").write_text("kept")
    (out / "config.json").unlink()
    with pytest.raises(FinetuneError, match="not empty and holds no run"):
        Run.create(out, {"recipe": "test"}, overwrite=True)


def test_a_second_process_in_the_folder_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    with alone(out):
        for more in ((), ("--resume",), ("--overwrite",)):
            assert train(data, out, *more) == 1
            assert "run: another process is at work in this folder; wait for it" in capsys.readouterr().err
        assert not list(out.iterdir())
    assert not out.exists()
    assert train(data, out) == 0
    assert {path.name for path in out.iterdir()} <= {*FILES, "tensorboard"}
    with alone(out):
        assert train(data, out, "--resume") == 1


def test_a_lock_ends_with_its_process_and_is_no_file(tmp_path: Path) -> None:
    code = "import os, pathlib, sys\nfrom finetune.runs.lock import alone\nwith alone(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert not list((tmp_path / "run").iterdir())
    with alone(tmp_path / "run"), pytest.raises(FinetuneError, match="another process"), alone(tmp_path / "run"):
        pass


# --- the disk ---------------------------------------------------------------------------------------------------------------------------


SMALL_FILES = 20_000  # bytes
BIG = {"w": torch.zeros(50_000)}
WRITERS: dict[str, Callable[[Run], None]] = {
    "best.safetensors": lambda run: run.save_tensors("best.safetensors", BIG),
    "state.pt": lambda run: run.save_state(BIG),
    "net.prototxt": lambda run: run.save_text("net.prototxt", "x" * 50_000),
    "result.json": lambda run: write_json(run / "result.json", {"x": "x" * 50_000}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_an_os_error_and_leaves_nothing_half(name: str, run: Run) -> None:
    (run / name).write_text("the older one")
    with pytest.raises(OSError, match=f"File too large|No space left on device.*{name}"), file_size_limit(SMALL_FILES):
        WRITERS[name](run)
    assert (run / name).read_text() == "the older one" and not list(run.path.glob(".*"))


def test_a_full_disk_ends_a_run_in_a_sentence_and_resume_goes_on(
    data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with file_size_limit(SMALL_FILES):
        assert train(data, out) == 1
    error = capsys.readouterr().err
    assert "the disk is full" in error and "--resume" in error and "Traceback" not in error
    assert train(data, out, "--resume") == 0
    assert epochs(out) == [1, 2] and figures(out) == figures(finished)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_mode_that_the_umask_gives(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        run = Run.create(tmp_path / "run", {"recipe": "test"})
        run.save_state({})
        run.save_tensors("best.safetensors", BIG)
        run.write_card({})
        run.log({"epoch": 1})
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in run.path.iterdir()}
    assert modes == dict.fromkeys(modes, 0o666 & ~umask) and set(modes) < set(FILES) and len(modes) == 6
    assert run.path.stat().st_mode & 0o777 == 0o777 & ~umask
