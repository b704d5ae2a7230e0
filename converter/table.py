"""What convert-caffe prints: the layers of a net with shapes, parameters and multiply-adds, or the blobs of a weight file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from converter.errors import counted, printable
from converter.read.caffemodel import Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from converter.build.graph import Graph


@dataclass(frozen=True)
class Row:
    """A layer of a net."""

    name: str
    type: str
    tops: dict[str, list[int]]
    parameters: int
    multiply_adds: int


def net_rows(graph: Graph) -> list[Row]:
    """The net's inputs and layers in the order in which they run; shared parameters count once, where they are first.

    Parameters are those of torch: what is trained. BatchNorm's statistics are in the state dict, too, and are none.
    """
    rows = [Row(name, "Input", {name: list(shape)}, 0, 0) for name, shape in graph.inputs.items()]
    seen: set[int] = set()
    for step in graph.steps:
        module = graph.modules[step.key]
        new: list[Tensor] = [p for p in module.parameters() if id(p) not in seen]
        seen.update(map(id, new))
        tops = {graph.versions[i] or "(loss)": list(graph.shapes[i]) for i in step.tops}
        before, after = [graph.shapes[i] for i in step.bottoms], [graph.shapes[i] for i in step.tops]
        rows.append(Row(step.name, step.type or "(shared)", tops, sum(p.numel() for p in new), multiply_adds(module, before, after)))
    return rows


def multiply_adds(module: nn.Module, bottoms: list[tuple[int, ...]], tops: list[tuple[int, ...]]) -> int:
    """Products of weights with activations: what convolutions, inner products and recurrent layers are counted by."""
    matrices = [p for p in module.parameters() if p.dim() > 1]
    kind = type(module).__name__
    if kind.startswith("ConvTranspose") or getattr(module, "transposed", False):
        return sum(prod(shape) for shape in bottoms) * matrices[0][0].numel()
    if kind.startswith("Conv"):
        return sum(prod(shape) for shape in tops) * matrices[0][0].numel()
    if kind in ("Linear", "InnerProduct"):
        return sum(prod(shape) for shape in tops) * matrices[0].shape[1]
    if kind in ("RNN", "LSTM"):
        return bottoms[0][0] * bottoms[0][1] * sum(m.numel() for m in matrices)
    return 0


def net_table(graph: Graph) -> str:
    """The layers as text for people, with totals."""
    rows = net_rows(graph)
    lines = [("layer", "type", "top", "shape", "parameters", "multiply-adds")]
    for row in rows:
        for i, (top, shape) in enumerate(row.tops.items() or [("", [])]):
            counts = (_count(row.parameters), _count(row.multiply_adds)) if i == 0 else ("", "")
            lines.append((row.name if i == 0 else "", row.type if i == 0 else "", top, _shape(shape) if row.tops else "", *counts))
    sums = (_count(sum(r.parameters for r in rows)), _count(sum(r.multiply_adds for r in rows)))
    total = ("total", counted(len(graph.steps), "layer"), "", "", *sums)
    return _aligned([*lines, total])


def weights_table(weights: Weights) -> str:
    """The layers and blobs of a weight file as text for people, with totals."""
    lines = [("layer", "type", "blob", "stored", "values")]
    for layer in weights.layers:
        for i, blob in enumerate(layer.blobs):
            names = (layer.name, layer.type) if i == 0 else ("", "")
            lines.append((*names, _shape(list(blob.shape)), blob.dtype + (" (old 4-D shape)" if blob.legacy else ""), _count(blob.count)))
    with_blobs = sum(bool(layer.blobs) for layer in weights.layers)
    total = sum(blob.count for layer in weights.layers for blob in layer.blobs)
    kind = f"{weights.format}, {counted(len(weights.layers), 'layer')}, {with_blobs} with blobs"
    return _aligned([*lines, ("total", kind, "", "", _count(total))])


def net_json(graph: Graph) -> dict[str, Any]:
    rows = net_rows(graph)
    return {
        "name": graph.name,
        "phase": graph.phase,
        "inputs": {name: list(shape) for name, shape in graph.inputs.items()},
        "outputs": graph.outputs,
        "layers": [asdict(row) for row in rows],
        "parameters": sum(row.parameters for row in rows),
        "multiply_adds": sum(row.multiply_adds for row in rows),
        "notes": graph.notes,
        "changes": graph.changes,
    }


def weights_json(weights: Weights) -> dict[str, Any]:
    return {
        "format": weights.format,
        "name": weights.name,
        "layers": [
            {
                "name": layer.name,
                "type": layer.type,
                "blobs": [{"shape": list(b.shape), "dtype": b.dtype, "values": b.count, "legacy_shape": b.legacy} for b in layer.blobs],
            }
            for layer in weights.layers
        ],
        "values": sum(b.count for layer in weights.layers for b in layer.blobs),
    }


def _count(n: int) -> str:
    return f"{n:,}" if n else "-"


def _shape(shape: list[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _aligned(lines: list[tuple[str, ...]]) -> str:
    """Columns as wide as their widest entry; numbers to the right; a rule below the head and above the total."""
    cells = [[printable(cell) for cell in line] for line in lines]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    right = {i for i, head in enumerate(cells[0]) if head in ("parameters", "multiply-adds", "values")}
    text = []
    for line in cells:
        padded = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        text.append("  ".join(padded).rstrip())
    rule = "-" * max(map(len, text))
    return "\n".join([text[0], rule, *text[1:-1], rule, text[-1]])
