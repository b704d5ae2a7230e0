"""Where the boxes and lines of a drawn net go: longest-path layering, folded into columns, in plain Python.

A net is long and thin: it is cut where few lines cross and its pieces stand side by side, to be read as the columns of a newspaper.
Lines between neighbouring ranks, and those that pass a few ranks, find their way between the boxes (Sugiyama's method: dummies,
barycentres, isotonic placement); far ones run through the gutters between the columns. Every step is linear in what is drawn, or
nearly so, and has a bound: a hostile net gives an ugly picture, not a hang.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

GAP_X, GAP_Y = 28.0, 46.0  # between boxes; the lines' texts stand in the second
ASPECT = 1.7  # width to height of the whole
NEAR = 8  # ranks that a line may pass between the boxes
MOST_DUMMIES = 20_000
SWEEPS = 8
LANES, LANE = 12, 7.0  # lines side by side in a gutter, and their distance
Point = tuple[float, float]


@dataclass
class Layout:
    """Left upper corners of the boxes, a polyline for each line, and the size of the whole."""

    boxes: list[Point]
    lines: list[list[Point]]
    width: float
    height: float


@dataclass
class _Item:
    """A box, or the place where a line passes a rank."""

    node: int  # -1 for a dummy
    width: float
    height: float
    above: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)
    x: float = 0.0  # the middle
    y: float = 0.0  # the upper edge


def arrange(sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]) -> Layout:
    """Place boxes of these (width, height); edges lead from a box to a later one of the sequence."""
    ranks = ranked(len(sizes), edges)
    columns = folded(sizes, edges, ranks)
    column_of = [columns[rank] for rank in ranks]
    items, paths = _items(sizes, edges, ranks, column_of)
    rows: dict[int, dict[int, list[int]]] = {}
    for i, (_, rank, column) in enumerate(items.places):
        rows.setdefault(column, {}).setdefault(rank, []).append(i)
    lanes = _lanes(paths, edges, column_of)
    left, height = 0.0, 0.0
    right_of: dict[int, float] = {}
    for column in sorted(rows):
        order = [rows[column][rank] for rank in sorted(rows[column])]
        _order(order, items.all)
        _place(order, items.all)
        left, bottom = _shift(order, items.all, left)
        right_of[column] = left
        left += GAP_X + LANE * (lanes.get(column, 0) + 1)
        height = max(height, bottom)
    boxes: list[Point] = [(0.0, 0.0)] * len(sizes)
    for item in items.all:
        if item.node >= 0:
            boxes[item.node] = item.x - item.width / 2, item.y
    lines, lowest = _routes(sizes, edges, paths, items.all, boxes, column_of, right_of, height)
    return Layout(boxes, lines, left, max(height, lowest) + GAP_Y / 2)


def ranked(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Longest path from above; what nothing leads to stands just above its first reader."""
    ranks, first = [0] * count, [math.inf] * count
    fed = [False] * count
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        ranks[target] = max(ranks[target], ranks[source] + 1)
        fed[target] = True
    for source, target in edges:
        first[source] = min(first[source], ranks[target])
    return [rank if fed[i] or first[i] == math.inf else int(first[i]) - 1 for i, rank in enumerate(ranks)]


def folded(sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]], ranks: Sequence[int]) -> list[int]:
    """The column of each rank: the ranks are cut where few lines cross, so that the whole is about ASPECT times as wide as high."""
    count = max(ranks, default=0) + 1
    heights, widths, crossing = [0.0] * count, [0.0] * count, [0] * (count + 1)
    for (width, height), rank in zip(sizes, ranks, strict=True):
        heights[rank] = max(heights[rank], height + GAP_Y)
        widths[rank] += width + GAP_X
    last: dict[int, int] = {}
    for source, target in edges:
        last[source] = max(last.get(source, 0), ranks[target])
    for source, rank in last.items():
        crossing[ranks[source]] += 1
        crossing[rank] -= 1
    for rank in range(1, count):
        crossing[rank] += crossing[rank - 1]  # now: the boxes of this rank or above it that lines lead down from
    total, wide = sum(heights), sorted(widths)[int(0.9 * (count - 1))] + 2 * GAP_X
    pieces = max(1, round(math.sqrt(ASPECT * total / wide)))
    each = total / pieces
    columns, column, start, done = [0] * count, 0, 0.0, 0.0
    best: tuple[float, int] | None = None
    rank = 0
    while rank < count:
        done += heights[rank]
        columns[rank] = column
        share = (done - start) / each
        if share >= 0.7 and rank + 1 < count and total - done > 0.4 * each:
            cost = crossing[rank] + 4 * abs(share - 1)
            best = min(best, (cost, rank)) if best else (cost, rank)
        if share >= 1.3 and best:
            rank, column, best = best[1], column + 1, None
            done = start = sum(heights[: rank + 1])
        rank += 1
    return columns


@dataclass
class _Items:
    all: list[_Item]
    places: list[tuple[int, int, int]]  # node or -1, rank, column


def _items(
    sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]], ranks: Sequence[int], columns: Sequence[int]
) -> tuple[_Items, list[list[int] | None]]:
    """The boxes and the dummies of near lines; a line's way through them, or None where it goes through the gutters."""
    items = [_Item(i, width, height) for i, (width, height) in enumerate(sizes)]
    places = [(i, ranks[i], columns[i]) for i in range(len(sizes))]
    paths: list[list[int] | None] = []
    for source, target in edges:
        span = ranks[target] - ranks[source]
        if columns[source] != columns[target] or span > NEAR or len(items) + span > len(sizes) + MOST_DUMMIES:
            paths.append(None)
            continue
        way = [source]
        for rank in range(ranks[source] + 1, ranks[target]):
            way.append(len(items))
            items.append(_Item(-1, 8.0, 0.0))
            places.append((-1, rank, columns[source]))
        way.append(target)
        for upper, lower in itertools.pairwise(way):
            items[upper].below.append(lower)
            items[lower].above.append(upper)
        paths.append(way)
    return _Items(items, places), paths


def _order(rows: list[list[int]], items: list[_Item]) -> None:
    """Sort each row by the barycentres of its neighbours, downwards and upwards in turn."""
    at: dict[int, int] = {}
    for row in rows:
        at.update({item: i for i, item in enumerate(row)})
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            if len(row) == 1:
                continue
            key = {}
            for item in row:
                near = items[item].above if down else items[item].below
                key[item] = sum(at[n] for n in near) / len(near) if near else at[item]
            row.sort(key=key.__getitem__)
            at.update({item: i for i, item in enumerate(row)})


def _place(rows: list[list[int]], items: list[_Item]) -> None:
    """Give each row the places nearest to the means of its neighbours that keep its order and its distances."""
    for row in rows:
        x = 0.0
        for item in row:
            items[item].x = x + items[item].width / 2
            x += items[item].width + GAP_X
        for item in row:
            items[item].x -= (x - GAP_X) / 2
    for sweep in range(2 * SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            wanted, weights = [], []
            for item in row:
                here = items[item]
                near = here.above if down else here.below
                if not near:
                    wanted.append(here.x)
                    weights.append(0.05)
                    continue
                pull = [8.0 if here.node < 0 and items[n].node < 0 else 2.0 if here.node < 0 or items[n].node < 0 else 1.0 for n in near]
                wanted.append(sum(items[n].x * p for n, p in zip(near, pull, strict=True)) / sum(pull))
                weights.append(sum(pull))
            for item, x in zip(row, _spaced(wanted, weights, [items[item].width for item in row]), strict=True):
                items[item].x = x


def _spaced(wanted: list[float], weights: list[float], widths: list[float]) -> list[float]:
    """The places nearest to the wanted ones (least squares) at which the boxes do not overlap: isotonic regression."""
    offsets, at = [], 0.0
    for i, width in enumerate(widths):
        at += width / 2 if i == 0 else (widths[i - 1] + width) / 2 + GAP_X
        offsets.append(at)
    blocks: list[tuple[float, float, int]] = []  # mean, weight, members
    for x, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, total, members = x - offset, weight, 1
        while blocks and blocks[-1][0] >= mean:
            before, w, n = blocks.pop()
            mean, total, members = (before * w + mean * total) / (w + total), w + total, members + n
        blocks.append((mean, total, members))
    means = [mean for mean, _, members in blocks for _ in range(members)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _shift(rows: list[list[int]], items: list[_Item], left: float) -> tuple[float, float]:
    """Put a column at its place; its right and its lower edge."""
    lowest = min(items[i].x - items[i].width / 2 for row in rows for i in row)
    right, y = 0.0, GAP_Y
    for row in rows:
        tall = max(items[i].height for i in row)
        for i in row:
            items[i].x += left + GAP_X - lowest
            items[i].y = y
            if items[i].node < 0:
                items[i].height = tall
            right = max(right, items[i].x + items[i].width / 2)
        y += tall + GAP_Y
    return right, y


def _lanes(paths: Sequence[list[int] | None], edges: Sequence[tuple[int, int]], columns: Sequence[int]) -> dict[int, int]:
    """How many lines run in the gutter to the right of each column."""
    found: dict[int, int] = {}
    for path, (source, target) in zip(paths, edges, strict=True):
        if path is None:
            for column in {columns[source], max(columns[target] - 1, columns[source])}:
                found[column] = min(found.get(column, 0) + 1, LANES)
    return found


def _routes(
    sizes: Sequence[tuple[float, float]],
    edges: Sequence[tuple[int, int]],
    paths: Sequence[list[int] | None],
    items: Sequence[_Item],
    boxes: Sequence[Point],
    columns: Sequence[int],
    right_of: dict[int, float],
    height: float,
) -> tuple[list[list[Point]], float]:
    """A polyline for each line, and how far down they reach."""
    leaving, entering = _ports(sizes, edges, paths, items, boxes, columns)
    lines: list[list[Point]] = []
    used: dict[int, int] = {}
    lowest, below = 0.0, 0

    def gutter(column: int) -> float:
        used[column] = used.get(column, -1) + 1
        return right_of[column] + GAP_X / 2 + LANE * (used[column] % LANES)

    for i, (path, (source, target)) in enumerate(zip(paths, edges, strict=True)):
        (x0, y0), (x1, y1) = leaving[i], entering[i]
        if path is not None:
            middle = [point for d in path[1:-1] for point in ((items[d].x, items[d].y), (items[d].x, items[d].y + items[d].height))]
            lines.append([(x0, y0), *middle, (x1, y1)])
            continue
        out, into = y0 + 12 + i % 3 * 3, y1 - 14 - i % 3 * 3
        first = gutter(columns[source])
        line = [(x0, y0), (x0, out), (first, out)]
        if columns[target] - columns[source] > 1:
            floor = height + 6 + 5 * (below % LANES)
            below, lowest = below + 1, max(lowest, height + 6 + 5 * LANES)
            last = gutter(columns[target] - 1)
            line += [(first, floor), (last, floor), (last, into)]
        else:
            line.append((first, into))
        lines.append([*line, (x1, into), (x1, y1)])
    return lines, lowest


def _ports(
    sizes: Sequence[tuple[float, float]],
    edges: Sequence[tuple[int, int]],
    paths: Sequence[list[int] | None],
    items: Sequence[_Item],
    boxes: Sequence[Point],
    columns: Sequence[int],
) -> tuple[list[Point], list[Point]]:
    """Where each line leaves its upper box and enters its lower one: side by side, in the order of where they go."""
    out: dict[int, list[tuple[float, int]]] = {}
    into: dict[int, list[tuple[float, int]]] = {}
    for i, (source, target) in enumerate(edges):
        path = paths[i]
        after = math.inf if path is None else items[path[1]].x
        before = (math.inf if columns[source] == columns[target] else -math.inf) if path is None else items[path[-2]].x
        out.setdefault(source, []).append((after, i))
        into.setdefault(target, []).append((before, i))
    leaving: list[Point] = [(0.0, 0.0)] * len(edges)
    entering: list[Point] = [(0.0, 0.0)] * len(edges)
    for held, found, lower in ((out, leaving, 1), (into, entering, 0)):
        for node, ends in held.items():
            (x, y), (width, height) = boxes[node], sizes[node]
            for place, (_, i) in enumerate(sorted(ends)):
                share = 0.5 if len(ends) == 1 else 0.12 + 0.76 * place / (len(ends) - 1)
                found[i] = x + width * share, y + height * lower
    return leaving, entering
