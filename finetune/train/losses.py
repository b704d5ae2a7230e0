"""What a batch's logits are held against."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def soft_targets(targets: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """(N,) labels or (N, K) distributions -> (N, K) float32; `smoothing` of each row is spread over all classes (Szegedy et al. 2016)."""
    rows = F.one_hot(targets, num_classes).float() if targets.dim() == 1 else targets.float()
    return rows * (1 - smoothing) + smoothing / num_classes


def mixed(values: Tensor, share: Tensor) -> Tensor:
    """Mixup (Zhang et al. 2018): share (N, 1, ...) of each row and the rest of its neighbour's, rows 0 and 1, 2 and 3, ...

    The rows are in random order already, so a neighbour is a random partner, and the same one whatever the batch is split into.
    A last row without a neighbour stays as it is.
    """
    even = len(values) // 2 * 2
    partner = torch.cat([values[:even].unflatten(0, (-1, 2)).flip(1).flatten(0, 1), values[even:]])
    share = share.view(-1, *[1] * (values.dim() - 1))
    return values * share + partner * (1 - share)


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """(K,) float32: N / (K × images of the class), 0 for a class without images; the mean weight of an image is 1."""
    counts = torch.bincount(labels, minlength=num_classes)
    weights = len(labels) / (counts.clamp(min=1) * (counts > 0).sum())
    return weights.float() * (counts > 0)


class CenterLoss(nn.Module):
    """Half the mean squared distance of each embedding from its class's centre (Wen et al. 2016, equation 2).

    The centres (K, F) take no gradient: update() moves each towards the mean of its embeddings in the batch by
    rate × Σ(c − x) / (1 + n), equation 4. The paper's rate is 0.5; its batch sum is a mean here, so that the weight does not
    depend on the batch's size.
    """

    centers: Tensor

    def __init__(self, num_classes: int, features: int, rate: float = 0.5) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("centers", torch.zeros(num_classes, features))

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        return (embedding.float() - self.centers[labels]).square().sum(1).mean() / 2

    @torch.no_grad()
    def update(self, embedding: Tensor, labels: Tensor) -> None:
        """`embedding` (N, F) and `labels` (N,) of the whole batch, from all processes."""
        difference = torch.zeros_like(self.centers).index_add_(0, labels, self.centers[labels] - embedding.float())
        count = torch.bincount(labels, minlength=len(self.centers))[:, None]
        self.centers -= self.rate * difference / (1 + count)
