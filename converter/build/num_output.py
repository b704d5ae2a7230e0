"""convert(num_output={...}): layers that get another num_output than the prototxt says, and weights that are drawn anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from converter.build.fillers import constant
from converter.errors import GraphError, shown, some
from converter.layers import Filler
from converter.layers.registry import find_type
from converter.program import Step
from converter.read.upgrade import LayerSpec, NetSpec

if TYPE_CHECKING:
    from converter.build.graph import Graph


def change_outputs(spec: NetSpec, num_output: Mapping[str, int]) -> None:
    """Set num_output in every layer of these names.

    Raises:
        GraphError: there is no such layer, it has no num_output, or the number is none.
    """
    for name, count in num_output.items():
        layers = [layer for layer in spec.layers if layer.name == name]
        known = {layer.name: str(layer) for layer in spec.layers if _outputs_of(layer) is not None}
        without = [layer for layer in layers if _outputs_of(layer) is None]
        if without or not layers:
            problem = f"{without[0]} has none" if without else f"there is no layer {shown(name)}"
            having = some([*known.values()]) or "none"
            raise GraphError(f"{spec.where}: num_output is to change, but {problem}. Those that have one: {having}.")
        if not 1 <= count < 1 << 31:
            raise GraphError(f"{spec.where}: {layers[0]} cannot have the num_output {count}; it takes 1 or more.")
        for layer in layers:
            _outputs_of(layer).num_output = count


def _outputs_of(layer: LayerSpec) -> Any:
    """The message of a layer that holds its num_output, or None."""
    kind = find_type(layer)
    if kind is None:
        return None  # of another phase, or refused in a moment
    message = getattr(layer.message, kind.message) if kind.message and layer.message.HasField(kind.message) else None
    return message if message is not None and message.DESCRIPTOR.fields_by_name.get("num_output") and layer.type != "Im2col" else None


def draw_anew(graph: Graph, fresh: Mapping[str, int]) -> None:
    """Give weights of zeros a filler that draws, in the layers that take nothing from the weight file.

    Raises:
        GraphError: such a layer shares its weights with one that does.
    """
    owners: dict[str, Step] = {}
    for step in graph.steps:
        for name in filter(None, step.shared):
            other = owners.setdefault(name, step)
            if (other.name in fresh) != (step.name in fresh):
                raise GraphError(f"{graph.where}: {other} and {step} share {shown(name)}; num_output has to name both, or none.")
    steps = tuple(_drawn(step) if step.name in fresh else step for step in graph.steps)
    graph.program = replace(graph.program, steps=steps)


def _drawn(step: Step) -> Step:
    pairs = zip(step.params, step.shapes, strict=True)
    xavier = Filler("xavier")
    params = (replace(param, filler=xavier) if len(shape) > 1 and constant(param.filler) == 0 else param for param, shape in pairs)
    return replace(step, params=tuple(params))
