"""docs/layers.md and --list-layers say what the registry says."""

from __future__ import annotations

from pathlib import Path

from converter.layers import layer_types
from converter.layers.document import facts, listing, page
from converter.layers.dropped import DROPPED
from converter.read.schema import message_class

DOCS = Path(__file__).parent.parent.parent / "docs" / "layers.md"


def test_the_page_is_up_to_date() -> None:
    assert DOCS.read_text() == page(), "run: python -m converter.layers.document > docs/layers.md"


def test_every_type_has_a_line_and_a_message_that_caffe_proto_knows() -> None:
    known = message_class("LayerParameter").DESCRIPTOR.fields_by_name
    rows = facts()
    assert [row[0] for row in rows] == layer_types() == [line.split("  ")[0] for line in listing().splitlines()]
    assert all(message == "" or message in known for _, message, _, _ in rows)
    assert all(origin for _, _, origin, _ in rows)


def test_no_type_is_both_computed_and_left_out() -> None:
    assert not {name.removeprefix("Python:") for name in layer_types()} & DROPPED.keys()
