"""to_caffe(): a PyTorch module as a prototxt and a caffemodel that were converted back and compared before they appear."""

from __future__ import annotations

import copy
import math
import operator
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from converter.conversion import convert
from converter.errors import ConversionError, UnsupportedError
from converter.export.operators import OPERATORS, REARRANGING
from converter.export.rearranged import Rearranged, written
from converter.export.sketch import Blob, Dialect, NoCaffeForm, Sketch
from converter.files import whole_file
from converter.verify import Comparison, verify
from converter.write.encode import write_caffemodel

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from converter.net import CaffeNet

PathLike = str | os.PathLike[str]
TOLERANCE = 1e-5  # of an output's largest magnitude


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
) -> list[Comparison]:
    """Write a module as a Caffe net, if every operation that it runs in eval mode on the example is one that Caffe has.

    Args:
        module: any nn.Module that torch.export can read; it is not changed.
        example: what its forward() takes, float32: (N, C, H, W) for most. The batch size may be another one later.
        prototxt, caffemodel: where to write: layers in V2 form, float32 weights.
        dialect: "caffe1" (Caffe 1.0; OpenCV reads it, too), "bvlc" (BVLC's master: also round_mode, Clip, Swish) or "ssd"
            (also Permute, Normalize).
        name: the net's name; the module's class otherwise.

    Returns:
        What was compared before the files appeared: each output of the converted pair with the module's, and with OpenCV's where
        OpenCV 4 is installed and reads the net.

    Raises:
        UnsupportedError: operations without a Caffe form, all of them, with the module's path and the way round. Nothing is written.
        ConversionError: torch.export cannot read the module, the pair computes something else, or a file cannot be written.
    """
    if dialect not in get_args(Dialect):
        raise ConversionError(f"dialect {dialect!r} is none of {', '.join(get_args(Dialect))}.")
    if Path(prototxt).absolute() == Path(caffemodel).absolute():
        raise ConversionError(f"{prototxt} is to be the prototxt and the caffemodel, too; give them two names.")
    tensors = (example,) if isinstance(example, Tensor) else tuple(example)
    title = name or type(module).__name__
    program = _exported(module, tensors, title)
    net, outputs = _sketched(program, dialect, title)
    text = net.prototxt(title)
    with tempfile.TemporaryDirectory() as folder:
        pair = Path(folder) / "net.prototxt", Path(folder) / "net.caffemodel"
        pair[0].write_text(text, encoding="utf-8")
        write_caffemodel(pair[1], net.weights(), name=title)
        compared = _compared(module, tensors, *pair, outputs, title)
        with ExitStack() as stack:  # both, or none
            files = [stack.enter_context(whole_file(Path(path))) for path in (prototxt, caffemodel)]
            for file, source in zip(files, pair, strict=True):
                file.write(source.read_bytes())
    return compared


def _exported(module: nn.Module, example: tuple[Tensor, ...], title: str) -> ExportedProgram:
    """The operations of the module in eval mode; its own mode is as before afterwards."""
    modes = {each: each.training for each in module.modules()}
    try:
        module.eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: ExportedProgram = torch.export.export(module, example).run_decompositions({})
            return program
    except Exception as error:  # whatever a stranger's forward() and torch make of it
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConversionError(f"{title}: torch.export cannot read it: {first}") from error
    finally:
        for each, training in modes.items():
            each.training = training


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
        elif node.op == "output":
            results = [_value(each, values) for each in node.args[0]]
    outputs = []
    for i, result in enumerate(results):
        net.at = f"output_{i}" if len(results) > 1 else "output"
        try:
            if not isinstance(result, (Blob, Rearranged)):
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
        part = arguments[0][arguments[1]]
        return part() if callable(part) else part  # one that costs layers, and that somebody reads
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        raise NoCaffeForm("it is no operation of PyTorch's")
    if not _varies([*arguments, *named.values()]):
        call: Any = node.target
        with torch.no_grad():
            return call(*arguments, **{key: value for key, value in named.items() if key != "device"})
    given = dict(zip((each.name for each in schema.arguments), arguments, strict=False)) | named
    name = _name(node)
    if name in REARRANGING:
        source = given.pop("self")
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
        "gru": "; LSTM has one",
        "rnn_tanh": "; LSTM has one",
        "scaled_dot_product_attention": ": Caffe multiplies no two blobs as matrices",
        "bmm": ": Caffe multiplies no two blobs as matrices",
        "topk": ": ArgMax gives the places of the largest values, and may stand in the deploy prototxt by hand",
        "grid_sampler_2d": "; a SpatialTransformer is a layer of some forks only",
    }
    return near.get(name, "")


def _compared(
    module: nn.Module, example: tuple[Tensor, ...], prototxt: Path, caffemodel: Path, outputs: Sequence[Blob], title: str
) -> list[Comparison]:
    """The pair converted back, beside the module: on the example and on drawn values of its shapes; then OpenCV.

    Raises:
        ConversionError: they differ, in double precision, too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = convert(prototxt, caffemodel)
    drawn = torch.Generator().manual_seed(0)
    inputs = [example, tuple(torch.randn(each.shape, generator=drawn).to(each.dtype) for each in example)]
    wanted: nn.Module = copy.deepcopy(module).eval()
    found = _differences(wanted, net, inputs, outputs)
    if any(not each.difference <= TOLERANCE for each in found):  # rounding, or another net? double precision tells
        exact = _differences(wanted.double(), net.double(), [tuple(map(_double, each)) for each in inputs], outputs)
        wrong = [each for each in exact if not each.difference <= TOLERANCE]
        if wrong:
            listed = ", ".join(f"{each.blob} by {each.difference:.1e} of its largest value" for each in wrong)
            raise ConversionError(f"{title}: the Caffe net computes something else ({listed}); nothing was written. Please report it.")
        net = net.float()
    try:
        found += verify(net, prototxt, caffemodel)
    except ConversionError as error:
        warnings.warn(f"{title}: no second implementation read it: {error}", stacklevel=3)
    return found


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def _differences(module: nn.Module, net: CaffeNet, inputs: Sequence[tuple[Tensor, ...]], outputs: Sequence[Blob]) -> list[Comparison]:
    largest = dict.fromkeys((blob.name for blob in outputs), 0.0)
    for tensors in inputs:
        with torch.no_grad():
            theirs, ours = module(*tensors), net(*tensors, blobs=tuple(largest))
        flat = torch.utils._pytree.tree_leaves(theirs)
        for name, value in zip(largest, flat, strict=True):
            scale = max(float(value.nan_to_num(0, 0, 0).abs().max()), 1e-6)
            if ours[name].numel() != value.numel():
                raise ConversionError(f"output {name!r} has the shape {tuple(ours[name].shape)}, the module's has {tuple(value.shape)}.")
            mine = ours[name].reshape(value.shape)
            same = (mine == value) | (mine.isnan() & value.isnan())  # infinities are equal to themselves, and no number is as none
            gap = (mine - value).abs().nan_to_num(math.inf).masked_fill(same, 0)
            largest[name] = max(largest[name], float(gap.max()) / scale)
    return [Comparison(blob.name, blob.shape, largest[blob.name], "the module itself") for blob in outputs]
