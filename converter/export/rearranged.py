"""Views, transpositions and shuffles: a chain of them is one rearrangement, and what that is in Caffe is seen at its end.

PyTorch writes a channel shuffle as view, transpose, clone, view; a pixel shuffle, a flatten before a linear layer and a squeeze
are all of this kind. None of them is written when it is met: the chain's effect on the places of a sample's values is kept, and
written as the one layer that does the same when something else reads the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, permutations
from math import isqrt, prod

import torch
from torch import Tensor

from converter.export.sketch import Blob, NoCaffeForm, Sketch


@dataclass(frozen=True)
class Rearranged:
    """A blob's values in another order and shape: places[i...] is the place in the blob where value i... comes from."""

    source: Blob
    places: Tensor  # int64, of the result's shape

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.places.shape)


def rearrange(value: Blob | Rearranged, operation: Callable[[Tensor], Tensor]) -> Rearranged:
    """One more step: `operation` is what PyTorch does to the tensor."""
    if isinstance(value, Blob):
        value = Rearranged(value, torch.arange(prod(value.shape)).view(value.shape))
    return Rearranged(value.source, operation(value.places))


def written(net: Sketch, value: Blob | Rearranged) -> Blob:
    """The blob itself, after the layer that rearranges it."""
    if isinstance(value, Blob):
        return value
    source, places = value.source, value.places
    if torch.equal(places.flatten(), torch.arange(prod(source.shape))):
        return _reshaped(net, source, value.shape)
    part = _part(net, source, places)
    if part is not None:
        return part
    order = _permutation(source.shape, places)
    if order is not None and net.has("Permute"):
        return net.one("Permute", [source], value.shape, permute_param={"order": order})
    for attempt in (_channels, _depth_to_space, _space_to_depth):
        found = attempt(net, source, places)
        if found is not None:
            return found
    hint = f': a Permute layer of {order} does it, which only dialect="ssd" has' if order is not None else ""
    raise NoCaffeForm(f"it moves values of a blob {source.shape} to {value.shape} in an order that no Caffe layer makes{hint}")


def _reshaped(net: Sketch, source: Blob, shape: tuple[int, ...]) -> Blob:
    if source.shape == shape:
        return source
    if shape == (source.shape[0], prod(source.shape[1:])):
        return net.one("Flatten", [source], shape)
    # 0 copies the bottom's dim, so the batch may change; where the first axis itself changes, it is what remains
    same = bool(shape) and bool(source.shape) and shape[0] == source.shape[0]
    dims = [0, *shape[1:]] if same else [-1, *shape[1:]]
    return net.one("Reshape", [source], shape, reshape_param={"shape": {"dim": dims}})


def _part(net: Sketch, source: Blob, places: Tensor) -> Blob | None:
    """A stretch of one axis, as the last step of a sequence: a Slice, and the shape of the result."""
    total = prod(source.shape)
    if not places.numel() or places.numel() == total:
        return None
    index, start = torch.arange(total).view(source.shape), int(places.flatten()[0])
    for axis, size in enumerate(source.shape):
        length, rest = divmod(places.numel() * size, total)
        first = start // prod(source.shape[axis + 1 :]) % size
        if rest or first + length > size or not torch.equal(index.narrow(axis, first, length).flatten(), places.flatten()):
            continue
        return _reshaped(net, cut(net, source, axis, first, first + length), tuple(places.shape))
    return None


def cut(net: Sketch, x: Blob, axis: int, start: int, stop: int) -> Blob:
    """x[start:stop] along an axis: a Slice, whose other parts nobody reads."""
    size = x.shape[axis]
    if (start, stop) == (0, size):
        return x
    points = [point for point in (start, stop) if 0 < point < size]
    edges = [0, *points, size]
    shapes = [[*x.shape[:axis], b - a, *x.shape[axis + 1 :]] for a, b in pairwise(edges)]
    parts = net.layer("Slice", [x], shapes, slice_param={"axis": axis, "slice_point": points})
    return parts[edges.index(start)]


def _permutation(shape: tuple[int, ...], places: Tensor) -> list[int] | None:
    """The order of axes, where the rearrangement is one of the source's own axes."""
    if places.dim() != len(shape) or sorted(places.shape) != sorted(shape) or len(shape) > 6:
        return None
    index = torch.arange(prod(shape)).view(shape)
    for order in permutations(range(len(shape))):
        if tuple(shape[axis] for axis in order) == tuple(places.shape) and torch.equal(index.permute(order), places):
            return list(order)
    return None


def _sample(source: Blob, places: Tensor) -> Tensor | None:
    """The places within one sample, where every sample is rearranged alike and the batch stays in front."""
    count, size = source.shape[0], prod(source.shape[1:])
    if places.dim() < 1 or places.shape[0] != count:
        return None
    first = places[0]
    steps = torch.arange(count).view(-1, *[1] * first.dim()) * size
    return first if bool((first < size).all()) and torch.equal(first + steps, places) else None


def _channels(net: Sketch, source: Blob, places: Tensor) -> Blob | None:
    """Whole channels in another order, as a channel shuffle: a 1×1 convolution whose kernels each pick one."""
    first = _sample(source, places)
    if first is None or len(source.shape) != 4 or places.dim() != 4 or source.shape[2:] != tuple(places.shape[2:]):
        return None
    _, channels, height, width = source.shape
    picked = first[:, 0, 0] // (height * width)
    plane = torch.arange(height * width).view(1, height, width)
    if not torch.equal(picked.view(-1, 1, 1) * height * width + plane, first):
        return None
    kernel = torch.zeros(len(picked), channels, 1, 1)
    kernel[torch.arange(len(picked)), picked] = 1
    return _picking(net, "Convolution", source, tuple(places.shape), kernel, 1)


def _depth_to_space(net: Sketch, source: Blob, places: Tensor) -> Blob | None:
    """A pixel shuffle: a transposed convolution, stride and kernel r, whose kernels each place one channel."""
    first = _sample(source, places)
    if first is None or len(source.shape) != 4 or places.dim() != 4:
        return None
    _, channels, height, width = source.shape
    r = isqrt(channels // places.shape[1]) if places.shape[1] else 0
    if r < 2 or channels != places.shape[1] * r * r or tuple(places.shape[2:]) != (height * r, width * r):
        return None
    picked = first[:, :r, :r] // (height * width)  # (C', r, r): the channel for each place of the first cell
    kernel = torch.zeros(channels, places.shape[1], r, r)
    for (out, y, x), channel in zip(
        torch.cartesian_prod(*map(torch.arange, picked.shape)).tolist(), picked.flatten().tolist(), strict=True
    ):
        kernel[channel, out, y, x] = 1
    index = torch.arange(prod(source.shape), dtype=torch.float64).view(source.shape)
    if not torch.equal(torch.conv_transpose2d(index, kernel.double(), stride=r).long(), places):
        return None
    return _picking(net, "Deconvolution", source, tuple(places.shape), kernel, r)


def _space_to_depth(net: Sketch, source: Blob, places: Tensor) -> Blob | None:
    """The inverse of a pixel shuffle: a strided convolution whose kernels each pick one place of a cell."""
    first = _sample(source, places)
    if first is None or len(source.shape) != 4 or places.dim() != 4:
        return None
    _, channels, height, width = source.shape
    r = isqrt(places.shape[1] // channels) if channels else 0
    if r < 2 or places.shape[1] != channels * r * r or (height, width) != (places.shape[2] * r, places.shape[3] * r):
        return None
    place = first[:, 0, 0]
    channel, y, x = place // (height * width), place % (height * width) // width, place % width
    if int(y.max()) >= r or int(x.max()) >= r:
        return None
    kernel = torch.zeros(len(place), channels, r, r)
    kernel[torch.arange(len(place)), channel, y, x] = 1
    index = torch.arange(prod(source.shape), dtype=torch.float64).view(source.shape)
    if not torch.equal(torch.conv2d(index, kernel.double(), stride=r).long(), places):
        return None
    return _picking(net, "Convolution", source, tuple(places.shape), kernel, r)


def _picking(net: Sketch, type_: str, source: Blob, shape: tuple[int, ...], kernel: Tensor, side: int) -> Blob:
    outputs = shape[1]
    return net.one(
        type_,
        [source],
        shape,
        [kernel],
        convolution_param={"num_output": outputs, "kernel_size": [side], "stride": [side], "bias_term": False},
    )
