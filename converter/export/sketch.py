"""A Caffe net while it is being written: layers with their parameters, blobs and weights, under names that are free."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor

from converter.errors import UnsupportedError
from converter.read.schema import message_class, text_of

Dialect = Literal["caffe1", "bvlc", "ssd"]
# What each dialect has beyond Caffe 1.0: layer types, and fields of them. caffe1 is what every Caffe and OpenCV's importer read.
DIALECTS: Mapping[str, frozenset[str]] = {
    "caffe1": frozenset(),
    "bvlc": frozenset({"Clip", "Swish", "Pooling.round_mode"}),  # BVLC/caffe master: pull requests 6282, 6002, 3057
    "ssd": frozenset({"Permute", "Normalize"}),  # weiliu89/caffe, branch ssd
}
# Caffe may compute these where their bottom lies.
_IN_PLACE = {"ReLU", "BatchNorm", "Scale", "PReLU", "ELU"}


class NoCaffeForm(Exception):
    """An operation that the dialect cannot say; the text is the reason, with the way round where there is one."""


@dataclass(frozen=True)
class Blob:
    """A blob of the net: its name in the prototxt, and its shape for the example."""

    name: str
    shape: tuple[int, ...]


@dataclass
class SketchedLayer:
    type: str
    name: str
    bottoms: list[str]
    tops: list[str]
    shapes: list[tuple[int, ...]]  # of the tops
    parameters: dict[str, Mapping[str, object]]
    weights: list[Any] = field(default_factory=list)  # float32 arrays, in Caffe's order
    shared: list[str] = field(default_factory=list)  # a name for each of them: layers with the same names hold the same values


class Sketch:
    """The layers so far. `at` names the module whose operation is being written: layers are called after it.

    `read`: which results of that operation somebody reads. `kept` is what operators keep from one call to the next.
    """

    def __init__(self, dialect: Dialect, inputs: Sequence[Blob]):
        self.dialect, self.inputs = dialect, list(inputs)
        self.layers: list[SketchedLayer] = []
        self.at = ""
        self.read: set[object] = set()
        self.kept: dict[object, Any] = {}
        self._shared: Counter[str] = Counter()
        self._taken: Counter[str] = Counter(blob.name for blob in inputs)

    def has(self, what: str) -> bool:
        """Whether the dialect has a layer type, or a field as "Pooling.round_mode"."""
        return what in DIALECTS[self.dialect]

    def name(self, suffix: str) -> str:
        """A free name: the module's, or with the suffix where that is taken."""
        plain = re.sub(r"[^\w/-]+", "_", self.at) or suffix
        if self._taken[plain]:
            plain = plain if plain == suffix else f"{plain}_{suffix}"
        name = plain
        while self._taken[name]:
            self._taken[plain] += 1
            name = f"{plain}_{self._taken[plain]}"
        self._taken[name] += 1
        return name

    def layer(
        self,
        type_: str,
        bottoms: Sequence[Blob],
        shapes: Sequence[Sequence[int]],
        weights: Iterable[Tensor] = (),
        shared: Sequence[str] = (),
        **parameters: Mapping[str, object],
    ) -> list[Blob]:
        """Add a layer; one top for each shape. `parameters` are fields of LayerParameter: pooling_param={"pool": "MAX"}.

        `shared`: of its weights, names of param_name().
        """
        name = self.name(type_.lower())
        tops = [name if len(shapes) == 1 else self.name(f"{name}_{i + 1}") for i in range(len(shapes))]
        arrays = [np.asarray(weight.detach().float().cpu().numpy(), order="C") for weight in weights]
        self.layers.append(
            SketchedLayer(
                type_, name, [blob.name for blob in bottoms], tops, [tuple(each) for each in shapes], parameters, arrays, list(shared)
            )
        )
        return [Blob(top, tuple(shape)) for top, shape in zip(tops, shapes, strict=True)]

    def one(
        self,
        type_: str,
        bottoms: Sequence[Blob],
        shape: Sequence[int],
        weights: Iterable[Tensor] = (),
        shared: Sequence[str] = (),
        **parameters: Mapping[str, object],
    ) -> Blob:
        """A layer with one top."""
        return self.layer(type_, bottoms, [shape], weights, shared, **parameters)[0]

    def param_name(self, suffix: str) -> str:
        """A free name for weights that layers share."""
        plain = f"{re.sub(r'[^0-9A-Za-z_/-]+', '_', self.at)}_{suffix}".lstrip("_")
        self._shared[plain] += 1
        return plain if self._shared[plain] == 1 else f"{plain}_{self._shared[plain]}"

    def finish(self, outputs: Sequence[Blob]) -> list[Blob]:
        """The outputs as blobs that nobody reads, which is what makes them outputs in Caffe; every other top is read by someone."""
        read = {name for layer in self.layers for name in layer.bottoms}
        several = {top for layer in self.layers if len(layer.tops) > 1 for top in layer.tops}  # OpenCV gives a layer's first top only
        found: list[Blob] = []
        for blob in outputs:
            if blob.name in read | several or blob in found or blob in self.inputs:
                self.at = f"{blob.name}_output"
                [blob] = self.layer("Split", [blob], [blob.shape])
            found.append(blob)
        kept = {blob.name for blob in found}
        read |= {name for layer in self.layers for name in layer.bottoms}
        unread = [top for layer in self.layers for top in layer.tops if top not in read and top not in kept]
        if unread:
            self.at = "unread"
            name = self.name("silence")
            self.layers.append(SketchedLayer("Silence", name, unread, [], [], {}))
        return self._in_place(found)

    def _in_place(self, outputs: Sequence[Blob]) -> list[Blob]:
        """Let layers write where their bottom lies if nobody else reads it, as Caffe's own nets do: half the memory."""
        readers = Counter(name for layer in self.layers for name in layer.bottoms)
        made = {top: layer for layer in self.layers for top in layer.tops}
        renamed: dict[str, str] = {}
        shared = {"Split", "Slice", "Reshape", "Flatten"}  # their tops share memory with others
        kept = {blob.name for blob in outputs}
        for layer in self.layers:
            bottom = layer.bottoms[0] if len(layer.bottoms) == 1 else None
            layer.bottoms = [renamed.get(name, name) for name in layer.bottoms]
            if layer.type not in _IN_PLACE or bottom is None or readers[bottom] > 1 or bottom in kept:
                continue
            if bottom in made and made[bottom].type not in shared:
                renamed[layer.tops[0]] = layer.bottoms[0]
                layer.tops = [layer.bottoms[0]]
        return [Blob(renamed.get(blob.name, blob.name), blob.shape) for blob in outputs]

    def prototxt(self, name: str, *, fixed: bool = False) -> str:
        """The net as text in V2 form; `fixed`: what reshapes a blob takes the example's batch size only.

        Raises:
            UnsupportedError: a layer of another dialect got in.
        """
        net = message_class("NetParameter")(name=name)
        for blob in self.inputs:
            layer = net.layer.add(name=blob.name, type="Input", top=[blob.name])
            layer.input_param.shape.add(dim=blob.shape)
        uses = Counter(name for layer in self.layers for name in layer.shared)
        others = frozenset().union(*DIALECTS.values()) - DIALECTS[self.dialect]
        for sketched in self.layers:
            used = {sketched.type, *(f"{sketched.type}.{key}" for value in sketched.parameters.values() for key in value)}
            if used & others:
                raise UnsupportedError(f"{sketched.name}: the dialect {self.dialect} has no {', '.join(sorted(used & others))}.")
            layer = net.layer.add(name=sketched.name, type=sketched.type, bottom=sketched.bottoms, top=sketched.tops)
            for field_name, values in sketched.parameters.items():
                _fill(getattr(layer, field_name), values)
            for shared in sketched.shared if any(uses[name] > 1 for name in sketched.shared) else ():
                layer.param.add(name=shared)
            if fixed and sketched.type == "Reshape":
                layer.reshape_param.shape.dim[:] = sketched.shapes[0]
        return text_of(net.SerializePartialToString())

    def weights(self) -> list[tuple[str, str, list[Any]]]:
        """(name, type, blobs) of every layer, as write_caffemodel takes them; Caffe lists those without blobs, too."""
        return [(layer.name, layer.type, layer.weights) for layer in self.layers]


def _fill(message: Any, values: Mapping[str, object]) -> None:
    message.SetInParent()
    for name, value in values.items():
        if isinstance(value, Mapping):
            _fill(getattr(message, name), value)
        elif isinstance(value, (list, tuple)):
            getattr(message, name).extend(value)
        elif isinstance(value, str):
            enum = message.DESCRIPTOR.fields_by_name[name].enum_type
            setattr(message, name, value if enum is None else enum.values_by_name[value].number)
        else:
            setattr(message, name, value)
