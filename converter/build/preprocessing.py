"""How images become the net's input: what the prototxt says of it, and what the user states in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from converter.errors import GraphError
from converter.preprocess import Preprocess
from converter.read.upgrade import LayerSpec

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stated:
    """What a user says of the images; None: what the prototxt says, or else no mean, a scale of 1, and BGR or grey."""

    mean: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    channels: Literal["BGR", "RGB", "GRAY"] | None = None

    def record(self, known: Preprocess | None, inputs: Mapping[str, Shape], where: str) -> Preprocess:
        """The whole record for the net's image.

        Raises:
            GraphError: there is no image among the inputs, or the numbers do not fit its channels.
        """
        shape = inputs[image_input(inputs, where)]
        base = known or Preprocess((shape[2], shape[3]), "GRAY" if shape[1] == 1 else "BGR", (0.0,) * shape[1], "")
        said = replace(
            base,
            channels=self.channels or base.channels,
            mean=base.mean if self.mean is None else self.mean * (shape[1] if len(self.mean) == 1 else 1),
            scale=base.scale if self.scale is None else self.scale[0] if len(self.scale) == 1 else self.scale,
            source="the command line",
        )
        check_channels(said, shape[1], where)
        return said


def check_channels(record: Preprocess, channels: int, where: str) -> None:
    """Refuse a record for another number of channels than the input's.

    Raises:
        GraphError: it is.
    """
    mean, scale = record.mean, record.scale
    counts = {1 if isinstance(mean, str) else len(mean), len(scale) if isinstance(scale, tuple) else 1}
    if (1 if record.channels == "GRAY" else 3) != channels or counts - {1, channels}:
        raise GraphError(f"{where}: {record.channels}, mean {mean} and scale {scale} do not fit an input of {channels} channels.")


def image_input(inputs: Mapping[str, Shape], where: str) -> str:
    """The one input that an image can be: four axes, one or three channels.

    Raises:
        GraphError: none, or several.
    """
    found = [name for name, shape in inputs.items() if len(shape) == 4 and shape[1] in (1, 3)]
    if len(found) == 1:
        return found[0]
    shapes = ", ".join(f"{name} {shape}" for name, shape in inputs.items())
    raise GraphError(f"{where}: the image should be the one input of four axes with 3 channels or 1; the inputs are {shapes}.")


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
