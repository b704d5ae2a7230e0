"""Folds that share no person."""

from __future__ import annotations

import pytest
import torch

from finetune.clips.folds import subject_folds
from finetune.errors import FinetuneError


def drawn_subjects(rows: int = 400, people: int = 45) -> tuple[list[str], torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return [f"p{number}" for number in torch.randint(people, (rows,), generator=generator)], torch.randint(5, (rows,), generator=generator)


@pytest.mark.parametrize("folds", [2, 5, 10, 45])
def test_no_subject_is_in_two_folds_and_every_clip_in_one(folds: int) -> None:
    subjects, labels = drawn_subjects()
    found = subject_folds(subjects, labels, folds)
    assert len(found) == folds
    for train, test in found:
        assert len(test)
        assert sorted([*train.tolist(), *test.tolist()]) == list(range(400))
        assert not {subjects[row] for row in train} & {subjects[row] for row in test}
    assert sorted(row for _, test in found for row in test.tolist()) == list(range(400))


def test_folds_are_about_equal_in_size_and_classes() -> None:
    subjects, labels = drawn_subjects()
    for _, test in subject_folds(subjects, labels, 5):
        assert abs(len(test) - 80) <= 4
        assert ((labels[test].bincount(minlength=5) - labels.bincount() / 5).abs() <= 5).all()


def test_folds_depend_on_the_seed_and_not_on_the_order_of_the_clips() -> None:
    subjects, labels = drawn_subjects()

    def together(seed: int, order: list[int]) -> set[frozenset[str]]:
        found = subject_folds([subjects[row] for row in order], labels[order], 5, seed)
        return {frozenset(subjects[order[row]] for row in test) for _, test in found}

    rows = list(range(400))
    assert together(0, rows) == together(0, rows[::-1])
    assert together(0, rows) != together(1, rows)


def test_fewer_subjects_than_folds_are_refused() -> None:
    with pytest.raises(FinetuneError, match="10 folds of 3 subjects; take 2 to 3 folds"):
        subject_folds(["a", "b", "c", "a"], [0, 1, 0, 1])
    with pytest.raises(FinetuneError, match="2 subjects for 3 labels"):
        subject_folds(["a", "b"], [0, 1, 0], 2)
