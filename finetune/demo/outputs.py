"""What an independent implementation computed from the Caffe files of fer_mini, and the pictures that it was given."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

STORED = Path(__file__).with_name("fer_mini_outputs.json")
PICTURES, SIDE = 8, 44
RECIPE = "uint8 grey pixel of picture n at row y, column x, all from 0: (7 x + 11 y + 13 n + n x y) mod 256; (pixel - 127.5) / 64 goes in"


@dataclass(frozen=True)
class Stored:
    """`logits` (8, 7) float64 of the blob `classifier`, before the Softmax, of pictures()."""

    made_by: str
    caffemodel_sha256: str
    logits: np.ndarray


def pictures() -> np.ndarray:
    """(8, 44, 44) uint8, as RECIPE says: integers, so that they are the same everywhere."""
    n, y, x = np.ogrid[:PICTURES, :SIDE, :SIDE]
    result: np.ndarray = ((7 * x + 11 * y + 13 * n + n * x * y) % 256).astype(np.uint8)
    return result


def inputs() -> np.ndarray:
    """(8, 1, 44, 44) float32: pictures() as the net takes them."""
    result: np.ndarray = ((pictures()[:, None] - np.float32(127.5)) / np.float32(64)).astype(np.float32)
    return result


def stored(path: Path = STORED) -> Stored:
    facts = json.loads(path.read_bytes())
    return Stored(facts["made_by"], facts["caffemodel_sha256"], np.array(facts["logits"]))
