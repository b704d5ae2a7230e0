"""What both sides are given: drawn values, or an image file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from converter.build.preprocessing import image_input
from converter.errors import ConversionError

if TYPE_CHECKING:
    import numpy

    from converter.net import CaffeNet
    from converter.preprocess import Preprocess


@dataclass(frozen=True)
class Inputs:
    """A net's inputs, and those of the net as its files have it; they differ where the image is prepared otherwise."""

    ours: Mapping[str, numpy.ndarray]
    theirs: Mapping[str, numpy.ndarray]
    note: str


def drawn_inputs(net: CaffeNet, original: CaffeNet, seed: int = 0) -> Inputs:
    """Drawn values: pixels through the net's preprocessing where it is known, else of a normal distribution.

    Raises:
        MemoryShortError: the net's activations do not fit into memory; nothing has been drawn.
    """
    import numpy
    import torch

    net.check_memory([math.prod(net.input_shapes[name]) for name in net.inputs], net.outputs, torch.empty(0))
    random = numpy.random.default_rng(seed)
    theirs = {name: random.standard_normal(shape, "f4") for name, shape in original.input_shapes.items()}
    what = "drawn, of a normal distribution"
    if any(len(shape) < 4 for shape in original.input_shapes.values()):
        theirs, what = _taken(original, theirs, seed) or (theirs, what)
    ours = dict(theirs)
    record = original.preprocess
    images = [name for name, shape in original.input_shapes.items() if len(shape) == 4 and shape[1] in (1, 3)]
    if record is not None and not isinstance(record.mean, str) and len(images) == 1:
        (name,) = images
        n, _, height, width = original.input_shapes[name]
        pixels = torch.from_numpy(random.integers(0, 256, (n, 3, height, width)).astype("f4"))
        theirs[name] = record.normalised(pixels).numpy()
        ours[name] = theirs[name] if net.preprocess is None else net.preprocess.normalised(pixels).numpy()
        what = f"drawn: pixels as {described(record)}"
    return Inputs(ours, theirs, f"inputs: {what} (seed {seed})")


def _taken(net: CaffeNet, values: dict[str, numpy.ndarray], seed: int) -> tuple[dict[str, numpy.ndarray], str] | None:
    """Inputs that a net of indices, labels or regions takes, and what they are; None where it takes the values given.

    Raises:
        ConversionError: it takes none that could be drawn.
    """
    import torch

    from converter.write.sizes import drawn

    tensors, problem = [torch.from_numpy(values[name]) for name in net.inputs], ""
    for how in range(4):
        try:
            with torch.inference_mode():
                net(*tensors)
        except (IndexError, RuntimeError, ValueError) as error:
            problem = str(error).strip().splitlines()[0]
            tensors = drawn(net, net.input_shapes, how + 1, seed)
        else:
            held = {name: value.numpy() for name, value in zip(net.inputs, tensors, strict=True)}
            return None if how == 0 else (held, "drawn: 0 and 1 where the net takes indices or labels")
    raise ConversionError(f"the net takes none of the inputs that were drawn to compare it on ({problem}); nothing was compared.")


def image_inputs(net: CaffeNet, original: CaffeNet, image: Path, record: Preprocess, mine: Preprocess, seed: int = 0) -> Inputs:
    """An image file as the input, prepared by `record` for the net as the files have it and by `mine` for ours; other inputs drawn.

    Raises:
        ConversionError: the file is no image that the record takes.
    """
    import numpy
    from PIL import Image

    drawn = drawn_inputs(net, original, seed)
    name = image_name(original)
    try:
        with Image.open(image) as held:
            prepared = [each(held)[None].numpy() for each in (record, mine)]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConversionError(f"{image}: cannot be the net's input: {error}.") from error
    shapes = [(*side[name].shape[:1], *value.shape[1:]) for side, value in zip((drawn.theirs, drawn.ours), prepared, strict=True)]
    theirs, ours = (numpy.broadcast_to(v, s).copy() for v, s in zip(prepared, shapes, strict=True))
    others = "".join(f"; {other!r} drawn (seed {seed})" for other in original.inputs if other != name)
    note = f"input {name!r}: {image.name} as {described(record)}{others}"
    return Inputs({**drawn.ours, name: ours}, {**drawn.theirs, name: theirs}, note)


def image_name(net: CaffeNet) -> str:
    """The input that is an image: four axes, one or three channels.

    Raises:
        ConversionError: there is none, or more than one.
    """
    return image_input(net.input_shapes, "--image")


def described(record: Preprocess) -> str:
    """A record in a few words."""
    mean, scale = (value if isinstance(value, tuple) else (value,) for value in (record.mean, record.scale))
    listed = [", ".join(v if isinstance(v, str) else f"{v:.6g}" for v in value) for value in (mean, scale)]
    return f"{record.channels}, mean {listed[0]}, scale {listed[1]} ({record.source})"
