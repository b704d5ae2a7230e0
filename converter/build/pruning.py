"""Which layers of a phase make the net: what only makes a given blob is cut, losses and evaluations that nobody reads are dropped.

Works on the layers' names and types alone, before any of them is built.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from converter.errors import GraphError, shown
from converter.layers import LayerType
from converter.layers.dropped import LOSS, SAMPLING, is_variant, purpose
from converter.layers.registry import find_type
from converter.read.upgrade import LayerSpec

# What is done to labels on their way to a loss: layers without weights
_SHAPES_LABELS = {"Concat", "Crop", "Eltwise", "Flatten", "Interp", "Permute", "Pooling", "Power", "Reshape", "Slice", "Split", "Threshold"}


@dataclass(eq=False)
class _Node:
    """A layer, and the blob versions that it reads (None: no layer makes the blob) and writes."""

    spec: LayerSpec
    kind: LayerType | None  # None: nothing that we compute
    purpose: str | None
    alive: bool = True
    reads: list[int | None] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)

    @property
    def is_data(self) -> bool:
        """A layer whose tops are inputs of the net."""
        return not self.spec.message.bottom and (self.kind is None or self.kind.is_source)


@dataclass(frozen=True)
class Pruned:
    """The layers that are left, and what stands where others were."""

    layers: list[LayerSpec]
    inputs: list[str]  # given blobs that no layer makes any more
    cut: set[str]  # given blobs whose layers are left out
    read: set[str]  # blobs that a layer reads; Silence reads none
    computed: set[str]  # blobs that a layer reads which does not only train or score
    passing: set[str]  # tops of layers that only shape labels, which losses and evaluations read, of this phase or another
    unused: set[str]  # tops of data layers that were read, but only by layers that are left out: no inputs
    notes: list[str]


class _Pruning:
    def __init__(self, layers: Iterable[LayerSpec], given: Collection[str], elsewhere: Sequence[LayerSpec], where: str):
        self.given, self.where = given, where
        self.elsewhere = {top for layer in elsewhere for top in layer.message.top}
        self.read_elsewhere = {bottom for layer in elsewhere if score_of(layer) for bottom in layer.message.bottom}
        self.nodes: list[_Node] = []
        self.makers: list[_Node] = []  # of each version
        self.readers: dict[int, list[_Node]] = defaultdict(list)
        self.versions: dict[str, list[int]] = defaultdict(list)  # of each blob
        self.labels: set[int] = set()  # versions that are labels, or are computed from labels alone
        self.cut_blobs: set[str] = set()
        self.notes: list[str] = []
        for spec in layers:
            self.add(spec)

    def add(self, spec: LayerSpec) -> None:
        kind = None if is_variant(spec) else find_type(spec)
        node = _Node(spec, kind, score_of(spec))
        for bottom in spec.message.bottom:
            version = self.versions[bottom][-1] if bottom in self.versions else None
            node.reads.append(version)
            if version is not None:
                self.readers[version].append(node)
        of_labels = bool(node.reads) and spec.type in _SHAPES_LABELS and self.labels.issuperset(node.reads)
        for i, top in enumerate(spec.message.top):
            version = len(self.makers)
            self.makers.append(node)
            self.versions[top].append(version)
            node.writes.append(version)
            if (node.is_data and i > 0) or of_labels or node.purpose is not None:
                self.labels.add(version)
        self.nodes.append(node)

    def left(self, version: int) -> list[_Node]:
        """The layers left that read a version; Silence takes what nobody reads."""
        return [node for node in self.readers[version] if node.alive and node.spec.type != "Silence"]

    def drop(self, node: _Node, why: str) -> None:
        node.alive = False
        self.notes.append(f"{node.spec} is left out: {why}")

    # ------------------------------------------------------------------------------------------------ given blobs

    def cut(self) -> None:
        """Take out the layers that make the given blobs, and then those that only they needed."""
        names = [name for name in self.given if name in self.versions and self.is_made(name)]
        if not names:
            return
        self.cut_blobs.update(names)
        writers = [node for node in self.nodes if not node.is_data and any(top in self.cut_blobs for top in node.spec.message.top)]
        for node in writers:
            node.alive = False
        # a blob that no layer is left to read ends the net before it: what its layer reads are the outputs then
        scoring = self.scoring()
        lost = {id(node) for node in self.nodes if node.kind is None and id(node) in scoring}
        read = [node for node in writers if any(id(reader) not in lost for version in node.writes for reader in self.readers[version])]
        layers = [*writers, *self.fall_away(read)]
        for name in names:
            for version in self.versions[name][:-1]:
                for reader in self.left(version):
                    raise GraphError(
                        f"{self.where}: {reader.spec} reads {shown(name)} before another layer writes over it, so it cannot be an input;"
                        " name another blob in input_shapes (--input-shape)."
                    )
        if layers:
            more = f" and {len(layers) - 6} more" if len(layers) > 6 else ""
            which = ", ".join(shown(node.spec.name) for node in layers[:6])
            self.notes.append(f"input_shapes names {', '.join(map(shown, names))}: what only makes that is cut: {which}{more}")

    def is_made(self, name: str) -> bool:
        """Whether a layer makes the blob: no data layer, and none that writes in place over a blob of another phase."""
        first = self.makers[self.versions[name][0]]
        return not first.is_data and name not in first.spec.message.bottom

    def fall_away(self, gone: Iterable[_Node], labels_only: bool = False) -> list[_Node]:
        """Take out the layers whose tops only layers read that are gone; data layers stay, but their tops are no inputs then."""
        found: list[_Node] = []
        wanted = [version for node in gone for version in node.reads]
        while wanted:
            version = wanted.pop()
            node = None if version is None else self.makers[version]
            if node is None or not node.alive or node.is_data or (labels_only and not self.labels.issuperset(node.writes)):
                continue
            if all(self.readers[top] and not self.left(top) for top in node.writes):
                node.alive = False
                found.append(node)
                wanted += node.reads
        return found

    # ------------------------------------------------------------------------------------------------- losses

    def drop_scores(self) -> None:
        """To a fixed point: what we cannot compute of the layers that train or score, and then what lacks a bottom for that."""
        count = -1
        while count != len(self.notes):
            count = len(self.notes)
            scoring = self.scoring()
            for node in [*reversed(self.nodes), *self.nodes]:
                why = self.reason(node, scoring) if node.alive else None
                if why is not None:
                    self.drop(node, why)
                    for other in self.fall_away([node], labels_only=True):
                        self.drop(other, "only layers that are left out read it")

    def scoring(self) -> set[int]:
        """id() of the layers that only train or score: nobody reads their tops, or only layers of that kind do."""
        found: set[int] = set()
        for node in reversed(self.nodes):
            readers = [reader for top in node.writes for reader in self.left(top)]
            wanted = bool(readers) or self.read_elsewhere.issuperset(node.spec.message.top)
            passes = wanted and bool(node.reads) and self.labels.issuperset(node.writes)  # a Reshape of labels
            if (node.purpose is not None or passes) and all(id(reader) in found for reader in readers):
                found.add(id(node))
        return found

    def reason(self, node: _Node, scoring: set[int]) -> str | None:
        """Why a layer is left out, or None."""
        missing = [name for name, version in zip(node.spec.message.bottom, node.reads, strict=True) if self.is_gone(name, version)]
        if node.spec.type == "Silence":
            return self.silenced(node, missing)
        if node.kind is None and not node.writes:
            return node.purpose or "it makes no blob, and so changes no output"
        if node.is_data or id(node) not in scoring:
            return None
        what = f"{node.purpose} that nobody reads" if node.purpose else "only losses and evaluations read it"
        if missing:
            return f"{what}, and its bottom {', '.join(map(shown, missing))} is not made"
        if node.kind is None and node.purpose is not None:
            return what
        return None

    def silenced(self, node: _Node, missing: list[str]) -> str | None:
        """A Silence takes the bottoms that are left."""
        if missing and len(missing) < len(node.reads):
            left = [(name, version) for name, version in zip(node.spec.message.bottom, node.reads, strict=True) if name not in missing]
            del node.spec.message.bottom[:]
            node.spec.message.bottom.extend(name for name, _ in left)
            node.reads = [version for _, version in left]
            missing = []
        return "its bottoms are left out" if missing else None

    def is_gone(self, name: str, version: int | None) -> bool:
        """Whether a blob is made by a layer that is left out, or, where inputs are given, in another phase only."""
        if name in self.given:
            return False
        if version is None:
            return bool(self.given) and name in self.elsewhere
        maker = self.makers[version]
        return not maker.alive or (maker.is_data and maker.kind is None and not self.left(version))

    def result(self) -> Pruned:
        read = {b for node in self.nodes if node.alive and node.spec.type != "Silence" for b in node.spec.message.bottom}
        scoring = self.scoring()
        computed = {b for node in self.nodes if node.alive and id(node) not in scoring for b in node.spec.message.bottom}
        made = {top for node in self.nodes if node.alive for top in node.spec.message.top if top not in node.spec.message.bottom}
        passing = {t for node in self.nodes if id(node) in scoring and node.purpose is None for t in node.spec.message.top}
        unused = set()
        for node in self.nodes:
            for top, version in zip(node.spec.message.top, node.writes, strict=True):
                readers = self.readers[version]
                if node.is_data and readers and not any(reader.alive for reader in readers):
                    unused.add(top)
        inputs = [name for name in self.given if name in read and name not in made]
        return Pruned(
            [node.spec for node in self.nodes if node.alive], inputs, self.cut_blobs, read, computed & read, passing, unused, self.notes
        )


def score_of(spec: LayerSpec) -> str | None:
    """LOSS, EVALUATION or SAMPLING for a layer that trains or scores."""
    kind = find_type(spec)
    return SAMPLING if is_variant(spec) else LOSS if kind is not None and kind.is_loss else purpose(spec)


def prune(layers: Iterable[LayerSpec], given: Collection[str], elsewhere: Sequence[LayerSpec], where: str) -> Pruned:
    """Leave out what only makes a given blob, and the losses and evaluations that nobody reads and that cannot be computed.

    Args:
        layers: those of the phase, in the file's order.
        given: the blobs that input_shapes names.
        elsewhere: the layers of other phases.
        where: the file, for messages.

    Raises:
        GraphError: a given blob is written over, and a layer reads it before.
    """
    pruning = _Pruning(layers, given, elsewhere, where)
    pruning.cut()
    pruning.drop_scores()
    return pruning.result()
