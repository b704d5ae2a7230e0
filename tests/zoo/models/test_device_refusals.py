"""A device that is not here: one sentence, before anything is fetched, read or trained."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import zoo
from zoo.errors import LoadError

pytestmark = pytest.mark.usefixtures("home")
WRONG = {
    "cuda": "there is no GPU for it",
    "cuda:3": "there is no GPU for it",
    "tpu": "knows no such device",
    "mps": "finds no Apple GPU",
    "\x1b[2J": "knows no such device",
}


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


CALLS: dict[str, Callable[[str], object]] = {
    "load": lambda device: zoo.load("vgg_face", device=device),  # which is not in the cache, and whose terms are not accepted
    "load a run": lambda device: zoo.load(Path("no/such/run"), device=device),
    "load_caffe": lambda device: zoo.load_caffe("no.prototxt", device=device),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("device", WRONG)
def test_a_device_that_is_not_here_is_refused_before_anything_is_loaded(device: str, call: Callable[[str], object]) -> None:
    with pytest.raises(LoadError, match=WRONG[device]) as error:
        call(device)
    assert "\n" not in str(error.value)


COMMANDS: dict[str, tuple[str, list[str]]] = {
    "predict": ("finetune.predict.__main__", ["vgg_face", "no.png", "--device"]),
    "prepare_video": ("finetune.prepare_video", ["src", "dst", "--device"]),
}


@pytest.mark.parametrize(("module", "arguments"), COMMANDS.values(), ids=COMMANDS.keys())
@pytest.mark.parametrize("device", WRONG)
def test_a_command_says_so_in_one_line(
    device: str, module: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.avi").write_bytes(b"")
    assert importlib.import_module(module).main([*arguments, device]) == 1
    said = capsys.readouterr().err
    assert WRONG[device] in said
    assert said.count("\n") == 1
    assert not (tmp_path / "dst").exists()


def test_a_gpu_that_is_one_too_many_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(LoadError, match=r"1 GPU, counted from cuda:0"):
        zoo.load("vgg_face", device="cuda:1")


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), None])
def test_a_device_that_is_here_is_taken(device: str | torch.device | None) -> None:
    assert next(zoo.load("fer_mini", device=device).parameters()).device.type == "cpu"
