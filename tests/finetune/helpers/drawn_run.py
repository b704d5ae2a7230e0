"""A run folder with drawn numbers, written after the format's description and not with the package's own code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
SHARES = (0.137, 0.015, 0.147, 0.245, 0.166, 0.116, 0.174)
SHA256 = "5f" * 32
IMAGES = {"public": 120, "private": 150}


def logits_for(labels: np.ndarray, rng: np.random.Generator, classes: int, skill: float = 2.2) -> np.ndarray:
    """(n, K) float32: noise, and `skill` more on the true class."""
    drawn = rng.normal(0, 1.4, (len(labels), classes))
    drawn[np.arange(len(labels)), labels] += skill
    return drawn.astype(np.float32)


def predictions(
    seed: int = 0, images: Mapping[str, int] = IMAGES, classes: Sequence[str] = CLASSES, ten_crop: bool = True
) -> dict[str, torch.Tensor]:
    """Tensors of predictions.safetensors. Labels, rows and copies are the same for every seed: the data are."""
    tensors = {}
    start = 28709
    for number, (split, count) in enumerate(images.items()):
        data, net = np.random.default_rng(number), np.random.default_rng([number, seed])
        shares = np.resize(SHARES, len(classes))
        labels = data.choice(len(classes), count, p=shares / shares.sum())
        logits = logits_for(labels, net, len(classes))
        tensors[f"{split}/logits"] = torch.from_numpy(logits)
        tensors[f"{split}/labels"] = torch.from_numpy(labels)
        tensors[f"{split}/rows"] = torch.arange(start, start + count)
        tensors[f"{split}/copy"] = torch.from_numpy(data.random(count) < 0.1) & (split == "private")
        if ten_crop:
            views = [torch.from_numpy(logits + net.normal(0, 0.5, logits.shape).astype(np.float32)).softmax(1) for _ in range(10)]
            tensors[f"{split}/logits_ten_crop"] = torch.stack(views).mean(0).log()
        start += count
    return tensors


def write_predictions(run: Path, tensors: dict[str, torch.Tensor], classes: Sequence[str] = CLASSES, data_sha256: str = SHA256) -> None:
    save_file(tensors, run / "predictions.safetensors", metadata={"classes": json.dumps(list(classes)), "data_sha256": data_sha256})


def metrics_lines(epochs: int = 40, ema: bool = True) -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    lines = []
    for epoch in range(1, epochs + 1):
        fall = float(np.exp(-epoch / (0.3 * epochs)))
        line: dict[str, Any] = {
            "epoch": epoch, "step": epoch * 112, "lr": 0.05 * (1 + float(np.cos(np.pi * epoch / epochs))), "loss": 0.62 + 1.2 * fall,
            "accuracy": 0.80 - 0.5 * fall, "images_per_s": 9000 + float(rng.normal(0, 90)), "seconds": 3.2, "memory_mb": 5120.0,
            "select_loss": 0.95 + 0.8 * fall + float(rng.normal(0, 0.02)),
            "select_accuracy": 0.70 - 0.4 * fall + float(rng.normal(0, 0.008)),
        }  # fmt: skip
        if ema:
            line |= {"ema_select_loss": 0.88 + 1.1 * fall, "ema_select_accuracy": 0.715 - 0.55 * fall}
        lines.append(line)
    return lines


def score(logits: torch.Tensor, labels: torch.Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """A scores() of numpy's own."""
    values, truth = logits.double().numpy(), labels.numpy()
    probabilities = np.exp(values - values.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    guess, confidence = values.argmax(1), probabilities.max(1)
    confusion = np.zeros((len(classes), len(classes)), int)
    np.add.at(confusion, (truth, guess), 1)
    recall: dict[str, float | None] = {}
    f1: dict[str, float | None] = {}
    for label, name in enumerate(classes):
        hit, true, said = confusion[label, label], confusion[label].sum(), confusion[:, label].sum()
        recall[name] = hit / true if true else None
        f1[name] = 2 * hit / (true + said) if true + said else None
    accuracy = float((guess == truth).mean())
    error = 0.0
    for low in range(15):
        inside = (confidence >= low / 15) & ((confidence < (low + 1) / 15) | (low == 14))
        if inside.any():
            error += inside.mean() * abs((guess == truth)[inside].mean() - confidence[inside].mean())
    return {
        "images": len(truth),
        "accuracy": accuracy,
        "standard_error": float(np.std(guess == truth) / np.sqrt(len(truth))),
        "mean_recall": float(np.mean([each for each in recall.values() if each is not None])),
        "f1": float(np.mean([each for each in f1.values() if each is not None])),
        "recall": recall,
        "f1_per_class": f1,
        "confusion": confusion.tolist(),
        "calibration_error": float(error),
        "negative_log_likelihood": float(-np.log(probabilities[np.arange(len(truth)), truth]).mean()),
    }


def result(tensors: Mapping[str, torch.Tensor], classes: Sequence[str], on: str, protocol: str, epoch: int, weights: str) -> dict[str, Any]:
    table = {}
    for split in dict.fromkeys(name.partition("/")[0] for name in tensors):
        views = [("", tensors[f"{split}/logits"])]
        if split != "public" and f"{split}/logits_ten_crop" in tensors:
            views.append((", ten-crop", tensors[f"{split}/logits_ten_crop"]))
        labels, kept = tensors[f"{split}/labels"], ~tensors[f"{split}/copy"]
        for middle, rows in [("", torch.ones_like(kept)), (" without copies", kept)]:
            if middle and rows.all():
                continue
            for ending, logits in views:
                table[f"{split}{middle}{ending}"] = score(logits[rows], labels[rows], classes)
    return {
        "protocol": protocol,
        "selected": {"epoch": epoch, "weights": weights, "on": on, "accuracy": table[on]["accuracy"]},
        "scores": table,
        "seconds": 151.3,
        "images_per_s": 9003.2,
        "memory_mb": 5120.0,
    }


def draw_run(
    run: Path,
    *,
    seed: int = 0,
    recipe: str = "mobilefacenet",
    classes: Sequence[str] = CLASSES,
    images: Mapping[str, int] = IMAGES,
    on: str = "public",
    protocol: str = "honest",
    epochs: int = 40,
    ema: bool = True,
    ten_crop: bool = True,
    data_sha256: str = SHA256,
    finished: bool = True,
) -> Path:
    """Writes config.json, environment.json, metrics.jsonl and, where finished, predictions.safetensors and result.json."""
    run.mkdir(parents=True)
    config = {
        "recipe": recipe,
        "command": f"python -m finetune.fer2013 --recipe {recipe} --data fer2013.csv --out {run.name} --seed {seed}",
        "protocol": protocol,
        "seed": seed,
        "data": {
            "name": "fer2013.csv",
            "sha256": data_sha256,
            "counts": {"train": 28709, **images},
            "notes": ["2 rows without pixels were left out"],
        },
        "classes": list(classes),
        "config": {"batch": 256, "epochs": epochs, "optimizer": {"lr": 0.1, "momentum": 0.9, "nesterov": True}, "taps": ["pool", "top"]},
        "started": "2025-01-31T10:00:00+00:00",
    }
    environment = {
        "python": "3.12.3", "torch": "2.6.0", "device": "NVIDIA H100", "processes": 1, "commit": None,
        "packages": {"numpy": "2.1.0", "torchmetrics": "1.6.1"},
    }  # fmt: skip
    (run / "config.json").write_text(json.dumps(config))
    (run / "environment.json").write_text(json.dumps(environment))
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics_lines(epochs, ema)))
    if finished:
        tensors = predictions(seed, images, classes, ten_crop)
        write_predictions(run, tensors, classes, data_sha256)
        done = result(tensors, classes, on, protocol, max(1, epochs * 9 // 10), "ema" if ema else "model")
        (run / "result.json").write_text(json.dumps(done))
    return run


def draw_pictures(count: int, side: int = 48, channels: int | None = None) -> torch.Tensor:
    """(count, side, side) or (count, 3, side, side) uint8: round faces whose mouth bends a little, at random."""
    rng = np.random.default_rng(11)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    faces = []
    for _ in range(count):
        bend, wide = rng.uniform(-0.6, 0.6), rng.uniform(0.2, 0.4)
        face = 70 + 130 * (x**2 / 0.6 + y**2 / 0.85 < 1) + rng.normal(0, 6, x.shape)
        face[(np.abs(x) - wide) ** 2 + (y + 0.25) ** 2 < 0.012] = 20
        face[(np.abs(y - 0.45 + bend * (x**2 - 0.08)) < 0.06) & (np.abs(x) < 0.4)] = 40
        faces.append(face.clip(0, 255).astype(np.uint8))
    pictures = torch.from_numpy(np.stack(faces))
    return pictures if channels is None else pictures[:, None].repeat(1, channels, 1, 1)
