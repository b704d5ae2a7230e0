"""Videos become folders of aligned faces; a second run does only what is left."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV decodes videos: pip install av")
pytest.importorskip("PIL", reason="Pillow writes images: pip install pillow")

import marked_videos as made
from marked_videos import GREEN, RED, moving, picture, write
from prepared_trees import contents, opened, rows, run, text, tree

from finetune.prepare_video import main
from finetune.video.crop import search
from finetune.video.faces import Face
from finetune.video.records import Options, Outcome, Video
from finetune.video.sources import find_videos


def test_a_tree_of_videos_becomes_a_tree_of_faces_with_a_report(tmp_path: Path) -> None:
    run(tree(tmp_path / "src"), tmp_path / "dst")
    wanted = [f"Train/Angry/1/images{n:04d}.jpg" for n in range(1, 11)] + [f"Val/Happy/2/images{n:04d}.jpg" for n in range(1, 9)]
    assert list(contents(tmp_path / "dst")) == wanted
    assert sorted(path.name for path in (tmp_path / "dst").iterdir()) == [".prepared", "Train", "Val", "report.csv"]
    for content in contents(tmp_path / "dst").values():
        assert opened(content).shape == (112, 96, 3)
        assert opened(content)[20:90, 10:80].std((0, 1)).max() < 12  # the square fills the crop, in every frame
    report = rows(tmp_path / "dst")
    assert [(row["video"], row["emotion"], row["frames"], row["faces"], row["status"]) for row in report] == [
        ("Train/Angry/1.avi", "Angry", "10", "10", "done"),
        ("Val/Happy/2.mp4", "Happy", "8", "8", "done"),
        ("Val/Happy/empty.avi", "Happy", "6", "0", "no face"),
        ("Val/Happy/text.avi", "Happy", "0", "0", "unreadable"),
    ]
    assert [row["folder"] for row in report] == ["Train/Angry/1", "Val/Happy/2", "", ""]


def test_what_is_written_is_read_as_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.clips.data import read_clips

    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "home"))
    write(tmp_path / "src" / "Train" / "Happy" / "3.avi", moving(5))
    run(tree(tmp_path / "src"), tmp_path / "dst")
    clips = read_clips(tmp_path / "dst")
    assert clips.offsets.tolist() == [0, 10, 15, 23]
    assert clips.split == ("train", "train", "val")
    assert [clips.classes[label] for label in clips.labels] == ["angry", "happy", "happy"]
    first = opened((tmp_path / "dst" / "Train" / "Angry" / "1" / "images0001.jpg").read_bytes())
    np.testing.assert_array_equal(clips.frames[0].permute(1, 2, 0).numpy(), first)


def test_the_square_lies_in_the_crop_where_the_reference_points_put_it(tmp_path: Path) -> None:
    """One pixel in a hundred is off at the most; the detector sees squares whose sides are those of the crop."""
    images = [picture((20 + 3 * n, 10 + 2 * n, 40, RED), shade=0) for n in range(8)]
    write(tmp_path / "src" / "a.mkv", images, "ffv1", "bgr0")
    run(tmp_path / "src", tmp_path / "dst", Options(margin=0.25))
    for content in contents(tmp_path / "dst").values():
        crop = opened(content)[..., 0] > 115
        ys, xs = np.nonzero(crop)
        # The face is as large as two thirds of the crop; the square is square, and the crop's points are a little higher than wide.
        assert abs((xs.min() + xs.max()) / 2 - 47.5) < 1
        assert abs((ys.min() + ys.max()) / 2 - 55.5) < 1.5
        assert 62 < xs.max() - xs.min() + 1 < 74


@pytest.mark.parametrize(
    ("make", "folders"),
    [
        (["a.avi", "b.avi"], {"a": "", "b": ""}),
        (["Angry/a.avi", "Sad/a.avi"], {"Angry/a": "Angry", "Sad/a": "Sad"}),
        (["Test/a.avi", "Train/Sad/a.avi"], {"Test/a": "", "Train/Sad/a": "Sad"}),
        (["x/Train/Sad/a.avi", ".hidden/a.avi", "__MACOSX/a.avi", ".a.avi"], {"x/Train/Sad/a": "Sad"}),
        (["a.avi", "a.mp4", "A.mkv", "a.mp4.avi"], {"A": "", "a.avi": "", "a.mp4": "", "a.mp4.avi": ""}),
        (["Angry.avi", "Angry/a.avi", "report.csv.avi"], {"Angry.avi": "", "Angry/a": "Angry", "report.csv.avi": ""}),
        (["-r f\n.avi", "a:b*?.avi", "\udcff.avi", "..x.avi", "é.avi", "x" * 240 + ".avi"], None),
    ],
)
def test_every_video_has_a_folder_of_its_own(tmp_path: Path, make: list[str], folders: dict[str, str] | None) -> None:
    for name in make:
        path = tmp_path / "src" / os.fsencode(name).decode("utf-8", "surrogateescape")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    found = find_videos(tmp_path / "src", tmp_path / "dst")
    names = [job.folder for job in found]
    if folders is None:
        assert len(found) == len(make) - 1  # ..x.avi is hidden
        assert sorted(names) == sorted(["_r_f_", "a_b__", "_", "é", "x" * 150])
        return
    assert {job.folder: job.emotion for job in found} == folders
    assert len({name.casefold() for name in names}) == len(names)


def test_a_name_that_no_terminal_takes_is_read_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"a\x1b[31m\n\xff.avi")
    write(tmp_path / "a.avi", [picture()] * 3).rename(tmp_path / name)
    assert main([str(tmp_path), str(tmp_path / "dst"), "--workers", "1"], detector=made.squares) == 1
    printed = capsys.readouterr().out
    assert "no face: a\\x1b[31m\\n\\udcff.avi\n" in printed
    assert rows(tmp_path / "dst")[0]["video"] == "a\\x1b[31m\\n\\udcff.avi"


def test_links_out_of_the_tree_and_pipes_are_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "src", tmp_path / "outside"
    write(inside / "Angry" / "1.avi", moving(4))
    write(outside / "2.avi", moving(4))
    (inside / "Angry" / "link.avi").symlink_to(outside / "2.avi")
    (inside / "Angry" / "same.avi").symlink_to(inside / "Angry" / "1.avi")
    (inside / "Sad").symlink_to(outside)
    (inside / "Happy").symlink_to(inside / "Angry")
    os.mkfifo(inside / "Angry" / "pipe.avi")
    (inside / "Angry" / "broken.avi").symlink_to(inside / "nothing")
    statuses = {job.name: (outcome.status, outcome.message) for job, outcome in run(inside, tmp_path / "dst")}
    assert statuses == {
        "Angry/1.avi": ("done", ""),
        "Angry/same.avi": ("done", ""),
        "Angry/link.avi": ("refused", "a link that leads out of the folder: not followed"),
        "Angry/pipe.avi": ("refused", "not a regular file"),
        "Angry/broken.avi": ("refused", "not a regular file"),
        "Sad": ("refused", "a link that leads out of the folder: not followed"),
        "Happy": ("refused", "a link to a folder: not followed"),
    }


def test_several_processes_give_the_same_bytes_as_one(tmp_path: Path) -> None:
    src = tree(tmp_path / "src")
    first, second = run(src, tmp_path / "one", processes=1), run(src, tmp_path / "three", processes=3)
    assert first == second
    assert len(contents(tmp_path / "one")) == 18
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    assert (tmp_path / "one" / "report.csv").read_bytes() == (tmp_path / "three" / "report.csv").read_bytes()


def test_a_second_run_decodes_only_what_is_not_done(tmp_path: Path, decoded: dict[str, None]) -> None:
    src, dst = tree(tmp_path / "src"), tmp_path / "dst"
    before = run(src, dst)
    everything = ["1.avi", "2.mp4", "empty.avi", "text.avi"]
    assert [*decoded] == everything
    made_first = contents(dst)

    def again(*names: str, **options: Any) -> list[tuple[Video, Outcome]]:
        decoded.clear()
        results = run(src, dst, Options(**options))
        assert [*decoded] == [*names]
        return results

    results = again("text.avi")  # what could not be read may have been repaired
    assert [outcome.status for _, outcome in results] == [outcome.status for _, outcome in before]
    assert [outcome.earlier for _, outcome in results] == [True, True, True, False]
    assert rows(dst)[0]["message"] == "from an earlier run"
    assert contents(dst) == made_first

    (src / "Train" / "Angry" / "1.avi").touch()  # another time, the same bytes
    again("text.avi")
    write(src / "Train" / "Angry" / "1.avi", moving(7))
    again("1.avi", "text.avi")
    assert len(list((dst / "Train" / "Angry" / "1").iterdir())) == 7
    times = (src / "Train" / "Angry" / "1.avi").stat()
    write(src / "Train" / "Angry" / "1.avi", moving(6))
    os.utime(src / "Train" / "Angry" / "1.avi", ns=(times.st_atime_ns, times.st_mtime_ns))  # the same time, other bytes
    again("1.avi", "text.avi")

    write(src / "Train" / "Angry" / "1.avi", moving(10))
    (dst / "Val" / "Happy" / "2" / "images0003.jpg").unlink()
    again("1.avi", "2.mp4", "text.avi")
    assert contents(dst) == made_first
    again(*everything, size=(112, 112))
    assert opened((dst / "Val" / "Happy" / "2" / "images0001.jpg").read_bytes()).shape == (112, 112, 3)
    (src / "Val" / "Happy" / "text.avi").unlink()
    again(size=(112, 112))


def test_a_video_that_has_another_folder_now_leaves_none_behind(tmp_path: Path) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    write(src / "a.avi", moving(4))
    run(src, dst)
    write(src / "A.mp4", moving(5), "libx264")
    run(src, dst)
    assert {name: len(list((dst / name).iterdir())) for name in ("A", "a.avi")} == {"A": 5, "a.avi": 4}
    assert not (dst / "a").exists()
    assert len(contents(dst)) == 9


def test_faces_of_other_options_do_not_stay_behind_where_none_are_found_now(tmp_path: Path) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    write(src / "a.avi", moving())
    run(src, dst)
    assert len(contents(dst)) == 10
    assert run(src, dst, detector=made.slow)[0][1].status == "done"
    write(src / "a.avi", [picture()] * 5)
    assert run(src, dst)[0][1].status == "no face"
    assert not (dst / "a").exists()


def test_a_folder_that_the_command_has_not_made_is_left_alone(tmp_path: Path) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    write(src / "a.avi", moving(4))
    write(src / "b.avi", moving(4))
    (dst / "a").mkdir(parents=True)
    text(dst / "a" / "mine.txt", "years of work")
    results = {job.name: outcome for job, outcome in run(src, dst)}
    assert results["a.avi"].status == "failed"
    assert "not made by this command" in results["a.avi"].message
    assert (dst / "a" / "mine.txt").read_text() == "years of work"
    assert results["b.avi"].faces == 4


def test_options_reach_the_pictures(tmp_path: Path) -> None:
    src = tmp_path / "src"
    path = write(src / "a.avi", [picture((8 + 2 * n, 10, 40, RED)) if n not in (4, 5) else picture() for n in range(20)])
    for number, (options, frames, count, filled) in enumerate(
        [
            (Options(), 20, 20, 2),
            (Options(max_gap=0.04), 20, 18, 0),
            (Options(every=3), 20, 20, 12),  # 0, 3, ... 18 and the last
            (Options(fps=12.5), 10, 10, 1),
            (Options(max_seconds=0.16), 4, 4, 0),
        ]
    ):
        [(_, outcome)] = run(src, tmp_path / str(number), options)
        assert (outcome.frames, outcome.faces, outcome.interpolated) == (frames, count, filled), options
        record = json.loads((tmp_path / str(number) / ".prepared" / "a.json").read_text())
        assert (record["video"], record["faces"], record["bytes"]) == ("a.avi", count, path.stat().st_size)
    assert outcome.numbers == ((1, 4),)
    assert json.loads((tmp_path / "1" / ".prepared" / "a.json").read_text())["numbers"] == [[1, 4], [7, 20]]
    assert rows(tmp_path / "1")[0]["message"] == "left out: 2 frames without the face"


def test_the_larger_and_longer_face_is_followed(tmp_path: Path) -> None:
    images = [picture((70, 50 - n, 44, GREEN), *([(5 + n, 5, 30, RED)] if n > 3 else [])) for n in range(12)]
    write(tmp_path / "src" / "a.avi", images)
    [(_, outcome)] = run(tmp_path / "src", tmp_path / "dst")
    assert outcome.faces == 12
    for content in (tmp_path / "dst" / "a").iterdir():
        middle = opened(content.read_bytes())[50:62, 40:56].reshape(-1, 3).mean(0)
        np.testing.assert_allclose(middle, GREEN, atol=20)


def test_after_a_cut_another_face_in_the_same_place_is_left_out(tmp_path: Path) -> None:
    first = [picture((30, 20, 50, RED), shade=20)] * 9
    second = [picture((30, 20, 50, GREEN), shade=200)] * 6
    write(tmp_path / "src" / "a.avi", [*first, *second])
    [(_, outcome)] = run(tmp_path / "src", tmp_path / "dst")
    assert (outcome.faces, outcome.numbers, outcome.message) == (9, ((1, 9),), "left out: 6 frames without the face")


@pytest.mark.parametrize(("min_face", "smallest"), [(90, 30), (40, 20)])
def test_the_detector_is_asked_for_faces_of_the_size_that_is_left(tmp_path: Path, min_face: int, smallest: float) -> None:
    asked: list[tuple[tuple[int, ...], float]] = []

    def look(image: np.ndarray, least: float) -> list[Face]:
        asked.append((image.shape, least))
        return []

    path = write(tmp_path / "a.avi", [picture(size=(1080, 1920))])
    search(path, Options(min_face=min_face), [], look, lambda amount: None)
    assert asked == [((360, 640, 3), smallest)]


def test_a_large_frame_is_searched_small_and_cut_out_in_full(tmp_path: Path) -> None:
    image = picture((900, 500, 400, RED), size=(1080, 1920))
    image[600:604, 900:1300] = (200, 60, 60)  # four rows that are one and a half in the smaller image
    write(tmp_path / "src" / "a.mkv", [image] * 3, "ffv1", "bgr0")
    run(tmp_path / "src", tmp_path / "dst", Options(size=(448, 448)))
    crop = opened((tmp_path / "dst" / "a" / "images0001.jpg").read_bytes()).astype(int)
    assert crop[50:200, 224, 1].max() == pytest.approx(60, abs=12)
