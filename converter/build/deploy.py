"""The net of one phase as a prototxt of its own: V2 layers, an Input layer for what the net takes, no include and exclude rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from converter.read.schema import message_class

if TYPE_CHECKING:
    from converter.build.graph import Graph
    from converter.read.upgrade import LayerSpec


def deploy_message(graph: Graph) -> bytes:
    """A NetParameter that converts to this graph without stages, levels or input shapes; fields that were ignored are not in it."""
    net = message_class("NetParameter")(name=graph.name)
    net.layer.extend(message for _, message in deploy_layers(graph))
    result: bytes = net.SerializePartialToString()
    return result


def deploy_layers(graph: Graph) -> Iterator[tuple[LayerSpec, Any]]:
    """Its layers, each with the message that stands for it; data layers whose tops nobody reads are left out."""
    sources = {id(spec) for spec in graph.sources}
    held = {id(spec) for spec in graph.layers}
    for spec in [*(spec for spec in graph.sources if id(spec) not in held), *graph.layers]:
        if id(spec) not in sources:
            message = message_class("LayerParameter")()
            message.CopyFrom(spec.message)
            for name in ("include", "exclude", "phase", "blobs"):
                message.ClearField(name)
            yield spec, message
        elif any(top in graph.inputs for top in spec.message.top):
            yield spec, _input(spec, graph.inputs)


def _input(spec: LayerSpec, inputs: dict[str, tuple[int, ...]]) -> Any:
    """An Input layer in place of a data layer; it keeps what is done to the images before they come in."""
    tops = [top for top in spec.message.top if top in inputs]
    layer = message_class("LayerParameter")(name=spec.name, type="Input", top=tops)
    for top in tops:
        layer.input_param.shape.add(dim=inputs[top])
    if spec.message.HasField("transform_param"):
        layer.transform_param.CopyFrom(spec.message.transform_param)
        if spec.type == "ImageData" and not spec.message.image_data_param.is_color:
            layer.transform_param.force_gray = True
        images = spec.message.image_data_param
        if images.new_height and images.new_width:
            layer.image_data_param.new_height, layer.image_data_param.new_width = images.new_height, images.new_width
    return layer
