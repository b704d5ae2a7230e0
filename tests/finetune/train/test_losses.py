"""Losses against the formulas of their papers, written out, and against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from finetune.train.losses import CenterLoss, class_weights, mixed, soft_targets

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 3, 1, 1, 2, 3])


def test_smoothed_targets_give_torch_s_label_smoothing() -> None:
    found = F.cross_entropy(LOGITS, soft_targets(LABELS, 4, 0.1))
    torch.testing.assert_close(found, F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1))


def test_distributions_are_smoothed_as_labels_are() -> None:
    rows = F.one_hot(LABELS, 4).double()
    torch.testing.assert_close(soft_targets(rows, 4, 0.2), soft_targets(LABELS, 4, 0.2))


def test_a_row_is_mixed_with_its_neighbour_and_a_last_one_stays() -> None:
    values = torch.arange(5.0)[:, None]
    found = mixed(values, torch.tensor([1.0, 0.75, 0.0, 0.5, 0.3]))
    assert found[:, 0].tolist() == pytest.approx([0, 0.75 * 1, 3, 0.5 * 3 + 0.5 * 2, 4])


def test_mixing_does_not_depend_on_how_pairs_are_dealt_out() -> None:
    values, share = torch.randn(8, 3, 2, 2), torch.rand(8)
    torch.testing.assert_close(mixed(values, share), torch.cat([mixed(values[:4], share[:4]), mixed(values[4:], share[4:])]))


def test_balanced_weights_give_each_class_the_same_say() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [3])
    weights = class_weights(labels, 4)
    totals = [weights[label].item() * int((labels == label).sum()) for label in (0, 1, 3)]
    assert totals == pytest.approx([10 / 3] * 3) and weights[2] == 0
    assert weights[labels].mean().item() == pytest.approx(1)


def test_the_center_loss_and_its_update_are_the_paper_s() -> None:
    """Wen et al. 2016, equations 2 and 4, the loss as a mean."""
    module = CenterLoss(4, 3, rate=0.5)
    module.centers.copy_(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)))
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(2), requires_grad=True)
    before = module.centers.clone()
    loss = module(x, LABELS)
    expected = sum(((x[i] - before[label]) ** 2).sum() for i, label in enumerate(LABELS.tolist())) / 6 / 2
    torch.testing.assert_close(loss, expected)
    loss.backward()
    torch.testing.assert_close(x.grad, (x.detach() - before[LABELS]) / 6)
    module.update(x, LABELS)
    for label in range(4):
        members = [i for i, each in enumerate(LABELS.tolist()) if each == label]
        step = sum((before[label] - x[i].detach() for i in members), torch.zeros(3)) / (1 + len(members))
        torch.testing.assert_close(module.centers[label], before[label] - 0.5 * step)


def test_a_center_without_images_stays() -> None:
    module = CenterLoss(3, 2)
    module.centers.fill_(7.0)
    module.update(torch.zeros(2, 2), torch.tensor([0, 0]))
    assert module.centers[1:].eq(7).all() and module.centers[0].lt(7).all()
