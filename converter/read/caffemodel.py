"""Walks a .caffemodel without decoding it: which layers it has, and where in the file the bytes of each blob lie.

Nothing is copied: the file is mapped, and a blob is its shape plus the spans of its values. Plain Python, neither torch
nor numpy nor protobuf, so that listing a file costs nothing but the walk. Field numbers: caffe.proto; wire format:
protobuf.dev/programming-guides/encoding. Every length is held against the end of what it lies in: Python's integers do
not wrap, files above 2 GiB (which protobuf itself cannot read) are like any other, and a file that was cut short is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from converter.errors import WeightsError, counted, shown
from converter.files import head
from converter.formats import HDF5
from converter.read.source import Source, open_source

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_ITEM = {"F32": 4, "F64": 8, "F16": 2}
_RAW_TYPES = {0: "F64", 1: "F32", 2: "F16"}  # NVIDIA Caffe's Type; 3 and 4 are integers
_MOST_FIELDS = 1 << 18  # of a file, a run of values counting as one: a ResNet of 1,000 layers has some 60,000


@dataclass(frozen=True)
class Span:
    """Values that lie in one piece, or one by one with a tag byte before each (stride 1 more than an item)."""

    offset: int
    count: int
    dtype: str
    tagged: bool = False

    @property
    def nbytes(self) -> int:
        return self.count * (_ITEM[self.dtype] + self.tagged)


@dataclass(frozen=True, eq=False)
class Blob:
    """One parameter blob: its shape as the file states it, and where its values are.

    numpy.asarray(blob) gives the values as float32 in that shape. `legacy` marks a shape of num, channels, height, width (C3D:
    num, channels, length, height, width), which Caffe compares with leading axes of 1 left out.
    """

    shape: tuple[int, ...]
    spans: tuple[Span, ...]
    source: Source
    where: str
    legacy: bool = False
    stored: Any = None  # where the values are no spans of the file: a function that gives them

    @property
    def dtype(self) -> str:
        """F32, F64 or F16, as stored."""
        return self.spans[0].dtype if self.spans else "F32"

    @property
    def count(self) -> int:
        return prod(self.shape) if self.stored else sum(span.count for span in self.spans)

    def plain(self) -> Span | None:
        """The one span of float32 values that can be copied as it is, or None."""
        one = len(self.spans) == 1 and self.spans[0].dtype == "F32" and not self.spans[0].tagged
        return self.spans[0] if one else None

    def check(self) -> None:
        """Raise WeightsError unless the values are as many as the shape says."""
        if min(self.shape, default=0) < 0 or prod(self.shape) != self.count:
            raise WeightsError(
                f"{self.where}: its shape {shown(self.shape)} does not fit its {counted(self.count, 'value')}; the file is damaged."
            )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy

        self.check()
        if self.stored:
            with numpy.errstate(over="ignore", invalid="ignore"):
                return numpy.asarray(self.stored(), dtype or "<f4").reshape(self.shape)
        out = numpy.empty(self.count, "<f4")
        done = 0
        for span in self.spans:
            part = out[done : done + span.count]
            done += span.count
            if span.dtype == "F32" and not span.tagged:
                self.source.read_into(part.data.cast("B"), span.offset)
                continue
            item = numpy.dtype({"F32": "<f4", "F64": "<f8", "F16": "<f2"}[span.dtype])
            step = item.itemsize + span.tagged
            for start in range(0, span.count, 1 << 20):
                raw = numpy.empty((min(span.count - start, 1 << 20), step), "u1")
                self.source.read_into(raw.data.cast("B"), span.offset + start * step)
                values = numpy.ascontiguousarray(raw[:, span.tagged :]).view(item)
                with numpy.errstate(over="ignore", invalid="ignore"):  # a double beyond float32 is inf, as in C++
                    part[start : start + len(raw)] = values[:, 0]
        shaped = out.reshape(self.shape)
        return shaped if dtype is None else shaped.astype(dtype, copy=False)


@dataclass
class WeightLayer:
    """A layer of a weight file."""

    name: str
    type: str
    blobs: list[Blob]
    places: tuple[int, ...] | None = None  # which of the layer's blobs these are, where it shares others and so does not hold them


@dataclass
class Weights:
    """What a weight file holds, in file order."""

    path: Path
    format: str  # "V2", "V1", "V0", "V1 and V2", "HDF5"
    name: str
    layers: list[WeightLayer]
    source: Source
    net: bytes | None = None  # the embedded NetParameter without blobs


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 files do."""
    return head(path, len(HDF5)) == HDF5


class _Walk:
    """The reading position, and what it is inside of, for messages."""

    def __init__(self, source: Source):
        self.bytes, self.path, self.source = source.bytes, source.path, source
        self.last = ""  # the last whole layer
        self.left = _MOST_FIELDS

    def damaged(self, at: int, problem: str, where: str) -> WeightsError:
        inside = f" in {where}" if where else f" behind layer {shown(self.last)}" if self.last else ""
        ending = "The file is damaged or cut short; fetch it again."
        if not self.last and not where.startswith("layer '"):  # nothing has shown yet that it is a caffemodel
            ending = "It is no caffemodel, or one that is damaged or cut short: see what it is before you fetch it again."
        return WeightsError(f"{self.path}: at byte {at:,}{inside} {problem}. {ending}")

    def varint(self, at: int, end: int, where: str) -> tuple[int, int]:
        value = shift = 0
        start = at
        while at < end and shift < 70:
            byte = self.bytes[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value & 0xFFFFFFFFFFFFFFFF, at
            shift += 7
        raise self.damaged(start, "a number does not end" if shift >= 70 else "the data end inside a number", where)

    def fields(self, at: int, end: int, where: str) -> Iterator[tuple[int, int, int, int, int]]:
        """(field, wire type, start of the field, start of its payload, end of its payload); a varint's payload is its bytes."""
        while at < end:
            start = at
            tag, at = self.varint(at, end, where)
            number, kind = tag >> 3, tag & 7
            if number == 0 or number > 0x1FFFFFFF:
                raise self.damaged(start, f"there is no field {number}", where)
            self.left -= 1
            if self.left < 0:
                raise self.damaged(start, f"there are more than {_MOST_FIELDS:,} fields, many more than any net has", where)
            if kind == LENGTH:
                length, at = self.varint(at, end, where)
            elif kind == VARINT:
                length = self.varint(at, end, where)[1] - at
            elif kind in (FIXED32, FIXED64):
                length = 4 if kind == FIXED32 else 8
            else:
                raise self.damaged(start, f"field {number} has the wire type {kind}, which Caffe never writes", where)
            if length > end - at:
                raise self.damaged(start, f"field {number} of {length:,} bytes goes {at + length - end:,} bytes beyond its end", where)
            yield number, kind, start, at, at + length
            at += length

    def text(self, start: int, end: int) -> str:
        raw = self.bytes[start:end]
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw.decode("latin-1")  # as a prototxt in an old code page is read, so that the names still meet

    def signed(self, start: int, end: int, where: str) -> int:
        value = self.varint(start, end, where)[0]
        return value - (1 << 64) if value >= 1 << 63 else value

    def numbers(self, kind: int, start: int, end: int, where: str) -> list[int]:
        """One int64, or a packed list; 32 axes at most, as Caffe allows."""
        out: list[int] = []
        while start < end and len(out) <= 32:
            value, start = self.varint(start, end, where)
            out.append(value - (1 << 64) if value >= 1 << 63 else value)
            if kind == VARINT:
                break
        return out

    def blob(self, start: int, end: int, where: str) -> Blob:
        dims: list[int] = []
        legacy = [1, 1, 1, 1]
        has_shape = has_legacy = c3d = False
        spans: list[Span] = []
        raw_type, raw = 1, (0, 0)
        at = start
        while at < end:  # restarted behind every run of unpacked values
            for number, kind, first, low, high in self.fields(at, end, where):
                at = high
                if number in (1, 2, 3, 4) and kind == VARINT:
                    legacy[number - 1], has_legacy = self.signed(low, high, where), True
                elif number == 5 and kind == VARINT:  # C3D: length, height and width are fields 3 to 5, data 6 and diff 7
                    c3d = True
                    legacy.append(self.signed(low, high, where))
                elif number == 7 and kind == LENGTH and not c3d:
                    has_shape = True
                    for inner, how, _, a, b in self.fields(low, high, where):
                        if inner == 1 and how in (VARINT, LENGTH) and len(dims) <= 32:
                            dims += self.numbers(how, a, b, where)
                elif number in (5, 8) or (c3d and number == 6):
                    dtype, width = ("F64", FIXED64) if number == 8 else ("F32", FIXED32)
                    if kind == width and low - first == 1:  # unpacked: a tag byte before every value
                        count = self.run(first, end, (number << 3 | width), _ITEM[dtype] + 1)
                        spans.append(Span(first, count, dtype, tagged=True))
                        at = first + count * (_ITEM[dtype] + 1)
                        break
                    if kind not in (LENGTH, width) or (high - low) % _ITEM[dtype]:
                        raise self.damaged(first, f"{high - low:,} bytes of data are no whole number of values", where)
                    if high > low:
                        spans.append(Span(low, (high - low) // _ITEM[dtype], dtype))
                elif number == 10 and kind == VARINT:
                    raw_type = self.signed(low, high, where)
                elif number == 12 and kind == LENGTH:
                    raw = (low, high)
                elif number in (6, 7, 9) and kind in (FIXED32, FIXED64) and low - first == 1:  # unpacked diffs: skip them in one go
                    at = first + self.run(first, end, self.bytes[first], high - first) * (high - first)
                    break
        low, high = raw
        if high > low:
            if raw_type not in _RAW_TYPES or (high - low) % _ITEM[_RAW_TYPES[raw_type]]:
                raise self.damaged(low, f"{high - low:,} bytes of raw data of type {raw_type} are no floats", where)
            spans.append(Span(low, (high - low) // _ITEM[_RAW_TYPES[raw_type]], _RAW_TYPES[raw_type]))
        if len(dims) > 32:
            raise self.damaged(start, "the shape has more than the 32 axes that Caffe allows", where)
        spans = _without_doubles(spans)
        shape = tuple(dims) if has_shape or not has_legacy else tuple(legacy)
        return Blob(shape, tuple(spans), self.source, where, legacy=has_legacy and not has_shape)

    def run(self, start: int, end: int, tag: int, step: int) -> int:
        """How many values follow each other from start on, each with this tag byte before it."""
        count, most, n = 0, (end - start) // step, 4
        while count < most:
            n = min(4 * n, 1 << 20, most - count)  # runs may be short, and a million of them
            tags = self.bytes[start + count * step : start + (count + n) * step : step]
            same = n - len(tags.lstrip(bytes([tag])))
            count += same
            if same < n:
                break
        return count

    def layer(self, start: int, end: int, version: str, index: int, types: dict[int, str]) -> tuple[WeightLayer, list[bytes], str]:
        """A layer, its fields without the blobs, and its version."""
        name_field, type_field, blob_field = {"V2": (1, 2, 7), "V1": (4, 5, 6), "V0": (1, 2, 50)}[version]
        name = kind_name = ""
        rest: list[bytes] = []
        places: list[tuple[int, int]] = []
        where = f"layer {index}"
        for number, kind, first, low, high in self.fields(start, end, where):
            if version == "V1" and number == 1 and kind == LENGTH:
                inner, inner_rest, _ = self.layer(low, high, "V0", index, types)
                body = b"".join(inner_rest)
                outer = [*rest, b"\x0a" + encode_varint(len(body)) + body]
                outer += [self.bytes[f:h] for n, _, f, _, h in self.fields(high, end, where) if n != blob_field]
                return inner, outer, "V0"
            if number == blob_field and kind == LENGTH:
                places.append((low, high))
                continue
            if high - first <= 1 << 20:  # no parameter is as long; a fork's bulk data are not the net's structure
                rest.append(self.bytes[first:high])
            if number == name_field and kind == LENGTH:
                name = self.text(low, high)
                where = f"layer {shown(name)}"
            elif number == type_field and kind == LENGTH:
                kind_name = self.text(low, high)
            elif number == type_field and kind == VARINT and version == "V1":
                code = self.signed(low, high, where)
                kind_name = types.get(code, f"type {code}")
            elif number in (name_field, type_field):
                raise self.damaged(first, f"field {number} has the wire type {kind}", where)
        blobs = [self.blob(low, high, f"{where}, blob {i}") for i, (low, high) in enumerate(places)]
        return WeightLayer(name, kind_name, blobs), rest, version


def _without_doubles(spans: list[Span]) -> list[Span]:
    """double_data counts where it is there (Blob::FromProto looks for it first)."""
    doubles = [s for s in spans if s.dtype == "F64"]
    return doubles or spans


def encode_varint(value: int) -> bytes:
    """A non-negative number as protobuf's base-128 varint."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def walk(path: Path) -> Weights:
    """The layers and blobs of a binary caffemodel, in file order.

    Raises:
        WeightsError: what is damaged, at which byte, in which layer; or what the file is instead.
    """
    source = open_source(path)
    walker = _Walk(source)
    if blob_file(source):
        raise WeightsError(f"{path}: this is a single blob (a mean.binaryproto?), not a caffemodel; read_mean() reads it.")
    from converter.read.v1_types import V1_TYPE_NUMBERS  # the wire's numbers for V1 layer types

    layers: list[WeightLayer] = []
    versions: set[str] = set()
    name, net = "", []
    for number, kind, first, low, high in walker.fields(0, source.size, ""):
        if number in (2, 100) and kind == LENGTH:
            version = "V2" if number == 100 else "V1"
            layer, rest, found = walker.layer(low, high, version, len(layers), V1_TYPE_NUMBERS)
            layers.append(layer)
            walker.last = layer.name
            versions.add(found)
            body = b"".join(rest)
            net.append(encode_varint(number << 3 | LENGTH) + encode_varint(len(body)) + body)
            continue
        if number == 1 and kind == LENGTH and high - low <= 1 << 16:
            name = walker.text(low, high)
        elif high - low > 1 << 20:  # forks have options of their own (9 to 20 in NVIDIA's), but small ones
            raise walker.damaged(first, f"there is a field {number} of {high - low:,} bytes that no Caffe net has", "")
        net.append(source.bytes[first:high])
    if not layers:
        raise WeightsError(f"{path}: no layer is in this file; it is no caffemodel, or it was cut short.")
    return Weights(path, " and ".join(sorted(versions)), name, layers, source, b"".join(net))


def blob_file(source: Source) -> bool:
    """Whether the file is one BlobProto rather than a net, by its first field; a .solverstate is refused."""
    first = source.bytes[0]
    if first == 0x08:  # BlobProto.num; SolverState.iter
        walker = _Walk(source)
        kinds = {(number, kind) for number, kind, *_ in walker.fields(0, source.size, "")}
        if kinds & {(2, LENGTH), (3, LENGTH)}:
            raise WeightsError(f"{source.path}: this is a .solverstate of a training run; the weights are in the .caffemodel beside it.")
        return True
    return first in (0x3A, 0x2A) and not any(n in (2, 100) for n, *_ in _Walk(source).fields(0, source.size, ""))


def walk_blob(path: Path) -> Blob:
    """The one blob of a mean.binaryproto.

    Raises:
        WeightsError: the file is no BlobProto.
    """
    source = open_source(path)
    if not blob_file(source):
        raise WeightsError(f"{path}: this is no single blob, as a mean.binaryproto is one.")
    blob = _Walk(source).blob(0, source.size, str(path))
    blob.check()
    return blob
