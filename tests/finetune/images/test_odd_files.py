"""What lies in people's image folders beside sound images: named by what it is, all of it at once, and never waited for."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.clips.data import read_clips
from finetune.errors import FinetuneError
from finetune.files import header, read_image
from finetune.images.data import alike, contents, read
from finetune.protocol import overlaps, plan_images
from zoo.errors import PictureError
from zoo.pictures import read_picture

RANDOM = np.random.default_rng(4)


def image(path: Path, shape: tuple[int, ...] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RANDOM.integers(0, 256, shape, np.uint8)).save(path)
    return path


@pytest.fixture(params=["images", "clips"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[[], object]]:
    """A sound folder with room for one more file, d/angry/[clip/]9.png, and what reads it."""
    inner = "" if request.param == "images" else "clip"
    for label in ("angry", "happy"):
        for number in (1, 2):
            image(tmp_path / "d" / label / inner / f"{number}.png")
    reader = read if request.param == "images" else read_clips
    return tmp_path / "d" / "angry" / inner / "9.png", lambda: reader(tmp_path / "d", cache=False)


KINDS = {
    "an empty file": (b"", "the file is empty"),
    "zeros": (bytes(600), "nothing but zeros"),
    "a HEIC picture": (b"\0\0\0\x18ftypheic" + bytes(60), "a HEIC picture"),
    "an AVIF picture": (b"\0\0\0\x1cftypavif" + bytes(60), "an AVIF picture"),
    "a page": (b"<!DOCTYPE html><html>", "a web page"),
    "a drawing": (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript drawing"),
    "a Photoshop file": (b"8BPS\0\1" + bytes(30), "a Photoshop file"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "text": (b"hello", "none of BMP, GIF, JPEG, PNG"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_image_is_named_as_what_it_is(kind: str, tree: tuple[Path, Callable[[], object]]) -> None:
    content, expected = KINDS[kind]
    path, reader = tree
    path.write_bytes(content)
    with pytest.raises(FinetuneError, match=rf"9\.png: not a whole image \({expected}"):
        reader()
    with pytest.raises(PictureError, match="not a picture" if kind == "text" else expected):
        read_picture(path)


def test_all_damaged_images_are_named_at_once(tree: tuple[Path, Callable[[], object]]) -> None:
    path, reader = tree
    for number in range(4, 14):
        path.with_name(f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(FinetuneError, match=r"d: 10 files cannot be read as images:") as error:
        reader()
    assert str(error.value).count("not a whole image") == 8 and str(error.value).endswith("and 2 more")


@pytest.mark.parametrize("kind", ["a named pipe", "a device"])
def test_what_is_no_file_is_refused_and_not_waited_for(kind: str, tree: tuple[Path, Callable[[], object]]) -> None:
    path, reader = tree
    os.mkfifo(path) if kind == "a named pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(FinetuneError, match=rf"9\.png: {kind}, not a regular file"):
        reader()


@pytest.mark.parametrize("name", ["data.csv", "votes", "clips.npz", "list.txt"])
def test_a_named_pipe_in_place_of_a_data_file_is_refused(name: str, tmp_path: Path) -> None:
    from finetune.images.votes import with_votes

    os.mkfifo(tmp_path / name)
    for label in ("angry", "happy"):
        image(tmp_path / "d" / label / "1.png")
    use: dict[str, Callable[[Path], object]] = {
        "data.csv": read, "votes": lambda path: with_votes(read(tmp_path / "d", cache=False), path), "clips.npz": read_clips,
        "list.txt": lambda path: read_clips(tmp_path / "d", class_index=path),
    }  # fmt: skip
    with pytest.raises((FinetuneError, OSError), match="a named pipe, not a regular file"):
        use[name](tmp_path / name)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_header_of_a_tiff_says_how_large_it_is_when_it_is_upright(orientation: int, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(tmp_path / "a.tif", tiffinfo={0x0112: orientation})
    found = read_image(tmp_path / "a.tif", None).shape
    assert found == ((6, 9) if orientation < 5 else (9, 6))
    assert header(tmp_path / "a.tif")[:2] == found
    assert read_image(tmp_path / "a.tif", None, like=found).shape == found


def test_grey_values_without_a_known_range_are_never_shown_black(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 256, (8, 8)).astype(np.uint8)
    values[0, 0] = 255
    for name, stored in (("i.tif", values.astype(np.int32)), ("low.png", values.astype(np.uint16)), ("f.tif", values.astype(np.float32))):
        Image.fromarray(stored).save(tmp_path / name)
        with pytest.raises(PictureError, match=r"no fixed range|8 bits stored as 16"):
            read_picture(tmp_path / name)
    for name in ("wide.png", "wide.pgm", "wide.tif"):
        Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / name)
        np.testing.assert_array_equal(read_picture(tmp_path / name), np.stack([values] * 3, -1))


WAYS: dict[str, Callable[[Image.Image, Path], None]] = {
    "as JPEG": lambda image, path: image.save(path.with_suffix(".jpg"), quality=60),
    "mirrored": lambda image, path: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path),
    "in colour and larger": lambda image, path: image.convert("RGB").resize((52, 52)).resize((48, 48)).save(path.with_suffix(".webp")),
    "other pictures": lambda image, path: Image.fromarray(smooth()).save(path),
}


def smooth() -> np.ndarray:
    """(48, 48) uint8: as much contrast as a face has, and no more detail."""
    return np.asarray(Image.fromarray(RANDOM.integers(0, 256, (6, 6), np.uint8)).resize((48, 48), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("way", WAYS)
def test_a_test_set_of_training_images_saved_in_another_way_is_told(way: str, tmp_path: Path) -> None:
    for label in ("angry", "happy", "sad"):
        for split in ("train", "val", "test"):
            (tmp_path / split / label).mkdir(parents=True)
        for number in range(6):
            kept = Image.fromarray(smooth())
            kept.save(tmp_path / "train" / label / f"{number}.png")
            WAYS[way](kept, tmp_path / "test" / label / f"{number}.png")
            Image.fromarray(smooth()).save(tmp_path / "val" / label / f"{number}.png")
    data = read(tmp_path, cache=False)
    plan = plan_images(data, "honest", lambda rows: (rows, rows))
    told = overlaps(data, plan, partial(contents, data), "images", partial(alike, data))
    assert [note[:50] for note in told] == ([] if way == "other pictures" else ["WARNING: 18 of 18 test images that were compared l"])
