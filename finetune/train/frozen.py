"""Nets that are trained in part: freezing, and a net in two halves whose features are computed once."""

from __future__ import annotations

from torch import Tensor, nn

from architectures.contract import Encoder
from finetune.errors import FinetuneError


def freeze(model: nn.Module, last: str | None) -> list[nn.Module]:
    """Stops the training of the module `last` and of all before it; returns those whose mode has to stay that of evaluation."""
    if last is None:
        return []
    names = dict(model.named_modules())
    if last not in names or not last:
        top = ", ".join(name for name, _ in model.named_children())
        raise FinetuneError(f"freeze: {type(model).__name__} has no module {last!r}; it begins with {top}")
    order = list(names)
    end = max(at for at, name in enumerate(order) if f"{name}.".startswith(f"{last}."))
    held = [names[name] for name in order[: end + 1] if not f"{last}.".startswith(f"{name}." if name else "") or name == last]
    for module in held:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    return held


def encoder(model: nn.Module) -> Encoder:
    """The net as one that has features. Raises FinetuneError where it is none."""
    if not isinstance(model, Encoder):
        raise FinetuneError(f"freeze: {type(model).__name__} has no embed() and classify(), so no features to keep; leave freeze out")
    return model


class Embed(nn.Module):
    """The net up to its features."""

    model: Encoder

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = encoder(model)

    def forward(self, x: Tensor) -> Tensor:
        return self.model.embed(x)


class Classify(nn.Module):
    """The net above its features."""

    model: Encoder

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = encoder(model)

    def forward(self, *features: Tensor) -> Tensor:
        """Features, and what else classify() takes: the lengths of clips."""
        return self.model.classify(*features)
