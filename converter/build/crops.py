"""Where a V1 CROP begins: FCN's branch of Caffe works it out of the strides and pads of the layers between its two bottoms.

Each layer maps a place of its bottom to one of its top, y = scale * x + shift along an axis: a window of kernel k, stride s and
pad p to (x + p - (k - 1) / 2) / s, a deconvolution the other way round. Followed back to a blob that both bottoms come from, the
maps say which place of the first bottom is place 0 of the second (BVLC's python/caffe/coord_map.py says the same of nets in V2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from torch import nn

from converter.errors import UnsupportedError
from converter.program import Step

Map = tuple[Fraction, Fraction]  # scale, shift
_PLACE_BY_PLACE = {
    *("AbsVal", "BatchNorm", "Bias", "BNLL", "Dropout", "Eltwise", "ELU", "Exp", "Log", "LRN", "MVN", "Power", "PReLU", "ReLU", "Scale"),
    *("Sigmoid", "Split", "TanH", "Threshold"),
}
_WINDOWS = {"Convolution", "Deconvolution", "Pooling"}


def crop_offsets(steps: Sequence[Step], modules: Mapping[str, nn.Module], first: int, second: int) -> list[int]:
    """The offsets in height and width at which the blob version `first` is cut to `second`.

    Raises:
        UnsupportedError: the layers between them do not say it, or it is no place of the first.
    """
    makers = {top: step for step in steps for top in step.tops}
    offsets = []
    for axis in (0, 1):
        one, other = (_maps(version, axis, makers, modules) for version in (first, second))
        common = max(set(one) & set(other), default=None)
        if common is None:
            raise UnsupportedError(
                "CROP takes its offset from the layers between its bottoms, and these have no blob in common that only convolutions,"
                ' poolings and layers that work place by place lead from; write type: "Crop" crop_param { axis: 2 offset: 19 }'
                " with the offset of your net"
            )
        scale, shift = other[common][0] / one[common][0], other[common][1]
        shift -= scale * one[common][1]
        if scale != 1 or shift > 0 or shift.denominator != 1:
            raise UnsupportedError(
                f"the places of its bottoms differ by a factor of {scale} and {-shift} places, where CROP takes a whole crop"
            )
        offsets.append(int(-shift))
    return offsets


def _maps(version: int, axis: int, makers: Mapping[int, Step], modules: Mapping[str, nn.Module]) -> dict[int, Map]:
    """The map to a blob version from each of those that it is computed from."""
    found: dict[int, Map] = {}
    left = [(version, (Fraction(1), Fraction(0)))]
    while left:
        version, (scale, shift) = left.pop()
        if version in found:
            continue
        found[version] = scale, shift
        step = makers.get(version)
        mapped = None if step is None else _map(step, modules[step.key], axis)
        if step is not None and mapped is not None:
            through = scale * mapped[0], scale * mapped[1] + shift
            left += [(bottom, through) for bottom in (step.bottoms[:1] if step.type == "Crop" else step.bottoms)]
    return found


def _map(step: Step, module: Any, axis: int) -> Map | None:
    """From a layer's bottom to its top; None where it moves places in another way."""
    if step.type in _PLACE_BY_PLACE:
        return Fraction(1), Fraction(0)
    if step.type == "Crop" and module.axis == 2 and len(module.offset) in (1, 2):
        return Fraction(1), Fraction(-module.offset[axis % len(module.offset)])
    if step.type not in _WINDOWS or not all(hasattr(module, name) for name in ("kernel_size", "stride", "padding")):
        return None
    kernel, stride, pad, dilation = (_at(getattr(module, name, 1), axis) for name in ("kernel_size", "stride", "padding", "dilation"))
    middle = Fraction((kernel - 1) * dilation, 2) - pad
    return (Fraction(stride), middle) if step.type == "Deconvolution" else (Fraction(1, stride), -middle / stride)


def _at(value: Any, axis: int) -> int:
    return int(value[axis] if isinstance(value, Sequence) else value)
