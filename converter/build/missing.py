"""What a net lacks, asked for in one message: inputs without a shape, blobs that no layer makes, layers that cannot be computed."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from converter.build.examples import example_shapes, stated_batch
from converter.build.pruning import Pruned, prune
from converter.errors import GraphError, UnsupportedError, shown, some
from converter.layers.dropped import SAMPLING, purpose
from converter.layers.refused import REFUSED
from converter.layers.registry import Shape, did_you_mean, input_argument, input_options
from converter.read.upgrade import LayerSpec

MOST_NAMED = 12  # inputs, and blobs that no layer makes, in a message


def by_blob(layers: Iterable[LayerSpec], side: Literal["bottom", "top"]) -> dict[str, list[LayerSpec]]:
    """The layers that read a blob (bottom) or make it (top), in their order, by its name."""
    found: dict[str, list[LayerSpec]] = {}
    for layer in layers:
        for name in dict.fromkeys(getattr(layer.message, side)):
            found.setdefault(name, []).append(layer)
    return found


class Missing:
    """Collects what is missing while a net is built; falsy where nothing is."""

    def __init__(self, where: str, phase: str, all_layers: Sequence[LayerSpec], in_phase: Sequence[LayerSpec], pruned: Pruned) -> None:
        """Args: the layers of all phases, those of the phase, and what pruning has left of these."""
        self.where, self.phase, self.all_layers, self.in_phase = where, phase, all_layers, in_phase
        self.left, self.read = pruned.layers, pruned.read
        self.makers = by_blob(all_layers, "top")
        self.ids_left, self.ids_in_phase = {id(layer) for layer in self.left}, {id(layer) for layer in in_phase}
        self.inputs: dict[str, None] = {}  # blobs whose shape is asked for
        self.orphans: list[str] = []  # those of them that no layer makes, and who reads them
        self.records: list[str] = []  # those that are parts of records, and of which
        self.uncomputed: list[tuple[list[str], str]] = []  # tops of layers that cannot be computed, and why
        self.unknown_types = False

    def __bool__(self) -> bool:
        return bool(self.inputs)

    @property
    def few(self) -> bool:
        """Whether what is missing will still be named one by one: to look for names that are near takes long."""
        return len(self.orphans) < MOST_NAMED

    def uncomputable(self, spec: LayerSpec, tops: list[str]) -> None:
        """A layer that nobody can compute from the files, or of a type that is not ours: its tops could be inputs."""
        reasons = ["chooses training samples at random"] if purpose(spec) == SAMPLING else []
        if spec.type == "Python":
            python = spec.message.python_param
            reasons.insert(0, f"runs the Python class {python.module}.{python.layer}, which is not part of the files")
        elif spec.type in REFUSED:
            reasons.insert(0, REFUSED[spec.type])
        elif not reasons:
            self.unknown_types = True
            unknown = "is of a type that we do not know." if spec.type else 'has no type; a layer has one, such as type: "Convolution".'
            reasons.append(f"{unknown}{did_you_mean(spec)}".removesuffix("."))
        self.inputs.update(dict.fromkeys(tops))
        self.uncomputed.append((tops, f"{', '.join(map(shown, tops))}: {spec} {' and '.join(reasons)}"))

    def orphan(self, name: str, reader: LayerSpec, names: Collection[str]) -> None:
        """A blob that a layer reads and none makes; names: those that there are."""
        self.inputs[name] = None
        near = difflib.get_close_matches(name, names, 1) if self.few else []
        meant = f" (did you mean {near[0]!r}?)" if near and not self.staged(name) else ""
        self.orphans.append(f"{shown(name)}, which {reader} reads{meant}{self.staged(name)}")

    def unpacked(self, name: str, parts: list[str]) -> None:
        """Records of a data layer that Slice layers take apart: the parts could be inputs, or the record."""
        self.inputs.update(dict.fromkeys(parts))
        self.records += (
            [f"{', '.join(map(shown, parts))} {'are parts' if len(parts) > 1 else 'is a part'} of {shown(name)}"] if parts else []
        )

    def error(self, given: Collection[str], elsewhere: Sequence[LayerSpec]) -> GraphError | UnsupportedError:
        """The one message, with the words to type."""
        names = self.needed(given, elsewhere)
        several, first = len(names) > 1, names[:MOST_NAMED]
        examples = example_shapes(first, self.left)
        more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
        text = (
            f"{self.where}: the prototxt does not say the shape of the input{'s' if several else ''} {', '.join(map(shown, first))}{more};"
            f" give {'them' if several else 'it'}: {input_options(examples)} on the command line, {input_argument(examples)} in Python"
            " (the numbers are examples)."
        )
        if self.records:
            text += f" {some(self.records)}; give the shape of that instead if your data are packed."
        if self.orphans:
            text += f" No layer of phase {self.phase} makes {some(self.orphans)}."
        reasons = [reason for tops, reason in self.uncomputed if set(tops) & set(names)]
        if reasons:
            text += f" These cannot be computed, and are inputs then, with all cut that only makes them: {some(reasons)}."
        if self.unknown_types:
            text += " `convert-caffe --list-layers` names the types that we compute."
        return (UnsupportedError if self.unknown_types else GraphError)(text)

    def unfit(self, error: GraphError, given: Mapping[str, Shape], inputs: Collection[str]) -> GraphError:
        """The error of a layer that does not take its bottoms' shapes, with what was given for them and what the file says of it."""
        shapes = {name: shape for name, shape in given.items() if name in inputs}
        if not shapes:
            return error
        batches = {name: stated_batch(layer) for layer in self.left for name in layer.message.top if name in shapes}
        says = [f"the data layer of {shown(name)} says batch_size: {n}" for name, n in batches.items() if n and shapes[name][:1] != (n,)]
        return GraphError(
            f"{error} These shapes follow from what was given, {input_options(shapes)}; give the one that the net was made for"
            f"{''.join(f' ({each})' for each in says)}."
        )

    def needed(self, given: Collection[str], elsewhere: Sequence[LayerSpec]) -> list[str]:
        """The inputs but those that only layers read that are cut once all of the inputs are given."""
        names = list(self.inputs)
        try:
            pruned = prune(self.in_phase, [*given, *names], elsewhere, self.where)
        except GraphError:
            return names
        return [name for name in names if name in pruned.read or name not in self.read] or names

    def left_out(self) -> str:
        """What to say of a net all of whose layers belong to another phase, stage or level."""
        others = [layer for layer in self.all_layers if id(layer) not in self.ids_in_phase]
        if not others:
            return " Convert the file that has the net's layers."
        rules = [rule for layer in others for rule in (*layer.message.include, *layer.message.exclude)]
        other = "TRAIN" if self.phase == "TEST" else "TEST"
        wanted = list(dict.fromkeys(f"--stage {stage}" for rule in rules for stage in rule.stage))
        wanted += [f"--phase {other}"] if any(rule.HasField("phase") for rule in rules) else []
        wanted += sorted({f"--level {rule.min_level}" for rule in rules if rule.HasField("min_level")})
        layers = f"{others[0]}" + (f" and {len(others) - 1} more" if len(others) > 1 else "")
        return f" Their rules leave out {layers}; what they ask for: {some(wanted)}." if wanted else f" Their rules leave out {layers}."

    def other_phase(self) -> str:
        """A hint where the layers of the file belong to the other phase."""
        other = "TRAIN" if self.phase == "TEST" else "TEST"
        stages = sorted({stage for layer in self.all_layers for rule in layer.message.include for stage in rule.stage})
        hint = f" If the graph is that of phase {other}, convert that: --phase {other}, or phase={other!r} in Python."
        if stages:
            hint += f" The stages that the file names: {' '.join(f'--stage {stage}' for stage in stages)}."
        return hint

    def staged(self, name: str) -> str:
        """What to say of a blob that only layers of stages make: such a net is built with one of them; else ""."""
        makers = self.makers.get(name, [])
        stages = list(dict.fromkeys(stage for layer in makers for rule in layer.message.include for stage in rule.stage))
        if not stages or not all(rule.stage for layer in makers for rule in layer.message.include):
            return ""
        return f" ({makers[0]} makes it in a stage: {' or '.join(f'--stage {stage}' for stage in stages)} takes it from there)"

    def unmade(self, name: str, names: Collection[str]) -> str:
        """Why no layer makes a blob so far, and what to do, where the file tells; "" where it is an input that the file does not hold.

        names: the blobs that there are so far.
        """
        makers = self.makers.get(name, [])
        later = [str(other) for other in makers if id(other) in self.ids_left]
        if later:
            return f"; {later[0]} makes it, but only later"
        dropped = [str(other) for other in makers if id(other) not in self.ids_in_phase]  # what is cut of the phase's leaves an input
        if dropped and not self.staged(name):
            made = {top for each in self.left for top in each.message.top}
            orphans = [b for b in dict.fromkeys(b for each in self.left for b in each.message.bottom) if b not in made]
            return (
                f"; {dropped[0]} makes it in another phase or stage.{self.other_phase()}"
                f" Or give the inputs that the phase lacks: {input_options(orphans)}"
            )
        near = difflib.get_close_matches(name, names, 1, 0.9) if not dropped and self.few else []
        return f"; did you mean {near[0]!r}? If it is an input, give its shape: {input_options([name])}" if near else ""
