"""Writes a traced net as ONNX: inputs and outputs under their blobs' names, Caffe's layer names on the nodes, the facts as metadata."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from converter.errors import ConversionError, UnsupportedError
from converter.extras import to_install
from converter.net import CaffeNet
from converter.write.sizes import Sizes
from converter.write.traced import quiet
from converter.write.translations import translations

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_SCOPES = "pkg.torch.onnx.name_scopes"
INLINE = 64 << 20  # bytes of weights up to which they stand in the .onnx file itself


def check_installed(where: str, *, runtime: bool) -> None:
    """Raise ConversionError unless the packages of the extra `onnx` are there; onnxruntime only to check."""
    needed = ["onnx", "onnxscript", *(["onnxruntime"] if runtime else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ConversionError(f"{where}: ONNX needs {', '.join(missing)}: {to_install('onnx')}")


def onnx_model(program: ExportedProgram, net: CaffeNet, sizes: Sizes, facts: Mapping[str, str], where: str) -> Any:
    """The ONNX model (an onnx_ir.Model) of a traced net, whose weights have no values yet.

    Raises:
        UnsupportedError: an operator that has no translation.
    """
    import onnxscript

    with quiet():
        try:
            made = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False, custom_translation_table=translations())
        except Exception as problem:  # one of many of the exporter's own
            operator = re.search(r"translating node .*?target=([\w.]+)", str(problem))
            what = f"{operator[1]} has no translation to ONNX here" if operator else str(problem).splitlines()[0]
            raise UnsupportedError(f"{where} is not written: {what}. Save the net as .pt2 or .py; and please report it.") from problem
        assert made is not None
        weights = weights_of(made.model, net)
        for value in weights.values():
            value.const_value = None  # so that nothing is computed from them: they may be too many to be in memory
        made.optimize()
    model = made.model
    model.producer_name, _, model.producer_version = facts["converter"].partition(" ")
    model.graph.name = net.name or "net"
    model.doc_string = None
    model.metadata_props.clear()
    model.metadata_props.update({**facts, "torch": torch.__version__, "onnxscript": onnxscript.__version__})
    _name_layers(model, net)
    _name_blobs(model, net)
    _name_axes(model, net, sizes)
    return model


def weights_of(model: Any, net: CaffeNet) -> dict[str, Any]:
    """The initializers that are entries of the state dict."""
    keys = net.state_dict().keys()
    return {name: value for name, value in model.graph.initializers.items() if name in keys}


def _name_layers(model: Any, net: CaffeNet) -> None:
    """On each node Caffe's layer in place of stack traces, which name this machine's files."""
    for node in [*model.graph.all_nodes(), *(node for function in model.functions.values() for node in function.all_nodes())]:
        scopes = node.metadata_props.get(_SCOPES, "")
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
        for key, name in net.layer_names.items():
            if f"'{key}'" in scopes:
                node.metadata_props["caffe.layer"] = name
                break
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _name_blobs(model: Any, net: CaffeNet) -> None:
    """Inputs and outputs get their blobs' names; an output that is an input, or is twice an output, is copied by an Identity."""
    import onnx_ir

    graph = model.graph
    seen = {id(value) for value in (*graph.inputs, *graph.initializers.values())}
    for i, value in enumerate(graph.outputs):
        if id(value) in seen:
            node = onnx_ir.Node("", "Identity", [value], num_outputs=1)
            node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
            graph.append(node)
            graph.outputs[i] = node.outputs[0]
        seen.add(id(graph.outputs[i]))
    wanted: list[tuple[Any, str]] = []
    taken: set[str] = set(graph.initializers)
    for value, name in (*zip(graph.inputs, net.inputs, strict=True), *zip(graph.outputs, net.outputs, strict=True)):
        while name in taken:  # a blob that the net changes in place is an input and an output
            name += "_"
        taken.add(name)
        wanted.append((value, name))
    for value, _ in wanted:
        value.name = None
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.name in taken:
                value.name = None  # the writer finds another
    for value, name in wanted:
        value.name = name


def _name_axes(model: Any, net: CaffeNet, sizes: Sizes) -> None:
    """Axes of any length are called batch, height and width, where torch has numbered symbols."""
    import onnx_ir

    names: dict[str, str] = {}
    for value, blob in zip(model.graph.inputs, net.inputs, strict=True):
        names.update(
            {str(value.shape[axis].value): name for axis, name in sizes.axes[blob].items() if not isinstance(value.shape[axis], int)}
        )
    if not names:
        return
    symbol = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    graph = model.graph
    values = [*graph.inputs, *(value for node in graph.all_nodes() for value in node.outputs)]
    for value in {id(value): value for value in values if value.shape is not None}.values():
        dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
        value.shape = onnx_ir.Shape([symbol.sub(lambda m: names[m[0]], dim) if isinstance(dim, str) else dim for dim in dims])


def write_onnx(path: Path, model: Any, net: CaffeNet, weights: Mapping[str, Tensor] | None, places: Mapping[str, tuple[int, int]]) -> None:
    """Write the model with its weights inside, or (weights None) in the file `path`.data at these offsets and lengths."""
    import onnx_ir

    for name, value in weights_of(model, net).items():
        if weights is None:
            offset, length = places[name]
            value.const_value = onnx_ir.ExternalTensor(
                f"{path.name}.data", offset, length, value.dtype, shape=value.shape, name=name, base_dir=path.parent
            )
        else:
            value.const_value = onnx_ir.tensor(weights[name].detach().cpu().contiguous(), name=name)
    onnx_ir.save(model, path)
