"""A graph becomes a CaffeNet: first on the meta device, then with its values from a weight file or from Caffe's fillers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from converter.build.deploy import deploy_message
from converter.build.fillers import fill
from converter.build.matching import Plan, changed, tensor_of
from converter.errors import GraphError
from converter.net import CaffeNet
from converter.preprocess import Preprocess
from converter.program import Step

if TYPE_CHECKING:
    from converter.build.graph import Graph


def check_size(graph: Graph) -> None:
    """Refuse parameters that this machine cannot hold, before they are allocated."""
    seen: dict[int, int] = {}
    for module in graph.modules.values():
        for tensor in (*module.parameters(), *module.buffers()):
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
        graph.modules,
        graph.program,
        graph.inputs,
        name=graph.name,
        preprocess=preprocess_of(graph),
        notes=graph.notes,
        message=deploy_message(graph),
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


def preprocess_of(graph: Graph) -> Preprocess | None:
    """What the first data layer with a transform_param says of its images, as Caffe's DataTransformer does it in the phase TEST.

    Images keep their size and are cropped (WindowData warps its windows to the crop; ImageData may resize first). Without a
    crop they have the input's size. None where no layer says anything, or where the input has neither 1 nor 3 channels.
    """
    for spec in graph.sources:
        if not spec.message.HasField("transform_param") or not spec.message.top:
            continue
        shape = graph.inputs.get(spec.message.top[0], ())
        if len(shape) != 4 or shape[1] not in (1, 3):
            return None
        transform, images = spec.message.transform_param, spec.message.image_data_param
        crop = (transform.crop_size, transform.crop_size) if transform.crop_size else None
        resize: tuple[int, int] | Literal["keep"] = "keep"
        if images.new_height and images.new_width:
            resize = (images.new_height, images.new_width)
        means = tuple(transform.mean_value) or (0.0,)
        if len(means) not in (1, shape[1]):
            graph.notes.append(f"{spec} has {len(means)} mean_value for {shape[1]} channels, which Caffe refuses: preprocess is None")
            return None
        return Preprocess(
            size=crop or (shape[2], shape[3]),
            channels="GRAY" if shape[1] == 1 else "BGR",
            mean=transform.mean_file if transform.HasField("mean_file") else means * (shape[1] // len(means)),
            source="the prototxt's transform_param",
            scale=transform.scale,
            resize=resize if crop and spec.type != "WindowData" else None,
        )
    return None
