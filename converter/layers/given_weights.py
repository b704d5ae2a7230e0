"""Convolution and InnerProduct whose weights are bottoms: happynear/caffe-windows, and the forks with param_bottoms."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from converter.layers.module import CaffeModule


class GivenConvolution(CaffeModule):
    """x (N, C, H, W), weight of out * C / groups * kernel values, bias of out values or none -> (N, out, H', W')."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int = 1,
    ):
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, tuple(kernel_size)
        self.stride, self.padding, self.dilation, self.groups = tuple(stride), tuple(padding), tuple(dilation), groups

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        weight = weight.reshape(self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        bias = None if bias is None else bias.reshape(self.out_channels)
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class GivenInnerProduct(CaffeModule):
    """x (..., K...), weight of out * K values with out in front, bias of out values or none -> (..., out)."""

    def __init__(self, in_features: int, axis: int = 1):
        super().__init__()
        self.in_features, self.axis = in_features, axis

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = x.reshape(*x.shape[: self.axis], self.in_features)
        return F.linear(rows, weight.reshape(weight.shape[0], self.in_features), None if bias is None else bias.reshape(weight.shape[0]))
