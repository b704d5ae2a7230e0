"""MobileFaceNet: a face embedding in a million parameters, of depthwise convolutions and inverted residuals.

Chen, Liu, Gao, Han: MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices, CCBR 2018
(table 1). The form and the names are those of the MXNet net of deepinsight/insightface as it came to Caffe
(honghuCode/mobileFacenet-ncnn): average pooling and a dense layer end it, where the paper has a depthwise one.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from architectures._blocks import Chain, classifier


class ConvUnit(nn.Sequential):
    """Convolution without bias, BatchNorm and, unless it is linear, a PReLU for each channel."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int = 1, stride: int = 1, groups: int = 1, linear: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)
        if not linear:
            self.relu = nn.PReLU(outputs)


class Bottleneck(nn.Module):
    """1×1 to more channels, 3×3 depthwise, 1×1 back (linear); with the input added where `residual`."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.conv_sep = ConvUnit(inputs, inner)
        self.conv_dw = ConvUnit(inner, inner, 3, stride, groups=inner)
        self.conv_proj = ConvUnit(inner, outputs, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_proj(self.conv_dw(self.conv_sep(x)))
        result: Tensor = x + y if self.residual else y
        return result


_BOTTLENECKS = (
    "dconv_23", *(f"res_3_block{i}" for i in range(4)),
    "dconv_34", *(f"res_4_block{i}" for i in range(6)),
    "dconv_45", *(f"res_5_block{i}" for i in range(2)),
)  # fmt: skip
_UNITS = {
    "conv_1": "conv_1",
    "conv_2_dw": "conv_2_dw",
    **{f"{block}_{conv}": f"{block}.{conv}" for block in _BOTTLENECKS for conv in ("conv_sep", "conv_dw", "conv_proj")},
    "conv_6sep": "conv_6sep",
}


class MobileFaceNet(Chain):
    """(N, 3, 112, 112) -> the embedding fc1 (N, 128); with num_classes, logits (N, num_classes) of a classifier above it.

    Input: RGB, (x - 128) / 128, an aligned face (caffe_forward.py in the repository that the Caffe form comes from).
    Caffe's BatchNorm and Scale are one BatchNorm here; its eps is 1e-3 in the convolutions' and 2e-5 in the last three.
    """

    FROM_CAFFE: ClassVar[dict[str, str | None]] = {
        **{f"{unit}_conv2d": f"{path}.conv" for unit, path in _UNITS.items()},
        **{f"{unit}_batchnorm": f"{path}.bn" for unit, path in _UNITS.items()},
        **{f"{unit}_batchnorm_scale": f"{path}.bn" for unit, path in _UNITS.items()},
        **{f"{unit}_relu": f"{path}.relu" for unit, path in _UNITS.items() if not unit.endswith("_proj")},
        "bn6f": "bn6f", "bn6f_scale": "bn6f",
        "bn6w": "bn6w", "bn6w_scale": "bn6w",
        "pre_fc1": "pre_fc1",
        "fc1": "fc1", "fc1_scale": "fc1",
    }  # fmt: skip
    CLASSIFIER: ClassVar[str] = "classifier"

    def __init__(self, num_classes: int | None = None) -> None:
        super().__init__(
            {
                "conv_1": ConvUnit(3, 64, 3, stride=2),
                "conv_2_dw": ConvUnit(64, 64, 3, groups=64),
                "dconv_23": Bottleneck(64, 128, 64, stride=2),
                **{f"res_3_block{i}": Bottleneck(64, 128, 64, residual=True) for i in range(4)},
                "dconv_34": Bottleneck(64, 256, 128, stride=2),
                **{f"res_4_block{i}": Bottleneck(128, 256, 128, residual=True) for i in range(6)},
                "dconv_45": Bottleneck(128, 512, 128, stride=2),
                **{f"res_5_block{i}": Bottleneck(128, 256, 128, residual=True) for i in range(2)},
                "conv_6sep": ConvUnit(128, 512),
                "bn6f": nn.BatchNorm2d(512, eps=2e-5),
                "pooling0": nn.AvgPool2d(7),
                "bn6w": nn.BatchNorm2d(512, eps=2e-5),
                "flatten": nn.Flatten(),
                "pre_fc1": nn.Linear(512, 128),
                "fc1": nn.BatchNorm1d(128, eps=2e-5),
                **classifier(128, num_classes),
            }
        )
