"""Layer types of detectors: SSD's boxes, regions of interest."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from converter import fork_modules
from converter.layers.registry import Fields, layer

_FILES = dict.fromkeys(("save_output_param", "save_file", "visualize_threshold"), "writes or draws detections; the top is the same")


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
    return fork_modules.PriorBox(*sizes, ratios, p.variance or (0.1,), p.clip, _pair(p, "step"), _pair(p, "img", "img_size"), p.offset)


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


@layer("DetectionOutput", "detection_output_param", bottoms=(3, 4), ignored=_FILES)
def detection_output(p: Fields, *bottoms: Tensor) -> nn.Module:
    nms = p.nms_param
    if nms.soft_nms:
        raise ValueError("soft_nms is a fork's own suppression, which we do not compute")
    drawn = p.visualize
    if len(bottoms) == 4 and not drawn:
        raise ValueError("its fourth bottom is the image to draw on (visualize: true); another fork reads scores from it, which we do not")
    if p.num_classes < 1 or not 0 <= nms.nms_threshold < math.inf or not 0 < nms.eta <= 1:
        raise ValueError(f"num_classes {p.num_classes}, nms_threshold {nms.nms_threshold} or eta {nms.eta} is out of range")
    return fork_modules.DetectionOutput(
        p.num_classes,
        p.share_location,
        p.background_label_id,
        p.code_type,
        p.variance_encoded_in_target,
        p.confidence_threshold if p.has("confidence_threshold") else None,
        nms.nms_threshold,
        nms.eta,
        nms.top_k if nms.HasField("top_k") else -1,
        p.keep_top_k,
        p.clip,
    )


@layer("ROIPooling", "roi_pooling_param", bottoms=(2, 2))
def roi_pooling(p: Fields, x: Tensor, rois: Tensor) -> nn.Module:
    if min(p.pooled_h, p.pooled_w) < 1 or p.spatial_scale <= 0 or x.dim() != 4:
        raise ValueError("ROIPooling takes a pooled_h and pooled_w of at least 1, a positive spatial_scale and four axes (N, C, H, W)")
    return fork_modules.ROIPooling((p.pooled_h, p.pooled_w), p.spatial_scale)


@layer("PSROIPooling", "psroi_pooling_param", bottoms=(2, 2))
def psroi_pooling(p: Fields, x: Tensor, rois: Tensor) -> nn.Module:
    if min(p.output_dim, p.group_size) < 1 or p.spatial_scale <= 0 or x.dim() != 4:
        raise ValueError("PSROIPooling takes spatial_scale, output_dim and group_size, all positive, and four axes (N, C, H, W)")
    return fork_modules.PSROIPooling(p.output_dim, p.group_size, p.spatial_scale)
