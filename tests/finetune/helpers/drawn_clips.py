"""Drawn clips: each class is a pattern of its own under noise, each clip of another length, each person in several classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from finetune.clips.data import Clips

CLASSES = ("angry", "happy", "neutral", "sad")


def clips(count: int = 40, val: int = 12, people: int = 10, side: int = 16, longest: int = 7, colour: bool = False, seed: int = 0) -> Clips:
    """`count` training clips and `val` of val; lengths 1, 2, ..., longest, 1, ..."""
    rng = np.random.default_rng(seed)
    patterns = np.kron(rng.uniform(40, 215, (len(CLASSES), 4, 4)), np.ones((side // 4, side // 4)))
    lengths = 1 + np.arange(count + val) % longest
    offsets = np.cumsum([0, *lengths])
    labels = np.arange(count + val) % len(CLASSES)
    frames = patterns[np.repeat(labels, lengths)][:, None] + rng.normal(0, 40, (offsets[-1], 3 if colour else 1, side, side))
    pixels = torch.from_numpy(frames.clip(0, 255).astype(np.uint8))
    split = ("train",) * count + ("val",) * val
    ids = tuple(f"video{number:03}" for number in range(count + val))
    subjects = tuple(f"S{number * 7 % people:03}" for number in range(count + val))
    pixels = pixels if colour else pixels[:, 0]
    return Clips(pixels, torch.from_numpy(offsets), torch.from_numpy(labels), split, CLASSES, ids, subjects, "drawn", "0" * 64)


def write_npz(path: Path, data: Clips, *, subjects: bool = True) -> Path:
    arrays = {
        "frames": data.frames.numpy(), "offsets": data.offsets.numpy(), "labels": np.array([data.classes[label] for label in data.labels]),
        "ids": np.array(data.ids), "split": np.array(data.split), "classes": np.array(data.classes),
    }  # fmt: skip
    if subjects and data.subjects is not None:
        arrays["subjects"] = np.array(data.subjects)
    np.savez(path, **arrays)
    return path
