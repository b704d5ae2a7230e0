"""BatchNorm and Scale folded into the convolution or inner product beside them, where the net computes the same afterwards.

In eval mode such a layer is y = a * x + b with one a and one b for each channel: a convolution in front of it takes them into
its weight and bias. A convolution behind it can take them, too, if it pads nothing: its zeros would lie behind the layer.
Only what the layers are decides, never their values, so that a net has one folded form; but a value that is no number is left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from converter.build.draft import Draft, Node
from converter.build.graph import Graph
from converter.build.matching import Plan
from converter.errors import some
from converter.layers.convolution import Convolution, Local
from converter.layers.normalization import BN, BatchNorm, ScaleShift
from converter.layers.registry import find_type
from converter.layers.weighted import Bias, InnerProduct, Scale
from converter.program import Step

_AFFINE = (BatchNorm, BN, ScaleShift, Scale, Bias)
_STRAIGHT = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_DENSE = (nn.Linear, InnerProduct)

Affine: TypeAlias = tuple[Tensor, Tensor]  # a and b, (C,) each, float64


def fold_batchnorm(graph: Graph, plan: Plan | None) -> tuple[Graph, Plan]:
    """The graph without the BatchNorm, BN, Scale and Bias layers that a convolution or inner product beside them can take.

    A blob that is left has the values that it had. What is left unfolded, and why, is in the new graph's notes; what was
    folded in its changes.
    """
    folding = _Folding(graph, plan)
    if not any(folding.is_affine(step) for step in graph.steps):
        graph.notes.append("there is no BatchNorm or Scale layer to fold")
        return graph, folding.draft.plan
    folding.fold_all()
    new, new_plan = folding.draft.built()
    new.changes += folding.folded()
    new.notes += folding.left()
    return new, new_plan


@dataclass
class _Chain:
    """Affine layers one behind the other, each the only reader of the one before it."""

    steps: list[Step]

    @property
    def bottom(self) -> int:
        return self.steps[0].bottoms[0]

    @property
    def top(self) -> int:
        return self.steps[-1].tops[0]


class _Folding:
    def __init__(self, graph: Graph, plan: Plan | None):
        self.graph, self.draft = graph, Draft(graph, plan)
        self.readers: dict[int, list[Step]] = defaultdict(list)
        self.makers: dict[int, Step] = {}
        self.place = {step.key: i for i, step in enumerate(graph.steps)}
        for step in graph.steps:
            self.makers.update(dict.fromkeys(step.tops, step))
            for version in step.bottoms:
                self.readers[version].append(step)
        self.taken: dict[str, str] = {}  # the key of a folded layer: that of the layer that took it
        self.kept: dict[str, str] = {}  # the key of one that is left: why
        self.reads: dict[str, int] = {}  # the version that a layer reads since one in front of it was folded into it

    def is_affine(self, step: Step) -> bool:
        module = self.graph.modules[step.key]
        return isinstance(module, _AFFINE) and getattr(module, "learned", True)

    def fold_all(self) -> None:
        for step in self.graph.steps:
            if not self.is_affine(step) or step.key in self.taken or step.key in self.kept:
                continue
            reason = self.not_affine(step)
            if reason:
                self.kept[step.key] = reason
                continue
            chain = self.chain(step)
            reasons = [self.into_maker(chain)]
            if reasons[0]:
                reasons.append(self.into_reader(chain))
            if all(reasons):
                why = f"{reasons[0]}, and {reasons[1]}"
                self.kept.update(dict.fromkeys((step.key for step in chain.steps), why))

    def chain(self, step: Step) -> _Chain:
        steps = [step]
        while len(self.readers[steps[-1].tops[0]]) == 1:
            (reader,) = self.readers[steps[-1].tops[0]]
            if not self.is_affine(reader) or self.not_affine(reader):
                break
            steps.append(reader)
        return _Chain(steps)

    def not_affine(self, step: Step) -> str:
        """Why a layer is no a * x + b by channel in eval mode; "" where it is."""
        module, shape = self.graph.modules[step.key], self.graph.shapes[step.bottoms[0]]
        if len(shape) < 2:
            return "its bottom has no channels"
        if isinstance(module, (BatchNorm, BN)):
            if module.batch_statistics or not module.track_running_stats:
                return "it normalizes by the batch's statistics"
            if module.relu:
                return "it has a ReLU in it"
        if isinstance(module, (Scale, Bias)) and module.shape and (module.axis != 1 or module.shape != shape[1:2]):
            return "it has not one value for each channel"
        return "it shares its values with another layer" if self.draft.shares(step) else ""

    def not_linear(self, step: Step | None) -> str:
        """Why no layer beside it can be folded into this one; "" where one can."""
        if step is None:
            return "input of the net"
        module, described = self.graph.modules[step.key], f"{step.type} layer" if step.type else "in-place layer on the same memory"
        kind = find_type(self.draft.node_of[step.key].spec) if step.type else None
        message = getattr(self.draft.node_of[step.key].message, kind.message) if kind is not None and kind.message else None
        fields = message.DESCRIPTOR.fields_by_name if message is not None else {}
        plain = type(module) in (*_STRAIGHT, *_TRANSPOSED, *_DENSE, Convolution, Local)
        if not plain or "bias_term" not in fields:
            return described
        if len(step.bottoms) != 1 or len(step.tops) != 1:
            return f"{described} of several bottoms"
        if self.draft.shares(step):
            return f"{described} with shared weights"
        axis = getattr(module, "axis", 1)
        if axis != 1 or (type(module) is nn.Linear and len(self.graph.shapes[step.bottoms[0]]) != 2):
            return f"{described} along another axis"
        return ""

    def into_maker(self, chain: _Chain) -> str:
        """Fold a chain into the layer in front of it; why not, where it cannot be."""
        maker = self.makers.get(chain.bottom)
        problem = self.not_linear(maker)
        if problem or maker is None:
            return f"{_one(problem)} is in front of it"
        if len(self.readers[chain.bottom]) > 1:
            return f"the blob {self.graph.versions[chain.bottom]!r} between it and {maker.name!r} has other readers"
        names = self.graph.versions
        if names[maker.bottoms[0]] == names[maker.tops[0]] != names[chain.top]:
            return f"{maker.name!r} in front of it works in place"  # its bottom's values would have the name
        node, module = self.draft.node_of[maker.key], self.graph.modules[maker.key]
        values = node.values or self.draft.values(maker)
        made = _behind(module, values, self.affine(chain))
        if made is None:
            return "the folded weights would be no numbers"
        self.give(node, made)
        node.message.top[0] = self.graph.versions[chain.top]
        last = self.draft.nodes.index(self.draft.node_of[chain.steps[-1].key])
        if not self.rewritten(self.reads.get(maker.key, maker.bottoms[0]), maker, chain.steps[-1], chain):
            self.draft.nodes.remove(node)  # to the place of the last one: blobs are made, and named as outputs, in the old order
            self.draft.nodes.insert(last - 1, node)
        self.take(chain, maker)
        return ""

    def into_reader(self, chain: _Chain) -> str:
        """Fold a chain into the layer behind it; why not, where it cannot be."""
        readers = self.readers[chain.top]
        if len(readers) != 1:
            return f"{len(readers)} layers read it" if readers else "no layer reads it"
        (reader,) = readers
        problem = self.not_linear(reader)
        module = self.graph.modules[reader.key]
        if problem or isinstance(module, Local):
            return f"{_one(problem or 'Local layer')} is behind it"
        shifted = not all(self.only_scales(step) for step in chain.steps)
        transposed = isinstance(module, _TRANSPOSED) or getattr(module, "transposed", False)
        if shifted and transposed:
            return f"{reader.name!r}, a {reader.type}, makes something else of a constant at each place"
        if shifted and any(_padding(module)):
            return f"{reader.name!r} behind it pads with zeros"
        if self.rewritten(chain.bottom, chain.steps[0], reader, chain):
            return f"{self.graph.versions[chain.bottom]!r} is written in place before {reader.name!r} reads it"
        node = self.draft.node_of[reader.key]
        shape = self.graph.shapes[chain.top]
        made = _in_front(module, node.values or self.draft.values(reader), self.affine(chain), shape, shifted)
        if made is None:
            return "the folded weights would be no numbers"
        self.give(node, made)
        node.message.bottom[0] = self.graph.versions[chain.bottom]
        self.reads[reader.key] = chain.bottom
        self.take(chain, reader)
        return ""

    def rewritten(self, version: int, after: Step, before: Step, chain: _Chain) -> bool:
        """Whether another layer between the two makes a new version of the blob."""
        own = {step.key for step in chain.steps} | {after.key, *self.taken}
        between = self.graph.steps[self.place[after.key] : self.place[before.key]]
        name = self.graph.versions[version]
        return any(self.graph.versions[top] == name for step in between if step.key not in own for top in step.tops)

    def only_scales(self, step: Step) -> bool:
        module = self.graph.modules[step.key]
        return isinstance(module, Scale) and module.bias is None

    def affine(self, chain: _Chain) -> Affine:
        """a and b of the whole chain."""
        channels = self.graph.shapes[chain.bottom][1]
        scale, shift = torch.ones(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
        for step in chain.steps:
            a, b = _affine(self.graph.modules[step.key], self.draft.values(step))
            scale, shift = a * scale, a * shift + b
        return scale, shift

    def give(self, node: Node, values: dict[str, Tensor]) -> None:
        """New values for a layer, which has a bias from now on if they have one."""
        kind = find_type(node.spec)
        assert kind is not None and kind.message is not None
        if "bias" in values:
            getattr(node.message, kind.message).bias_term = True
        node.values = values

    def take(self, chain: _Chain, by: Step) -> None:
        for step in chain.steps:
            self.draft.nodes.remove(self.draft.node_of[step.key])
            self.taken[step.key] = by.key

    def folded(self) -> list[str]:
        if not self.taken:
            return []
        counts: dict[str, int] = defaultdict(int)
        for step in self.graph.steps:
            counts[step.type] += step.key in self.taken
        layers = ", ".join(f"{count} {type_}" for type_, count in counts.items() if count)
        into = len(set(self.taken.values()))
        return [f"folded into the {into} layers beside them: {layers}" if into > 1 else f"folded into the layer beside: {layers}"]

    def left(self) -> list[str]:
        """What was not folded, by reason."""
        names: dict[str, list[str]] = defaultdict(list)
        for step in self.graph.steps:
            if step.key in self.kept:
                names[self.kept[step.key]].append(f"{step.type} {step.name!r}")
        return [f"not folded: {some(layers, 6)}: {why}" for why, layers in names.items()]


def _one(what: str) -> str:
    """With its article."""
    return f"{'an' if what[0] in 'AEIOUaeiou' else 'a'} {what}"


def _affine(module: nn.Module, values: dict[str, Tensor]) -> Affine:
    """a and b of one layer; of one value for all channels, () each."""
    held = {name: value.double() for name, value in values.items() if value.is_floating_point()}
    if isinstance(module, (BatchNorm, BN)):
        deviation = (held["running_var"] + module.eps).sqrt()
        scale = held.get("weight", torch.ones_like(deviation)) / deviation
        return scale, held.get("bias", torch.zeros_like(deviation)) - held["running_mean"] * scale
    some_value = held["weight" if "weight" in held else "bias"]
    return held.get("weight", torch.ones_like(some_value)), held.get("bias", torch.zeros_like(some_value))


def _behind(module: nn.Module, values: dict[str, Tensor], affine: Affine) -> dict[str, Tensor] | None:
    """weight and bias of a linear layer that is followed by y = a * x + b."""
    (a, b), weight = affine, values["weight"].double()
    if _is_transposed(module):
        groups = int(module.groups)  # type: ignore[arg-type]
        weight = weight.unflatten(0, (groups, -1)) * _along(a.reshape(groups, -1), 0, 2, weight.dim() + 1)
        weight = weight.flatten(0, 1)
    else:
        weight = weight * _along(a, 0, 0, weight.dim())
    local = isinstance(module, Local)  # a bias for each place: (out, places)
    a, b = (a[:, None], b[:, None]) if local else (a, b)
    bias = values["bias"].double() * a + b if "bias" in values else b.expand(-1, weight.shape[2]) if local else b
    return _numbers(weight, bias)


def _in_front(
    module: nn.Module, values: dict[str, Tensor], affine: Affine, shape: Sequence[int], shifted: bool
) -> dict[str, Tensor] | None:
    """weight and bias of a linear layer whose bottom, of this shape, is a * x + b; without `shifted` b is nothing."""
    (a, b), weight = affine, values["weight"].double()
    bias = values["bias"].double() if "bias" in values else None
    if _is_transposed(module):
        return _numbers(weight * _along(a, 0, 0, weight.dim()), bias)
    if isinstance(module, _DENSE):  # (out, C * places)
        places = weight.shape[1] // shape[1]
        a, b, groups = a.repeat_interleave(places), b.repeat_interleave(places), 1
    else:
        groups = int(module.groups)  # type: ignore[arg-type]
    grouped = weight.unflatten(0, (groups, -1))  # (groups, out / groups, C / groups, ...)
    scaled = (grouped * _along(a.reshape(groups, -1), 0, 2, grouped.dim())).flatten(0, 1)
    if shifted:
        more = (grouped * _along(b.reshape(groups, -1), 0, 2, grouped.dim())).flatten(0, 1).flatten(1).sum(1)
        bias = more if bias is None else bias + more
    return _numbers(scaled, bias)


def _along(x: Tensor, first: int, last: int, dims: int) -> Tensor:
    """(n,) laid along one axis, or (m, n) along two, of `dims` axes."""
    shape = [1] * dims
    shape[first], shape[last] = x.shape[0], x.shape[-1]
    return x.reshape(shape)


def _numbers(weight: Tensor, bias: Tensor | None) -> dict[str, Tensor] | None:
    made = {"weight": weight.float(), **({} if bias is None else {"bias": bias.float().contiguous()})}
    return made if all(bool(value.isfinite().all()) for value in made.values()) else None


def _is_transposed(module: nn.Module) -> bool:
    return isinstance(module, _TRANSPOSED) or bool(getattr(module, "transposed", False))


def _padding(module: nn.Module) -> tuple[int, ...]:
    return tuple(getattr(module, "padding", ()))
