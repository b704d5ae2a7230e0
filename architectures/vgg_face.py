"""VGG-Face: 16 layers, trained to tell 2622 people apart; its fc7 is the face descriptor.

Parkhi, Vedaldi, Zisserman: Deep Face Recognition, BMVC 2015 (net D of table 3). The layers and their names are those
of VGG_FACE_deploy.prototxt in the authors' vgg_face_caffe.tar.gz.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from architectures._blocks import Chain, max_pool


class VGGFace(Chain):
    """(N, 3, 224, 224) -> logits (N, num_classes), Caffe's blob fc8 (its prob is their softmax).

    Input: BGR, 0 to 255 minus the means 93.5940 (B), 104.7624 (G), 129.1863 (R), as the authors' matcaffe_demo.m does.
    `features("fc7")` is the descriptor (N, 4096), after its ReLU; so are conv1_1 ... pool5 (N, 512, 7, 7), fc6, fc7.
    """

    FROM_CAFFE: ClassVar[dict[str, str | None]] = {
        "conv1_1": "conv1_1", "conv1_2": "conv1_2",
        "conv2_1": "conv2_1", "conv2_2": "conv2_2",
        "conv3_1": "conv3_1", "conv3_2": "conv3_2", "conv3_3": "conv3_3",
        "conv4_1": "conv4_1", "conv4_2": "conv4_2", "conv4_3": "conv4_3",
        "conv5_1": "conv5_1", "conv5_2": "conv5_2", "conv5_3": "conv5_3",
        "fc6": "fc6", "fc7": "fc7", "fc8": "fc8",
    }  # fmt: skip
    CLASSIFIER: ClassVar[str] = "fc8"

    def __init__(self, num_classes: int = 2622) -> None:
        super().__init__(
            {
                **_stage(1, 3, 64, 2),
                **_stage(2, 64, 128, 2),
                **_stage(3, 128, 256, 3),
                **_stage(4, 256, 512, 3),
                **_stage(5, 512, 512, 3),
                "flatten": nn.Flatten(),
                "fc6": nn.Linear(512 * 7 * 7, 4096),
                "relu6": nn.ReLU(inplace=True),
                "drop6": nn.Dropout(0.5),
                "fc7": nn.Linear(4096, 4096),
                "relu7": nn.ReLU(inplace=True),
                "drop7": nn.Dropout(0.5),
                "fc8": nn.Linear(4096, num_classes),
            }
        )


def _stage(stage: int, inputs: int, outputs: int, depth: int) -> dict[str, nn.Module]:
    """3×3 convolutions conv<stage>_1 ... with their ReLUs, and a pool that halves the size, rounding up."""
    layers: dict[str, nn.Module] = {}
    for i in range(1, depth + 1):
        layers[f"conv{stage}_{i}"] = nn.Conv2d(inputs if i == 1 else outputs, outputs, 3, padding=1)
        layers[f"relu{stage}_{i}"] = nn.ReLU(inplace=True)
    layers[f"pool{stage}"] = max_pool(2)
    return layers
