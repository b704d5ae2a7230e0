"""The folder of a run: what was asked for, what happened, what came out. Every file in it appears whole or not at all.

config.json  environment.json     what was asked for, on what machine
metrics.jsonl  tensorboard/       a line an epoch
best.safetensors  card.json       the best weights, and what zoo.load(folder) needs to know of them
last.safetensors                  the weights of the last epoch
predictions.safetensors           logits of the evaluated images, or clips; these also as predictions.csv
result.json  report.html          what was measured at the end
state.pt                          what --resume needs, while the run is not finished; its last line is the sha256 of what stands before

A process may be killed at any point: what it leaves is either older or newer than the state, and --resume makes both agree.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from finetune import renamed
from finetune.errors import FinetuneError
from finetune.runs.metrics import read_json
from zoo.disk import BLOCK, digests, replacing, saving, write_json

CARD_FORMAT = 1
FILES = (
    "config.json", "environment.json", "metrics.jsonl", "best.safetensors", "card.json", "last.safetensors", "net.prototxt",
    "predictions.safetensors", "predictions.csv", "result.json", "report.html", "state.pt",
)  # fmt: skip
# As replacing() names them, and as safetensors does, which writes beside them.
TEMPORARY = re.compile(r"\.[a-z]+\.[a-z]+\.\d+-[0-9a-f]{8}\.tmp(\.mode)?|\.tmp[A-Za-z0-9]{6}")
SEAL = b"\nsha256 "
# What torch.load raises for bytes that are no state.
UNREADABLE = (UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError)
PACKAGES = ("caffezoo", "torch", "torchvision", "accelerate", "torchmetrics", "safetensors", "numpy")
NOT_COMPARED = {"command", "started", "data.notes", "config.about", "config.source", "config.input.source"}  # prose


class Run:
    """An open run folder; create() or resume() opens one. Of several processes, only the first writes to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logged: list[str] = []  # the lines of metrics.jsonl

    @classmethod
    def create(cls, path: Path, config: Mapping[str, object], *, overwrite: bool = False, device: str = "cpu") -> Run:
        """A new folder with its config.json; `device` is what it trains on. Raises FinetuneError where `path` holds something."""
        if path.exists() and not path.is_dir():
            raise FinetuneError(f"{path} is a file; --out names a folder")
        held = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        if "config.json" not in held and any(not (name in (*FILES, "tensorboard") or TEMPORARY.fullmatch(name)) for name in held):
            raise FinetuneError(f"{path} is not empty and holds no run; --out names a new folder")
        if "config.json" in held and not overwrite:
            raise FinetuneError(f"{path} holds a run already; --resume continues it, --overwrite replaces it")
        if held & {"state.pt", "result.json"} and not overwrite:
            raise FinetuneError(f"{path} holds a run without its config.json; copy that back and --resume, or replace the run: --overwrite")
        run = cls(path)
        for name in FILES:  # never the folder as a whole: it may hold other files, too
            (path / name).unlink(missing_ok=True)
        shutil.rmtree(path / "tensorboard", ignore_errors=True)
        path.mkdir(parents=True, exist_ok=True)
        run.remove_temporary()
        write_json(path / "environment.json", environment(device))
        write_json(path / "config.json", {**config, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
        return run

    @classmethod
    def resume(cls, path: Path, config: Mapping[str, object]) -> Run:
        """The folder of a run that was begun with the same settings. Raises FinetuneError naming every difference."""
        found = read_json(path / "config.json")
        differences = [
            f"  {name}: {json.dumps(old)} there, {json.dumps(new)} now"
            for name, old, new in compared(renamed.config(found), json.loads(json.dumps(dict(config))))
            if name not in NOT_COMPARED
        ]
        if differences:
            raise FinetuneError("\n".join([f"{path} was begun with other settings; --resume takes the same ones:", *differences]))
        run = cls(path)
        run.remove_temporary()
        return run

    def remove_temporary(self) -> None:
        """Removes what a process that was killed had begun to write."""
        for entry in self.path.iterdir():
            if TEMPORARY.fullmatch(entry.name) and not entry.is_dir():
                entry.unlink(missing_ok=True)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def log(self, values: Mapping[str, object]) -> None:
        """Appends a line to metrics.jsonl."""
        self.logged.append(json.dumps(values) + "\n")
        with (self / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(self.logged[-1])

    def lines(self) -> list[dict[str, Any]]:
        """What metrics.jsonl holds, a dict an epoch; half a line is none."""
        path = self / "metrics.jsonl"
        content = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        return [json.loads(line) for line in content.splitlines(keepends=True) if epoch_of(line) is not None]

    def keep_lines(self, count: int, saved: Sequence[str] = ()) -> None:
        """Drops what metrics.jsonl has beyond `count` epochs: those after the state that is resumed, and half a line.

        Lines that are missing, as after a power cut, are taken from those that the state has `saved`. Raises FinetuneError where one
        stands in neither.
        """
        path = self / "metrics.jsonl"
        content = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        found = (*content.splitlines(keepends=True), *saved)
        lines = {epoch: line for line in found if (epoch := epoch_of(line)) is not None}
        if missing := [epoch for epoch in range(1, count + 1) if epoch not in lines]:
            raise FinetuneError(f"{path}: no line of epoch {missing[0]}, but the saved state has {count}; start anew with --overwrite")
        self.logged = [lines[epoch] for epoch in range(1, count + 1)]
        kept = "".join(self.logged)
        if kept != content:
            with replacing(path) as temporary:
                temporary.write_text(kept, encoding="utf-8")

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
        """Writes a safetensors file; the tensors may lie on any device."""
        from safetensors.torch import save_file

        with saving(self / name) as temporary:
            save_file({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}, temporary, metadata)

    def save_text(self, name: str, text: str) -> None:
        with replacing(self / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def load_tensors(self, name: str) -> dict[str, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self / name)
        except (SafetensorError, FileNotFoundError) as error:
            raise FinetuneError(f"{self / name}: missing or not whole ({error}); start anew with --overwrite") from error

    def load_weights(self, model: nn.Module, name: str, *, check: bool = False) -> None:
        """Fills the net with the weights of a safetensors file; with `check` it is only asked whether it could be.

        Raises FinetuneError where the file is missing, not whole, or of another net.
        """
        tensors = self.load_tensors(name)
        wanted = {key: value.shape for key, value in model.state_dict().items()}
        if wanted != {key: value.shape for key, value in tensors.items()}:
            raise FinetuneError(f"{self / name}: the weights of another net; start anew with --overwrite")
        if not check:
            model.load_state_dict(tensors)

    def save_state(self, state: Mapping[str, object]) -> None:
        with saving(self / "state.pt") as temporary:
            torch.save({**state, "lines": self.logged}, temporary)
            ending = SEAL + digests(temporary, ())["sha256"].encode()
            with temporary.open("ab") as stream:
                stream.write(ending)

    def load_state(self) -> dict[str, Any] | None:
        """What save_state() wrote last, on the CPU, or None. Nothing but tensors and plain values is read from the file.

        Raises FinetuneError where a bit of it is not what was written. States of older releases have no hash.
        """
        path = self / "state.pt"
        if not path.is_file():
            return None
        check_seal(path)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except UNREADABLE as error:
            raise FinetuneError(f"{path}: no saved state ({first_line(error)}); start anew with --overwrite") from error
        if not isinstance(state, dict):
            raise FinetuneError(f"{path}: no saved state, but a {type(state).__name__}; start anew with --overwrite")
        return state

    def write_card(self, card: Mapping[str, object], weights: str = "best.safetensors") -> None:
        digest = digests(self / weights, ())["sha256"]
        write_json(self / "card.json", {"format": CARD_FORMAT, **card, "weights": weights, "sha256": digest})

    def finish(self, result: Mapping[str, object]) -> None:
        write_json(self / "result.json", result)
        self.remove_state()

    def remove_state(self) -> None:
        (self / "state.pt").unlink(missing_ok=True)


def epoch_of(line: str) -> int | None:
    """The epoch of a whole line of metrics.jsonl; None for half a line."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    epoch = values.get("epoch") if isinstance(values, dict) and line.endswith("\n") else None
    return epoch if isinstance(epoch, int) else None


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def check_seal(path: Path) -> None:
    """Raises FinetuneError unless the sha256 at the end of a state is that of what stands before; one without is an older release's."""
    length = len(SEAL) + 64
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - length))
        ending = stream.read()
        if SEAL not in ending:
            return
        stream.seek(0)
        digest, left = hashlib.sha256(), size - length
        while left and (block := stream.read(min(left, BLOCK))):
            digest.update(block)
            left -= len(block)
    if ending.removeprefix(SEAL) != digest.hexdigest().encode():
        raise FinetuneError(
            f"{path}: not what was saved, by its own sha256: the disk or a copy has changed it. Copy it again, or start anew with"
            " --overwrite"
        )


def compared(old: object, new: object, name: str = "") -> Iterator[tuple[str, object, object]]:
    """The fields in which two JSON values differ, as (dotted name, old, new)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from compared(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
    elif old != new:
        yield name, old, new


def environment(device: str) -> dict[str, Any]:
    """What a run's speed and its last digits depend on; `device` as torch names it."""
    cuda = device.startswith("cuda")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if cuda else f"cpu ({torch.get_num_threads()} threads)",
        "cuda": torch.version.cuda if cuda else None,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "commit": commit(),
        "torch": torch.__version__,
        "packages": {name: version(name) for name in PACKAGES},
    }


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The git commit of this code, with "-dirty" where files differ from it; None outside of a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
