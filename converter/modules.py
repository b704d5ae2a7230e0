"""The nn.Modules that torch lacks: what Caffe's layers compute where no torch module does the same.

Shapes are Caffe's: (N, C, H, W), or whatever the layer allows. Every constructor argument is kept in an attribute of
the same name, which is what printing a module and writing it as Python source rely on (source.py).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLT_MAX = torch.finfo(torch.float32).max


def constructor_arguments(module: nn.Module) -> dict[str, object]:
    """What the module was built with, read back from its attributes (torch's own modules keep theirs as well)."""
    found: dict[str, object] = {}
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        several = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if name in ("self", "device", "dtype") or name.startswith("_") or several:
            continue
        value = getattr(module, name, None)
        if name == "bias":
            value = value is not None and value is not False
        if value != parameter.default or parameter.default is inspect.Parameter.empty:
            found[name] = value
    return found


class CaffeModule(nn.Module):
    """Base of the modules below: prints itself as it was built."""

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in constructor_arguments(self).items())


def _aligned(x: Tensor, like: Tensor, axis: int) -> Tensor:
    """x with axes of length 1 behind it, so that its first axis lies on `axis` of like."""
    return x.reshape(x.shape + (1,) * (like.dim() - axis - x.dim()))


# ------------------------------------------------------------------------------------------------ convolution


class Convolution(CaffeModule):
    """Convolution along any number of trailing axes, of several bottoms with one set of weights.

    Bottoms are (..., C, *spatial) with C at `axis`; all axes before it are a batch. weight: (num_output, C / groups,
    *kernel), for `transposed` (C, num_output / groups, *kernel). Caffe's BaseConvolutionLayer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int = 1,
        bias: bool = True,
        axis: int = 1,
        transposed: bool = False,
    ):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = tuple(kernel_size), tuple(stride)
        self.padding, self.dilation = tuple(padding), tuple(dilation)
        self.groups, self.axis, self.transposed = groups, axis, transposed
        rows, columns = (in_channels, out_channels) if transposed else (out_channels, in_channels)
        self.weight = nn.Parameter(torch.empty(rows, columns // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None

    def one(self, x: Tensor) -> Tensor:
        lead = x.shape[: self.axis]
        x = x.reshape(-1, *x.shape[self.axis :]) if self.axis != 1 else x
        y = _convolve(x, self.weight, self.stride, self.padding, self.dilation, self.groups, self.transposed)
        if self.bias is not None:
            y = y + _aligned(self.bias, y, 1)
        return y.reshape(*lead, *y.shape[1:]) if self.axis != 1 else y

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        tops = tuple(self.one(x) for x in bottoms)
        return tops if len(tops) > 1 else tops[0]


def _convolve(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
              groups: int, transposed: bool) -> Tensor:  # fmt: skip
    """F.conv over any number of axes: torch has one to three; none is a matrix product, more are sums of slices."""
    spatial = weight.dim() - 2
    if spatial == 0:
        y = _convolve(x[..., None], weight[..., None], (1,), (0,), (1,), groups, transposed)
        return y[..., 0]
    if spatial <= 3:
        if transposed:
            back = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[spatial - 1]
            return back(x, weight, None, stride, padding, 0, groups, dilation)
        forth = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
        return forth(x, weight, None, stride, padding, dilation, groups)

    def inner(part: Tensor, k: int) -> Tensor:
        moved = part.movedim(2, 1)  # the first spatial axis joins the batch
        y = _convolve(moved.flatten(0, 1), weight[:, :, k], stride[1:], padding[1:], dilation[1:], groups, transposed)
        return y.reshape(*moved.shape[:2], *y.shape[1:]).movedim(1, 2)

    kernel, s, p, d = weight.shape[2], stride[0], padding[0], dilation[0]
    if transposed:
        size = (x.shape[2] - 1) * s + d * (kernel - 1) + 1
        whole: Tensor | None = None
        for k in range(kernel):
            y = inner(x, k)
            whole = y.new_zeros(*y.shape[:2], size, *y.shape[3:]) if whole is None else whole
            at = torch.arange(x.shape[2], device=x.device) * s + k * d
            whole = whole.index_add(2, at, y)
        assert whole is not None
        return whole.narrow(2, p, size - 2 * p)
    out = (x.shape[2] + 2 * p - d * (kernel - 1) - 1) // s + 1
    x = F.pad(x, [0, 0] * (spatial - 1) + [p, p])
    parts = [inner(x[:, :, k * d : k * d + (out - 1) * s + 1 : s], k) for k in range(kernel)]
    return torch.stack(parts).sum(0)


class Im2col(CaffeModule):
    """(..., C, *spatial) -> (..., C * prod(kernel), *out): the columns that Caffe's convolution multiplies."""

    def __init__(self, kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], axis: int = 1):
        super().__init__()
        self.kernel_size, self.stride = tuple(kernel_size), tuple(stride)
        self.padding, self.dilation, self.axis = tuple(padding), tuple(dilation), axis

    def forward(self, x: Tensor) -> Tensor:
        first, n = self.axis + 1, len(self.kernel_size)
        x = F.pad(x, [p for pad in reversed(self.padding) for p in (pad, pad)])
        for i, (kernel, stride, dilation) in enumerate(zip(self.kernel_size, self.stride, self.dilation, strict=True)):
            x = x.unfold(first + i, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
        # (..., C, *out, *kernel) -> (..., C, *kernel, *out)
        order = [*range(first), *range(first + n, first + 2 * n), *range(first, first + n)]
        x = x.permute(order)
        return x.flatten(self.axis, self.axis + n)


# ---------------------------------------------------------------------------------------------------- pooling


class Pool2d(CaffeModule):
    """Caffe's pooling where torch's modules differ: pads above half the kernel, strides above it, masks, stochastic.

    (N, C, H, W) -> (N, C, H', W'), and with `mask` the index h * W + w of each maximum as a float. Facts from Caffe's
    pooling_layer.cpp: windows round up unless `ceil_mode` is off; only where there is padding does the last window have to
    start inside it; an average divides by the window's part inside the padded image; a window of stochastic pooling
    gives sum(x * x) / sum(x) at test time (pooling_layer.cu).
    """

    def __init__(self, mode: str, kernel_size: Sequence[int] | None, stride: Sequence[int] = (1, 1), padding: Sequence[int] = (0, 0),
                 ceil_mode: bool = True, mask: bool = False):  # fmt: skip
        super().__init__()
        self.mode, self.stride, self.padding = mode, tuple(stride), tuple(padding)
        self.kernel_size = None if kernel_size is None else tuple(kernel_size)  # None: the whole image
        self.ceil_mode, self.mask = ceil_mode, mask

    def windows(self, size: int, i: int, kernel: int) -> int:
        """How many windows lie along axis i of the image."""
        stride, pad = self.stride[i], self.padding[i]
        room = size + 2 * pad - kernel
        n = (-(-room // stride) if self.ceil_mode else room // stride) + 1
        if any(self.padding) and (n - 1) * stride >= size + pad:
            n -= 1
        return n

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        size = (x.shape[2], x.shape[3])
        kernel = self.kernel_size or size
        n = [self.windows(size[i], i, kernel[i]) for i in (0, 1)]
        if min(n) < 1:
            raise ValueError(f"the {kernel[0]}x{kernel[1]} window is larger than the {size[0]}x{size[1]} image")
        # Pad below by what the last window needs, so that plain floor-mode pooling makes exactly n windows.
        after = [max((n[i] - 1) * self.stride[i] + kernel[i] - size[i] - self.padding[i], 0) for i in (0, 1)]
        border = [self.padding[1], after[1], self.padding[0], after[0]]
        if self.mode == "MAX":
            padded = F.pad(x, border, value=-FLT_MAX)
            out, index = F.max_pool2d(padded, kernel, self.stride, return_indices=True)
            out, index = out[..., : n[0], : n[1]], index[..., : n[0], : n[1]]
            if not self.mask:
                return out
            wide = padded.shape[3]
            h, w = index // wide - self.padding[0], index % wide - self.padding[1]
            inside = (h >= 0) & (h < size[0]) & (w >= 0) & (w < size[1])
            return out, torch.where(inside, h * size[1] + w, -1).to(x.dtype)
        padded = F.pad(x, border)
        total = F.avg_pool2d(padded, kernel, self.stride, divisor_override=1)[..., : n[0], : n[1]]
        if self.mode == "STOCHASTIC":
            squares = F.avg_pool2d(padded * padded, kernel, self.stride, divisor_override=1)[..., : n[0], : n[1]]
            return torch.where(total > 0, squares / total, 0)
        lengths = []
        for i in (0, 1):
            start = torch.arange(n[i], device=x.device) * self.stride[i] - self.padding[i]
            lengths.append((start + kernel[i]).clamp(max=size[i] + self.padding[i]) - start)
        return total / (lengths[0][:, None] * lengths[1]).to(x.dtype)


class SpatialPyramid(CaffeModule):
    """Caffe's SPP: pools (N, C, H, W) into 1, 4, 16, ... bins, one level after another: (N, C * (4^height - 1) / 3)."""

    def __init__(self, pyramid_height: int, mode: str = "MAX"):
        super().__init__()
        self.pyramid_height, self.mode = pyramid_height, mode

    def forward(self, x: Tensor) -> Tensor:
        levels = []
        for level in range(self.pyramid_height):
            bins = 2**level
            if bins > min(x.shape[2], x.shape[3]):
                raise ValueError(f"level {level} of the pyramid has {bins}x{bins} bins, the image only {x.shape[2]}x{x.shape[3]} values")
            kernel = [-(-x.shape[i] // bins) for i in (2, 3)]
            pad = [(kernel[i] * bins - x.shape[2 + i] + 1) // 2 for i in (0, 1)]
            if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
                raise ValueError(f"level {level} of the pyramid needs a pad of {pad} for windows of {kernel}; Caffe refuses that too")
            pooled = Pool2d(self.mode, kernel, kernel, pad)(x)
            levels.append(pooled.flatten(1))
        return torch.cat(levels, 1) if self.pyramid_height > 1 else pooled


# ---------------------------------------------------------------------------------------------- normalization


class LRN(CaffeModule):
    """Local response normalization. Across channels: x / (k + alpha / n * sum of n neighbours' squares) ^ beta.

    Within a channel: x / (1 + alpha * the average of the n x n neighbourhood's squares) ^ beta; Caffe's pooling divides by
    n * n cut at the padded border, and k is not used (lrn_layer.cpp).
    """

    def __init__(self, local_size: int = 5, alpha: float = 1.0, beta: float = 0.75, k: float = 1.0, within_channel: bool = False):
        super().__init__()
        self.local_size, self.alpha, self.beta, self.k, self.within_channel = local_size, alpha, beta, k, within_channel

    def forward(self, x: Tensor) -> Tensor:
        squares, n, half = x * x, self.local_size, self.local_size // 2
        if self.within_channel:
            mean = F.avg_pool2d(squares, n, 1, half, ceil_mode=True, count_include_pad=True)
            return x * (1 + self.alpha * mean) ** -self.beta
        flat = squares.reshape(squares.shape[0], 1, squares.shape[1], -1)
        mean = F.avg_pool2d(flat, (n, 1), 1, (half, 0)).reshape(x.shape)
        return x * (self.k + self.alpha * mean) ** -self.beta


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Caffe's BatchNorm: statistics only, no affine part, any number of axes; (N, C, ...), or (N,) as one channel.

    With batch_statistics it normalizes by the batch in eval mode as well (use_global_stats: false). Caffe's running
    variance is the unbiased one, its normalization uses the biased one: as in torch.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.001, batch_statistics: bool = False):
        super().__init__(num_features, eps=eps, momentum=momentum, affine=False)
        self.batch_statistics = batch_statistics

    def _check_input_dim(self, input: Tensor) -> None:
        """Caffe takes any number of axes."""

    def forward(self, input: Tensor) -> Tensor:
        x = input if input.dim() > 1 else input[:, None]
        if self.batch_statistics and not self.training:
            # F.batch_norm refuses a channel with one value; Caffe gives zeros
            variance, mean = torch.var_mean(x, (0, *range(2, x.dim())), correction=0, keepdim=True)
            x = (x - mean) / (variance + self.eps).sqrt()
        else:
            x = super().forward(x)
        return x.reshape(input.shape)


class MVN(CaffeModule):
    """Mean-variance normalization over each (H, W), or over each (C, H, W): (x - mean) / (sqrt(variance) + eps)."""

    def __init__(self, normalize_variance: bool = True, across_channels: bool = False, eps: float = 1e-9):
        super().__init__()
        self.normalize_variance, self.across_channels, self.eps = normalize_variance, across_channels, eps

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(x.shape[0], -1) if self.across_channels else x.reshape(*x.shape[:2], -1)
        rows = rows - rows.mean(-1, keepdim=True)
        if self.normalize_variance:
            rows = rows / ((rows * rows).mean(-1, keepdim=True).sqrt() + self.eps)
        return rows.reshape(x.shape)


# ------------------------------------------------------------------------------------------------ elementwise


class Exp(CaffeModule):
    """base ^ (shift + scale * x); base None is e."""

    def __init__(self, base: float | None = None, scale: float = 1.0, shift: float = 0.0):
        super().__init__()
        self.base, self.scale, self.shift = base, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        log_base = 1.0 if self.base is None else math.log(self.base)
        return torch.exp(x * (self.scale * log_base)) * math.exp(self.shift * log_base)


class Log(CaffeModule):
    """log to the base of (shift + scale * x); base None is e."""

    def __init__(self, base: float | None = None, scale: float = 1.0, shift: float = 0.0):
        super().__init__()
        self.base, self.scale, self.shift = base, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        y = torch.log(x * self.scale + self.shift)
        return y if self.base is None else y / math.log(self.base)


class Power(CaffeModule):
    """(shift + scale * x) ^ power."""

    def __init__(self, power: float = 1.0, scale: float = 1.0, shift: float = 0.0):
        super().__init__()
        self.power, self.scale, self.shift = power, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        if self.power == 0 or self.scale == 0:  # power_layer.cpp does not look at x, be it infinite
            return torch.full_like(x, self.shift if self.power else 1.0) ** self.power
        y = x if self.scale == 1 else x * self.scale
        y = y if self.shift == 0 else y + self.shift
        return y if self.power == 1 else y**self.power


class Threshold(CaffeModule):
    """1 where x > threshold, else 0."""

    def __init__(self, threshold: float = 0.0):
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        return (x > self.threshold).to(x.dtype)


class Clip(CaffeModule):
    """x, held between min and max."""

    def __init__(self, min: float, max: float):
        super().__init__()
        self.min, self.max = min, max

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(self.min, self.max)


class Swish(CaffeModule):
    """x * sigmoid(beta * x)."""

    def __init__(self, beta: float = 1.0):
        super().__init__()
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


class AbsVal(CaffeModule):
    """|x|."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


class Scale(CaffeModule):
    """x * weight + bias, each laid along `axis` and the axes behind it; with two bottoms the second is the factor."""

    def __init__(self, shape: Sequence[int], axis: int = 1, bias: bool = False, learned: bool = True):
        super().__init__()
        self.shape, self.axis, self.learned = tuple(shape), axis, learned
        self.weight = nn.Parameter(torch.empty(self.shape)) if learned else None
        self.bias = nn.Parameter(torch.empty(self.shape)) if bias else None

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        weight = self.weight if self.weight is not None else factor
        assert weight is not None
        y = x * _aligned(weight, x, self.axis)
        return y if self.bias is None else y + _aligned(self.bias, x, self.axis)


class Bias(CaffeModule):
    """x + bias, laid along `axis` and the axes behind it; with two bottoms the second is the bias."""

    def __init__(self, shape: Sequence[int], axis: int = 1, learned: bool = True):
        super().__init__()
        self.shape, self.axis, self.learned = tuple(shape), axis, learned
        self.bias = nn.Parameter(torch.empty(self.shape)) if learned else None

    def forward(self, x: Tensor, term: Tensor | None = None) -> Tensor:
        bias = self.bias if self.bias is not None else term
        assert bias is not None
        return x + _aligned(bias, x, self.axis)


class Eltwise(CaffeModule):
    """PROD, SUM (with one factor a bottom) or MAX of tensors of one shape."""

    def __init__(self, operation: str = "SUM", coeff: Sequence[float] = ()):
        super().__init__()
        self.operation, self.coeff = operation, tuple(coeff)

    def forward(self, *bottoms: Tensor) -> Tensor:
        if any(x.shape != bottoms[0].shape for x in bottoms):
            raise ValueError(f"the bottoms have shapes {[tuple(x.shape) for x in bottoms]}; Eltwise takes equal ones")
        if self.operation == "SUM" and any(c != 1 for c in self.coeff):
            bottoms = tuple(x * c if c != 1 else x for x, c in zip(bottoms, self.coeff, strict=True))
        y = bottoms[0]
        for x in bottoms[1:]:
            y = y + x if self.operation == "SUM" else y * x if self.operation == "PROD" else torch.maximum(y, x)
        return y


# ----------------------------------------------------------------------------------------- shapes and indices


class Concat(CaffeModule):
    """The bottoms one behind the other along `axis`."""

    def __init__(self, axis: int = 1):
        super().__init__()
        self.axis = axis

    def forward(self, *bottoms: Tensor) -> Tensor:
        return torch.cat(bottoms, self.axis)


class Slice(CaffeModule):
    """x cut along `axis` at the given points, or into equal tops."""

    def __init__(self, tops: int, axis: int = 1, points: Sequence[int] = ()):
        super().__init__()
        self.tops, self.axis, self.points = tops, axis, tuple(points)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        size = x.shape[self.axis]
        if self.tops == 1:
            return x
        if not self.points:
            if size % self.tops:
                raise ValueError(f"axis {self.axis} of length {size} does not divide into {self.tops} tops")
            return x.split(size // self.tops, self.axis)
        cuts = [0, *self.points, size]
        lengths = [b - a for a, b in pairwise(cuts)]
        if min(lengths) < 1:
            raise ValueError(f"slice points {self.points} do not ascend within axis {self.axis} of length {size}")
        return x.split(lengths, self.axis)


class Split(CaffeModule):
    """The same tensor, under several names."""

    def __init__(self, tops: int):
        super().__init__()
        self.tops = tops

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        return (x,) * self.tops if self.tops > 1 else x


class Flatten(CaffeModule):
    """Axes `axis` to `end_axis`, both counted, become one."""

    def __init__(self, axis: int = 1, end_axis: int = -1):
        super().__init__()
        self.axis, self.end_axis = axis, end_axis

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.axis, self.end_axis)


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


class Tile(CaffeModule):
    """`tiles` copies along an axis."""

    def __init__(self, tiles: int, axis: int = 1):
        super().__init__()
        self.tiles, self.axis = tiles, axis

    def forward(self, x: Tensor) -> Tensor:
        repeats = [1] * x.dim()
        repeats[self.axis] = self.tiles
        return x.repeat(repeats)


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


class BatchReindex(CaffeModule):
    """The items of the first bottom in the order of the second's indices."""

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return x.index_select(0, index.flatten().long())


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


class Silence(CaffeModule):
    """Takes bottoms so that they are no outputs of the net."""

    def forward(self, *bottoms: Tensor) -> tuple[()]:
        return ()


class Parameter(CaffeModule):
    """A learned tensor as a top."""

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self.shape = tuple(shape)
        self.weight = nn.Parameter(torch.empty(self.shape))

    def forward(self) -> Tensor:
        return self.weight


class InnerProduct(CaffeModule):
    """(..., K...) -> (..., num_output): the axes from `axis` on are one row of K values. weight: (num_output, K)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, axis: int = 1):
        super().__init__()
        self.in_features, self.out_features, self.axis = in_features, out_features, axis
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != self.axis + 1:
            x = x.flatten(self.axis) if x.dim() > self.axis else x[..., None]
        return F.linear(x, self.weight, self.bias)


class Embed(CaffeModule):
    """Indices of any shape -> the rows of weight (input_dim, num_output), plus a bias."""

    def __init__(self, input_dim: int, num_output: int, bias: bool = True):
        super().__init__()
        self.input_dim, self.num_output = input_dim, num_output
        self.weight = nn.Parameter(torch.empty(input_dim, num_output))
        self.bias = nn.Parameter(torch.empty(num_output)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.embedding(x.long(), self.weight)
        return y if self.bias is None else y + self.bias


# -------------------------------------------------------------------------------------------------- recurrent


class Recurrent(CaffeModule):
    """What RNN and LSTM share: (T, N, ...) inputs, `cont` (T, N) that is 0 where a sequence begins, a static input.

    The state starts from zeros at every call (Caffe's own test net carries it on from one call to the next; with
    expose_hidden it is a bottom and a top, here as there). weight_x: (G * D, K), weight_h: (G * D, D) for G gates.
    """

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, static_size: int | None = None, expose_hidden: bool = False):
        super().__init__()
        self.input_size, self.hidden_size, self.static_size, self.expose_hidden = input_size, hidden_size, static_size, expose_hidden
        rows = self.gates * hidden_size
        self.weight_x = nn.Parameter(torch.empty(rows, input_size))
        self.bias = nn.Parameter(torch.empty(rows))
        if static_size is not None:
            self.weight_static = nn.Parameter(torch.empty(rows, static_size))
        self.weight_h = nn.Parameter(torch.empty(rows, hidden_size))

    def step(self, x: Tensor, cont: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One time step: gate inputs (N, G * D), cont (N, 1), states (N, D) each -> the output and the new states."""
        raise NotImplementedError

    states = 1

    def forward(self, x: Tensor, cont: Tensor, *more: Tensor) -> Tensor | tuple[Tensor, ...]:
        steps, batch = x.shape[:2]
        static = more[0].flatten(1) if self.static_size is not None else None
        hidden = more[len(more) - self.states :] if self.expose_hidden else ()
        states = tuple(h.reshape(batch, self.hidden_size) for h in hidden) or (x.new_zeros(batch, self.hidden_size),) * self.states
        gates = F.linear(x.flatten(2), self.weight_x, self.bias)
        if static is not None:
            gates = gates + F.linear(static, self.weight_static)
        if x.is_meta:  # shapes need no loop over time
            outputs = x.new_empty(steps, batch, self.hidden_size)
        else:
            outs = []
            for t in range(steps):
                out, states = self.step(gates[t], cont[t].reshape(batch, 1), states)
                outs.append(out)
            outputs = torch.stack(outs)
        return (outputs, *(s[None] for s in states)) if self.expose_hidden else outputs


class RNN(Recurrent):
    """h = tanh(weight_h (cont * h) + weight_x x + bias); the output is tanh(weight_o h + bias_o) (rnn_layer.cpp)."""

    def __init__(self, input_size: int, hidden_size: int, static_size: int | None = None, expose_hidden: bool = False):
        super().__init__(input_size, hidden_size, static_size, expose_hidden)
        self.weight_o = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.bias_o = nn.Parameter(torch.empty(hidden_size))

    def step(self, x: Tensor, cont: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h = torch.tanh(x + F.linear(cont * states[0], self.weight_h))
        return torch.tanh(F.linear(h, self.weight_o, self.bias_o)), (h,)


class LSTM(Recurrent):
    """Gates i, f, o, g in this order; c = cont * f * c + i * g, h = o * tanh(c) (lstm_unit_layer.cpp)."""

    gates = 4
    states = 2

    def step(self, x: Tensor, cont: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, c = states
        i, f, o, g = (x + F.linear(cont * h, self.weight_h)).chunk(4, 1)
        c = cont * torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)


# ----------------------------------------------------------------------------------------------------- losses

LOG_THRESHOLD = 1e-20  # kLOG_THRESHOLD of Caffe's loss_layer.hpp
FLT_MIN = torch.finfo(torch.float32).tiny


class Loss(CaffeModule):
    """What the losses with labels and a normalizer share; each gives a scalar, not multiplied by loss_weight."""

    def __init__(self, normalization: str = "VALID", ignore_label: int | None = None, axis: int = 1):
        super().__init__()
        self.normalization, self.ignore_label, self.axis = normalization, ignore_label, axis

    def normalized(self, total: Tensor, outer: int, inner: int, valid: Tensor) -> Tensor:
        if self.normalization == "VALID":
            return total / valid.sum().clamp(min=1)
        count = {"FULL": outer * inner, "BATCH_SIZE": outer, "NONE": 1}[self.normalization]
        return total / max(count, 1)

    def valid(self, label: Tensor) -> Tensor:
        return torch.ones_like(label, dtype=torch.bool) if self.ignore_label is None else label != self.ignore_label


def _rows(x: Tensor, axis: int) -> Tensor:
    """(outer..., C, inner...) -> (outer, inner, C), with C at axis."""
    outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    return x.reshape(outer, x.shape[axis], inner).transpose(1, 2)


def _labels(label: Tensor, rows: Tensor) -> Tensor:
    """One whole number for each row: (outer, inner)."""
    if label.numel() != rows.shape[0] * rows.shape[1]:
        raise ValueError(f"{label.numel()} labels for {rows.shape[0]} x {rows.shape[1]} predictions")
    return label.reshape(rows.shape[:2]).long()


def _one_each(label: Tensor, items: int) -> Tensor:
    """One whole number for each item of a batch: (N,)."""
    if label.numel() != items:
        raise ValueError(f"{label.numel()} labels for {items} items")
    return label.flatten().long()


def _picked(rows: Tensor, label: Tensor, valid: Tensor | None = None) -> Tensor:
    """The value of each row at its label; ignored rows give that of class 0."""
    label = label if valid is None else torch.where(valid, label, 0)
    return rows.gather(-1, label[..., None])[..., 0]


class SoftmaxWithLoss(Loss):
    """-log softmax(x)[label], x: (N, C, ...), label: (N, ...). With probabilities, the softmax is a second top."""

    def __init__(self, normalization: str = "VALID", ignore_label: int | None = None, axis: int = 1, probabilities: bool = False):
        super().__init__(normalization, ignore_label, axis)
        self.probabilities = probabilities

    def forward(self, x: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        prob = torch.softmax(x, self.axis)
        rows = _rows(prob, self.axis)
        label = _labels(label, rows)
        valid = self.valid(label)
        each = -_picked(rows, label, valid).clamp(min=FLT_MIN).log()
        loss = self.normalized(torch.where(valid, each, 0).sum(), rows.shape[0], rows.shape[1], valid)
        return (loss, prob) if self.probabilities else loss


class InfogainLoss(Loss):
    """-sum over classes k of H[label, k] * log softmax(x)[k]; H is the third bottom."""

    def __init__(self, normalization: str = "VALID", ignore_label: int | None = None, axis: int = 1, probabilities: bool = False):
        super().__init__(normalization, ignore_label, axis)
        self.probabilities = probabilities

    def forward(self, x: Tensor, label: Tensor, infogain: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        prob = torch.softmax(x, self.axis)
        rows = _rows(prob, self.axis)
        label = _labels(label, rows)
        valid = self.valid(label)
        gain = infogain.reshape(rows.shape[-1], rows.shape[-1])[torch.where(valid, label, 0)]
        each = -(gain * rows.clamp(min=LOG_THRESHOLD).log()).sum(-1)
        loss = self.normalized(torch.where(valid, each, 0).sum(), rows.shape[0], rows.shape[1], valid)
        return (loss, prob) if self.probabilities else loss


class SigmoidCrossEntropyLoss(Loss):
    """Cross-entropy of sigmoid(x) against targets of the same shape."""

    def __init__(self, normalization: str = "BATCH_SIZE", ignore_label: int | None = None):
        super().__init__(normalization, ignore_label)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        target = target.reshape(x.shape)
        valid = torch.ones_like(x, dtype=torch.bool) if self.ignore_label is None else target.trunc() != self.ignore_label
        each = x.clamp(min=0) - x * target + torch.log1p(torch.exp(-x.abs()))
        return self.normalized(torch.where(valid, each, 0).sum(), x.shape[0], math.prod(x.shape[1:]), valid)


class MultinomialLogisticLoss(CaffeModule):
    """-log p[label] of probabilities (N, C, ...), averaged over N."""

    def forward(self, prob: Tensor, label: Tensor) -> Tensor:
        rows = prob.flatten(1)
        return -_picked(rows, _one_each(label, rows.shape[0])).clamp(min=LOG_THRESHOLD).log().sum() / prob.shape[0]


class EuclideanLoss(CaffeModule):
    """Sum of squared differences / (2 N)."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        if a.shape[0] != b.shape[0] or a.numel() != b.numel():
            raise ValueError(f"the bottoms have shapes {tuple(a.shape)} and {tuple(b.shape)}; EuclideanLoss takes as many values of each")
        difference = a - b.reshape(a.shape)
        return (difference * difference).sum() / (2 * a.shape[0])


class HingeLoss(CaffeModule):
    """One-versus-rest hinge loss of scores (N, C) against labels, of norm "L1" or "L2", averaged over N."""

    def __init__(self, norm: str = "L1"):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        rows = x.flatten(1)
        true = torch.arange(rows.shape[1], device=x.device) == _one_each(label, x.shape[0])[:, None]
        margin = (1 + torch.where(true, -rows, rows)).clamp(min=0)
        return (margin if self.norm == "L1" else margin * margin).sum() / x.shape[0]


class ContrastiveLoss(CaffeModule):
    """d^2 for similar pairs, max(margin - d, 0)^2 for the others (legacy: max(margin - d^2, 0)), summed / (2 N)."""

    def __init__(self, margin: float = 1.0, legacy_version: bool = False):
        super().__init__()
        self.margin, self.legacy_version = margin, legacy_version

    def forward(self, a: Tensor, b: Tensor, similar: Tensor) -> Tensor:
        if a.shape != b.shape or a.shape[2:].numel() != 1:
            raise ValueError(f"the bottoms have shapes {tuple(a.shape)} and {tuple(b.shape)}; ContrastiveLoss takes two of the axes (N, C)")
        difference = (a - b).flatten(1)
        square = (difference * difference).sum(1)
        if self.legacy_version:
            apart = (self.margin - square).clamp(min=0)
        else:
            apart = (self.margin - square.sqrt()).clamp(min=0) ** 2
        return torch.where(_one_each(similar, a.shape[0]) != 0, square, apart).sum() / (2 * a.shape[0])


class CenterLoss(CaffeModule):
    """Sum of |x - center[label]|^2 / (2 N), x: (N, K); the centers (classes, K) are the weight (Wen et al., ECCV 2016)."""

    def __init__(self, classes: int, features: int, axis: int = 1):
        super().__init__()
        self.classes, self.features, self.axis = classes, features, axis
        self.weight = nn.Parameter(torch.empty(classes, features))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        rows = x.flatten(self.axis)
        difference = rows - F.embedding(_one_each(label, rows.shape[0]), self.weight)
        return (difference * difference).sum() / (2 * rows.shape[0])


class Accuracy(CaffeModule):
    """The share of labels whose score is among the top_k; a score that ties with the label's counts as better.

    x: (N, C, ...), label: (N, ...). With per_class, a second top (C,) has the share for each class (accuracy_layer.cpp).
    """

    def __init__(self, top_k: int = 1, axis: int = 1, ignore_label: int | None = None, per_class: bool = False):
        super().__init__()
        self.top_k, self.axis, self.ignore_label, self.per_class = top_k, axis, ignore_label, per_class

    def forward(self, x: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        rows = _rows(x, self.axis)
        label = _labels(label, rows)
        valid = torch.ones_like(label, dtype=torch.bool) if self.ignore_label is None else label != self.ignore_label
        better = (rows >= _picked(rows, label, valid)[..., None]).sum(-1) - 1
        hit = valid & (better < self.top_k)
        accuracy = hit.sum() / valid.sum().clamp(min=1)
        if not self.per_class:
            return accuracy
        classes = torch.arange(rows.shape[-1], device=x.device)
        member = valid.flatten()[:, None] & (label.flatten()[:, None] == classes)
        count = member.sum(0)
        return accuracy, torch.where(count > 0, (member & hit.flatten()[:, None]).sum(0) / count.clamp(min=1), 0)
