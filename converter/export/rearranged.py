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

from converter.export.linear import along, reshaped
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
    if not places.numel():
        raise NoCaffeForm("nothing is left of it")
    if torch.equal(places.flatten(), torch.arange(prod(source.shape))):
        return reshaped(net, source, value.shape)
    for attempt in (_part, _by_axes, _depth_to_space, _space_to_depth, _permuted):
        found = attempt(net, source, places)
        if found is not None:
            return found
    found_order = None if net.has("Permute") else _order(source, places)
    hint = f': a Permute layer of {found_order[1]} does it, which only dialect="ssd" has' if found_order is not None else ""
    raise NoCaffeForm(f"it moves values of a blob {source.shape} to {value.shape} in an order that no Caffe layer makes{hint}")


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
        return reshaped(net, cut(net, source, axis, first, first + length), tuple(places.shape))
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


def _by_axes(net: Sketch, source: Blob, places: Tensor) -> Blob | None:
    """Rows, columns or channels that are picked, repeated or in another order, each axis by itself; the batch stays as it is."""
    if places.dim() != len(source.shape) or places.shape[0] != source.shape[0]:
        return None
    picked: list[Tensor] = []
    for axis, size in enumerate(source.shape):
        found = places // prod(source.shape[axis + 1 :]) % size
        line = found[tuple(slice(None) if i == axis else slice(1) for i in range(places.dim()))]
        if not torch.equal(found, line.expand_as(found)):
            return None
        picked.append(line.flatten())
    if not torch.equal(picked[0], torch.arange(source.shape[0])):
        return None
    x = source
    for axis in sorted(range(1, len(picked)), key=lambda axis: len(picked[axis]) - source.shape[axis]):  # what shrinks it first
        line, size = picked[axis], source.shape[axis]
        start = int(line[0])
        if torch.equal(line, start + torch.arange(len(line))):
            x = cut(net, x, axis, start, start + len(line))
        else:
            x = along(net, x, axis, torch.eye(size)[line])
    return x


def _order(source: Blob, places: Tensor) -> tuple[tuple[int, ...], list[int]] | None:
    """The view of the source whose axes the rearrangement permutes, its own where that does, and their order; None of another kind."""
    if places.dim() == len(source.shape) <= 6 and sorted(places.shape) == sorted(source.shape):
        index = torch.arange(prod(source.shape)).view(source.shape)
        for order in permutations(range(len(source.shape))):
            if tuple(source.shape[axis] for axis in order) == tuple(places.shape) and torch.equal(index.permute(order), places):
                return source.shape, list(order)
    first = _sample(source, places)
    if first is None or first.numel() != prod(source.shape[1:]):
        return None
    loops = _loops(first.flatten())
    if loops is None:
        return None
    by_stride = sorted(loops, key=lambda loop: -loop[1])
    return (source.shape[0], *(count for count, _ in by_stride)), [0, *(by_stride.index(loop) + 1 for loop in loops)]


def _loops(places: Tensor) -> list[tuple[int, int]] | None:
    """A permutation as nested loops, the outermost first: (how often, by how much); None where it is not of that kind."""
    total, block = len(places), 1
    loops: list[tuple[int, int]] = []
    while block < total:
        heads = places[::block]
        stride = int(heads[1])
        differs = (heads != torch.arange(len(heads)) * stride).nonzero()
        count = int(differs[0]) if len(differs) else len(heads)
        if total % (block * count):
            return None
        loops.insert(0, (count, stride))
        block *= count
    found = torch.zeros(1, dtype=torch.int64)
    for count, stride in loops:
        found = (found.view(-1, 1) + torch.arange(count) * stride).flatten()
    return loops if torch.equal(found, places) else None


def _permuted(net: Sketch, source: Blob, places: Tensor) -> Blob | None:
    found = _order(source, places) if net.has("Permute") else None
    if found is None:
        return None
    view, order = found
    x = reshaped(net, source, view)
    x = net.one("Permute", [x], [view[axis] for axis in order], permute_param={"order": order})
    return reshaped(net, x, tuple(places.shape))


def _sample(source: Blob, places: Tensor) -> Tensor | None:
    """The places within one sample, where every sample is rearranged alike and the batch stays in front."""
    count, size = source.shape[0], prod(source.shape[1:])
    if places.dim() < 1 or places.shape[0] != count:
        return None
    first = places[0]
    steps = torch.arange(count).view(-1, *[1] * first.dim()) * size
    return first if bool((first < size).all()) and torch.equal(first + steps, places) else None


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
