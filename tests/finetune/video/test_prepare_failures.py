"""What is wrong with one video, or stops a run, harms no other video."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av", reason="PyAV decodes videos: pip install av")
pytest.importorskip("PIL", reason="Pillow writes images: pip install pillow")

import marked_videos as made
from marked_videos import BLUE, GREEN, RED, WHITE, moving, write
from prepared_trees import contents, rows, run

from finetune.errors import FinetuneError
from finetune.video import workers
from finetune.video.crop import prepare_one
from finetune.video.destination import alone, write_record
from finetune.video.records import Options
from finetune.video.sources import find_videos


def test_a_process_that_dies_or_raises_costs_one_video(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for name, colour in [("1.avi", RED), ("2.avi", WHITE), ("3.avi", RED), ("4.avi", BLUE), ("5.avi", GREEN)]:
        write(src / name, moving(4, colour))
    results = {job.name: outcome for job, outcome in run(src, tmp_path / "dst", detector=made.mortal, processes=1)}
    assert [results[name].status for name in sorted(results)] == ["done", "failed", "done", "failed", "done"]
    assert results["2.avi"].message == "its process was killed by SIGSEGV"
    assert results["4.avi"].message.startswith("ZeroDivisionError: blue (marked_videos.py:")
    assert sorted({name.split("/")[0] for name in contents(tmp_path / "dst")}) == ["1", "3", "5"]
    assert not (tmp_path / "dst" / ".prepared" / "unfinished").exists()


def test_what_a_process_had_written_before_it_died_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(jobs: Any, setup: Any, count: int, ticked: workers.Tick) -> Iterator[tuple[Any, Any]]:
        for job, folder in jobs:
            folder.mkdir()
            (folder / "images0001.jpg").write_bytes(b"half of")
            yield (job, folder), workers.Failed("its process was killed by SIGKILL (out of memory?)")

    write(tmp_path / "src" / "a.avi", moving(3))
    monkeypatch.setattr(workers, "run", dying)
    [(_, outcome)] = run(tmp_path / "src", tmp_path / "dst", processes=1)
    assert (outcome.status, outcome.message) == ("failed", "its process was killed by SIGKILL (out of memory?)")
    assert sorted(path.name for path in (tmp_path / "dst").iterdir()) == [".prepared", "report.csv"]
    assert sorted(path.name for path in (tmp_path / "dst" / ".prepared").iterdir()) == ["lock"]


def test_a_process_without_a_sign_of_life_is_ended() -> None:
    ticks: list[int] = []
    results = dict(workers.run([0.1, 60.0, 0.2], made.sleeper, 1, ticks.append, silence=1.5))
    assert results.pop(60.0) == workers.Failed("its process gave no sign of life for 1.5 s and was ended")
    assert results == {0.1: 0.1, 0.2: 0.2}
    assert ticks == [1] * 6


def test_a_detector_that_cannot_be_made_ends_the_run(tmp_path: Path) -> None:
    write(tmp_path / "src" / "a.avi", moving(3))
    with pytest.raises(FinetuneError, match="no such device: tpu"):
        run(tmp_path / "src", tmp_path / "dst", detector=made.fatal, device="tpu", processes=1)
    assert rows(tmp_path / "dst")[0]["status"] == "not reached"


def test_a_full_disk_is_no_fault_of_the_video(tmp_path: Path) -> None:
    [job] = find_videos(write(tmp_path / "a.avi", moving(4)), tmp_path / "dst")
    with pytest.raises(workers.Fatal, match="cannot be written"):
        prepare_one(job, Options(), tmp_path / "nowhere" / "1", made.find, lambda amount: None)


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    write(tmp_path / "src" / "a.avi", moving(3))
    with alone(tmp_path / "dst"), pytest.raises(FinetuneError, match="another run is writing"):
        run(tmp_path / "src", tmp_path / "dst")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_whole_folders_and_the_next_one_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    for name in ("1", "2", "3"):
        write(src / f"{name}.avi", moving(6 if name == "1" else 16, side=30))
    command = [sys.executable, made.__file__, str(src), str(dst), "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    # A group of its own, so that Ctrl-C reaches the workers too, as a terminal's does.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background job does not hear Ctrl-C
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heard)
    deadline = time.monotonic() + 600
    while not (dst / "1").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # into the second video
    if how == signal.SIGINT:
        os.killpg(running.pid, how)
    else:
        running.send_signal(how)
    _, errors = running.communicate(timeout=600)
    assert sorted(path.name for path in dst.iterdir() if path.is_dir()) == [".prepared", "1"]
    assert len(list((dst / "1").iterdir())) == 6
    assert "Traceback" not in errors
    if how != signal.SIGKILL:
        assert running.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[how]
        assert errors.count("\n") == 1
        assert "the same command goes on" in errors
        assert [row["status"] for row in rows(dst)] == ["done", "not reached", "not reached"]
        assert sorted(path.name for path in (dst / ".prepared").iterdir()) == ["1.json", "lock"]
    results = run(src, dst, detector=made.slow, processes=2)
    assert [(outcome.faces, outcome.earlier) for _, outcome in results] == [(6, True), (16, False), (16, False)]


def test_a_run_that_ended_between_a_folder_and_its_record_is_made_again(tmp_path: Path, decoded: dict[str, None]) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    write(src / "a.avi", moving(4))
    run(src, dst)
    [job] = find_videos(src, dst)
    with alone(dst):
        write_record(dst, job)
    decoded.clear()
    run(src, dst)
    assert [*decoded] == ["a.avi"]
    assert len(contents(dst)) == 4
