"""The way back: a converted net's weights as a .caffemodel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from converter.build.fillers import constant
from converter.errors import MismatchError, UnsupportedError, shown, some
from converter.write.encode import LARGEST_HALF, is_kernel, stored, write_caffemodel
from converter.write.readback import Ledger, read_back, reader_of

if TYPE_CHECKING:
    from converter.net import CaffeNet
    from converter.program import Step


def save_caffemodel(net: CaffeNet, path: str | os.PathLike[str], *, half: bool = False, check: bool = False) -> str:
    """Write the net's weights as a .caffemodel (V2, float32): what convert() reads, with the net's own prototxt, to the same numbers.

    Weights only: the layers are named, not connected. net.prototxt is the net that they belong to. `half` rounds the kernels of
    convolutions and dense layers to half precision, in NVIDIA Caffe's form (raw_data): convert() and OpenCV's importer read it, BVLC's
    Caffe does not. Biases and statistics stay float32. `check`: protobuf reads it back in a fresh process before it appears, and what
    that found is returned.

    Raises:
        MismatchError: layers that no longer have the weights of the prototxt's; all of them, in one message.
        UnsupportedError: weights that a caffemodel cannot hold, or `half` cannot.
        ConversionError: the file cannot be written; nothing is left then.
    """
    layers = list(net.program.layers)
    if not layers:
        raise UnsupportedError("this CaffeNet was not made by convert(), so what Caffe stores of its layers is not known.")
    wrong = [problem for layer in layers for problem in _problems(net, layer)]
    if wrong:
        raise MismatchError(
            f"{os.fspath(path)} is not written: the net's layers are no longer those of its prototxt: {some(wrong)}."
            " convert(..., num_output={layer: count}) changes a layer and the prototxt alike."
        )
    _check_shared(net)
    if half:
        _check_half(net)
    ledger, said = Ledger(), list[str]()

    def written() -> Iterator[tuple[str, str, list[Any]]]:
        for layer in _written(net):
            blobs = [blob.numpy() for blob in _blobs(net, layer)]
            for i, blob in enumerate(blobs if check else ()):
                short = half and is_kernel(blob.shape)
                ledger.values(f"{layer.name} {i}", "F16" if short else "F32", blob.shape, stored(blob, short).reshape(-1).view("u1").data)
            yield layer.name, layer.type, blobs

    if not check:
        write_caffemodel(Path(path), written(), name=net.name, half=half)
        return ""
    with reader_of(".caffemodel") as reader:
        write_caffemodel(
            Path(path), written(), name=net.name, half=half, check=lambda file: said.append(read_back(file, ledger, Path(path), reader))
        )
    return said[0]


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


def _problems(net: CaffeNet, layer: Step) -> list[str]:
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


def _state(net: CaffeNet, layer: Step) -> dict[str, Tensor]:
    module = net._modules.get(layer.key)
    return {} if module is None else module.state_dict()


def _blobs(net: CaffeNet, layer: Step) -> list[Tensor]:
    """A layer's blobs in Caffe's order and shapes; float32 values on the CPU are not copied."""
    state = {key: value.detach().cpu() for key, value in _state(net, layer).items()}
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    blobs = layer.save(state) if layer.save else [state[param.key] for param in layer.params]
    return [blob.reshape(shape) for blob, shape in zip(blobs, layer.shapes, strict=True)]


def _written(net: CaffeNet) -> Iterator[Step]:
    """The layers that go into the file: of those that share a name the first, as Caffe would load the last one's weights into it.

    Raises:
        UnsupportedError: a later one has weights other than those that Caffe's fillers give it.
    """
    seen: set[str] = set()
    loaded: set[str] = set()  # the shared blobs of those that are written
    later: list[Step] = []
    for layer in net.program.layers:
        if layer.name in seen and layer.params:
            later.append(layer)
        else:
            loaded.update(filter(None, layer.shared))
            yield layer
        seen.add(layer.name)
    for layer in later:
        if loaded.issuperset(layer.shared):
            continue  # all that it has comes from the layers that it shares with
        values = [constant(param.filler) for param in layer.params]
        fixed = [torch.full(shape, value) for shape, value in zip(layer.shapes, values, strict=True) if value is not None]
        if len(fixed) == len(values):
            made = layer.load(fixed) if layer.load else {param.key: blob for param, blob in zip(layer.params, fixed, strict=True)}
            if all(torch.equal(value.cpu().reshape(made[key].shape), made[key]) for key, value in _state(net, layer).items()):
                continue
        raise UnsupportedError(
            f"layer {layer.name!r} ({layer.type}) has weights of its own and an earlier layer has the same name: Caffe loads only that"
            " one. Rename one of the two in the prototxt."
        )


def _check_shared(net: CaffeNet) -> None:
    """Layers that share a blob in Caffe must have one value for it."""
    first: dict[str, tuple[Step, Tensor]] = {}
    for layer in filter(lambda layer: any(layer.shared), net.program.layers):
        for name, blob in zip(layer.shared, _blobs(net, layer), strict=True):
            owner, values = first.setdefault(name, (layer, blob)) if name else (layer, blob)
            if not torch.equal(values.isnan(), blob.isnan()) or not torch.equal(values.nan_to_num(), blob.nan_to_num()):
                raise UnsupportedError(
                    f"layers {owner.name!r} and {layer.name!r} share {shown(name)} in Caffe, but have different values for it here."
                )
