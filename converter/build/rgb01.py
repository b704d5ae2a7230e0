"""A net that takes RGB in 0..1: what Preprocess does to an image's values becomes weights of the net.

The net's own input is x = M * rgb + t at each pixel, with M (C, 3) for channel order and scale and t (C,) for the means. A
layer that pads nothing takes both into its weight and bias. One that pads with zeros cannot take t: in the values of the image
its border is the mean's colour. There, and where the input's readers have no weights, a 1×1 convolution in front computes x.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from converter.build.draft import Draft, Node
from converter.build.graph import Graph
from converter.build.matching import Plan
from converter.build.preprocessing import check_channels, image_input
from converter.errors import UnsupportedError, shown
from converter.layers.registry import find_type
from converter.layers.weighted import InnerProduct
from converter.preprocess import LUMA, Preprocess
from converter.program import Step
from converter.read.schema import message_class
from converter.read.upgrade import LayerSpec

_SAY = (
    "say it with --mean 104,117,123 --scale 1 --channels BGR (numbers in the net's channel order; these are examples), in Python"
    " convert(..., preprocess=Preprocess(...))"
)


def take_rgb01(graph: Graph, plan: Plan | None) -> tuple[Graph, Plan]:
    """The graph that takes RGB in 0..1, (N, 3, H, W), where this one takes what graph.preprocess makes of an image.

    Raises:
        UnsupportedError: it is not known how images are prepared, or a mean image is subtracted.
        GraphError: no input, or more than one, could be the image.
    """
    before, name = graph.preprocess, image_input(graph.inputs, graph.where)
    if before is None:
        raise UnsupportedError(f"{graph.where}: rgb01 needs what is done to the images, and the prototxt does not say it; {_SAY}.")
    if isinstance(before.mean, str):
        raise UnsupportedError(
            f"{graph.where}: rgb01 cannot take the mean image {shown(before.mean)}, which has a value for each pixel, into weights;"
            f" take its mean of each channel in its place (converter.read_mean(path).mean((1, 2))): {_SAY}."
        )
    channels = graph.inputs[name][1]
    check_channels(before, channels, graph.where)
    matrix, offset = _affine(before, channels)
    draft = Draft(graph, plan)
    source = next(node for node in draft.nodes if node.step is None and name in node.message.top)
    readers = [step for step in graph.steps if graph.program.inputs[name] in step.bottoms]
    problems = [problem for step in readers if (problem := _problem(draft, step, bool(offset.any())))]
    if problems or not readers:
        how = _put_in_front(draft, source, name, matrix, offset, problems)
    else:
        for step in readers:
            _fold(draft, step, graph, matrix, offset)
        how = f"folded into {', '.join(repr(step.name) for step in readers)}"
    source.message.ClearField("transform_param")
    source.message.ClearField("image_data_param")
    shape = source.message.input_param.shape[list(source.message.top).index(name)]
    shape.dim[1] = 3
    new, new_plan = draft.built()
    new.preprocess = replace(
        before, channels="RGB", mean=(0.0, 0.0, 0.0), scale=1 / 255, source=f"RGB in 0..1; what {before.source} says is {how}"
    )
    new.changes.append(f"{name!r} takes RGB in 0..1: {before.channels}, mean {_listed(before.mean)}, scale {_listed(before.scale)} {how}")
    return new, new_plan


def _affine(before: Preprocess, channels: int) -> tuple[Tensor, Tensor]:
    """M (C, 3) and t (C,) of the net's input, float64."""
    identity = torch.eye(3, dtype=torch.float64)
    orders = {"RGB": identity, "BGR": identity.flip(0), "GRAY": torch.tensor([LUMA], dtype=torch.float64)}
    scale, mean = torch.tensor(before.scale, dtype=torch.float64), torch.tensor(before.mean, dtype=torch.float64)
    scale, mean = scale.expand(channels), mean.expand(channels)
    return orders[before.channels] * 255 * scale[:, None], -scale * mean


def _problem(draft: Draft, step: Step, shifted: bool) -> str:
    """Why a reader of the input cannot take M and t; "" where it can."""
    module = draft.graph.modules[step.key]
    if type(module) not in (nn.Conv2d, nn.Linear, InnerProduct) or not step.type:
        return f"{step.name!r}, which reads it, is a layer of type {step.type or 'Shared'}"
    if draft.shares(step) or len(step.bottoms) > 1 or getattr(module, "axis", 1) != 1:
        return f"{step.name!r} shares its weights, has several bottoms or works along another axis"
    if getattr(module, "groups", 1) != 1:
        return f"{step.name!r} has groups"
    return f"{step.name!r} pads with zeros, which are not the mean's colour" if shifted and any(getattr(module, "padding", ())) else ""


def _fold(draft: Draft, step: Step, graph: Graph, matrix: Tensor, offset: Tensor) -> None:
    """W' = W M and b' = b + sum of W t, in the layer that reads the input."""
    node, values = draft.node_of[step.key], draft.values(step)
    weight = values["weight"].double()
    by_channel = weight.reshape(weight.shape[0], len(offset), -1)  # (out, C, places)
    bias = torch.einsum("ocp,c->o", by_channel, offset) + values.get("bias", torch.zeros(1)).double()
    folded = torch.einsum("ocp,cr->orp", by_channel, matrix).reshape(weight.shape[0], *_with_rgb(weight, len(offset)))
    node.values = {"weight": folded.float().contiguous()}
    if "bias" in values or offset.any():
        node.values["bias"] = bias.float()
        kind = find_type(node.spec)
        assert kind is not None and kind.message is not None
        getattr(node.message, kind.message).bias_term = True


def _with_rgb(weight: Tensor, channels: int) -> list[int]:
    """A weight's shape behind its first axis, with three channels."""
    return [3, *weight.shape[2:]] if weight.dim() > 2 else [weight.shape[1] // channels * 3]


def _put_in_front(draft: Draft, source: Node, name: str, matrix: Tensor, offset: Tensor, problems: list[str]) -> str:
    """A 1×1 convolution behind the input; what read the input reads its top."""
    taken = {blob for node in draft.nodes for blob in (*node.message.top, *node.message.bottom)}
    top = next(blob for blob in (f"{name}_prepared{'_' * i}" for i in range(len(taken) + 1)) if blob not in taken)
    names = {node.message.name for node in draft.nodes}
    layer = next(each for each in (f"rgb01{'_' * i}" for i in range(len(names) + 1)) if each not in names)
    for node in draft.nodes:
        if node is not source:
            for blobs in (node.message.bottom, node.message.top):
                blobs[:] = [top if blob == name else blob for blob in blobs]
    message: Any = message_class("LayerParameter")(name=layer, type="Convolution", bottom=[name], top=[top])
    message.convolution_param.num_output = len(offset)
    message.convolution_param.kernel_size.append(1)
    values = {"weight": matrix.float()[:, :, None, None].contiguous(), "bias": offset.float()}
    draft.nodes.insert(draft.nodes.index(source) + 1, Node(LayerSpec(message, None), values=values))
    why = f", as {problems[0]}" if problems else ""
    return f"in a 1×1 convolution {layer!r} in front{why}"


def _listed(value: float | tuple[float, ...] | str) -> str:
    return ", ".join(f"{v:.6g}" for v in value) if isinstance(value, tuple) else f"{value:.6g}" if isinstance(value, float) else value
