"""The optimizer of a run: which parameters at which rate, and how the rate changes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from architectures.contract import Classifier, convolutions
from finetune.config import Training
from finetune.errors import FinetuneError


@dataclass
class Group:
    """Parameters with a rate and a weight decay of their own."""

    lr: float
    weight_decay: float
    params: list[nn.Parameter] = field(default_factory=list)


def optimizer_for(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Four groups at most: classifier or not, with weight decay or without (biases, norms, PReLU's slopes).

    A group's full_lr is the rate that rate_factor() is multiplied with.
    """
    head = {id(parameter) for parameter in head_of(model)}
    groups: dict[tuple[bool, bool], Group] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        top, decayed = id(parameter) in head, training.decay_all or parameter.dim() > 1
        lr = training.lr if top or training.backbone_lr is None else training.backbone_lr
        group = groups.setdefault((top, decayed), Group(lr, training.weight_decay if decayed else 0.0))
        group.params.append(parameter)
    ordered = [
        {"params": group.params, "lr": group.lr, "full_lr": group.lr, "weight_decay": group.weight_decay}
        for _, group in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]
    fused = True if next(model.parameters()).is_cuda else None  # reads and writes each weight once
    if training.optimizer == "adamw":
        return torch.optim.AdamW(ordered, fused=fused)
    nesterov = training.nesterov and training.momentum > 0
    return torch.optim.SGD(ordered, lr=training.lr, momentum=training.momentum, nesterov=nesterov, fused=fused)


def rate_factor(training: Training, epochs: float) -> float:
    """What the learning rates are multiplied with after so many epochs."""
    warm = training.warmup_epochs
    if epochs < warm:
        return epochs / warm
    if training.schedule == "step":
        return training.step_factor ** (int(epochs) // training.step_epochs)
    if training.schedule == "cyclic":
        cycle, place = divmod(int(epochs), training.step_epochs)
        return training.cycle_factor if cycle and place < training.cycle_epochs else 1.0
    if training.schedule == "cosine":
        return (1 + math.cos(math.pi * (epochs - warm) / max(training.epochs - warm, 1e-9))) / 2
    return 1.0


def set_rates(optimizer: torch.optim.Optimizer, training: Training, epochs: float) -> None:
    """Gives every group its rate after so many epochs."""
    factor = rate_factor(training, epochs)
    for group in optimizer.param_groups:
        group["lr"] = group["full_lr"] * factor


def head_of(model: nn.Module) -> list[nn.Parameter]:
    """What is trained at the classifier's rate: all but the convolutions where the net holds them as `cnn`, else the last layer."""
    if convolutions(model) is not None:
        return [parameter for name, parameter in model.named_parameters() if not name.startswith("cnn.")]
    return list(classifier_of(model).parameters())


def classifier_of(model: nn.Module) -> nn.Module:
    """The layer that gives the logits. Raises FinetuneError where the net names none."""
    if not isinstance(model, Classifier):
        raise FinetuneError(f"{type(model).__name__} does not say which layer gives the classes (it has no CLASSIFIER)")
    return model.get_submodule(model.CLASSIFIER)


def embedding_width(model: nn.Module) -> int:
    """How many numbers the classifier reads. Raises FinetuneError where it is no Linear."""
    layer = classifier_of(model)
    if not isinstance(layer, nn.Linear):
        raise FinetuneError(f"center_loss: the classifier of {type(model).__name__} is a {type(layer).__name__}; it takes a Linear")
    return layer.in_features
