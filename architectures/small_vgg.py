"""A VGG-style net for grey faces of 44×44 pixels, small enough to train on a laptop's cores.

The pattern is VGG's (Simonyan & Zisserman 2015): pairs of 3×3 convolutions between max pools; after it BatchNorm and an average in
place of the large linear layers, as later work on FER2013 has them (Khaireddin & Chen 2021). Every layer has a Caffe form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from architectures._blocks import max_pool

WIDTHS = (32, 64, 160, 320)


class SmallVGG(nn.Module):
    """(N, 1, H, W) -> logits (N, num_classes); H and W from 8 up, 44 in the recipe. Input: grey, (x - 127.5) / 64 there.

    `widths` are the channels of the stages: two convolutions each, a 2×2 max pool between stages. FROM_CAFFE belongs to nets of
    four stages, zoo/prototxt/small_vgg.prototxt to the default widths.
    """

    FROM_CAFFE: ClassVar[dict[str, str | None]] = {
        **{
            f"{kind}{stage}_{place}": f"{path}{stage}_{place}"
            for stage in range(1, len(WIDTHS) + 1)
            for place in (1, 2)
            for kind, path in (("conv", "conv"), ("bn", "bn"), ("scale", "bn"))
        },
        "classifier": "classifier",
    }
    CLASSIFIER: ClassVar[str] = "classifier"
    ABOVE_EMBEDDING: ClassVar[tuple[str, ...]] = ("dropout", "classifier")

    def __init__(self, num_classes: int = 7, *, widths: Sequence[int] = WIDTHS, dropout: float = 0.3) -> None:
        super().__init__()
        inputs = 1
        for stage, width in enumerate(widths, 1):
            if stage > 1:
                self.add_module(f"pool{stage - 1}", max_pool(2))
            for place in (1, 2):
                self.add_module(f"conv{stage}_{place}", nn.Conv2d(inputs, width, 3, padding=1, bias=False))
                self.add_module(f"bn{stage}_{place}", nn.BatchNorm2d(width))
                self.add_module(f"relu{stage}_{place}", nn.ReLU(inplace=True))
                inputs = width
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # drawing there imports torch._dynamo: 2 s
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def embed(self, x: Tensor) -> Tensor:
        """The averaged features below the classifier: (N, 1, H, W) -> (N, widths[-1])."""
        for name, layer in self.named_children():
            if name in self.ABOVE_EMBEDDING:
                break
            x = layer(x)
        return x.mean((2, 3))

    def classify(self, features: Tensor) -> Tensor:
        """The logits of what embed() gives."""
        result: Tensor = self.classifier(self.dropout(features))
        return result

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.embed(x))
