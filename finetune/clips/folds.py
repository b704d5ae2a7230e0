"""Folds that keep people apart."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from finetune.clips.data import Clips, contents, copied
from finetune.errors import FinetuneError
from finetune.protocol import check_held_out, sample, with_every_class


def subject_folds(subjects: Sequence[str], labels: Tensor | Sequence[int], folds: int = 10, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """(training rows, test rows), ascending int64, of each fold: no subject is in two folds, every row is in one fold's test rows.

    Folds have about the same size and share of each class: the subject with the most clips comes first, each goes to the fold
    that has least of its classes. `seed` orders subjects with equally many. Raises FinetuneError for fewer subjects than folds.
    """
    classes = torch.as_tensor(labels, dtype=torch.int64)
    if len(subjects) != len(classes):
        raise FinetuneError(f"{len(subjects)} subjects for {len(classes)} labels: one of each a clip")
    names = sorted(set(subjects))
    if not 2 <= folds <= len(names):
        raise FinetuneError(f"{folds} folds of {len(names)} subjects; take 2 to {len(names)} folds, so that each has a subject of its own")
    position = {name: row for row, name in enumerate(names)}
    who = torch.tensor([position[name] for name in subjects])
    _, classes = classes.unique(return_inverse=True)
    counts = torch.zeros(len(names), int(classes.max()) + 1, dtype=torch.float64)
    counts.index_put_((who, classes), torch.ones(1, dtype=torch.float64), accumulate=True)
    shares = torch.cat([counts / counts.sum(0), counts.sum(1, keepdim=True) / len(subjects)], 1)  # of each class, and of all clips
    order = sorted(range(len(names)), key=lambda row: (-counts[row].sum().item(), hashlib.sha256(f"{seed} {names[row]}".encode()).digest()))
    held = torch.zeros(folds, shares.shape[1], dtype=torch.float64)
    fold_of = torch.empty(len(names), dtype=torch.int64)
    for row in order:
        # What the sum of squares, which is least for equal folds, would grow by; where folds tie, the first.
        growth = ((held + shares[row]).square() - held.square()).sum(1)
        fold_of[row] = growth.argmin()
        held[fold_of[row]] += shares[row]
    fold = fold_of[who]
    return [((fold != number).nonzero().flatten(), (fold == number).nonzero().flatten()) for number in range(folds)]


def held_out(data: Clips, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The rows without, and with only, about a tenth: whole people where they are known, else a tenth of each class.

    Copies of one clip stay together, and a class keeps a clip to train on. Raises FinetuneError where that leaves none to hold out.
    """
    groups: Sequence[Hashable] = contents(data, rows)
    if data.subjects is not None and len(people := [data.subjects[row] for row in rows.tolist()]) and len(set(people)) > 1:
        mask = torch.zeros(len(rows), dtype=torch.bool)
        mask[subject_folds(people, data.labels[rows], min(10, len(set(people))))[0][1]] = True
        groups = people
    else:
        taken = sample(data, rows, max(1, len(rows) // 10))
        mask = torch.isin(rows, taken)
        mask[~mask] = copied(data, rows[~mask], taken)
    mask = with_every_class(data.labels[rows], groups, mask)
    check_held_out(data, rows[~mask], rows[mask], "clips")
    return rows[~mask], rows[mask]
