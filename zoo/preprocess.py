"""An image becomes a net's input, as the model's card says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.cards.record import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # of R, G, B: ITU-R BT.601, as OpenCV's and Pillow's conversion to grey have it


def preprocess(spec: Preprocess, image: Any, mean_image: Tensor | None = None) -> Tensor:
    """Returns float32 (3, H, W), or (1, H, W) for a net of grey images: resized, cropped, in the net's channel order, minus the
    mean, times the scale.

    `image` is RGB in 0..255: a uint8 tensor (3, H, W), a uint8 array (H, W, 3) or a PIL image of any mode. Resizing is
    bilinear with antialiasing. `mean_image` (3, H, W) stands in where the card names a file for the mean; it is
    subtracted before the crop, as Caffe does. Raises ValueError for any other image.
    """
    import torch
    from torch.nn.functional import interpolate

    pixels = _rgb(image).to(torch.float32)
    whole = spec.resize if spec.resize is not None else spec.size
    if isinstance(whole, int):
        shorter = min(pixels.shape[1:])
        whole = (round(pixels.shape[1] * whole / shorter), round(pixels.shape[2] * whole / shorter))
    if whole is not None and whole != tuple(pixels.shape[1:]):
        pixels = interpolate(pixels[None], whole, mode="bilinear", antialias=True)[0].clamp(0, 255)
    if spec.channels == "GRAY":
        pixels = (pixels * torch.tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)
    elif spec.channels == "BGR":
        pixels = pixels.flip(0)
    if mean_image is not None:
        pixels = pixels - mean_image
    elif isinstance(spec.mean, str):
        raise ValueError(f"the mean is in the file {spec.mean}: load the model with its pretrained weights")
    else:
        pixels = pixels - torch.tensor(spec.mean).view(-1, 1, 1)
    if spec.size is not None:
        top, left = ((have - want) // 2 for have, want in zip(pixels.shape[1:], spec.size, strict=True))
        pixels = pixels[:, top : top + spec.size[0], left : left + spec.size[1]]
    return (pixels * torch.tensor(spec.scale).view(-1, 1, 1)).contiguous()


def _rgb(image: Any) -> Tensor:
    import numpy
    import torch

    if hasattr(image, "convert") and hasattr(image, "getbands"):  # PIL's, without importing PIL
        image = numpy.asarray(image.convert("RGB"))
    if isinstance(image, numpy.ndarray):
        if image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an array is (height, width, 3) in RGB; this one is {image.shape}")
        # A copy where torch could not use the memory as it lies: reversed views, read-only arrays.
        image = torch.from_numpy(numpy.array(image, copy=True)).permute(2, 0, 1)
    if not isinstance(image, torch.Tensor):
        raise ValueError(f"an image is a uint8 tensor, a uint8 array or a PIL image, not {type(image).__name__}")
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"a tensor is (3, height, width) in RGB; this one is {tuple(image.shape)}")
    if image.dtype != torch.uint8:
        raise ValueError(f"pixels are uint8 in 0..255, not {image.dtype}: the scaling is done here")
    return image.detach().cpu()
