"""A verification in words, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from converter.errors import counted, printable, some
from converter.verify.comparison import Verification


def lines(found: Verification, every_blob: bool) -> Iterator[str]:
    """A verification for the terminal: a line for each output, or a table of all blobs."""
    yield from found.notes
    if every_blob:
        yield from _table(found)
    else:
        for each in found.compared:
            said = "as in" if each.equal else "NOT as in"
            yield f"{each.blob}: {said} {found.reference}; the largest difference is {each.difference:.1e} of the largest value"
    yield from (f"not compared: {text}" for text in found.left)


def _table(found: Verification) -> Iterator[str]:
    rows = [("blob", "made by", "difference")]
    for each in found.compared:
        differs = "" if each.equal else "  DIFFERS"
        if not each.equal and each.alone is not None:
            differs += f"; {each.alone:.1e} where the layer is given {found.reference}'s values"
        rows.append((printable(each.blob), printable(each.layer.removeprefix("layer ")), f"{each.difference:10.1e}{differs}"))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for blob, layer, difference in rows:
        yield f"{blob.ljust(widths[0])}  {layer.ljust(widths[1])}  {difference}"
    same = [each.difference for each in found.compared if each.equal]
    if same:
        blobs = f"{len(same)} of {len(found.compared)} values" if len(same) < len(found.compared) else f"all {counted(len(same), 'value')}"
        yield f"{blobs} are as in {found.reference}, to {max(same):.1e} of the largest"


def verdict(found: Verification, where: str) -> str:
    """What to say where the two differ; "" where they do not."""
    if not found.compared:
        return f"{where}: {found.reference} gives none of the values that were to be compared."
    first = found.first
    if first is None:
        return ""
    wrong = [each for each in found.compared if not each.equal]
    text = f"{where}: {', '.join(repr(each.blob) for each in wrong[:6])}{' …' if len(wrong) > 6 else ''} differs from {found.reference};"
    text += " one of the two is wrong."
    if len(found.compared) > 1:
        text += f" The first that differs is {first.blob!r}, which {first.layer} makes."
    if any(each.alone is not None for each in wrong):
        causes = some([each.layer for each in wrong if each.cause], 4)
        text += " Given the same values, " + (f"these differ: {causes}." if causes else "no layer differs: it is rounding that grows.")
    else:
        text += "" if found.every_blob else " --every-blob names the layer."
    if found.known:
        text += f" {found.reference} is known to differ from Caffe in: {some(found.known, 8)}."
    return f"{text} If it is not this, please report it."


def as_json(found: Verification) -> dict[str, Any]:
    """The same for programs; a difference that is not finite is null."""
    rows = []
    for each in found.compared:
        row = {key: value if not isinstance(value, float) or math.isfinite(value) else None for key, value in vars(each).items()}
        rows.append(row | {"equal": each.equal})
    return {
        "verified": rows,
        "reference": found.reference,
        "equal": found.equal,
        "notes": found.notes,
        "not_compared": found.left,
        "known_differences": found.known,
    }
