"""Values in half precision or bfloat16: rounded, with what that costs measured on the way."""

from __future__ import annotations

import torch
from torch import Tensor

from converter.errors import UnsupportedError, some

NAMES = {torch.float16: "half precision", torch.bfloat16: "bfloat16"}


class Rounding:
    """Called with each entry of a state dict: its values in `dtype`; whole numbers stay what they are.

    Rounding is to the nearest, ties to even. Values that become infinite are an error, which check() raises; what the rest
    lost is in summary().
    """

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.beyond: list[str] = []  # entries with values that the type does not reach
        self.error, self.worst, self.reach = 0.0, "", 0.0  # the largest error, in which entry, and that one's largest magnitude
        self.vanished = 0  # values that became 0

    def __call__(self, key: str, value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        rounded, finite = value.to(self.dtype), value.isfinite()
        largest = float(value[finite].abs().max()) if finite.any() else 0.0
        if not rounded[finite].isfinite().all():
            self.beyond.append(f"{key} reaches {largest:,.9g}")
        elif largest:
            error = float((rounded.float() - value)[finite].abs().max())
            if error > self.error:
                self.error, self.worst, self.reach = error, key, largest
            self.vanished += int(((rounded == 0) & (value != 0)).sum())
        return rounded

    def check(self, where: str) -> None:
        """Refuse values beyond the type's range; all entries that have some, in one message.

        Raises:
            UnsupportedError: there are some.
        """
        if not self.beyond:
            return
        way = "--fold-batchnorm takes BatchNorm's statistics away, and --bf16 has float32's range"
        raise UnsupportedError(
            f"{where} is not written: {NAMES[self.dtype]} ends at {torch.finfo(self.dtype).max:,.6g}, and {some(self.beyond)}."
            + (f" What helps: {way}." if self.dtype == torch.float16 else "")
        )

    def summary(self) -> str:
        """What the rounding cost, for the terminal."""
        text = f"rounded to {NAMES[self.dtype]}"
        if self.worst:
            text += f": off by {self.error:.1e} at most, in {self.worst}, whose values go up to {self.reach:.4g}"
        if self.vanished:
            text += f"; {self.vanished:,} value{'s are' if self.vanished > 1 else ' is'} too small for it and became 0"
        return text
