"""How long a step of training takes, and what the device could do in the same time: what training.py and training_older.py share."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROUND = 0.3


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    batch     images, or clips, of each batch by recipe; frames: of a clip, None as the recipe has them
    steps     (warm-up, timed) of a round, of which there are `rounds`; matrices: their sides
    profiled  steps that --profile looks at
    """

    batch: dict[str, int]
    frames: int | None
    steps: tuple[int, int]
    rounds: int
    matrices: tuple[int, ...]
    profiled: int


# On a GPU the recipes' own batches, but for the clips, whose recipe has one a batch; a CPU's are small, to be done in minutes.
SCALES = {
    "cuda": Scale(
        {"vgg_face": 64, "face_resnet": 128, "mobilefacenet": 128, "scratch": 256, "vgg_gru": 16},
        None, (10, 30), 3, (4096, 8192, 16384), 10,
    ),
    "cpu": Scale({"vgg_face": 2, "face_resnet": 8, "mobilefacenet": 16, "scratch": 16, "vgg_gru": 2}, 2, (1, 1), 3, (1024, 2048), 1),
    "smoke": Scale({"vgg_face": 2, "face_resnet": 2, "mobilefacenet": 2, "scratch": 2, "vgg_gru": 2}, 2, (1, 1), 1, (1024,), 1),
}  # fmt: skip


def scale_of(device: torch.device, *, smoke: bool) -> Scale:
    return SCALES["smoke" if smoke else device.type]


def synchronize(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(step: Callable[[], object], count: int, device: torch.device) -> float:
    """Seconds of a step. The device's queue is empty at both ends."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        step()
    synchronize(device)
    return (time.perf_counter() - start) / count


def rounds_of(step: Callable[[], object], scale: Scale, device: torch.device) -> list[float]:
    """Seconds of a step in each round, after a warm-up. Rounds of quick steps are made longer, to ROUND seconds."""
    warm, count = scale.steps
    for _ in range(warm):
        step()
    count = max(count, min(200, round(ROUND / timed(step, 1, device))))
    return [timed(step, count, device) for _ in range(scale.rounds)]


def matrix_rate(dtype: torch.dtype, scale: Scale, device: torch.device) -> float:
    """TFLOP/s of the square matrix product in its best round: 2 n³ operations each."""
    import torch

    rates = []
    for side in scale.matrices:
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(left)
        seconds = rounds_of(lambda a=left, b=right, c=out: torch.mm(a, b, out=c), scale, device)  # type: ignore[misc]
        rates.append(2 * side**3 / min(seconds) / 1e12)
    return max(rates)


def peak_mib(device: torch.device) -> float:
    """The most that was allocated on the GPU since its count was reset, or the process's resident memory at its largest."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
