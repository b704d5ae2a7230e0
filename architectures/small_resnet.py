"""ResNet-18 for images of 32 to 64 pixels: a 3×3 stem at full size, without the pool, above it torchvision's blocks.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016; the stem is that of their nets for CIFAR-10 (section 4.2).
No weights are published for it: it is what a recipe compares pretrained nets with.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock


class SmallResNet(nn.Module):
    """(N, 3, H, W) -> logits (N, num_classes); H and W from 16 up, 48 in the recipe. Input: RGB, (x - 127.5) / 128 there.

    `width` is the number of channels of the first stage, doubled by each of the three others; dropout comes before the last layer.
    zoo/prototxt/small_resnet.prototxt is the net in Caffe's layers.
    """

    FROM_CAFFE: ClassVar[dict[str, str | None]] = {
        "conv1": "conv1", "bn1": "bn1", "scale1": "bn1",
        **{
            f"layer{stage}_{block}_{kind}{place}": f"layer{stage}.{block}.{path}{place}"
            for stage in (1, 2, 3, 4) for block in (0, 1) for place in (1, 2)
            for kind, path in (("conv", "conv"), ("bn", "bn"), ("scale", "bn"))
        },
        **{
            f"layer{stage}_0_shortcut_{kind}": f"layer{stage}.0.downsample.{place}"
            for stage in (2, 3, 4) for kind, place in (("conv", 0), ("bn", 1), ("scale", 1))
        },
        "classifier": "classifier",
    }  # fmt: skip
    CLASSIFIER: ClassVar[str] = "classifier"
    ABOVE_EMBEDDING: ClassVar[tuple[str, ...]] = ("dropout", "classifier")

    def __init__(self, num_classes: int = 7, *, width: int = 64, dropout: float = 0.2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = stage(width, width, 1)
        self.layer2 = stage(width, width * 2, 2)
        self.layer3 = stage(width * 2, width * 4, 2)
        self.layer4 = stage(width * 4, width * 8, 2)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width * 8, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)  # each block begins as its shortcut (Goyal et al. 2017, section 5.1)

    def embed(self, x: Tensor) -> Tensor:
        """The averaged features below the classifier: (N, 3, H, W) -> (N, 8 × width)."""
        x = F.relu(self.bn1(self.conv1(x)))
        result: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))
        return result

    def classify(self, features: Tensor) -> Tensor:
        """The logits of what embed() gives."""
        result: Tensor = self.classifier(self.dropout(features))
        return result

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.embed(x))


def stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Two residual blocks; a projection is the first one's shortcut where the shape changes."""
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut), BasicBlock(outputs, outputs))
