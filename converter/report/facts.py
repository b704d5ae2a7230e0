"""What a report says of a net: its files, its layers, its weights, what was verified and what was ignored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from converter.errors import counted, printable
from converter.files import Hasher
from converter.read.prototxt import read_prototxt
from converter.read.schema import message_class, text_of
from converter.report.drawing import summary
from converter.report.receptive import receptive_fields
from converter.report.statistics import Statistics, statistics
from converter.table import Row, net_rows

if TYPE_CHECKING:
    from converter.build.graph import Graph
    from converter.build.matching import Plan
    from converter.program import Step
    from converter.read.caffemodel import Blob, Weights

LONGEST_TEXT = 4000  # letters of a layer's prototxt; a hostile one may be megabytes


@dataclass(frozen=True)
class Source:
    """A file that went in."""

    name: str
    size: int
    sha256: str
    form: str  # what it is, and of what age


@dataclass(frozen=True)
class Layer:
    """A layer as the page shows it. Bytes are those of float32; multiply-adds are for the input shapes that are shown."""

    name: str
    type: str
    summary: str
    bottoms: list[tuple[str, str]]
    tops: list[tuple[str, str]]
    parameters: int
    multiply_adds: int
    activations: int  # bytes of its tops
    field: str  # receptive field of its first top
    text: str  # its prototxt


@dataclass(frozen=True)
class BlobFacts:
    """A stored blob and what its values are like."""

    layer: int  # index of the layer
    name: str
    number: int
    key: str
    shape: tuple[int, ...]
    dtype: str
    statistics: Statistics


def sources(prototxt: Path | None, weights: Weights | None) -> tuple[list[Source], list[str]]:
    """The files, and the layers of the prototxt as messages call them, whatever their phase."""
    found, layers = [], list[str]()
    hashers = {path: Hasher(path) for path in (prototxt, weights.path if weights else None) if path is not None}
    if prototxt is not None:
        spec = read_prototxt(prototxt)
        other = "" if spec.where == str(prototxt) else f", naming {printable(spec.where)}"
        layers = [str(layer) for layer in spec.layers]
        form = f"prototxt in {spec.form} form, {counted(len(layers), 'layer')} in all phases{other}"
        found.append(Source(printable(prototxt.name), prototxt.stat().st_size, hashers[prototxt].result(), form))
    if weights is not None:
        blobs = [blob for layer in weights.layers for blob in layer.blobs]
        kinds = sorted({_DTYPES.get(blob.dtype, blob.dtype) for blob in blobs})
        values = sum(blob.count for blob in blobs)
        counts = ((len(weights.layers), "layer"), (len(blobs), "blob"), (values, "value"))
        form = f"weights in {weights.format} form, {', '.join(counted(*each) for each in counts)}"
        form += f" stored as {' and '.join(kinds)}" if kinds else ""
        found.append(Source(printable(weights.path.name), weights.path.stat().st_size, hashers[weights.path].result(), form))
    return found, layers


_DTYPES = {"F16": "half precision", "F32": "float32", "F64": "float64"}


def layers_of(graph: Graph) -> list[Layer]:
    """The layers in the order in which they run; shared parameters count where they are first."""
    rows: list[Row] = net_rows(graph)[len(graph.inputs) :]
    fields = receptive_fields(graph)
    specs = {str(spec): spec for spec in graph.layers}
    return [
        Layer(
            printable(step.name),
            step.type or "(shared)",
            summary(graph.modules[step.key]),
            [_blob(graph, version) for version in step.bottoms],
            [_blob(graph, version) for version in step.tops],
            row.parameters,
            row.multiply_adds,
            sum(4 * prod(graph.shapes[version]) for version in step.tops),
            str(fields[step.tops[0]] or "") if step.tops else "",
            _text(specs[step.title].message) if step.title in specs and step.type else "",
        )
        for step, row in zip(graph.steps, rows, strict=True)
    ]


def _blob(graph: Graph, version: int) -> tuple[str, str]:
    return printable(graph.versions[version] or "(loss)"), "×".join(map(str, graph.shapes[version])) or "scalar"


def _text(message: Any) -> str:
    """A layer's prototxt, without the blobs that an embedded net's layers may hold."""
    layer = message_class("LayerParameter")()
    layer.CopyFrom(message)
    layer.ClearField("blobs")
    text = text_of(message_class("NetParameter")(layer=[layer]).SerializePartialToString())
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def peak(graph: Graph) -> int:
    """Bytes of the activations (float32) that are held at once when the net runs: each is freed behind its last reader."""
    size = [4 * prod(shape) for shape in graph.shapes]
    held = most = sum(size[version] for version in graph.program.inputs.values())
    for call in graph.program.needed(graph.outputs):
        held += sum(size[top] for top in call.tops)
        most = max(most, held)
        held -= sum(size[version] for version in call.dead)
    return most


def blobs_of(graph: Graph, plan: Plan | None) -> Iterator[BlobFacts]:
    """Statistics of every stored blob that the net takes; one that layers share comes once."""
    if plan is None:
        return
    made = {step.key: blobs for step, blobs in plan.made}
    seen: set[int] = set()
    for i, step in enumerate(graph.steps):
        blobs: Sequence[Blob | None] = made.get(step.key) or [plan.whole.get(f"{step.key}.{p.key}", (None,))[0] for p in step.params]
        for number, (param, blob) in enumerate(zip(step.params, blobs, strict=True)):
            new = plan.values.get(f"{step.key}.{param.key}")  # what folding made of several layers
            if new is None and (blob is None or id(blob) in seen):
                continue
            seen.add(id(blob))
            # As Caffe stores it; what folding made is as the module holds it.
            values = numpy.asarray(blob).reshape(step.shapes[number]) if new is None else numpy.asarray(new.detach())
            found = statistics(values, _filters(step, graph.modules[step.key], number, transposed=new is None and step.load is not None))
            stored = "folded" if new is not None or blob is None else blob.dtype
            yield BlobFacts(i, printable(step.name), number, param.key, step.shapes[number], stored, found)


def _filters(step: Step, module: Any, number: int, *, transposed: bool) -> int | None:
    """The axis of a layer's outputs in its first blob, where it has one."""
    if number or not step.shapes[0]:
        return None
    if step.type == "Scale":
        return 0
    if step.type == "InnerProduct":
        return 1 if transposed else 0
    if not hasattr(module, "out_channels") or len(step.shapes[0]) < 3:
        return None
    if step.type == "Deconvolution":
        return 1 if getattr(module, "groups", 1) == 1 else None
    return 0


def operators(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Each layer type with its count, parameters and multiply-adds, the most expensive first."""
    found: dict[str, dict[str, Any]] = {}
    for layer in layers:
        row = found.setdefault(layer.type, {"type": layer.type, "count": 0, "parameters": 0, "multiply_adds": 0, "activations": 0})
        row["count"] += 1
        for name in ("parameters", "multiply_adds", "activations"):
            row[name] += getattr(layer, name)
    return sorted(found.values(), key=lambda row: (-row["multiply_adds"], -row["count"], row["type"]))


def as_data(layer: Layer) -> dict[str, Any]:
    return asdict(layer)
