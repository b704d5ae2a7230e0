"""What goes wrong in a recipe or in its data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SHOWN = 8  # of several problems


class FinetuneError(ValueError):
    """What keeps a recipe from running; the text names the file, the place, the value, and what to do."""


class SizesDiffer(FinetuneError):
    """Images or frames are of different sizes; reading them again with a `size` resizes all to it."""


class BadImage(FinetuneError):
    """An image file that is damaged, none at all, or not to be read as it is seen."""


class MemoryShort(FinetuneError):
    """The data, decoded, need more memory than there is; with a `size` they may need less."""


class Stopped(Exception):
    """A run was told to stop by a signal; its state is saved."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


def all_bad(problems: Sequence[BadImage], root: Path) -> BadImage:
    """One error for several files."""
    if len(problems) == 1:
        return problems[0]
    more = [f"and {len(problems) - SHOWN:,} more"] if len(problems) > SHOWN else []
    lines = "".join(f"\n  {problem}" for problem in (*problems[:SHOWN], *more))
    return BadImage(f"{root}: {len(problems):,} files cannot be read as images:{lines}")
