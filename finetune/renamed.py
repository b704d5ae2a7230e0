"""Commands and run folders of earlier days: recipes and protocols that were renamed, and fields that there were not yet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from finetune.config import Augment, Sampling, Training, as_json

RECIPES = {"seed": "published"}  # of finetune.fer2013
PROTOCOLS = {"seed": "best-on-reported"}


def option(name: str, renamed: Mapping[str, str]) -> Callable[[str], str]:
    """An argparse type: today's name, with a line on standard error where another one was given."""

    def current(given: str) -> str:
        if given in renamed:
            print(f"note: {name} {given} is now called {renamed[given]}", file=sys.stderr)
        return renamed.get(given, given)

    return current


def protocol(name: object) -> object:
    """Today's name of a protocol that a run folder names."""
    return PROTOCOLS.get(name, name) if isinstance(name, str) else name


def config(found: Mapping[str, object]) -> dict[str, object]:
    """A run's config.json as it would be written today: with today's names, and at their defaults the fields that it is older than.

    A new field's default has to leave a run as it was.
    """
    renamed = dict(found)
    if isinstance(recipe := renamed.get("recipe"), str):
        renamed["recipe"] = RECIPES.get(recipe, recipe)
    if "protocol" in renamed:
        renamed["protocol"] = protocol(renamed["protocol"])
    if isinstance(inner := renamed.get("config"), Mapping):
        names = {"name": RECIPES, "protocol": PROTOCOLS}
        current = {key: names.get(key, {}).get(value, value) if isinstance(value, str) else value for key, value in inner.items()}
        for part, defaults in {"augment": Augment(), "sampling": Sampling(), "training": Training()}.items():
            if isinstance(stated := current.get(part), Mapping):
                current[part] = {**as_json(defaults), **stated}
        renamed["config"] = current
    return renamed
