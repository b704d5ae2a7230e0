"""SSD's prior boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from converter.layers.module import CaffeModule
from converter.layers.registry import Fields, fields_set, layer

MOST_BOXES = 10_000  # at a place


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
        self.step = None if step is None else tuple(step)
        self.image_size = None if image_size is None else tuple(image_size)

    def sizes(self) -> list[tuple[float, float]]:
        """Width and height in pixels of the boxes of one place."""
        found: list[tuple[float, float]] = []
        for i, size in enumerate(self.min_sizes):
            squares = [float(size)] + ([math.sqrt(size * self.max_sizes[i])] if self.max_sizes else [])
            found += [(side, side) for side in squares]
            found += [(size * math.sqrt(ratio), size / math.sqrt(ratio)) for ratio in self.aspect_ratios]
        return found

    def forward(self, feature: Tensor, image: Tensor) -> Tensor:
        sizes = torch.tensor(self.sizes(), device=feature.device)
        return _prior_boxes(feature, image, sizes, self.variances, self.clip, self.step, self.image_size, self.offset)


def _prior_boxes(
    feature: Tensor,
    image: Tensor,
    sizes: Tensor,
    variances: Sequence[float],
    clip: bool,
    step: Sequence[float] | None,
    image_size: Sequence[int] | None,
    offset: float,
) -> Tensor:
    """Boxes of sizes (n, 2), width and height in pixels, at each place of the feature map, and their variances."""
    height, width = feature.shape[2], feature.shape[3]
    image_height, image_width = image_size or (image.shape[2], image.shape[3])
    step_height, step_width = step or (image_height / height, image_width / width)
    y = (torch.arange(height, device=feature.device) + offset) * step_height
    x = (torch.arange(width, device=feature.device) + offset) * step_width
    centers = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), 2)[:, :, None]
    whole = torch.tensor((image_width, image_height), device=feature.device)
    boxes = torch.cat(((centers - sizes / 2) / whole, (centers + sizes / 2) / whole), 3)
    if clip:
        boxes = boxes.clamp(0, 1)
    spread = torch.tensor(variances, device=feature.device).expand_as(boxes)
    return torch.stack((boxes.flatten(), spread.flatten()))[None].to(feature.dtype)


@layer(
    "PriorBox",
    "prior_box_param",
    bottoms=(2, 2),
    origin="SSD",
    refuses="a min_size under 1 pixel; a max_size that is not larger, but for what SSD's first version took",
)
def prior_box(p: Fields, feature: Tensor, image: Tensor) -> nn.Module:
    smallest, largest = p.min_size, p.max_size
    if not smallest or min(smallest) < 1 or feature.dim() != 4 or image.dim() != 4:
        raise ValueError("PriorBox takes a min_size of at least 1 and bottoms (N, C, H, W)")
    if largest and len(largest) != len(smallest):
        raise ValueError(f"max_size {largest} has not one value for each min_size {smallest}")
    variances, step, image_size, clip = _variances(p), _pair(p, "step"), _pair(p, "img", "img_size"), p.clip
    if any(b <= a for a, b in zip(smallest, largest, strict=False)):
        # SSD's first version alone takes that (2015's prior_box_layer.cpp): one size, cut to the image by default, no later field
        later = fields_set(p, "step", "step_h", "step_w", "img_size", "img_h", "img_w", "offset")
        if len(smallest) > 1 or p.variance or later or min(largest) < 1:
            raise ValueError(f"max_size {largest} has not one larger value for each min_size {smallest}")
        clip = clip or not p.has("clip")
    ratios = _ratios(p.aspect_ratio, p.flip)
    if len(smallest) * (1 + len(ratios) + bool(largest)) > MOST_BOXES:
        raise ValueError(f"{len(smallest):,} sizes in {len(ratios) + 1:,} aspect ratios are more boxes than any net has at a place")
    # prior_box_layer.cpp keeps the sizes as whole numbers
    sizes = [int(size) for size in smallest], [int(size) for size in largest]
    return PriorBox(*sizes, ratios, variances, clip, step, image_size, p.offset)


def _variances(p: Fields) -> tuple[float, ...]:
    found: tuple[float, ...] = p.variance or (0.1,)
    if len(found) not in (1, 4) or min(found) <= 0:
        raise ValueError(f"variance {found} is neither one nor four positive values")
    return found


def _ratios(given: tuple[float, ...], flip: bool) -> list[float]:
    """The aspect ratios but 1: each once, its inverse behind it with flip."""
    if len(given) > 1000:
        raise ValueError(f"{len(given):,} aspect ratios are more than any net's")
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


class PriorBoxClustered(CaffeModule):
    """Prior boxes whose sizes are given one by one: feature map (N, C, H, W), image (N, C', H', W') -> (1, 2, H * W * n * 4).

    Laid out as PriorBox's (OpenVINO's PriorBoxClustered-1 and OpenCV's prior_box_layer.cpp).

    Args:
        widths, heights: of the n boxes of a place, in pixels.
        variances: one, or four.
        clip: boxes are cut to the image.
        step, image_size: (height, width) in pixels; None: from the shapes of the bottoms.
        offset: of a box's center in its place, 0.5 the middle.
    """

    def __init__(
        self,
        widths: Sequence[float],
        heights: Sequence[float],
        variances: Sequence[float] = (0.1,),
        clip: bool = True,
        step: Sequence[float] | None = None,
        image_size: Sequence[int] | None = None,
        offset: float = 0.5,
    ):
        super().__init__()
        self.widths, self.heights, self.variances, self.clip = tuple(widths), tuple(heights), tuple(variances), clip
        self.step = None if step is None else tuple(step)
        self.image_size = None if image_size is None else tuple(image_size)
        self.offset = offset

    def forward(self, feature: Tensor, image: Tensor) -> Tensor:
        sizes = torch.tensor((self.widths, self.heights), device=feature.device).T
        return _prior_boxes(feature, image, sizes, self.variances, self.clip, self.step, self.image_size, self.offset)


@layer(
    "PriorBoxClustered",
    "prior_box_param",
    bottoms=(2, 2),
    ignored={"flip": "the boxes are given one by one"},
    origin="OpenVINO, OpenCV",
    refuses="boxes by min_size and aspect_ratio",
)
def prior_box_clustered(p: Fields, feature: Tensor, image: Tensor) -> nn.Module:
    widths, heights = p.width, p.height
    if not widths or len(widths) != len(heights) or min(widths + heights) <= 0 or feature.dim() != 4 or image.dim() != 4:
        raise ValueError(f"{len(widths)} width and {len(heights)} height; it takes as many, all positive, and bottoms (N, C, H, W)")
    clip = p.clip if p.has("clip") else True  # not PriorBox's default
    step = (p.step_h or p.step, p.step_w or p.step)  # 0 stands for none
    if min(step) < 0 or (not all(step) and any(step)):
        raise ValueError("step, or step_h and step_w together")
    return PriorBoxClustered(widths, heights, _variances(p), clip, step if all(step) else None, _pair(p, "img", "img_size"), p.offset)
