"""A recipe's fields changed from the command line: --set training.lr=0.02. Importing this imports no torch."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from finetune.errors import FinetuneError

Config = TypeVar("Config")


def changed(config: Config, settings: Mapping[str, object]) -> Config:
    """The record with some of its fields changed: {"training.lr": 0.02, "input.size": [64, 64]}.

    Raises FinetuneError for a field that is not there and for a value that does not fit the field's type.
    """
    changing: object = config
    for name, value in settings.items():
        changing = changed_field(changing, name, name.split("."), value)
    return cast(Config, changing)


def changed_field(config: object, name: str, path: Sequence[str], value: object) -> object:
    """The record or mapping with the field at `path` changed; `name` is the whole path, for messages."""
    key, *rest = path
    if isinstance(config, Mapping):
        return {**config, key: changed_field(config[key], name, rest, value) if rest and key in config else as_given(value)}
    assert dataclasses.is_dataclass(config) and not isinstance(config, type)
    hints = get_type_hints(type(config))
    fields = [each.name for each in dataclasses.fields(config) if not is_function(hints[each.name])]
    if key not in fields:
        near = difflib.get_close_matches(key, fields, 1)
        whole = f"{name[: len(name) - len('.'.join(path))]}{near[0]}" if near else ""
        hint = f"did you mean {whole}? " if near else ""
        raise FinetuneError(f"--set {name}: {type(config).__name__} has no field {key!r}; {hint}It has {', '.join(fields)}")
    old = getattr(config, key)
    if rest:
        if not dataclasses.is_dataclass(old) and not isinstance(old, Mapping):
            raise FinetuneError(f"--set {name}: {key} has no fields of its own")
        new = changed_field(old, name, rest, value)
    elif dataclasses.is_dataclass(old):
        raise FinetuneError(f"--set {name}: set one of its fields: {', '.join(each.name for each in dataclasses.fields(old))}")
    else:
        new = fitted(value, hints[key], name)
    return dataclasses.replace(config, **{key: new})


def fitted(value: object, hint: object, name: str) -> object:
    """The value as the annotation wants it: lists become tuples, whole numbers floats. Raises FinetuneError for another type."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        if value in inner:
            return value
        raise FinetuneError(f"--set {name}: {value!r} is not one of {', '.join(map(repr, inner))}")
    if origin in (Union, types.UnionType):
        for each in inner:
            try:
                return fitted(value, each, name)
            except FinetuneError:
                continue
    elif origin is tuple and isinstance(value, (list, tuple)):
        kinds = [inner[0]] * len(value) if inner[-1:] == (...,) else list(inner)
        if len(kinds) == len(value):
            return tuple(fitted(each, kind, name) for each, kind in zip(value, kinds, strict=True))
    elif origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return dict(value)
    elif hint is types.NoneType and value is None:
        return None
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise FinetuneError(f"--set {name}: {json.dumps(value)} does not fit; expected {getattr(hint, '__name__', hint)!s}")


def as_given(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def parse_settings(given: Sequence[str]) -> dict[str, Any]:
    """["training.lr=0.02", "input.channels=BGR"] -> values, read as JSON where they are JSON, else as text."""
    settings = {}
    for setting in given:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise FinetuneError(f"--set {setting}: expected FIELD=VALUE, as in training.lr=0.02")
        try:
            settings[name] = json.loads(text)
        except ValueError:
            settings[name] = text
    return settings


def is_function(hint: object) -> bool:
    return get_origin(hint) is Callable
