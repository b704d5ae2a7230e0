"""Converted copies of a model's weights in the cache: made from a file that is not the authors' own (zoo.foreign), never verified.

<home>/<model>/copy.safetensors                the Caffe net's parameters, under the converter's names
<home>/<model>/copy.safetensors.receipt.json   size, sha256, what they were held against, where they came from; pinned
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.cards import registry
from zoo.cards.record import Card, Checksum, File
from zoo.disk import digests, home
from zoo.errors import CacheError, ProofError
from zoo.files import store
from zoo.files.lock import lock

if TYPE_CHECKING:
    from torch import Tensor

COPY = File("copy.safetensors", ())


def copy_of(card: Card) -> Path | None:
    """The copy that stands in for the authors' files, None where they are in the cache themselves, or there is no copy."""
    if card.folder is not None or all(store.cached(store.folder(card), file) for file in card.files if file.needed):
        return None
    return store.cached(store.folder(card), COPY)


def info(name: str) -> Card:
    """The card of a model; its `origin` says what the weights in the cache were made from, where they are a copy's.

    Raises UnknownModel, with the names that come close.
    """
    card = registry.card_of(name)
    try:
        return card if copy_of(card) is None else with_origin(card)
    except CacheError:  # a link in the cache, which fetch and verify explain
        return card


def with_origin(card: Card) -> Card:
    receipt = store.receipt_of(store.folder(card) / COPY.name)
    assert receipt is not None  # cached() wants one
    return replace(card, origin=f"unverified: {receipt.origin}; {receipt.proof}")


def keep(card: Card, state: Mapping[str, Tensor], origin: str, proof: str) -> Path:
    """Puts a copy into the cache and pins it. Raises ProofError where another one is pinned, and CacheError."""
    from safetensors.torch import save_file

    place = store.folder(card)
    temporary = store.temporary(place)
    with lock(place):
        try:
            save_file(dict(state), temporary)
            pinned = store.receipt_of(place / COPY.name)
            if store.cached(place, COPY) and pinned is not None and digests(temporary, ())["sha256"] != pinned.sha256:
                raise ProofError(
                    f"another copy of {card.name} is pinned, from {pinned.origin}, and its values differ. To take this one instead:"
                    f" caffe-zoo clean --all {card.name} forgets it, and the authors' files, if they are in {home()}"
                )
            return store.install(temporary, place, COPY, origin, unverified=proof)
        finally:
            temporary.unlink(missing_ok=True)


def check(card: Card) -> tuple[str, bool] | None:
    """(what speaks for the copy, whether its bytes are those that were pinned); None where there is no copy."""
    path = store.folder(card) / COPY.name
    receipt = store.receipt_of(path)
    if receipt is None or not path.is_file():
        return None
    try:
        store.prove(path, COPY.name, None, (Checksum("sha256", receipt.sha256, "this cache, when the copy was added"),))
    except ProofError as error:
        return f"{error}\ncaffe-zoo clean --all {card.name} removes it", False
    return f"from {receipt.origin}; {receipt.proof}", True
