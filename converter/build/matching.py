"""Which blob of a weight file feeds which entry of a net's state dict: Caffe's CopyTrainedLayersFrom, with every mismatch told at once."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from converter.build.fillers import constant
from converter.errors import MismatchError, UnsupportedError, counted, some
from converter.read.caffemodel import Blob, Weights

if TYPE_CHECKING:
    from torch import Tensor

    from converter.build.graph import Graph
    from converter.layers import Param
    from converter.program import Step


@dataclass
class Plan:
    """Where every state-dict entry of a net comes from."""

    whole: dict[str, tuple[Blob, tuple[int, ...]]] = field(default_factory=dict)  # the blob's values as they are, in this shape
    made: list[tuple[Step, list[Blob]]] = field(default_factory=list)  # layers whose values change on the way
    values: dict[str, Tensor] = field(default_factory=dict)  # entries that are in no file: what folding made of several layers
    filled: list[Step] = field(default_factory=list)  # second layers of a name, which Caffe leaves at their fillers; layers drawn anew
    notes: list[str] = field(default_factory=list)


def changed(step: Step, blobs: list[Blob]) -> dict[str, Tensor]:
    """The state-dict entries of a layer whose values change on the way."""
    assert step.load is not None
    made = step.load([tensor_of(blob, shape) for blob, shape in zip(blobs, step.shapes, strict=True)])
    return {f"{step.key}.{key}": value for key, value in made.items()}


def tensor_of(blob: Blob, shape: tuple[int, ...]) -> Tensor:
    """A blob's values as float32, in the net's shape: old files pad it with leading axes of 1."""
    import numpy
    import torch

    return torch.from_numpy(numpy.asarray(blob)).reshape(shape)


def match(graph: Graph, weights: Weights, fresh: Container[str] = (), given: Mapping[str, Sequence[int]] | None = None) -> Plan:
    """Find each of the net's blobs in the weight file.

    As in Caffe, a layer of the file goes to the net's first layer of that name, later ones overwrite earlier ones, and
    layers the net does not have are passed over. Unlike Caffe, blobs that the file lacks are an error. Layers named in
    `fresh` take nothing from the file. `given` has the input shapes that the user named, which may be what is wrong.

    Raises:
        MismatchError: every missing, unexpected and differing blob, in one message.
        UnsupportedError: layers that share a name and draw random numbers.
    """
    plan = Plan()
    first: dict[str, Step] = {}
    for step in graph.steps:
        first.setdefault(step.name, step)
    in_net = {*(spec.name for spec in graph.sources), *first}
    found: dict[tuple[str, int], Blob] = {}
    last: dict[str, Blob] = {}  # of blobs that share memory, the last one written counts
    wrong: list[str] = []
    unused: list[str] = []
    doubled: list[str] = []
    differing: set[str] = set()  # layers already reported: what they lack is not told twice
    seen: set[str] = set()
    for layer in weights.layers:
        if not layer.blobs or layer.name in fresh:
            continue  # where the net's layer of this name has some, they are found missing below
        if layer.name not in in_net:
            unused.append(layer.name)
            continue
        if layer.name not in first or not first[layer.name].params:
            wrong.append(f"layer {layer.name!r}: the file has {counted(len(layer.blobs), 'blob')}, the net's layer of this name none")
            continue
        step = first[layer.name]
        if layer.name in seen:
            doubled.append(layer.name)
        seen.add(layer.name)
        places: Sequence[int] = range(len(layer.blobs)) if layer.places is None else layer.places
        hint = ""
        if step.arrange is not None and layer.places is None:
            try:
                places = step.arrange([blob.shape for blob in layer.blobs])
            except ValueError as problem:
                hint = f"; {problem}"
        partial = layer.places is not None and any(step.shared)  # HDF5 snapshots keep a shared blob once
        if max(places) >= len(step.params) or not (partial or len(places) == len(step.params)):
            have = ", ".join("×".join(map(str, b.shape)) or "scalar" for b in layer.blobs)
            want = ", ".join("×".join(map(str, shape)) or "scalar" for shape in step.shapes)
            differing.add(layer.name)
            counts = f"the file has {counted(len(layer.blobs), 'blob')} ({have}), the net {len(step.params)} ({want}){hint}"
            wrong.append(f"layer {layer.name!r} ({step.type}): {counts}")
            continue
        for i, blob in zip(places, layer.blobs, strict=True):
            shape = step.shapes[i]
            if not _same_shape(blob, shape, step.params[i]):
                differing.add(layer.name)
                wrong.append(f"layer {layer.name!r}, blob {i} ({step.params[i].key}): the file has {blob.shape}, the net {shape}")
                continue
            blob.check()
            found[step.key, i] = blob
            if step.shared[i]:
                last[step.shared[i]] = blob
    missing = []
    for step in graph.steps:
        if step.name in fresh:
            plan.filled += [step] if step.params else []
            continue
        blobs: list[Blob] = []
        for i, name in enumerate(step.shared):
            blob_or_none = last.get(name) if name else found.get((step.key, i))
            if blob_or_none is not None:
                blobs.append(blob_or_none)
            elif first[step.name] is step and step.name not in differing:
                missing.append(f"layer {step.name!r}, blob {i} ({step.params[i].key}) of shape {step.shapes[i]}")
        if len(blobs) == len(step.params):
            _add(plan, step, blobs)
        elif first[step.name] is not step:
            _second_of_a_name(step, plan, graph.where)
    if wrong or missing:
        parts = [f"these do not fit: {some(wrong)}"] if wrong else []
        parts += [f"the file lacks {len(missing)}: {some(missing)}"] if missing else []
        parts += [f"the file has, but the net does not: {some([repr(name) for name in unused])}"] if unused else []
        what = f"{weights.path} holds weights for another net than {graph.where}"
        if wrong and given:
            shapes = ", ".join(f"{name}={','.join(map(str, dims))}" for name, dims in given.items())
            what = f"the input shape that was given is wrong: {shapes}; or {what}"
        raise MismatchError(f"{what}: {'. And '.join(parts)}.")
    if unused:
        verb = "is" if len(unused) == 1 else "are"
        plan.notes.append(f"{counted(len(unused), 'layer')} of the weight file {verb} not in the net: {some(unused, 8)}")
    if doubled:
        plan.notes.append(f"the weight file has several layers named {', '.join(sorted(set(doubled)))}; as in Caffe, the last one counts")
    return plan


def _add(plan: Plan, step: Step, blobs: Sequence[Blob]) -> None:
    if not blobs:
        return
    if step.load is not None:
        plan.made.append((step, list(blobs)))
    else:
        entries = zip(step.params, blobs, step.shapes, strict=True)
        plan.whole.update({f"{step.key}.{target.key}": (blob, shape) for target, blob, shape in entries})


def _second_of_a_name(step: Step, plan: Plan, where: str) -> None:
    """Caffe gives all weights to the first layer of a name; the second keeps what its fillers made of it."""
    for param in step.params:
        if constant(param.filler) is None:
            raise UnsupportedError(
                f"{where}: {step} shares its name with an earlier layer, so Caffe leaves it at random numbers; rename it."
            )
    plan.filled.append(step)
    plan.notes.append(f"layer {step.name!r} is there twice: as in Caffe, the second one keeps its fillers' constants")


def _same_shape(blob: Blob, shape: tuple[int, ...], param: Param) -> bool:
    """Caffe's ShapeEquals: the old-style dimensions, four or C3D's five, are compared with leading axes of 1 added to the net's shape.

    Of the vectors that forks write as (C,), (1, C) or (1, C, 1, 1) no axis of 1 counts.
    """
    if blob.shape == shape or (param.squeezed and [d for d in blob.shape if d != 1] == [d for d in shape if d != 1]):
        return True
    padded = (1,) * (len(blob.shape) - len(shape)) + shape
    return blob.legacy and blob.shape == padded
