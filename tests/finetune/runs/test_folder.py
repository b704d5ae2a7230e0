"""Run folders that were begun when a recipe and a protocol were both called "seed": they are continued, read and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.command import parser, recipe_from
from finetune.config import as_json
from finetune.errors import FinetuneError
from finetune.fer2013 import RECIPES
from finetune.overrides import changed
from finetune.renamed import RECIPES as RENAMED
from finetune.runs.folder import Run

# config.json as the code wrote it before the names changed, prose and all; the images themselves are no part of it.
BEFORE: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("configs_before_renaming.json").read_text())


def begun(folder: Path, name: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BEFORE[name]))
    return folder


def config_of_today(name: str, **fields: object) -> dict[str, Any]:
    recipe = changed(RECIPES[RENAMED.get(name, name)], fields)
    kept = {field: BEFORE[name][field] for field in ("data", "classes", "seed", "votes")}
    return {**kept, "command": "another", "recipe": recipe.name, "protocol": recipe.protocol, "config": as_json(recipe)}


@pytest.mark.parametrize("name", BEFORE)
def test_a_run_begun_under_older_names_is_resumed(name: str, tmp_path: Path) -> None:
    run = begun(tmp_path / "run", name)
    assert Run.resume(run, config_of_today(name)).path == run


@pytest.mark.parametrize("name", BEFORE)
def test_its_settings_are_compared_all_the_same(name: str, tmp_path: Path) -> None:
    run = begun(tmp_path / "run", name)
    with pytest.raises(FinetuneError) as error:
        Run.resume(run, config_of_today(name, **{"training.lr": 0.5}))
    [_, difference] = str(error.value).splitlines()
    assert difference.startswith("  config.training.lr: ") and difference.endswith(" there, 0.5 now")


def test_the_older_names_are_understood_and_answered_with_those_of_today(capsys: pytest.CaptureFixture[str]) -> None:
    command = parser("finetune.fer2013", "", RECIPES, ("honest", "best-on-reported"), RENAMED)
    options = command.parse_args(["--recipe", "seed", "--protocol", "seed", "--data", "", "--out", ""])
    assert recipe_from(RECIPES[options.recipe], options) == RECIPES["published"]
    assert capsys.readouterr().err.splitlines() == [
        "note: --recipe seed is now called published", "note: --protocol seed is now called best-on-reported",
    ]  # fmt: skip


def test_a_setting_of_the_protocol_is_renamed_too(capsys: pytest.CaptureFixture[str]) -> None:
    command = parser("finetune.fer2013", "", RECIPES, ("honest", "best-on-reported"), RENAMED)
    options = command.parse_args(["--recipe", "scratch", "--set", "protocol=seed", "--data", "", "--out", ""])
    assert recipe_from(RECIPES["scratch"], options).protocol == "best-on-reported"
    assert "best-on-reported" in capsys.readouterr().err
