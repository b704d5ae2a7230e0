"""zoo.add: the authors' files, and copies of their weights that others converted to PyTorch or Keras.

A copy is named after what it holds, layer by layer; every name and shape is held against the Caffe net, and all differences are in one
message. Nothing published can prove a copy, so it is pinned as unverified, with its origin; where the authors' own file is in the cache,
the values are compared.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from converter.errors import counted, shown
from converter.files import head
from zoo.cards import registry
from zoo.cards.record import Card
from zoo.disk import digests, writing
from zoo.errors import LoadError, ProofError, Unverified
from zoo.files import copies, store
from zoo.files import fetch as files
from zoo.files.refusal import expected
from zoo.foreign.forms import FAMILIES, Channels, Family, Form, Kind, canonical
from zoo.foreign.keras_file import MAGIC, read_keras
from zoo.foreign.torch_file import is_torch, read_torch
from zoo.models.named import copy_structure, prototxt_of
from zoo.models.weights import MOST_LISTED
from zoo.terminal import require

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
COUNTER = "num_batches_tracked"  # BatchNorm's, which no copy has to have and inference ignores
KERAS = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "mean": "running_mean", "variance": "running_var"}


@dataclass(frozen=True)
class Piece:
    """One array of a file, not yet read; `kernel` as Keras lays it out: (height, width, in, out) or (in, out)."""

    shape: Shape
    read: Callable[[], Tensor]
    kernel: bool = False


Layers = dict[str, dict[str, Piece]]  # of a file, in its order: layer -> parameter, by torch's names


def add(
    name: str,
    path: str | os.PathLike[str],
    *,
    accept_terms: bool = False,
    allow_unverified: bool = False,
    channels: Channels | None = None,
) -> dict[str, Path]:
    """Copies a file from disk into the cache, under the same checks as fetch(): the authors' archive, or one of its members.

    For VGG-Face, the center-loss net and VGGFace2's 8631-way nets a copy that others converted is taken, too: a state dict of
    torch.save, or Keras's HDF5 (zoo.foreign.forms lists them). It becomes copy.safetensors, pinned as unverified, and stands in for the
    authors' files until these are in the cache. `channels` says how its first layer takes the image, where that is not what its form
    is known for.

    Returns {file name: path} of what came in. Raises ProofError if the file is none of the model's, or swaps red and blue of the
    authors' own, LoadError with every name and shape that does not fit, Unverified if nothing published can tell and
    `allow_unverified` doesn't allow that, TermsNotAccepted and CacheError.
    """
    card, source = registry.card_of(name), Path(path)
    kind = kind_of(source)
    if kind is None or card.folder is not None:
        if channels is not None:
            raise ProofError(f"{source} is no copy converted to PyTorch or Keras; --channels is for these")
        return files.add(name, path, accept_terms=accept_terms, allow_unverified=allow_unverified)
    family = FAMILIES.get(name)
    if family is None:
        framework = {"torch": "PyTorch", "keras": "Keras"}[kind]
        raise ProofError(
            f"{source} is a file of {framework}'s; converted copies are known for {', '.join(FAMILIES)}, not for {name}."
            f" Expected: {expected(card)}"
        )
    store.accept_terms(card, accept_terms)
    if not allow_unverified:
        raise Unverified(
            f"{source} is a copy that somebody converted; nothing published can verify it."
            " allow_unverified=True (--allow-unverified) accepts it once, and pins what came"
        )
    if kind == "keras":
        require("h5py")
    layers = torch_layers(source) if kind == "torch" else keras_layers(source)
    form, names = recognised(source, kind, layers, family)
    state = fitted(source, layers, names, copy_structure(card).state_dict(), family, form)
    order = channels or form.channels
    if order == "RGB":
        state[f"{family.first}.weight"] = state[f"{family.first}.weight"].flip(1).contiguous()
    said = "as told" if channels else form.source
    origin = f"{source.resolve()} (sha256 {digests(source, ())['sha256']}), in the form of {form.name}; takes {order}: {said}"
    without = "" if family.classifier is None or f"{family.classifier}.weight" in state else f"without its {family.classifier}; "
    proof = without + compared(card, state, family, "BGR" if order == "RGB" else "RGB")
    with writing(store.folder(card)):
        return {copies.COPY.name: copies.keep(card, state, origin, proof)}


def kind_of(path: Path) -> Kind | None:
    """Which framework's file this is, by its first bytes."""
    if head(path, len(MAGIC)) == MAGIC:
        return "keras"
    return "torch" if is_torch(path) else None


# --- what a file holds ----------------------------------------------------------------------------------------------------------------


def torch_layers(path: Path) -> Layers:
    layers: Layers = {}
    for key, tensor in read_torch(path).items():
        layer, _, parameter = key.rpartition(".")
        if parameter == COUNTER:
            continue
        if not tensor.is_floating_point() or tensor.is_sparse or tensor.is_quantized:
            raise LoadError(f"{path}: {shown(key)} holds {tensor.dtype}, not plain floats")
        layers.setdefault(layer, {})[parameter] = Piece(tuple(tensor.shape), tensor.detach().float)
    return layers


def keras_layers(path: Path) -> Layers:
    import torch

    return {
        layer.name: {
            KERAS[kind]: Piece(weight.shape, lambda weight=weight: torch.from_numpy(weight.read()), kind == "kernel")  # type: ignore[misc]
            for kind, weight in layer.weights.items()
        }
        for layer in read_keras(path)
    }


def recognised(path: Path, kind: Kind, layers: Layers, family: Family) -> tuple[Form, Mapping[str, str]]:
    """The form whose names the file has most of, and its map from the file's layers to the Caffe net's. Raises LoadError."""
    forms = [form for form in family.forms if form.kind == kind and form.layers]
    named = {canonical(layer): layer for layer in layers} if kind == "keras" else {layer: layer for layer in layers}

    def likeness(form: Form) -> tuple[int, int]:
        common = named.keys() & form.layers.keys()
        return len(common), -len(form.layers.keys() - common)

    best = max(forms, key=likeness, default=None)
    nameless = next((form for form in family.forms if form.kind == kind and not form.layers), None)
    if best is not None and 2 * likeness(best)[0] > min(len(best.layers), len(layers)):
        convolved = nameless is not None and any(
            len(layers[named[name]]["weight"].shape) == 4
            for name, layer in best.layers.items()
            if layer in family.flat and name in named and "weight" in layers[named[name]]
        )
        form = nameless if convolved and nameless is not None else best
        return form, {named[name]: layer for name, layer in best.layers.items() if name in named}
    order = list(dict.fromkeys(layer for form in forms for layer in form.layers.values()))
    if nameless is not None and len(layers) == len(order):
        return nameless, dict(zip(layers, order, strict=True))
    some = ", ".join(shown(layer) for layer in list(layers)[:6]) or "none"
    known = "; ".join(f"{each.name} ({', '.join(list(each.layers)[:3])}, ...)" for each in forms)
    count = f"; {nameless.name} ({counted(len(order), 'layer')} without names of their own)" if nameless is not None else ""
    raise LoadError(f"{path}: its {counted(len(layers), 'layer')} with weights ({some}, ...) are in no form that is known: {known}{count}")


# --- from there to the Caffe net ------------------------------------------------------------------------------------------------------


def fitted(
    path: Path, layers: Layers, names: Mapping[str, str], expected: Mapping[str, Tensor], family: Family, form: Form
) -> dict[str, Tensor]:
    """The state dict of the Caffe net, float32. Raises LoadError with all that is missing, unexpected or of another shape; nothing
    is read before everything fits."""
    import torch

    problems: list[str] = []
    found: dict[str, Callable[[], Tensor]] = {}
    for layer, pieces in layers.items():
        for parameter, piece in pieces.items():
            target = _target(names.get(layer), parameter, expected)
            what = f"{shown(f'{layer}.{parameter}')} {piece.shape}"
            if target is None or target in found:
                problems.append(f"unexpected: {what}")
            elif (read := _turned(piece, tuple(expected[target].shape), family.flat.get(names[layer]))) is None:
                problems.append(f"wrong shape: {what}; the net's {target} is {tuple(expected[target].shape)}")
                found[target] = piece.read
            else:
                found[target] = read
    missing = [key for key in expected if not key.endswith(COUNTER) and key not in found]
    without = family.classifier is not None and missing == [f"{family.classifier}.weight", f"{family.classifier}.bias"]
    problems += [] if without else [f"missing: {key} {tuple(expected[key].shape)}" for key in missing]
    if problems:
        more = [f"and {len(problems) - MOST_LISTED} more"] if len(problems) > MOST_LISTED else []
        head = f"{path}: read as {form.name}, its weights don't fit the net; {counted(len(problems), 'difference')}:"
        raise LoadError("\n  ".join([head, *problems[:MOST_LISTED], *more, *_hint(missing, problems)]))
    counters = {key: torch.zeros_like(value, device="cpu") for key, value in expected.items() if key.endswith(COUNTER)}
    return {key: found[key]().contiguous() for key in expected if key in found} | counters


def _hint(missing: Sequence[str], problems: Sequence[str]) -> list[str]:
    if len(missing) == len(problems) and all(key.startswith(("fc6.", "fc7.", "fc8.")) for key in missing):
        return ["it has no fully connected layers (keras-vggface calls that notop): bring the whole net's file"]
    return []


def _target(layer: str | None, parameter: str, expected: Mapping[str, Tensor]) -> str | None:
    """The Caffe net's key; Caffe's BatchNorm has no factor, which a Scale layer behind it has."""
    if layer is None:
        return None
    return next((key for key in (f"{layer}.{parameter}", f"{layer}/scale.{parameter}") if key in expected), None)


def _turned(piece: Piece, wanted: Shape, flat: tuple[int, int, int] | None) -> Callable[[], Tensor] | None:
    """What reads the array in Caffe's layout (out, in, height, width) or (out, in); None where its shape doesn't fit."""
    shape, read = piece.shape, piece.read
    if piece.kernel and len(shape) == 4:
        shape, read = (shape[3], shape[2], shape[0], shape[1]), lambda: piece.read().permute(3, 2, 0, 1)
    elif piece.kernel and len(shape) == 2:
        if flat is not None and shape[0] == prod(flat):  # Keras flattens height, width, channels
            channels, height, width = flat
            read = lambda: piece.read().reshape(height, width, channels, -1).permute(3, 2, 0, 1)  # noqa: E731
            shape = (shape[1], *flat)
        else:
            shape, read = (shape[1], shape[0]), lambda: piece.read().t()
    if shape == wanted:
        return read
    plain = len(wanted) in (2, 4) and shape[:1] == wanted[:1] and prod(shape) == prod(wanted)
    if plain and {len(shape), len(wanted)} == {2, 4} and (len(shape) == 4 or wanted[2:] == (1, 1)):
        return lambda: read().reshape(wanted)
    return None


# --- beside the authors' own ----------------------------------------------------------------------------------------------------------


def compared(card: Card, state: Mapping[str, Tensor], family: Family, other: Channels) -> str:
    """What the authors' file in the cache says of the copy. Raises ProofError where the copy has their values with red and blue
    swapped: then its first layer takes the `other` order."""
    import torch

    network = card.networks[0]
    weights = store.cached(store.folder(card), next(file for file in card.files if file.name == network.weights))
    if weights is None:
        return "nothing published proves it, and the authors' file is not in the cache to compare it with; pinned"
    from converter import convert

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = convert(prototxt_of(card, network), weights).state_dict()
    ours = {canonical(key): value for key, value in state.items() if not key.endswith(COUNTER)}
    pairs = {key: (ours[canonical(key)], value) for key, value in theirs.items() if canonical(key) in ours}
    pairs = {key: pair for key, pair in pairs.items() if pair[0].shape == pair[1].shape}
    first = f"{family.first}.weight"
    if first in pairs and not torch.equal(*pairs[first]) and torch.allclose(pairs[first][0].flip(1), pairs[first][1], rtol=1e-4, atol=1e-6):
        raise ProofError(
            f"{network.weights}: the copy has the authors' values, but with red and blue swapped in {family.first}:"
            f" add it with channels={other!r} (--channels {other})"
        )
    apart = {key: float((a - b).abs().max()) for key, (a, b) in pairs.items() if not torch.equal(a, b)}
    held = f"compared with the authors' {network.weights}, which zoo.load takes"
    if not apart and len(pairs) == len(ours):
        return f"{held}: equal, all {len(pairs)} arrays"
    worst = max(apart, key=lambda key: apart[key], default="")
    lines = f"{len(pairs) - len(apart)} of {len(ours)} arrays are equal"
    return f"{held}: {lines}" + (f", the others apart by up to {apart[worst]:.2g} ({worst})" if worst else "") + "; pinned"
