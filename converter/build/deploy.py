"""The net of one phase as a prototxt of its own: V2 layers, an Input layer for what the net takes, no include and exclude rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converter.read.schema import message_class

if TYPE_CHECKING:
    from converter.build.graph import Graph
    from converter.read.upgrade import LayerSpec


def deploy_message(graph: Graph) -> bytes:
    """A NetParameter that converts to this graph without stages, levels or input shapes; fields that were ignored are not in it."""
    net = message_class("NetParameter")(name=graph.name)
    sources = {id(spec) for spec in graph.sources}
    held = {id(spec) for spec in graph.layers}
    for spec in [*(spec for spec in graph.sources if id(spec) not in held), *graph.layers]:
        if id(spec) in sources:
            _add_input(net, spec, graph.inputs)
            continue
        layer = net.layer.add()
        layer.CopyFrom(spec.message)
        for name in ("include", "exclude", "phase", "blobs"):
            layer.ClearField(name)
    result: bytes = net.SerializePartialToString()
    return result


def _add_input(net: Any, spec: LayerSpec, inputs: dict[str, tuple[int, ...]]) -> None:
    """An Input layer in place of a data layer; it keeps what is done to the images before they come in."""
    tops = [top for top in spec.message.top if top in inputs]
    if not tops:
        return
    layer = net.layer.add(name=spec.name, type="Input", top=tops)
    for top in tops:
        layer.input_param.shape.add(dim=inputs[top])
    if spec.message.HasField("transform_param"):
        layer.transform_param.CopyFrom(spec.message.transform_param)
        if spec.type == "ImageData" and not spec.message.image_data_param.is_color:
            layer.transform_param.force_gray = True
        images = spec.message.image_data_param
        if images.new_height and images.new_width:
            layer.image_data_param.new_height, layer.image_data_param.new_width = images.new_height, images.new_width
