"""torch.hub.load on a checkout: every model of the zoo, under its name."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.cards import embedded

ROOT = str(Path(__file__).parents[1])


def entry_points() -> dict[str, Callable[..., Any]]:
    """As torch.hub.list() finds them, which takes no folder."""
    names = runpy.run_path(f"{ROOT}/hubconf.py")
    return {name: value for name, value in names.items() if callable(value) and not name.startswith("_")}


def test_the_entry_points_are_the_zoos_models() -> None:
    assert sorted(entry_points()) == sorted(zoo.list_models())


def test_an_entry_point_loads_what_the_zoo_loads() -> None:
    net = torch.hub.load(ROOT, "squeezenet1_1", source="local", pretrained=False, num_classes=5)
    assert type(net).__name__ == "SqueezeNet" and not net.training
    assert net(torch.zeros(1, 3, 227, 227)).shape == (1, 5)
    assert net.card == zoo.info("squeezenet1_1")


@pytest.mark.skipif(not embedded.cards(), reason="zoo/embedded is empty: benchmarks/fer_mini.py writes it from a finished run")
def test_the_weights_are_loaded_where_nobody_says_otherwise() -> None:
    here, there = torch.hub.load(ROOT, "fer_mini", source="local"), zoo.load("fer_mini")
    face = torch.full((1, 1, 44, 44), 0.25)
    assert torch.equal(here(face), there(face))


def test_the_docstring_that_help_prints_names_the_terms() -> None:
    said = str(entry_points()["vgg_face"].__doc__)
    assert "non-commercial" in said and "zoo.load()" in said
