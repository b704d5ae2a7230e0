"""Holds a converted net against an implementation that is not ours: Caffe itself where pycaffe is installed, else OpenCV 4's importer.

OpenCV 5 dropped its Caffe importer; the extra `verify` asks for the last release before it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import some
from converter.memory import check_activations
from converter.net import CaffeNet
from converter.program import Step
from converter.read.schema import message_class, text_of
from converter.references import Answer, Asked, LayerUnknown, ask
from converter.verify.inputs import Inputs, drawn_inputs
from converter.verify.known import known_differences

if TYPE_CHECKING:
    import numpy
    import torch

TOLERANCE = 1e-4  # of the output's largest magnitude: float32 summed in another order


@dataclass(frozen=True)
class Comparison:
    """One blob of a net, computed twice."""

    blob: str
    shape: tuple[int, ...]
    difference: float  # the largest, as a part of the reference's largest magnitude; infinite for another size, or no numbers
    reference: str
    layer: str = ""  # what made it, such as "layer 'conv1' of type 'Convolution' (line 12)"
    alone: float | None = None  # the layer's own difference: ours was given the reference's values of its bottoms

    @property
    def equal(self) -> bool:
        return self.difference <= TOLERANCE

    @property
    def cause(self) -> bool:
        """Whether the layer itself computes something else: not only what it was given differs."""
        return not self.equal and (self.alone is None or not self.alone <= TOLERANCE)


@dataclass(frozen=True)
class Verification:
    """What was compared, in the order in which the net computes it, and what was not."""

    reference: str
    compared: list[Comparison]
    notes: list[str] = field(default_factory=list)  # what the inputs were, what the other side got
    left: list[str] = field(default_factory=list)  # what could not be compared, and why
    every_blob: bool = False
    known: list[str] = field(default_factory=list)  # where this reference is known to differ, of what the net has

    @property
    def equal(self) -> bool:
        return bool(self.compared) and all(each.equal for each in self.compared)

    @property
    def first(self) -> Comparison | None:
        """The first blob that differs."""
        return next((each for each in self.compared if not each.equal), None)


def verify(net: CaffeNet, prototxt: Path, weights: Path, seed: int = 0) -> list[Comparison]:
    """Run the net and the reference on the same drawn inputs, and compare the outputs.

    Raises:
        ConversionError: no reference is installed, or it cannot read the net.
    """
    return verified(net, prototxt, weights, drawn_inputs(net, net, seed)).compared


def verified(
    net: CaffeNet,
    prototxt: Path,
    weights: Path,
    inputs: Inputs,
    *,
    original: CaffeNet | None = None,
    every_blob: bool = False,
    stand_in: bool = False,
) -> Verification:
    """Run the net and the reference on the inputs, and compare the outputs, or every blob.

    Args:
        original: the net as the files have it, where `net` is changed (folded layers, another input).
        every_blob: compare whatever a layer makes and the reference can give.
        stand_in: give the reference original.prototxt in place of the file, whose phase, data layers or shapes are not its own.

    Raises:
        ConversionError: no reference is installed, or it can run no part of the net.
    """
    import torch

    original = original or net
    places = list(_places(net, original, every_blob))
    with torch.inference_mode():
        ours = _all_values(net, inputs.ours) if every_blob else _outputs(net, inputs.ours)
    message = message_class("NetParameter").FromString(original._message)
    notes, left = [inputs.note], list[str]()
    if stand_in:
        notes.append("the reference got the prototxt of the converted net: its own one has data layers, another phase or other shapes")
    with tempfile.TemporaryDirectory() as folder:
        while True:
            file = prototxt
            if stand_in:
                file = Path(folder, "net.prototxt")
                file.write_text(text_of(message.SerializeToString()))
            try:
                answer = ask(file, weights, inputs.theirs, [place.asked for place in places], str(prototxt))
                break
            except LayerUnknown as error:
                gone = _cut(message, error.layer)
                if not gone or not [place for place in places if place.asked.layer not in gone]:
                    raise
                places = [place for place in places if place.asked.layer not in gone]
                left.append(f"it has no {error.type}: {some(gone, 6)}")
                stand_in = True
    compared, lacking = _compared(net, places, ours, answer, alone=every_blob and net is original)
    left += [f"it gives no values of {some(lacking, 6)}"] if lacking else []
    if every_blob and answer.reference.startswith("Caffe"):
        left.append("Caffe keeps the last values of a blob: what in-place layers overwrite is not seen")
    known = known_differences(message) if answer.reference.startswith("OpenCV") else []
    return Verification(answer.reference, compared, notes, left, every_blob, known)


@dataclass(frozen=True)
class _Place:
    """A value that both sides compute."""

    step: Step
    ours: int  # the version in our program
    asked: Asked


def _places(net: CaffeNet, original: CaffeNet, every_blob: bool) -> Iterator[_Place]:
    """What to compare: the last version of each blob that both nets have; of an unchanged net each version that a layer makes."""
    last, outputs = original.program.blobs, set(net.outputs)
    for step in original.program.layers:
        for i, top in enumerate(step.tops):
            name = original.program.versions[top]
            final = bool(name) and last[name] == top
            mine = top if net is original else net.program.blobs.get(name, -1)
            if name and mine >= 0 and ((final and name in outputs) or (every_blob and (final or net is original))):
                yield _Place(step, mine, Asked(step.name, step.type, name, i))


def _outputs(net: CaffeNet, inputs: Mapping[str, numpy.ndarray]) -> dict[int, torch.Tensor]:
    """The outputs, by version."""
    import torch

    found = net(*(torch.from_numpy(inputs[name]) for name in net.inputs), blobs=net.outputs)
    return {net.program.blobs[name]: value for name, value in found.items()}


def _all_values(net: CaffeNet, inputs: Mapping[str, numpy.ndarray]) -> dict[int, torch.Tensor]:
    """Every version of every blob, at once.

    Raises:
        MemoryShortError: they do not fit into memory.
    """
    import torch

    check_activations(4.0 * sum(net._sizes), "comparing every blob")
    values = {version: torch.from_numpy(inputs[name]) for name, version in net.program.inputs.items()}
    for step in net.program.steps:
        module = net._modules[step.key]
        assert module is not None
        result = module(*(values[i] for i in step.bottoms))
        values.update(zip(step.tops, result if isinstance(result, tuple) else (result,), strict=True))
    return values


def _compared(
    net: CaffeNet, places: Sequence[_Place], ours: Mapping[int, torch.Tensor], answer: Answer, alone: bool
) -> tuple[list[Comparison], list[str]]:
    """The comparisons, and the blobs that the reference has no values of."""
    import torch

    theirs = {place.ours: value for place, value in zip(places, answer.values, strict=True) if value is not None}
    compared, lacking = [], list[str]()
    if answer.reference.startswith("Caffe"):  # it has the last version of a blob only
        places = [place for place in places if net.program.blobs[place.asked.blob] == place.ours]
    for place in places:
        if place.ours not in theirs:
            lacking.append(f"{place.asked.blob!r} ({place.step.type} {place.step.name!r})")
            continue
        mine = ours[place.ours].numpy()
        difference, own = difference_of(mine, theirs[place.ours]), None
        if alone and not difference <= TOLERANCE and all(i in theirs or i in net.program.inputs.values() for i in place.step.bottoms):
            module = net._modules[place.step.key]
            assert module is not None
            bottoms = [torch.from_numpy(theirs[i]).reshape(ours[i].shape) if i in theirs else ours[i] for i in place.step.bottoms]
            with torch.inference_mode():
                result = module(*bottoms)
            result = result[place.asked.top] if isinstance(result, tuple) else result
            own = difference_of(result.numpy(), theirs[place.ours])
        compared.append(Comparison(place.asked.blob, tuple(mine.shape), difference, answer.reference, str(place.step), own))
    return compared, lacking


def difference_of(ours: numpy.ndarray, theirs: numpy.ndarray) -> float:
    """The largest difference as a part of the largest magnitude of theirs; infinite where sizes differ, or one has no number."""
    import numpy

    theirs = numpy.asarray(theirs)
    if ours.size != theirs.size:
        return float("inf")
    ours = ours.reshape(theirs.shape)
    same = (ours == theirs) | (numpy.isnan(ours) & numpy.isnan(theirs))
    finite = theirs[numpy.isfinite(theirs)]
    scale = max(float(numpy.abs(finite).max(initial=0)), 1e-6)
    with numpy.errstate(invalid="ignore"):
        gap = numpy.where(same, 0, numpy.abs(ours.astype("f8") - theirs))
    return float(numpy.nan_to_num(gap, nan=numpy.inf).max(initial=0)) / scale


def _cut(message: Any, name: str) -> list[str]:
    """Take a layer out of a net, and all that needs it; their names."""
    gone: list[str] = []
    missing: set[str] = set()
    for layer in list(message.layer):
        if layer.name == name or missing.intersection(layer.bottom):
            gone.append(layer.name)
            missing.update(layer.top)
            message.layer.remove(layer)
        else:
            missing.difference_update(layer.top)
    return gone
