"""SSD's prior boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from converter.layers.module import CaffeModule
from converter.layers.registry import Fields, layer


class PriorBox(CaffeModule):
    """SSD's default boxes of a feature map: (N, C, H, W) and the image (N, C', H', W') -> (1, 2, H * W * boxes * 4).

    The first row holds boxes as fractions of the image, place by place, the second their variances. At each place, for each
    size: the square of min_size, that of sqrt(min_size * max_size), then min_size in the aspect ratios (prior_box_layer.cpp).

    Args:
        min_sizes, max_sizes: in pixels, whole numbers (Caffe cuts off fractions); max_sizes as many, or none.
        aspect_ratios: width / height of the further boxes, those of `flip` included.
        variances: one, or four.
        step, image_size: (height, width) in pixels; None: from the shapes of the bottoms.
        offset: of a box's center in its place, 0.5 the middle.
    """

    def __init__(
        self,
        min_sizes: Sequence[int],
        max_sizes: Sequence[int] = (),
        aspect_ratios: Sequence[float] = (),
        variances: Sequence[float] = (0.1,),
        clip: bool = False,
        step: Sequence[float] | None = None,
        image_size: Sequence[int] | None = None,
        offset: float = 0.5,
    ):
        super().__init__()
        self.min_sizes, self.max_sizes, self.aspect_ratios = tuple(min_sizes), tuple(max_sizes), tuple(aspect_ratios)
        self.variances, self.clip, self.offset = tuple(variances), clip, offset
        self.step, self.image_size = (None if value is None else tuple(value) for value in (step, image_size))

    def sizes(self) -> list[tuple[float, float]]:
        """Width and height in pixels of the boxes of one place."""
        found: list[tuple[float, float]] = []
        for i, size in enumerate(self.min_sizes):
            squares = [float(size)] + ([math.sqrt(size * self.max_sizes[i])] if self.max_sizes else [])
            found += [(side, side) for side in squares]
            found += [(size * math.sqrt(ratio), size / math.sqrt(ratio)) for ratio in self.aspect_ratios]
        return found

    def forward(self, feature: Tensor, image: Tensor) -> Tensor:
        height, width = feature.shape[2], feature.shape[3]
        image_height, image_width = self.image_size or (image.shape[2], image.shape[3])
        step_height, step_width = self.step or (image_height / height, image_width / width)
        y = (torch.arange(height, device=feature.device) + self.offset) * step_height
        x = (torch.arange(width, device=feature.device) + self.offset) * step_width
        centers = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), 2)[:, :, None]
        sizes = torch.tensor(self.sizes(), device=feature.device)
        whole = torch.tensor((image_width, image_height), device=feature.device)
        boxes = torch.cat(((centers - sizes / 2) / whole, (centers + sizes / 2) / whole), 3)
        if self.clip:
            boxes = boxes.clamp(0, 1)
        variances = torch.tensor(self.variances, device=feature.device).expand_as(boxes)
        return torch.stack((boxes.flatten(), variances.flatten()))[None].to(feature.dtype)


@layer("PriorBox", "prior_box_param", bottoms=(2, 2))
def prior_box(p: Fields, feature: Tensor, image: Tensor) -> nn.Module:
    smallest, largest = p.min_size, p.max_size
    if not smallest or min(smallest) < 1 or feature.dim() != 4 or image.dim() != 4:
        raise ValueError("PriorBox takes a min_size of at least 1 and bottoms (N, C, H, W)")
    if largest and (len(largest) != len(smallest) or any(b <= a for a, b in zip(smallest, largest, strict=True))):
        raise ValueError(f"max_size {largest} has not one larger value for each min_size {smallest}")
    if len(p.variance) not in (0, 1, 4) or min(p.variance, default=1) <= 0:
        raise ValueError(f"variance {p.variance} is neither one nor four positive values")
    ratios = _ratios(p.aspect_ratio, p.flip)
    # prior_box_layer.cpp keeps the sizes as whole numbers
    sizes = [int(size) for size in smallest], [int(size) for size in largest]
    return PriorBox(*sizes, ratios, p.variance or (0.1,), p.clip, _pair(p, "step"), _pair(p, "img", "img_size"), p.offset)


def _ratios(given: tuple[float, ...], flip: bool) -> list[float]:
    """The aspect ratios but 1: each once, its inverse behind it with flip."""
    found = [1.0]
    for ratio in given:
        if not 0 < ratio < math.inf:
            raise ValueError(f"the aspect_ratio {ratio} is not positive")
        if all(abs(ratio - other) >= 1e-6 for other in found):
            found += [ratio, 1 / ratio] if flip else [ratio]
    return [ratio for ratio in found if abs(ratio - 1) >= 1e-6]


def _pair(p: Fields, name: str, single: str | None = None) -> Any:
    """(height, width) of step_h and step_w, or step for both."""
    single = single or name
    both = [p.has(f"{name}_h"), p.has(f"{name}_w")]
    if any(both) and (not all(both) or p.has(single)):
        raise ValueError(f"{single}, or {name}_h and {name}_w together: not both, and not one alone")
    if not any(both) and not p.has(single):
        return None
    pair = (getattr(p, f"{name}_h"), getattr(p, f"{name}_w")) if any(both) else (getattr(p, single),) * 2
    if min(pair) <= 0:
        raise ValueError(f"{single} must be positive")
    return pair
