"""Writes a converted net: safetensors by copying spans from file to file in the kernel, .pth by torch, .py by source.py; and
.caffemodel, the way back.

Every output is written beside its place and moved there when it is whole; nothing is left where that fails.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from converter import __version__
from converter.build.graph import Graph
from converter.build.matching import Plan, changed, tensor_of
from converter.conversion import assemble, load
from converter.errors import ConversionError, MismatchError, UnsupportedError, shown, some
from converter.files import SUFFIXES, whole_file
from converter.net import CaffeNet, StoredLayer
from converter.read.caffemodel import Source
from converter.write.encode import LARGEST_HALF, is_kernel, write_caffemodel

_CHUNK = 16 << 20
Progress = Callable[[int], None]


def metadata(net: CaffeNet, graph: Graph, hashes: dict[str, str]) -> dict[str, str]:
    """What a safetensors file says of its origin: strings only, as the format wants it."""
    facts: dict[str, Any] = {
        "converter": f"caffezoo {__version__}",
        "net": graph.name,
        "inputs": json.dumps({name: list(shape) for name, shape in graph.inputs.items()}),
        "outputs": json.dumps(graph.outputs),
        "layer_names": json.dumps({step.key: step.spec.name for step in graph.steps if step.blobs}),
        "preprocess": json.dumps(None if net.preprocess is None else asdict(net.preprocess)),
    }
    names = {name: name.encode("utf-8", "backslashreplace").decode() for name in hashes}  # JSON has no other bytes
    return {**facts, **{f"sha256.{names[name]}": digest for name, digest in hashes.items()}}


def write(
    path: Path,
    graph: Graph,
    plan: Plan | None,
    hashes: Callable[[], dict[str, str]],
    progress: Progress | None = None,
    *,
    half: bool = False,
) -> None:
    """Write the net in the format of the path's suffix; `half` is save_caffemodel()'s.

    Raises:
        ConversionError: no such format, or the file cannot be written.
    """
    report = progress or (lambda _: None)
    if path.suffix == ".safetensors":
        write_safetensors(path, graph, plan, hashes, report)
    elif path.suffix in (".pth", ".pt"):
        net = assemble(graph)
        load(net, graph, plan)
        with whole_file(path) as file:
            try:
                torch.save({key: value.detach() for key, value in net.state_dict().items()}, file)
            except RuntimeError as problem:  # torch's zip writer stumbles once more over what it could not write
                raise problem.__context__ if isinstance(problem.__context__, OSError) else problem from None
        report(sum(value.nbytes for value in net.state_dict().values()))
    elif path.suffix == ".py":
        assemble(graph).to_source(path)
    elif path.suffix == ".caffemodel":
        net = assemble(graph)
        load(net, graph, plan)
        save_caffemodel(net, path, half=half)
        report(sum(value.nbytes for value in net.state_dict().values()))
    else:
        raise ConversionError(f"{path}: the output's name ends in {path.suffix!r}; it must be one of {', '.join(SUFFIXES)}.")


def write_safetensors(path: Path, graph: Graph, plan: Plan | None, hashes: Callable[[], dict[str, str]], progress: Progress) -> None:
    """header length (u64), header (JSON), then all values: huggingface.co/docs/safetensors.

    Blobs that are the state dict's values as they are go from file to file without passing through memory.
    """
    meta = assemble(graph)
    entries: dict[str, dict[str, Any]] = {}
    at = 0
    for key, value in meta.state_dict().items():
        size = prod(value.shape) * value.element_size()
        dtype = {torch.float32: "F32", torch.int64: "I64"}[value.dtype]
        entries[key] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [at, at + size]}
        at += size
    # int64 first would be aligned; safetensors asks for no order, only that there are no holes
    header = json.dumps({"__metadata__": metadata(meta, graph, hashes()), **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with whole_file(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for key, value in _values(meta, graph, plan):
            if isinstance(value, Tensor):
                file.write(value.contiguous().numpy().tobytes())
                progress(value.nbytes)
            else:
                source, offset, count = value
                file.flush()
                _copy(source, offset, count, file, progress)
            entries.pop(key)
    assert not entries, f"no values for {list(entries)}"


def _values(meta: CaffeNet, graph: Graph, plan: Plan | None) -> Iterator[tuple[str, Tensor | tuple[Source, int, int]]]:
    """Each state-dict entry in order: a span of the weight file, or a tensor made when it is its turn."""
    if plan is None or plan.filled:  # fillers draw; a layer without weights is rare, and the net then fits in memory
        load(meta, graph, plan)
        yield from meta.state_dict().items()
        return
    made: dict[str, Tensor] = {}
    loads = {step.key: (step, blobs) for step, blobs in plan.made}
    for key in meta.state_dict():
        if key in plan.whole:
            blob, shape = plan.whole[key]
            span = blob.plain()
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


def save_caffemodel(net: CaffeNet, path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Write the net's weights as a .caffemodel (V2, float32): what convert() reads, with the net's own prototxt, to the same numbers.

    Weights only: the layers are named, not connected. net.prototxt is the net that they belong to. `half` rounds the kernels of
    convolutions and dense layers to half precision, in NVIDIA Caffe's form (raw_data): convert() and OpenCV's importer read it, BVLC's
    Caffe does not. Biases and statistics stay float32.

    Raises:
        MismatchError: layers that no longer have the weights of the prototxt's; all of them, in one message.
        UnsupportedError: weights that a caffemodel cannot hold, or `half` cannot.
        ConversionError: the file cannot be written; nothing is left then.
    """
    if not net._stored:
        raise UnsupportedError("this CaffeNet was not made by convert(), so what Caffe stores of its layers is not known.")
    wrong = [problem for layer in net._stored for problem in _problems(net, layer)]
    if wrong:
        raise MismatchError(
            f"{os.fspath(path)} is not written: the net's layers are no longer those of its prototxt: {some(wrong)}."
            " convert(..., num_output={layer: count}) changes a layer and the prototxt alike."
        )
    _check_shared(net)
    if half:
        _check_half(net)
    layers = ((layer.name, layer.type, [blob.numpy() for blob in _blobs(net, layer)]) for layer in _written(net))
    write_caffemodel(Path(path), layers, name=net.name, half=half)


def _check_half(net: CaffeNet) -> None:
    """Refuse kernels whose values half precision does not reach; all of them, in one message."""
    beyond = []
    for layer in _written(net):
        for number, blob in enumerate(_blobs(net, layer)):
            largest = blob[blob.isfinite()].abs().max() if is_kernel(blob.shape) and blob.isfinite().any() else 0.0
            if largest > LARGEST_HALF:
                beyond.append(f"layer {layer.name!r}, blob {number}: {float(largest):,.0f}")
    if beyond:
        raise UnsupportedError(f"half precision ends at {LARGEST_HALF:,.0f}; write float32, without half: {some(beyond)}.")


def _problems(net: CaffeNet, layer: StoredLayer) -> list[str]:
    """How a layer's weights differ from what its prototxt makes them."""
    state = _state(net, layer)
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    found = [f"{layer.key}.{key} {shape} is missing" for key, shape in layer.state.items() if key not in shapes]
    found += [f"{layer.key}.{key} {shape} is not of the layer" for key, shape in shapes.items() if key not in layer.state]
    for key, shape in layer.state.items():
        if shapes.get(key, shape) != shape:
            found.append(f"{layer.key}.{key} is {shapes[key]}, the prototxt's {shape}")
    for key, value in state.items():
        if value.is_meta:
            found.append(f"{layer.key}.{key} has no values (it is on the meta device)")
        elif value.dtype == torch.float64:
            found.append(f"{layer.key}.{key} is float64, which Caffe stores as float32 (call net.float() first)")
    if layer.load is not None and layer.save is None:
        found.append(f"the weights of a {layer.type} ({layer.name!r}) cannot be brought back into Caffe's form")
    return found


def _state(net: CaffeNet, layer: StoredLayer) -> dict[str, Tensor]:
    module = net._modules.get(layer.key)
    return {} if module is None else module.state_dict()


def _blobs(net: CaffeNet, layer: StoredLayer) -> list[Tensor]:
    """A layer's blobs in Caffe's order and shapes; float32 values on the CPU are not copied."""
    state = {key: value.detach().cpu() for key, value in _state(net, layer).items()}
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    blobs = layer.save(state) if layer.save else [state[key] for key in layer.keys]
    return [blob.reshape(shape) for blob, shape in zip(blobs, layer.shapes, strict=True)]


def _written(net: CaffeNet) -> Iterator[StoredLayer]:
    """The layers that go into the file: of those that share a name the first, as Caffe would load the last one's weights into it.

    Raises:
        UnsupportedError: a later one has weights other than those that Caffe's fillers give it.
    """
    loaded = {name for layer in net._stored if not layer.again for name in layer.shared if name}
    for layer in net._stored:
        if not layer.again or not layer.keys:
            yield layer
            continue
        if loaded.issuperset(layer.shared):
            continue  # all that it has comes from the layers that it shares with
        fixed = [torch.full(shape, value) for shape, value in zip(layer.shapes, layer.constants, strict=True) if value is not None]
        if len(fixed) == len(layer.keys):
            made = layer.load(fixed) if layer.load else dict(zip(layer.keys, fixed, strict=True))
            if all(torch.equal(value.cpu().reshape(made[key].shape), made[key]) for key, value in _state(net, layer).items()):
                continue
        raise UnsupportedError(
            f"layer {layer.name!r} ({layer.type}) has weights of its own and an earlier layer has the same name: Caffe loads only that"
            " one. Rename one of the two in the prototxt."
        )


def _check_shared(net: CaffeNet) -> None:
    """Layers that share a blob in Caffe must have one value for it."""
    first: dict[str, tuple[StoredLayer, Tensor]] = {}
    for layer in filter(lambda layer: any(layer.shared), net._stored):
        for name, blob in zip(layer.shared, _blobs(net, layer), strict=True):
            owner, values = first.setdefault(name, (layer, blob)) if name else (layer, blob)
            if not torch.equal(values.isnan(), blob.isnan()) or not torch.equal(values.nan_to_num(), blob.nan_to_num()):
                raise UnsupportedError(
                    f"layers {owner.name!r} and {layer.name!r} share {shown(name)} in Caffe, but have different values for it here."
                )
