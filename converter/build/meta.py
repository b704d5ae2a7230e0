"""Shape inference runs the modules on meta tensors; this mode spares it torch's slow start with them.

Many of torch's meta kernels are Python that imports sympy and torch._dynamo when it is first called: a second and a
half. Under this mode the functions named here give an empty meta tensor of the right shape without them; a function
that is not named takes torch's way. tests/converter/test_graph.py infers the shapes of whole nets with and without the mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def _sizes(x: Tensor, weight: Tensor, *geometry: Sequence[int]) -> list[tuple[int, ...]]:
    return list(zip(x.shape[2:], weight.shape[2:], *geometry, strict=True))


def _conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    sizes = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in _sizes(x, weight, stride, padding, dilation)]
    return _sized(x, weight, weight.shape[0], sizes, padding)


def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    extra: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> Tensor:
    sizes = [(size - 1) * s + d * (k - 1) + 1 - 2 * p for size, k, s, p, d in _sizes(x, weight, stride, padding, dilation)]
    return _sized(x, weight, weight.shape[1] * groups, sizes, padding)


def _sized(x: Tensor, weight: Tensor, channels: int, sizes: list[int], padding: Sequence[int]) -> Tensor:
    if min(sizes) < 1:
        raise RuntimeError(f"the kernel {tuple(weight.shape[2:])} does not fit {tuple(x.shape[2:])} with a pad of {tuple(padding)}")
    return x.new_empty(x.shape[0], channels, *sizes)


def _first(x: Tensor, *_: object, **__: object) -> Tensor:
    return x.new_empty(x.shape)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if x.shape[-1] != weight.shape[1]:
        raise RuntimeError(f"rows of {x.shape[-1]} values do not fit a weight of {tuple(weight.shape)}")
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _broadcast(*args: object, **_: object) -> Tensor:
    tensors = [a for a in args if isinstance(a, Tensor)]
    shape: list[int] = []
    for sizes in zip_longest(*(t.shape[::-1] for t in tensors), fillvalue=1):
        wide = {size for size in sizes if size != 1}
        if len(wide) > 1:
            raise RuntimeError(f"shapes {', '.join(str(tuple(t.shape)) for t in tensors)} do not go together")
        shape.insert(0, wide.pop() if wide else 1)
    dtype = tensors[0].dtype
    for other in tensors[1:]:
        dtype = torch.promote_types(dtype, other.dtype)
    return torch.empty(shape, dtype=dtype, device="meta")


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    shapes = {t.shape[:dim] + t.shape[dim:][1:] for t in tensors}
    if len(shapes) > 1 or len({t.dim() for t in tensors}) > 1:
        raise RuntimeError(f"shapes {', '.join(str(tuple(t.shape)) for t in tensors)} do not join along axis {dim}")
    shape = list(tensors[0].shape)
    shape[dim] = sum(t.shape[dim] for t in tensors)
    result: Tensor = tensors[0].new_empty(shape)
    return result


def _pool2d(
    x: Tensor,
    kernel: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    *more: object,
    ceil_mode: bool | None = None,
    **_: object,
) -> Tensor:
    if ceil_mode is None:  # the fifth argument of avg_pool2d; max_pool2d gets it by name
        ceil_mode = bool(more and more[0])
    pairs = [(value, value) if isinstance(value, int) else value for value in (kernel, stride or kernel, padding)]
    sizes = []
    for size, k, s, p in zip(x.shape[-2:], *pairs, strict=True):
        n = (size + 2 * p - k + (s - 1 if ceil_mode else 0)) // s + 1
        n -= ceil_mode and (n - 1) * s >= size + p
        if n < 1 or 2 * p > k:
            raise RuntimeError(f"the window {tuple(pairs[0])} with a pad of {tuple(pairs[2])} does not fit the image {tuple(x.shape[-2:])}")
        sizes.append(n)
    return x.new_empty(*x.shape[:-2], *sizes)


_QUICK: dict[Any, Callable[..., Tensor]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv_transpose),
    **dict.fromkeys(("batch_norm", "relu", "leaky_relu", "elu", "softplus", "prelu", "dropout", "softmax", "sigmoid", "tanh"), _first),
    **dict.fromkeys(("exp", "log", "log1p", "sqrt", "abs", "clamp", "neg", "__rpow__"), _first),
    **dict.fromkeys(("add", "sub", "mul", "div", "pow", "maximum", "__radd__", "__rsub__", "__rmul__", "__rdiv__"), _broadcast),
    "linear": _linear,
    "cat": _cat,
    F.max_pool2d: _pool2d,
    "avg_pool2d": _pool2d,
    "adaptive_avg_pool2d": lambda x, size: x.new_empty(*x.shape[:-2], size, size),
}


class QuickMeta(TorchFunctionMode):
    """with QuickMeta(): module(*meta_tensors)"""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        quick = _QUICK.get(func) or _QUICK.get(func.__name__)
        return quick(*args, **(kwargs or {})) if quick else func(*args, **(kwargs or {}))
