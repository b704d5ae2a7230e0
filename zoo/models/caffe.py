"""Any Caffe net of the user's as a model to finetune: converted, with a classifier for other classes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, cast

from converter.preprocess import Preprocess
from zoo.cards.record import LocalCard
from zoo.errors import LoadError
from zoo.models.device import check_device
from zoo.models.model import check_classes, finished

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from converter import CaffeNet
    from converter.build.graph import Graph
    from converter.program import Step
    from zoo.models.model import CaffeModel

PathLike = str | os.PathLike[str]


def load_caffe(
    prototxt: PathLike | None,
    weights: PathLike | None = None,
    *,
    num_classes: int | None = None,
    classifier: str | None = None,
    preprocess: Preprocess | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> CaffeModel:
    """A net of one input as converter.convert() makes it, which returns logits: images -> (N, classes).

    A Softmax that ends the net is left out of the result (its blob is still there: `model(x, blobs=("prob",))`), and axes of
    length 1 behind the classes are flattened. Without `weights` they are drawn as the prototxt's fillers say.

    `num_classes` gives the layer `classifier` that many outputs and draws it anew; everything else is loaded, and has to fit.
    Without `classifier` it is the one InnerProduct or Convolution whose output reaches the result through layers that
    have no weights. `model.prototxt` is the changed net as a deploy prototxt; converter.save_caffemodel(model, path) writes
    its weights, and the pair is a Caffe net again.

    `model.preprocess` takes an image (as zoo.load's does) and does what `preprocess` says or, without it, what the prototxt's
    transform_param says; where that says nothing, BGR in 0..255 of the input's size, grey where the input has one channel:
    the values that Caffe reads from a file. It is None where the input has neither 1 nor 3 channels. `model.card` is a
    LocalCard; `model.labels` is ().

    Raises LoadError: the files do not convert (with converter's own message), the net has several inputs or outputs, it is
    not clear which layer gives the classes, or the mean is in a file.
    """
    check_classes(num_classes)
    check_device(device)
    net, layer = build(prototxt, weights, num_classes, classifier, input_shapes, empty=False)
    preprocess = preprocess if preprocess is not None else _preprocess(net)
    path = Path(prototxt if prototxt is not None else weights or "")
    name = net.name or path.stem
    card = LocalCard(name, f"{name} (Caffe)", path, "caffe", {}, preprocess, classifier=layer)
    return cast("CaffeModel", finished(net, card, (), preprocess, device, dtype))


def build(
    prototxt: PathLike | None,
    weights: PathLike | None,
    num_classes: int | None,
    classifier: str | None,
    input_shapes: Mapping[str, Sequence[int]] | None,
    *,
    empty: bool,
) -> tuple[CaffeNet, str | None]:
    """The net, returning logits, and the name of its classifier; `empty`: on the meta device."""
    from converter import ConversionError
    from converter.build.assemble import assemble
    from converter.conversion import loaded, prepare

    try:
        # A layer that is to change may have other shapes than the weights, or none in them: the structure comes first.
        first = weights if num_classes is None or prototxt is None else None
        graph, plan = prepare(prototxt, first, input_shapes=input_shapes)
        logits = result_of(graph, classifier)
        layer = _classifier(graph, logits, classifier, needed=num_classes is not None)
        changed = {} if num_classes is None or layer is None else {layer: num_classes}
        if changed:
            graph, plan = prepare(prototxt, weights, input_shapes=input_shapes, num_output=changed)
        net = assemble(graph) if empty else loaded(graph, plan)
    except ConversionError as error:
        raise LoadError(str(error)) from error
    net.outputs = (graph.versions[logits],)
    shape = graph.shapes[logits]
    if num_classes is not None and (shape[1:2] != (num_classes,) or prod(shape[2:]) != 1):
        raise LoadError(
            f"{graph.where}: with {num_classes} outputs of layer {layer!r}, {net.outputs[0]!r} has the shape {shape}, which is not"
            f" (N, {num_classes}); classifier= names the layer that gives the classes"
        )
    if len(shape) > 2 and prod(shape[2:]) == 1:
        net.register_forward_hook(_flattened)
    return net, layer


def _flattened(module: CaffeNet, tensors: tuple[Tensor, ...], result: Tensor | dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
    """(N, K, 1, 1) -> (N, K); blobs asked for by name stay as they are."""
    return result if isinstance(result, dict) else result.flatten(1)


def result_of(graph: Graph, classifier: str | None) -> int:
    """The blob version that training wants: the one result, or what its Softmax reads."""
    if len(graph.inputs) != 1:
        raise LoadError(
            f"{graph.where}: the net has the inputs {', '.join(graph.inputs) or '(none)'}; a model to finetune takes one. Use the deploy"
            " prototxt, or remove the loss layers"
        )
    makers = _makers(graph)
    ends = [graph.names[name] for name in graph.outputs]
    if len(ends) > 1 and classifier is not None:
        ends = [end for end in ends if classifier in _above(graph, end)]
    if len(ends) != 1:
        raise LoadError(
            f"{graph.where}: the net has the outputs {', '.join(graph.outputs)}; a model to finetune has one. Remove the others' layers,"
            " or name the layer that gives the classes with classifier="
        )
    (end,) = ends
    step = makers[end]
    if step.type == "Softmax" and getattr(graph.modules[step.key], "dim", None) == 1:
        (end,) = step.bottoms
        if graph.names[graph.versions[end]] != end:
            raise LoadError(f'{graph.where}: {step} writes over the logits; give it a top of its own: top: "prob"')
    return end


def _makers(graph: Graph) -> dict[int, Step]:
    return {top: step for step in graph.steps for top in step.tops}


def _above(graph: Graph, end: int) -> set[str]:
    """The names of all layers that a blob needs."""
    makers, wanted, names = _makers(graph), [end], set[str]()
    while wanted:
        step = makers.get(wanted.pop())
        if step is not None and step.name not in names:
            names.add(step.name)
            wanted += step.bottoms
    return names


def _classifier(graph: Graph, logits: int, named: str | None, *, needed: bool) -> str | None:
    """The layer that gives the classes; None where that is not clear, which is an error if it is needed."""
    if named is not None:
        return named
    makers, wanted = _makers(graph), [logits]
    last: dict[str, Step] = {}
    while wanted:
        step = makers.get(wanted.pop())
        if step is None or step.key in last:
            continue
        if step.params:
            last[step.key] = step
        else:
            wanted += step.bottoms
    found = list(last.values())
    if len(found) == 1 and found[0].type in ("InnerProduct", "Convolution"):
        return found[0].name
    if not needed:
        return None
    candidates = [step.name for step in graph.steps if step.type == "InnerProduct"]
    candidates = candidates or [step.name for step in graph.steps if step.type == "Convolution"][-5:]
    before = ", ".join(f"{step.name!r} ({step.type})" for step in found) or "no layer with weights"
    raise LoadError(
        f"{graph.where}: it is not clear which layer gives the classes: the output {graph.versions[logits]!r} comes from {before}."
        f" Name it with classifier= ({', '.join(map(repr, candidates)) or 'the net has no InnerProduct and no Convolution'}); above an"
        " embedding, add an InnerProduct layer to the prototxt and name that"
    )


def _preprocess(net: CaffeNet) -> Preprocess | None:
    """What the prototxt says of its images or, where it says nothing, what Caffe reads from a file: BGR or grey in 0..255."""
    (shape,) = net.input_shapes.values()
    if len(shape) != 4 or shape[1] not in (1, 3):
        return None
    said = net.preprocess
    if said is None:
        source = "the prototxt says nothing: pixels in 0..255, as Caffe reads them"
        return Preprocess((shape[2], shape[3]), "GRAY" if shape[1] == 1 else "BGR", (0.0,) * shape[1], source)
    if isinstance(said.mean, str):
        raise LoadError(
            f"the prototxt subtracts the mean image {said.mean!r}; say what the model is to do with preprocess=, such as"
            ' zoo.Preprocess(size=(224, 224), channels="BGR", mean=tuple(converter.read_mean(FILE).mean((1, 2))), source="...")'
        )
    return said
