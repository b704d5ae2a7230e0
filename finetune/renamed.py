"""Words of commands and of run folders that have newer names. The old ones are still understood, and answered with the new one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

RECIPES = {"seed": "published"}  # of finetune.fer2013
PROTOCOLS = {"seed": "best-on-reported"}


def option(name: str, words: Mapping[str, str]) -> Callable[[str], str]:
    """An argparse type: the word's new name, with a line on standard error where it has one."""

    def current(word: str) -> str:
        if word in words:
            print(f"note: {name} {word} is now called {words[word]}", file=sys.stderr)
        return words.get(word, word)

    return current


def protocol(word: object) -> object:
    """A protocol as a run folder names it, by its name of today."""
    return PROTOCOLS.get(word, word) if isinstance(word, str) else word


def config(found: Mapping[str, object]) -> dict[str, object]:
    """A run's config.json with the names of today in place of older ones."""
    renamed = dict(found)
    if isinstance(recipe := renamed.get("recipe"), str):
        renamed["recipe"] = RECIPES.get(recipe, recipe)
    if "protocol" in renamed:
        renamed["protocol"] = protocol(renamed["protocol"])
    if isinstance(inner := renamed.get("config"), Mapping):
        names = {"name": RECIPES, "protocol": PROTOCOLS}
        renamed["config"] = {key: names.get(key, {}).get(value, value) if isinstance(value, str) else value for key, value in inner.items()}
    return renamed
