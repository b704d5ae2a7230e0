"""SphereFace-20: a 112×96 face to a 512-d embedding that is compared by angle.

Liu, Wen, Yu, Li, Raj, Song: SphereFace: Deep Hypersphere Embedding for Face Recognition, CVPR 2017 (the 20-layer net of
table 2). Layers and names are those of wy1iu/sphereface, train/code/sphereface_deploy.prototxt.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from architectures._blocks import Chain, ResidualBlock, classifier, xavier


class SphereFace20(Chain):
    """(N, 3, 112, 96) -> the embedding fc5 (N, 512); with num_classes, logits (N, num_classes) of a classifier above it.

    Input: BGR, (x - 127.5) / 128, a face aligned by five points. Embeddings are compared by their cosine. No pooling:
    each of the four stages begins with a convolution of stride 2, then 1, 2, 4, 1 residual blocks.
    """

    FROM_CAFFE: ClassVar[dict[str, str | None]] = {
        "conv1_1": "conv1_1", "relu1_1": "relu1_1",
        "conv1_2": "res1_3.conv1", "relu1_2": "res1_3.relu1", "conv1_3": "res1_3.conv2", "relu1_3": "res1_3.relu2",
        "conv2_1": "conv2_1", "relu2_1": "relu2_1",
        "conv2_2": "res2_3.conv1", "relu2_2": "res2_3.relu1", "conv2_3": "res2_3.conv2", "relu2_3": "res2_3.relu2",
        "conv2_4": "res2_5.conv1", "relu2_4": "res2_5.relu1", "conv2_5": "res2_5.conv2", "relu2_5": "res2_5.relu2",
        "conv3_1": "conv3_1", "relu3_1": "relu3_1",
        "conv3_2": "res3_3.conv1", "relu3_2": "res3_3.relu1", "conv3_3": "res3_3.conv2", "relu3_3": "res3_3.relu2",
        "conv3_4": "res3_5.conv1", "relu3_4": "res3_5.relu1", "conv3_5": "res3_5.conv2", "relu3_5": "res3_5.relu2",
        "conv3_6": "res3_7.conv1", "relu3_6": "res3_7.relu1", "conv3_7": "res3_7.conv2", "relu3_7": "res3_7.relu2",
        "conv3_8": "res3_9.conv1", "relu3_8": "res3_9.relu1", "conv3_9": "res3_9.conv2", "relu3_9": "res3_9.relu2",
        "conv4_1": "conv4_1", "relu4_1": "relu4_1",
        "conv4_2": "res4_3.conv1", "relu4_2": "res4_3.relu1", "conv4_3": "res4_3.conv2", "relu4_3": "res4_3.relu2",
        "fc5": "fc5",
    }  # fmt: skip
    CLASSIFIER: ClassVar[str] = "classifier"

    def __init__(self, num_classes: int | None = None) -> None:
        super().__init__(
            {
                **_stage(1, 3, 64, 1),
                **_stage(2, 64, 128, 2),
                **_stage(3, 128, 256, 4),
                **_stage(4, 256, 512, 1),
                "flatten": nn.Flatten(),
                "fc5": xavier(nn.Linear(512 * 7 * 6, 512)),
                **classifier(512, num_classes),
            }
        )


def _stage(stage: int, inputs: int, outputs: int, blocks: int) -> dict[str, nn.Module]:
    """A convolution that halves the size, its PReLU, and residual blocks named by the blob of their sum: res2_3, res2_5."""
    return {
        f"conv{stage}_1": xavier(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)),
        f"relu{stage}_1": nn.PReLU(outputs),
        **{f"res{stage}_{2 * i + 1}": ResidualBlock(outputs) for i in range(1, blocks + 1)},
    }
