"""Layers that read data: their tops are the net's inputs. And those that have nothing to compute."""

from __future__ import annotations

from torch import Tensor, nn

from converter.layers.registry import Fields, Layer, Sources, layer


@layer("Input", "input_param", bottoms=(0, 0), is_source=True)
def input_(p: Fields) -> Sources:
    return Sources(_repeated([tuple(s.dim) for s in p.shape], p.tops))


def _repeated(shapes: list[tuple[int, ...]], tops: int) -> list[tuple[int, ...] | None]:
    """One shape for all tops, one each, or none."""
    if len(shapes) not in (0, 1, tops):
        raise ValueError(f"{len(shapes)} shapes for {tops} tops")
    return [*shapes] if len(shapes) == tops else [*(shapes or [None])] * tops  # type: ignore[list-item]


@layer("DummyData", "dummy_data_param", bottoms=(0, 0), ignored={"data_filler": "the top is an input"}, is_source=True)
def dummy_data(p: Fields) -> Sources:
    old = (p.num, p.channels, p.height, p.width)
    if not any(old):
        return Sources(_repeated([tuple(s.dim) for s in p.shape], p.tops))
    if p.shape or any(len(dims) not in (1, p.tops) for dims in old):
        raise ValueError("num, channels, height and width stand in place of shape, with one value each, or one for each top")
    return Sources([tuple(dims[i % len(dims)] for dims in old) for i in range(p.tops)])


_IGNORED = dict.fromkeys(
    [
        "source",
        "rand_skip",
        "backend",
        "prefetch",
        "force_encoded_color",
        "shuffle",
        "root_folder",
        "scale",
        "mean_file",
        "mirror",
        "is_color",
        "new_height",
        "new_width",
        "crop_size",
        "fg_threshold",
        "bg_threshold",
        "fg_fraction",
        "context_pad",
        "crop_mode",
        "cache_images",
    ],
    "the data are not read here",
)


def _images(p: Fields, size: tuple[int, int] | None, channels: int) -> Sources:
    """(batch, C, H, W) and a label (batch,), where the crop or the new size tells H and W."""
    transform = p.transform
    crop = transform.crop_size
    size = (crop, crop) if crop else size
    channels = 1 if transform.force_gray else 3 if transform.force_color else channels
    batch = p.batch_size or 1
    images = (batch, channels, *size) if size else None
    return Sources([images, *[(batch,)] * (p.tops - 1)])


@layer("Data", "data_param", bottoms=(0, 0), ignored=_IGNORED, is_source=True)
def data(p: Fields) -> Sources:
    return _images(p, None, 3)


@layer("ImageData", "image_data_param", bottoms=(0, 0), ignored=_IGNORED, is_source=True)
def image_data(p: Fields) -> Sources:
    size = (p.new_height, p.new_width) if p.new_height and p.new_width else None
    return _images(p, size, 3 if p.is_color else 1)


@layer("WindowData", "window_data_param", bottoms=(0, 0), ignored=_IGNORED, is_source=True)
def window_data(p: Fields) -> Sources:
    return _images(p, None, 3)


@layer("HDF5Data", "hdf5_data_param", bottoms=(0, 0), ignored=_IGNORED, is_source=True)
def hdf5_data(p: Fields) -> Sources:
    _ = p.batch_size  # all other dims stand in the HDF5 file
    return Sources([None] * p.tops)


@layer("MemoryData", "memory_data_param", bottoms=(0, 0), is_source=True)
def memory_data(p: Fields) -> Sources:
    return Sources([(p.batch_size, p.channels, p.height, p.width), *[(p.batch_size,)] * (p.tops - 1)])


@layer("HDF5Output", bottoms=(0, None), removed="it writes its bottoms to a file")
def hdf5_output(p: Fields, *bottoms: Tensor) -> Layer:
    return Layer(nn.Identity())
