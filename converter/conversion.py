"""convert(): prototxt and weights in, a CaffeNet out; and the same with the weights left in their file, for the command."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from converter.errors import CaffezooWarning, GraphError, UnsupportedError, some
from converter.files import head
from converter.fillers import fill
from converter.graph import Graph, Step, build_graph
from converter.net import CaffeNet, Preprocess
from converter.prototxt import read_prototxt
from converter.upgrade import NetSpec
from converter.weights import Plan, changed, match, open_weights, tensor_of
from converter.wire import Weights

PathLike = str | os.PathLike[str]


def convert(
    prototxt: PathLike | None,
    weights: PathLike | None = None,
    *,
    phase: str = "TEST",
    stages: Sequence[str] = (),
    level: int = 0,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> CaffeNet:
    """Convert a Caffe net into a PyTorch module, in eval mode, with its weights loaded; whatever is not exact is an error.

    Args:
        prototxt: a deploy or train_val prototxt of any age (V0, V1, V2), or a solver that names or holds one. None, or a
            caffemodel in its place: the net that the caffemodel itself holds.
        weights: a .caffemodel, or .caffemodel.h5. None: Caffe's fillers, or zeros where the prototxt has none.
        phase, stages, level: the net's state, which include and exclude rules look at.
        input_shapes: shapes of inputs, over or in place of what the prototxt says: {"data": (1, 3, 224, 224)}.

    Raises:
        ConversionError: one of its kinds (see converter.errors), naming file, layer, field and what to do.
    """
    graph, plan = prepare(prototxt, weights, phase=phase, stages=stages, level=level, input_shapes=input_shapes)
    net = assemble(graph)
    load(net, graph, plan)
    if net.notes:
        warnings.warn(f"{graph.where}: {some(list(net.notes), 6)}", CaffezooWarning, stacklevel=2)
    return net


def prepare(
    prototxt: PathLike | None,
    weights: PathLike | Weights | None,
    *,
    phase: str = "TEST",
    stages: Sequence[str] = (),
    level: int = 0,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> tuple[Graph, Plan | None]:
    """The net on the meta device, and where each of its values lies in the weight file (None without one)."""
    found = open_weights(weights) if isinstance(weights, (str, os.PathLike)) else weights
    if prototxt is not None and found is None and _is_weights(Path(prototxt)):
        found = open_weights(prototxt)
        prototxt = None
    if prototxt is None:
        spec = _embedded(found)
    else:
        spec = read_prototxt(prototxt, phase)
    try:
        graph = build_graph(spec, phase=phase, stages=stages, level=level, input_shapes=input_shapes)
    except (GraphError, UnsupportedError) as error:
        if prototxt is None:
            hint = "This is the net that the caffemodel itself holds, as it was trained; give its deploy prototxt, too."
            raise type(error)(f"{error} {hint}") from None
        raise
    _check_size(graph)
    plan = None if found is None else match(graph, found)
    if plan is not None:
        graph.notes += plan.notes
    return graph, plan


def _is_weights(path: Path) -> bool:
    """Whether a file alone is binary: a prototxt has no zero byte, a caffemodel's floats and lengths do."""
    return b"\0" in head(path, 1 << 16)


def _embedded(weights: Weights | None) -> NetSpec:
    from converter.embedded import embedded_spec

    if weights is None:
        raise GraphError("convert() takes a prototxt, a caffemodel, or both.")
    return embedded_spec(weights)


def _check_size(graph: Graph) -> None:
    """Refuse parameters that this machine cannot hold, before they are allocated."""
    seen: dict[int, int] = {}
    for step in graph.steps:
        for tensor in (*step.module.parameters(), *step.module.buffers()):
            seen[id(tensor)] = tensor.numel() * tensor.element_size()
    need, have = sum(seen.values()), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have:
        raise GraphError(
            f"{graph.where}: the net has {need / 2**30:,.0f} GiB of parameters, more than this machine's {have / 2**30:,.0f} GiB"
            " of memory; look for a num_output or input shape that is too large."
        )


def assemble(graph: Graph) -> CaffeNet:
    """The CaffeNet of a graph, its parameters still on the meta device."""
    net = CaffeNet(
        {step.key: step.module for step in graph.steps},
        [(step.key, step.bottoms, step.tops) for step in graph.steps],
        graph.inputs,
        graph.outputs,
        graph.versions,
        input_versions=graph.input_versions,
        name=graph.name,
        layer_names={step.key: step.spec.name for step in graph.steps},
        preprocess=preprocess_of(graph),
        notes=graph.notes,
    )
    return net.eval()


def load(net: CaffeNet, graph: Graph, plan: Plan | None) -> None:
    """Give the net its values: from the weight file, or from Caffe's fillers."""
    values: dict[str, Tensor] = {}
    try:
        if plan is not None:
            values.update({key: tensor_of(blob, shape) for key, (blob, shape) in plan.whole.items()})
            for step, blobs in plan.made:
                values.update(changed(step, blobs))
        for step in graph.steps if plan is None else plan.filled:
            values.update(_filled(step, graph.where))
    except (RuntimeError, MemoryError) as error:
        raise GraphError(f"{graph.where}: there is no memory for the net's parameters ({str(error).splitlines()[0]}).") from error
    _tie(net, values)
    for key, value in values.items():
        owner, _, name = key.rpartition(".")
        module = net._modules[owner]
        assert module is not None
        if name in module._parameters:
            module._parameters[name] = value if isinstance(value, nn.Parameter) else nn.Parameter(value)
        else:
            module._buffers[name] = value


def _filled(step: Step, where: str) -> dict[str, Tensor]:
    blobs = [fill(blob.filler, shape, f"{where}: {step.spec}") for blob, shape in zip(step.blobs, step.blob_shapes, strict=True)]
    named = step.load(blobs) if step.load else {target.key: blob for target, blob in zip(step.blobs, blobs, strict=True)}
    return {f"{step.key}.{key}": value for key, value in named.items()}


def _tie(net: CaffeNet, values: dict[str, Tensor]) -> None:
    """Parameters that layers share stay one nn.Parameter: the first owner's values (all are equal in a Caffe file)."""
    owners: dict[int, str] = {}
    for key, parameter in net.named_parameters(remove_duplicate=False):
        first = owners.setdefault(id(parameter), key)
        if first != key and key in values:
            if not isinstance(values[first], nn.Parameter):
                values[first] = nn.Parameter(values[first])
            values[key] = values[first]


def preprocess_of(graph: Graph) -> Preprocess | None:
    """What the first data layer says of its images."""
    for spec in graph.sources:
        if spec.message.HasField("transform_param") and spec.message.top:
            t = spec.message.transform_param
            return Preprocess(
                spec.message.top[0],
                t.scale,
                tuple(t.mean_value),
                t.mean_file if t.HasField("mean_file") else None,
                t.crop_size or None,
                "gray" if t.force_gray or (spec.type == "ImageData" and not spec.message.image_data_param.is_color) else "BGR",
            )
    return None
