"""Finds cards by name. Each module of cards has a family; embedded.py has the models that come with the package."""

from __future__ import annotations

import difflib

from zoo.cards import attributes, descriptors, detectors, embedded, imagenet, imagenet_bn
from zoo.cards.record import Card
from zoo.errors import UnknownModel

CARDS: tuple[Card, ...] = (
    *embedded.cards(),
    *descriptors.CARDS,
    *detectors.CARDS,
    *attributes.CARDS,
    *imagenet.CARDS,
    *imagenet_bn.CARDS,
)


def list_models() -> list[str]:
    """The names that zoo.load takes."""
    return [card.name for card in CARDS]


def card_of(name: str) -> Card:
    """The card of a model. Raises UnknownModel, with the names that come close."""
    for card in CARDS:
        if card.name == name:
            return card
    near = difflib.get_close_matches(name.lower().replace("-", "_"), list_models(), n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "zoo.list_models() and caffe-zoo list name them all."
    raise UnknownModel(f"the zoo has no model {name!r}. {hint}")
