"""The center-loss face ResNet: a 112×96 face to a 512-d embedding, PReLU and no BatchNorm.

Wen, Zhang, Li, Qiao: A Discriminative Feature Learning Approach for Deep Face Recognition, ECCV 2016. Layers and names are
those of ydwen/caffe-face, face_example/face_deploy.prototxt.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from architectures._blocks import Chain, ResidualBlock, classifier, max_pool, xavier


class CenterLossFace(Chain):
    """(N, 3, 112, 96) -> the embedding fc5 (N, 512); with num_classes, logits (N, num_classes) of a classifier above it.

    Input: BGR, (x - 127.5) / 128, a face aligned by five points (extractDeepFeature.m in the authors' repository, which
    also concatenates the mirror image's embedding). Stages of 1, 2, 5, 3 residual blocks at 64, 128, 256, 512 channels.
    """

    FROM_CAFFE: ClassVar[dict[str, str | None]] = {
        "conv1a": "conv1a", "relu1a": "relu1a",
        "conv1b": "conv1b", "relu1b": "relu1b",
        "conv2_1": "res2_2.conv1", "relu2_1": "res2_2.relu1", "conv2_2": "res2_2.conv2", "relu2_2": "res2_2.relu2",
        "conv2": "conv2", "relu2": "relu2",
        "conv3_1": "res3_2.conv1", "relu3_1": "res3_2.relu1", "conv3_2": "res3_2.conv2", "relu3_2": "res3_2.relu2",
        "conv3_3": "res3_4.conv1", "relu3_3": "res3_4.relu1", "conv3_4": "res3_4.conv2", "relu3_4": "res3_4.relu2",
        "conv3": "conv3", "relu3": "relu3",
        "conv4_1": "res4_2.conv1", "relu4_1": "res4_2.relu1", "conv4_2": "res4_2.conv2", "relu4_2": "res4_2.relu2",
        "conv4_3": "res4_4.conv1", "relu4_3": "res4_4.relu1", "conv4_4": "res4_4.conv2", "relu4_4": "res4_4.relu2",
        "conv4_5": "res4_6.conv1", "relu4_5": "res4_6.relu1", "conv4_6": "res4_6.conv2", "relu4_6": "res4_6.relu2",
        "conv4_7": "res4_8.conv1", "relu4_7": "res4_8.relu1", "conv4_8": "res4_8.conv2", "relu4_8": "res4_8.relu2",
        "conv4_9": "res4_10.conv1", "relu4_9": "res4_10.relu1", "conv4_10": "res4_10.conv2", "relu4_10": "res4_10.relu2",
        "conv4": "conv4", "relu4": "relu4",
        "conv5_1": "res5_2.conv1", "relu5_1": "res5_2.relu1", "conv5_2": "res5_2.conv2", "relu5_2": "res5_2.relu2",
        "conv5_3": "res5_4.conv1", "relu5_3": "res5_4.relu1", "conv5_4": "res5_4.conv2", "relu5_4": "res5_4.relu2",
        "conv5_5": "res5_6.conv1", "relu5_5": "res5_6.relu1", "conv5_6": "res5_6.conv2", "relu5_6": "res5_6.relu2",
        "fc5": "fc5",
    }  # fmt: skip
    CLASSIFIER: ClassVar[str] = "classifier"

    def __init__(self, num_classes: int | None = None) -> None:
        super().__init__(
            {
                **_valid_conv("1a", 3, 32),
                **_valid_conv("1b", 32, 64),
                "pool1b": max_pool(2),
                **_blocks(2, 1, 64),
                **_valid_conv("2", 64, 128),
                "pool2": max_pool(2),
                **_blocks(3, 2, 128),
                **_valid_conv("3", 128, 256),
                "pool3": max_pool(2),
                **_blocks(4, 5, 256),
                **_valid_conv("4", 256, 512),
                "pool4": max_pool(2),
                **_blocks(5, 3, 512),
                "flatten": nn.Flatten(),
                "fc5": xavier(nn.Linear(512 * 5 * 4, 512)),
                **classifier(512, num_classes),
            }
        )


def _valid_conv(number: str, inputs: int, outputs: int) -> dict[str, nn.Module]:
    """A 3×3 convolution without padding and its PReLU."""
    return {f"conv{number}": xavier(nn.Conv2d(inputs, outputs, 3)), f"relu{number}": nn.PReLU(outputs)}


def _blocks(stage: int, count: int, channels: int) -> dict[str, nn.Module]:
    """Residual blocks named by the blob of their sum: res3_2 (of conv3_1 and conv3_2), res3_4, ..."""
    return {f"res{stage}_{2 * i}": ResidualBlock(channels) for i in range(1, count + 1)}
