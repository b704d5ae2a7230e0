"""From a name, or a run's folder, to a model: fetched, converted once, and mapped from the cache ever after."""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from architectures.contract import Adjusted
from zoo import disk
from zoo.cards import registry
from zoo.cards.record import Card, LocalCard, Network
from zoo.errors import LoadError
from zoo.files import converted, copies, store
from zoo.files.fetch import fetch
from zoo.files.hub import fetch_hub, is_hub
from zoo.models.device import check_device
from zoo.models.model import check_classes, finished
from zoo.models.runs import is_run, load_run
from zoo.models.weights import caffe_net, fill, hand_written, keys_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from converter import CaffeNet
    from zoo.models.model import Model

PROTOTXTS = Path(__file__).parents[1] / "prototxt"
log = logging.getLogger("caffezoo")


def load(
    name: str | os.PathLike[str],
    *,
    pretrained: bool = True,
    num_classes: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    accept_terms: bool = False,
    allow_unverified: bool = False,
    allow_unverified_http: bool = False,
    revision: str | None = None,
) -> Model:
    """The model as an nn.Module in eval mode, with `.preprocess` (image -> input), `.card` and `.labels`.

    `name` is a model's (zoo.list_models()), or the folder of a run of finetune: a Path, or a text that has a "/" in it or names
    a folder with a card.json that no model shares its name with. A run's `.card` is a LocalCard, its `.labels` are the classes.
    Or it is "hf:owner/name", a model on the Hugging Face Hub that caffe-zoo export --hub wrote, and `revision` its branch, tag or commit
    (extra `hub`). The first use pins the commit and the files' hashes; later ones load the same bytes. Code in it is never run.

    `pretrained=False` draws the weights anew and needs no network. `num_classes` replaces the last layer by a fresh one
    of that many outputs (or adds one to a net that ends in an embedding). The weights are mapped from the cache: pages
    come in as they are used, and writing to them changes no file. "fer_mini" comes with the package and needs neither network
    nor cache.

    Raises what fetch() raises, and LoadError where weights and architecture don't fit, the model has no last layer to
    replace, or the folder is no finished run.
    """
    check_classes(num_classes)
    check_device(device)
    from converter import read_mean

    if isinstance(name, str) and is_hub(name):
        folder = fetch_hub(name, revision)
        fetched = load_run(folder, pretrained=pretrained, num_classes=num_classes, device=device, dtype=dtype)
        fetched.card = replace(cast("LocalCard", fetched.card), name=name.removeprefix("hf:"))
        return fetched
    if revision is not None:
        raise LoadError(f'{name!r} has no revisions; a model on the Hub has: zoo.load("hf:owner/name", revision={revision!r})')
    if is_run(name):
        return load_run(Path(name), pretrained=pretrained, num_classes=num_classes, device=device, dtype=dtype)
    card = registry.card_of(str(name))
    preprocess = card.preprocess
    if pretrained and (copy := copies.copy_of(card)) is not None:
        store.accept_terms(card, accept_terms)
        card = copies.with_origin(card)
        model = _with_copy(card, copy, num_classes)
    elif pretrained:
        files = fetch(card.name, accept_terms=accept_terms, allow_unverified=allow_unverified, allow_unverified_http=allow_unverified_http)
        model = _with_weights(card, files, num_classes)
        if isinstance(card.preprocess.mean, str):
            preprocess = preprocess.with_mean_image(read_mean(files[card.preprocess.mean]))
    else:
        model = _structure(card, num_classes)
    labels = labels_of(card) if num_classes is None else ()
    return cast("Model", finished(model, card, labels, preprocess, device, dtype))


def labels_of(card: Card) -> tuple[str, ...]:
    """The names of the model's outputs in their order, or () where there are none or their file is not in the cache."""
    if card.labels_file is None:
        return card.labels
    path = store.cached(store.folder(card), next(file for file in card.files if file.name == card.labels_file))
    if path is None:
        return ()
    try:
        return tuple(line.removesuffix("\r") for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
    except UnicodeDecodeError:
        raise LoadError(
            f"{path} is not UTF-8, as the names of {card.name}'s outputs are: caffe-zoo verify {card.name} looks at it"
        ) from None


def prototxt_of(card: Card, network: Network) -> Path:
    """The structure that ships with the zoo, or the one that came with the authors' weights."""
    if card.folder is not None:
        return card.folder / network.prototxt
    shipped = PROTOTXTS / network.prototxt
    path = shipped if shipped.is_file() else store.folder(card) / network.prototxt
    if not path.is_file():
        raise LoadError(f"{card.name}'s prototxt comes with its weights; run caffe-zoo fetch {card.name}, or zoo.add(), first")
    return path


def _with_weights(card: Card, files: Mapping[str, Path], num_classes: int | None) -> nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    model = _structure(card, num_classes, empty=True)
    fresh = set() if num_classes is None else keys_of(model, card.classifier)
    if card.folder is not None:  # a small file that is always there: converted each time, so that loading writes nothing
        fill(model, _convert(card, files), fresh, card.name)
        return model
    path = _converted_path(card, files)
    try:
        state = load_file(path)
    except (OSError, SafetensorError):
        state = {}
    if not model.state_dict().keys() - fresh <= state.keys():  # never converted, damaged, or for another release's architecture
        state = _convert(card, files)
        _save(state, path, like=files[card.networks[0].weights])
    fill(model, state, fresh, card.name)
    return model


def copy_structure(card: Card, num_output: Mapping[str, int] | None = None) -> CaffeNet:
    """The Caffe net of a model whose weights are a converted copy's, on the meta device."""
    return caffe_net(PROTOTXTS / (card.structure or card.networks[0].prototxt), empty=True, num_output=num_output)


def _with_copy(card: Card, copy: Path, num_classes: int | None) -> nn.Module:
    """The model with the values of a converted copy: the Caffe net's, under the names that the model has for them."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(copy)
    except (OSError, SafetensorError) as error:
        raise LoadError(f"{copy} was damaged ({error}); caffe-zoo clean --all {card.name} removes it") from error
    if card.architecture is not None:
        model = _structure(card, num_classes, empty=True)
        fresh = set() if num_classes is None else keys_of(model, None)
        fill(model, _named(card, card.networks[0], state, _structure(card, None, empty=True)), fresh, card.name)
        return model
    last = "classifier"  # of VGGFace2's nets, as their structure here has it
    model = copy_structure(card, None if num_classes is None else {last: num_classes})
    fresh = {key for key in model.state_dict() if key.startswith(f"{last}.")}
    if num_classes is None and not fresh <= state.keys():
        raise LoadError(
            f"{card.name}: the copy in the cache has no {last} (keras-vggface's notop); num_classes= gives it a new one, to be trained"
        )
    fill(model, state, fresh if num_classes is not None else (), card.name)
    return model


def _structure(card: Card, num_classes: int | None, empty: bool = False) -> nn.Module:
    """The net with weights drawn anew; `empty`: on the meta device, without memory for any."""
    import torch

    if card.architecture is not None:
        package, _, name = card.architecture.partition(":")
        with torch.device("meta" if empty else "cpu"):
            return hand_written(getattr(importlib.import_module(package), name), {}, num_classes, card.name)
    if num_classes is not None and card.classifier is None:
        raise LoadError(f"{card.name} has no classifier that num_classes could replace")
    changed = {} if num_classes is None or card.classifier is None else {card.classifier: num_classes}
    return caffe_net(prototxt_of(card, card.networks[0]), empty=empty, num_output=changed)


def _convert(card: Card, files: Mapping[str, Path]) -> dict[str, Tensor]:
    """The authors' weights under the names of the net that they are for."""
    from converter import ConversionError, convert

    target = _structure(card, None, empty=True) if card.architecture is not None else None
    state: dict[str, Tensor] = {}
    for network in card.networks:
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            try:
                caffe_state = convert(prototxt_of(card, network), files[network.weights]).state_dict()
            except ConversionError as error:
                raise LoadError(f"{card.name}: {error}") from error
        for note in notes:  # the authors' files are known: a layer that only training used is no news to the user
            log.info("%s: %s", card.name, note.message)
        if target is None:
            state |= caffe_state
            continue
        state |= _named(card, network, caffe_state, target)
    return {key: value.detach().contiguous() for key, value in state.items()}


def _named(card: Card, network: Network, caffe_state: Mapping[str, Tensor], target: nn.Module) -> dict[str, Tensor]:
    """A Caffe net's weights under the names of the architecture that they are for."""
    from architectures import from_caffe_state

    part: Any = target.get_submodule(network.submodule)
    adjusted = part.adjust_caffe_state(caffe_state) if isinstance(part, Adjusted) else caffe_state
    prefix = f"{network.submodule}." if network.submodule else ""
    try:
        renamed = from_caffe_state(part.FROM_CAFFE, adjusted, part.state_dict())
    except ValueError as error:
        raise LoadError(f"{card.name}, {network.weights}: {error}") from error
    return {prefix + key: value for key, value in renamed.items()}


def _converted_path(card: Card, files: Mapping[str, Path]) -> Path:
    """Named after all that the values depend on: the proven bytes, the structure, the converter's version."""
    from converter import __version__

    key = hashlib.sha256()
    for network in card.networks:
        receipt = store.receipt_of(files[network.weights])
        assert receipt is not None  # fetch() returns proven files only
        key.update(receipt.sha256.encode() + prototxt_of(card, network).read_bytes())
    return converted.folder() / f"{card.name}-{key.hexdigest()[:16]}-{__version__}.safetensors"


def _save(state: Mapping[str, Tensor], path: Path, like: Path) -> None:
    """Caches the converted weights with their hash, readable for those who can read `like`, if the cache can be written at all; without
    it the next load converts again."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with disk.replacing(path) as temporary:
            save_file(dict(state), temporary, metadata=converted.EMPTY)
            converted.seal(temporary)
            temporary.chmod(like.stat().st_mode)
    except (OSError, SafetensorError) as error:
        log.warning("the converted weights are not cached: %s", error)
