"""Files become frames: upright, in order, and what is wrong with a file is said."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV decodes videos: pip install av")
pytest.importorskip("PIL", reason="Pillow writes images: pip install pillow")

import marked_videos as made
from marked_videos import RED, moving, picture, sound, write
from PIL import Image
from prepared_trees import noise, seconds, text

from finetune.video import decode as video


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
