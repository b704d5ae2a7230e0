"""A NetSpec becomes an ordered list of steps: the layers of one phase, built, wired, and run once on meta tensors.

Blobs are versions: a layer that writes in place makes a new version of its blob's name, and whoever reads the name later
reads that one. Caffe gets the same by inserting Split layers. Where Caffe's layers share memory with their bottom (Reshape,
Flatten, Split) and an in-place layer then writes to it, the other names of that memory change too: such writes become steps.
"""

from __future__ import annotations

import difflib
import keyword
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from converter.build.crops import crop_offsets
from converter.build.meta import QuickMeta
from converter.build.missing import Missing, by_blob
from converter.build.phases import kept_layers, unmet_stages
from converter.build.preprocessing import preprocess_of
from converter.build.pruning import prune
from converter.errors import GraphError, UnsupportedError, counted, shown, some
from converter.layers import Layer, LayerType, Sources, build, layer_type
from converter.layers.dropped import purpose
from converter.layers.fork_data import stated_shapes
from converter.layers.module import Shared
from converter.layers.registry import Ignored, find_type, first_line, input_options, refuse_unknown, shapes_of
from converter.layers.weighted import as_stored
from converter.net import CaffeNet
from converter.preprocess import Preprocess
from converter.program import Program, Shape, Step
from converter.read.schema import message_class
from converter.read.upgrade import LayerSpec, NetSpec

MAX_ELEMENTS = 1 << 40  # of one blob: more is a hostile or damaged prototxt
MAX_LAYERS = 10_000  # ResNet-1001 has some 4,000
_GUESS = (1, 3, 224, 224)  # of an input without a shape, so that the rest is looked at, too; the net is refused at the end
MAX_REWRITES = 10_000  # other names of memory that in-place layers wrote to: n tops of a Split, each written, are n² of them


@dataclass
class Graph:
    """The net of one phase on the meta device: its program, its modules, and what else the files say."""

    where: str
    name: str
    phase: str
    program: Program
    modules: dict[str, nn.Module]
    inputs: dict[str, Shape]
    shapes: list[Shape]  # of each blob version
    sources: list[LayerSpec]  # the layers that the inputs stand for
    layers: list[LayerSpec]  # those of this phase, in the file's order
    notes: list[str]
    ignored: tuple[str, ...] = ()  # fields that the user knows to be harmless
    preprocess: Preprocess | None = None  # how an image becomes the net's input
    changes: list[str] = field(default_factory=list)  # what was asked to be other than in the files, and was done

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.program.steps

    @property
    def versions(self) -> tuple[str, ...]:
        """The name of each blob version, "" for a loss's automatic top."""
        return self.program.versions

    @property
    def names(self) -> dict[str, int]:
        """The last version of each blob."""
        return self.program.blobs

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.program.outputs


class _Builder:
    def __init__(self, spec: NetSpec, phase: str, layers: list[LayerSpec], shapes: Mapping[str, Sequence[int]], ignored: Ignored):
        self.where, self.name, self.phase, self.all_layers = spec.where, spec.name, phase, spec.layers
        self.given = {name: tuple(int(d) for d in dims) for name, dims in shapes.items()}
        kept = {id(layer) for layer in layers}
        self.elsewhere = [layer for layer in spec.layers if id(layer) not in kept]
        self.pruned = prune(layers, self.given, self.elsewhere, spec.where)
        self.layers, self.all_in_phase, self.ignored = self.pruned.layers, layers, ignored
        self.readers = by_blob(self.layers, "bottom")
        self.notes = [*spec.notes, *self.pruned.notes]
        self.sources: list[LayerSpec] = []
        self.inputs: dict[str, Shape] = {}
        self.input_versions: dict[str, int] = {}
        self.steps: list[Step] = []
        self.modules: dict[str, nn.Module] = {}
        self.values: list[Tensor] = []  # a meta tensor for each blob version
        self.versions: list[str] = []  # and its name
        self.names: dict[str, int] = {}  # the last version of each blob
        self.memory: list[int] = []  # versions with the same number share memory in Caffe
        self.holders: dict[int, dict[str, int]] = defaultdict(dict)  # the last versions in each memory, by name
        self.owners: dict[str, tuple[Step, int]] = {}  # whose blob a param name was first
        self.repeats: Counter[str] = Counter()
        self.rewrites = 0
        self.silenced = {bottom for layer in layers if layer.type == "Silence" for bottom in layer.message.bottom}
        self.bare = CaffeNet({}, Program(), {})  # its attributes are no names for layers
        self.missing = Missing(spec.where, phase, spec.layers, layers, self.pruned)
        self.continuing: set[str] = set()  # inputs without a shape that a recurrent layer takes for its `cont`
        self.unlabelled: set[str] = set()  # labels without a shape, and what only they give
        self.unscored: set[int] = set()  # id() of the layers that are left out for that
        self.unscorable: GraphError | UnsupportedError | None = None  # why the first of those could not be built

    def version(self, name: str, value: Tensor, memory: int | None = None) -> int:
        """A new version of a blob; the one that readers of its name get from now on."""
        if value.numel() > MAX_ELEMENTS:
            raise ValueError(f"a blob of shape {tuple(value.shape)} has more values than any net's")
        self.values.append(value)
        memory = len(self.values) if memory is None else memory
        self.memory.append(memory)
        self.versions.append(name)
        if name:
            before = self.names.get(name)
            if before is not None:
                self.holders[self.memory[before]].pop(name, None)
            self.holders[memory][name] = self.names[name] = len(self.values) - 1
        return len(self.values) - 1

    def failed(self, spec: LayerSpec, problem: str) -> GraphError:
        return GraphError(f"{self.where}: {spec}: {problem}{'' if problem.endswith('?') else '.'}")

    def run(self) -> Graph:
        if not self.all_in_phase:
            why = "its include and exclude rules drop them all"
            raise GraphError(f"{self.where}: no layer is left in phase {self.phase}; {why}.{self.missing.other_phase()}")
        if len(self.layers) > MAX_LAYERS:
            raise GraphError(f"{self.where}: {len(self.layers):,} layers are more than any net's.")
        if self.pruned.inputs:
            message = message_class("LayerParameter")(name="input", type="Input", top=self.pruned.inputs)
            self.source(LayerSpec(message, None), [None] * len(self.pruned.inputs))
        for spec in self.layers:
            kind = find_type(spec)
            if kind is None and not spec.message.bottom and spec.message.top:
                self.notes.append(f"{spec} is taken for a data layer: its tops are inputs")
                self.source(spec, stated_shapes(spec, self.given))
            elif kind is None:
                self.uncomputable(spec)
            elif kind is not None and kind.removed:
                self.notes.append(f"{spec} is left out: {kind.removed}")
            elif kind is not None and kind.is_source:
                self.source(spec, self.stated(spec, kind))
            else:
                self.layer(spec)
        self.missing.inputs.update(dict.fromkeys(sorted(self.continuing)))  # their layer could not be built
        if self.missing:
            raise self.missing.error(self.given, self.elsewhere)
        strange = [name for name in self.given if not any(name in each for each in (self.inputs, self.pruned.cut, self.pruned.unused))]
        if strange:
            near = [hit for name in strange for hit in difflib.get_close_matches(name, self.names, 1)]
            hint = f" Did you mean {', '.join(map(shown, near))}?" if near else ""
            raise GraphError(f"{self.where}: input_shapes names {strange}, but the net's inputs are {list(self.inputs)}.{hint}")
        if self.ignored.unmet:
            raise GraphError(f"{self.where}: ignore names {self.ignored.unmet}, which no layer of phase {self.phase} has; leave it out.")
        if not self.steps:
            if self.unscorable is not None:
                raise self.unscorable
            cut = f" input_shapes names {sorted(self.pruned.cut)}, and all that only makes them is cut." if self.pruned.cut else ""
            other = "" if cut else self.missing.left_out()
            raise GraphError(f"{self.where}: phase {self.phase} has inputs, and no layer that computes anything.{cut}{other}")
        versions = {name: self.input_versions[name] for name in self.inputs}
        program = Program(tuple(self.steps), tuple(self.versions), versions, self.outputs())
        shapes = [tuple(value.shape) for value in self.values]
        return Graph(
            self.where,
            self.name,
            self.phase,
            program,
            self.modules,
            self.inputs,
            shapes,
            self.sources,
            [spec for spec in self.layers if id(spec) not in self.unscored],
            self.notes,
            self.ignored.names,
        )

    def stated(self, spec: LayerSpec, kind: LayerType) -> list[Shape | None]:
        """The shapes that a data layer of Caffe's own says; they are not asked for where all are given."""
        if all(top in self.given for top in spec.message.top):
            return [None] * len(spec.message.top)
        made, notes = build(spec, kind, [], self.phase, self.where, self.ignored)
        assert isinstance(made, Sources)
        self.notes += notes
        return list(made.shapes)

    def source(self, spec: LayerSpec, shapes: Sequence[Shape | None]) -> None:
        """A data layer: its tops are inputs of the net, but for those that nobody reads (the first one, and those of Input layers, are)."""
        self.sources.append(spec)
        tops = list(spec.message.top)
        batch = self.given[tops[0]][:1] if tops and tops[0] in self.given else None
        known = find_type(spec) is not None
        for i, (top, shape) in enumerate(zip(tops, shapes, strict=True)):
            if top in self.names:
                raise self.failed(spec, f"its top {top!r} is already there; two layers produce it")
            read = top in self.pruned.read or top in self.given or (known and top in self.silenced)
            if top in self.pruned.unused or not (read or (known and (spec.type == "Input" or i == 0))):
                continue
            if i > 0 and batch and shape and len(shape) == 1:
                shape = batch  # labels follow the batch that was asked for
            shape = self.given.get(top, shape)
            if shape is None and top in self.pruned.read and top not in self.pruned.computed:
                self.unlabelled.add(top)
                continue
            if shape is None and self.continues(top):
                self.inputs[top] = ()  # known with the layer's other bottom
                self.continuing.add(top)
                continue
            if shape is None:
                if spec.type == "Input" or not self.unpacked(top):
                    self.missing.inputs[top] = None
                shape = _GUESS
            if any(size < 0 for size in shape):
                example = {top: tuple(size if size > 0 else 1 for size in shape)}
                raise self.failed(
                    spec, f"its top {top!r} cannot have the shape {shape}; say the one that you mean: {input_options(example)}"
                )
            self.inputs[top] = shape
            try:
                self.input_versions[top] = self.version(top, torch.empty(shape, device="meta"))
            except (RuntimeError, ValueError, TypeError, OverflowError) as error:
                raise self.failed(spec, f"its top {top!r} cannot have the shape {shape}: {first_line(error)}") from error

    def continues(self, name: str) -> bool:
        """Whether the first layer that reads a blob is a recurrent one that takes it for `cont`, whose shape its other bottom tells."""
        first = next(iter(self.readers.get(name, ())), None)
        return first is not None and first.type in ("RNN", "LSTM") and list(first.message.bottom).index(name) == 1

    def unpacked(self, name: str) -> bool:
        """Whether Slice layers take the records of a data layer apart, and nothing else reads them: then the parts are the inputs."""
        readers = self.readers.get(name)
        if not readers or any(layer.type != "Slice" or len(layer.message.bottom) != 1 for layer in readers):
            return False
        parts = [top for layer in readers for top in layer.message.top if top in self.pruned.read]
        self.missing.unpacked(name, parts)
        return bool(parts)

    def uncomputable(self, spec: LayerSpec) -> None:
        """A layer that nobody can compute from the files, or that we do not know: what is read of it could be inputs."""
        tops = [top for top in spec.message.top if top in self.pruned.computed]
        if not tops:
            layer_type(spec, self.where)
        self.missing.uncomputable(spec, tops)
        for top in dict.fromkeys(spec.message.top):
            self.version(top, torch.empty(_GUESS if top in tops else (1,), device="meta"))

    def bottoms(self, spec: LayerSpec) -> list[int]:
        for name in spec.message.bottom:
            if name in self.continuing:
                self.continuing.discard(name)
                self.inputs[name] = tuple(self.values[self.names[spec.message.bottom[0]]].shape[:2])
                self.input_versions[name] = self.version(name, torch.empty(self.inputs[name], device="meta"))
            elif name not in self.names:
                problem = self.missing.unmade(name, self.names)
                if problem or self.only_scores(spec):
                    raise self.failed(spec, f"its bottom {shown(name)} is made by no layer of phase {self.phase}{problem}")
                self.missing.orphan(name, spec, self.names)
                self.version(name, torch.empty(_GUESS, device="meta"))
        return [self.names[name] for name in spec.message.bottom]

    def layer(self, spec: LayerSpec) -> None:
        """Build a layer; one that only trains or scores is left out where it cannot be: what the net computes does not hang on it."""
        labels = [name for name in spec.message.bottom if name in self.unlabelled]
        if labels:
            self.leave_out(spec, f"its {', '.join(map(shown, labels))} has no shape; --input-shape {labels[0]}=... keeps it")
            return
        modules = len(self.modules)
        try:
            self.compute(spec)
        except (GraphError, UnsupportedError) as error:
            if not self.only_scores(spec):
                raise
            while len(self.modules) > modules:
                self.modules.popitem()
            self.unscorable = self.unscorable or error
            self.leave_out(spec, str(error).removeprefix(f"{self.where}: "))

    def only_scores(self, spec: LayerSpec) -> bool:
        """Whether a layer is a loss or an evaluation that nobody reads, or only such layers read it."""
        kind, tops = find_type(spec), set(spec.message.top)
        scores = (
            (kind is not None and kind.is_loss)
            or purpose(spec) is not None
            or bool(tops and (tops <= self.pruned.read or tops <= self.pruned.passing))
        )
        return scores and not tops & (self.pruned.computed | set(spec.message.bottom))

    def leave_out(self, spec: LayerSpec, why: str) -> None:
        self.unlabelled.update(name for name in spec.message.top if name not in self.names)
        self.unscored.add(id(spec))
        self.notes.append(f"{spec} is left out: it only trains or scores, and {why}")

    def compute(self, spec: LayerSpec) -> None:
        bottoms = self.bottoms(spec)
        inputs = [self.values[i] for i in bottoms]
        kind = layer_type(spec, self.where)
        if self.missing:
            refuse_unknown(spec, kind, self.where, self.ignored)  # shapes are guesses by now: look no further than at the fields
            for name in spec.message.top:
                self.version(name, torch.empty(1, 3, 224, 224, device="meta"))
            return
        if spec.type == "CROP":
            self.place_crop(spec, bottoms)
        try:
            made, notes = build(spec, kind, inputs, self.phase, self.where, self.ignored)
        except GraphError as error:
            raise (error if error.__cause__ is None else self.missing.unfit(error, self.given, self.inputs)) from error.__cause__
        assert isinstance(made, Layer)
        self.notes += notes
        key = self.key(spec.name)
        self.modules[key] = made.module.eval()
        try:
            with torch.no_grad(), QuickMeta():
                result = made.module(*inputs)
            values = list(result) if isinstance(result, tuple) else [result]
            names: list[str] = list(spec.message.top)
            if kind.is_loss and not names:
                names = [""] * len(values)  # Caffe's automatic top, which has no name
            if len(names) != len(values):
                raise self.failed(spec, f"it has {counted(len(names), 'top')}; with these bottoms and parameters it makes {len(values)}")
            twice = [name for name, count in Counter(names).items() if name and count > 1]
            if twice:
                raise self.failed(spec, f"it has the top {shown(twice[0])} twice")
            tops = [self.top(spec, bottoms, i, names, value) for i, value in enumerate(values)]
        except GraphError:
            raise
        except (ValueError, RuntimeError, IndexError, TypeError, OverflowError, ZeroDivisionError, NotImplementedError) as error:
            failed = self.failed(spec, f"with bottoms of shape {shapes_of(inputs)}: {first_line(error)}")
            raise self.missing.unfit(failed, self.given, self.inputs) from error
        self.steps.append(self.step(key, spec, bottoms, tops, made))
        for name, bottom, top in zip(spec.message.top, bottoms, tops, strict=False):
            if name in spec.message.bottom:
                self.overwrite(spec, bottom, top)

    def place_crop(self, spec: LayerSpec, bottoms: list[int]) -> None:
        """A V1 CROP becomes the Crop of today, with the offset that its net gives it."""
        if len(bottoms) != 2:
            return
        try:
            offsets = crop_offsets(self.steps, self.modules, *bottoms)
        except UnsupportedError as error:
            raise UnsupportedError(f"{self.where}: {spec}: {error}") from None
        self.notes.append(f"{spec} begins at {offsets[0]}, {offsets[1]}, as the layers between its bottoms say")
        spec.message.type = "Crop"
        spec.message.crop_param.axis = 2
        spec.message.crop_param.offset[:] = offsets

    def step(self, key: str, spec: LayerSpec, bottoms: list[int], tops: list[int], made: Layer) -> Step:
        """The layer's step, with the shapes of its blobs and the names that it shares some of them by."""
        state = {name: tuple(value.shape) for name, value in made.module.state_dict().items()}
        shapes = tuple(state[param.key] if param.shape is None else param.shape for param in made.params)
        named = [param.name for param in spec.message.param][: len(shapes)]
        shared = (*named, *[""] * (len(shapes) - len(named)))
        step = Step(
            key, tuple(bottoms), tuple(tops), spec.name, spec.type, str(spec),
            tuple(made.params), shapes, shared, made.load, made.save, made.arrange, state,
        )  # fmt: skip
        return self.share(step)

    def top(self, spec: LayerSpec, bottoms: list[int], i: int, names: list[str], value: Tensor) -> int:
        """The version of a blob that a layer's i-th top is."""
        name = names[i]
        in_place = i < len(spec.message.bottom) and spec.message.bottom[i] == name
        kind = layer_type(spec, self.where)
        if in_place and kind.shares_memory:
            raise self.failed(spec, f"its top {shown(name)} is its bottom; Caffe does not let this type work in place")
        if name in self.names and not in_place:
            raise self.failed(
                spec, f"its top {shown(name)} is already there, made by another layer; only an in-place one may write it. Rename it"
            )
        lone = spec.type in ("Concat", "Slice") and len(bottoms) == len(names) == 1
        shares = kind.shares_memory or lone or in_place
        return self.version(name, value, self.memory[bottoms[i if in_place else 0]] if shares else None)

    def overwrite(self, spec: LayerSpec, bottom: int, top: int) -> None:
        """Other blobs in the memory that an in-place layer wrote to get its values."""
        if self.memory[top] != self.memory[bottom]:
            return
        for name, version in list(self.holders[self.memory[top]].items()):
            if version in (top, bottom):
                continue
            self.rewrites += 1
            if self.rewrites > MAX_REWRITES:
                raise self.failed(spec, "layers that work in place on blobs that share memory change more blobs than any net has")
            changed = self.version(name, self.values[version], self.memory[top])
            key = self.key(f"{spec.name}_shared")
            self.modules[key] = Shared()
            self.steps.append(Step(key, (top, version), (changed,), spec.name, "", str(spec)))

    def key(self, name: str) -> str:
        """The layer's name as nn.Module takes it: no dot, no attribute of a module, no name that is taken.

        torch.fx and torch.export write children's names into source code as they are: what would end a string there (quotes,
        backslashes, control characters) becomes '_', too, and a keyword gets a trailing one.
        """
        key = unicodedata.normalize("NFKC", name)
        key = "".join("_" if c in ".\"'\\" or not c.isprintable() else c for c in key) or "_"
        plain = key
        key += "_" * self.repeats[plain]
        while key in self.modules or hasattr(self.bare, key) or keyword.iskeyword(key):
            key += "_"
        self.repeats[plain] = len(key) - len(plain)
        return key

    def share(self, step: Step) -> Step:
        """Make the parameters that a layer shares by name with an earlier one the same nn.Parameter."""
        for i, name in enumerate(step.shared):
            if not name:
                continue
            first, j = self.owners.setdefault(name, (step, i))
            if first is step:
                continue
            if step.load is not None and first.load is None and first.type == step.type == "InnerProduct":  # a tied autoencoder
                self.modules[step.key] = as_stored(self.modules[step.key])
                step = replace(
                    step, load=None, save=None, state={k: tuple(v.shape) for k, v in self.modules[step.key].state_dict().items()}
                )
            if first.shapes[j] != step.shapes[i] or (step.load is None) != (first.load is None):
                raise GraphError(
                    f"{self.where}: {step}: it shares its parameter {shown(name)} of shape {step.shapes[i]} with {first},"
                    f" where it is {first.shapes[j]}."
                )
            mine, theirs = self.modules[step.key]._parameters, self.modules[first.key]._parameters
            if step.params[i].key in mine and first.params[j].key in theirs:
                mine[step.params[i].key] = theirs[first.params[j].key]
        return step

    def outputs(self) -> tuple[str, ...]:
        """Blobs that nobody reads after they were last written, in the order in which they are made."""
        unread: dict[str, None] = {}
        for step in self.steps:
            if not step.type:  # it writes what another layer reads or not, as before
                continue
            for version in step.bottoms:
                unread.pop(self.versions[version], None)
            unread.update(dict.fromkeys(self.versions[top] for top in step.tops if self.versions[top]))
        return tuple(unread)


def build_graph(
    spec: NetSpec,
    *,
    phase: str = "TEST",
    stages: Sequence[str] = (),
    level: int = 0,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    ignore: Sequence[str] = (),
) -> Graph:
    """Build the net of one phase on the meta device.

    Raises:
        GraphError: the layers do not make a net; says which and why.
        UnsupportedError: a layer type, field or value that we do not compute.
    """
    if phase not in ("TRAIN", "TEST"):
        raise GraphError(f"phase {phase!r} is neither 'TRAIN' nor 'TEST'.")
    layers = kept_layers(spec, phase, stages, level)
    graph = _Builder(spec, phase, layers, input_shapes or {}, Ignored(ignore)).run()
    graph.preprocess = preprocess_of(graph.sources, graph.inputs, graph.notes)
    graph.notes += unmet_stages(spec, stages)
    dropped = {id(layer) for layer in spec.layers} - {id(layer) for layer in layers}
    outside = [str(u) for u in spec.unknown]
    outside += [str(u) for layer in spec.layers if id(layer) in dropped for u in layer.unknown]
    if outside:
        graph.notes.append(f"{counted(len(outside), 'unknown field')} outside of this phase's layers: {some(outside, 4)}")
    return graph
