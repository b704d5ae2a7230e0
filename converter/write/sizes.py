"""Which axes of a net's inputs may have any length: proven by running the net's shapes at two others, not guessed from its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from converter.build.meta import QuickMeta
from converter.layers.recurrent import Recurrent
from converter.net import CaffeNet

Shapes = dict[str, tuple[int, ...]]
# Further height and width: small steps, and large ones that change every feature map; for nets that take multiples of 64 only, the others
_PROBES = (((7, 5), (64, 96)), ((64, 128), (128, 64)))


@dataclass(frozen=True)
class Sizes:
    """The axes that may have any length, by input and axis: their names; and shapes that prove them.

    `stated` are the prototxt's shapes. `example` is what the net is traced with: no axis that may have any length has length 1 there,
    which exporters would take for a fixed one. `proofs` are the shapes at which two forms of the net are compared.
    """

    axes: Mapping[str, Mapping[int, str]]
    stated: Shapes
    example: Shapes
    proofs: tuple[Shapes, ...]
    notes: tuple[str, ...] = ()  # why an axis that one would expect is not among them

    def without(self, names: Iterable[str], note: str) -> Sizes:
        """With fewer axes: those of these names get the lengths of `stated`."""
        gone = set(names)
        axes = {key: {axis: name for axis, name in held.items() if name not in gone} for key, held in self.axes.items()}

        def tied(shapes: Shapes) -> Shapes:
            return {
                key: tuple(size if i in axes[key] else self.stated[key][i] for i, size in enumerate(shape)) for key, shape in shapes.items()
            }

        proofs = list(map(tied, self.proofs))
        proofs = [proof for i, proof in enumerate(proofs) if proof not in proofs[:i]]
        return Sizes(axes, self.stated, tied(self.example), tuple(proofs), (*self.notes, note))


def sizes_of(net: CaffeNet) -> Sizes:
    """The batch, where the net takes any; height and width, where it takes any and an exporter keeps them so."""
    shapes: Shapes = {name: tuple(net.input_shapes[name]) for name in net.inputs}
    used = [module for key, *_ in net.program.needed(net.outputs) for module in [net._modules[key]] if module is not None]
    batches, runs = _batches(shapes, any(isinstance(m, Recurrent) for m in used)), runner(net)
    axes: dict[str, dict[int, str]] = {name: {} for name in shapes}
    batch: dict[tuple[str, int], str] = {}
    for group in batches:  # all inputs that go by items, else the first alone
        if all(runs(_resized(shapes, group, n)) for n in (2, 3)):
            batch = group
            break
    for (name, axis), dim in batch.items():
        axes[name][axis] = dim
    notes: list[str] = []
    images = [name for name, shape in shapes.items() if len(shape) >= 4 and shape[-2:] == _first_image(shapes)]
    proofs = [_resized(shapes, batch, 2)]
    example = proofs[0]
    fixed = _keeps_its_size(net, used)
    if images and fixed:
        notes.append(f"height and width stay {'×'.join(map(str, shapes[images[0]][-2:]))}: {fixed}")
    for probes in () if fixed or not images else _PROBES:
        larger = [_grown(_resized(shapes, batch, 1), images, step) for step in probes]
        if all(map(runs, larger)):
            for name in images:
                last = len(shapes[name])
                axes[name].update({last - 2: "height", last - 1: "width"})
            proofs.append(larger[0])
            example = _grown(proofs[0], images, probes[1])  # no feature map has length 1 there
            break
    else:
        proofs += [_resized(shapes, batch, 1)] if batch else []
    return Sizes(axes, shapes, example, tuple(proofs), tuple(notes))


def _batches(shapes: Shapes, time_first: bool) -> list[dict[tuple[str, int], str]]:
    """What may be the batch: the first axis, behind the time of recurrent layers the second."""
    axis = 1 if time_first else 0
    found = [name for name, shape in shapes.items() if len(shape) > axis]
    alike = [name for name in found if shapes[name][axis] == shapes[found[0]][axis]]
    groups = dict.fromkeys((tuple(alike), tuple(found[:1])))
    return [{(name, axis): "batch" for name in group} for group in groups if group]


def _first_image(shapes: Shapes) -> tuple[int, ...]:
    return next((shape[-2:] for shape in shapes.values() if len(shape) >= 4), ())


def _resized(shapes: Shapes, axes: Iterable[tuple[str, int]], size: int) -> Shapes:
    found = set(axes)
    return {name: tuple(size if (name, i) in found else old for i, old in enumerate(shape)) for name, shape in shapes.items()}


def _grown(shapes: Shapes, images: Sequence[str], step: tuple[int, int]) -> Shapes:
    return {name: (*shape[:-2], shape[-2] + step[0], shape[-1] + step[1]) if name in images else shape for name, shape in shapes.items()}


def _keeps_its_size(net: CaffeNet, used: Sequence[nn.Module]) -> str:
    """The layer whose height and width exporters freeze at the example's, with the exporter's fault; "" if there is none."""
    names = {id(module): net.layer_names.get(key, key) for key, module in net.named_children()}
    for module in used:
        name = repr(names[id(module)])
        if isinstance(module, nn.AdaptiveMaxPool2d):
            return f"layer {name} is a global MAX pooling, which torch's exporter ties to the size that it was traced with"
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size not in (1, (1, 1)):
            return f"layer {name} pools to a fixed size, which torch's exporter ties to the size that it was traced with"
        if isinstance(module, Recurrent):
            return f"layer {name} is recurrent, and torch's exporter ties it to the number of steps that it was traced with"
    return ""


def runner(net: CaffeNet) -> Callable[[Shapes], bool]:
    """Whether the net runs at some shapes: on meta tensors, which have no values."""
    state = {key: value.to("meta") for key, value in net.state_dict(keep_vars=False).items()}
    kind = number_type(net)

    def runs(shapes: Shapes) -> bool:
        inputs = tuple(torch.empty(shapes[name], dtype=kind, device="meta") for name in net.inputs)
        try:
            with torch.no_grad(), QuickMeta():
                functional_call(net, state, inputs, tie_weights=False)
        except Exception:  # whatever a layer says of shapes that do not fit
            return False
        return True

    return runs


def number_type(net: nn.Module) -> torch.dtype:
    """What the net computes in: its parameters' type."""
    return next((each.dtype for each in net.parameters() if each.is_floating_point()), torch.float32)


def regions_of(net: CaffeNet) -> set[str]:
    """The inputs that are regions of an image, (R, 5): its place in the batch, then two corners."""
    versions = {version: name for name, version in net.program.inputs.items()}
    found = set()
    for key, bottoms, _, _ in net.program.needed(net.outputs):
        if type(net._modules[key]).__module__.rpartition(".")[2] in ("regions", "cascade"):
            found |= {versions[i] for i in bottoms[1:] if i in versions and net.input_shapes[versions[i]][1:2] == (5,)}
    return found


def drawn(net: CaffeNet, shapes: Shapes, how: int, seed: int = 0) -> list[Tensor]:
    """Inputs of these shapes, in the order of net.inputs, to compare two forms of a net on.

    `how` 0: normal numbers; for nets that take indices or labels, 1: 0 and 1 in inputs that are no images, 2: in all; 3: zeros.
    Regions are regions of the first item in each.
    """
    random = torch.Generator().manual_seed(seed)
    regions, found = regions_of(net), []
    for name in net.inputs:
        shape = shapes[name]
        if name in regions:
            first, sides = torch.rand(shape[0], 2, generator=random) * 8, 8 + torch.rand(shape[0], 2, generator=random) * 40
            value = torch.cat((torch.zeros(shape[0], 1), first, first + sides), 1).reshape(shape)
        elif how == 3:
            value = torch.zeros(shape)
        elif how == 2 or (how == 1 and len(shape) < 4):
            value = torch.randint(0, 2, shape, generator=random).float()
        else:
            value = torch.randn(shape, generator=random)
        found.append(value.to(number_type(net)))
    return found
