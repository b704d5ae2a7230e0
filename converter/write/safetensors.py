"""Writes .safetensors by copying spans from file to file in the kernel: huggingface.co/docs/safetensors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from converter.build.assemble import assemble, load
from converter.build.graph import Graph
from converter.build.matching import Plan, changed, tensor_of
from converter.errors import ConversionError
from converter.files import whole_file
from converter.net import CaffeNet
from converter.read.source import Source
from converter.write.rounding import Rounding

_CHUNK = 16 << 20
Hashes = Callable[[], dict[str, str]]
Progress = Callable[[int], None]
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}


def write_safetensors(
    path: Path, graph: Graph, plan: Plan | None, hashes: Hashes, progress: Progress, rounding: Rounding | None = None
) -> None:
    """Length of the header (u64), header (JSON), then all values.

    Blobs that are the state dict's values as they are go from file to file without passing through memory; with `rounding`
    every value passes through it.

    Raises:
        UnsupportedError: values that cannot be rounded; nothing is written then.
    """
    meta = assemble(graph)
    entries: dict[str, dict[str, Any]] = {}
    at = 0
    for key, value in meta.state_dict().items():
        kind = rounding.dtype if rounding and value.is_floating_point() else value.dtype
        size, dtype = prod(value.shape) * kind.itemsize, _DTYPES[kind]
        entries[key] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [at, at + size]}
        at += size
    # int64 first would be aligned; safetensors asks for no order, only that there are no holes
    facts = meta.facts(hashes(), graph.ignored) | ({"prototxt": meta.prototxt} if graph.changes else {})
    header = json.dumps({"__metadata__": facts, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with whole_file(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for key, value in _values(meta, graph, plan, spans=rounding is None):
            if isinstance(value, Tensor):
                value = value if rounding is None else rounding(key, value)
                file.write(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
                progress(value.nbytes)
            else:
                source, offset, count = value
                file.flush()
                _copy(source, offset, count, file, progress)
            entries.pop(key)
        if rounding is not None:
            rounding.check(str(path))
    assert not entries, f"no values for {list(entries)}"


def _values(meta: CaffeNet, graph: Graph, plan: Plan | None, spans: bool = True) -> Iterator[tuple[str, Tensor | tuple[Source, int, int]]]:
    """Each state-dict entry in order: a span of the weight file (with `spans`), or a tensor made when it is its turn."""
    if plan is None or plan.filled:  # fillers draw; a layer without weights is rare, and the net then fits in memory
        load(meta, graph, plan)
        yield from meta.state_dict().items()
        return
    made: dict[str, Tensor] = {}
    loads = {step.key: (step, blobs) for step, blobs in plan.made}
    for key in meta.state_dict():
        if key in plan.values:
            yield key, plan.values[key]
            continue
        if key in plan.whole:
            blob, shape = plan.whole[key]
            span = blob.plain() if spans else None
            yield key, (blob.source, span.offset, span.nbytes) if span else tensor_of(blob, shape)
            continue
        layer = key.rpartition(".")[0]
        if key not in made and layer in loads:
            made = changed(*loads[layer])
        yield key, made.pop(key)


def _copy(source: Source, offset: int, count: int, file: IO[bytes], progress: Progress) -> None:
    """Bytes from file to file, by the kernel where it can."""
    out = file.fileno()
    while count:
        piece = min(count, _CHUNK)
        try:
            done = os.copy_file_range(source.descriptor, out, piece, offset)
        except OSError:  # across file systems, or on one that cannot
            done = os.sendfile(out, source.descriptor, offset, piece)
        if not done:
            raise ConversionError(f"{source.path}: the file became shorter while it was read.")
        offset, count = offset + done, count - done
        progress(done)
    file.seek(0, os.SEEK_END)
