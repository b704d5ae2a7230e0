"""convert-caffe --verify: the user's own files, beside the net that the command makes of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from converter.build.assemble import assemble, load
from converter.build.graph import Graph
from converter.build.matching import Plan
from converter.build.preprocessing import Stated
from converter.errors import ConversionError
from converter.net import CaffeNet
from converter.preprocess import Preprocess
from converter.read.weights import open_weights, read_mean
from converter.verify.comparison import Verification, verified
from converter.verify.inputs import drawn_inputs, image_inputs, image_name
from converter.write.back import save_caffemodel

Prepared = tuple[Graph, Plan | None]


def verify_files(
    prepare: Callable[[bool], Prepared],
    prototxt: Path | None,
    weights: Path,
    *,
    own_state: bool = False,
    image: Path | None = None,
    every_blob: bool = False,
) -> Verification:
    """Compare what the net computes with what the reference makes of the files.

    Args:
        prepare: gives the net; with True the one that the files hold, without folding or another input.
        own_state: a phase, stages or shapes were asked for that the files alone do not say.
        image: a picture to run, in place of drawn inputs.

    Raises:
        ConversionError: no reference is installed, it cannot run the net, or the image cannot be its input.
    """
    graph, plan = prepare(False)
    net = _net(graph, plan)
    original = net
    if graph.changes:
        held, held_plan = prepare(True)
        original = _net(held, held_plan)
        own_state |= not _plain(held)
    else:
        own_state |= not _plain(graph)
    inputs = drawn_inputs(net, original)
    if image is not None:
        inputs = image_inputs(net, original, image, *_records(net, original, prototxt))
    with tempfile.TemporaryDirectory() as folder:
        note, form = "", open_weights(weights).format
        if form in ("HDF5", "V0"):  # OpenCV upgrades the layers of V0 and loses their blobs
            note = f"the reference got the weights as a .caffemodel that was written from the {form} file"
            weights = Path(folder, "net.caffemodel")
            save_caffemodel(original, weights)
        found = verified(
            net,
            prototxt or weights,
            weights,
            inputs,
            original=original,
            every_blob=every_blob,
            stand_in=own_state or prototxt is None,
        )
    return replace(found, notes=[*found.notes, *filter(None, [note])])


def _net(graph: Graph, plan: Plan | None) -> CaffeNet:
    net = assemble(graph)
    load(net, graph, plan)
    return net


def _plain(graph: Graph) -> bool:
    """Whether the reference can run the prototxt as it is: no data layers, and no solver around it."""
    return all(spec.type == "Input" for spec in graph.sources)


def _records(net: CaffeNet, original: CaffeNet, prototxt: Path | None) -> tuple[Preprocess, Preprocess]:
    """How the image is prepared for the net of the files, and for ours."""
    known = original.preprocess
    if known is None:
        name = image_name(original)
        known = replace(Stated().record(None, {name: original.input_shapes[name]}, "--image"), source="assumed: the prototxt does not say")
    if isinstance(known.mean, str):
        beside = (prototxt or Path()).parent / Path(known.mean).name
        if not beside.is_file():
            raise ConversionError(
                f"--image: the prototxt subtracts the mean image {known.mean!r}, which is not beside it; put it there, or say --mean M,M,M."
            )
        known = known.with_mean_image(read_mean(beside))
    return known, known if net is original or net.preprocess is None else net.preprocess
