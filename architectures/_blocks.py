"""What several architectures share: a net that is a chain of named layers, Caffe's pooling, a residual block."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from typing import TypeVar, overload

from torch import Tensor, nn

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)

_IN_PLACE = (nn.ReLU, nn.PReLU, nn.Dropout)


class Chain(nn.Module):
    """Layers that run one after the other, each named as the Caffe layer (or blob) that it stands for."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x

    @overload
    def features(self, blob: str, /) -> nn.Sequential: ...
    @overload
    def features(self, x: Tensor, blob: str, /) -> Tensor: ...
    def features(self, x: Tensor | str, blob: str | None = None, /) -> nn.Sequential | Tensor:
        """The net up to a blob: `features("fc7")` as a module with the same parameters, `features(x, "fc7")` its value.

        A blob means what it means to Caffe's users: after the in-place layers (ReLU, PReLU, dropout) that follow it.
        Later layers are neither run nor held. Raises ValueError for a name that the net hasn't.
        """
        if isinstance(x, str):
            return self._up_to(x)
        if blob is None:
            raise TypeError('features(x, blob) takes a blob\'s name: features(x, "fc7"), or features("fc7") for a module')
        result: Tensor = self._up_to(blob)(x)
        return result

    def _up_to(self, blob: str) -> nn.Sequential:
        layers = list(self.named_children())
        names = [name for name, _ in layers]
        if blob not in names:
            near = difflib.get_close_matches(blob, names, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{type(self).__name__} has no blob {blob!r}: {hint}It has {', '.join(names)}")
        end = names.index(blob) + 1
        while end < len(layers) and isinstance(layers[end][1], _IN_PLACE):
            end += 1
        part = nn.Sequential(OrderedDict(layers[:end]))
        part.training = self.training  # Sequential starts in training mode; the layers keep their own
        return part


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions, each with a PReLU, and the sum with the block's input: (N, C, H, W) -> the same shape.

    The convolutions start as in the authors' prototxts: gaussian, deviation 0.01, biases 0. Those biases have a learning
    rate of 0 there (lr_mult: 0), so here they take no gradient.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu1 = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu2 = nn.PReLU(channels)
        for conv in (self.conv1, self.conv2):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.conv1(x))
        result: Tensor = x + self.relu2(self.conv2(y))
        return result


def max_pool(kernel_size: int, stride: int = 2) -> nn.MaxPool2d:
    """Caffe's max pooling: a last window that is only partly inside counts (pooling_layer.cpp rounds up)."""
    return nn.MaxPool2d(kernel_size, stride, ceil_mode=True)


def xavier(layer: Layer) -> Layer:
    """The layer as Caffe's xavier filler starts it: uniform within ±sqrt(3 / fan-in), biases 0 (filler.hpp)."""
    bound = (3 / layer.weight[0].numel()) ** 0.5
    nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def classifier(features: int, num_classes: int | None) -> dict[str, nn.Module]:
    """A last Linear named "classifier" for a net that ends in an embedding; nothing where num_classes is None."""
    return {} if num_classes is None else {"classifier": nn.Linear(features, num_classes)}
