"""The drawn net: which layers share a box, what stands in it, and the paths of the lines between the boxes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from converter.errors import printable
from converter.report.layout import Layout, Point, arrange

if TYPE_CHECKING:
    from torch import nn

    from converter.build.graph import Graph
    from converter.program import Step

MOST_LINES = 20_000  # beyond that a picture tells nobody anything, and a browser stops
MOST_ROWS = 8  # of a box
HEAD, ROW, PAD = 38, 17, 7  # of a box: its first layer, each further one, the edge
SHORTEST, LONGEST = 110, 290  # width of a box
_LETTER = 6.6  # mean width of a letter of the drawing's font

# Layers that stand in the box of the layer they read where nobody else reads it.
_ATTACHED = frozenset({"BN", "BatchNorm", "Bias", "Clip", "Dropout", "ELU", "LRN", "PReLU", "Power", "ReLU", "ReLU6", "Scale"})
_ATTACHED |= {"Sigmoid", "Softmax", "Swish", "TanH"}
_OF_KIND = {
    "pool": {
        "Interp",
        "PSROIPooling",
        "Pooling",
        "PoolingSK",
        "ROIPooling",
        "Reorg",
        "SPP",
        "SpatialPyramidPooling",
        "Unpooling",
        "Upsample",
    },
    "act": {"AbsVal", "BNLL", "Clip", "ELU", "Exp", "Log", "PReLU", "Power", "ReLU", "ReLU6", "Sigmoid", "Softmax", "Swish", "TanH"},
    "norm": {"BN", "BatchNorm", "Bias", "Dropout", "LRN", "MVN", "Normalize", "Scale"},
    "join": {"Axpy", "BroadcastMul", "Concat", "Crop", "Eltwise", "ShuffleChannel", "Slice", "Split"},
    "shape": {"ArgMax", "Flatten", "Permute", "Reduction", "Reshape", "Silence", "Tile"},
}
_KINDS = {name: kind for kind, names in _OF_KIND.items() for name in names}


@dataclass
class Box:
    """Layers that are drawn as one; `rows` are (index of the layer, text, second line)."""

    kind: str
    rows: list[tuple[int | None, str, str]]
    width: float = 0.0
    height: float = 0.0
    x: int = 0
    y: int = 0


@dataclass(frozen=True)
class Line:
    path: str
    label: str
    x: int
    y: int


@dataclass
class Drawing:
    boxes: list[Box]
    lines: list[Line]
    width: int
    height: int
    place: dict[int, tuple[int, int]] = field(default_factory=dict)  # the middle of each layer's row
    left_out: int = 0  # lines that are not drawn


def drawn(graph: Graph) -> Drawing:
    """The net as boxes and lines. A layer's index is its place among graph.steps."""
    boxes: list[Box] = []
    box_of: dict[int, int] = {}  # of each blob version, by what makes it
    for name, version in graph.program.inputs.items():
        box_of[version] = len(boxes)
        boxes.append(Box("end", [(None, _cut(name), f"input {shape_text(graph.shapes[version])}")]))
    readers = Counter(version for step in graph.steps for version in step.bottoms)
    outputs = {graph.names[name]: name for name in graph.outputs}
    edges: list[tuple[int, int, int]] = []
    box_tops: dict[int, int] = {}  # how many blobs leave a box
    for i, step in enumerate(graph.steps):
        at = _host(step, box_of, boxes, box_tops, readers, outputs)
        if at is None:
            at = len(boxes)
            module = graph.modules[step.key]
            box_tops[at] = len(step.tops)
            kind = _KINDS.get(step.type, "conv" if any(p.dim() > 1 for p in module.parameters()) else "other")
            boxes.append(Box(kind, [(i, _cut(step.name), _cut(f"{step.type or '(shared)'} {summary(module)}", 44))]))
            edges += [(box_of[version], at, version) for version in dict.fromkeys(step.bottoms)]
        else:
            boxes[at].rows.append((i, _cut(f"{step.type} {step.name}", 40), ""))
        box_of.update(dict.fromkeys(step.tops, at))
    for version, name in outputs.items():
        edges.append((box_of[version], len(boxes), version))
        boxes.append(Box("end", [(None, _cut(name), f"output {shape_text(graph.shapes[version])}")]))
    for box in boxes:
        longest = max(max(len(text) * (1.06 if n == 0 else 0.92), len(second) * 0.92) for n, (_, text, second) in enumerate(box.rows))
        box.width = min(max(round(longest * _LETTER + 24), SHORTEST), LONGEST)
        box.height = HEAD + ROW * (len(box.rows) - 1) + PAD
    shown = edges[:MOST_LINES]
    layout = arrange([(box.width, box.height) for box in boxes], [(source, target) for source, target, _ in shown])
    lines = [_line(way, shape_text(graph.shapes[version])) for way, (_, _, version) in zip(layout.lines, shown, strict=True)]
    return _finished(boxes, lines, layout, len(edges) - len(shown))


def _host(
    step: Step,
    box_of: Mapping[int, int],
    boxes: Sequence[Box],
    box_tops: Mapping[int, int],
    readers: Mapping[int, int],
    outputs: Mapping[int, str],
) -> int | None:
    """The box that a layer joins: of the one layer that it reads."""
    if step.type not in _ATTACHED or len(step.bottoms) != 1 or len(step.tops) != 1:
        return None
    (bottom,) = step.bottoms
    at = box_of[bottom]
    alone = readers[bottom] == 1 and bottom not in outputs and boxes[at].kind != "end" and box_tops[at] == 1
    return at if alone and len(boxes[at].rows) < MOST_ROWS else None


def _finished(boxes: list[Box], lines: list[Line], layout: Layout, left_out: int) -> Drawing:
    place: dict[int, tuple[int, int]] = {}
    for box, (x, y) in zip(boxes, layout.boxes, strict=True):
        box.x, box.y = round(x), round(y)
        for n, (i, _, _) in enumerate(box.rows):
            if i is not None:
                place[i] = round(x + box.width / 2), round(y + HEAD / 2 + ROW * n)
    return Drawing(boxes, lines, round(layout.width), round(layout.height), place, left_out)


def _line(way: Sequence[Point], label: str) -> Line:
    """Curves between ranks; where a line runs level, through the gutters, straight."""
    points = [(round(x), round(y)) for x, y in way]
    level = any(a[1] == b[1] for a, b in itertools.pairwise(points))
    path = f"M{points[0][0]} {points[0][1]}"
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        middle = (y0 + y1) // 2
        path += f"L{x1} {y1}" if level or x0 == x1 else f"C{x0} {middle} {x1} {middle} {x1} {y1}"
    (x0, y0), (x1, y1) = points[-2], points[-1]
    return Line(path, label, (x0 + x1) // 2, (y0 + y1) // 2 + 4)


def summary(module: nn.Module) -> str:
    """What a person wants to know of a layer at first sight: 64 × 3×3, stride 2."""
    words = []
    outputs = getattr(module, "out_channels", getattr(module, "out_features", None))
    kernel = getattr(module, "kernel_size", None)
    window = "" if kernel is None else _sides(kernel)
    kind = str(getattr(module, "mode", "")) or type(module).__name__.partition("Pool")[0].removeprefix("Adaptive")
    if "Pool" in type(module).__name__:
        words.append({"Avg": "AVE", "AVE": "AVE"}.get(kind, kind.upper()) + f" {window or 'global'}")
    elif isinstance(outputs, int):
        words.append(f"{outputs:,}" + (f" × {window}" if window else ""))
    elif window:
        words.append(window)
    for name, label, usual in (("stride", "stride", 1), ("dilation", "dilation", 1), ("groups", "groups", 1)):
        value = getattr(module, name, usual)
        if value not in (usual, (usual, usual), (usual,) * 3, None):
            words.append(f"{label} {value[0] if isinstance(value, tuple) and len(set(value)) == 1 else _sides(value)}")
    operation = getattr(module, "operation", None)
    if isinstance(operation, str):
        words.append(operation)
    return ", ".join(words)


def _sides(value: object) -> str:
    sides = value if isinstance(value, (tuple, list)) else (value,)
    sides = sides * 2 if len(sides) == 1 and not isinstance(value, int) else sides
    return "×".join(map(str, sides))


def shape_text(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _cut(text: str, most: int = 36) -> str:
    text = printable(text.strip())
    return text if len(text) <= most else f"{text[: most - 1]}…"
