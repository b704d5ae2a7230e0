"""What a prototxt says of the images that its net takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from converter.preprocess import Preprocess
from converter.read.upgrade import LayerSpec


def preprocess_of(sources: Sequence[LayerSpec], inputs: Mapping[str, tuple[int, ...]], notes: list[str]) -> Preprocess | None:
    """What the first data layer with a transform_param says of its images, as Caffe's DataTransformer does it in the phase TEST.

    Images keep their size and are cropped (WindowData warps its windows to the crop; ImageData may resize first). Without a
    crop they have the input's size. None where no layer says anything, or where the input has neither 1 nor 3 channels.
    A note is added where Caffe would refuse the means.
    """
    for spec in sources:
        if not spec.message.HasField("transform_param") or not spec.message.top:
            continue
        shape = inputs.get(spec.message.top[0], ())
        if len(shape) != 4 or shape[1] not in (1, 3):
            return None
        transform, images = spec.message.transform_param, spec.message.image_data_param
        crop = (transform.crop_size, transform.crop_size) if transform.crop_size else None
        resize: tuple[int, int] | Literal["keep"] = "keep"
        if images.new_height and images.new_width:
            resize = (images.new_height, images.new_width)
        means = tuple(transform.mean_value) or (0.0,)
        if len(means) not in (1, shape[1]):
            notes.append(f"{spec} has {len(means)} mean_value for {shape[1]} channels, which Caffe refuses: preprocess is None")
            return None
        return Preprocess(
            size=crop or (shape[2], shape[3]),
            channels="GRAY" if shape[1] == 1 else "BGR",
            mean=transform.mean_file if transform.HasField("mean_file") else means * (shape[1] // len(means)),
            source="the prototxt's transform_param",
            scale=transform.scale,
            resize=resize if crop and spec.type != "WindowData" else None,
        )
    return None
