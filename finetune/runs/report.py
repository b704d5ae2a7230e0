"""report.html of a run: one page that holds everything it shows, and needs neither network nor scripts.

    write_report(Path("runs/a"), faces.part("private").images)

templates/report.html is the page; here is what it says. Every word from a run folder is escaped; class names come from strangers'
folders.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from finetune import renamed
from finetune.errors import FinetuneError
from finetune.protocol import SAMPLE
from finetune.runs import drawings
from finetune.runs.metrics import Predictions, Scores, SplitPredictions, calibration_bins, reported_split, unit_of
from finetune.runs.reading import Epoch, Result, RunFiles, Source, number, read_run
from zoo.disk import replacing

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["write_report"]

MISTAKES = 24
Facts = dict[str, object]  # what the template reads


def write_report(run: Path, pictures: Tensor | None = None) -> Path:
    """Writes RUN/report.html, whole or not at all, and returns its path. Of a run that is not finished it shows what there is.

    pictures: the images of the reported split (see metrics.reported_split), in the order of its predictions: (n, H, W) or (n, 3, H, W)
    uint8, 0..255, RGB. Without them the page shows no mistakes.
    Raises FinetuneError where `run` is no run folder, a file in it is damaged, or the pictures are not those of the predictions.
    """
    files = read_run(Path(run))
    with drawings.own_settings():
        page = template().render(facts_of(files, pictures))
    path = Path(run) / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")  # a folder's name may hold bytes that are no UTF-8
    return path


def template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("finetune.runs"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html")


def facts_of(run: RunFiles, pictures: Tensor | None) -> Facts:
    """Everything that the page says."""
    config, unit = run.config, unit_of(run.config)
    count = len(run.epochs)
    done = f"{count} {'epoch is' if count == 1 else 'epochs are'} done" if count else "no epoch is done yet"
    facts: Facts = {
        "title": f"{config['recipe']} on {config['data']['name']}",
        "unit": unit,
        "epochs": count,
        "epochs_done": done,
        "training": training(run),
        "command": config["command"],
        "data": shown(source(config["data"], unit)),
        "settings": shown({**{name: value for name, value in config.items() if name not in APART}, **flat(config["config"])}),
        "environment": shown(flat(run.environment)),
        "finished": run.result is not None,
        "sample": SAMPLE in config["data"]["notes"],
    }
    if run.result is None or run.predictions is None:
        return facts
    split, scores = reported_split(run.predictions.splits), run.result["scores"]
    held = run.predictions.splits[split]
    return {
        **facts,
        "split": split,
        "headline": headline(run.result, renamed.protocol(config["protocol"]), split),
        "scores": [score_row(label, row) for label, row in scores.items()],
        "copies": any("without copies" in label for label in scores),
        "only_copies": bool(held.copy.all()),
        "classes": by_class(scores[split], run.predictions.classes),
        "calibration": drawings.calibration(calibration_bins(held.logits, held.labels), unit),
        "mistakes": None if pictures is None else mistakes(run.path, run.predictions, split, pictures, unit),
    }


APART = ("command", "data", "classes", "config")  # fields of config.json that have a place of their own


def headline(result: Result, protocol: object, split: str) -> Facts:
    """The figures that the run is known by, and which epoch they are of."""
    selected = result["selected"]
    on = selected.get("on")
    return {
        "tiles": [
            {"label": label, "accuracy": percent(row.get("accuracy")), "spread": spread(row)}
            for label, row in result["scores"].items()
            if label == split or label.startswith((f"{split},", f"{split} "))
        ],
        "epoch": selected["epoch"],
        "weights": "the averaged (EMA) weights" if selected["weights"] == "ema" else "the trained weights",
        "why": "the last one" if on is None else f"selected on {on} ({percent(selected.get('accuracy'))} % there)",
        "on": on,
        "optimistic": on is not None and (protocol == "best-on-reported" or on == split),
    }


def score_row(label: str, row: Scores) -> list[str]:
    shares = [percent(row.get(name)) for name in ("mean_recall", "f1", "calibration_error")]
    loss = plain(row.get("negative_log_likelihood"), ".3f")
    return [label, plain(row.get("images"), ",.0f"), f"{percent(row.get('accuracy'))} {spread(row)}", *shares, loss]


def by_class(row: Scores, classes: Sequence[str]) -> list[Facts]:
    """Each class with its recall and F1, and its row of the confusion matrix."""
    found: list[Facts] = []
    for name, counts in zip(classes, row["confusion"], strict=True):
        values = [number(row["recall"].get(name)), number(row["f1_per_class"].get(name))]
        shares = [count / sum(counts) if sum(counts) else 0.0 for count in counts]
        bars = [{"share": f"{0 if math.isnan(value) else value:.3f}", "percent": percent(value)} for value in values]
        cells = [
            {"share": f"{share:.3f}", "count": f"{count:,}", "percent": f"{100 * share:.0f}"}
            for count, share in zip(counts, shares, strict=True)
        ]
        found.append({"name": name, "count": f"{sum(counts):,}", "bars": bars, "cells": cells})
    return found


def mistakes(path: Path, predictions: Predictions, split: str, pictures: Tensor, unit: str) -> Facts:
    """The most confident ones, each with its picture."""
    held, classes = predictions.splits[split], predictions.classes
    check_pictures(path, pictures, held, split, unit)
    confidence, predicted = held.logits.double().softmax(1).max(1)
    wrong = (predicted != held.labels).nonzero().flatten()
    total = len(wrong)
    wrong = wrong[confidence[wrong].argsort(descending=True, stable=True)][:MISTAKES]
    faces = [
        {
            "truth": classes[int(held.labels[place])],
            "said": classes[int(predicted[place])],
            "sure": percent(confidence[place].item(), 0),
            "row": f"{int(held.rows[place]):,}",
            "png": png(pictures[place]),
        }
        for place in wrong.tolist()
    ]
    return {"shown": faces, "total": f"{total:,}"}


def check_pictures(path: Path, pictures: Tensor, held: SplitPredictions, split: str, unit: str) -> None:
    shape = tuple(pictures.shape)
    if pictures.dtype != torch.uint8 or not (len(shape) == 3 or (len(shape) == 4 and shape[1] == 3)) or shape[0] != len(held.labels):
        found = f"pictures are {pictures.dtype} of shape {shape}"
        expected = f"uint8 ({len(held.labels)}, H, W) or ({len(held.labels)}, 3, H, W), one for each {unit[:-1]} of {split}"
        raise FinetuneError(f"{path}: {found}; expected {expected}")


def png(picture: Tensor) -> str:
    """The picture (H, W) or (3, H, W) as a PNG file in base64."""
    from PIL import Image

    stream = io.BytesIO()
    array = picture.cpu().contiguous().numpy() if picture.ndim == 2 else picture.cpu().permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(array).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def training(run: RunFiles) -> Facts | None:
    """Curves, times, and the epochs as a table."""
    if not run.epochs:
        return None
    selected = None if run.result is None else number(run.result["selected"]["epoch"])
    last = run.epochs[-1]
    fields = list(dict.fromkeys(name for line in run.epochs for name in line))
    return {
        "plots": curves(run, selected),
        "mark": "" if selected is None else f"The dashed line is the selected epoch, {selected:.0f}.",
        "facts": {
            "epochs": f"{len(run.epochs):,}",
            "training": duration(sum(filter(math.isfinite, (number(line.get("seconds")) for line in run.epochs)))),
            **({} if run.result is None else {"all, with evaluation": duration(number(run.result.get("seconds")))}),
            f"{unit_of(run.config)}/s (last epoch)": plain(last.get("images_per_s"), ",.0f"),
            "memory, MB": plain(last.get("memory_mb"), ",.0f"),
        },
        "fields": fields,
        "rows": [[plain(line.get(name), ".5g") for name in fields] for line in run.epochs],
    }


def curves(run: RunFiles, selected: float | None) -> list[str]:
    on = "selection split" if run.result is None else run.result["selected"].get("on") or "none"
    loss = {"train": "loss", on: "select_loss", f"{on}, EMA": "ema_select_loss"}
    accuracy = {f"train (augmented {unit_of(run.config)})": "accuracy", on: "select_accuracy", f"{on}, EMA": "ema_select_accuracy"}
    epochs: Sequence[Epoch] = run.epochs
    return [
        drawings.curve(epochs, "Loss", loss, selected),
        drawings.curve(epochs, "Accuracy, %", accuracy, selected, scale=100),
        drawings.curve(epochs, "Learning rate", {"learning rate": "lr"}, selected, height=1.7),
    ]


def source(data: Source, unit: str) -> Facts:
    """What config.json says of the data."""
    found: Facts = {"name": data["name"], "sha256": data["sha256"]}
    found |= {f"{unit} in {split}": plain(count, ",.0f") for split, count in data["counts"].items()}
    return found | {f"note {position}": note for position, note in enumerate(data["notes"], 1)}


def flat(values: Mapping[str, object], prefix: str = "") -> Facts:
    """Nested settings as dotted names."""
    found: Facts = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return found


def shown(facts: Mapping[str, object]) -> dict[str, str]:
    """JSON values as a reader says them."""

    def text(value: object) -> str:
        if isinstance(value, list) and not any(isinstance(each, list | dict) for each in value):
            return ", ".join(map(str, value)) or "none"
        return {None: "none", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)

    return {name: text(value) for name, value in facts.items()}


def percent(share: object, digits: int = 2) -> str:
    return plain(100 * number(share), f".{digits}f")


def spread(row: Mapping[str, object]) -> str:
    return f"± {percent(row.get('standard_error'))}"


def plain(value: object, style: str) -> str:
    return "–" if math.isnan(number(value)) else format(number(value), style)


def duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
