"""A net as torch.export's program: what .pt2 holds and ONNX is made from."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from converter.errors import ConversionError, UnsupportedError
from converter.net import CaffeNet
from converter.write.fx import graph_module
from converter.write.sizes import Shapes, Sizes, number_type, runner
from converter.write.source import variables

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

# Further sizes at which an assumption of a program is tried: all remainders of strides up to 32, height and width apart
_STEPS = [{"batch": i % 3, "height": i, "width": (7 * i + 3) % 33} for i in range(33)]
# Of torch.export's complaints: the least size that it found an axis to have
_LEAST = (
    re.compile(r"^\s*(\w+) = Dim\('\1', min=(\d+)\)$", re.MULTILINE),
    re.compile(r"Not all values of (\w+) = .* satisfy the generated guard (\d+) <= L\[.*\]\.size\(\)\[\d+\] and .* <= IntInfinity\(\)"),
)


def traced(net: CaffeNet, sizes: Sizes, where: str) -> tuple[ExportedProgram, Sizes]:
    """The program with these axes free, or as many as torch.export leaves, and which they are. The parameters' values are not read.

    Raises:
        UnsupportedError: a layer whose result cannot be written without looking at values, such as non-maximum suppression.
    """
    if net.training:
        raise ConversionError(f"{where} is not written: the net is in training mode; call net.eval() first.")
    module = _named(net)
    while True:
        try:
            with quiet():
                program = _export(module, net, sizes)
            if _holds(program, net, sizes):
                return _stripped(program), sizes
            remaining = fewer(sizes)
            assert remaining is not None
            sizes = remaining
        except Exception as problem:  # a layer's own error, or one of many of the exporter's
            remaining = None if _by_values(problem) else fewer(sizes)
            if remaining is None:
                raise _refusal(net, where, problem) from problem
            sizes = remaining


def _by_values(problem: BaseException | None) -> bool:
    """Whether the exporter met a choice by values, which fewer free axes do not help."""
    while problem is not None:
        if "DataDependent" in type(problem).__name__:
            return True
        problem = problem.__cause__ or problem.__context__
    return False


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' own words: warnings of versions to come, and whole graphs on stderr where they fail."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def fewer(sizes: Sizes) -> Sizes | None:
    """Height and width go first, then the batch."""
    names = {name for held in sizes.axes.values() for name in held.values()}
    for gone in ({"height", "width"}, {"batch"}):
        if gone & names:
            key, held = next((key, held) for key, held in sizes.axes.items() if gone & set(held.values()))
            lengths = "×".join(str(sizes.stated[key][axis]) for axis, name in sorted(held.items()) if name in gone)
            said = "batch stays" if "batch" in gone else "height and width stay"
            return sizes.without(gone, f"{said} {lengths}: torch.export ties a layer to the size that it was traced with")
    return None


def _named(net: CaffeNet) -> GraphModule:
    """The net with its blobs' names as its arguments' names, which exporters keep."""
    names = variables(net.program.versions)
    return graph_module(net, net.program, net.outputs, {name: names[name] for name in net.program.inputs})


def _export(module: GraphModule, net: CaffeNet, sizes: Sizes) -> ExportedProgram:
    from torch.export import Dim, export

    arguments = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    example = tuple(torch.zeros(sizes.example[name], dtype=number_type(net)) for name in net.inputs)
    options: dict[str, Any] = {"strict": False}
    if "prefer_deferred_runtime_asserts_over_guards" in inspect.signature(export).parameters:
        # what the solver cannot show for all sizes, such as the number of windows of a ceil-mode pooling, is checked as it runs
        options["prefer_deferred_runtime_asserts_over_guards"] = True
    least: dict[str, int] = {}
    while True:
        dims = {dim: Dim(dim, min=least.get(dim)) for held in sizes.axes.values() for dim in held.values()}
        shapes = {
            argument: {axis: dims[dim] for axis, dim in sizes.axes[name].items()}
            for argument, name in zip(arguments, net.inputs, strict=True)
        }
        try:
            with torch.no_grad():
                return export(module, example, dynamic_shapes=shapes if dims else None, **options)
        except torch._dynamo.exc.UserError as problem:  # it may only want to hear the least sizes that a layer takes
            said = [pair for pattern in _LEAST for pair in pattern.findall(str(problem))]
            wanted = {dim: int(size) for dim, size in said if dim in dims and int(size) > least.get(dim, 0)}
            if not wanted:
                raise
            least |= wanted


def _holds(program: ExportedProgram, net: CaffeNet, sizes: Sizes) -> bool:
    """Whether what the program takes for granted of free sizes is so wherever the net runs: it may be true of the example's alone.

    A .pt2 would refuse the other sizes, ONNX has no such checks and would go wrong silently. What is false at the stated size alone,
    where a feature map has length 1 (tracers treat it apart, though the numbers are the same), is taken out of the program: at that size
    it is compared with the net.
    """
    symbols: dict[Any, str] = {}
    places = [node for node in program.graph.nodes if node.op == "placeholder"][-len(net.inputs) :]
    for node, name in zip(places, net.inputs, strict=True):
        for axis, dim in sizes.axes[name].items():
            size = node.meta["val"].shape[axis]
            if isinstance(size, torch.SymInt):
                symbols[size.node.expr] = dim
    granted = [
        (node, value.node.expr)
        for node in program.graph.nodes
        if node.target is torch.ops.aten._assert_scalar.default and isinstance(value := node.args[0].meta.get("val"), torch.SymBool)
    ]
    granted = [(node, said) for node, said in granted if said.free_symbols and said.free_symbols <= symbols.keys()]
    if not granted:
        return True

    def false_at(shapes: Shapes) -> list[torch.fx.Node]:
        lengths = {dim: shapes[name][axis] for name, held in sizes.axes.items() for axis, dim in held.items()}
        known = {symbol: lengths[dim] for symbol, dim in symbols.items()}
        return [node for node, said in granted if not bool(said.subs(known))]

    runs = runner(net)
    for step in _STEPS:
        shapes = {
            name: tuple(size + step.get(sizes.axes[name].get(i, ""), 0) for i, size in enumerate(shape))
            for name, shape in sizes.example.items()
        }
        if false_at(shapes) and runs(shapes):
            return False
    for node in {node for proof in sizes.proofs for node in false_at(proof)}:
        program.graph.erase_node(node)
    program.graph_module.recompile()
    return True


def _stripped(program: ExportedProgram) -> ExportedProgram:
    """Without this machine's paths and source lines."""
    for module in program.graph_module.modules():
        for node in getattr(module, "graph", torch.fx.Graph()).nodes:
            node.meta.pop("stack_trace", None)
    return program


def _refusal(net: CaffeNet, where: str, problem: Exception) -> ConversionError:
    """Which layer it was: the innermost frame of the error that is a layer's."""
    keys = {id(module): key for key, module in net.named_children()}
    found, error = "", problem
    seen: BaseException | None = error
    while seen is not None and not found:
        trace = seen.__traceback__
        while trace is not None:
            found = keys.get(id(trace.tb_frame.f_locals.get("self")), found)
            trace = trace.tb_next
        seen = seen.__cause__ or seen.__context__
    reason = next(iter(str(problem).strip().splitlines()), type(problem).__name__)
    step = next((step for step in net.program.steps if step.key == found), None)
    if step is None:
        return UnsupportedError(
            f"{where} is not written: torch.export cannot trace the net ({reason}). Save it as .py, which holds every layer."
        )
    bottoms = ", ".join(repr(net.program.versions[i]) for i in step.bottoms)
    return UnsupportedError(
        f"{where} is not written: {step} chooses by values how much it returns or what it looks at next, which neither .onnx nor .pt2"
        f" can hold ({reason}). Save the net as .py, which holds every layer; or end it before this one: delete the layer from the prototxt"
        f" (in Python: net.outputs = (...)), so that the net returns {bottoms}, and do this step where the net is used."
    )
