"""Several runs side by side: each one's accuracy, their mean and spread, and the mean of their probabilities.

    python -m finetune.ensemble runs/seed0 runs/seed1 runs/seed2
    python -m finetune.ensemble runs/* --json

Reads the predictions in the run folders; needs neither models nor images.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import torch

from finetune import renamed
from finetune.command import exit_status_of
from finetune.errors import FinetuneError
from finetune.labels import SPLIT_ORDER, check_classes
from finetune.runs.metrics import (
    Predictions,
    Scores,
    mean_and_deviation,
    mean_log_probability,
    read_json,
    read_predictions,
    reported_split,
    score_table,
    unit_of,
)
from zoo.terminal import Parser, say

__all__ = ["averaged", "check_alike", "main"]

SELECTING = ("public", "val")  # splits on which members may be picked without looking at the reported one
TEN_CROP = ", ten-crop"  # how metrics.labelled() ends a label


@dataclass(frozen=True)
class Member:
    """A run: the folder as it was given, what its config.json says of it, its predictions and their scores.

    unit: what its data consist of, "images" or "clips".
    """

    run: str
    recipe: str
    seed: int | None
    protocol: str
    unit: str
    predictions: Predictions
    scores: dict[str, Scores]


class Spread(TypedDict):
    """An accuracy over the runs; deviation and error are None for one run."""

    accuracy: float
    standard_deviation: float | None
    standard_error: float | None


class Row(TypedDict):
    """A run."""

    run: str
    recipe: str
    seed: int | None
    protocol: str
    scores: dict[str, Scores]


class Summary(TypedDict):
    """What --json prints. mean and ensemble are by label, as metrics.labelled() has them."""

    split: str
    data_sha256: str
    classes: list[str]
    runs: list[Row]
    mean: dict[str, Spread]
    ensemble: dict[str, Scores]


def averaged(members: Sequence[Predictions]) -> Predictions:
    """The ensemble: the mean of the members' probabilities, as its logarithm. Ten-crop logits only where all members have them.

    Raises FinetuneError unless the members are predictions for the same images.
    """
    for other in members[1:]:
        check_alike(members[0], other)
    splits = {}
    for name, held in members[0].splits.items():
        all_held = [member.splits[name] for member in members]
        crops = [each.logits_ten_crop for each in all_held if each.logits_ten_crop is not None]
        ten_crop = mean_log_probability(crops) if len(crops) == len(members) else None
        splits[name] = replace(held, logits=mean_log_probability([each.logits for each in all_held]), logits_ten_crop=ten_crop)
    return replace(members[0], splits=splits)


def check_alike(expected: Predictions, found: Predictions) -> None:
    """Raises FinetuneError unless both are predictions for the same images with the same labels, in the same order."""
    check_classes(expected.classes, found.classes)
    if expected.data_sha256 != found.data_sha256:
        hashes = f"sha256 {found.data_sha256[:16]}..., expected {expected.data_sha256[:16]}..."
        raise FinetuneError(f"made on other data: {hashes}; compare runs on the same data")
    if list(expected.splits) != list(found.splits):
        raise FinetuneError(f"predictions for {', '.join(found.splits)}, expected {', '.join(expected.splits)}; evaluate the same splits")
    for split, held in expected.splits.items():
        for name in ("rows", "labels", "copy"):
            left, right = getattr(held, name), getattr(found.splits[split], name)
            if len(left) != len(right):
                raise FinetuneError(f"{len(right):,} images of {split}, expected {len(left):,}; compare runs evaluated on the same images")
            if not torch.equal(left, right):
                place = int((left != right).nonzero()[0])
                said = f"{split}/{name}, image {place + 1}: {right[place].item()}, expected {left[place].item()}"
                raise FinetuneError(f"{said}; compare runs evaluated on the same images in the same order")


def read_members(runs: Sequence[str], split: str | None) -> tuple[list[Member], str]:
    """The runs with the splits to be shown, and the one to report: `split`, or where it is None what reported_split() says.

    Raises FinetuneError that names the run.
    """
    places = [Path(run).resolve() for run in runs]
    if twice := [run for position, run in enumerate(runs) if places[position] in places[:position]]:
        raise FinetuneError(f"{twice[0]}: given twice; a run counts once")
    held = [(run, renamed.config(read_json(Path(run) / "config.json")), read_predictions(Path(run))) for run in runs]
    reported = split or reported_split(held[0][2].splits)
    members: list[Member] = []
    for run, config, predictions in held:
        if reported not in predictions.splits:
            raise FinetuneError(f"{run}: no predictions for {reported}; it has {', '.join(predictions.splits)}. Choose another --split")
        common = [name for name in predictions.splits if all(name in other.splits for _, _, other in held)]
        shown = {name: predictions.splits[name] for name in common if name == reported or name in SELECTING}
        predictions = replace(predictions, splits=shown)
        try:
            if members:
                check_alike(members[0].predictions, predictions)
            table = score_table(predictions)
        except FinetuneError as error:
            against = f" (against {members[0].run})" if members else ""
            raise FinetuneError(f"{run}{against}: {error}") from error
        seed = found if isinstance(found := config.get("seed"), int) else None
        members.append(Member(run, str(config.get("recipe")), seed, str(config.get("protocol")), unit_of(config), predictions, table))
    return members, reported


def summary(members: Sequence[Member], split: str) -> Summary:
    """Everything that is printed, for --json."""
    whole = averaged([member.predictions for member in members])
    mean: dict[str, Spread] = {}
    for label in labels_of(members):
        if all(label in member.scores for member in members):
            middle, deviation = mean_and_deviation([member.scores[label]["accuracy"] for member in members])
            error = None if deviation is None else deviation / len(members) ** 0.5
            mean[label] = {"accuracy": middle, "standard_deviation": deviation, "standard_error": error}
    return {
        "split": split,
        "data_sha256": whole.data_sha256,
        "classes": list(whole.classes),
        "runs": [
            {"run": each.run, "recipe": each.recipe, "seed": each.seed, "protocol": each.protocol, "scores": each.scores}
            for each in members
        ],
        "mean": mean,
        "ensemble": score_table(whole),
    }


def labels_of(members: Sequence[Member]) -> list[str]:
    return list(dict.fromkeys(label for member in members for label in member.scores))


def as_text(found: Summary, members: Sequence[Member]) -> str:
    """The table for people: a line per run, their mean and spread, the ensemble; a column per split and view."""
    labels = labels_of(members)

    def line(name: str, seed: object, accuracies: Mapping[str, float | None]) -> list[str]:
        known = [accuracies.get(label) for label in labels]
        return [name, str(seed), *("-" if share is None else f"{100 * share:.2f}" for share in known)]

    mean, whole = found["mean"], found["ensemble"]
    rows = [line(each.run, "-" if each.seed is None else each.seed, accuracies(each.scores)) for each in members]
    if len(members) > 1:
        rows.append(line("mean", "", {label: row["accuracy"] for label, row in mean.items()}))
        rows.append(line("sd over runs", "", {label: row["standard_deviation"] for label, row in mean.items()}))
        rows.append(line("its standard error", "", {label: row["standard_error"] for label, row in mean.items()}))
        rows.append(line(f"ensemble of {len(members)}", "", accuracies(whole)))
    groups = [label.removesuffix(TEN_CROP) for label in labels]
    views = ["ten-crop" if label.endswith(TEN_CROP) else "single" for label in labels]
    widths = [max(len(row[column]) for row in [["run", "seed", *views], *rows]) for column in range(len(labels) + 2)]
    for column in range(len(labels)):  # a column is as wide as its group's name needs it
        inside = [other for other, group in enumerate(groups) if group == groups[column]]
        short = len(groups[column]) - sum(widths[2 + other] for other in inside) - 2 * (len(inside) - 1)
        widths[2 + inside[0]] += max(0, short)

    def laid(row: Sequence[str]) -> str:
        return "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])

    top = " " * (widths[0] + widths[1] + 2)
    for group in dict.fromkeys(groups):
        inside = [widths[2 + other] for other, name in enumerate(groups) if name == group]
        top += "  " + group.center(sum(inside) + 2 * (len(inside) - 1))
    rule = "-" * len(top)
    table = [top.rstrip(), laid(["run", "seed", *views]), rule, *map(laid, rows[: len(members)])]
    if len(members) > 1:
        table += [rule, *map(laid, rows[len(members) :])]
    return "\n".join([f"Accuracy in %: {recipes(members)}", "", *table, "", *notes(found, members)])


def accuracies(scores: Mapping[str, Scores]) -> dict[str, float | None]:
    return {label: row["accuracy"] for label, row in scores.items()}


def recipes(members: Sequence[Member]) -> str:
    names = list(dict.fromkeys(each.recipe for each in members))
    return f"recipe {names[0]}" if len(names) == 1 else f"recipes {', '.join(names)}"


def notes(found: Summary, members: Sequence[Member]) -> list[str]:
    """What a reader has to know before quoting a number."""
    split, row, unit = found["split"], found["ensemble"][found["split"]], members[0].unit
    error = f"{100 * row['standard_error']:.2f} points"
    lines = [f"One standard error at {100 * row['accuracy']:.2f} % of {row['images']:,} {unit} of {split} is {error}."]
    ten_crop = "Ten-crop is the mean of the probabilities over ten crops of each image; the ensemble, over the runs."
    lines.append(ten_crop if unit == "images" else "The ensemble is the mean of the probabilities over the runs.")
    if f"{split} without copies" in found["ensemble"]:
        left = found["ensemble"][f"{split} without copies"]["images"]
        lines.append(f"Without copies: the {left:,} {unit} of {split} that are not, byte for byte, in another part of the data as well.")
    picked = [name for name in SELECTING if name in found["ensemble"] and name != split]
    if picked and len(members) > 1:
        lines.append(f"Pick the members by {picked[0]}; picked by {split}, its number is no estimate for new {unit}.")
    if len({each.recipe for each in members}) > 1:
        lines.append("The runs are of different recipes: mean and sd are over recipes, not over seeds.")
    if seeded := [each.run for each in members if each.protocol == "best-on-reported"]:
        lines.append(f"Optimistic, for their epoch is the best on the split they report (protocol best-on-reported): {', '.join(seeded)}.")
    if lacking := [each.run for each in members if each.predictions.splits[split].logits_ten_crop is None]:
        lines += [f"No ten-crop predictions for {split}: {', '.join(lacking)}."] if len(lacking) < len(members) else []
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 1 for runs that cannot be read or compared."""
    parser = Parser(
        prog="python -m finetune.ensemble",
        description="Runs side by side: each one's accuracy, their mean and spread, and the mean of their probabilities.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder (the --out of a recipe), finished")
    parser.add_argument("--split", choices=SPLIT_ORDER[1:], help="the split to report (default: private, else test, else val)")
    parser.add_argument("--json", action="store_true", help="print all scores as JSON")
    options = parser.parse_args(argv)

    def work() -> None:
        members, split = read_members(options.runs, options.split)
        found = summary(members, split)
        try:
            say(json.dumps(found, indent=1) if options.json else as_text(found, members))
        except BrokenPipeError:  # ... | head
            sys.stderr.close()

    return exit_status_of(work)


if __name__ == "__main__":
    sys.exit(main())
