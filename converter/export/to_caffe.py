"""to_caffe(): a PyTorch module as a prototxt and a caffemodel that were converted back and compared before they appear."""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn
from torch.export.graph_signature import OutputKind

from converter.errors import ConversionError, UnsupportedError
from converter.export.operators import OPERATORS, REARRANGING
from converter.export.pair import Pair, check_places, first_line, float_copy, float_values, write_pair
from converter.export.rearranged import Rearranged, written
from converter.export.sketch import Blob, Dialect, NoCaffeForm, Sketch
from converter.verify import Comparison
from converter.write.encode import write_caffemodel
from converter.write.readback import LARGEST_MESSAGE

if TYPE_CHECKING:
    from torch.export import ExportedProgram

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class _Missing:
    """One operation that has no Caffe form."""

    module: str
    operation: str
    reason: str

    def __str__(self) -> str:
        return f"{self.module or 'the module itself'}: {self.operation}: {self.reason}"


def to_caffe(
    module: nn.Module,
    example: Tensor | Sequence[Tensor],
    prototxt: PathLike,
    caffemodel: PathLike,
    *,
    dialect: Dialect = "caffe1",
    name: str | None = None,
    half: bool = False,
) -> list[Comparison]:
    """Write a module as a Caffe net, if every operation that it runs in eval mode on the example is one that Caffe has.

    Args:
        module: any nn.Module that torch.export can read, on any device and of any precision; it is not changed.
        example: what its forward() takes: (N, C, H, W) for most. Another batch size may be given to the net later, unless a
            warning says that it is right for the example's alone.
        prototxt, caffemodel: where to write: layers in V2 form, float32 weights.
        dialect: "caffe1" (Caffe 1.0; OpenCV reads it, too), "bvlc" (BVLC's master: also round_mode, Clip, Swish) or "ssd"
            (also Permute, Normalize).
        name: the net's name; the module's class otherwise.
        half: round the kernels to half precision once the net is proven, as save_caffemodel() does.

    Returns:
        What was compared before the files appeared: each output of the converted pair with the module's, and with OpenCV's where
        OpenCV 4 is installed and reads the net.

    Raises:
        UnsupportedError: operations without a Caffe form, all of them, with the module's path and the way round. Nothing is written.
        ConversionError: torch.export cannot read the module, the pair computes something else, or a file cannot be written.
    """
    if dialect not in get_args(Dialect):
        raise ConversionError(f"dialect {dialect!r} is none of {', '.join(get_args(Dialect))}.")
    check_places(prototxt, caffemodel)
    title = name or type(module).__name__
    twin = float_copy(module, title)
    tensors = tuple(float_values(each) for each in ([example] if isinstance(example, Tensor) else example))
    net, outputs = _sketched(_exported(twin, tensors, title), dialect, title)
    _check_size(net, title)
    pair = Pair(lambda fixed: net.prototxt(title, fixed=fixed), lambda path: write_caffemodel(path, net.weights(), name=title), outputs)
    return write_pair(pair, twin, tensors, prototxt, caffemodel, title=title, half=half)


def _check_size(net: Sketch, title: str) -> None:
    size = sum(array.nbytes for layer in net.layers for array in layer.weights)
    if size > LARGEST_MESSAGE:
        repeats = any(layer.shared for layer in net.layers)
        hint = "; a caffemodel repeats the weights of each step of time, so fewer steps would help" if repeats else ""
        raise UnsupportedError(f"{title}: its weights take {size:,} bytes, and no Caffe reads a caffemodel above 2 GiB{hint}.")


def _exported(module: nn.Module, example: tuple[Tensor, ...], title: str) -> ExportedProgram:
    """The operations of the module."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # a module may change its inputs, and torch.export takes one tensor given twice for one input
            program: ExportedProgram = torch.export.export(module, tuple(each.clone() for each in example)).run_decompositions({})
            return program
    except Exception as error:  # whatever a stranger's forward() and torch make of it
        raise ConversionError(f"{title}: torch.export cannot read it: {first_line(error)}") from error


def _sketched(program: ExportedProgram, dialect: Dialect, title: str) -> tuple[Sketch, list[Blob]]:
    """The net, and its outputs in the module's order.

    Raises:
        UnsupportedError: every operation that Caffe has no layer for.
    """
    signature = program.graph_signature
    held: Mapping[str, Any] = {**program.state_dict, **program.constants}
    owned = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    values: dict[str, Any] = {}
    inputs = []
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in owned:
            values[node.name] = held[owned[node.name]].detach()
        elif node.op == "placeholder" and isinstance(node.meta.get("val"), Tensor):
            inputs.append(node)
    names = ["data"] if len(inputs) == 1 else [node.name for node in inputs]
    blobs = [Blob(name, tuple(map(int, node.meta["val"].shape))) for name, node in zip(names, inputs, strict=True)]
    values |= {node.name: blob for node, blob in zip(inputs, blobs, strict=True)}
    net = Sketch(dialect, blobs)
    missing: dict[tuple[str, str, str], _Missing] = {}
    results: list[Any] = []
    for node in program.graph.nodes:
        if node.op == "call_function":
            net.at = _path(node)
            try:
                values[node.name] = _result(net, node, values)
            except NoCaffeForm as reason:
                found = _Missing(net.at, _name(node), str(reason))
                missing.setdefault((_kind(node), found.operation, found.reason), found)
                values[node.name] = _stand_in(node)
        elif node.op == "output":  # beside them stand the inputs and buffers that the module changes
            own = [spec.kind == OutputKind.USER_OUTPUT for spec in signature.output_specs]
            results = [_value(each, values) for each, kept in zip(node.args[0], own, strict=True) if kept and each is not None]
    outputs = []
    for i, result in enumerate(results):
        net.at = f"output_{i}" if len(results) > 1 else "output"
        try:
            if not isinstance(result, (Blob, Rearranged)) or (isinstance(result, Blob) and not prod(result.shape)):
                raise NoCaffeForm("this output does not depend on the input")
            outputs.append(written(net, result))
        except NoCaffeForm as reason:
            missing[net.at, "output", str(reason)] = _Missing(net.at, "output", str(reason))
    if missing:
        listed = "".join(f"\n  {each}" for each in missing.values())
        count = "1 operation has" if len(missing) == 1 else f"{len(missing)} operations have"
        raise UnsupportedError(f"{title}: {count} no form in Caffe's dialect {dialect}; nothing was written.{listed}")
    return net, net.finish(outputs)


def _path(node: torch.fx.Node) -> str:
    """The path of the module that a node belongs to, "" for the outermost."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def _kind(node: torch.fx.Node) -> str:
    """The class of that module: one line for each kind of failure, not for each of its places."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][1]) if stack else ""


def _name(node: torch.fx.Node) -> str:
    target: Any = node.target
    schema = getattr(target, "_schema", None)
    return str(schema.name).rpartition("::")[2] if schema is not None else getattr(target, "__name__", str(target))


def _value(argument: object, values: Mapping[str, Any]) -> Any:
    """An argument of a node with the nodes in it replaced by what they gave."""
    if isinstance(argument, torch.fx.Node):
        return values[argument.name]
    if isinstance(argument, (list, tuple)):
        return [_value(each, values) for each in argument]
    return argument


def _result(net: Sketch, node: torch.fx.Node, values: Mapping[str, Any]) -> Any:
    """What a node gives: a blob, a rearrangement of one, several, or a tensor where nothing in it depends on the input."""
    arguments, named = _value(node.args, values), {key: _value(value, values) for key, value in node.kwargs.items()}
    if node.target is operator.getitem:
        if arguments[1] >= len(arguments[0]):
            raise NoCaffeForm("Caffe's layer has no such second result" + _advice("indices"))
        part = arguments[0][arguments[1]]
        return part() if callable(part) else part  # one that costs layers, and that somebody reads
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        raise NoCaffeForm("it is no operation of PyTorch's")
    if not schema.returns:  # an assertion about a tensor's type
        return None
    if not _varies([*arguments, *named.values()]):
        call: Any = node.target
        with torch.no_grad():
            return call(*arguments, **{key: value for key, value in named.items() if key != "device"})
    net.read = {user.args[1] for user in node.users if user.target is operator.getitem and user.users}
    given = dict(zip((each.name for each in schema.arguments), arguments, strict=False)) | named
    name = _name(node)
    if "batch_sizes" in given:
        raise NoCaffeForm("it reads a packed sequence; Caffe's nets take padded ones, all of the example's length")
    if name in REARRANGING:
        source = given.pop("self")
        if _varies(list(given.values())):
            raise NoCaffeForm("the net itself computes where the values come from")
        return REARRANGING[name](net, source, **given)
    function = OPERATORS.get(name) or OPERATORS.get(name.rstrip("_"))
    if function is None:
        raise NoCaffeForm("there is no Caffe layer for it" + _advice(name))
    ready = {key: _blobs(net, value) for key, value in given.items()}
    return _called(function, net, ready, schema)


def _called(function: Callable[..., Any], net: Sketch, given: dict[str, object], schema: torch._C.FunctionSchema) -> Any:
    """The operator's function; an operator that gives several values finds them as a list."""
    found = function(net, **given)
    results = found if isinstance(found, list) else [found]
    several = len(schema.returns) > 1 or "List" in str(schema.returns[0].type)
    return results if several else results[0]


def _varies(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_varies, value))
    return isinstance(value, (Blob, Rearranged))


def _blobs(net: Sketch, value: Any) -> Any:
    """Rearrangements as the blobs that they make: something reads them now."""
    if isinstance(value, list):
        return [_blobs(net, each) for each in value]
    if not isinstance(value, Rearranged):
        return value
    at, net.at = net.at, f"{net.at}_input" if net.at else ""  # the module's own name is for its own layer
    try:
        return written(net, value)
    finally:
        net.at = at


def _stand_in(node: torch.fx.Node) -> Any:
    """A blob of the right shape for an operation that failed, so that the ones behind it are looked at, too."""
    value = node.meta.get("val")
    found = [
        Blob("", tuple(map(int, each.shape)))
        for each in (value if isinstance(value, (list, tuple)) else [value])
        if isinstance(each, Tensor)
    ]
    return found if isinstance(value, (list, tuple)) else found[0] if found else None


def _advice(name: str) -> str:
    near = {
        "gelu": "; ReLU, ELU or SiLU have one",
        "scaled_dot_product_attention": ": Caffe multiplies no two blobs as matrices",
        "bmm": ": Caffe multiplies no two blobs as matrices",
        "indices": "; where the largest values lie, Caffe's Pooling tells in a form that no other layer of it reads",
        "topk": ": ArgMax gives the places of the largest values, and may stand in the deploy prototxt by hand",
        "grid_sampler_2d": "; a SpatialTransformer is a layer of some forks only",
    }
    return near.get(name, "")
