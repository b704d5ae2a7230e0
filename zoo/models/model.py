"""What every model of the zoo carries beside its weights: its card, its labels, and what turns an image into its input."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from converter.preprocess import Preprocess
from zoo.cards.record import Card, LocalCard
from zoo.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor, nn

    from converter import CaffeNet

    class Model(nn.Module):
        """The type of what zoo.load() returns; at run time it is a net of architectures, or a CaffeNet.

        Attributes:
            card: what the zoo, or the run's folder, knows of the model.
            labels: the names of the outputs in their order, () where there are none.
            preprocess: an image -> the input, without the batch axis.
            features: of VGG-Face and other nets with named blobs: model.features("fc7") is the net up to that blob.
        """

        card: Card | LocalCard
        labels: tuple[str, ...]
        preprocess: Preprocess
        features: Callable[[str], Callable[[Tensor], Tensor]]

    class CaffeModel(CaffeNet):
        """The type of what zoo.load_caffe() returns: a CaffeNet with the attributes of a Model."""

        card: LocalCard
        labels: tuple[str, ...]

    Net = TypeVar("Net", bound=nn.Module)


def check_classes(num_classes: int | None) -> None:
    if num_classes is not None and num_classes < 1:
        raise LoadError(f"num_classes is {num_classes}; it must be at least 1")


def finished(
    model: Net,
    card: Card | LocalCard,
    labels: tuple[str, ...],
    preprocess: Preprocess | None,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
) -> Net:
    """The model with what it carries, in eval mode, on the device and of the type that were asked for.

    A CaffeNet's own `preprocess` is what its prototxt says; a card's takes its place.
    """
    for name, value in (("card", card), ("labels", labels), ("preprocess", preprocess)):
        setattr(model, name, value)
    return model.to(device=device, dtype=dtype).eval()
