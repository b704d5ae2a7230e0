"""SqueezeNet 1.1: AlexNet's accuracy on ImageNet with fifty times fewer parameters (1.1 needs 2.4 times fewer operations).

Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer: SqueezeNet, arXiv 1602.07360. Layers and names are those of
forresti/SqueezeNet, SqueezeNet_v1.1/deploy.prototxt.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from architectures._blocks import Chain, max_pool, xavier


class Fire(nn.Module):
    """A 1×1 convolution to few channels, then 1×1 and 3×3 convolutions side by side: (N, C, H, W) -> (N, 2·expand, H, W)."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze1x1 = xavier(nn.Conv2d(inputs, squeeze, 1))
        self.relu_squeeze1x1 = nn.ReLU(inplace=True)
        self.expand1x1 = xavier(nn.Conv2d(squeeze, expand, 1))
        self.relu_expand1x1 = nn.ReLU(inplace=True)
        self.expand3x3 = xavier(nn.Conv2d(squeeze, expand, 3, padding=1))
        self.relu_expand3x3 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu_squeeze1x1(self.squeeze1x1(x))
        return torch.cat([self.relu_expand1x1(self.expand1x1(x)), self.relu_expand3x3(self.expand3x3(x))], 1)


class SqueezeNet(Chain):
    """(N, 3, 227, 227) -> logits (N, num_classes), Caffe's blob pool10 (its prob is their softmax).

    Input: BGR, 0 to 255 minus the means 104 (B), 117 (G), 123 (R). Other sizes work too: the last
    layer averages over the image. The blob fire2/concat is `features("fire2")`.
    """

    FROM_CAFFE: ClassVar[dict[str, str | None]] = {
        "conv1": "conv1",
        "fire2/squeeze1x1": "fire2.squeeze1x1", "fire2/expand1x1": "fire2.expand1x1",
        "fire2/expand3x3": "fire2.expand3x3",
        "fire3/squeeze1x1": "fire3.squeeze1x1", "fire3/expand1x1": "fire3.expand1x1",
        "fire3/expand3x3": "fire3.expand3x3",
        "fire4/squeeze1x1": "fire4.squeeze1x1", "fire4/expand1x1": "fire4.expand1x1",
        "fire4/expand3x3": "fire4.expand3x3",
        "fire5/squeeze1x1": "fire5.squeeze1x1", "fire5/expand1x1": "fire5.expand1x1",
        "fire5/expand3x3": "fire5.expand3x3",
        "fire6/squeeze1x1": "fire6.squeeze1x1", "fire6/expand1x1": "fire6.expand1x1",
        "fire6/expand3x3": "fire6.expand3x3",
        "fire7/squeeze1x1": "fire7.squeeze1x1", "fire7/expand1x1": "fire7.expand1x1",
        "fire7/expand3x3": "fire7.expand3x3",
        "fire8/squeeze1x1": "fire8.squeeze1x1", "fire8/expand1x1": "fire8.expand1x1",
        "fire8/expand3x3": "fire8.expand3x3",
        "fire9/squeeze1x1": "fire9.squeeze1x1", "fire9/expand1x1": "fire9.expand1x1",
        "fire9/expand3x3": "fire9.expand3x3",
        "conv10": "conv10",
    }  # fmt: skip
    CLASSIFIER: ClassVar[str] = "conv10"

    def __init__(self, num_classes: int = 1000) -> None:
        conv10 = xavier(nn.Conv2d(512, num_classes, 1))
        nn.init.normal_(conv10.weight, std=0.01)
        super().__init__(
            {
                "conv1": xavier(nn.Conv2d(3, 64, 3, stride=2)),
                "relu_conv1": nn.ReLU(inplace=True),
                "pool1": max_pool(3),
                "fire2": Fire(64, 16, 64),
                "fire3": Fire(128, 16, 64),
                "pool3": max_pool(3),
                "fire4": Fire(128, 32, 128),
                "fire5": Fire(256, 32, 128),
                "pool5": max_pool(3),
                "fire6": Fire(256, 48, 192),
                "fire7": Fire(384, 48, 192),
                "fire8": Fire(384, 64, 256),
                "fire9": Fire(512, 64, 256),
                "drop9": nn.Dropout(0.5),
                "conv10": conv10,
                "relu_conv10": nn.ReLU(inplace=True),
                "pool10": nn.AdaptiveAvgPool2d(1),
                "flatten": nn.Flatten(),
            }
        )
