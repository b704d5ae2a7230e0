"""Images of class folders and frames of clips: upright, grey where they are grey, and only of formats that run nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from finetune.errors import FinetuneError
from finetune.files import read_image

# Red, green, blue and white quarters of an image 32 wide and 16 high.
QUARTERS = np.kron(np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8), np.ones((8, 16, 1), np.uint8))


def saved(path: Path, orientation: int, pixels: np.ndarray = QUARTERS) -> Path:
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, **({"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}))
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_read_as_it_is_seen(orientation: int, suffix: str, tmp_path: Path) -> None:
    path = saved(tmp_path / f"a{suffix}", orientation)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert expected.shape == ((16, 32, 3) if orientation < 5 else (32, 16, 3))
    np.testing.assert_array_equal(read_image(path, None), expected)
    assert read_image(path, (10, 20)).shape == (10, 20, 3)


def test_a_white_band_on_top_of_a_picture_taken_sideways_lies_at_its_right_side(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:4] = 255
    turned = read_image(saved(tmp_path / "a.png", 6, pixels), None)
    assert turned.shape == (32, 16)
    assert (turned[:, -4:] == 255).all() and (turned[:, :-4] == 0).all()


def test_an_orientation_that_there_is_not_leaves_the_image_as_it_is(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(saved(tmp_path / "a.png", 77), None), QUARTERS)


def test_a_format_that_runs_another_program_is_refused_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(FinetuneError, match=r"a\.png: not a whole image"):
        read_image(path, None)
