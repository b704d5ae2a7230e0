"""Writes .caffemodel files: weights as Caffe stores them, in V2, V1 or V0 form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from converter.files import whole_file
from converter.read.caffemodel import encode_varint
from converter.read.v1_types import V1_TYPES

_V1_NUMBERS = {name: number for number, name in V1_TYPES.values()}
LARGEST_HALF = 65504.0  # IEEE 754 binary16


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return encode_varint(number << 3 | 2) + encode_varint(len(payload)) + payload


def varint_field(number: int, value: int) -> bytes:
    return encode_varint(number << 3) + encode_varint(value)


def is_kernel(shape: Sequence[int]) -> bool:
    """Whether a blob is stored in half precision where that is asked for: one of several axes, such as a convolution's weights."""
    return sum(size > 1 for size in shape) > 1


def blob_head(shape: Sequence[int], legacy: bool, nbytes: int, half: bool = False) -> bytes:
    """A BlobProto up to its values; legacy shapes are num, channels, height, width.

    The values follow as packed float data or, with `half`, as NVIDIA Caffe's raw_data of raw_data_type FLOAT16.
    """
    if legacy:
        dims = (1,) * (4 - len(shape)) + tuple(shape)
        head = b"".join(varint_field(i + 1, d) for i, d in enumerate(dims))
    else:
        head = field(7, field(1, b"".join(map(encode_varint, shape))))
    if half:
        return head + varint_field(10, 2) + encode_varint(12 << 3 | 2) + encode_varint(nbytes)
    return head + encode_varint(5 << 3 | 2) + encode_varint(nbytes)


def stored(blob: Any, half: bool) -> Any:
    """A blob's values as the file has them."""
    import numpy

    return numpy.asarray(blob, "<f2" if half else "<f4", order="C")  # ascontiguousarray would give a scalar an axis


def layer_pieces(name: str, type_: str, blobs: Sequence[Any], version: str, half: bool = False) -> list[Any]:
    """A layer of the net as pieces to write one after the other; arrays stay arrays."""
    name_field, type_field, blob_field = {"V2": (1, 2, 7), "V1": (4, 5, 6), "V0": (1, 2, 50)}[version]
    kind = varint_field(5, _V1_NUMBERS[type_]) if version == "V1" else field(type_field, type_.encode())
    pieces: list[Any] = [field(name_field, name.encode()) + kind]
    for blob in blobs:
        short = half and is_kernel(blob.shape)
        values = stored(blob, short)
        head = blob_head(values.shape, version != "V2", values.nbytes, short)
        pieces += [encode_varint(blob_field << 3 | 2) + encode_varint(len(head) + values.nbytes) + head, values.reshape(-1).view("u1").data]
    size = sum(len(piece) for piece in pieces)
    if version == "V0":  # layers { layer { ... } }
        inner = encode_varint(1 << 3 | 2) + encode_varint(size)
        return [encode_varint(2 << 3 | 2) + encode_varint(len(inner) + size) + inner, *pieces]
    return [encode_varint((100 if version == "V2" else 2) << 3 | 2) + encode_varint(size), *pieces]


def write_caffemodel(
    path: str | Path,
    layers: Iterable[tuple[str, str, Sequence[Any]]],
    *,
    name: str = "",
    version: str = "V2",
    half: bool = False,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write layers (name, type, blobs as arrays) as a binary caffemodel, one layer in memory at a time.

    Types are LayerParameter's names ("Convolution"); for version "V0" V0's own ("conv"). `half` rounds kernels (is_kernel) to half
    precision; values beyond LARGEST_HALF become infinite. `check` is called with the whole file before it takes its name.

    Raises:
        ConversionError: the file cannot be written.
    """
    with whole_file(Path(path)) as file:
        if name:
            file.write(field(1, name.encode()))
        for layer_name, type_, blobs in layers:
            for piece in layer_pieces(layer_name, type_, blobs, version, half):
                file.write(piece)
        if check is not None:
            file.flush()
            check(Path(file.name))
