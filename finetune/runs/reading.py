"""What a run folder holds, read for its report and checked field by field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

from finetune.errors import FinetuneError
from finetune.labels import SPLIT_ORDER
from finetune.runs.metrics import Predictions, Scores, read_json, read_predictions, reported_split

Epoch = dict[str, object]  # a line of metrics.jsonl


class Selected(TypedDict):
    """Which weights a run kept: on None, the last epoch's. "weights" is "model" or "ema"."""

    epoch: int
    weights: str
    on: str | None
    accuracy: float | None


class Result(TypedDict):
    """The fields of result.json that the report reads; read_run() has checked them."""

    selected: Selected
    scores: dict[str, Scores]
    seconds: float


class Source(TypedDict):
    """What config.json says of the data."""

    name: str
    sha256: str
    counts: dict[str, int]
    notes: list[str]


@dataclass(frozen=True)
class RunFiles:
    """result and predictions are None until the run is done."""

    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    epochs: list[Epoch]
    result: Result | None
    predictions: Predictions | None


def read_run(path: Path) -> RunFiles:
    """Raises FinetuneError where `path` is no run folder, or a file in it is damaged."""
    config = read_json(path / "config.json")
    for name, kind in CONFIG_FIELDS.items():
        field(config, path / "config.json", name, kind)
    environment = read_json(path / "environment.json")
    epochs = read_lines(path / "metrics.jsonl")
    if not (path / "result.json").exists():
        return RunFiles(path, config, environment, epochs, None, None)
    result, predictions = read_json(path / "result.json"), read_predictions(path)
    if predictions.classes != tuple(config["classes"]):
        raise FinetuneError(f"{path}: config.json and predictions.safetensors name different classes; they are of two runs")
    for name, kind in RESULT_FIELDS.items():
        field(result, path / "result.json", name, kind)
    for label in result["scores"]:
        field(result["scores"], path / "result.json", label, dict)
    if (on := result["selected"].get("on")) not in (*SPLIT_ORDER, None):
        raise FinetuneError(f"{path / 'result.json'}, selected.on: {on!r}; expected {', '.join(SPLIT_ORDER)} or null")
    row = field(result["scores"], path / "result.json", reported_split(predictions.splits), dict)
    for name, kind in SCORE_FIELDS.items():
        field(row, path / "result.json", name, kind)
    count = len(predictions.classes)
    square = [len(counts) for counts in row["confusion"] if isinstance(counts, list)] == [count] * count
    if not square or not all(isinstance(each, int) for counts in row["confusion"] for each in counts):
        raise FinetuneError(f"{path / 'result.json'}, confusion: expected {count} rows of {count} counts, one a class")
    return RunFiles(path, config, environment, epochs, cast(Result, result), predictions)


CONFIG_FIELDS: dict[str, type] = {
    "recipe": str, "protocol": str, "command": str, "config": dict, "classes": list,
    "data": dict, "data.name": str, "data.sha256": str, "data.counts": dict, "data.notes": list,
}  # fmt: skip
RESULT_FIELDS: dict[str, type] = {"selected": dict, "selected.epoch": int, "selected.weights": str, "scores": dict}
SCORE_FIELDS: dict[str, type] = {"accuracy": float, "recall": dict, "f1_per_class": dict, "confusion": list}


def field(held: Mapping[str, object], path: Path, name: str, kind: type) -> Any:
    """held["a"]["b"] where `name` is "a.b". Raises FinetuneError where it is missing or of another kind."""
    found: object = held
    for key in [name] if name in held else name.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(found, kind):
        what = "is missing" if found is None else f"is a {type(found).__name__}"
        raise FinetuneError(f"{path}: {name} {what}; expected a {kind.__name__}. Run the recipe again")
    return found


def read_lines(path: Path) -> list[Epoch]:
    """A line per epoch, in order. A resumed run may have written an epoch twice: the later line counts."""
    lines = path.read_text("utf-8", errors="replace").split("\n") if path.exists() else []
    epochs: dict[int, Epoch] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            epoch = int(values["epoch"])
            epochs[epoch] = {**values, "epoch": epoch}
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            if number == len(lines):  # no newline after it: still being written
                break
            raise FinetuneError(f"{path}, line {number}: {line[:40]!r} is no epoch's JSON ({error}); remove the line") from error
    return [epochs[epoch] for epoch in sorted(epochs)]


def number(value: object) -> float:
    """The value, or NaN where it is no finite number: a diverged run's loss, or a field that is not there."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        return math.nan
    return float(value)
