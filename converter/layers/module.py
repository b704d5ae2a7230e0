"""The base of the modules that torch lacks; they stand beside the layer functions that make them.

Shapes are Caffe's: (N, C, H, W), or whatever the layer allows. Every constructor argument is kept in an attribute of the
same name, which is what printing a module and writing it as Python source rely on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn


def constructor_arguments(module: nn.Module) -> dict[str, object]:
    """What the module was built with, read back from its attributes (torch's own modules keep theirs as well)."""
    found: dict[str, object] = {}
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        several = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if name in ("self", "device", "dtype") or name.startswith("_") or several:
            continue
        value = getattr(module, name, None)
        if name == "bias":
            value = value is not None and value is not False
        if value != parameter.default or parameter.default is inspect.Parameter.empty:
            found[name] = value
    return found


class CaffeModule(nn.Module):
    """Base of the modules below: prints itself as it was built."""

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in constructor_arguments(self).items())


def aligned(x: Tensor, like: Tensor, axis: int) -> Tensor:
    """x with axes of length 1 behind it, so that its first axis lies on `axis` of like."""
    return x.reshape(x.shape + (1,) * (like.dim() - axis - x.dim()))


def kept_boxes(boxes: Tensor, suppresses: Callable[[Tensor, Tensor], Tensor], most: int = 0) -> Tensor:
    """Greedy non-maximum suppression: the places of the boxes (n, 4) that stay, which stand in the order of falling scores.

    Args:
        suppresses: of a box (4,) that stays and later ones (m, 4): which of those it drops, (m,) bool.
        most: so many boxes at most; 0: all that stay.
    """
    left, kept = torch.arange(len(boxes)), list[int]()
    while len(left) and (not most or len(kept) < most):
        first, left = int(left[0]), left[1:]
        kept.append(first)
        left = left[~suppresses(boxes[first], boxes[left])]
    return torch.tensor(kept, dtype=torch.long)


class Shared(nn.Module):
    """A blob whose memory an in-place layer has just overwritten: the new values, in the blob's own shape."""

    def forward(self, written: Tensor, old: Tensor) -> Tensor:
        return written.reshape(old.shape)
