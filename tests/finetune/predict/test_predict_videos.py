"""The command on drawn videos and a drawn camera: times, numbers of faces, annotated copies, and memory that doesn't grow."""

from __future__ import annotations

import csv
import gc
import itertools
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from coloured_run import COLOURS, SQUARES, write_run
from marked_videos import picture, write
from PIL import Image

from finetune.predict import camera, detect
from finetune.predict.__main__ import main
from finetune.predict.model import load_model
from finetune.predict.movie import FALLBACK, Movie, encoder
from finetune.predict.pipeline import MOST_PIXELS, answers
from finetune.predict.sources import End, Look, Source, looks

RED, GREEN, BLUE = COLOURS


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(detect, "detector", lambda wanted, device, **options: SQUARES)
    return str(write_run(tmp_path / "run"))


def passing(count: int = 20) -> list[np.ndarray]:
    """Red goes from left to right below green, which goes from right to left; frames 8 and 9 show nobody."""
    return [
        picture() if i in (8, 9) else picture((5 + 3 * i, 50, 40, RED), (80 - 3 * i, 2, 44, GREEN)) for i in range(count)
    ]  # fmt: skip


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_frame_has_a_row_its_real_time_and_faces_that_keep_their_numbers(run: str, tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", passing())
    assert main([run, str(tmp_path / "a.mp4"), "-o", str(tmp_path / "rows.csv")]) == 0
    rows = rows_of(tmp_path / "rows.csv")
    assert [(int(row["frame"]), float(row["time_s"])) for row in rows if row["face"] != "2"] == [
        (i, pytest.approx(i / 25)) for i in range(20)
    ]
    assert {row["media"] for row in rows} == {"video"}
    assert [row["frame"] for row in rows if row["status"] == "no_face"] == ["8", "9"]
    assert {(row["track_id"], row["label"]) for row in rows if row["status"] == "ok"} == {("1", "happy"), ("2", "angry")}


def test_every_third_frame_keeps_its_own_time(run: str, tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", passing())
    main([run, str(tmp_path / "a.mp4"), "--every", "3", "-o", str(tmp_path / "rows.csv")])
    times = {row["frame"]: float(row["time_s"]) for row in rows_of(tmp_path / "rows.csv")}
    assert times == {str(i): pytest.approx(i / 25) for i in range(0, 20, 3)}


def test_smoothed_answers_follow_a_change_late(run: str, tmp_path: Path) -> None:
    frames = [picture((40, 20, 50, RED if i < 10 else BLUE)) for i in range(20)]
    write(tmp_path / "a.mp4", frames)
    for smooth in ("0", "0.4"):
        main([run, str(tmp_path / "a.mp4"), "--smooth", smooth, "-o", str(tmp_path / f"{smooth}.csv")])
    raw, smooth = ([float(row["prob_angry"]) for row in rows_of(tmp_path / f"{name}.csv")] for name in ("0", "0.4"))  # type: ignore[assignment]
    assert raw[9] > 0.99 and raw[10] < 0.01
    after = np.array(smooth[10:], float)
    assert np.allclose(after, float(smooth[9]) * np.exp(-(np.arange(10) + 1) / 25 / 0.4), atol=0.01)  # type: ignore[arg-type]


def test_the_annotated_video_has_the_frames_at_their_times_and_is_h264(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in" / "a.mp4", passing())
    main([run, str(tmp_path / "in"), "--every", "2", "--annotate", str(tmp_path / "out")])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mp4", "a.timeline.png"]
    with av.open(str(tmp_path / "out" / "a.mp4")) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name == ("h264" if encoder(av) != FALLBACK else "mpeg4")
        frames = list(film.decode(stream))
    assert [float(frame.time) for frame in frames] == pytest.approx([i / 25 for i in range(0, 20, 2)], abs=2e-3)
    first = frames[0].to_ndarray(format="rgb24").astype(int)
    assert first.shape[1] == 128 and first.shape[0] > 96  # the strip is below the frame
    assert np.abs(first[75, 25] - RED).max() < 40
    with Image.open(tmp_path / "out" / "a.timeline.png") as timeline:
        shown = {tuple(colour) for colour in np.asarray(timeline)[::3, ::3].reshape(-1, 3).tolist()}  # the colours of both faces' labels
    assert {(230, 159, 0), (213, 94, 0)} <= shown
    assert "face" in capsys.readouterr().out


def test_a_video_cut_short_gives_what_it_has_and_one_of_rubbish_a_row(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = write(tmp_path / "in" / "a.avi", [picture((5 + i, 20, 40, RED)) for i in range(50)])
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "in" / "b.mp4").write_bytes(b"rubbish" * 100)
    assert main([run, str(tmp_path / "in"), "-o", str(tmp_path / "rows.csv")]) == 1
    rows = rows_of(tmp_path / "rows.csv")
    assert 5 < len([row for row in rows if row["source"].endswith("a.avi") and row["status"] == "ok"]) < 50
    assert [row["status"] for row in rows if row["source"].endswith("b.mp4")] == ["unreadable"]
    printed, noted = capsys.readouterr()
    assert "2 files: 1 with faces, 1 unreadable" in printed and "cut short" in noted


def test_a_cut_gives_the_next_person_another_number(run: str, tmp_path: Path) -> None:
    frames = [picture((40, 20, 50, RED), shade=20 if i < 10 else 220) for i in range(20)]
    write(tmp_path / "a.mp4", frames)
    main([run, str(tmp_path / "a.mp4"), "-o", str(tmp_path / "rows.csv")])
    assert [row["track_id"] for row in rows_of(tmp_path / "rows.csv")] == ["1"] * 10 + ["2"] * 10


def test_pyav_without_an_encoder_for_h264_says_so(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("finetune.predict.movie.ENCODERS", ("no_such_encoder",))
    write(tmp_path / "a.mp4", passing())
    assert main([run, str(tmp_path / "a.mp4"), "--annotate", str(tmp_path / "out")]) == 0
    assert "no H.264 encoder" in capsys.readouterr().err
    with av.open(str(tmp_path / "out" / "a.mp4")) as film:
        assert film.streams.video[0].codec_context.name == "mpeg4"


def test_frames_of_the_same_time_are_still_written(tmp_path: Path) -> None:
    movie = Movie(tmp_path / "a.mp4")
    for time in (0.0, 0.0, 0.5):
        movie.add(np.zeros((33, 51, 3), np.uint8), time)  # odd sizes, too
    movie.close()
    with av.open(str(tmp_path / "a.mp4")) as film:
        assert [float(frame.time) for frame in film.decode(video=0)] == pytest.approx([0, 0.001, 0.5])


@pytest.mark.parametrize("keep", [False, True])
def test_what_is_held_does_not_grow_with_the_video(keep: bool, run: str, tmp_path: Path) -> None:
    """Counts the frames that are alive while ten thousand go through."""
    model = load_model(run, "cpu")
    source = Source(tmp_path / "a.mp4", "video", "a")
    alive: set[int] = set()
    most = 0

    def frames() -> Iterator[Look | End]:
        nonlocal most
        for number in range(3000):
            image = picture((10, 20, 30, RED), size=(48, 64))
            alive.add(number)
            weakref.finalize(image, alive.discard, number)
            most = max(most, len(alive))
            yield Look(source, number, number / 25, image)
        yield End(source)

    items = answers(frames(), model, SQUARES, batch=16, smooth=0.0, keep_images=keep)
    assert sum(1 for _ in items) == 3001
    gc.collect()
    assert most <= (35 if keep else 3)


def test_large_pictures_wait_for_few_others(run: str, tmp_path: Path) -> None:
    """A batch of large photographs is not held at once."""
    model = load_model(run, "cpu")
    side = 2400
    source = Source(tmp_path / "a.png", "image", "a")
    image = np.zeros((side, side, 3), np.uint8)
    made = itertools.count()
    items = (Look(source, next(made), None, image) for _ in range(12))
    first = answers(items, model, detect.Detector("none", lambda image: [], False), batch=32, smooth=0.0, keep_images=True)
    next(first)
    assert next(made) <= MOST_PIXELS // side**2 + 1


class DrawnCamera:
    """As cv2.VideoCapture: BGR frames, then none."""

    def __init__(self, frames: int) -> None:
        self.left, self.released = frames, False

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        if self.left < 0:
            return False, None
        return True, np.ascontiguousarray(picture((40, 20, 50, RED))[:, :, ::-1])

    def release(self) -> None:
        self.released = True


def test_a_camera_is_read_until_it_ends_and_let_go(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = DrawnCamera(30)
    monkeypatch.setattr(camera, "open_capture", lambda number: drawn)
    assert main([run, "--camera", "0", "-o", str(tmp_path / "rows.csv")]) == 0
    rows = rows_of(tmp_path / "rows.csv")
    assert rows and {(row["media"], row["label"], row["track_id"]) for row in rows} == {("camera", "angry", "1")}
    times = [float(row["time_s"]) for row in rows]
    assert times == sorted(times) and times[0] == 0 and drawn.released


def test_a_slow_net_sees_the_newest_frame(tmp_path: Path) -> None:
    newest = camera.Newest(DrawnCamera(1000))
    newest.thread.join()
    taken = newest.take()
    assert taken is not None and taken[0] == 999 and newest.take() is None
    newest.close()


def test_a_camera_that_is_not_there_is_told(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2", reason="cameras are OpenCV's")
    assert main([run, "--camera", "97"]) == 1
    assert "no camera 97" in capsys.readouterr().err


def test_a_file_that_is_no_video_inside_names_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    first, end = looks(Source(tmp_path / "a.mp4", "video", "a"))
    assert isinstance(first, Look) and first.image is None and "empty" in first.problem and isinstance(end, End)
