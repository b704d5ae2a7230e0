"""What the training loop asks of the data, and a net's logits over many examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather
from torch import Tensor, nn
from torch.nn import functional as F


class Predict(Protocol):
    def __call__(self, inputs_of: Callable[[Tensor], tuple[Tensor, ...]], count: int, batch_size: int) -> Tensor:
        """(count, K) logits on the CPU of examples 0..count, `inputs_of(rows)` being what the net takes."""


class Task(Protocol):
    """What is trained on. Rows are positions among the training examples."""

    classes: tuple[str, ...]
    targets: Tensor  # (n,) int64 labels or (n, K) distributions of the training examples, on the CPU

    def draw(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """What is random about these examples, as tensors of len(rows) on the CPU."""

    def inputs(self, rows: Tensor, *draws: Tensor) -> tuple[Tensor, ...]:
        """What the net takes, on the device, augmented as drawn."""

    def logits(self, predict: Predict, split: str) -> Tensor:
        """(n, K) of the examples of a split that is only looked at, on the CPU."""

    def labels(self, split: str) -> Tensor:
        """(n,) int64 of such a split, on the CPU."""


def predictor(net: nn.Module, accelerator: Accelerator, channels_last: bool) -> Predict:
    """Runs `net` in evaluation mode, the examples dealt out to the processes."""

    def predict(inputs_of: Callable[[Tensor], tuple[Tensor, ...]], count: int, batch_size: int) -> Tensor:
        world, each = accelerator.num_processes, math.ceil(count / accelerator.num_processes)
        mine = (torch.arange(each) * world + accelerator.process_index).clamp(max=count - 1)
        net.eval()
        parts = []
        with torch.inference_mode(), accelerator.autocast():
            for rows in mine.split(batch_size):
                parts.append(net(*laid_out(inputs_of(rows), channels_last)).float())
            logits: Tensor = gather(torch.cat(parts))
        return logits.view(world, each, -1).transpose(0, 1).flatten(0, 1)[:count].cpu().clone()

    return predict


def smaller(images: Tensor, side: int) -> Tensor:
    """(N, C, H, W) or (N, T, C, H, W) float -> the same with `side` as the shorter one, bilinear with antialiasing."""
    height, width = images.shape[-2:]
    size = [round(side * each / min(height, width)) for each in (height, width)]
    resized = F.interpolate(images.flatten(0, -4), size, mode="bilinear", antialias=True)
    return resized.view(*images.shape[:-2], *size)


def laid_out(inputs: tuple[Tensor, ...], channels_last: bool) -> tuple[Tensor, ...]:
    """The inputs of a net, images (N, C, H, W) in the order of the net's weights."""
    first, *others = inputs
    if channels_last and first.dim() == 4:
        first = first.contiguous(memory_format=torch.channels_last)
    return first, *others
