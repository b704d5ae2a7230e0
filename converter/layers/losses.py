"""Losses and Accuracy. They are kept in the TEST phase, as Caffe keeps them; loss_weight does not change a top's value."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converter.errors import UnsupportedError
from converter.layers.module import CaffeModule
from converter.layers.registry import ENGINE, Fields, Layer, Param, layer


def _normalization(p: Fields, default: str) -> str:
    """loss_param's normalization, its older `normalize`, or the layer's own default (GetNormalizer in Caffe)."""
    loss: Any = p.loss
    if loss.HasField("normalization") or not loss.HasField("normalize"):
        known = loss.DESCRIPTOR.fields_by_name["normalization"].enum_type
        return known.values_by_number[loss.normalization].name if loss.HasField("normalization") else default
    return "VALID" if loss.normalize else "BATCH_SIZE"


def _ignore_label(p: Fields) -> int | None:
    return p.loss.ignore_label if p.loss.HasField("ignore_label") else None


FLT_MIN = torch.finfo(torch.float32).tiny


class Loss(CaffeModule):
    """What the losses with labels and a normalizer share; each gives a scalar, not multiplied by loss_weight."""

    def __init__(self, normalization: str = "VALID", ignore_label: int | None = None, axis: int = 1):
        super().__init__()
        self.normalization, self.ignore_label, self.axis = normalization, ignore_label, axis

    def normalized(self, total: Tensor, outer: int, inner: int, valid: Tensor) -> Tensor:
        if self.normalization == "VALID":
            return total / valid.sum().clamp(min=1)
        count = {"FULL": outer * inner, "BATCH_SIZE": outer, "NONE": 1}[self.normalization]
        return total / max(count, 1)

    def valid(self, label: Tensor) -> Tensor:
        return torch.ones_like(label, dtype=torch.bool) if self.ignore_label is None else label != self.ignore_label


def _rows(x: Tensor, axis: int) -> Tensor:
    """(outer..., C, inner...) -> (outer, inner, C), with C at axis."""
    outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    return x.reshape(outer, x.shape[axis], inner).transpose(1, 2)


def _labels(label: Tensor, rows: Tensor) -> Tensor:
    """One whole number for each row: (outer, inner)."""
    if label.numel() != rows.shape[0] * rows.shape[1]:
        raise ValueError(f"{label.numel()} labels for {rows.shape[0]} x {rows.shape[1]} predictions")
    return label.reshape(rows.shape[:2]).long()


def _picked(rows: Tensor, label: Tensor, valid: Tensor | None = None) -> Tensor:
    """The value of each row at its label; ignored rows give that of class 0."""
    label = label if valid is None else torch.where(valid, label, 0)
    return rows.gather(-1, label[..., None])[..., 0]


class SoftmaxWithLoss(Loss):
    """-log softmax(x)[label], x: (N, C, ...), label: (N, ...). With probabilities, the softmax is a second top."""

    def __init__(self, normalization: str = "VALID", ignore_label: int | None = None, axis: int = 1, probabilities: bool = False):
        super().__init__(normalization, ignore_label, axis)
        self.probabilities = probabilities

    def forward(self, x: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        prob = torch.softmax(x, self.axis)
        rows = _rows(prob, self.axis)
        label = _labels(label, rows)
        valid = self.valid(label)
        each = -_picked(rows, label, valid).clamp(min=FLT_MIN).log()
        loss = self.normalized(torch.where(valid, each, 0).sum(), rows.shape[0], rows.shape[1], valid)
        return (loss, prob) if self.probabilities else loss


@layer("SoftmaxWithLoss", "softmax_param", bottoms=(2, 2), ignored=ENGINE, is_loss=True)
def softmax_with_loss(p: Fields, x: Tensor, label: Tensor) -> nn.Module:
    if p.normalize_type != "Softmax":
        raise UnsupportedError(f'normalize_type {p.normalize_type!r}: no public Caffe computes another one than "Softmax" here')
    return SoftmaxWithLoss(_normalization(p, "VALID"), _ignore_label(p), p.axis_of(x), p.tops > 1)


LOG_THRESHOLD = 1e-20  # kLOG_THRESHOLD of Caffe's loss_layer.hpp


class InfogainLoss(Loss):
    """-sum over classes k of H[label, k] * log softmax(x)[k]; H is the third bottom."""

    def __init__(self, normalization: str = "VALID", ignore_label: int | None = None, axis: int = 1, probabilities: bool = False):
        super().__init__(normalization, ignore_label, axis)
        self.probabilities = probabilities

    def forward(self, x: Tensor, label: Tensor, infogain: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        prob = torch.softmax(x, self.axis)
        rows = _rows(prob, self.axis)
        label = _labels(label, rows)
        valid = self.valid(label)
        gain = infogain.reshape(rows.shape[-1], rows.shape[-1])[torch.where(valid, label, 0)]
        each = -(gain * rows.clamp(min=LOG_THRESHOLD).log()).sum(-1)
        loss = self.normalized(torch.where(valid, each, 0).sum(), rows.shape[0], rows.shape[1], valid)
        return (loss, prob) if self.probabilities else loss


@layer("InfogainLoss", "infogain_loss_param", bottoms=(2, 3), is_loss=True)
def infogain_loss(p: Fields, x: Tensor, label: Tensor, *matrix: Tensor) -> nn.Module:
    if not matrix:
        raise ValueError(f"its matrix is the file {p.source!r}; feed it as a third bottom of shape (1, 1, C, C) instead")
    if p.loss.normalize:
        raise ValueError("normalize is set; infogain_loss_layer.cpp takes only `normalization`")
    axis = p.axis_of(x)
    if matrix[0].numel() != x.shape[axis] ** 2:
        raise ValueError(f"the matrix has {matrix[0].numel()} values for {x.shape[axis]} classes")
    known = p.loss.DESCRIPTOR.fields_by_name["normalization"].enum_type
    normalization = known.values_by_number[p.loss.normalization].name
    return InfogainLoss(normalization, _ignore_label(p), axis, p.tops > 1)


class SigmoidCrossEntropyLoss(Loss):
    """Cross-entropy of sigmoid(x) against targets of the same shape."""

    def __init__(self, normalization: str = "BATCH_SIZE", ignore_label: int | None = None):
        super().__init__(normalization, ignore_label)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        target = target.reshape(x.shape)
        valid = torch.ones_like(x, dtype=torch.bool) if self.ignore_label is None else target.trunc() != self.ignore_label
        each = x.clamp(min=0) - x * target + torch.log1p(torch.exp(-x.abs()))
        return self.normalized(torch.where(valid, each, 0).sum(), x.shape[0], math.prod(x.shape[1:]), valid)


@layer("SigmoidCrossEntropyLoss", bottoms=(2, 2), is_loss=True)
def sigmoid_cross_entropy_loss(p: Fields, x: Tensor, target: Tensor) -> nn.Module:
    return SigmoidCrossEntropyLoss(_normalization(p, "BATCH_SIZE"), _ignore_label(p))


def _one_each(label: Tensor, items: int) -> Tensor:
    """One whole number for each item of a batch: (N,)."""
    if label.numel() != items:
        raise ValueError(f"{label.numel()} labels for {items} items")
    return label.flatten().long()


class MultinomialLogisticLoss(CaffeModule):
    """-log p[label] of probabilities (N, C, ...), averaged over N."""

    def forward(self, prob: Tensor, label: Tensor) -> Tensor:
        rows = prob.flatten(1)
        return -_picked(rows, _one_each(label, rows.shape[0])).clamp(min=LOG_THRESHOLD).log().sum() / prob.shape[0]


@layer("MultinomialLogisticLoss", bottoms=(2, 2), is_loss=True)
def multinomial_logistic_loss(p: Fields, prob: Tensor, label: Tensor) -> nn.Module:
    return MultinomialLogisticLoss()


class EuclideanLoss(CaffeModule):
    """Sum of squared differences / (2 N)."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        if a.shape[0] != b.shape[0] or a.numel() != b.numel():
            raise ValueError(f"the bottoms have shapes {tuple(a.shape)} and {tuple(b.shape)}; EuclideanLoss takes as many values of each")
        difference = a - b.reshape(a.shape)
        return (difference * difference).sum() / (2 * a.shape[0])


@layer("EuclideanLoss", bottoms=(2, 2), is_loss=True)
def euclidean_loss(p: Fields, a: Tensor, b: Tensor) -> nn.Module:
    return EuclideanLoss()


class SmoothL1Loss(Loss):
    """Sum of outside * f(inside * (x - target)), divided as `normalization` says; the weights are the third and fourth bottom.

    f(d) is sigma^2 d^2 / 2 where |d| < 1 / sigma^2, else |d| - 1 / (2 sigma^2). All bottoms have the shape (N, C, ...).
    With per_position, a second top (N, 1, ...) has the sums over C. smooth_L1_loss_layer.cu of Fast R-CNN and R-FCN.
    """

    def __init__(self, sigma: float = 1.0, normalization: str = "BATCH_SIZE", per_position: bool = False):
        super().__init__(normalization)
        self.sigma, self.per_position = sigma, per_position

    def forward(self, x: Tensor, target: Tensor, *weights: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if any(other.numel() != x.numel() or other.shape[0] != x.shape[0] for other in (target, *weights)):
            raise ValueError("the bottoms of SmoothL1Loss have the same shape")
        target, *weights_ = (other.reshape(x.shape) for other in (target, *weights))
        difference = x - target if not weights_ else weights_[0] * (x - target)
        square, size = self.sigma**2, difference.abs()
        each = torch.where(size < 1 / square, 0.5 * square * difference * difference, size - 0.5 / square)
        each = each * weights_[1] if len(weights_) > 1 else each
        outer, inner = x.shape[0], math.prod(x.shape[2:])
        loss = each.sum() / max({"FULL": outer * inner, "VALID": outer * inner, "BATCH_SIZE": outer, "NONE": 1}[self.normalization], 1)
        return (loss, each.sum(1, keepdim=True)) if self.per_position else loss


@layer(
    "SmoothL1Loss",
    "smooth_l1_loss_param",
    bottoms=(2, 4),
    origin="Fast R-CNN, SSD, R-FCN, Intel",
    refuses="R-FCN's loss_param or second top together with Fast R-CNN's sigma or fourth bottom",
    is_loss=True,
)
def smooth_l1_loss(p: Fields, x: Tensor, target: Tensor, *weights: Tensor) -> nn.Module:
    # R-FCN divides as loss_param says; Fast R-CNN and SSD divide by N, and do not read it
    rfcn = p.tops > 1 or p.loss.HasField("normalization") or p.loss.HasField("normalize")
    if rfcn and (p.has("sigma") or len(weights) > 1 or p.tops > 2):
        raise ValueError("loss_param and a second top are R-FCN's, sigma and a fourth bottom Fast R-CNN's; no fork computes both")
    if p.sigma <= 0 or x.dim() < 2:
        raise ValueError(f"sigma {p.sigma} is not positive, or the bottoms have no channels")
    return SmoothL1Loss(p.sigma, _normalization(p, "VALID") if rfcn else "BATCH_SIZE", p.tops > 1)


class HingeLoss(CaffeModule):
    """One-versus-rest hinge loss of scores (N, C) against labels, of norm "L1" or "L2", averaged over N."""

    def __init__(self, norm: str = "L1"):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        rows = x.flatten(1)
        true = torch.arange(rows.shape[1], device=x.device) == _one_each(label, x.shape[0])[:, None]
        margin = (1 + torch.where(true, -rows, rows)).clamp(min=0)
        return (margin if self.norm == "L1" else margin * margin).sum() / x.shape[0]


@layer("HingeLoss", "hinge_loss_param", bottoms=(2, 2), is_loss=True)
def hinge_loss(p: Fields, x: Tensor, label: Tensor) -> nn.Module:
    return HingeLoss(p.norm)


class ContrastiveLoss(CaffeModule):
    """d^2 for similar pairs, max(margin - d, 0)^2 for the others (legacy: max(margin - d^2, 0)), summed / (2 N)."""

    def __init__(self, margin: float = 1.0, legacy_version: bool = False):
        super().__init__()
        self.margin, self.legacy_version = margin, legacy_version

    def forward(self, a: Tensor, b: Tensor, similar: Tensor) -> Tensor:
        if a.shape != b.shape or a.shape[2:].numel() != 1:
            raise ValueError(f"the bottoms have shapes {tuple(a.shape)} and {tuple(b.shape)}; ContrastiveLoss takes two of the axes (N, C)")
        difference = (a - b).flatten(1)
        square = (difference * difference).sum(1)
        if self.legacy_version:
            apart = (self.margin - square).clamp(min=0)
        else:
            apart = (self.margin - square.sqrt()).clamp(min=0) ** 2
        return torch.where(_one_each(similar, a.shape[0]) != 0, square, apart).sum() / (2 * a.shape[0])


@layer("ContrastiveLoss", "contrastive_loss_param", bottoms=(3, 3), is_loss=True)
def contrastive_loss(p: Fields, a: Tensor, b: Tensor, similar: Tensor) -> nn.Module:
    return ContrastiveLoss(p.margin, p.legacy_version)


class CenterLoss(CaffeModule):
    """Sum of |x - center[label]|^2 / (2 N), x: (N, K); the centers (classes, K) are the weight (Wen et al., ECCV 2016)."""

    def __init__(self, classes: int, features: int, axis: int = 1):
        super().__init__()
        self.classes, self.features, self.axis = classes, features, axis
        self.weight = nn.Parameter(torch.empty(classes, features))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        rows = x.flatten(self.axis)
        difference = rows - F.embedding(_one_each(label, rows.shape[0]), self.weight)
        return (difference * difference).sum() / (2 * rows.shape[0])


@layer("CenterLoss", "center_loss_param", bottoms=(2, 2), is_loss=True, origin="ydwen/caffe-face")
def center_loss(p: Fields, x: Tensor, label: Tensor) -> Layer:
    axis = p.axis_of(x)
    if p.num_output < 1 or axis != 1:
        raise ValueError(f"num_output {p.num_output} and axis {p.axis}; it takes at least one center, and all axes behind the first")
    return Layer(CenterLoss(p.num_output, x[0].numel(), axis), [Param("weight", p.center_filler)])


class Accuracy(CaffeModule):
    """The share of labels whose score is among the top_k; a score that ties with the label's counts as better.

    x: (N, C, ...), label: (N, ...). With per_class, a second top (C,) has the share for each class (accuracy_layer.cpp).
    """

    def __init__(self, top_k: int = 1, axis: int = 1, ignore_label: int | None = None, per_class: bool = False):
        super().__init__()
        self.top_k, self.axis, self.ignore_label, self.per_class = top_k, axis, ignore_label, per_class

    def forward(self, x: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        rows = _rows(x, self.axis)
        label = _labels(label, rows)
        valid = torch.ones_like(label, dtype=torch.bool) if self.ignore_label is None else label != self.ignore_label
        better = (rows >= _picked(rows, label, valid)[..., None]).sum(-1) - 1
        hit = valid & (better < self.top_k)
        accuracy = hit.sum() / valid.sum().clamp(min=1)
        if not self.per_class:
            return accuracy
        classes = torch.arange(rows.shape[-1], device=x.device)
        member = valid.flatten()[:, None] & (label.flatten()[:, None] == classes)
        count = member.sum(0)
        return accuracy, torch.where(count > 0, (member & hit.flatten()[:, None]).sum(0) / count.clamp(min=1), 0)


@layer("Accuracy", "accuracy_param", bottoms=(2, 2))
def accuracy(p: Fields, x: Tensor, label: Tensor) -> nn.Module:
    axis = p.axis_of(x)
    if p.top_k > x.shape[axis]:
        raise ValueError(f"top_k {p.top_k} is more than the {x.shape[axis]} classes")
    return Accuracy(p.top_k, axis, p.ignore_label if p.has("ignore_label") else None, p.tops > 1)
