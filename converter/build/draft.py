"""A graph taken apart for a change: its layers as messages and values to edit, and the graph that they make when built again.

What comes out is a graph like any other, with the prototxt of the changed net: every output form is written from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from converter.build.assemble import filled
from converter.build.deploy import deploy_layers
from converter.build.graph import Graph, build_graph
from converter.build.matching import Plan, changed, tensor_of
from converter.layers.registry import find_type
from converter.program import Step
from converter.read.schema import message_class
from converter.read.upgrade import LayerSpec, NetSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False)
class Node:
    """A layer of the draft. step: what the layer was, None for an input or a new layer; values: its new state dict, None: as it was."""

    spec: LayerSpec  # its message is the draft's own
    step: Step | None = None
    values: dict[str, Tensor] | None = None

    @property
    def message(self) -> Any:
        return self.spec.message


class Draft:
    """The layers of a graph in their order; edit the nodes, then take built()."""

    def __init__(self, graph: Graph, plan: Plan | None):
        self.graph = graph
        self.plan = Plan(filled=[step for step in graph.steps if step.params]) if plan is None else plan
        self.nodes: list[Node] = []
        self.node_of: dict[str, Node] = {}  # by the key of the step
        steps = graph.program.layers
        for spec, message in deploy_layers(graph):
            node = Node(LayerSpec(message, spec.line))
            if _computes(node.spec):
                node.step = next(steps)
                assert node.step.name == spec.name
                self.node_of[node.step.key] = node
            self.nodes.append(node)

    def values(self, step: Step) -> dict[str, Tensor]:
        """The layer's own state dict, as float32 values in memory."""
        plan, found = self.plan, dict[str, Any]()
        for made, blobs in plan.made:
            if made.key == step.key:
                found.update(changed(made, blobs))
        if any(drawn.key == step.key for drawn in plan.filled):
            found.update(filled(step, self.graph.where))
        for key in (f"{step.key}.{name}" for name in step.state):
            if key in plan.whole:
                blob, shape = plan.whole[key]
                found[key] = tensor_of(blob, shape)
            if key in plan.values:
                found[key] = plan.values[key]
        return {name: found[f"{step.key}.{name}"] for name in step.state}

    def shares(self, step: Step) -> bool:
        """Whether another layer has one of its blobs, too."""
        mine = set(filter(None, step.shared))
        return any(mine.intersection(other.shared) for other in self.graph.steps if other is not step)

    def built(self) -> tuple[Graph, Plan]:
        """The graph of the nodes as they are now, and where each of its values comes from."""
        old = self.graph
        spec = NetSpec(old.name, old.where, message_class("NetState")(), [node.spec for node in self.nodes])
        graph = build_graph(spec, phase=old.phase)
        graph.notes, graph.ignored = list(old.notes), old.ignored
        graph.preprocess, graph.changes = old.preprocess, list(old.changes)
        nodes = [node for node in self.nodes if _computes(node.spec)]
        pairs = list(zip(nodes, graph.program.layers, strict=True))
        steps = {new.key: _with_fillers(new, node.step) for node, new in pairs}
        graph.program = replace(graph.program, steps=tuple(steps.get(step.key, step) if step.type else step for step in graph.steps))
        return graph, self._plan([(node, steps[new.key]) for node, new in pairs])

    def _plan(self, pairs: list[tuple[Node, Step]]) -> Plan:
        """The plan under the keys of the new steps, with the nodes' new values in place of the old ones."""
        old, plan = self.plan, Plan(notes=self.plan.notes)
        made, drawn = {step.key: blobs for step, blobs in old.made}, {step.key for step in old.filled}
        for node, step in pairs:
            if node.values is not None:
                plan.values.update({f"{step.key}.{name}": value for name, value in node.values.items()})
            elif node.step is not None:
                before = node.step.key
                plan.made += [(step, made[before])] if before in made else []
                plan.filled += [step] if before in drawn else []
                for was, now in ((f"{before}.{name}", f"{step.key}.{name}") for name in step.state):
                    if was in old.whole:
                        plan.whole[now] = old.whole[was]
                    if was in old.values:
                        plan.values[now] = old.values[was]
        return plan


def _computes(spec: LayerSpec) -> bool:
    """Whether a layer is a step of the program: no input, and none that is left out."""
    kind = find_type(spec)
    return kind is not None and not kind.is_source and not kind.removed


def _with_fillers(new: Step, old: Step | None) -> Step:
    """A layer that is drawn anew (convert's num_output) keeps the fillers that it got for that."""
    if old is None or [param.key for param in old.params] != [param.key for param in new.params]:
        return new
    return replace(new, params=old.params)
