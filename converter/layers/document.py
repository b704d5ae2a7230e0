"""The layer types as a table: `convert-caffe --list-layers`, and docs/layers.md by

python -m converter.layers.document > docs/layers.md
"""

from __future__ import annotations

from converter.layers.dropped import DROPPED
from converter.layers.refused import REFUSED
from converter.layers.registry import LayerType, find_name, layer_types

_HEAD = """\
# Layer types

Made by `python -m converter.layers.document > docs/layers.md`; `convert-caffe --list-layers` prints the same.

A type takes all fields of its message that Caffe reads; what it does not take is an error that names the field, but for fields
that change nothing: engine choices, initial values (fillers), learning rates. "Python:module.Class" is the Python layer of that
class. tests/golden has cases with outputs that Caffe, or the fork itself, computed.

| type | parameters | origin | refused |
|--|--|--|--|
"""

_DROPPED = """
## Left out where nobody reads them

Losses, evaluations and choices of training samples that are not in the table above are left out, with a note, where nobody reads
what they make; so is any other type or Python class whose name ends in Loss or Accuracy, and what then lacks a bottom. A layer without
bottoms that is not in the table is taken for a data layer: its tops are inputs. Everything else is refused, and the message says
how to do without the layer: `--input-shape` makes any blob an input, and what only makes it is cut.

| type | what it is | origin |
|--|--|--|
"""

_REFUSED = """
## Refused by name

| type | why: it |
|--|--|
"""


def facts() -> list[tuple[str, str, str, str]]:
    """(type, parameter message, origin, what is refused) of every type, by name."""
    return [_facts(find_name(name)) for name in layer_types()]


def _facts(kind: LayerType) -> tuple[str, str, str, str]:
    refused = kind.refuses or ("left out of the net: " + kind.removed if kind.removed else "")
    return kind.name, kind.message or "", kind.origin, refused


def listing() -> str:
    """The facts as text for people, one type a line."""
    rows = facts()
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def page() -> str:
    """docs/layers.md."""
    rows = "".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |\n" for row in facts())
    dropped = "".join(f"| {name} | {what} | {origin} |\n" for name, (what, origin) in sorted(DROPPED.items()))
    refused = "".join(f"| {name} | {why} |\n" for name, why in sorted(REFUSED.items()))
    return _HEAD + rows + _DROPPED + dropped + _REFUSED + refused


if __name__ == "__main__":
    print(page(), end="")
