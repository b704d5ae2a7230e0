"""convert(): prototxt and weights in, a CaffeNet out; and the same with the weights left in their file, for the command."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from converter.build.deploy import deploy_message
from converter.build.fillers import fill
from converter.build.graph import Graph, Shared, Step, build_graph
from converter.build.matching import Plan, changed, match, open_weights, tensor_of
from converter.errors import CaffezooWarning, GraphError, UnsupportedError, shown, some
from converter.files import head
from converter.layers import Filler, layer_type
from converter.net import CaffeNet, StoredLayer
from converter.preprocess import Preprocess
from converter.read.caffemodel import Weights
from converter.read.prototxt import read_prototxt
from converter.read.upgrade import LayerSpec, NetSpec

PathLike = str | os.PathLike[str]


def convert(
    prototxt: PathLike | None,
    weights: PathLike | None = None,
    *,
    phase: str = "TEST",
    stages: Sequence[str] = (),
    level: int = 0,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    num_output: Mapping[str, int] | None = None,
) -> CaffeNet:
    """Convert a Caffe net into a PyTorch module, in eval mode, with its weights loaded; whatever is not exact is an error.

    Args:
        prototxt: a deploy or train_val prototxt of any age (V0, V1, V2), or a solver that names or holds one. None, or a
            caffemodel in its place: the net that the caffemodel itself holds.
        weights: a .caffemodel, or .caffemodel.h5. None: Caffe's fillers, or zeros where the prototxt has none.
        phase, stages, level: the net's state, which include and exclude rules look at.
        input_shapes: shapes of inputs, over or in place of what the prototxt says: {"data": (1, 3, 224, 224)}.
        num_output: layers that get another num_output, such as a classifier for finetuning: {"fc8": 7}. They take no values
            from the weight file: the weight is drawn by the prototxt's filler (xavier where that says zeros or nothing).

    Raises:
        ConversionError: one of its kinds (see converter.errors), naming file, layer, field and what to do.
    """
    graph, plan = prepare(prototxt, weights, phase=phase, stages=stages, level=level, input_shapes=input_shapes, num_output=num_output)
    return loaded(graph, plan, stacklevel=3)


def loaded(graph: Graph, plan: Plan | None, stacklevel: int = 2) -> CaffeNet:
    """The net with its values, and a warning of what was ignored in the files."""
    net = assemble(graph)
    load(net, graph, plan)
    if net.notes:
        warnings.warn(f"{graph.where}: {some(list(net.notes), 6)}", CaffezooWarning, stacklevel=stacklevel)
    return net


def prepare(
    prototxt: PathLike | None,
    weights: PathLike | Weights | None,
    *,
    phase: str = "TEST",
    stages: Sequence[str] = (),
    level: int = 0,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    num_output: Mapping[str, int] | None = None,
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
    fresh = dict(num_output or {})
    _change_outputs(spec, fresh)
    try:
        graph = build_graph(spec, phase=phase, stages=stages, level=level, input_shapes=input_shapes)
    except (GraphError, UnsupportedError) as error:
        if prototxt is None:
            hint = "This is the net that the caffemodel itself holds, as it was trained; give its deploy prototxt, too."
            raise type(error)(f"{error} {hint}") from None
        raise
    _check_size(graph)
    _draw_anew(graph, fresh)
    plan = None if found is None else match(graph, found, fresh)
    if plan is not None:
        graph.notes += plan.notes
    return graph, plan


def _is_weights(path: Path) -> bool:
    """Whether a file alone is binary: a prototxt has no zero byte, a caffemodel's floats and lengths do."""
    return b"\0" in head(path, 1 << 16)


def _embedded(weights: Weights | None) -> NetSpec:
    from converter.read.embedded import embedded_spec

    if weights is None:
        raise GraphError("convert() takes a prototxt, a caffemodel, or both.")
    return embedded_spec(weights)


def _change_outputs(spec: NetSpec, num_output: Mapping[str, int]) -> None:
    """Set num_output in every layer of these names.

    Raises:
        GraphError: there is no such layer, it has no num_output, or the number is none.
    """
    for name, count in num_output.items():
        layers = [layer for layer in spec.layers if layer.name == name]
        known = {layer.name: str(layer) for layer in spec.layers if _outputs_of(layer, spec.where) is not None}
        without = [layer for layer in layers if _outputs_of(layer, spec.where) is None]
        if without or not layers:
            problem = f"{without[0]} has none" if without else f"there is no layer {shown(name)}"
            having = some([*known.values()]) or "none"
            raise GraphError(f"{spec.where}: num_output is to change, but {problem}. Those that have one: {having}.")
        if not 1 <= count < 1 << 31:
            raise GraphError(f"{spec.where}: {layers[0]} cannot have the num_output {count}; it takes 1 or more.")
        for layer in layers:
            _outputs_of(layer, spec.where).num_output = count


def _outputs_of(layer: LayerSpec, where: str) -> Any:
    """The message of a layer that holds its num_output, or None."""
    try:
        kind = layer_type(layer, where)
    except UnsupportedError:
        return None  # of another phase, or refused in a moment
    message = getattr(layer.message, kind.message) if kind.message and layer.message.HasField(kind.message) else None
    return message if message is not None and message.DESCRIPTOR.fields_by_name.get("num_output") and layer.type != "Im2col" else None


def _draw_anew(graph: Graph, fresh: Mapping[str, int]) -> None:
    """Give weights of zeros a filler that draws, in the layers that take nothing from the weight file.

    Raises:
        GraphError: such a layer shares its weights with one that does.
    """
    owners: dict[str, Step] = {}
    xavier = Filler("xavier")
    for step in graph.steps:
        for name in filter(None, step.shared):
            other = owners.setdefault(name, step)
            if (other.spec.name in fresh) != (step.spec.name in fresh):
                raise GraphError(f"{graph.where}: {other.spec} and {step.spec} share {shown(name)}; num_output has to name both, or none.")
        if step.spec.name in fresh:
            pairs = list(zip(step.blobs, step.blob_shapes, strict=True))
            step.blobs = [replace(blob, filler=xavier) if len(shape) > 1 and _constant(blob.filler) == 0 else blob for blob, shape in pairs]


def _constant(filler: Filler | float | None) -> float | None:
    """The value that a filler sets everywhere; None where it draws."""
    if filler is None or isinstance(filler, float):
        return filler or 0.0
    return float(filler.value) if filler.type == "constant" else None


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
        stored=_stored(graph),
        message=deploy_message(graph),
    )
    return net.eval()


def _stored(graph: Graph) -> list[StoredLayer]:
    layers: list[StoredLayer] = []
    names: set[str] = set()
    for step in graph.steps:
        if isinstance(step.module, Shared):
            continue
        layers.append(
            StoredLayer(
                step.key,
                step.spec.name,
                step.spec.type,
                {key: tuple(value.shape) for key, value in step.module.state_dict().items()},
                tuple(blob.key for blob in step.blobs),
                tuple(step.blob_shapes),
                tuple(step.shared),
                tuple(_constant(blob.filler) for blob in step.blobs),
                step.spec.name in names,
                step.load,
                step.save,
            )
        )
        names.add(step.spec.name)
    return layers


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
    for key, like in net.state_dict().items():
        if key in values and values[key].shape != like.shape:  # one slope for all channels: a scalar in Caffe
            values[key] = values[key].reshape(like.shape)
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
