"""Files as cameras, phones, scanners and strangers make them, drawn here pixel by pixel."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.errors import PictureError, printable
from zoo.pictures import read_picture

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
UPRIGHT = np.array([[RED, GREEN, BLUE], [WHITE, WHITE, RED]], np.uint8)  # 2 high, 3 wide
# What a camera stores for each EXIF orientation so that a viewer shows UPRIGHT: (the row that comes first, the column that does) of
# the standard's table.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: UPRIGHT.transpose(1, 0, 2)[::-1],
    7: UPRIGHT.transpose(1, 0, 2)[::-1, ::-1],
    8: UPRIGHT.transpose(1, 0, 2)[:, ::-1],
}


@pytest.mark.parametrize("orientation", STORED)
def test_pictures_are_turned_upright_as_exif_says(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation])).save(tmp_path / "a.png", exif=exif)
    assert (read_picture(tmp_path / "a.png") == UPRIGHT).all()


def test_transparent_parts_show_white_and_not_the_colour_below(tmp_path: Path) -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 0] = 200
    pixels[0, :, 3] = 255, 128, 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    first, half, gone = read_picture(tmp_path / "a.png")[0].astype(int)
    assert first.tolist() == [200, 0, 0] and gone.tolist() == [255, 255, 255]
    assert np.abs(half - (0.5 * np.array([200, 0, 0]) + 127)).max() <= 2


def test_one_colour_of_a_palette_may_be_transparent(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "a.gif", transparency=0)
    assert read_picture(tmp_path / "a.gif").tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_grey_has_three_equal_channels(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 77, 255]], np.uint8)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").tolist() == [[[0] * 3, [77] * 3, [255] * 3]]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_of_sixteen_bits_the_upper_eight_are_kept(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0x1234, 0xFFFF]], np.uint16)).save(tmp_path / f"a.{suffix}")
    assert read_picture(tmp_path / f"a.{suffix}")[0, :, 0].tolist() == [0, 0x12, 0xFF]


def bomb() -> bytes:
    """A PNG of 100,000 × 100,000 pixels in a hundred bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def jpeg() -> bytes:
    target = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(target, "JPEG")
    return target.getvalue()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


DAMAGED = {
    "empty": (b"", "empty"),
    "web page": (b"<!DOCTYPE html>", "not a picture"),
    "PostScript": (EPS, "not a picture"),
    "bomb": (bomb(), "pixels"),
    "cut short": (jpeg()[:900], "not a whole picture"),
}


@pytest.mark.parametrize(("body", "words"), DAMAGED.values(), ids=DAMAGED.keys())
def test_what_is_no_whole_picture_is_told_why(body: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(body)
    with pytest.raises(PictureError, match=words):
        read_picture(path)


def test_every_damaged_byte_gives_a_picture_or_a_picture_error(tmp_path: Path) -> None:
    rng, whole, path = np.random.default_rng(0), jpeg(), tmp_path / "a.jpg"
    refused = 0
    for _ in range(150):
        body = bytearray(whole)
        for place in rng.integers(0, len(body), 8):
            body[place] = rng.integers(256)
        path.write_bytes(body)
        try:
            assert read_picture(path).ndim == 3
        except PictureError:
            refused += 1
    assert refused


def test_a_missing_file_is_a_picture_error(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="No such file"):
        read_picture(tmp_path / "a.png")


def test_names_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\nc\udc80é×") == r"a\x1b[2Jb\nc\udc80é×"


def test_the_older_way_to_call_a_preprocess_gives_the_same() -> None:
    import torch

    import zoo
    from zoo.preprocess import preprocess

    spec = zoo.info("mobilefacenet").preprocess
    image = Image.effect_noise((60, 50), 40).convert("RGB")
    assert torch.equal(preprocess(spec, image), spec(image))
