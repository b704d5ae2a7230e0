"""Random numbers that belong to a key (the run's seed, the epoch, the step), never to what was drawn before."""

from __future__ import annotations

import numpy as np
import torch


def generator(*key: int) -> torch.Generator:
    """A CPU generator that belongs to the key."""
    return torch.Generator().manual_seed(mixed_seed(*key))


def seed_dropout(*key: int) -> None:
    """Seeds what modules draw from, on the CPU and on the GPU."""
    torch.manual_seed(mixed_seed(*key))


def mixed_seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
