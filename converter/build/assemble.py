"""A graph becomes a CaffeNet: first on the meta device, then with its values from a weight file or from Caffe's fillers."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from torch import Tensor, nn

from converter.build.deploy import deploy_message
from converter.build.fillers import fill
from converter.build.matching import Plan, changed, tensor_of
from converter.errors import GraphError
from converter.memory import VARIABLE, available, shown_size
from converter.net import CaffeNet
from converter.program import Step

if TYPE_CHECKING:
    from converter.build.graph import Graph


LARGE = 1 << 30  # bytes of parameters that are compared with the memory


def check_size(graph: Graph) -> None:
    """Refuse parameters that this machine cannot hold, before they are allocated."""
    seen: dict[int, int] = {}
    for module in graph.modules.values():
        for tensor in (*module.parameters(), *module.buffers()):
            seen[id(tensor)] = tensor.numel() * tensor.element_size()
    need = sum(seen.values())
    if need > LARGE and need > (have := min(available(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))):
        raise GraphError(
            f"{graph.where}: the net has {shown_size(need)} of parameters, and {shown_size(have)} of memory are available; look for a"
            f" num_output or input shape that is too large, or set {VARIABLE} where this is wrong."
        )


def assemble(graph: Graph) -> CaffeNet:
    """The CaffeNet of a graph, its parameters still on the meta device."""
    net = CaffeNet(
        graph.modules,
        graph.program,
        graph.inputs,
        name=graph.name,
        preprocess=graph.preprocess,
        notes=graph.notes,
        changes=graph.changes,
        message=deploy_message(graph),
        phase=graph.phase,
        sizes=[math.prod(shape) for shape in graph.shapes] if len(graph.shapes) == len(graph.versions) else (),
    )
    return net.eval()


def load(net: CaffeNet, graph: Graph, plan: Plan | None) -> None:
    """Give the net its values: from the weight file, or from Caffe's fillers."""
    values: dict[str, Tensor] = {}
    try:
        if plan is not None:
            values.update({key: tensor_of(blob, shape) for key, (blob, shape) in plan.whole.items()})
            values.update(plan.values)
            for step, blobs in plan.made:
                values.update(changed(step, blobs))
        for step in graph.steps if plan is None else plan.filled:
            values.update(filled(step, graph.where))
    except (RuntimeError, MemoryError) as error:
        raise GraphError(f"{graph.where}: there is no memory for the net's parameters ({str(error).splitlines()[0]}).") from error
    for key, like in net.state_dict().items():
        if key in values and values[key].shape != like.shape:  # one slope for all channels: a scalar in Caffe
            values[key] = values[key].reshape(like.shape)
    tie(net, values)
    for key, value in values.items():
        owner, _, name = key.rpartition(".")
        module = net._modules[owner]
        assert module is not None
        if name in module._parameters:
            module._parameters[name] = value if isinstance(value, nn.Parameter) else nn.Parameter(value)
        else:
            module._buffers[name] = value


def filled(step: Step, where: str) -> dict[str, Tensor]:
    """The state-dict entries of a layer, as Caffe's fillers make them."""
    blobs = [fill(param.filler, shape, f"{where}: {step}") for param, shape in zip(step.params, step.shapes, strict=True)]
    named = step.load(blobs) if step.load else {param.key: blob for param, blob in zip(step.params, blobs, strict=True)}
    return {f"{step.key}.{key}": value for key, value in named.items()}


def tie(net: CaffeNet, values: dict[str, Tensor]) -> None:
    """Parameters that layers share stay one nn.Parameter: the first owner's values (all are equal in a Caffe file)."""
    owners: dict[int, str] = {}
    for key, parameter in net.named_parameters(remove_duplicate=False):
        first = owners.setdefault(id(parameter), key)
        if first != key and key in values:
            if not isinstance(values[first], nn.Parameter):
                values[first] = nn.Parameter(values[first])
            values[key] = values[first]
