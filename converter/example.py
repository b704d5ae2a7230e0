"""An example net that needs no download: the center-loss face net (Wen et al., ECCV 2016) with drawn weights.

Its structure is that of ydwen/caffe-face, face_example/face_deploy.prototxt: 112×96 BGR faces, (x - 127.5) / 128, to an
embedding of 512 values.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from converter.write.encode import write_caffemodel

_STAGES = ((2, 64, 1, 128), (3, 128, 2, 256), (4, 256, 5, 512), (5, 512, 3, 0))  # name, channels, blocks, the next stage's channels


def prototxt() -> str:
    """The net's deploy prototxt."""
    lines = ['name: "center_loss_face"', 'input: "data"', "input_shape { dim: 1 dim: 3 dim: 112 dim: 96 }"]
    blob = "data"

    def layer(name: str, type_: str, top: str, *bottoms: str, parameters: str = "") -> str:
        ends = " ".join([*(f'bottom: "{b}"' for b in bottoms), f'top: "{top}"'])
        lines.append(f'layer {{ name: "{name}" type: "{type_}" {ends}{parameters and " " + parameters} }}')
        return top

    def convolution(name: str, bottom: str, channels: int, pad: int) -> str:
        filler = 'weight_filler { type: "xavier" }' if not pad else 'weight_filler { type: "gaussian" std: 0.01 }'
        settings = f"num_output: {channels} kernel_size: 3{' pad: 1' if pad else ''} {filler}"
        top = layer(f"conv{name}", "Convolution", f"conv{name}", bottom, parameters=f"convolution_param {{ {settings} }}")
        return layer(f"relu{name}", "PReLU", top, top)

    def pool(name: str, bottom: str) -> str:
        return layer(f"pool{name}", "Pooling", f"pool{name}", bottom, parameters="pooling_param { pool: MAX kernel_size: 2 stride: 2 }")

    blob = pool("1b", convolution("1b", convolution("1a", blob, 32, 0), 64, 0))
    for stage, channels, blocks, following in _STAGES:
        for block in range(blocks):
            first = convolution(f"{stage}_{2 * block + 1}", blob, channels, 1)
            second = convolution(f"{stage}_{2 * block + 2}", first, channels, 1)
            blob = layer(f"res{stage}_{2 * block + 2}", "Eltwise", f"res{stage}_{2 * block + 2}", blob, second)
        if following:
            blob = pool(str(stage), convolution(str(stage), blob, following, 0))
    layer("fc5", "InnerProduct", "fc5", blob, parameters='inner_product_param { num_output: 512 weight_filler { type: "xavier" } }')
    return "\n".join(lines) + "\n"


def drawn_layers(seed: int = 0) -> Iterator[tuple[str, str, list[Any]]]:
    """(name, type, blobs) of the layers with weights, drawn so that activations neither vanish nor saturate."""
    import numpy

    random = numpy.random.default_rng(seed)

    def draw(*shape: int, scale: float) -> Any:
        return random.standard_normal(shape, "f4") * numpy.float32(scale)

    def convolution(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, str, list[Any]]]:
        yield f"conv{name}", "Convolution", [draw(outputs, inputs, 3, 3, scale=(2 / 9 / inputs) ** 0.5), draw(outputs, scale=0.1)]
        yield f"relu{name}", "PReLU", [0.25 + draw(outputs, scale=0.05)]

    yield from convolution("1a", 3, 32)
    yield from convolution("1b", 32, 64)
    for stage, channels, blocks, following in _STAGES:
        for block in range(2 * blocks):
            yield from convolution(f"{stage}_{block + 1}", channels, channels)
        if following:
            yield from convolution(str(stage), channels, following)
    yield "fc5", "InnerProduct", [draw(512, 512 * 5 * 4, scale=0.01), draw(512, scale=0.1)]


def write_example(folder: Path, version: str = "V2") -> tuple[Path, Path]:
    """Write face_deploy.prototxt and face.caffemodel into a folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    text, weights = folder / "face_deploy.prototxt", folder / "face.caffemodel"
    text.write_text(prototxt())
    write_caffemodel(weights, drawn_layers(), name="center_loss_face", version=version)
    return text, weights
