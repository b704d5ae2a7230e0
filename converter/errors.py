"""What can be wrong with a Caffe file, as one tree of exceptions.

    ConversionError            everything that this package raises on purpose; its text is fit to print
    ├── PrototxtError          the text file: syntax, a value of the wrong kind, a solver without a net
    ├── WeightsError           the weight file: truncated, not a caffemodel at all, a broken blob
    ├── UnsupportedError       a layer type, field or value whose result we would have to guess
    ├── GraphError             the net: a bottom that nothing produces, a blob produced twice, inputs without a shape
    └── MismatchError          prototxt and weights do not fit: every missing, unexpected and differing blob at once

Every message names the file or layer, the field and its value, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConversionError(Exception):
    """A Caffe file that cannot be converted exactly; str(error) is one readable paragraph."""


class PrototxtError(ConversionError):
    """The prototxt cannot be read."""


class WeightsError(ConversionError):
    """The weight file cannot be read."""


class UnsupportedError(ConversionError):
    """Something that would change the result and that we do not compute."""


class GraphError(ConversionError):
    """The layers do not make a net."""


class MismatchError(ConversionError):
    """The weights are not those of this net."""


class CaffezooWarning(UserWarning):
    """Something was ignored on purpose; the result is not changed by it."""


def shown(value: object, limit: int = 80) -> str:
    """repr() of a value from a file, cut to a length that fits a message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def printable(text: object, keep: str = "") -> str:
    """A text for the terminal: control characters, which could move the cursor or hide text, as escapes; those of `keep` as they are."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))


def meant(name: str, known: Iterable[str], cutoff: float = 0.8) -> list[str]:
    """The known name that an unknown one looks like, whatever its case; [] where none does."""
    lower = {each.lower(): each for each in known}
    return [lower[near] for near in difflib.get_close_matches(name.lower(), lower, 1, cutoff)]


def counted(count: int, what: str) -> str:
    """A number of things: 1 layer, 2 layers."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def some(items: list[str], limit: int = 12) -> str:
    """Join the first items; say how many more there are."""
    more = f" … and {len(items) - limit} more" if len(items) > limit else ""
    return "; ".join(items[:limit]) + more
