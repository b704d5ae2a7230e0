"""A run whose net can be followed by hand: its logits are the mean red, green and blue of what it sees, in 0..10."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from finetune.predict.detect import Detector
from finetune.video.faces import Face

LABELS = ("angry", "happy", "sad")  # red, green, blue
PROTOTXT = """
name: "Coloured"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "mean" type: "Pooling" bottom: "data" top: "mean" pooling_param { pool: AVE global_pooling: true } }
layer { name: "fc" type: "InnerProduct" bottom: "mean" top: "fc" inner_product_param { num_output: 3 } }
"""


def write_run(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True)
    body = save({"fc.weight": torch.eye(3), "fc.bias": torch.zeros(3)})
    (folder / "best.safetensors").write_bytes(body)
    (folder / "net.prototxt").write_text(PROTOTXT)
    card = {
        "format": 1, "architecture": "caffe", "arguments": {}, "prototxt": "net.prototxt", "weights": "best.safetensors",
        "sha256": hashlib.sha256(body).hexdigest(), "classes": list(LABELS), "title": "mean colours", "recipe": "none",
        "preprocess": {"size": [8, 8], "channels": "RGB", "mean": [0, 0, 0], "scale": 10 / 255},
    }  # fmt: skip
    (folder / "card.json").write_text(json.dumps({**card, **changes}))
    return folder


def probabilities(colour: tuple[float, float, float]) -> np.ndarray:
    """What the net says of a picture of one colour."""
    logits = np.array(colour, np.float64) * 10 / 255
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


COLOURS = ((230, 20, 20), (20, 230, 20), (20, 20, 230))


def squares(image: np.ndarray) -> list[Face]:
    """A face for each colour of COLOURS that fills more than a hundred pixels, the largest first."""
    faces = []
    for colour in COLOURS:
        ys, xs = np.nonzero((np.abs(image.astype(int) - colour) < 60).all(2))
        if len(xs) >= 100:
            box = np.array([xs.min(), ys.min(), xs.max(), ys.max()], float)
            faces.append(Face(box, 0.99, np.zeros((5, 2))))
    return sorted(faces, key=lambda face: -face.side)


SQUARES = Detector("mtcnn", squares, True)
