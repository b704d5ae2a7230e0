"""Data layers of forks: what their parameters say of the shapes of their tops.

Caffe's own data layers are in data.py. These have messages that caffe.proto does not know, so that their texts are read here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from converter.layers.registry import Shape
from converter.read.upgrade import LayerSpec

_NUMBER = re.compile(r"(\w+)\s*:\s*(\d+)\b")
_WORD = re.compile(r"(\w+)\s*:\s*\"?([A-Za-z]\w*)")
# Their second top has a label for each place of the image: (N, 1, H, W)
_DENSE = {"DenseImageData", "ImageSegData", "SegData", "IMAGE_SEG_DATA", "WINDOW_SEG_DATA", "ImageLabelmapData"}


def stated_shapes(spec: LayerSpec, given: Mapping[str, Shape]) -> list[Shape | None]:
    """The shape of each top of a data layer that we do not know, None where its parameters do not say it.

    Given shapes go before the layer's own: labels follow the images that were asked for.
    """
    tops = list(spec.message.top)
    if not tops:
        return []
    if spec.message.input_param.shape:
        shapes = [tuple(shape.dim) for shape in spec.message.input_param.shape]
        return [*shapes] if len(shapes) == len(tops) else [shapes[0]] * len(tops)
    numbers, words = _read(spec)
    if spec.type == "RandVec" and numbers.get("batch_size") and numbers.get("dim"):  # GANs' noise
        return [given.get(tops[0]) or _noise(numbers)] * len(tops)
    images = given.get(tops[0]) or _images(spec.type, numbers, words)
    return [images, *[_label(spec.type, images, numbers)] * (len(tops) - 1)]


def _noise(n: Mapping[str, int]) -> Shape:
    """A vector each: (N, dim), or (N, dim, H, W) where the parameters say a size."""
    return n["batch_size"], n["dim"], *([n["height"], n["width"]] if n.get("height") and n.get("width") else [])


def _read(spec: LayerSpec) -> tuple[dict[str, int], dict[str, str]]:
    """Numbers and words of all the layer's parameters, by field name."""
    numbers: dict[str, int] = {}
    words: dict[str, str] = {}
    for known, value in spec.message.ListFields():
        if known.message_type is not None and known.name.endswith("_param"):
            numbers.update({f.name: v for f, v in value.ListFields() if isinstance(v, int) and not isinstance(v, bool)})
    for unknown in spec.unknown:
        text = unknown.text or f"{unknown.path[-1]}: {unknown.value}"
        numbers.update({name: int(value) for name, value in _NUMBER.findall(text)})
        words.update(_WORD.findall(text))
    return numbers, words


def _images(type_: str, n: Mapping[str, int], words: Mapping[str, str]) -> Shape | None:
    """(N, C, H, W), or (N, C, L, H, W) of a video, where the parameters say all of it."""
    height = n.get("crop_height") or n.get("crop_size") or n.get("new_height") or n.get("height") or 0
    width = n.get("crop_width") or n.get("crop_size") or n.get("new_width") or n.get("width") or 0
    batch = n.get("batch_size", 0)
    if not (height and width and batch):
        return None
    if type_ in ("VideoData", "VIDEO_DATA") and n.get("new_length"):
        if "modality" in words or "num_segments" in n:  # yjxiong/caffe: frames of all segments are channels
            channels = 2 if words.get("modality") == "FLOW" else 3
            return batch, channels * n["new_length"] * n.get("num_segments", 1), height, width
        return batch, 3, n["new_length"], height, width  # C3D
    return batch, n.get("channels", 3), height, width


def _label(type_: str, images: Shape | None, n: Mapping[str, int]) -> Shape | None:
    if images is None:
        return None
    if type_ in _DENSE and len(images) == 4:
        factor = n.get("label_divide_factor", 1) or 1
        return images[0], 1, images[2] // factor, images[3] // factor
    return None
