"""The command python -m finetune.prepare_video."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("av", reason="PyAV decodes videos: pip install av")
pytest.importorskip("PIL", reason="Pillow writes images: pip install pillow")

import marked_videos as made
from marked_videos import moving, write
from prepared_trees import run, text, tree

from finetune.errors import FinetuneError
from finetune.prepare_video import main, parser
from finetune.video.destination import settings_of
from finetune.video.records import Options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "dst"], "no such file or folder"),
        (["empty", "dst"], "no videos found"),
        (["src", "src"], "the same folder"),
        (["src", "dst", "--size", "big"], "HEIGHTxWIDTH"),
        (["src", "dst", "--size", "5000"], "size is (5000, 5000); expected 32 to 1024 pixels a side"),
        (["src", "dst", "--smooth", "4"], "smooth is 4; expected an odd number"),
        (["src", "dst", "--every", "0"], "every is 0"),
        (["src", "dst", "--fps", "nan"], "fps is nan"),
        (["src", "dst", "--max-gap", "-1"], "max-gap is -1.0"),
        (["src", "dst", "--workers", "0"], "expected a number from 1"),
        (["src"], "the following arguments are required: DST"),
    ],
)
def test_a_command_that_cannot_be_meant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "src" / "a.avi", moving(3))
    with pytest.raises(SystemExit) as end:
        main(arguments, detector=made.squares)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "dst").exists()


def test_the_command_tells_in_a_few_lines_what_became_of_the_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src, dst = tree(tmp_path / "src"), tmp_path / "dst"
    for number in range(7):
        text(src / "Train" / "Angry" / f"bad{number}.avi", "hello")
    assert main([str(src), str(dst), "--workers", "2"], detector=made.squares) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "11 videos: 2 done, 1 no face, 8 unreadable"
    assert lines[1].startswith(f"18 faces of 112×96 (height×width) in {dst}; 24 frames read in ")
    assert lines[2] == "  no face: Val/Happy/empty.avi"
    assert lines[3].startswith("  unreadable: Train/Angry/bad0.avi: Invalid data")
    assert lines[8:] == ["  unreadable: and 3 more", f"every video has a row in {dst / 'report.csv'}"]
    shutil.rmtree(src / "Val")
    for number in range(7):
        (src / "Train" / "Angry" / f"bad{number}.avi").unlink()
    assert main([str(src), str(dst), "--workers", "1"], detector=made.squares) == 0
    assert "1 of them had been prepared before and were skipped" in capsys.readouterr().out


@pytest.mark.parametrize(("module", "hint"), [("av", r"pip install av"), ("PIL.Image", r"pip install pillow")])
def test_a_missing_library_is_named_with_the_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, hint: str
) -> None:
    write(tmp_path / "src" / "a.avi", moving(3))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(FinetuneError, match=hint):
        run(tmp_path / "src", tmp_path / "dst")


def test_the_settings_are_those_of_the_options() -> None:
    """Every option takes part in what a second run compares, and has a switch of the command line."""
    names = {field.name for field in dataclasses.fields(Options)}
    assert names < set(settings_of(Options(), made.squares))
    switches = {action.dest for action in parser()._actions}
    assert names <= switches
    given = parser().parse_args(["a", "b"])
    assert Options(**{name: getattr(given, name) for name in names}) == Options()
