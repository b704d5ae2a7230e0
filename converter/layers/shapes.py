"""Layers that rearrange, pick or reduce values: Reshape, Flatten, Tile, Crop, Permute, Reduction."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from converter.errors import UnsupportedError
from converter.layers.module import CaffeModule
from converter.layers.registry import Fields, layer


class Flatten(CaffeModule):
    """Axes `axis` to `end_axis`, both counted, become one."""

    def __init__(self, axis: int = 1, end_axis: int = -1):
        super().__init__()
        self.axis, self.end_axis = axis, end_axis

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.axis, self.end_axis)


@layer("Flatten", "flatten_param", shares_memory=True)
def flatten(p: Fields, x: Tensor) -> nn.Module:
    first, last = (a + x.dim() if a < 0 else a for a in (p.axis, p.end_axis))
    if not 0 <= first <= last < x.dim():
        raise ValueError(f"axes {p.axis} to {p.end_axis} are no range within {x.dim()} axes")
    return Flatten(p.axis, p.end_axis)


class Reshape(CaffeModule):
    """Axes `axis` .. `axis + num_axes` take the dims: 0 keeps the bottom's axis, one -1 is what remains.

    A negative axis counts from behind the last one: -1 adds axes at the end (reshape_layer.cpp).
    """

    def __init__(self, dims: Sequence[int], axis: int = 0, num_axes: int = -1):
        super().__init__()
        self.dims, self.axis, self.num_axes = tuple(dims), axis, num_axes

    def forward(self, x: Tensor) -> Tensor:
        start = self.axis if self.axis >= 0 else x.dim() + self.axis + 1
        end = x.dim() if self.num_axes == -1 else start + self.num_axes
        if not 0 <= start <= x.dim() or not start <= end <= x.dim():
            raise ValueError(f"axis {self.axis} with num_axes {self.num_axes} lies outside of {x.dim()} axes")
        if any(d == 0 and start + i >= x.dim() for i, d in enumerate(self.dims)):
            raise ValueError(f"dims {self.dims} copy an axis that a bottom of {x.dim()} axes does not have")
        middle = [x.shape[start + i] if d == 0 else d for i, d in enumerate(self.dims)]
        return x.reshape(*x.shape[:start], *middle, *x.shape[end:])


@layer("Reshape", "reshape_param", shares_memory=True)
def reshape(p: Fields, x: Tensor) -> nn.Module:
    dims = tuple(p.shape.dim)
    if dims.count(-1) > 1 or min(dims, default=0) < -1:
        raise ValueError(f"the dims {dims} are not all at least 0, with one -1 at most")
    return Reshape(dims, p.axis, p.num_axes)


class Tile(CaffeModule):
    """`tiles` copies along an axis."""

    def __init__(self, tiles: int, axis: int = 1):
        super().__init__()
        self.tiles, self.axis = tiles, axis

    def forward(self, x: Tensor) -> Tensor:
        repeats = [1] * x.dim()
        repeats[self.axis] = self.tiles
        return x.repeat(repeats)


@layer("Tile", "tile_param")
def tile(p: Fields, x: Tensor) -> nn.Module:
    if p.tiles < 1:
        raise ValueError("tiles must be at least 1")
    return Tile(p.tiles, p.axis)


class Crop(CaffeModule):
    """The first bottom, cut from `axis` on to the size of the second, beginning at the offsets."""

    def __init__(self, axis: int = 2, offset: Sequence[int] = ()):
        super().__init__()
        self.axis, self.offset = axis, tuple(offset)

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        first = self.axis if self.axis >= 0 else x.dim() + self.axis
        for i in range(first, x.dim()):
            offset = 0 if not self.offset else self.offset[0 if len(self.offset) == 1 else i - first]
            if offset + like.shape[i] > x.shape[i]:
                raise ValueError(f"the crop of axis {i} ends at {offset} + {like.shape[i]}, behind its length {x.shape[i]}")
            x = x.narrow(i, offset, like.shape[i])
        return x


@layer("Crop", "crop_param", bottoms=(2, 2))
def crop(p: Fields, x: Tensor, like: Tensor) -> nn.Module:
    axis = p.axis + x.dim() if p.axis < 0 else p.axis
    if not 0 <= axis < x.dim() or len(p.offset) not in (0, 1, x.dim() - axis) or like.dim() != x.dim():
        raise ValueError(f"axis {p.axis} with {len(p.offset)} offsets; it takes none, one, or one for each cropped axis")
    return Crop(p.axis, p.offset)


@layer(
    "CROP",
    "crop_param",
    bottoms=(2, 2),
    origin="FCN's branch of Caffe, in V1",
    refuses="bottoms that other layers lie between than convolutions, poolings and those that work place by place",
)
def crop_v1(p: Fields, x: Tensor, like: Tensor) -> nn.Module:
    """Its offset is a property of the net: converter/build/crops.py has put it into crop_param."""
    if x.dim() != 4 or like.dim() != 4:
        raise ValueError("CROP takes four axes (N, C, H, W)")
    return crop(p, x, like)


@layer("SimpleCrop", "crop_param", bottoms=(2, 2), origin="forks of 2015")
def simple_crop(p: Fields, x: Tensor, like: Tensor) -> nn.Module:
    """Rows and columns are cut off at the end (simple_crop_layer.cpp). A blob_name stands for the second bottom."""
    _ = p.blob_name
    if x.dim() != 4 or like.dim() != 4:
        raise ValueError("SimpleCrop takes four axes (N, C, H, W)")
    return Crop(2)


class CropCenter(CaffeModule):
    """Cuts crop_size values off both ends of each axis (crop_center_layer.cpp of lltcggie/caffe, waifu2x-caffe's)."""

    def __init__(self, crop_size: Sequence[int]):
        super().__init__()
        self.crop_size = tuple(crop_size)

    def forward(self, x: Tensor) -> Tensor:
        for axis, cut in enumerate(self.crop_size):
            if 2 * cut >= x.shape[axis]:
                raise ValueError(f"crop_size {cut} leaves nothing of axis {axis} of length {x.shape[axis]}")
            x = x.narrow(axis, cut, x.shape[axis] - 2 * cut)
        return x


@layer("CropCenter", "crop_center_param", origin="waifu2x-caffe")
def crop_center(p: Fields, x: Tensor) -> nn.Module:
    if len(p.crop_size) != x.dim():
        raise ValueError(f"{len(p.crop_size)} values of crop_size for {x.dim()} axes; it takes one for each")
    return CropCenter(p.crop_size)


class Reduction(CaffeModule):
    """SUM, ASUM (of |x|), SUMSQ (of x * x) or MEAN over `axis` and all behind it, times coeff."""

    def __init__(self, operation: str = "SUM", axis: int = 0, coeff: float = 1.0):
        super().__init__()
        self.operation, self.axis, self.coeff = operation, axis, coeff

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(self.axis) if x.dim() > 0 else x
        x = x.abs() if self.operation == "ASUM" else x * x if self.operation == "SUMSQ" else x
        y = x.mean(-1) if self.operation == "MEAN" else x.sum(-1)
        return y if self.coeff == 1 else y * self.coeff


@layer("Reduction", "reduction_param")
def reduction(p: Fields, x: Tensor) -> nn.Module:
    return Reduction(p.operation, p.axis, p.coeff)


class ArgMax(CaffeModule):
    """The indices (as floats) of the top_k largest values, the later one first where values tie (argmax_layer.cpp).

    With axis: along it; the top holds indices, or values with out_max_val. Without: over each whole item, the top is
    (N, 1, top_k) or, with out_max_val, (N, 2, top_k): indices, then values; padded with axes of 1 to the bottom's count.
    """

    def __init__(self, top_k: int = 1, out_max_val: bool = False, axis: int | None = None):
        super().__init__()
        self.top_k, self.out_max_val, self.axis = top_k, out_max_val, axis

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1) if self.axis is None else x.movedim(self.axis, -1)
        if self.top_k > rows.shape[-1]:
            raise ValueError(f"top_k {self.top_k} is more than the {rows.shape[-1]} values")
        values, order = rows.flip(-1).sort(stable=True, dim=-1, descending=True)
        values = values[..., : self.top_k]
        indices = (rows.shape[-1] - 1 - order[..., : self.top_k]).to(x.dtype)
        if self.axis is not None:
            return (values if self.out_max_val else indices).movedim(-1, self.axis)
        both = torch.stack((indices, values), 1) if self.out_max_val else indices[:, None]
        return both.reshape(both.shape + (1,) * (x.dim() - 3))


@layer("ArgMax", "argmax_param")
def argmax(p: Fields, x: Tensor) -> nn.Module:
    if p.top_k < 1:
        raise ValueError("top_k must be at least 1")
    return ArgMax(p.top_k, p.out_max_val, p.axis if p.has("axis") else None)


class BatchReindex(CaffeModule):
    """The items of the first bottom in the order of the second's indices."""

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return x.index_select(0, index.flatten().long())


@layer("BatchReindex", bottoms=(2, 2))
def batch_reindex(p: Fields, x: Tensor, index: Tensor) -> nn.Module:
    if index.dim() != 1:
        raise ValueError("the indices take one axis")
    return BatchReindex()


class Filter(CaffeModule):
    """From every bottom but the last, the items for which the last one (the selector, one value an item) is not 0."""

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        *xs, selector = bottoms
        if selector.is_meta:  # the count is data: Caffe's own Reshape starts with all of them
            tops = tuple(xs)
        else:
            keep = selector.flatten() != 0
            tops = tuple(x[keep] for x in xs)
        return tops if len(tops) > 1 else tops[0]


@layer("Filter", bottoms=(2, None))
def filter_(p: Fields, *bottoms: Tensor) -> nn.Module:
    if p.tops != len(bottoms) - 1:
        raise ValueError(f"{p.tops} tops for {len(bottoms)} bottoms; there is one top for each bottom but the selector")
    *items, selector = bottoms
    if any(x.shape[:1] != selector.shape[:1] for x in items) or selector.dim() < 1 or prod(selector.shape[1:]) != 1:
        raise ValueError("the selector takes one value for each item of the other bottoms")
    return Filter()


class Silence(CaffeModule):
    """Takes bottoms so that they are no outputs of the net."""

    def forward(self, *bottoms: Tensor) -> tuple[()]:
        return ()


@layer("Silence", bottoms=(1, None))
def silence(p: Fields, *bottoms: Tensor) -> nn.Module:
    return Silence()


class Permute(CaffeModule):
    """Axis order[i] of x becomes axis i."""

    def __init__(self, order: Sequence[int]):
        super().__init__()
        self.order = tuple(order)

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


@layer("Permute", "permute_param", origin="weiliu89/caffe (SSD)")
def permute(p: Fields, x: Tensor) -> nn.Module:
    order: tuple[int, ...] = p.order
    if len(set(order)) < len(order) or max(order, default=0) >= x.dim():
        raise ValueError(f"the order {order} names an axis twice, or one that {x.dim()} axes do not have")
    return Permute((*order, *(axis for axis in range(x.dim()) if axis not in order)))


@layer("Transpose", "transpose_param", origin="senlinuc/caffe_ocr, CTPN")
def transpose(p: Fields, x: Tensor) -> nn.Module:
    if sorted(p.dim) != list(range(x.dim())):
        raise ValueError(f"dim {p.dim} does not name each of {x.dim()} axes once")
    return Permute(p.dim)


class Flip(CaffeModule):
    """x backwards along the axes."""

    def __init__(self, axes: Sequence[int]):
        super().__init__()
        self.axes = tuple(axes)

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(self.axes)


@layer("Reverse", "reverse_param", origin="senlinuc/caffe_ocr, CTPN")
def reverse(p: Fields, x: Tensor) -> nn.Module:
    if not 0 <= p.axis < x.dim():
        raise ValueError(f"axis {p.axis} lies outside of {x.dim()} axes")
    return Flip([p.axis])


@layer("Flip", "flip_param", origin="happynear/caffe-windows")
def flip(p: Fields, x: Tensor) -> nn.Module:
    if x.dim() != 4:
        raise ValueError("Flip takes four axes (N, C, H, W)")
    return Flip([2] * p.flip_height + [3] * p.flip_width)


class ShuffleChannel(CaffeModule):
    """Channels of `group` groups taken in turn: (N, group, C / group, ...) -> (N, C / group, group, ...)."""

    def __init__(self, group: int):
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.group, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape)


@layer("ShuffleChannel", "shuffle_channel_param", origin="farmingyard/ShuffleNet")
def shuffle_channel(p: Fields, x: Tensor) -> nn.Module:
    if p.group < 1 or x.shape[1] % p.group:
        raise ValueError(f"{x.shape[1]} channels do not divide by group {p.group}")
    return ShuffleChannel(p.group)


class Reorg(CaffeModule):
    """Darknet's reorg, as its YOLOv2 weights expect it: (N, C, H, W) -> (N, C * s * s, H / s, W / s), s the stride.

    The values are read as if x were (C / s^2, s * H, s * W) and taken apart into (C, H, W): not the usual space to depth
    (reorg_cpu in blas.c). reverse: (N, C, H, W) -> (N, C / s^2, s * H, s * W).
    """

    def __init__(self, stride: int, reverse: bool = False):
        super().__init__()
        self.stride, self.reverse = stride, reverse

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        s, planes = self.stride, c // self.stride**2
        if c % s**2 or (not self.reverse and (h % s or w % s)):
            raise ValueError(f"{c} channels of {h}x{w} do not divide by the stride {s}")
        if self.reverse:
            return x.reshape(n, s, s, planes, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, planes, h * s, w * s)
        return x.reshape(n, planes, h, s, w, s).permute(0, 3, 5, 1, 2, 4).reshape(n, c * s * s, h // s, w // s)


@layer(
    "Reorg",
    "reorg_param",
    origin="eric612/MobileNet-YOLO",
    refuses="channels that do not divide by the stride's square: forks differ in what they make of them",
)
def reorg(p: Fields, x: Tensor) -> nn.Module:
    if p.stride < 1 or x.dim() != 4:
        raise ValueError("Reorg takes a stride of at least 1 and four axes (N, C, H, W)")
    if x.shape[1] % p.stride**2 and not p.reverse:
        raise UnsupportedError(
            f"{x.shape[1]} channels do not divide by {p.stride**2}: Darknet's code divides by 0 then, and that of Wulingtian/yolov5_caffe,"
            " whose focus layers are such, gives another order on the GPU than on the CPU"
        )
    return Reorg(p.stride, p.reverse)
