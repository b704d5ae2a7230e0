"""uint8 images on the device become a net's input: cut out, flipped, turned and enlarged in one resampling pass a batch.

Every image has draws of its own: a row of numbers in [0, 1) from a CPU generator, so that a batch is the same on every device and
however many processes share it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.config import Augment
from finetune.errors import FinetuneError
from finetune.train.device import sent
from zoo import Preprocess

COLUMNS = (
    "flip", "scale", "x", "y", "angle", "left", "right", "top", "bottom", "hue", "saturation", "exposure", "brightness", "contrast",
    "erase", "area", "ratio", "across", "down",
)  # fmt: skip


def draw(count: int, generator: torch.Generator) -> Tensor:
    """(count, len(COLUMNS)) float32 in [0, 1), on the CPU."""
    return torch.rand(count, len(COLUMNS), generator=generator)


def column(draws: Tensor, name: str) -> Tensor:
    """(N,) the numbers that decide `name`, in [0, 1)."""
    return draws[:, COLUMNS.index(name)]


def augmented(images: Tensor, draws: Tensor, augment: Augment, spec: Preprocess) -> Tensor:
    """(N, H, W) or (N, 3, H, W) uint8 and their draws (N, len(COLUMNS)) -> float32 (N, C, *spec.size), as the net wants it."""
    pixels = resampled(images, matrices(draws, augment, *images.shape[-2:]), size_of(spec), augment.outside)
    pixels = recoloured(pixels, draws, augment)
    if augment.erasing:
        pixels = erased(pixels, draws, augment)
    return normalised(pixels, spec)


def view(images: Tensor, spec: Preprocess, cut: tuple[float, float, float, bool] | None = None) -> Tensor:
    """One fixed view of (N, H, W) or (N, 3, H, W) uint8 images -> float32 (N, C, *spec.size).

    `cut` is (scale, x, y, mirrored): the side of the part, its centre from -1 (left, top) to 1 within what the image allows;
    None is what the spec itself shows: the whole image, or its middle where spec.resize is larger than spec.size.
    """
    scale, x, y, mirrored = cut or (middle(spec), 0.0, 0.0, False)
    matrix = torch.tensor([[-scale if mirrored else scale, 0.0, x * (1 - scale)], [0.0, scale, y * (1 - scale)]])
    return normalised(resampled(images, matrix.expand(len(images), 2, 3), size_of(spec), "border"), spec)


def ten_crop(part: float) -> list[tuple[float, float, float, bool]]:
    """The four corners and the centre, and their mirror images; `part` of the side each."""
    places = [(0.0, 0.0), (-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0)]
    return [(part, x, y, mirrored) for mirrored in (False, True) for x, y in places]


def middle(spec: Preprocess) -> float:
    """The side of the middle that a spec with a centre crop shows, as a part of the image's; 1 for the others."""
    if spec.resize is None or spec.resize == "keep":
        return 1.0
    whole = spec.resize if isinstance(spec.resize, tuple) else (spec.resize, spec.resize)
    parts = {part / side for part, side in zip(size_of(spec), whole, strict=True)}
    if len(parts) > 1 or max(parts) > 1:
        raise FinetuneError(f"input: the crop {size_of(spec)} of {whole} is not the same part of both sides; set input.resize to fit")
    return parts.pop()


def size_of(spec: Preprocess) -> tuple[int, int]:
    if spec.size is None:
        raise FinetuneError("the input's size is open; give one: --set input.size=[112,112]")
    return spec.size


def matrices(draws: Tensor, augment: Augment, height: int, width: int) -> Tensor:
    """(N, 2, 3): where each point of the output, -1..1, lies in the image, -1..1 (affine_grid's theta)."""
    x, y, size = (column(draws, name) for name in ("x", "y", "scale"))
    mirror = torch.where(column(draws, "flip") < augment.flip, -1.0, 1.0)
    if augment.crop is not None:
        whole, part = augment.crop
        places = whole - part + 1
        scale_x = scale_y = torch.full_like(size, part / whole)
        x, y = ((2 * torch.floor(offset * places) + part) / whole - 1 for offset in (x, y))
    else:
        low, high = augment.scale
        scale_x = scale_y = low + (high - low) * size
        x, y = ((2 * offset - 1) * 2 * augment.shift for offset in (x, y))
    if augment.jitter:
        borders = (column(draws, name) for name in ("left", "right", "top", "bottom"))
        left, right, top, bottom = ((2 * border - 1) * 2 * augment.jitter for border in borders)
        scale_x, x = scale_x * (1 + (right - left) / 2), x + (left + right) / 2
        scale_y, y = scale_y * (1 + (bottom - top) / 2), y + (top + bottom) / 2
    turn = (2 * column(draws, "angle") - 1) * math.radians(augment.rotation)
    cos, sin, aspect = turn.cos(), turn.sin(), height / width
    # The turn is one of pixels, so in an oblong image's own coordinates it is sheared by the aspect.
    rows = [cos * scale_x * mirror, -sin * scale_y * aspect, x, sin * scale_x * mirror / aspect, cos * scale_y, y]
    return torch.stack(rows, 1).view(-1, 2, 3)


def resampled(images: Tensor, theta: Tensor, size: tuple[int, int], outside: str) -> Tensor:
    """Bilinear: (N, H, W) -> float32 (N, 1, *size), (N, 3, H, W) -> (N, 3, *size), still 0..255."""
    pixels = images.float()
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels
    grid = F.affine_grid(sent(theta, pixels.device), [len(pixels), 1, *size], align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode=outside, align_corners=False)


def recoloured(pixels: Tensor, draws: Tensor, augment: Augment) -> Tensor:
    """Brightness and contrast; hue, saturation and exposure of colour images. (N, C, H, W) in 0..255."""

    def within(name: str, width: float) -> Tensor:
        """(N, 1, 1, 1) uniform within ± width."""
        return sent((2 * column(draws, name) - 1) * width, pixels.device)[:, None, None, None]

    exposure = within("exposure", math.log(augment.exposure)).exp()
    if pixels.shape[1] == 3 and (augment.hue or augment.saturation != 1 or augment.exposure != 1):
        saturation = within("saturation", math.log(augment.saturation)).exp()
        pixels = in_hsv(pixels, within("hue", augment.hue)[:, 0], saturation[:, 0], exposure[:, 0])
    elif augment.exposure != 1:
        pixels = pixels * exposure
    if augment.brightness:
        pixels = pixels * (1 + within("brightness", augment.brightness))
    if augment.contrast:
        mean = pixels.mean((1, 2, 3), keepdim=True)
        pixels = mean + (pixels - mean) * (1 + within("contrast", augment.contrast))
    return pixels.clamp(0, 255)


def in_hsv(pixels: Tensor, turn: Tensor, saturation: Tensor, exposure: Tensor) -> Tensor:
    """RGB (N, 3, H, W) with its hue turned, its saturation and its value multiplied: each (N, 1, 1), the last two clipped to their
    range. Each line is a pass over the batch, and the time goes into reading and writing: in place where that can be."""
    value, lowest = pixels.amax(1), pixels.amin(1)
    chroma = (value - lowest).clamp_(min=1e-6)
    red, green, blue = pixels.unbind(1)
    is_red, is_green, turn = value == red, value == green, 6 * (turn % 1)
    sector = torch.where(is_red, turn, torch.where(is_green, turn + 2, turn + 4))
    rise = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    hue = torch.addcdiv(sector, rise, chroma)
    chroma = chroma.div_(value.clamp(min=1e-6)).mul_(saturation).clamp_(max=1)
    value = (value * exposure).clamp_(max=255)
    chroma = chroma.mul_(value)
    # A channel falls from the value by the chroma where the hue is far from it; from one to two sixths away linearly (Wikipedia: HSL
    # and HSV). With k from 0 to 6, |k - 2| held to 1..2 is 2 where the channel is the value and 1 where it is value - chroma.
    channels = torch.arange(5, 0, -2, device=pixels.device)[:, None, None]
    rest = (hue[:, None] + channels).remainder_(6).sub_(2).abs_().clamp_(1, 2)
    return torch.addcmul(value.sub(chroma, alpha=2)[:, None], chroma[:, None], rest)


def erased(pixels: Tensor, draws: Tensor, augment: Augment) -> Tensor:
    """A rectangle of one grey in some images; its sides' ratio is between 1:3 and 3:1."""
    height, width = pixels.shape[-2:]
    draws = sent(draws, pixels.device)
    whether, area, ratio, x, y = (column(draws, name) for name in ("erase", "area", "ratio", "across", "down"))
    area, ratio = 0.02 + area * (augment.erased_area - 0.02), torch.exp((2 * ratio - 1) * math.log(3.0))
    wide, high = ((area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1))
    # Below `erasing`, the draw that decides is itself uniform: it picks the grey.
    grey = (whether / augment.erasing * 255)[:, None, None, None]
    columns = (torch.arange(width, device=pixels.device) + 0.5) / width
    rows = (torch.arange(height, device=pixels.device) + 0.5) / height
    left, top = x * (1 - wide), y * (1 - high)
    inside_x = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    inside_y = (rows >= top[:, None]) & (rows < (top + high)[:, None])
    mask = inside_y[:, None, :, None] & inside_x[:, None, None, :] & (whether < augment.erasing)[:, None, None, None]
    return torch.where(mask, grey, pixels)


def normalised(pixels: Tensor, spec: Preprocess) -> Tensor:
    """(N, 1 or 3, H, W) RGB in 0..255 -> (N, C, H, W) in the net's channel order, minus its mean, times its scale."""
    if isinstance(spec.mean, str):
        raise FinetuneError(f"the mean is an image in the file {spec.mean}; a recipe takes a number for each channel")
    return spec.normalised(pixels)


def shrunk(images: Tensor, size: Sequence[int]) -> Tensor:
    """uint8 images at most a quarter larger than `size` (height, width): larger ones are resized once, with antialiasing, since
    the resampling pass looks at four pixels only."""
    height, width = images.shape[-2:]
    target = (min(height, round(size[0] * 1.25)), min(width, round(size[1] * 1.25)))
    if target == (height, width):
        return images
    parts = []
    for part in images.split(512):
        pixels = part.float()[:, None] if part.dim() == 3 else part.float()
        pixels = F.interpolate(pixels, target, mode="bilinear", antialias=True).round().clamp(0, 255).to(torch.uint8)
        parts.append(pixels[:, 0] if part.dim() == 3 else pixels)
    return torch.cat(parts)
