"""Winograd's convolution on a CPU: a quarter of a 3×3 convolution's products, for a little more rounding.

F(4×4, 3×3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308): 6×6 values of the image make
4×4 of the output. Both tile and kernel are changed to 36 values, for which a convolution is a product: one matrix product over the
channels for each of the 36. All steps are matrix products, a band of tiles after the other, so that the values between stay in a cache.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from converter.errors import CaffezooWarning

TILE, STEP = 6, 4  # the side of a tile of the image, and of what it gives of the output
TILES = 160  # of a band, about: enough rows for a matrix product, few enough values for a cache
# Measured, on an EPYC with AVX-512: beyond these bounds the direct convolution is as fast
FEWEST = 16  # tiles; four times as many weights are read
LARGEST = 0.4  # of the direct convolution's products
_INPUT = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1))
_KERNEL = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def _over_both_axes(rows: tuple[tuple[float, ...], ...]) -> Tensor:
    """The matrix that does to a flattened square along both its axes what these rows do along one; float64."""
    matrix = torch.tensor(rows, dtype=torch.float64, device="cpu")
    return torch.kron(matrix, matrix)


_INPUTS, _KERNELS, _OUTPUTS = (_over_both_axes(rows) for rows in (_INPUT, _KERNEL, _OUTPUT))  # (36, 36), (36, 9), (16, 36)


class WinogradConvolution(nn.Conv2d):
    """nn.Conv2d that computes by Winograd's method where that pays; use_winograd() makes it of one. (N, C, H, W) float32 -> channels_last.

    It does without gradients, on a CPU, in float32, where it multiplies so much less that it is faster; elsewhere, and in
    what torch.export and torch.jit trace, it is nn.Conv2d. torch.compile leaves it as it is. The changed kernels are kept from one
    call to the next, four times the weight's memory; a weight that was assigned or written in place since, as load_state_dict() does, is
    changed anew. Only writes through `weight.data` go unseen.
    """

    _kept: tuple[tuple[int, int], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.by_tiles(x) if self.pays(x) else super().forward(x)

    def pays(self, x: Tensor) -> bool:
        """Whether this input is to be computed by Winograd's method."""
        weight = self.weight
        exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()  # torch 2.6 has the second alone
        traced = exporting or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        if traced or type(x) is not Tensor or x.dim() != 4:
            return False
        plain = all(each.dtype == torch.float32 and each.device.type == "cpu" for each in (x, weight))
        recorded = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
        if not plain or recorded or torch.is_autocast_enabled("cpu") or x.shape[1] != self.in_channels:
            return False
        rows, columns = self.output_size(x)
        if min(len(x), rows, columns) < 1:
            return False
        tiles, places = len(x) * _ceil(rows) * _ceil(columns), len(x) * rows * columns
        waste = tiles * STEP**2 / places
        return tiles >= FEWEST and waste * _share(self.in_channels, self.out_channels) <= LARGEST

    def output_size(self, x: Tensor) -> tuple[int, int]:
        above, before = self.pads()
        return x.shape[2] + 2 * above - 2, x.shape[3] + 2 * before - 2

    def pads(self) -> tuple[int, int]:
        assert not isinstance(self.padding, str)
        above, before = self.padding
        return above, before

    def kernels(self) -> Tensor | None:
        """The weight as 36 matrices (36, in_channels, out_channels); None for one made in inference mode, which counts no writes."""
        try:
            state = (self.weight.data_ptr(), self.weight._version)
        except RuntimeError:
            return None
        if self._kept is None or self._kept[0] != state:
            by_place = self.weight.detach().double().flatten(2).permute(2, 1, 0).flatten(1)  # (9, in * out)
            with torch.inference_mode(False):  # or it could not be used outside of one
                made = torch.mm(_KERNELS, by_place).float().view(TILE**2, self.in_channels, self.out_channels)
            self._kept = state, made
        return self._kept[1]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def by_tiles(self, x: Tensor) -> Tensor:
        """The convolution, whatever it costs; x: (N, C, H, W), float32 on the CPU."""
        kernels, inputs, outputs = self.kernels(), _INPUTS.float(), _OUTPUTS.float()
        if kernels is None:
            return super().forward(x)
        size, taken, given = self.output_size(x), self.in_channels, self.out_channels
        rows, columns = map(_ceil, size)
        image = x.permute(0, 2, 3, 1)
        y = x.new_empty(len(x), rows, STEP, columns, STEP, given)
        bands = list(_bands(len(x), rows, columns))
        most = max(_length(images) * _length(band) for images, band in bands) * columns  # tiles
        # The steps take turns in two pieces of memory, which are warm from one band to the next
        first, second = x.new_empty(most * TILE**2 * max(taken, given)), x.new_empty(most * max(TILE**2 * taken, STEP**2 * given))
        for images, band in bands:
            n, r = _length(images), _length(band)
            tiles = n * r * columns
            strip = self.strip(image[images], band, columns, second)
            across, down, along, _ = strip.stride()
            windows = strip.as_strided((TILE, TILE, n, r, columns, taken), (down, along, across, STEP * down, STEP * along, 1))
            gathered = _part(first, TILE, TILE, n, r, columns, taken).copy_(windows).view(TILE**2, -1)
            changed = torch.mm(inputs, gathered, out=_part(second, TILE**2, tiles * taken)).view(TILE**2, tiles, taken)
            products = torch.bmm(changed, kernels, out=_part(first, TILE**2, tiles, given)).view(TILE**2, -1)
            made = torch.mm(outputs, products, out=_part(second, STEP**2, tiles * given)).view(STEP, STEP, n, r, columns, given)
            place = y[images, band].permute(2, 4, 0, 1, 3, 5)
            if self.bias is None:
                place.copy_(made)
            else:
                torch.add(made, self.bias.detach(), out=place)
        return y.view(len(x), STEP * rows, STEP * columns, given)[:, : size[0], : size[1]].permute(0, 3, 1, 2)

    def strip(self, image: Tensor, band: slice, columns: int, memory: Tensor) -> Tensor:
        """What of (n, H, W, C) a band of tiles reads, (n, 4 rows + 2, 4 columns + 2, C), with the zeros around it."""
        (above, before), height, width = self.pads(), image.shape[1], image.shape[2]
        start, end = STEP * band.start - above, STEP * band.stop + 2 - above
        top, bottom = max(start, 0), min(end, height)
        strip = _part(memory, len(image), end - start, STEP * columns + 2, image.shape[3])  # less than the band's 36 values a tile
        strip[:, : top - start] = 0
        strip[:, bottom - start :] = 0
        strip[:, :, :before] = 0
        strip[:, :, before + width :] = 0
        strip[:, top - start : bottom - start, before : before + width] = image[:, top:bottom]
        return strip

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": None}  # copies and pickles make their own


def _ceil(side: int, step: int = STEP) -> int:
    return -(-side // step)


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def _part(memory: Tensor, *shape: int) -> Tensor:
    size = torch.Size(shape)
    return memory[: size.numel()].view(size)


def _share(taken: int, given: int) -> float:
    """Of the direct convolution's products: 36 for 16 places, channel by channel, and those of the changes before and behind."""
    return TILE**2 / (9 * STEP**2) * (1 + TILE**2 / given + STEP**2 / taken)


def _bands(images: int, rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Images and rows of tiles to compute together: some rows of an image, or all of several."""
    parts = max(1, round(rows * columns / TILES))
    each, together = _ceil(rows, parts), max(1, TILES // (rows * columns))
    for image in range(0, images, together):
        for row in range(0, rows, each):
            yield slice(image, min(image + together, images)), slice(row, min(row + each, rows))


Net = TypeVar("Net", bound=nn.Module)


def use_winograd(net: Net) -> Net:
    """Let a net's 3×3 convolutions be computed by Winograd's method on a CPU, which takes VGG-16 about two thirds of the time.

    The convolutions become WinogradConvolution where they lie: stride and dilation 1, one group, zeros around, and as many channels
    as pay (96 to 96 and 64 to 128 do, 64 to 64 do not). Parameters, state dict and hooks stay as they are; convolutions' weights are
    laid out as channels_last. Outputs differ by about 1e-5 of the largest value, where the direct convolution's differ by 2e-6.
    Gradients, other devices and types, and exported forms go the direct way: call the net under torch.inference_mode() or no_grad().

    Args:
        net: a converted net, one of the zoo, or any module; it is changed, and returned.

    Warns:
        CaffezooWarning: it has no such convolution.
    """
    found = [module for module in net.modules() if _fits(module)]
    if not found:
        what = "3×3 convolution of stride 1 with as many channels as pay (96 to 96, 64 to 128)"
        warnings.warn(f"use_winograd: the net has no {what}; it is left as it was.", CaffezooWarning, stacklevel=2)
        return net
    for module in found:
        module.__class__ = WinogradConvolution
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    return net


def _fits(module: nn.Module) -> bool:
    if type(module) not in (nn.Conv2d, WinogradConvolution):
        return False
    assert isinstance(module, nn.Conv2d)
    shape = module.kernel_size, module.stride, module.dilation, module.groups, module.padding_mode
    return (
        shape == ((3, 3), (1, 1), (1, 1), 1, "zeros")
        and not isinstance(module.padding, str)
        and max(module.padding) < 3
        and _share(module.in_channels, module.out_channels) <= LARGEST
    )
