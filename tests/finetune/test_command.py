"""How a command ends: its status, and what it says."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import finetune
from finetune import ensemble, fer2013
from finetune.__main__ import COMMANDS
from finetune.command import exit_status_of
from finetune.errors import FinetuneError, Stopped
from zoo import ZooError


def raises(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "status", "said"),
    [
        (lambda: "a result", 0, ""),
        (raises(FinetuneError("data.csv: empty")), 1, "error: data.csv: empty\n"),
        (raises(FinetuneError("class \x1b[31mred\nand a line")), 1, "error: class \\x1b[31mred\nand a line\n"),
        (raises(ZooError("vgg_face: not fetched")), 1, "error: vgg_face: not fetched\n"),
        (lambda: Path("no/such/file").read_text(), 1, "error: no/such/file: No such file or directory\n"),
        (raises(Stopped(signal.SIGTERM)), 143, "stopped; the state is saved: the same command with --resume continues\n"),
        (raises(Stopped(signal.SIGINT)), 130, "stopped; the state is saved: the same command with --resume continues\n"),
        (raises(KeyboardInterrupt()), 130, ""),
    ],
)
def test_a_command_s_status_says_how_it_ended(
    work: Callable[[], object], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status_of(work) == status
    assert capsys.readouterr() == ("", said)


def test_what_nobody_foresaw_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_status_of(lambda: 1 / 0)


@pytest.mark.parametrize("main", [fer2013.main, ensemble.main])
def test_a_command_that_cannot_be_understood_ends_in_2(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--no-such-option"])
    assert end.value.code == 2 and "usage: " in capsys.readouterr().err


def test_the_package_by_itself_names_every_command_that_there_is() -> None:
    package = Path(finetune.__file__).parent
    runnable = [path for path in package.rglob("*.py") if '__name__ == "__main__"' in path.read_text()]
    names = {path.parent.name if path.stem == "__main__" else path.stem for path in runnable}
    assert names - {"finetune"} == set(COMMANDS)
    done = subprocess.run([sys.executable, "-m", "finetune", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and all(f"python -m finetune.{name} " in done.stdout for name in COMMANDS)
