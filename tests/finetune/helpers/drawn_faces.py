"""Drawn "expressions": each class is a pattern of its own under noise, so that a small net learns to tell them apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from finetune.images.data import Expressions

# A net of ten classes for 16×16 images, as a user's own.
TINY_PROTOTXT = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 16 dim: 16 } } }
layer {
  name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 8 kernel_size: 3 stride: 2 weight_filler { type: "msra" } }
}
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer {
  name: "fc8" type: "InnerProduct" bottom: "conv1" top: "fc8"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } }
}
layer { name: "prob" type: "Softmax" bottom: "fc8" top: "prob" }
"""


def expressions(
    train: int = 96, other: int = 40, classes: tuple[str, ...] = ("angry", "happy", "sad", "neutral"), side: int = 16, seed: int = 0
) -> Expressions:
    """train images, then `other` of public and as many of private, all of them different."""
    rng = np.random.default_rng(seed)
    patterns = np.kron(rng.uniform(40, 215, (len(classes), 4, 4)), np.ones((side // 4, side // 4)))  # coarse: a shift keeps most of it
    split = ("train",) * train + ("public",) * other + ("private",) * other
    labels = np.arange(len(split)) % len(classes)
    images = patterns[labels] + rng.normal(0, 40, (len(split), side, side))
    return Expressions(torch.from_numpy(images.clip(0, 255).astype(np.uint8)), torch.from_numpy(labels), split, classes, "drawn", "0" * 64)


def write_npz(path: Path, data: Expressions) -> Path:
    names = {name: number for number, name in enumerate(("train", "public", "private"))}
    np.savez(
        path,
        images=data.images.numpy(),
        labels=data.labels.numpy(),
        split=np.array([names[each] for each in data.split], np.uint8),
        classes=np.array(data.classes),
    )
    return path
