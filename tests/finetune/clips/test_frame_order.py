"""Frames come in the order of their numbers, whatever the form of their names, or not at all."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from finetune.clips.order import in_order
from finetune.errors import FinetuneError

ORDERS = {
    "widths": ["images1", "images002", "images9", "images10", "images0011"],
    "case": ["Image1", "IMAGE2", "image3", "Image10"],
    "separators": ["frame 1", "frame-2", "frame(3)", "frame_10"],
    "seconds": ["0.04", "0.4", "0.44"],
    "seconds as Python prints them": ["0.0", "1e-05", "0.04", "0.08", "0.12", "0.2", "0.24", "1.0", "1.04", "10.0"],
    "whole and half seconds": ["0", "0.5", "1", "1.5", "10"],
    "a dot and a counter": ["shot1.1", "shot1.2", "shot1.3", "shot1.10", "shot1.11"],
    "a padded counter behind a dot": ["clip.0001", "clip.0002", "clip.0010"],
    "versions are no decimals": ["v1.2.3", "v1.2.10", "v1.10.1"],
    "minutes and seconds": ["00_01_59", "00_02_00", "01_00_00"],
    "seconds with a comma": ["0,04", "0,4", "0,44"],
    "thousands": ["1,000", "1,001", "1,010"],
    "before and after the apex": ["-10", "-2", "-1", "0", "3"],
    "seconds before and after": ["t_-1.5", "t_-0.5", "t_0.25", "t_2.0"],
    "a minus that separates": ["shot-1", "shot-2", "shot-10"],
    "CK+'s": ["S005_001_00000009", "S005_001_00000010"],
    "words that agree": ["a1", "b2", "c3"],
    "one frame of any name": ["apex"],
}  # fmt: skip


def paths(names: list[str]) -> list[Path]:
    return [Path(f"/clips/7/{name}.png") for name in names]


@pytest.mark.parametrize("what", ORDERS)
def test_frames_are_ordered_by_number(what: str) -> None:
    expected = ORDERS[what]
    for seed in range(5):
        shuffled = paths(expected)
        random.Random(seed).shuffle(shuffled)
        assert [path.stem for path in in_order(shuffled)] == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0.4", "0.5", "0.10"], r"0\.(4|10)\.png: or 0\.(4|10)\.png comes first: the dot may be a decimal point or not"),
        (["1,5", "1,10", "1,9"], r"comes first: the dot may be a decimal point or not"),
        (["-1", "-2", "-3"], r"comes first: the minus may be a sign or not"),
        (["999", "1,000"], r"not numbered alike"),
        (["f-1", "f1", "f2"], r"has the same number"),
        (["apex", "onset"], r"has no number that says where it comes; name the frames .* images0001\.png"),
        (["cover", "1", "2"], r"cover\.png: has no number"),
        (["1", "01"], r"01\.png: has the same number as 1\.png"),
        (["left2", "right1"], r"not numbered alike: their order cannot be told"),
        (["1", "2", "2_1"], r"not numbered alike"),
    ],
)  # fmt: skip
def test_frames_whose_order_cannot_be_told_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(FinetuneError, match=message):
        in_order(paths(names))
