"""MobileFaceNet for facial expressions: features at several depths, averaged over the image, one Linear over all of them.

The embedding is trained to tell two people apart whatever their faces do, so it is meant to lose the expression; below it less of it
is lost.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from architectures.mobilefacenet import MobileFaceNet


class MobileFaceExpression(nn.Module):
    """(N, 3, H, W) -> logits (N, num_classes); H and W from 48 up, 112 in the face net's own training.

    Input: RGB, (x - 128) / 128. `taps` are names of MobileFaceNet's layers: the default's are the last block at 128 channels of
    stage 4, the first of stage 5, and the last convolution's 512 channels (in Caffe's names _plus9, _plus11 and bn6f). Layers
    above the last tap are not held. The convolutions' weights are a copy of `cnn`'s, or drawn where it is None.
    FROM_CAFFE belongs to the default taps, as zoo/prototxt/mobile_face_expression.prototxt has them.
    Raises ValueError for a tap that the net hasn't.
    """

    FROM_CAFFE: ClassVar[dict[str, str | None]] = {
        **{
            layer: f"cnn.{path}"
            for layer, path in MobileFaceNet.FROM_CAFFE.items()
            if path is not None and path not in ("bn6w", "pre_fc1", "fc1")  # what is above bn6f
        },
        "features_batchnorm": "norm", "features_batchnorm_scale": "norm",
        "classifier": "classifier",
    }  # fmt: skip
    CLASSIFIER: ClassVar[str] = "classifier"
    ABOVE_EMBEDDING: ClassVar[tuple[str, ...]] = ("norm", "dropout", "classifier")

    def __init__(
        self,
        num_classes: int = 7,
        taps: Sequence[str] = ("res_4_block5", "res_5_block1", "bn6f"),
        *,
        dropout: float = 0.2,
        cnn: MobileFaceNet | None = None,
    ) -> None:
        super().__init__()
        source = MobileFaceNet() if cnn is None else cnn
        order = [name for name, _ in source.named_children()]
        for tap in taps:
            source.features(tap)  # raises for a name that the net hasn't
        self.taps = tuple(sorted(taps, key=order.index))
        held = order[: order.index(self.taps[-1]) + 1]
        self.cnn = nn.Sequential(OrderedDict((name, copy.deepcopy(source.get_submodule(name))) for name in held))
        widths = [channels(self.cnn.get_submodule(tap)) for tap in self.taps]
        self.norm = nn.BatchNorm1d(sum(widths))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(sum(widths), num_classes)

    def extra_repr(self) -> str:
        return f"taps={', '.join(self.taps)}"

    def embed(self, x: Tensor) -> Tensor:
        """The averaged features of all taps, in the net's order: (N, 3, H, W) -> (N, sum of their channels)."""
        pooled = []
        for name, layer in self.cnn.named_children():
            x = layer(x)
            if name in self.taps:
                pooled.append(x.mean((2, 3)))
        return torch.cat(pooled, 1)

    def classify(self, features: Tensor) -> Tensor:
        """Logits from what embed() returns: (N, F) -> (N, num_classes)."""
        result: Tensor = self.classifier(self.dropout(self.norm(features)))
        return result

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.embed(x))


def channels(layer: nn.Module) -> int:
    """Output channels of a MobileFaceNet's layer: those of its last BatchNorm."""
    return [module.num_features for module in layer.modules() if isinstance(module, nn.BatchNorm2d)][-1]
