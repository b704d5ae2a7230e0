"""Writes .safetensors by copying spans from file to file in the kernel: huggingface.co/docs/safetensors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from math import prod
from typing import IO, Any

import torch
from torch import Tensor

from converter.errors import ConversionError
from converter.read.source import Source
from converter.write.readback import Ledger
from converter.write.rounding import Rounding
from converter.write.values import TYPES, Held, Planned

_CHUNK = 16 << 20
Progress = Callable[[int], None]


def write_safetensors(
    file: IO[bytes],
    values: Held | Planned,
    facts: Mapping[str, str],
    progress: Progress | None = None,
    rounding: Rounding | None = None,
    ledger: Ledger | None = None,
) -> dict[str, tuple[int, int]]:
    """Length of the header (u64), header (JSON), then all values; returns each one's offset in the file and its length.

    Blobs that are the state dict's values as they are go from file to file without passing through memory; with `rounding`
    every value passes through it, and rounding.check() then tells whether the file is good. `ledger` keeps what was written.
    """
    entries: dict[str, dict[str, Any]] = {}
    at = 0
    for key, value in values.net.state_dict().items():
        kind = rounding.dtype if rounding and value.is_floating_point() else value.dtype
        size = prod(value.shape) * kind.itemsize
        entries[key] = {"dtype": TYPES[kind], "shape": list(value.shape), "data_offsets": [at, at + size]}
        at += size
    # int64 first would be aligned; safetensors asks for no order, only that there are no holes
    if ledger is not None:
        ledger.facts = dict(facts)
    header = json.dumps({"__metadata__": dict(facts), **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little") + header)
    places = {key: (8 + len(header) + first, last - first) for key, (first, last) in ((k, e["data_offsets"]) for k, e in entries.items())}
    for key, value in values.entries(spans=rounding is None):
        if isinstance(value, Tensor):
            value = value.detach() if rounding is None else rounding(key, value.detach())
            data = value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            file.write(data)
            if ledger is not None:
                ledger.values(key, TYPES[value.dtype], entries[key]["shape"], data)
            if progress:
                progress(value.nbytes)
        else:
            source, offset, count = value
            file.flush()
            _copy(source, offset, count, file, progress)
            if ledger is not None:
                ledger.span(key, "F32", entries[key]["shape"], source, offset, count)
        entries.pop(key)
    assert not entries, f"no values for {list(entries)}"
    return places


def _copy(source: Source, offset: int, count: int, file: IO[bytes], progress: Progress | None) -> None:
    """Bytes from file to file, by the kernel where it can."""
    out = file.fileno()
    while count:
        piece = min(count, _CHUNK)
        done = _move(source, out, offset, piece)
        if not done:
            raise ConversionError(f"{source.path}: the file became shorter while it was read.")
        offset, count = offset + done, count - done
        if progress:
            progress(done)
    file.seek(0, os.SEEK_END)


def _move(source: Source, out: int, offset: int, count: int) -> int:
    """Moves up to `count` bytes from `offset` on, and says how many."""
    if not hasattr(os, "copy_file_range"):  # Linux has it; elsewhere sendfile writes to sockets only
        piece = bytearray(count)
        source.read_into(memoryview(piece), offset)
        return os.write(out, piece)
    try:
        return os.copy_file_range(source.descriptor, out, count, offset)
    except OSError:  # across file systems, or on one that cannot
        return os.sendfile(out, source.descriptor, offset, count)
