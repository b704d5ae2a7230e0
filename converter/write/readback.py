"""Reads written weights back in a fresh process, by the library that their users have, and compares every value with what was written."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converter.read.source import Source
from converter.write.fresh import Reader

# Each reader tells of every entry its type, shape, and how to get its bytes from `first` to `last`; values that went from file to file are
# compared with those of the source, others by their CRC-32. Nothing is mapped or held whole: the conversion's memory is small, too.
_COMPARE = """
PIECE, room = 1 << 20, {}
def read(descriptor, offset, count):
    if not hasattr(os, "preadv"):
        return os.pread(descriptor, count, offset)
    if (descriptor, count) not in room:  # pages that are there already: new ones cost more than reading
        room[descriptor, count] = bytearray(count)
    held = room[descriptor, count]
    return held if os.preadv(descriptor, [held], offset) == count else b""
def check(key, dtype, shape, part, size):
    want = wanted.pop(key, None)
    if want is None:
        sys.exit("it holds " + repr(key) + ", which was not written")
    if [dtype, list(shape)] != want[:2]:
        sys.exit(repr(key) + " is " + dtype + " " + str(list(shape)) + ", not " + want[0] + " " + str(want[1]))
    total, source = 0, want[2]
    if not isinstance(source, int) and size != source[2]:
        sys.exit(repr(key) + " has " + str(size) + " bytes, not " + str(source[2]))
    for first in range(0, size, PIECE):
        piece = part(first, min(first + PIECE, size))
        if isinstance(source, int):
            total = zlib.crc32(piece, total)
        elif read(source[0], source[1] + first, len(piece)) != piece:
            sys.exit(repr(key) + " has other values")
    if isinstance(source, int) and total != source:
        sys.exit(repr(key) + " has other values")
wanted, facts = given
"""
_LACKING = """
if wanted:
    sys.exit("it lacks " + ", ".join(map(repr, wanted)))
"""
_SAFETENSORS = """
with safetensors.safe_open(path, "np") as held:
    if (held.metadata() or {}) != facts:
        sys.exit("its metadata are others")
    slices = {key: held.get_slice(key) for key in held.keys()}
    known = {key: (each.get_dtype(), each.get_shape()) for key, each in slices.items()}
descriptor = os.open(path, os.O_RDONLY)
length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
offsets = json.loads(os.pread(descriptor, length, 8))
for key, (dtype, shape) in known.items():
    start, end = offsets[key]["data_offsets"]
    check(key, dtype, shape, lambda a, b: read(descriptor, 8 + length + start + a, b - a), end - start)
print("safetensors " + safetensors.__version__)
"""
_TORCH = """
def let_go(flat, a, b):
    # what was compared is still in the file: its pages count as this process's memory
    first, last = -(-(flat.ctypes.data + a) // mmap.PAGESIZE), (flat.ctypes.data + b) // mmap.PAGESIZE
    if sys.platform == "linux" and last > first:
        start, count = ctypes.c_void_p(first * mmap.PAGESIZE), ctypes.c_size_t((last - first) * mmap.PAGESIZE)
        ctypes.CDLL(None).madvise(start, count, mmap.MADV_DONTNEED)
def part(flat, a, b):
    let_go(flat, max(a - PIECE, 0), a)
    return flat[a:b].data
names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64"}
for key, value in torch.load(path, weights_only=True, mmap=True).items():
    flat = value.reshape(-1).view(torch.uint8).numpy()
    check(key, names[value.dtype], value.shape, lambda a, b: part(flat, a, b), flat.size)
    let_go(flat, 0, flat.size)
print("torch " + torch.__version__)
"""
# protobuf's own parser, of a schema in which packed floats are the bytes that they are on the wire: caffe.proto's numbers of V2 layers
_PROTOBUF = """
file = descriptor_pb2.FileDescriptorProto(name="weights.proto", package="w", syntax="proto2")
def message(name, *fields):
    made = file.message_type.add(name=name)
    for number, field, label, kind in fields:
        each = made.field.add(number=number, name=field, label=label)
        if isinstance(kind, str):
            each.type, each.type_name = 11, ".w." + kind
        else:
            each.type = kind
        if field == "dim":
            each.options.packed = True
message("Shape", (1, "dim", 3, 3))
message("Blob", (5, "data", 1, 12), (7, "shape", 1, "Shape"), (12, "raw_data", 1, 12))
message("Layer", (1, "name", 1, 9), (7, "blobs", 3, "Blob"))
message("Net", (100, "layer", 3, "Layer"))
pool = descriptor_pool.DescriptorPool()
pool.Add(file)
with open(path, "rb") as held:
    net = message_factory.GetMessageClass(pool.FindMessageTypeByName("w.Net")).FromString(held.read())
for layer in net.layer:
    for i, blob in enumerate(layer.blobs):
        half = blob.HasField("raw_data")
        values = memoryview(blob.raw_data if half else blob.data)
        check(layer.name + " " + str(i), "F16" if half else "F32", blob.shape.dim, lambda a, b: values[a:b], len(values))
print("protobuf " + google.protobuf.__version__)
"""
_BY_TORCH = ("ctypes, mmap, torch", _TORCH)
_READERS = {  # what each imports, and what it does then
    ".safetensors": ("numpy, safetensors", _SAFETENSORS),
    ".pth": _BY_TORCH,
    ".pt": _BY_TORCH,
    ".caffemodel": ("google.protobuf; from google.protobuf import descriptor_pb2, descriptor_pool, message_factory", _PROTOBUF),
}
STATE_DICTS = (".safetensors", ".pth", ".pt")
LARGEST_MESSAGE = (1 << 31) - 1  # protobuf reads no larger one, and so does Caffe


@dataclass
class Ledger:
    """What was written: each entry's type, shape, and its values, as a CRC-32 or as a span of an open file."""

    entries: dict[str, tuple[str, list[int], int | tuple[int, int, int]]] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)

    def values(self, key: str, dtype: str, shape: Any, data: Any) -> None:
        self.entries[key] = (dtype, list(shape), zlib.crc32(data))

    def span(self, key: str, dtype: str, shape: Any, source: Source, offset: int, count: int) -> None:
        self.entries[key] = (dtype, list(shape), (source.descriptor, offset, count))


def reader_of(suffix: str, sources: Iterable[Source] = ()) -> Reader:
    """A fresh process that reads files of weights of this suffix and compares them with a ledger of spans of these sources."""
    imports, code = _READERS[suffix]
    return Reader(f"import os, zlib, {imports}", _COMPARE + code + _LACKING, {source.descriptor for source in sources})


def read_back(path: Path, ledger: Ledger, shown_path: Path, reader: Reader) -> str:
    """Compare the complete file with what was written; returns what to say of it.

    Raises:
        ConversionError: the file cannot be read, or holds something else.
    """
    if shown_path.suffix == ".caffemodel" and path.stat().st_size > LARGEST_MESSAGE:
        return "not read back: protobuf, with which Caffe reads it, takes no file above 2 GiB"
    return f"read back by {reader.read_back(path, shown_path, ledger.entries, ledger.facts)}: every value the same"
