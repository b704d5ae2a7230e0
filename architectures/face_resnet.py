"""The face ResNet for facial expressions: the center-loss net with ReLU, BatchNorm, dropout on feature maps, 7 classes.

The stages are those of center_loss_face.py. Module names are those of XiaoYee/emotion_classification, Resnet_GRU/
resnet_face.py, so that a state dict trained there (best_resnet.model) has the same keys.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from architectures._blocks import xavier
from architectures._from_caffe import renamed
from architectures.center_loss_face import CenterLossFace


class BasicBlock(nn.Module):
    """Two 3×3 convolutions, each with a ReLU, and the sum with the block's input: (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        for conv in (self.conv1, self.conv2):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.conv2(F.relu(self.conv1(x))))


class Taps(NamedTuple):
    """Three depths of the net, for sequences of frames."""

    pool1b: Tensor  # (N, 64, 54, 46), after the first pool
    pool3: Tensor  # (N, 256, 12, 10), after the pool that ends the stage of 128 channels
    top: Tensor  # (N, 512, 5, 4), after the last block


class FaceResNetTrunk(nn.Module):
    """The convolutions of FaceResNet: images (N, 3, 112, 96) -> feature maps at three depths."""

    def __init__(self, conv_dropout: float = 0.4) -> None:
        super().__init__()
        self.conv1_a = xavier(nn.Conv2d(3, 32, 3))
        self.bn1_a = nn.BatchNorm2d(32)
        self.dropout1_a = nn.Dropout(conv_dropout)
        self.conv1_b = xavier(nn.Conv2d(32, 64, 3))
        self.bn1_b = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(*(BasicBlock(64) for _ in range(1)))
        self.conv2 = xavier(nn.Conv2d(64, 128, 3))
        self.bn2 = nn.BatchNorm2d(128)
        self.layer2 = nn.Sequential(*(BasicBlock(128) for _ in range(2)))
        self.dropout2 = nn.Dropout(conv_dropout)
        self.conv3 = xavier(nn.Conv2d(128, 256, 3))
        self.bn3 = nn.BatchNorm2d(256)
        self.layer3 = nn.Sequential(*(BasicBlock(256) for _ in range(5)))
        self.conv4 = xavier(nn.Conv2d(256, 512, 3))
        self.bn4 = nn.BatchNorm2d(512)
        self.layer4 = nn.Sequential(*(BasicBlock(512) for _ in range(3)))

    def taps(self, x: Tensor) -> Taps:
        """The feature maps (N, C, H, W) at three depths, for images (N, 3, 112, 96)."""
        x = self.dropout1_a(F.relu(self.bn1_a(self.conv1_a(x))))
        pool1b = F.max_pool2d(F.relu(self.bn1_b(self.conv1_b(x))), 2)
        x = self.layer1(pool1b)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = self.dropout2(self.layer2(x))
        pool3 = F.max_pool2d(F.relu(self.bn3(self.conv3(x))), 2)
        x = self.layer3(pool3)
        x = F.max_pool2d(F.relu(self.bn4(self.conv4(x))), 2)
        return Taps(pool1b, pool3, self.layer4(x))


class FaceResNet(FaceResNetTrunk):
    """(N, 3, 112, 96) -> logits (N, num_classes).

    Input: as the weights were trained; XiaoYee/emotion_classification's recipes normalise RGB in [0, 1]. BatchNorm follows the five
    convolutions outside of the blocks. `conv_dropout` is the rate of the dropout on feature maps, after conv1_a and after
    layer2: 0.4 in its "conv dropout" net, 0 turns it off. With `cnn` the convolutions and fc5 begin with its
    weights; its PReLUs have no counterpart here, and the BatchNorms are new. zoo/prototxt/face_resnet.prototxt is the net in Caffe's
    layers.
    """

    FROM_CAFFE: ClassVar[dict[str, str | None]] = {
        **{
            f"{kind}{place}": f"{path}{place}"
            for place in ("1_a", "1_b", "2", "3", "4") for kind, path in (("conv", "conv"), ("bn", "bn"), ("scale", "bn"))
        },
        **{
            f"layer{layer}_{block}_{conv}": f"layer{layer}.{block}.{conv}"
            for layer, blocks in ((1, 1), (2, 2), (3, 5), (4, 3)) for block in range(blocks) for conv in ("conv1", "conv2")
        },
        "fc5_new": "fc5_new",
        "fc8_final": "fc8_final",
    }  # fmt: skip
    CLASSIFIER: ClassVar[str] = "fc8_final"
    ABOVE_EMBEDDING: ClassVar[tuple[str, ...]] = ("fc8_final",)
    FROM_CENTER_LOSS: ClassVar[dict[str, str | None]] = {
        "conv1a": "conv1_a", "conv1b": "conv1_b", "conv2": "conv2", "conv3": "conv3", "conv4": "conv4", "fc5": "fc5_new",
        **{
            f"res{layer + 1}_{2 * block + 2}.{conv}": f"layer{layer}.{block}.{conv}"
            for layer, blocks in ((1, 1), (2, 2), (3, 5), (4, 3)) for block in range(blocks) for conv in ("conv1", "conv2")
        },
    }  # fmt: skip

    def __init__(self, num_classes: int = 7, conv_dropout: float = 0.4, *, cnn: CenterLossFace | None = None) -> None:
        super().__init__(conv_dropout)
        self.fc5_new = nn.Linear(512 * 5 * 4, 512)
        self.fc8_final = nn.Linear(512, num_classes)
        if cnn is not None:
            given = {key: value for key, value in cnn.state_dict().items() if key.rpartition(".")[0] in self.FROM_CENTER_LOSS}
            taken = renamed(self.FROM_CENTER_LOSS, given, None, "the center-loss net's weights don't fit")
            self.load_state_dict(self.state_dict() | taken)

    def embed(self, x: Tensor) -> Tensor:
        """The 512 features below the classifier: (N, 3, 112, 96) -> (N, 512)."""
        result: Tensor = self.fc5_new(self.taps(x).top.flatten(1))
        return result

    def classify(self, features: Tensor) -> Tensor:
        """The logits of what embed() gives."""
        result: Tensor = self.fc8_final(features)
        return result

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.embed(x))
