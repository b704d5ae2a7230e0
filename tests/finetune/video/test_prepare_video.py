"""Videos become folders of aligned faces; what is wrong with one of them is told, and harms no other."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV decodes videos: pip install 'caffezoo[video]'")
pytest.importorskip("PIL", reason="Pillow writes images: pip install 'caffezoo[finetune]'")

import marked_videos as made
from marked_videos import BLUE, GREEN, RED, WHITE, moving, picture, sound, write
from PIL import Image

import zoo
from finetune.errors import FinetuneError
from finetune.prepare_video import main, parser
from finetune.video import decode as video
from finetune.video import faces, workers
from finetune.video.crop import prepare_one, search
from finetune.video.destination import alone, settings_of, write_record
from finetune.video.faces import REFERENCE, Face, align, similarity, template
from finetune.video.prepare import prepare
from finetune.video.records import Options, Outcome, Video
from finetune.video.sources import find_videos

WEIGHTS = Path(__file__).parents[4] / "shared" / "models"
weights = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the authors' det1 to det3.caffemodel aren't in the project")


def noise(size: tuple[int, int], seed: int) -> np.ndarray:
    """(H, W, 3) uint8, smooth in space."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


# ------------------------------------------------------------------------------------------------------------------- alignment


def test_the_similarity_is_that_of_an_independent_least_squares_fit() -> None:
    transform = pytest.importorskip("skimage.transform", reason="scikit-image has another implementation")
    draw = np.random.default_rng(0)
    for _ in range(20):
        source = draw.normal(0, 30, (5, 2))
        angle, scale, shift = draw.uniform(-1, 1), draw.uniform(0.3, 3), draw.normal(0, 50, 2)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        target = source @ turn.T + shift + draw.normal(0, 2, (5, 2))
        a, b = similarity(source, target)
        expected = transform.estimate_transform("similarity", source, target).params
        np.testing.assert_allclose([a.real, a.imag, b.real, b.imag], [*expected[:2, 0], *expected[:2, 2]], rtol=1e-6, atol=1e-6)


def test_the_crop_of_center_loss_nets_has_its_authors_points_and_others_keep_the_centre() -> None:
    np.testing.assert_allclose(template((112, 96)), REFERENCE)
    np.testing.assert_allclose(template((112, 112)), REFERENCE + np.array([8, 0]))
    np.testing.assert_allclose(template((224, 224)) + 0.5, 2 * (REFERENCE + np.array([8, 0]) + 0.5))
    shrunk = template((112, 96), margin=0.25)
    np.testing.assert_allclose(np.ptp(shrunk, axis=0), np.ptp(REFERENCE, axis=0) / 1.5)
    np.testing.assert_allclose(shrunk.mean(0) - [47.5, 55.5], (REFERENCE.mean(0) - [47.5, 55.5]) / 1.5)


@pytest.mark.parametrize(
    ("size", "scale", "angle"),
    [((112, 96), 1, 0), ((112, 96), 5.3, 0.4), ((112, 96), 0.7, -0.5), ((224, 224), 1.6, 0.2), ((60, 50), 2, -3)],
)
def test_points_of_the_image_land_on_the_template(size: tuple[int, int], scale: float, angle: float) -> None:
    """Each point is a soft blob in an image of its own; its centre of gravity is looked for in the crop."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([300.0, 260.0])
    wanted = template(size)
    points = (wanted - wanted.mean(0)) @ turn.T + middle
    y, x = np.mgrid[:520, :600]
    for point, target in zip(points, wanted, strict=True):
        blob = np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / 2 / (2.5 * scale) ** 2)
        image = np.repeat((255 * blob).astype(np.uint8)[..., None], 3, 2)
        crop = align(image, points, size)
        assert crop.shape == (*size, 3)
        mass = crop[..., 0].astype(float)
        rows, columns = np.mgrid[: size[0], : size[1]]
        centre = np.array([(mass * columns).sum(), (mass * rows).sum()]) / mass.sum()
        np.testing.assert_allclose(centre, target, atol=0.15)


def test_what_lies_beyond_the_image_is_black() -> None:
    crop = align(np.full((112, 96, 3), 200, np.uint8), REFERENCE - [48, 0], (112, 96))
    assert (crop[:, 50:] == 200).all()
    assert (crop[:, :46] == 0).all()


# ------------------------------------------------------------------------------------------------------------------- smoothing


def test_a_face_that_moves_evenly_is_left_where_it_is() -> None:
    points = np.arange(12.0)[:, None, None] * [3.0, -2.0] + np.arange(10.0).reshape(5, 2)
    np.testing.assert_allclose(faces.smooth(points, 7), points, atol=1e-9)


def test_smoothing_takes_noise_out_and_does_not_reach_across_missing_frames() -> None:
    draw = np.random.default_rng(1)
    noisy = draw.normal(0, 1, (200, 5, 2))
    calm = faces.smooth(noisy, 5)
    assert np.abs(np.diff(calm, 2, axis=0)).mean() < 0.4 * np.abs(np.diff(noisy, 2, axis=0)).mean()
    np.testing.assert_array_equal(faces.smooth(noisy, 1), noisy)
    noisy[100] = np.nan
    parts = faces.smooth(noisy, 5)
    assert np.isnan(parts[100]).all()
    np.testing.assert_allclose(parts[:100], faces.smooth(noisy[:100], 5))
    np.testing.assert_allclose(parts[101:], faces.smooth(noisy[101:], 5))


# ------------------------------------------------------------------------------------------------------------------- tracks


def face(x: float, y: float = 50, side: float = 40, score: float = 0.99) -> Face:
    box = np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])
    return Face(box, score, box[:2] + REFERENCE * side / 112)


def seconds(count: int) -> list[float]:
    return [number / 25 for number in range(count)]


def test_two_faces_side_by_side_are_two_tracks() -> None:
    found = [(n, [face(50 + n), face(110 - n)][:: 1 if n % 2 else -1]) for n in range(12)]
    tracks = faces.link(found, seconds(12))
    assert [len(track) for track in tracks] == [12, 12]
    for track in tracks:
        assert max(np.abs(np.diff([at.middle[0] for _, at in track]))) == pytest.approx(1)


@pytest.mark.parametrize(
    ("second", "shots", "lengths"),
    [
        (face(54), (), [8]),
        (face(54), (4,), [4, 4]),  # the same place, but another shot
        (face(54, side=90), (), [4, 4]),
        (face(90), (), [4, 4]),
    ],
)
def test_a_track_ends_where_the_face_cannot_be_the_same(second: Face, shots: tuple[int, ...], lengths: list[int]) -> None:
    found = [(n, [face(50)] if n < 4 else [second]) for n in range(8)]
    assert [len(track) for track in faces.link(found, seconds(8), shots)] == lengths


def test_a_face_that_was_away_for_long_is_another_track() -> None:
    found = [(n, [face(50)] if n < 4 or n >= 60 else []) for n in range(64)]
    assert [len(track) for track in faces.link(found, seconds(64))] == [4, 4]
    assert [len(track) for track in faces.link(found[:4] + found[20:], seconds(64)[:24] + [1.0] * 40)] == [8]


def test_the_main_track_is_the_longest_with_larger_faces_counting_more() -> None:
    small = [(n, face(20, side=20)) for n in range(20)]
    large = [(n, face(90, side=60)) for n in range(8)]
    short = [(n, face(200, side=300)) for n in range(2)]  # two frames: a mistake of the detector
    unsure = [(n, face(200, side=300, score=0.8)) for n in range(20)]
    assert faces.main_track([small, large, short, unsure], 20) is large
    assert faces.main_track([small, large[:6], short, unsure], 20) is small
    assert faces.main_track([short, unsure], 20) is None
    assert faces.main_track([short], 2) is short  # the video has no third frame


def test_short_gaps_are_interpolated_and_long_ones_left_out() -> None:
    track = [(n, face(10 * n)) for n in (2, 3, 6, 12, 13)]
    points = faces.landmarks(track, seconds(16), max_gap=0.1, step=0.04)
    missing = np.isnan(points[:, 0, 0])
    assert np.flatnonzero(missing).tolist() == [0, 1, 7, 8, 9, 10, 11, 14, 15]
    np.testing.assert_allclose(points[4], face(40).points)
    np.testing.assert_allclose(points[5], face(50).points)


def test_a_cut_is_told_from_movement() -> None:
    pan = [noise((18, 64), 1)[:, n : n + 32, 0] for n in range(10)]
    other = [255 - image for image in pan]
    assert faces.cuts(pan) == set()
    assert faces.cuts([*pan, *other]) == {10}
    assert faces.cuts(pan[:1]) == set()


# ------------------------------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize(
    ("name", "codec", "layout"),
    [("a.avi", "mpeg4", "yuv420p"), ("a.mp4", "libx264", "yuv420p"), ("a.mkv", "ffv1", "bgr0"), ("a.ts", "libx264", "yuv420p")],
)
def test_frames_come_in_order_with_their_times(tmp_path: Path, name: str, codec: str, layout: str) -> None:
    damage: list[str] = []
    found = list(video.frames(write(tmp_path / name, moving(), codec, layout), damage))
    assert not damage
    assert [frame.time for frame in found] == pytest.approx(seconds(10), abs=1e-3)
    for frame, image in zip(found, moving(), strict=True):
        expected, got = made.spot(image, RED)[0], made.spot(frame.rgb(), RED)[0]
        np.testing.assert_allclose(got.box, expected.box, atol=1.5)


@pytest.mark.parametrize(
    ("fps", "max_seconds", "numbers"),
    [
        (None, None, list(range(10))),
        (12.5, None, [0, 2, 4, 6, 8]),
        (10, None, [0, 3, 5, 8]),
        (1000, None, list(range(10))),
        (0.1, None, [0]),
        (None, 0.2, [0, 1, 2, 3, 4]),
        (12.5, 0.2, [0, 2, 4]),
    ],
)
def test_frames_are_left_out_by_their_times(tmp_path: Path, fps: float | None, max_seconds: float | None, numbers: list[int]) -> None:
    damage: list[str] = []
    path = write(tmp_path / "a.avi", moving())
    found = [frame.time for frame in video.frames(path, damage, fps=fps, max_seconds=max_seconds)]
    assert found == pytest.approx([seconds(10)[number] for number in numbers])
    assert not damage


@pytest.mark.parametrize(
    ("matrix", "turns"),
    # tkhd's a b u, c d v of ISO 14496-12: x' = a·x + c·y, y' = b·x + d·y, with y downwards: (0, 1, -1, 0) is clockwise
    [((1, 0, 0, 1), 0), ((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
)
def test_a_phone_held_sideways_gives_upright_frames(tmp_path: Path, matrix: tuple[int, ...], turns: int) -> None:
    path = write(tmp_path / "a.mp4", moving(3), "libx264")
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    frame = next(video.frames(path, []))
    image = np.rot90(moving(1)[0], turns)
    assert (frame.height, frame.width) == image.shape[:2]
    np.testing.assert_allclose(made.spot(frame.rgb(), RED)[0].box, made.spot(image, RED)[0].box, atol=1.5)
    assert frame.rgb(64).shape == (image.shape[0] // 2, image.shape[1] // 2, 3)


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.mp4"])
def test_a_title_in_latin_1_does_not_keep_a_video_from_being_read(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, moving(5), title="cafZ in Munich")
    content = path.read_bytes()
    assert b"cafZ in Munich" in content
    path.write_bytes(content.replace(b"cafZ in Munich", b"caf\xe9 in M\xfcnch."))
    damage: list[str] = []
    assert len(list(video.frames(path, damage))) == 5
    assert damage == []


def test_grey_frames_odd_sizes_and_oblong_pixels_are_read(tmp_path: Path) -> None:
    grey = next(video.frames(write(tmp_path / "grey.mkv", [noise((77, 91), 2)] * 2, "ffv1", "gray"), []))
    assert grey.rgb().shape == (77, 91, 3)
    assert (grey.rgb()[..., :1] == grey.rgb()).all()
    assert grey.rgb().std() > 10
    wide = next(video.frames(write(tmp_path / "wide.mkv", moving(2), sample_aspect_ratio=Fraction(16, 11)), []))
    assert (wide.width, wide.height) == (186, 96)
    assert wide.rgb().shape == (96, 186, 3)


@pytest.mark.parametrize(("suffix", "codec"), [(".ts", "libx264"), (".m4v", "mpeg4")])
def test_frames_that_change_their_size_are_scaled_to_the_first(tmp_path: Path, suffix: str, codec: str) -> None:
    small = write(tmp_path / f"a{suffix}", [picture((20, 20, 40, RED))] * 5, codec)
    large = write(tmp_path / f"b{suffix}", [picture((40, 40, 80, RED), size=(192, 256))] * 5, codec)
    both = tmp_path / f"c{suffix}"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    damage: list[str] = []
    found = list(video.frames(both, damage))
    assert [frame.raw.width for frame in found] == [128] * 5 + [256] * 5
    assert [frame.time for frame in found] == pytest.approx(seconds(10), abs=1e-3)
    assert not damage
    for frame in found:
        np.testing.assert_allclose(made.spot(frame.rgb(), RED)[0].box, [20, 20, 59, 59], atol=2)


def cut_short(path: Path, part: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    return path


def text(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


UNREADABLE: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "nothing": ("empty", lambda path: text(path, "")),
    "text": ("not a video", lambda path: text(path, "hello " * 100)),
    "sound": (r"no video stream \(audio\)", sound),
    "half an mp4": ("cut short", lambda path: cut_short(write(path.with_suffix(".mp4"), moving(), "libx264"), 0.5)),
    "a header": ("no frame can be decoded|not a video", lambda path: cut_short(write(path, moving()), 0.35)),
    "a photo": ("not a video", lambda path: (Image.new("RGB", (90, 80)).save(path, "JPEG"), path)[1]),
    "a playlist": (
        "not a video",
        lambda path: text(
            path, f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{write(path.parent / 'b.ts', moving(), 'libx264')}\n"
        ),
    ),
    "a list of files": (
        "not a video",
        lambda path: text(path, f"ffconcat version 1.0\nfile '{write(path.parent / 'b.avi', moving()).name}'\n"),
    ),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_file_without_pictures_says_why(tmp_path: Path, what: str) -> None:
    message, make = UNREADABLE[what]
    with pytest.raises(video.VideoError, match=message):
        list(video.frames(make(tmp_path / "a.avi"), []))


@pytest.mark.parametrize(("suffix", "part"), [(".avi", 0.6), (".mkv", 0.6)])
def test_a_file_that_was_cut_short_gives_what_it_has_and_says_so(tmp_path: Path, suffix: str, part: float) -> None:
    damage: list[str] = []
    images = [noise((96, 128), n) for n in range(15)]
    found = list(video.frames(cut_short(write(tmp_path / f"a{suffix}", images), part), damage))
    assert 3 < len(found) < 13
    assert "cut short" in damage[-1]


def test_damage_inside_a_file_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ts", [noise((96, 128), n) for n in range(15)], "libx264")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1500] = bytes(1500)
    path.write_bytes(content)
    damage: list[str] = []
    assert 3 < len(list(video.frames(path, damage))) <= 15
    assert len(damage) == 1
    assert "damaged or missing" in damage[0]


# ------------------------------------------------------------------------------------------------------------------- the whole


def tree(root: Path) -> Path:
    """Two faces, one without, one that is none."""
    write(root / "Train" / "Angry" / "1.avi", moving())
    write(root / "Val" / "Happy" / "2.mp4", moving(8, GREEN), "libx264")
    write(root / "Val" / "Happy" / "empty.avi", [picture()] * 6)
    text(root / "Val" / "Happy" / "text.avi", "hello")
    text(root / "Val" / "Happy" / "notes.txt", "no video at all")
    return root


def here(jobs: Any, setup: Any, count: int, ticked: workers.Tick) -> Iterator[tuple[Any, Any]]:
    """workers.run() without processes, for what doesn't depend on them."""
    do = setup()
    for job in jobs:
        yield job, do(job, ticked)


def run(src: Path, dst: Path, options: Options | None = None, **settings: Any) -> list[tuple[Video, Outcome]]:
    with pytest.MonkeyPatch.context() as patch:
        if "processes" not in settings:
            patch.setattr(workers, "run", here)
        return prepare(src, dst, options, **{"detector": made.squares, **settings})


def opened(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.jpg"))}


def rows(dst: Path) -> list[dict[str, str]]:
    with (dst / "report.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


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


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> dict[str, None]:
    """The names of the files that were decoded."""
    seen: dict[str, None] = {}
    real = video.frames

    def watched(path: Path, *rest: Any, **settings: Any) -> Any:
        seen[path.name] = None
        return real(path, *rest, **settings)

    monkeypatch.setattr(video, "frames", watched)
    return seen


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
    assert rows(tmp_path / "1")[0]["message"] == "2 frame(s) without the face left out"


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
    assert (outcome.faces, outcome.numbers, outcome.message) == (9, ((1, 9),), "6 frame(s) without the face left out")


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


# ------------------------------------------------------------------------------------------------------------------- what goes wrong


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
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
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


# ------------------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "dst"], "no such file or folder"),
        (["empty", "dst"], "no videos found"),
        (["src", "src"], "the same folder"),
        (["src", "dst", "--size", "big"], "HEIGHTxWIDTH"),
        (["src", "dst", "--size", "5000"], "size is (5000, 5000); expected 32 to 1024 pixels a side"),
        (["src", "dst", "--smooth", "4"], "smooth is 4; expected an odd number"),
        (["src", "dst", "--every", "0"], "every is 0"),
        (["src", "dst", "--fps", "nan"], "fps is nan"),
        (["src", "dst", "--max-gap", "-1"], "max-gap is -1.0"),
        (["src", "dst", "--workers", "0"], "expected a number from 1"),
        (["src"], "the following arguments are required: DST"),
    ],
)
def test_a_command_that_cannot_be_meant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "src" / "a.avi", moving(3))
    with pytest.raises(SystemExit) as end:
        main(arguments, detector=made.squares)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "dst").exists()


def test_the_command_tells_in_a_few_lines_what_became_of_the_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src, dst = tree(tmp_path / "src"), tmp_path / "dst"
    for number in range(7):
        text(src / "Train" / "Angry" / f"bad{number}.avi", "hello")
    assert main([str(src), str(dst), "--workers", "2"], detector=made.squares) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "11 videos: 2 done, 1 no face, 8 unreadable"
    assert lines[1].startswith(f"18 faces of 112×96 (height×width) in {dst}; 24 frames read in ")
    assert lines[2] == "  no face: Val/Happy/empty.avi"
    assert lines[3].startswith("  unreadable: Train/Angry/bad0.avi: Invalid data")
    assert lines[8:] == ["  unreadable: and 3 more", f"every video has a row in {dst / 'report.csv'}"]
    shutil.rmtree(src / "Val")
    for number in range(7):
        (src / "Train" / "Angry" / f"bad{number}.avi").unlink()
    assert main([str(src), str(dst), "--workers", "1"], detector=made.squares) == 0
    assert "1 of them had been prepared before and were skipped" in capsys.readouterr().out


@pytest.mark.parametrize(("module", "hint"), [("av", r"caffezoo\[video\]"), ("PIL.Image", r"caffezoo\[finetune\]")])
def test_a_missing_library_is_named_with_the_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, hint: str
) -> None:
    write(tmp_path / "src" / "a.avi", moving(3))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(FinetuneError, match=hint):
        run(tmp_path / "src", tmp_path / "dst")


def test_the_settings_are_those_of_the_options() -> None:
    """Every option takes part in what a second run compares, and has a switch of the command line."""
    names = {field.name for field in dataclasses.fields(Options)}
    assert names < set(settings_of(Options(), made.squares))
    switches = {action.dest for action in parser()._actions}
    assert names <= switches
    given = parser().parse_args(["a", "b"])
    assert Options(**{name: getattr(given, name) for name in names}) == Options()


# ------------------------------------------------------------------------------------------------------------------- MTCNN


@pytest.fixture(scope="module")
def astronaut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real face (NASA's portrait of Eileen Collins, public domain) that moves 5 pixels right and 2 down a frame."""
    data = pytest.importorskip("skimage.data", reason="scikit-image has the portrait")
    portrait = Image.fromarray(data.astronaut()[:220, 110:400]).resize((145, 110), Image.Resampling.LANCZOS)
    images = []
    for number in range(14):
        frame = Image.new("RGB", (240, 180), (90, 90, 90))
        frame.paste(portrait, (5 + 5 * number, 10 + 2 * number))
        images.append(np.asarray(frame))
    return write(tmp_path_factory.mktemp("portrait") / "Happy" / "1.mp4", images, "libx264")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the authors' weights in it."""
    place = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAFFEZOO_HOME", str(place))
        for number in "123":
            copy = tmp_path_factory.mktemp("weights") / f"det{number}.caffemodel"
            shutil.copy(WEIGHTS / f"mtcnn_det{number}" / "net.caffemodel", copy)
            zoo.add("mtcnn", copy)
    return place


@pytest.fixture(scope="module")
def detector(home: Path) -> Iterator[faces.Detect]:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAFFEZOO_HOME", str(home))
        yield faces.mtcnn("cpu")
    torch.set_num_threads(threads)


@weights
@pytest.mark.parametrize("size", [(112, 96), (224, 224)])
def test_a_real_face_is_found_in_every_frame_and_centred(
    tmp_path: Path, astronaut: Path, detector: faces.Detect, size: tuple[int, int]
) -> None:
    [job] = find_videos(astronaut.parent.parent, tmp_path)
    outcome = prepare_one(job, Options(size=size), tmp_path / "out", detector, lambda amount: None)
    assert (outcome.status, outcome.frames, outcome.faces, outcome.interpolated) == ("done", 14, 14, 0)
    scale = size[0] / 112
    crops = [opened(path.read_bytes()) for path in sorted((tmp_path / "out").iterdir())]
    for crop in crops[::4]:
        # With a border: MTCNN wants to see more than a face.
        [found] = detector(np.pad(crop, [(60, 60), (60, 60), (0, 0)], "edge"), 60 * scale)
        # No face has the reference's proportions; what is left to turn, to scale and to shift is what alignment missed.
        a, b = similarity(found.points - 60, template(size))
        middle = complex(*template(size).mean(0))
        assert abs(a * middle + b - middle) / scale < 2
        assert abs(abs(a) - 1) < 0.05
        assert abs(np.angle(a)) < np.radians(3)


@weights
def test_the_track_of_a_real_face_is_smooth_and_true(astronaut: Path, detector: faces.Detect) -> None:
    times, found, shots = search(astronaut, Options(), [], detector, lambda amount: None)
    track = faces.main_track(faces.link(found, times, shots), len(found))
    assert track is not None
    raw = faces.landmarks(track, times, 0.5, 0.04)
    calm = faces.smooth(raw, 5)
    middle = calm.mean(1)
    assert np.abs(np.diff(middle, 2, axis=0)).max() < 0.5
    np.testing.assert_allclose((middle[-1] - middle[0]) / 13, [5, 2], atol=0.15)
    jumps = [np.abs(np.diff(points, 2, axis=0)).mean() for points in (raw, calm)]
    assert jumps[1] < 0.5 * jumps[0]


@weights
def test_the_command_runs_with_the_zoos_detector(tmp_path: Path, astronaut: Path, home: Path) -> None:
    src = tmp_path / "src"
    shutil.copytree(astronaut.parent, src / "Happy")
    write(src / "Sad" / "1.avi", [noise((120, 160), 3)] * 5)
    environment = {**os.environ, "CAFFEZOO_HOME": str(home), "CAFFEZOO_OFFLINE": "1"}
    command = [sys.executable, "-m", "finetune.prepare_video", str(src), str(tmp_path / "dst"), "--workers", "1", "--every", "3"]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 1
    assert done.stderr == ""
    assert done.stdout.startswith("2 videos: 1 done, 1 no face\n14 faces of 112×96")
    assert sorted(contents(tmp_path / "dst")) == [f"Happy/1/images{n:04d}.jpg" for n in range(1, 15)]


def test_without_weights_and_network_the_zoo_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CAFFEZOO_OFFLINE", "1")
    write(tmp_path / "src" / "a.avi", moving(3))
    assert main([str(tmp_path / "src"), str(tmp_path / "dst")]) == 1
    assert capsys.readouterr().err.startswith("prepare_video: ")
