"""Numbers for what a net predicted: scores from logits, and the predictions of a run from which they are taken.

    scores(logits, labels, classes)["accuracy"]
    score_table(read_predictions(run))          # {"public": ..., "private": ..., "private, ten-crop": ...}

The format of a run's predictions is described at Predictions.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from finetune.errors import FinetuneError
from finetune.labels import SPLIT_ORDER
from finetune.protocol import REPORTED

__all__ = [
    "Predictions", "Scores", "SplitPredictions", "calibration_bins", "labelled", "mean_and_deviation", "mean_log_probability",
    "read_json", "read_predictions", "reported_split", "score_table", "scores", "unit_of",
]  # fmt: skip

CALIBRATION_BINS = 15  # Guo et al. 2017, On Calibration of Modern Neural Networks, section 2


class Scores(TypedDict):
    """What scores() returns: numbers, lists and dicts only, so json.dump takes it. Shares are 0..1."""

    images: int
    accuracy: float
    standard_error: float  # of the accuracy, binomial: sqrt(a (1 - a) / images); 0 where all or none are right
    mean_recall: float  # balanced accuracy: over the classes that have images
    f1: float  # macro: over the classes that have images or were predicted
    recall: dict[str, float | None]  # None: the class has no image
    f1_per_class: dict[str, float | None]  # None: the class has no image and was never predicted
    confusion: list[list[int]]  # [truth][prediction], counts
    calibration_error: float  # of the highest probability, over 15 equal bins, weighted by images
    negative_log_likelihood: float  # mean, in nats


# --- scores ---------------------------------------------------------------------------------------------------------------------------


def scores(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> Scores:
    """Scores of logits (N, K) for labels (N,) in 0..K-1, K being len(classes). Probabilities are the softmax of the logits, in float64.

    The prediction is the highest logit; of equal ones, the lowest label. A class without images has recall None and counts
    neither for nor against `mean_recall`; where it was predicted all the same, its F1 is 0 and counts in `f1`, as in scikit-learn.
    Raises FinetuneError for no images, shapes or labels that do not fit the classes, and logits that are NaN or infinite.
    """
    from torchmetrics.functional import classification  # takes seconds to import

    check(logits, labels, classes)
    logits, labels = logits.detach().cpu().double(), labels.detach().cpu().long()
    count, predicted, probabilities = len(classes), logits.argmax(1), logits.softmax(1)
    confusion = classification.multiclass_confusion_matrix(predicted, labels, count)
    recall = classification.multiclass_recall(predicted, labels, count, average=None)
    f1 = classification.multiclass_f1_score(predicted, labels, count, average=None)
    present, seen = confusion.sum(1) > 0, confusion.sum(0) > 0
    accuracy = int(confusion.trace()) / len(labels)
    return {
        "images": len(labels),
        "accuracy": accuracy,
        "standard_error": math.sqrt(accuracy * (1 - accuracy) / len(labels)),
        "mean_recall": recall[present].mean().item(),
        "f1": f1[present | seen].mean().item(),
        "recall": by_class(classes, recall, present),
        "f1_per_class": by_class(classes, f1, present | seen),
        "confusion": confusion.tolist(),
        "calibration_error": classification.multiclass_calibration_error(probabilities, labels, count, CALIBRATION_BINS).item(),
        "negative_log_likelihood": torch.nn.functional.cross_entropy(logits, labels).item(),
    }


def by_class(classes: Sequence[str], values: Tensor, known: Tensor) -> dict[str, float | None]:
    return {name: value if here else None for name, value, here in zip(classes, values.tolist(), known.tolist(), strict=True)}


def check(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
    """Raises FinetuneError unless scores can be taken."""
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if list(classes).count(name) > 1)
        raise FinetuneError(f"class {twice!r} is named twice; scores are kept by class name: rename one")
    if logits.ndim != 2 or logits.shape[1] != len(classes) or labels.shape != logits.shape[:1]:
        shapes = f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)}"
        raise FinetuneError(f"{shapes} for {len(classes)} classes; expected (N, {len(classes)}) and (N,)")
    if not len(labels):
        raise FinetuneError("no images to take scores of; the split is empty")
    if bool((wrong := (labels < 0) | (labels >= len(classes))).any()):
        row = int(wrong.nonzero()[0])
        raise FinetuneError(f"image {row + 1}: label {int(labels[row])}, but there are {len(classes)} classes: {', '.join(classes)}")
    if not bool((sound := logits.isfinite().all(1)).all()):
        bad = (~sound).nonzero().flatten()
        values = ", ".join(f"{value:g}" for value in logits[bad[0]].tolist()[:8])
        raise FinetuneError(
            f"image {int(bad[0]) + 1}: logits {values}; {len(bad):,} of {len(labels):,} images have NaN or infinite logits."
            " Training has diverged: lower the learning rate, or clip gradients"
        )


def calibration_bins(logits: Tensor, labels: Tensor, bins: int = CALIBRATION_BINS) -> list[tuple[int, float, float]]:
    """(images, mean confidence, accuracy) of each of `bins` equal intervals of the highest probability, (0, 0, 0) where empty.

    A confidence on the edge of two intervals belongs to the upper one, 1 to the last one.
    """
    confidence, predicted = logits.detach().cpu().double().softmax(1).max(1)
    place = (confidence * bins).floor().long().clamp(max=bins - 1)
    right = (predicted == labels.cpu()).double()
    inside = [place == position for position in range(bins)]
    return [(int(b.sum()), confidence[b].mean().item(), right[b].mean().item()) if bool(b.any()) else (0, 0.0, 0.0) for b in inside]


def mean_log_probability(logits: Sequence[Tensor]) -> Tensor:
    """The log of the mean of the softmax over views or models: each (N, K), the result (N, K).

    Its softmax is that mean, so it stands wherever logits do. Half precision is computed in float32. NaN stays NaN.
    Raises FinetuneError for no tensors or different shapes.
    """
    shapes = {tuple(each.shape) for each in logits}
    if len(shapes) != 1:
        found = ", ".join(map(str, sorted(shapes))) or "none"
        raise FinetuneError(f"logits to average: {found}; expected one shape (N, K), of the same images in the same order")
    wide = [each if each.dtype == torch.float64 else each.float() for each in logits]
    return torch.stack([each.log_softmax(-1) for each in wide]).logsumexp(0) - math.log(len(wide))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the sample standard deviation (n - 1), which one value has not. Raises FinetuneError for no values."""
    if not values:
        raise FinetuneError("the mean of no values was asked for")
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


# --- a run folder's files -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SplitPredictions:
    """logits and logits_ten_crop (n, K) float, labels and rows in the data (n,) int64, copy (n,) bool: see Predictions."""

    logits: Tensor
    labels: Tensor
    rows: Tensor
    copy: Tensor
    logits_ten_crop: Tensor | None = None


@dataclass(frozen=True)
class Predictions:
    """predictions.safetensors of a run folder: a tensor "private/logits" there is splits["private"].logits here.

    logits_ten_crop is the log of the mean probability over ten crops; copy says which images have a byte-identical one in
    another part of the data, as in train; data_sha256 is Expressions.sha256. Splits come in the order public, private, val, test.
    """

    classes: tuple[str, ...]
    data_sha256: str
    splits: dict[str, SplitPredictions]


def unit_of(config: Mapping[str, object]) -> str:
    """What a run's data consist of, by its config.json: "clips" for a recipe that samples frames, else "images"."""
    recipe = config.get("config")
    return "clips" if isinstance(recipe, Mapping) and "sampling" in recipe else "images"


def read_json(path: Path) -> dict[str, Any]:
    """The object in one of a run folder's .json files. Raises FinetuneError where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FinetuneError(f"{path}: no JSON, or cut short ({error}); run the recipe again") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FinetuneError(f"{path}: no such file, so {path.parent} is no run folder; a recipe's --out makes one") from error
    if not isinstance(found, dict):
        raise FinetuneError(f"{path}: a JSON {type(found).__name__}; expected an object. Run the recipe again")
    return found


def read_predictions(run: Path) -> Predictions:
    """The predictions in a run folder. Raises FinetuneError where there are none, or they are not as described above."""
    from safetensors import SafetensorError, safe_open

    path = Path(run) / "predictions.safetensors"
    if not path.is_file():
        raise FinetuneError(f"{path}: no such file; a recipe writes it when it is done. Is {run} a run folder (--out), and finished?")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
        classes, data_sha256 = json.loads(about["classes"]), about["data_sha256"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise FinetuneError(f"{path}: not the predictions of a run, or cut short ({error}); evaluate the run again") from error
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise FinetuneError(f"{path}, metadata classes: {about['classes'][:60]!r}; expected a JSON list of names")
    present = {name.partition("/")[0] for name in tensors}
    if not present or not present <= set(SPLIT_ORDER):
        raise FinetuneError(f"{path}: tensors of {', '.join(sorted(present)) or 'no split'}; expected {', '.join(SPLIT_ORDER[1:])}")
    splits = {name: split_predictions(name, tensors, len(classes), path) for name in SPLIT_ORDER if name in present}
    return Predictions(tuple(classes), data_sha256, splits)


def split_predictions(split: str, tensors: dict[str, Tensor], classes: int, path: Path) -> SplitPredictions:
    fields = {name.partition("/")[2]: tensor for name, tensor in tensors.items() if name.partition("/")[0] == split}
    if missing := [name for name in ("logits", "labels", "rows", "copy") if name not in fields]:
        raise FinetuneError(f"{path}: no tensor {split}/{missing[0]}; it has {', '.join(sorted(tensors))}")
    count = fields["labels"].numel()
    known = {
        "logits": ((count, classes), torch.float32), "logits_ten_crop": ((count, classes), torch.float32),
        "labels": ((count,), torch.int64), "rows": ((count,), torch.int64), "copy": ((count,), torch.bool),
    }  # fmt: skip
    for name, (shape, dtype) in known.items():
        if name in fields and (tuple(fields[name].shape), fields[name].dtype) != (shape, dtype):
            found = f"{fields[name].dtype} of shape {tuple(fields[name].shape)}"
            raise FinetuneError(f"{path}, {split}/{name}: {found}; expected {dtype} of shape {shape}")
    if count and not 0 <= int(fields["labels"].min()) <= int(fields["labels"].max()) < classes:
        raise FinetuneError(f"{path}, {split}/labels: outside 0..{classes - 1}, the {classes} classes; evaluate the run again")
    return SplitPredictions(**{name: fields[name] for name in known if name in fields})


def reported_split(splits: Iterable[str]) -> str:
    """The split whose accuracy is the headline: private, test, val or public, the first that is there. Raises FinetuneError."""
    found = set(splits)
    if not (known := [split for split in REPORTED if split in found]):
        raise FinetuneError(f"no split to report among {', '.join(sorted(found)) or 'none'}; expected one of {', '.join(REPORTED)}")
    return known[0]


def labelled(split: str, held: SplitPredictions) -> dict[str, tuple[Tensor, Tensor]]:
    """{label: (logits, labels)}: "private", "private, ten-crop", "private without copies", "private without copies, ten-crop".

    Those for which there is something: no ten-crop logits, no such row; "without copies" only where there are copies and other
    images, and never for "public", which picks epochs and members and is not what a run is known by.
    """
    views = {"": held.logits} if held.logits_ten_crop is None else {"": held.logits, ", ten-crop": held.logits_ten_crop}
    rows = {f"{split}{ending}": (logits, held.labels) for ending, logits in views.items()}
    kept = ~held.copy
    if split != "public" and bool(held.copy.any()) and bool(kept.any()):
        rows |= {f"{split} without copies{ending}": (logits[kept], held.labels[kept]) for ending, logits in views.items()}
    return rows


def score_table(predictions: Predictions) -> dict[str, Scores]:
    """The scores of every split, as labelled() names them. Raises FinetuneError, naming the label."""
    table = {}
    for split, held in predictions.splits.items():
        for label, (logits, labels) in labelled(split, held).items():
            try:
                table[label] = scores(logits, labels, predictions.classes)
            except FinetuneError as error:
                raise FinetuneError(f"{label}: {error}") from error
    return table
