"""Caffemodels put together byte by byte, as strange as the wire format allows, and what protobuf itself reads in them.

The bytes are written here and read twice: by the converter and by protobuf. Field numbers are those of caffe.proto.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy

from converter.read.schema import message_class

Blobs = Mapping[str, Sequence[Any]]
VERSIONS = ("V2", "V1", "V0")
_V1_NUMBERS = {"Convolution": 4, "InnerProduct": 14, "Split": 22, "Data": 5, "ReLU": 18}
_V0_NAMES = {"Convolution": "conv", "InnerProduct": "innerproduct", "Split": "split", "Data": "data", "ReLU": "relu"}


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return varint(field << 3 | 2) + varint(len(payload)) + payload


def packed(field: int, values: Any, dtype: str = "<f4") -> bytes:
    return block(field, numpy.asarray(values, dtype).tobytes())


def unpacked(field: int, values: Any, dtype: str = "<f4") -> bytes:
    width = {"<f4": 5, "<f8": 1}[dtype]
    return b"".join(varint(field << 3 | width) + value.tobytes() for value in numpy.asarray(values, dtype).reshape(-1))


def shape(*dims: int, is_packed: bool = True) -> bytes:
    """BlobProto.shape."""
    return block(7, block(1, b"".join(map(varint, dims))) if is_packed else b"".join(number(1, d) for d in dims))


def legacy(**dims: int) -> bytes:
    """BlobProto's num, channels, height, width: those that are given."""
    return b"".join(number(("num", "channels", "height", "width").index(name) + 1, d) for name, d in dims.items())


def blob(array: Any, old: bool = False) -> bytes:
    """A BlobProto as Caffe writes it: with a shape, or with four old-style dimensions."""
    array = numpy.asarray(array, "<f4")
    dims = (1,) * (4 - array.ndim) + array.shape
    head = legacy(num=dims[0], channels=dims[1], height=dims[2], width=dims[3]) if old else b""
    return head + packed(5, array) + (b"" if old else shape(*array.shape))


def layer(name: str | bytes, blobs: Iterable[bytes] = (), type_: str = "InnerProduct", version: str = "V2", more: bytes = b"") -> bytes:
    """A field of the net; `more` are further bytes inside of the layer."""
    raw = name if isinstance(name, bytes) else name.encode()
    if version == "V2":
        return block(100, block(1, raw) + block(2, type_.encode()) + b"".join(block(7, b) for b in blobs) + more)
    if version == "V1":
        return block(2, block(4, raw) + number(5, _V1_NUMBERS[type_]) + b"".join(block(6, b) for b in blobs) + more)
    return block(2, block(1, block(1, raw) + block(2, _V0_NAMES[type_].encode()) + b"".join(block(50, b) for b in blobs)) + more)


def protobuf_layers(data: bytes) -> Iterator[tuple[str, list[Any]]]:
    """(name, BlobProtos) of every layer, as protobuf parses them."""
    net = message_class("NetParameter").FromString(data)
    for new in net.layer:
        yield _text(new.name), list(new.blobs)
    for old in net.layers:
        held = old.layer if old.HasField("layer") else old
        yield _text(held.name), list(held.blobs)


def _text(name: str | bytes) -> str:
    """Protobuf leaves a string that is not UTF-8 as bytes."""
    return name if isinstance(name, str) else name.decode("latin-1")


def protobuf_array(message: Any) -> Any:
    """The float32 array that a parsed BlobProto stands for; None where its values and its shape do not agree."""
    if message.HasField("shape"):
        dims = tuple(message.shape.dim)
    elif any(message.HasField(name) for name in ("num", "channels", "height", "width")):
        dims = tuple(getattr(message, name) if message.HasField(name) else 1 for name in ("num", "channels", "height", "width"))
    else:
        dims = ()
    values = numpy.asarray(message.data, "<f4")
    if message.HasField("raw_data"):
        dtype = {0: "<f8", 1: "<f4", 2: "<f2"}.get(message.raw_data_type if message.HasField("raw_data_type") else 1)
        if dtype is None or len(message.raw_data) % int(dtype[2]):
            return None
        values = numpy.concatenate([values, numpy.frombuffer(message.raw_data, dtype).astype("<f4")])
    if len(message.double_data):
        with numpy.errstate(over="ignore"):
            values = numpy.asarray(message.double_data, "<f8").astype("<f4")
    if min(dims, default=0) < 0 or int(numpy.prod([int(d) for d in dims], dtype=object)) != values.size:
        return None
    return values.reshape(dims)


def protobuf_blobs(data: bytes) -> dict[str, list[Any]]:
    """What read_blobs() should give: of layers that share a name, the last that has blobs."""
    found: dict[str, list[Any]] = {}
    for name, blobs in protobuf_layers(data):
        if blobs or name not in found:
            found[name] = [protobuf_array(each) for each in blobs]
    return found


def same(ours: Blobs, theirs: Blobs) -> bool:
    """Equal names, shapes and values, NaNs included, bit for bit."""
    if ours.keys() != theirs.keys():
        return False
    for name, blobs in ours.items():
        if len(blobs) != len(theirs[name]):
            return False
        for one, other in zip(blobs, theirs[name], strict=True):
            array = numpy.asarray(one)
            if other is None or array.shape != other.shape or array.tobytes() != other.tobytes():
                return False
    return True


def flips(data: bytes, count: int | None = None, seed: int = 0) -> Iterator[bytes]:
    """Every file that differs from this one in one bit, or that many of them."""
    places = range(8 * len(data))
    for place in places if count is None else sorted(random.Random(seed).sample(places, min(count, len(places)))):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        yield bytes(changed)


def lengths_replaced(data: bytes) -> Iterator[bytes]:
    """Files with a huge number over every single byte: wherever a length or a dimension stands, it is now this."""
    huge = [varint(v) for v in (1 << 20, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, -1)]
    for place, value in itertools.product(range(len(data)), huge):
        yield data[:place] + value + data[place + 1 :]
