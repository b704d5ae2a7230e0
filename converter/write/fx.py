"""A net as torch.fx's graph: what to_fx() gives and torch.export is asked to trace."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from converter.program import Program

if TYPE_CHECKING:
    from torch.fx import GraphModule


def graph_module(net: nn.Module, program: Program, outputs: Sequence[str], arguments: Mapping[str, str]) -> GraphModule:
    """The program over the net's own children, in the net's mode; `arguments` names forward()'s argument for each input.

    One output is a tensor, several are a dict by blob name.
    """
    from torch.fx import Graph, GraphModule

    graph = Graph()
    values = {version: graph.placeholder(arguments[name]) for name, version in program.inputs.items()}
    for key, bottoms, tops, _ in program.needed(outputs):
        result = graph.call_module(key, tuple(values[i] for i in bottoms))
        if len(tops) == 1:
            values[tops[0]] = result
        else:
            values.update({top: graph.call_function(operator.getitem, (result, i)) for i, top in enumerate(tops)})
    found = {name: values[program.blobs[name]] for name in outputs}
    graph.output(found if len(found) > 1 else next(iter(found.values())))
    return GraphModule(net, graph)
