"""DenseBlock: a whole DenseNet block as one Caffe layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converter.errors import UnsupportedError
from converter.layers.module import CaffeModule
from converter.layers.registry import Fields, Layer, Param, layer

_EPS = 1e-5  # CUDNN_BN_MIN_EPSILON
_NORM = ("scale", "bias", "mean", "var")


class DenseBlock(CaffeModule):
    """(N, C, H, W) -> (N, C + steps * growth, H, W): each step appends `growth` channels made of all before it.

    A step: batch normalization, ReLU, with `bottleneck` a 1x1 convolution to 4 * growth and both again, a 3x3 convolution;
    no biases. Caffe's kernels are true convolutions, flipped here on the way in. `dropout` follows each step in training.
    Statistics are stored ones in eval mode. senlinuc/caffe_ocr: DenseBlock_layer.cpp, .cu.
    """

    def __init__(self, channels: int, growth: int, steps: int, bottleneck: bool = False, dropout: float = 0.0, momentum: float = 0.1):
        super().__init__()
        self.channels, self.growth, self.steps = channels, growth, steps
        self.bottleneck, self.dropout, self.momentum = bottleneck, dropout, momentum
        for i in range(steps):
            width = channels + i * growth
            self.register_parameter(f"filter{i}", nn.Parameter(torch.empty(growth, 4 * growth if bottleneck else width, 3, 3)))
            self._norm(f"{i}", width)
            if bottleneck:
                self.register_parameter(f"squeeze{i}", nn.Parameter(torch.empty(4 * growth, width, 1, 1)))
                self._norm(f"_squeezed{i}", 4 * growth)

    def _norm(self, name: str, width: int) -> None:
        for kind in ("scale", "bias"):
            self.register_parameter(kind + name, nn.Parameter(torch.empty(width)))
        for kind in ("mean", "var"):
            self.register_buffer(kind + name, torch.empty(width))

    def _normalized(self, x: Tensor, name: str) -> Tensor:
        scale, bias, mean, variance = (getattr(self, kind + name) for kind in _NORM)
        return F.relu(F.batch_norm(x, mean, variance, scale, bias, self.training, self.momentum, _EPS))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.steps):
            y = self._normalized(x, f"{i}")
            if self.bottleneck:
                y = self._normalized(F.conv2d(y, getattr(self, f"squeeze{i}"), None, (1, 1), (0, 0), (1, 1), 1), f"_squeezed{i}")
            y = F.conv2d(y, getattr(self, f"filter{i}"), None, (1, 1), (1, 1), (1, 1), 1)
            x = torch.cat((x, F.dropout(y, self.dropout, self.training)), 1)
        return x


def _keys(steps: int, bottleneck: bool) -> list[str]:
    """The state-dict keys in the order of Caffe's blobs, without the factor at the end."""
    kinds = ["filter", *_NORM] + (["squeeze", *(f"{kind}_squeezed" for kind in _NORM)] if bottleneck else [])
    return [f"{kind}{i}" for kind in kinds for i in range(steps)]


@layer(
    "DenseBlock",
    "denseblock_param",
    ignored={
        **dict.fromkeys(("gpuIdx", "workspace_MB", "BC_ultra_space_efficient"), "chooses where and how it is computed"),
        **dict.fromkeys(("initChannel", "pad_h", "pad_w", "conv_verticalStride", "conv_horizentalStride", "filter_H", "filter_W"),
                        "the layer does not read it"),
    },
    origin="senlinuc/caffe_ocr",
)  # fmt: skip
def dense_block(p: Fields, x: Tensor) -> Layer:
    growth, steps = p.growthRate, p.numTransition
    if x.dim() != 4 or growth < 1 or steps < 1:
        raise ValueError("it takes (N, C, H, W), and a growthRate and numTransition of at least 1")
    if steps > 1000:
        raise UnsupportedError(f"numTransition {steps} is more than any net's")
    dropout = p.dropout_amount if p.use_dropout else 0.0
    if not 0 <= p.dropout_amount <= 1:
        raise ValueError(f"the dropout_amount {p.dropout_amount} is no part of 1")
    module = DenseBlock(x.shape[1], growth, steps, p.use_BC, dropout, p.moving_average_fraction)
    fillers = {"filter": p.Filter_Filler, "squeeze": p.Filter_Filler, "scale": p.BN_Scaler_Filler, "bias": p.BN_Bias_Filler, "var": 1.0}
    params = []
    for key in _keys(steps, p.use_BC):
        kind = key.rstrip("0123456789").removesuffix("_squeezed")
        weight = kind in ("filter", "squeeze")
        params.append(Param(key, fillers.get(kind), None if weight else (1, int(getattr(module, key).shape[0]), 1, 1), not weight))
    return Layer(module, [*params, Param("factor", shape=(1,), squeezed=True)], _unpacked, _packed)


def _unpacked(blobs: list[Tensor]) -> dict[str, Tensor]:
    """Kernels are flipped, statistics divided by the factor that only the CPU's code writes and reads; the GPU's leaves it 0."""
    *values, factor = blobs
    steps, bottleneck = _layout(values)
    scale = torch.where(factor == 0, 1.0, 1 / factor)
    state = {}
    for key, blob in zip(_keys(steps, bottleneck), values, strict=True):
        if key.startswith(("filter", "squeeze")):
            state[key] = blob.flip(2, 3)
        else:
            state[key] = blob.flatten() * scale if key.startswith(("mean", "var")) else blob.flatten()
    return state


def _layout(values: list[Tensor]) -> tuple[int, bool]:
    """How many steps the blobs are of, and whether they have bottlenecks: the second kind of blob, a scale, has one value a channel."""
    steps = next(i for i, blob in enumerate(values) if blob.shape[0] == 1 and blob.shape[2:] == (1, 1))
    return steps, len(values) == 10 * steps


def _packed(state: dict[str, Tensor]) -> list[Tensor]:
    steps = sum(key.startswith("filter") for key in state)
    bottleneck = "squeeze0" in state
    blobs = []
    for key in _keys(steps, bottleneck):
        value = state[key]
        blobs.append(value.flip(2, 3) if value.dim() == 4 else value.reshape(1, -1, 1, 1))
    return [*blobs, torch.ones(1)]
