"""How layer functions are found and called; the families beside this file hold the layers themselves."""

from __future__ import annotations

import dataclasses
import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from converter.errors import GraphError, UnsupportedError, counted, meant, some
from converter.layers.refused import REFUSED
from converter.read.schema import is_repeated
from converter.read.text import Unknown
from converter.read.upgrade import LayerSpec

ENGINE = {"engine": "chooses an implementation, not a result"}
TRAINING = "used in training only"
_PYTHON = {"module": "names the type", "layer": "names the type", "share_in_parallel": "chooses how it runs, not a result"}

# Fields of the layer itself that forks add and that do not change what it computes.
_FORK_FIELDS = {
    "engine": "Intel Caffe's choice of a library",
    "device": "a fork's placement",
    "forward_type": "NVIDIA Caffe's storage precision",
    "backward_type": "NVIDIA Caffe's storage precision",
    "forward_math": "NVIDIA Caffe's arithmetic precision",
    "backward_math": "NVIDIA Caffe's arithmetic precision",
    "cudnn_math_override": "NVIDIA Caffe's choice of an implementation",
    "debug": "prints",
    "param": TRAINING,
    "loss_weight": TRAINING,
    "transform_param": "the layer has no images to transform",
    "propagate_down": TRAINING,
    "quantization_param": "Intel's int8 inference: this is the float net that was calibrated; int8 differs by its rounding",
}


@dataclass(frozen=True)
class Filler:
    """Caffe's FillerParameter as plain data: how a blob gets its first values."""

    type: str = "constant"
    value: float = 0.0
    min: float = 0.0
    max: float = 1.0
    mean: float = 0.0
    std: float = 1.0
    sparse: int = -1
    variance_norm: int = 0

    @classmethod
    def of(cls, message: Any) -> Filler:
        """The record of a FillerParameter."""
        return cls(**{known.name: getattr(message, known.name) for known in dataclasses.fields(cls)})


@dataclass(frozen=True)
class Param:
    """One of a Caffe layer's parameter blobs: the state-dict key it feeds, Caffe's filler, and its shape where the key's differs."""

    key: str
    filler: Filler | float | None = None  # a float: that constant; None: zeros
    shape: tuple[int, ...] | None = None
    squeezed: bool = False  # axes of length 1 in a file's shape do not count


Shape = tuple[int, ...]
Load = Callable[[list[Tensor]], dict[str, Tensor]]
Save = Callable[[dict[str, Tensor]], list[Tensor]]
Arrange = Callable[[Sequence[Shape]], Sequence[int]]


@dataclass(frozen=True)
class Layer:
    """What a layer function returns: the module, its blobs in Caffe's order, and how blobs become state-dict values.

    load(blobs) -> {key: tensor} where the values change on the way, and its inverse save({key: tensor}) -> blobs; None where
    every blob is its key's value, as it is. arrange(shapes of a file's blobs) -> the place of each among params, where forks
    differ in the order; ValueError with what to type where the file is another fork's. A net that is pickled takes all three
    along: they are functions of a module. note: what the user should know of it.
    """

    module: nn.Module
    params: Sequence[Param] = ()
    load: Load | None = None
    save: Save | None = None
    arrange: Arrange | None = None
    note: str = ""


class Fields:
    """A parameter message that remembers which of its fields were looked at. Enums read as their names, fillers as Filler."""

    def __init__(self, message: Any, layer_message: Any, phase: str):
        self._message, self._seen = message, set[str]()
        self._layer, self._others = layer_message, dict[str, Fields]()
        self.tops, self.phase, self.param_bottoms = len(layer_message.top), phase, layer_message.param_bottoms
        self.loss, self.transform = layer_message.loss_param, layer_message.transform_param

    def __getattr__(self, name: str) -> Any:
        known = self._message.DESCRIPTOR.fields_by_name[name]
        self._seen.add(name)
        value = getattr(self._message, name)
        if is_repeated(known) and known.message_type is None:
            return tuple(value)
        if known.message_type is not None and known.message_type.name == "FillerParameter":
            return Filler.of(value)
        return known.enum_type.values_by_number[value].name if known.enum_type is not None else value

    def has(self, name: str) -> bool:
        """Whether a single field is set in the file."""
        self._seen.add(name)
        return bool(self._message.HasField(name))

    def any_set(self) -> bool:
        """Whether the file sets any field of the message."""
        return bool(self._message.ListFields())

    def other(self, name: str) -> Fields:
        """A second parameter message of the layer, which its type reads beside its own."""
        return self._others.setdefault(name, Fields(getattr(self._layer, name), self._layer, self.phase))

    def axis_of(self, x: Tensor) -> int:
        """The field `axis`, counted from the first axis of x (Blob::CanonicalAxisIndex).

        Raises:
            ValueError: x has no such axis.
        """
        axis = int(self.axis)
        if not -x.dim() <= axis < x.dim():
            raise ValueError(f"axis {axis} lies outside of {x.dim()} axes")
        return axis % x.dim()

    def unread(self, ignored: Iterable[str] = ()) -> list[str]:
        return [known.name for known, _ in self._message.ListFields() if known.name not in self._seen and known.name not in ignored]

    def others_unread(self) -> list[tuple[str, str]]:
        return [(name, field) for name, other in self._others.items() for field in other.unread()]


def fields_set(p: Fields, *names: str) -> list[str]:
    """Which of the fields are set in the file."""
    return [name for name in names if p.has(name)]


@dataclass(frozen=True)
class Sources:
    """What a data layer stands for: one shape a top, None where only the data would tell."""

    shapes: Sequence[Shape | None]


@dataclass(frozen=True)
class LayerType:
    name: str
    message: str | None  # the field of LayerParameter that holds its parameters
    function: Callable[..., Layer | Sources | nn.Module]
    bottoms: tuple[int, int | None]  # least and most
    ignored: Mapping[str, str]
    origin: str  # "BVLC", or the fork that it comes from
    refuses: str  # what of it is refused, and why: "" for nothing that BVLC Caffe takes
    is_source: bool
    is_loss: bool  # Caffe gives a loss layer its top where the file names none
    shares_memory: bool  # its tops lie in its bottom's memory, so that it does not work in place
    removed: str | None  # why the layer is left out of the net


_TYPES: dict[str, LayerType] = {}
F = TypeVar("F", bound=Callable[..., Layer | Sources | nn.Module])


def layer(
    name: str,
    message: str | None = None,
    *,
    bottoms: tuple[int, int | None] = (1, 1),
    ignored: Mapping[str, str] | None = None,
    origin: str = "BVLC",
    refuses: str = "",
    is_source: bool = False,
    is_loss: bool = False,
    shares_memory: bool = False,
    removed: str | None = None,
) -> Callable[[F], F]:
    """Register the function below as the layer type of this name.

    Args:
        name: LayerParameter.type; "Python:module.Class" for the Python layer of this class.
        message: the field of LayerParameter that holds its parameters; a Python layer's is python_param.
        bottoms: least and most; None: any number.
        ignored: fields of the message that change nothing that we compute, and why.
        origin: where the type comes from, for docs/layers.md: "BVLC", or forks, such as "SSD" or "Intel, NVIDIA".
        refuses: what of it is refused, in one clause, for docs/layers.md: "a dropout_ratio of 1".
        is_source: it reads data: its tops are inputs of the net.
        is_loss: Caffe gives it a top where the file names none.
        shares_memory: its tops lie in its bottom's memory (Blob::ShareData), so what is written to one in place changes the others.
        removed: why the layer is left out of the net.
    """

    if name.startswith("Python:"):
        message, ignored = "python_param", {**_PYTHON, **(ignored or {})}

    def register(function: F) -> F:
        if name in _TYPES:
            raise ValueError(f"layer type {name!r} is registered twice: in {_TYPES[name].function.__module__} and in {function.__module__}")
        _TYPES[name] = LayerType(
            name, message, function, bottoms, ignored or {}, origin, refuses, is_source, is_loss, shares_memory, removed
        )
        return function

    return register


def layer_types() -> list[str]:
    """The names of all layer types."""
    return sorted(_TYPES)


def find_name(name: str) -> LayerType:
    """The type of a name that layer_types() gives."""
    return _TYPES[name]


def find_type(spec: LayerSpec) -> LayerType | None:
    """The registered type of a layer; None where there is none."""
    if spec.type != "Python":
        return _TYPES.get(spec.type)
    python = spec.message.python_param
    return _TYPES.get(f"Python:{python.module}.{python.layer}")


def layer_type(spec: LayerSpec, where: str) -> LayerType:
    """The registered type of a layer.

    Raises:
        UnsupportedError: no such type; says what is near and what to type.
    """
    found = find_type(spec)
    if found is not None:
        return found
    tops = list(spec.message.top)
    python = spec.message.python_param
    what = f"it runs the Python class {python.module}.{python.layer}, which is not part of the files"
    if not spec.type:
        what = 'it has no type; a layer has one, such as type: "Convolution"'
    elif spec.type in REFUSED:
        what = f"it {REFUSED[spec.type]}"
    elif spec.type != "Python":
        what = (
            f"this layer type is not one we compute, and we leave nothing out silently.{did_you_mean(spec)}"
            " `convert-caffe --list-layers` names all types"
        )
    cut = f"name its tops, and the net ends before it: {input_options(tops)}" if tops else "take it out of the prototxt"
    raise UnsupportedError(f"{where}: {spec}: {what}. To do without this layer, {cut}.")


def did_you_mean(spec: LayerSpec) -> str:
    """A question for the type that may have been meant by one that we do not know; "" where none is near."""
    near = _ELSEWHERE.get(spec.type.lower()) or next(iter(meant(spec.type, _TYPES)), "")
    return f" Did you mean {near!r}?" if near else ""


# What other frameworks call Caffe's types.
_ELSEWHERE = {
    **dict.fromkeys(("conv", "conv2d"), "Convolution"),
    **dict.fromkeys(("deconv", "conv2dtranspose", "convtranspose"), "Deconvolution"),
    **dict.fromkeys(("dense", "linear", "fc", "fullyconnected", "gemm"), "InnerProduct"),
    **dict.fromkeys(("pool", "maxpool", "maxpooling", "avgpool", "averagepooling", "globalaveragepool"), "Pooling"),
    **dict.fromkeys(("batchnormalization", "batchnorm2d"), "BatchNorm"),
    **dict.fromkeys(("add", "mul"), "Eltwise"),
}
_EXAMPLES: dict[str, Shape] = {
    **dict.fromkeys(("label", "labels"), (1,)),
    "im_info": (1, 3),
    "gt_boxes": (1, 5),
    "rois": (1, 5),
    "cont": (1, 1),
}


def example_shape(name: str) -> Shape:
    """An example of an input's shape, where only its name is known."""
    return _EXAMPLES.get(name, (1, 3, 224, 224))


def input_options(shapes: Iterable[str] | Mapping[str, Shape]) -> str:
    """The words to type for inputs: of these shapes, or of examples where only their names are given."""
    return " ".join(f"--input-shape {shlex.quote(f'{name}={shape_text(shape)}')}" for name, shape in _shaped(shapes).items())


def input_argument(shapes: Iterable[str] | Mapping[str, Shape]) -> str:
    """The same for Python: input_shapes={...}."""
    return f"input_shapes={dict(_shaped(shapes))}"


def shape_text(shape: Shape) -> str:
    """A shape as the command takes it: 1,3,224,224."""
    return ",".join(map(str, shape))


def _shaped(shapes: Iterable[str] | Mapping[str, Shape]) -> Mapping[str, Shape]:
    return shapes if isinstance(shapes, Mapping) else {name: example_shape(name) for name in shapes}


class Ignored:
    """The fields that the user knows to be harmless, by name ("dilation") or path ("pooling_param.dilation"); which were met."""

    def __init__(self, names: Iterable[str] = ()):
        self.names, self.met = tuple(names), set[str]()

    def covers(self, path: Sequence[str]) -> bool:
        """Whether a field, given with the messages that it stands in, is one of them."""
        found = {name for name in self.names for i in range(len(path)) if ".".join(path[i:]) == name}
        self.met |= found
        return bool(found)

    @property
    def unmet(self) -> list[str]:
        return [name for name in self.names if name not in self.met]


def build(
    spec: LayerSpec, kind: LayerType, bottoms: Sequence[Tensor], phase: str, where: str, ignored: Ignored
) -> tuple[Layer | Sources, list[str]]:
    """Build a layer's module on the meta device; also what in the layer was ignored, and why.

    Raises:
        UnsupportedError: a field or value that we cannot honour.
        GraphError: the layer does not fit its bottoms.
    """
    notes = refuse_unknown(spec, kind, where, ignored)
    if spec.message.param_bottoms and kind.name not in ("Convolution", "InnerProduct"):
        raise UnsupportedError(f"{where}: {spec}: param_bottoms is set, which we compute for Convolution and InnerProduct only.")
    least, most = kind.bottoms
    if not least <= len(bottoms) <= (len(bottoms) if most is None else most):
        count = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
        raise GraphError(f"{where}: {spec} has {counted(len(bottoms), 'bottom')}; it takes {count}.")
    message = getattr(spec.message, kind.message) if kind.message else spec.message
    fields = Fields(message, spec.message, phase)
    try:
        with torch.device("meta"):
            made = kind.function(fields, *bottoms)
    except UnsupportedError as error:
        tops = list(spec.message.top)
        cut = f" To do without this layer, name its tops as inputs: {input_options(tops)} (the numbers are examples)." if tops else ""
        raise UnsupportedError(f"{where}: {spec}: {error}{cut and '.'}{cut}") from None
    except (ValueError, RuntimeError, IndexError, TypeError, OverflowError, ZeroDivisionError) as error:
        raise GraphError(f"{where}: {spec} with bottoms of shape {shapes_of(bottoms)}: {first_line(error)}.") from error
    unread = [(kind.message, name) for name in fields.unread(kind.ignored)] if kind.message else []
    notes += _refuse_unread(spec, [*unread, *fields.others_unread()], where, ignored)
    made = made if isinstance(made, (Layer, Sources)) else Layer(made)
    if isinstance(made, Layer) and made.note:
        notes.append(f"{spec.type} {spec.name!r}: {made.note}")
    return made, notes


def _refuse_unread(spec: LayerSpec, unread: list[tuple[str, str]], where: str, ignored: Ignored) -> list[str]:
    """Notes on known fields that the layer did not look at; those that the user ignores are taken out of it."""
    notes, fatal = [], []
    for path in unread:
        name = ".".join(path)
        if ignored.covers(path):
            notes.append(f"{spec.type} {spec.name!r}: {name} (ignored, as you asked)")
            getattr(spec.message, path[0]).ClearField(path[1])
        elif path[1] == "filler" or path[1].endswith("_filler"):
            notes.append(f"{spec.type} {spec.name!r}: {name} (sets no value that the layer has)")
        else:
            fatal.append(name)
    if fatal:
        raise UnsupportedError(f"{where}: {spec}: the fields {', '.join(fatal)} are set, and we do not compute them.{_ignore_hint(fatal)}")
    return notes


def _ignore_hint(names: list[str]) -> str:
    words = " ".join(f"--ignore {shlex.quote(name)}" for name in names[:6])
    return f" If you know that they change nothing, say so: {words} (in Python ignore={tuple(names[:6])!r})."


def refuse_unknown(spec: LayerSpec, kind: LayerType, where: str, ignored: Ignored) -> list[str]:
    """Notes on unknown fields that change nothing.

    Raises:
        UnsupportedError: one that could change the layer's result.
    """
    notes, fatal, names = [], [], []
    for unknown in spec.unknown:
        reason = "ignored, as you asked" if ignored.covers(unknown.path) else _harmless(unknown, kind)
        if reason:
            notes.append(f"{spec.type} {spec.name!r}: {unknown} ({reason})")
        else:
            fatal.append(f"{unknown} (line {unknown.line}{_near(unknown, spec, kind)})")
            names.append(".".join(unknown.path))
    if fatal:
        raise UnsupportedError(
            f"{where}: {spec} has fields that BVLC Caffe does not know and that may change its result: {some(fatal)}."
            f"{_ignore_hint(list(dict.fromkeys(names)))}"
        )
    return notes


def _near(unknown: Unknown, spec: LayerSpec, kind: LayerType) -> str:
    """What was meant, where it shows: the field that an unknown one looks like, or a value of an enum's."""
    descriptor = spec.message.DESCRIPTOR
    for name in unknown.path[:-1]:
        descriptor = descriptor.fields_by_name[name].message_type
    known = descriptor.fields_by_name.get(unknown.path[-1])
    if known is not None and known.enum_type is not None:
        values = list(known.enum_type.values_by_name)
        near = difflib.get_close_matches(unknown.value.upper(), values, 1, 0.5)
        return f"; did you mean {near[0]}?" if near else f"; Caffe's values are {some(values)}"
    if len(unknown.path) == 1 and unknown.path[0].endswith("_param") and kind.message and not spec.message.HasField(kind.message):
        return f"; did you mean {kind.message}?"
    near = meant(unknown.path[-1], descriptor.fields_by_name)
    return f"; did you mean {near[0]}?" if near else ""


def _harmless(unknown: Unknown, kind: LayerType) -> str | None:
    path = unknown.path
    if kind.is_source or kind.removed:
        return "the layer's own reading of data is not converted"
    if any(name == "filler" or name.endswith("_filler") for name in path):
        return "an initial value: weights from a file take its place"
    if kind.message and path[0] == kind.message and len(path) > 1:
        return {**kind.ignored, **ENGINE}.get(path[1])
    return _FORK_FIELDS.get(path[0])


def shapes_of(tensors: Sequence[Tensor]) -> str:
    return ", ".join("×".join(map(str, t.shape)) or "scalar" for t in tensors) or "none"


def first_line(error: BaseException) -> str:
    line = (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")
    sizes = re.match(r"Storage size calculation overflowed with sizes=(.*)", line)  # PyTorch's words
    return f"it takes {sizes[1].strip('[]').replace(', ', '×')} values, more than any machine counts" if sizes else line
