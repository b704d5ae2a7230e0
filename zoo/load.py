"""From a name to a model: fetched, converted once, and mapped from the cache ever after."""

from __future__ import annotations

import functools
import hashlib
import importlib
import logging
import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import cache, registry
from .card import Card, Network
from .errors import LoadError
from .fetch import fetch
from .preprocess import preprocess

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PROTOTXTS = Path(__file__).parent / "prototxt"
log = logging.getLogger("caffezoo")


def load(
    name: str,
    *,
    pretrained: bool = True,
    num_classes: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    accept_terms: bool = False,
    allow_unverified: bool = False,
) -> nn.Module:
    """The model as an nn.Module in eval mode, with `.preprocess` (image -> input), `.card` and `.labels`.

    `pretrained=False` draws the weights anew and needs no network. `num_classes` replaces the last layer by a fresh one
    of that many outputs (or adds one to a net that ends in an embedding). The weights are mapped from the cache: pages
    come in as they are used, and writing to them changes no file.

    Raises what fetch() raises, and LoadError where weights and architecture don't fit, or the model has no last layer to
    replace.
    """
    card = registry.card_of(name)
    if num_classes is not None and num_classes < 1:
        raise LoadError(f"num_classes is {num_classes}; it has to be at least 1")
    mean = None
    if pretrained:
        files = fetch(name, accept_terms=accept_terms, allow_unverified=allow_unverified)
        model = _with_weights(card, files, num_classes)
        if isinstance(card.preprocess.mean, str):
            mean = _mean_image(files[card.preprocess.mean])
    else:
        model = _structure(card, num_classes)
    # CaffeNet has a `preprocess` of its own, from its prototxt; the card knows more.
    model.preprocess = functools.partial(preprocess, card.preprocess, mean_image=mean)  # type: ignore[assignment]
    model.card = card  # type: ignore[assignment]
    model.labels = labels(card) if num_classes is None else ()  # type: ignore[assignment]
    return model.to(device=device, dtype=dtype).eval()


def labels(card: Card) -> tuple[str, ...]:
    """The names of the model's outputs in their order, or () where there are none or their file is not in the cache."""
    if card.labels_file is None:
        return card.labels
    path = cache.folder(card) / card.labels_file
    return tuple(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else ()


def prototxt_of(card: Card, network: Network) -> Path:
    """The structure that ships with the zoo, or the one that came with the authors' weights."""
    shipped = PROTOTXTS / network.prototxt
    path = shipped if shipped.is_file() else cache.folder(card) / network.prototxt
    if not path.is_file():
        raise LoadError(f"{card.name}'s structure comes with its weights: caffe-zoo fetch {card.name}, or zoo.add, first")
    return path


def _with_weights(card: Card, files: Mapping[str, Path], num_classes: int | None) -> nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    model = _structure(card, num_classes, empty=True)
    expected = model.state_dict()
    fresh = _last_layer(card, model, num_classes)
    path = _converted_path(card, files)
    try:
        state = load_file(path)
    except (OSError, SafetensorError):
        state = {}
    if not expected.keys() - fresh <= state.keys():  # never converted, damaged, or for another release's architecture
        state = _convert(card, files)
        _save(state, path, like=files[card.networks[0].weights])
    if num_classes is not None:
        state = {key: value for key, value in state.items() if key in expected and key not in fresh}
    state |= {key: _drawn(expected[key]) for key in fresh}
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise LoadError(f"{card.name}: {error}") from error
    for module in model.modules():
        for buffer in module._buffers.values():
            if buffer is not None and buffer.is_meta:
                raise LoadError(f"{card.name}: {type(module).__name__} has a buffer that is in no state dict")
    return model


def _structure(card: Card, num_classes: int | None, empty: bool = False) -> nn.Module:
    """The net with weights drawn anew; `empty`: on the meta device, without memory for any."""
    import torch

    if card.architecture is not None:
        with torch.device("meta" if empty else "cpu"):
            return _architecture(card, num_classes)
    prototxt = prototxt_of(card, card.networks[0])
    if num_classes is None:
        return _caffe_net(prototxt, empty)
    if card.classifier is None:
        raise LoadError(f"{card.name} has no last layer that num_classes could replace")
    layer = re.escape(f'layer {{ name: "{card.classifier}" ')
    wider, found = re.subn(rf"(?m)^({layer}.*?num_output: )\d+", rf"\g<1>{num_classes}", prototxt.read_text())
    if found != 1:
        raise LoadError(f"{prototxt}: no layer {card.classifier!r} with a num_output")
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / prototxt.name
        path.write_text(wider)
        return _caffe_net(path, empty)


def _caffe_net(prototxt: Path, empty: bool) -> nn.Module:
    from converter import convert
    from converter.conversion import assemble, prepare

    return assemble(prepare(prototxt, None)[0]) if empty else convert(prototxt)


def _architecture(card: Card, num_classes: int | None) -> nn.Module:
    assert card.architecture is not None
    package, _, name = card.architecture.partition(":")
    kind = getattr(importlib.import_module(package), name)
    if num_classes is None:
        return kind()
    if not hasattr(kind, "CLASSIFIER"):
        raise LoadError(f"{card.name} has no last layer that num_classes could replace")
    return kind(num_classes=num_classes)


def _last_layer(card: Card, model: nn.Module, num_classes: int | None) -> set[str]:
    """The state-dict keys of the layer that num_classes replaces."""
    if num_classes is None:
        return set()
    prefix = getattr(model, "CLASSIFIER", None)
    if prefix is None:
        names: Any = model.layer_names
        prefix = next(key for key, layer in names.items() if layer == card.classifier)
    return {key for key in model.state_dict() if key.startswith(f"{prefix}.")}


def _drawn(like: Tensor) -> Tensor:
    """Fresh values as torch's own layers start: a uniform kernel, biases zero."""
    import torch

    value = torch.zeros(like.shape)
    return torch.nn.init.kaiming_uniform_(value, a=5**0.5) if value.dim() > 1 else value


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
        from architectures import from_caffe_state

        part: Any = target.get_submodule(network.submodule)
        adjusted = getattr(part, "adjust_caffe_state", dict)(caffe_state)
        prefix = f"{network.submodule}." if network.submodule else ""
        try:
            renamed = from_caffe_state(part.FROM_CAFFE, adjusted, part.state_dict())
        except ValueError as error:
            raise LoadError(f"{card.name}, {network.weights}: {error}") from error
        state |= {prefix + key: value for key, value in renamed.items()}
    return {key: value.detach().contiguous() for key, value in state.items()}


def _converted_path(card: Card, files: Mapping[str, Path]) -> Path:
    """Named after all that the values depend on: the proven bytes, the structure, the converter's version."""
    from converter import __version__

    key = hashlib.sha256()
    for network in card.networks:
        receipt = cache.receipt_of(files[network.weights])
        assert receipt is not None  # fetch() returns proven files only
        key.update(receipt.sha256.encode() + prototxt_of(card, network).read_bytes())
    return cache.home() / "converted" / f"{card.name}-{key.hexdigest()[:16]}-{__version__}.safetensors"


def _save(state: Mapping[str, Tensor], path: Path, like: Path) -> None:
    """Caches the converted weights, readable for those who can read `like`, if the cache can be written at all; without
    it the next load converts again."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with cache.replacing(path) as temporary:
            save_file(dict(state), temporary)
            temporary.chmod(like.stat().st_mode)
    except (OSError, SafetensorError) as error:
        log.warning("the converted weights are not cached: %s", error)


def _mean_image(path: Path) -> Tensor:
    import torch

    from converter import read_mean

    return torch.from_numpy(read_mean(path).copy())
