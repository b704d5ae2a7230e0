"""An image becomes a net's input: one record says how, for a prototxt's transform_param, the zoo's cards and the recipes alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy
    import PIL.Image
    from torch import Tensor

    Image: TypeAlias = Tensor | numpy.ndarray | PIL.Image.Image
    Pixels: TypeAlias = Tensor | numpy.ndarray

LUMA = (0.299, 0.587, 0.114)  # of R, G, B: ITU-R BT.601, as OpenCV and Pillow convert to grey
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Preprocess:
    """How an RGB image in 0..255 becomes the net's input: resize, crop, reorder, subtract `mean`, multiply by `scale`.

    `resize` is (height, width), one number for the shorter side, "keep" (the image keeps its size) or None; `size` is the
    (height, width) of the centre crop or, where `resize` is None, what the whole image is resized to; `size` None takes any
    size. `mean` is in 0..255 and in the net's channel order; where a mean image is subtracted, it is the name of its file,
    a binaryproto (converter.read_mean). `scale` is one number, or one for each channel in the net's order. "GRAY" is one
    channel, made of R, G, B as OpenCV makes it (0.299, 0.587, 0.114); an image that is grey already stays what it is.
    `source` says who states all this.
    """

    size: tuple[int, int] | None
    channels: Literal["BGR", "RGB", "GRAY"]
    mean: tuple[float, ...] | str
    source: str
    scale: float | tuple[float, ...] = 1.0
    resize: tuple[int, int] | int | Literal["keep"] | None = None

    def __call__(self, image: Image, mean_image: Pixels | None = None) -> Tensor:
        """float32 (3, H, W), or (1, H, W) for "GRAY", on the CPU.

        `image` is in 0..255: a uint8 tensor (3, H, W) in RGB or (1, H, W), a uint8 array (H, W, 3) in RGB or (H, W), or a PIL
        image, which is turned upright as its EXIF orientation says, with white where it is transparent and 16-bit grey scaled to
        0..255. Resizing is bilinear
        with antialiasing. `mean_image` is (C, H, W) in the net's channel order, what read_mean() returns, for a record whose
        mean is a file; it is subtracted before the crop, as Caffe does.

        Raises:
            ValueError: any other image, one smaller than the crop, or a mean image that is missing or of another size.
        """
        pixels = self._cropped(self._centred(self._reordered(self._resized(_rgb_or_grey(image))), mean_image))
        return (pixels * _for_channels(self.scale, pixels)).contiguous()

    def normalised(self, pixels: Tensor) -> Tensor:
        """(..., 3, H, W) in RGB or (..., 1, H, W), in 0..255 -> (..., C, H, W) on the same device: the net's channel order, minus
        the mean, times the scale. Nothing is resized or cropped.

        Raises:
            ValueError: the mean is a file.
        """
        pixels = self._centred(self._reordered(pixels), None)
        return (pixels * _for_channels(self.scale, pixels)).contiguous()

    def with_mean_image(self, mean_image: Pixels) -> Preprocess:
        """The same record with its mean image (C, H, W) bound, so that it is called with an image alone."""
        return _WithMeanImage(**{field.name: getattr(self, field.name) for field in fields(Preprocess)}, mean_image=mean_image)

    def _resized(self, pixels: Tensor) -> Tensor:
        from torch.nn.functional import interpolate

        height, width = pixels.shape[1:]
        target = self.size if self.resize is None else self.resize
        if isinstance(target, int):
            shorter = min(height, width)
            target = (round(height * target / shorter), round(width * target / shorter))
        if target is None or target == "keep" or target == (height, width):
            return pixels
        return interpolate(pixels[None], target, mode="bilinear", antialias=True)[0].clamp(0, 255)

    def _reordered(self, pixels: Tensor) -> Tensor:
        if pixels.shape[-3] == 1:
            return pixels if self.channels == "GRAY" else pixels.expand(*pixels.shape[:-3], 3, -1, -1)
        if self.channels == "GRAY":
            return (pixels * _for_channels(LUMA, pixels)).sum(-3, keepdim=True)
        return pixels.flip(-3) if self.channels == "BGR" else pixels

    def _centred(self, pixels: Tensor, mean_image: Pixels | None) -> Tensor:
        import torch

        if mean_image is None:
            if isinstance(self.mean, str):
                raise ValueError(
                    f"the mean is in the file {self.mean!r}: pass its values, preprocess(image, converter.read_mean({self.mean!r})),"
                    " or bind them, preprocess.with_mean_image(...)"
                )
            return pixels - _for_channels(self.mean, pixels)
        mean = torch.as_tensor(mean_image, dtype=torch.float32, device=pixels.device)
        if mean.shape != pixels.shape[-3:]:
            raise ValueError(
                f"the mean image is {tuple(mean.shape)}, the image {tuple(pixels.shape)} (channels, height, width): resize the image first,"
                f" or use dataclasses.replace(preprocess, resize={tuple(mean.shape[-2:])})"
            )
        return pixels - mean

    def _cropped(self, pixels: Tensor) -> Tensor:
        if self.size is None:
            return pixels
        height, width = pixels.shape[1:]
        if height < self.size[0] or width < self.size[1]:
            raise ValueError(f"the image is {height}×{width}, smaller than the {self.size[0]}×{self.size[1]} that are cut from its centre")
        top, left = (height - self.size[0]) // 2, (width - self.size[1]) // 2
        return pixels[:, top : top + self.size[0], left : left + self.size[1]]


@dataclass(frozen=True, eq=False)
class _WithMeanImage(Preprocess):
    """A record whose mean image has been read. Equal to itself only: tensors do not compare to one truth."""

    mean_image: Pixels | None = None

    def __call__(self, image: Image, mean_image: Pixels | None = None) -> Tensor:
        return super().__call__(image, self.mean_image if mean_image is None else mean_image)


def _for_channels(values: float | Sequence[float], pixels: Tensor) -> Tensor:
    """A number for each channel, or one for all, (C or 1, 1, 1) beside the pixels; a GPU is not waited for, as an unpinned copy would."""
    import torch

    numbers = torch.tensor(values).view(-1, 1, 1)
    return numbers.pin_memory().to(pixels.device, non_blocking=True) if pixels.is_cuda else numbers.to(pixels.device)


def _rgb_or_grey(image: object) -> Tensor:
    """float32 (3, H, W) in RGB or (1, H, W), in 0..255."""
    import numpy
    import torch

    if hasattr(image, "getbands") and hasattr(image, "convert"):  # PIL's, without importing PIL
        return torch.from_numpy(_from_pil(image)).permute(2, 0, 1)
    if isinstance(image, numpy.ndarray):
        if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
            raise ValueError(f"an array is (height, width, 3) in RGB, or (height, width) in grey; this one is {image.shape}")
        # A copy where torch cannot use the memory as it lies: reversed views, read-only arrays.
        image = torch.from_numpy(numpy.array(image, copy=True).reshape(*image.shape[:2], -1)).permute(2, 0, 1)
    if not isinstance(image, torch.Tensor):
        raise ValueError(f"an image is a uint8 tensor, a uint8 array or a PIL image, not {type(image).__name__}")
    if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
        raise ValueError(f"a tensor is (3, height, width) in RGB, or (1, height, width) in grey; this one is {tuple(image.shape)}")
    if image.dtype != torch.uint8:
        raise ValueError(f"pixels are uint8 in 0..255, not {image.dtype}: the net's mean and scale are applied here")
    return image.detach().cpu().to(torch.float32)


def _from_pil(image: Any) -> numpy.ndarray:
    """float32 (H, W, 3) in RGB or (H, W, 1), in 0..255 and upright.

    Raises:
        ValueError: a mode whose values have no fixed range.
    """
    import numpy

    form, image = image.format, upright(image)
    if image.mode[0] in "IF":
        return sixteen_bits(image, form).astype(numpy.float32)[..., None] / numpy.float32(257)  # 65535 / 255
    grey = image.mode in ("1", "L") and not image.has_transparency_data
    pixels = numpy.asarray(image.convert("L") if grey else on_white(image), dtype=numpy.float32)
    return pixels.reshape(*pixels.shape[:2], -1)


def sixteen_bits(image: PIL.Image.Image, form: str | None) -> numpy.ndarray:
    """(H, W) grey values in 0..65535 of an image of mode I;16, or I where its file's format `form` has 16 bits and no more.

    Raises:
        ValueError: a mode whose values have no fixed range, or values of 8 bits, which would be read as black.
    """
    import numpy

    scaled = 'PIL.Image.fromarray((numpy.asarray(image) * (255 / largest)).round().astype("uint8"))'
    if not image.mode.startswith("I;16") and not (image.mode == "I" and form in ("PNG", "PPM")):
        raise ValueError(
            f"a PIL image of mode {image.mode!r} has no fixed range of values: scale it to 0..255 and convert it, such as {scaled}"
        )
    values = numpy.asarray(image)
    if 0 < (highest := int(values.max())) < 256:
        raise ValueError(
            f"a grey image of 16 bits whose highest value is {highest}, of 65535: 8 bits stored as 16, by its looks. Save or convert it as"
            f' 8 bits, such as PIL.Image.fromarray(numpy.asarray(image).astype("uint8"))'
        )
    return values


def on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image in mode RGB; its transparent parts show white, as on paper, and not the colour that lies below."""
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image.convert("RGBA"))
    return paper.convert("RGB")


def upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image as its EXIF orientation says that it is seen; without a readable one, as it is."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    image.load()  # Pillow turns a TIFF when it loads it, and takes the orientation away
    try:
        turn = turns.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # EXIF data that Pillow cannot parse: viewers show such an image as it is stored
        return image
    return image if turn is None else image.transpose(turn)
