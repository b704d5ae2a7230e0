"""FER+: the votes of ten people for each image of FER2013 (Barsoum et al. 2016), joined to the images and made targets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from finetune.errors import FinetuneError
from finetune.files import numbered_lines, opened
from finetune.images.data import Expressions
from finetune.labels import FER2013, canonical, split_of
from finetune.protocol import Plan

# The ten columns of fer2013new.csv (microsoft/FERPlus), counts of ten people each; NF is "no face".
FERPLUS_VOTES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
# On FER2013 the most voted FER+ class is the label on 63 % of all rows and 58 % of the worst thousand; one row off, on 20 %.
LEAST_AGREEMENT = 0.4


def with_votes(data: Expressions, path: str | os.PathLike[str]) -> Expressions:
    """Joins FER+'s fer2013new.csv row by row: the file has fer2013.csv's rows in its order (FERPlus README).

    Raises FinetuneError where the file and `data` cannot be in the same order: another number of rows, another Usage, or a
    thousand rows whose most voted class is seldom the label.
    """
    with opened(Path(path)) as stream:
        some = islice(numbered_lines(stream, str(path)), 2 * len(data) + 100)  # blank lines may stand between; any more don't belong
        lines = [(number, line.decode("utf-8", "replace").split(",")) for number, line in some]
    rows = [(number, [field.strip(' "\t\r\n\0\ufeff') for field in fields]) for number, fields in lines]
    header = [field.lower() for field in rows[0][1]]
    missing = [name for name in FERPLUS_VOTES if name.lower() not in header]
    if missing or "usage" not in header:
        raise FinetuneError(f"{path}, line 1: no column {', '.join(missing) or 'Usage'}; expected FER+'s fer2013new.csv")
    body = [(number, fields) for number, fields in rows[1:] if any(fields)]
    if len(body) != len(data):
        raise FinetuneError(f"{path}: {len(body):,} rows for {len(data):,} images of {data.name}; votes join to the whole of fer2013.csv")
    columns, usage = [header.index(name.lower()) for name in FERPLUS_VOTES], header.index("usage")
    votes = torch.empty(len(data), len(columns))
    for row, (number, fields) in enumerate(body):
        place = f"{path}, line {number} (row {row + 1})"
        if len(fields) != len(header):
            raise FinetuneError(f"{place}: {len(fields)} fields where the header has {len(header)}; fetch the file again")
        if split_of(fields[usage]) != data.split[row]:
            raise FinetuneError(
                f"{place}, Usage: {fields[usage]!r}, but image {row + 1} of {data.name} is {data.split[row]}: not fer2013.csv's order"
            )
        for position, column in enumerate(columns):
            if not (fields[column].isdecimal() and fields[column].isascii() and len(fields[column]) < 4):
                what = f"{place}, {FERPLUS_VOTES[position]}: {fields[column][:40]!r}"
                raise FinetuneError(f"{what} is no count of votes; fetch the file again")
            votes[row, position] = int(fields[column])
    if data.classes == FER2013:
        label_of = torch.tensor([FER2013.index(name) if (name := canonical(vote)) in FER2013 else -1 for vote in FERPLUS_VOTES[:8]])
        agree = (label_of[votes[:, :8].argmax(1)] == data.labels).float()
        for start in range(0, len(data) - 999, 1000):
            if (share := agree[start : start + 1000].mean().item()) < LEAST_AGREEMENT:
                raise FinetuneError(
                    f"{path}, rows {start + 1} to {start + 1000}: the votes agree with {share:.0%} of the labels of {data.name}"
                    " (about 63 % in the right order): its images are not in fer2013.csv's order. Read fer2013.csv itself"
                )
    return replace(data, votes=votes)


def vote_targets(data: Expressions, classes: Sequence[str], mode: Literal["hard", "soft"]) -> tuple[Tensor, Tensor]:
    """FER+ votes as targets: (N, K) float32 over `classes`, each row summing to 1, and (N,) bool, which rows to use.

    "hard" puts 1 on the most voted class; "soft" gives each class its share of the votes for `classes`. Not to be used (and all
    zero) are rows where the most voted column is no one of `classes` ("unknown", "NF", perhaps "contempt") or, in "hard", is a tie.
    Names are matched by meaning: "angry" is FER+'s "anger". Raises FinetuneError for data without votes or classes FER+ lacks.
    """
    if data.votes is None:
        raise FinetuneError(f"{data.name}: has no FER+ votes; join them first: with_votes(data, 'fer2013new.csv')")
    columns = {canonical(name): column for column, name in enumerate(FERPLUS_VOTES[:8])}
    if lacking := [name for name in classes if canonical(name) not in columns]:
        raise FinetuneError(f"FER+ has no votes for {', '.join(lacking)}; it has {', '.join(columns)}")
    wanted = data.votes[:, [columns[canonical(name)] for name in classes]]
    highest = data.votes.max(1, keepdim=True).values
    usable = (wanted == highest).any(1) & (highest[:, 0] > 0)
    if mode == "hard":
        usable &= (data.votes == highest).sum(1) == 1
        targets = (wanted == highest).float()
    else:
        targets = wanted / wanted.sum(1, keepdim=True).clamp(min=1)
    return targets * usable[:, None], usable


def trained_on_votes(data: Expressions, plan: Plan, mode: Literal["soft", "hard"]) -> tuple[Plan, Tensor]:
    """The plan without the training rows whose votes say nothing, and the votes of the others as targets."""
    targets, usable = vote_targets(data, data.classes, mode)
    rows = plan.rows["train"]
    kept = rows[usable[rows]]
    note = f"trained on FER+'s votes ({mode}): {len(rows) - len(kept):,} training images without a usable vote were left out"
    return replace(plan, rows={**plan.rows, "train": kept}, notes=(*plan.notes, note)), targets[kept]
