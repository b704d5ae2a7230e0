"""Caffemodels with drawn weights, written byte by byte: an independent hand beside the converter's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Layers = Mapping[str, Sequence[np.ndarray]]


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def blob(array: np.ndarray) -> bytes:
    """A BlobProto: shape is field 7, packed float data field 5 (caffe.proto)."""
    shape = _field(1, b"".join(map(_varint, array.shape)))
    return _field(7, shape) + _field(5, array.astype("<f4").tobytes())


def caffemodel(layers: Layers) -> bytes:
    """A NetParameter: name is field 1, layer field 100; in a layer, name is field 1, type field 2, blobs field 7."""
    out = [_field(1, b"drawn")]
    for name, blobs in layers.items():
        body = _field(1, name.encode()) + _field(2, b"Convolution") + b"".join(_field(7, blob(each)) for each in blobs)
        out.append(_field(100, body))
    return b"".join(out)


def draw(shapes: Mapping[str, Sequence[tuple[int, ...]]], seed: int = 0) -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return {name: [rng.normal(0, 0.1, shape).astype(np.float32) for shape in blob_shapes] for name, blob_shapes in shapes.items()}


def squeezenet_shapes(first: int = 64, kernel: int = 3) -> dict[str, list[tuple[int, ...]]]:
    """SqueezeNet 1.1 (64, 3) or 1.0 (96, 7), from the paper's table 1."""
    shapes: dict[str, list[tuple[int, ...]]] = {"conv1": [(first, 3, kernel, kernel), (first,)]}
    inputs = first
    sizes = [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)]
    for number, (squeeze, expand) in enumerate(sizes, 2):
        shapes[f"fire{number}/squeeze1x1"] = [(squeeze, inputs, 1, 1), (squeeze,)]
        shapes[f"fire{number}/expand1x1"] = [(expand, squeeze, 1, 1), (expand,)]
        shapes[f"fire{number}/expand3x3"] = [(expand, squeeze, 3, 3), (expand,)]
        inputs = 2 * expand
    return shapes | {"conv10": [(1000, 512, 1, 1), (1000,)]}


MTCNN_SHAPES: dict[int, dict[str, list[tuple[int, ...]]]] = {
    1: {
        "conv1": [(10, 3, 3, 3), (10,)], "PReLU1": [(10,)],
        "conv2": [(16, 10, 3, 3), (16,)], "PReLU2": [(16,)],
        "conv3": [(32, 16, 3, 3), (32,)], "PReLU3": [(32,)],
        "conv4-1": [(2, 32, 1, 1), (2,)], "conv4-2": [(4, 32, 1, 1), (4,)],
    },
    2: {
        "conv1": [(28, 3, 3, 3), (28,)], "prelu1": [(28,)],
        "conv2": [(48, 28, 3, 3), (48,)], "prelu2": [(48,)],
        "conv3": [(64, 48, 2, 2), (64,)], "prelu3": [(64,)],
        "conv4": [(128, 576), (128,)], "prelu4": [(128,)],
        "conv5-1": [(2, 128), (2,)], "conv5-2": [(4, 128), (4,)],
    },
    3: {
        "conv1": [(32, 3, 3, 3), (32,)], "prelu1": [(32,)],
        "conv2": [(64, 32, 3, 3), (64,)], "prelu2": [(64,)],
        "conv3": [(64, 64, 3, 3), (64,)], "prelu3": [(64,)],
        "conv4": [(128, 64, 2, 2), (128,)], "prelu4": [(128,)],
        "conv5": [(256, 1152), (256,)], "prelu5": [(256,)],
        "conv6-1": [(2, 256), (2,)], "conv6-2": [(4, 256), (4,)], "conv6-3": [(10, 256), (10,)],
    },
}  # fmt: skip
