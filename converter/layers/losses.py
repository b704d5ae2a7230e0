"""Losses and Accuracy. They are kept in the TEST phase, as Caffe keeps them; loss_weight does not change a top's value."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from converter import modules
from converter.layers.registry import ENGINE, Blob, Fields, Layer, layer


def _normalization(p: Fields, default: str) -> str:
    """loss_param's normalization, its older `normalize`, or the layer's own default (GetNormalizer in Caffe)."""
    loss: Any = p.loss
    if loss.HasField("normalization") or not loss.HasField("normalize"):
        known = loss.DESCRIPTOR.fields_by_name["normalization"].enum_type
        return known.values_by_number[loss.normalization].name if loss.HasField("normalization") else default
    return "VALID" if loss.normalize else "BATCH_SIZE"


def _ignore_label(p: Fields) -> int | None:
    return p.loss.ignore_label if p.loss.HasField("ignore_label") else None


@layer("SoftmaxWithLoss", "softmax_param", bottoms=(2, 2), ignored=ENGINE, is_loss=True)
def softmax_with_loss(p: Fields, x: Tensor, label: Tensor) -> nn.Module:
    return modules.SoftmaxWithLoss(_normalization(p, "VALID"), _ignore_label(p), p.axis_of(x), p.tops > 1)


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
    return modules.InfogainLoss(normalization, _ignore_label(p), axis, p.tops > 1)


@layer("SigmoidCrossEntropyLoss", bottoms=(2, 2), is_loss=True)
def sigmoid_cross_entropy_loss(p: Fields, x: Tensor, target: Tensor) -> nn.Module:
    return modules.SigmoidCrossEntropyLoss(_normalization(p, "BATCH_SIZE"), _ignore_label(p))


@layer("MultinomialLogisticLoss", bottoms=(2, 2), is_loss=True)
def multinomial_logistic_loss(p: Fields, prob: Tensor, label: Tensor) -> nn.Module:
    return modules.MultinomialLogisticLoss()


@layer("EuclideanLoss", bottoms=(2, 2), is_loss=True)
def euclidean_loss(p: Fields, a: Tensor, b: Tensor) -> nn.Module:
    return modules.EuclideanLoss()


@layer("HingeLoss", "hinge_loss_param", bottoms=(2, 2), is_loss=True)
def hinge_loss(p: Fields, x: Tensor, label: Tensor) -> nn.Module:
    return modules.HingeLoss(p.norm)


@layer("ContrastiveLoss", "contrastive_loss_param", bottoms=(3, 3), is_loss=True)
def contrastive_loss(p: Fields, a: Tensor, b: Tensor, similar: Tensor) -> nn.Module:
    return modules.ContrastiveLoss(p.margin, p.legacy_version)


@layer("CenterLoss", "center_loss_param", bottoms=(2, 2), is_loss=True)
def center_loss(p: Fields, x: Tensor, label: Tensor) -> Layer:
    axis = p.axis_of(x)
    if p.num_output < 1 or axis != 1:
        raise ValueError(f"num_output {p.num_output} and axis {p.axis}; it takes at least one center, and all axes behind the first")
    return Layer(modules.CenterLoss(p.num_output, x[0].numel(), axis), [Blob("weight", p.center_filler)])


@layer("Accuracy", "accuracy_param", bottoms=(2, 2))
def accuracy(p: Fields, x: Tensor, label: Tensor) -> nn.Module:
    axis = p.axis_of(x)
    if p.top_k > x.shape[axis]:
        raise ValueError(f"top_k {p.top_k} is more than the {x.shape[axis]} classes")
    return modules.Accuracy(p.top_k, axis, p.ignore_label if p.has("ignore_label") else None, p.tops > 1)
