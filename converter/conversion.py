"""convert(): prototxt and weights in, a CaffeNet out; and the same with the weights left in their file, for the command."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path
from typing import Literal

from converter.build.assemble import assemble, check_size, load
from converter.build.embedded import embedded_spec
from converter.build.folding import fold_batchnorm as fold
from converter.build.graph import Graph, build_graph
from converter.build.matching import Plan, match
from converter.build.num_output import change_outputs, draw_anew
from converter.build.preprocessing import Stated
from converter.build.rgb01 import take_rgb01
from converter.errors import CaffezooWarning, GraphError, MismatchError, UnsupportedError, shown, some
from converter.files import head, stamp_of
from converter.net import CaffeNet
from converter.preprocess import Preprocess
from converter.read.caffemodel import Weights
from converter.read.prototxt import read_prototxt
from converter.read.schema import message_class
from converter.read.upgrade import LayerSpec, NetSpec
from converter.read.weights import open_weights

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
    ignore: Sequence[str] = (),
    preprocess: Preprocess | None = None,
    fold_batchnorm: bool = False,
    input: Literal["rgb01"] | None = None,
) -> CaffeNet:
    """Convert a Caffe net into a PyTorch module, in eval mode, with its weights loaded; whatever is not exact is an error.

    Args:
        prototxt: a deploy or train_val prototxt of any age (V0, V1, V2), or a solver that names or holds one. None, or a
            caffemodel in its place: the net that the caffemodel itself holds.
        weights: a .caffemodel, or .caffemodel.h5. None: Caffe's fillers, or zeros where the prototxt has none.
        phase, stages, level: the net's state, which include and exclude rules look at.
        input_shapes: shapes of inputs, over or in place of what the prototxt says: {"data": (1, 3, 224, 224)}. A blob that a
            layer makes becomes an input, and what only makes it is cut.
        num_output: layers that get another num_output, such as a classifier for finetuning: {"fc8": 7}. They take no values
            from the weight file: the weight is drawn by the prototxt's filler (xavier where that says zeros or nothing).
        ignore: fields of layers that you know to change nothing, by name or path: ("pooling_param.engine2",). Said in net.notes.
        preprocess: how an image becomes the net's input, in place of what the prototxt says of it, or where it says nothing.
        fold_batchnorm: BatchNorm and Scale layers go into the convolution or inner product beside them where that is exact; the net
            has fewer layers then, and the blobs that are left have the values that they had. net.notes says what is left, and why.
        input: "rgb01": the net takes RGB in 0..1, (N, 3, H, W): channel order, means and scale of `preprocess` go into its weights.

    Raises:
        ConversionError: one of its kinds (see converter.errors), naming file, layer, field and what to do.
    """
    graph, plan = prepare(
        prototxt,
        weights,
        phase=phase,
        stages=stages,
        level=level,
        input_shapes=input_shapes,
        num_output=num_output,
        ignore=ignore,
        preprocess=preprocess,
        fold_batchnorm=fold_batchnorm,
        input=input,
    )
    net = loaded(graph, plan, stacklevel=3)
    files = ((path, stamp_of(path)) for path in (Path(each).absolute() for each in (prototxt, weights) if each is not None))
    net.sources = tuple((path, stamp) for path, stamp in files if stamp is not None and path.is_file())
    return net


def loaded(graph: Graph, plan: Plan | None, stacklevel: int = 2) -> CaffeNet:
    """The net with its values, and a warning of what was ignored in the files."""
    net = assemble(graph)
    load(net, graph, plan)
    if net.notes:
        warnings.warn(f"{graph.where}: {some(list(net.notes), 6)}", CaffezooWarning, stacklevel=stacklevel)
    return net


def fold_batchnorm(net: CaffeNet) -> CaffeNet:
    """A net in memory, such as one that was finetuned, with its BatchNorm and Scale layers folded: convert(..., fold_batchnorm=True).

    Returns:
        Another net with values of its own, in eval mode; its changes and notes say what was folded and what was left. The given net
        is not changed.

    Raises:
        MismatchError: its layers are no longer those of its prototxt.
    """
    message = message_class("NetParameter").FromString(net._message)
    layers = [LayerSpec(layer, None) for layer in message.layer]
    graph = build_graph(NetSpec(net.name, net.name or "the net", message.state, layers), phase=net._phase)
    graph.preprocess, graph.notes, graph.changes = net.preprocess, list(net.notes), list(net.changes)
    state = {key: value.detach().cpu() for key, value in net.state_dict().items()}
    stated = assemble(graph).state_dict()
    wrong = [key for key in stated.keys() | state.keys() if key not in stated or key not in state or stated[key].shape != state[key].shape]
    if wrong:
        raise MismatchError(f"{graph.where}: the net's layers are no longer those of its prototxt: {some(sorted(wrong))}.")
    values = {key: value.float().clone() if value.is_floating_point() else value.clone() for key, value in state.items()}
    graph, plan = fold(graph, Plan(values=values))
    return loaded(graph, plan, stacklevel=3)


def prepare(
    prototxt: PathLike | NetSpec | None,
    weights: PathLike | Weights | None,
    *,
    phase: str = "TEST",
    stages: Sequence[str] = (),
    level: int = 0,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    num_output: Mapping[str, int] | None = None,
    ignore: Sequence[str] = (),
    preprocess: Preprocess | Stated | None = None,
    fold_batchnorm: bool = False,
    input: Literal["rgb01"] | None = None,
) -> tuple[Graph, Plan | None]:
    """The net on the meta device, and where each of its values lies in the weight file (None without one)."""
    shapes = checked_shapes(input_shapes)
    stages, ignore = ((each,) if isinstance(each, str) else each for each in (stages, ignore))
    found = open_weights(weights) if isinstance(weights, (str, os.PathLike)) else weights
    if isinstance(prototxt, (str, os.PathLike)) and found is None and _is_weights(Path(prototxt)):
        found = open_weights(prototxt)
        prototxt = None
    if prototxt is None:
        spec = _embedded(found)
    else:
        spec = prototxt if isinstance(prototxt, NetSpec) else read_prototxt(prototxt, phase)
    fresh = dict(num_output or {})
    change_outputs(spec, fresh)
    try:
        graph = build_graph(spec, phase=phase, stages=stages, level=level, input_shapes=shapes, ignore=ignore)
    except (GraphError, UnsupportedError) as error:
        if prototxt is None:
            hint = "This is the net that the caffemodel itself holds, as it was trained; give its deploy prototxt, too."
            raise type(error)(f"{error} {hint}") from None
        raise
    check_size(graph)
    draw_anew(graph, fresh)
    plan = None if found is None else match(graph, found, fresh, shapes)
    if plan is not None:
        graph.notes += plan.notes
    if isinstance(preprocess, Stated):
        preprocess = preprocess.record(graph.preprocess, graph.inputs, graph.where)
    graph.preprocess = preprocess or graph.preprocess
    if fold_batchnorm:
        graph, plan = fold(graph, plan)
    if input is not None:
        graph, plan = take_rgb01(graph, plan)
    return graph, plan


def checked_shapes(shapes: Mapping[str, Sequence[int]] | None) -> dict[str, tuple[int, ...]]:
    """input_shapes as whole numbers. Raises GraphError for anything else, such as a text, a fraction, or a dimension below 1."""
    found = {}
    for name, dims in shapes.items() if isinstance(shapes, Mapping) else [(None, shapes)] if shapes is not None else []:
        try:
            found[name] = tuple(index(d) for d in dims)
            wrong = not isinstance(name, str) or not all(1 <= d < 1 << 31 for d in found[name])
        except TypeError:
            wrong = True
        if wrong:
            said = shown(dims if name is None else {name: dims})
            raise GraphError(f"input_shapes is {said}: expected names and whole numbers from 1, as {{'data': (1, 3, 224, 224)}}.")
    return found


def _is_weights(path: Path) -> bool:
    """Whether a file alone is binary: a prototxt has no zero byte, a caffemodel's floats and lengths do."""
    return b"\0" in head(path, 1 << 16)


def _embedded(weights: Weights | None) -> NetSpec:
    if weights is None:
        raise GraphError("convert() takes a prototxt, a caffemodel, or both.")
    return embedded_spec(weights)
