"""What a net of this package offers to the zoo and to the recipes, as types: ask with isinstance(), of a net or of its class.

    Classifier   CLASSIFIER: the path of its last layer
    Encoder      embed(), classify(), ABOVE_EMBEDDING: features once, logits from them
    CaffeTwin    FROM_CAFFE: the table of the Caffe net that it equals
    Adjusted     adjust_caffe_state(): a CaffeTwin whose weights need more than new names

A Protocol says only that the names are there; tests/architectures/test_contract.py holds every class to what is written here.
Importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class Classifier(Protocol):
    """A net that ends in a layer with one output for each class.

    CLASSIFIER is that layer's path, whether the layer is there or not: a net that ends in an embedding has one only when it was built
    with num_classes. Its constructor takes num_classes.
    """

    CLASSIFIER: str


@runtime_checkable
class Encoder(Protocol):
    """A net in two parts: `classify(embed(x))` is `model(x)`, up to what forward() does with a clip's lengths.

    ABOVE_EMBEDDING names the children that embed() doesn't run, in the order of the net; the classifier is the last of them.
    """

    CLASSIFIER: str
    ABOVE_EMBEDDING: tuple[str, ...]

    def embed(self, x: Tensor, /) -> Tensor:
        """Images (N, C, H, W), or the frames of clips -> features (N, F)."""

    def classify(self, features: Tensor, /) -> Tensor:
        """What embed() gives -> logits (N, num_classes). The nets of clips take (N, T, F) and the clips' lengths."""


@runtime_checkable
class CaffeTwin(Protocol):
    """A net with the numbers of a Caffe net.

    FROM_CAFFE: Caffe layer -> module path, None for a layer that is dropped on purpose; two layers may share a path (Caffe's BatchNorm
    and Scale are one BatchNorm).
    """

    FROM_CAFFE: Mapping[str, str | None]


@runtime_checkable
class Adjusted(CaffeTwin, Protocol):
    """A CaffeTwin whose weights are changed before they are renamed (MTCNN's nets, turned upright)."""

    def adjust_caffe_state(self, caffe_state: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """The Caffe net's state dict, names as they were, values for this net."""


def nets() -> dict[str, type[nn.Module]]:
    """The nets of this package by their names: what a card or a recipe may name."""
    from torch import nn

    import architectures

    kinds: dict[str, Any] = {name: getattr(architectures, name) for name in architectures.__all__}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, nn.Module)}


def convolutions(model: nn.Module) -> nn.Module | None:
    """The part below a net's own layers, where it is a net inside the net: its child `cnn`, which recipes freeze or train slower."""
    return dict(model.named_children()).get("cnn")
