"""PyTorch modules that go to Caffe, and to_caffe() without its warnings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from converter import to_caffe

X = torch.randn(2, 8, 12, 10, generator=torch.Generator().manual_seed(1))


class Formula(nn.Module):
    """f(held modules, inputs...)."""

    def __init__(self, f: Callable[..., Any], *held: nn.Module):
        super().__init__()
        self.f, self.held = f, nn.ModuleList(held)

    def forward(self, *inputs: Tensor) -> Any:
        return self.f(self.held, *inputs)


def settled(module: nn.Module) -> nn.Module:
    """In eval mode, with statistics that are not those that a new BatchNorm begins with."""
    generator = torch.Generator().manual_seed(2)
    for each in module.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm):
            assert each.running_mean is not None and each.running_var is not None
            each.running_mean.copy_(torch.randn(each.running_mean.shape, generator=generator) / 10)
            each.running_var.copy_(torch.rand(each.running_var.shape, generator=generator) + 0.5)
    return module.eval()


def quietly(module: nn.Module, example: Any, folder: Path, **options: Any) -> list[Any]:
    """What to_caffe() compared; that OpenCV cannot read a net is a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return to_caffe(module, example, folder / "net.prototxt", folder / "net.caffemodel", **options)
