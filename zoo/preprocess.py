"""The older way to call a Preprocess, for scripts that were written with it; a Preprocess is called itself: spec(image)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from converter.preprocess import Preprocess


def preprocess(spec: Preprocess, image: Any) -> Tensor:
    """spec(image): uint8 RGB (3, H, W), (H, W, 3) or a PIL image -> float32 (C, H, W)."""
    return spec(image)
