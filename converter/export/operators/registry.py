"""How operators are found, and what many of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from converter.export.rearranged import Rearranged
from converter.export.sketch import Blob, NoCaffeForm, Sketch

Operand = Blob | Tensor | float | int
Function = TypeVar("Function", bound=Callable[..., Any])
Result = Blob | Rearranged | Tensor | list[Any]
OPERATORS: dict[str, Callable[..., Result]] = {}
# These get a chain of rearrangements as it is; every other operator gets the blob that it makes.
REARRANGING: dict[str, Callable[..., Rearranged]] = {}


def operator(*names: str) -> Callable[[Function], Function]:
    """Register the function below for these ATen operators (without their overload's name)."""

    def register(function: Function) -> Function:
        for name in names:
            if name in OPERATORS:
                raise ValueError(f"the operator {name!r} is registered twice")
            OPERATORS[name] = function
        return function

    return register


def held(value: Operand, what: str) -> None:
    if not isinstance(value, Tensor):
        raise NoCaffeForm(f"{what} is computed by the net itself; Caffe's layers hold theirs")


def some(bias: Tensor | None) -> list[Tensor]:
    return [] if bias is None else [bias]


def single(value: Operand) -> float | None:
    """A constant that is one number."""
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return None if isinstance(value, Blob) else float(value)


def per_axis(value: int | Sequence[int], axes: int) -> list[int]:
    """One number for every spatial axis."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * axes if len(numbers) == 1 else numbers


def geometry(**numbers: Sequence[int]) -> dict[str, Any]:
    """kernel_size, stride, pad and dilation: once where all axes have the same, else for each axis; Caffe's defaults are left out."""
    found = {name: [values[0]] if len(set(values)) == 1 else list(values) for name, values in numbers.items()}
    return {name: values for name, values in found.items() if values != [{"pad": 0, "stride": 1, "dilation": 1}.get(name)]}


def hw(**numbers: Sequence[int]) -> dict[str, Any]:
    """kernel_h, kernel_w and so on, as convolution and pooling of two axes have them; one field where both are the same."""
    found: dict[str, Any] = {}
    for name, (h, w) in numbers.items():
        short = {"kernel_size": "kernel"}.get(name, name)
        found |= {name: [h]} if h == w else {f"{short}_h": h, f"{short}_w": w}
    return found


def power(net: Sketch, x: Blob, power: float = 1, scale: float = 1, shift: float = 0) -> Blob:
    """(shift + scale * x) ^ power."""
    fields = {name: value for name, value in (("power", power), ("scale", scale), ("shift", shift)) if value != (name != "shift")}
    return net.one("Power", [x], x.shape, power_param=fields) if fields else x


def eltwise(net: Sketch, operation: str, a: Blob, b: Blob, coefficients: Sequence[float] = ()) -> Blob:
    parameters: dict[str, Any] = {"operation": operation}
    if any(value != 1 for value in coefficients):
        parameters["coeff"] = list(coefficients)
    return net.one("Eltwise", [a, b], a.shape, eltwise_param=parameters)


def affine(net: Sketch, x: Blob, axis: int, weight: Tensor | None, bias: Tensor | None) -> Blob:
    """x * weight + bias along the axes from `axis` on."""
    like = bias if weight is None else weight
    if like is None:
        return x
    factor = torch.ones_like(like) if weight is None else weight
    parameters = {"axis": axis, "num_axes": factor.dim(), "bias_term": bias is not None}
    return net.one("Scale", [x], x.shape, [factor, *some(bias)], scale_param=parameters)
