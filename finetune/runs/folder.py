"""The folder of a run: what was asked for, what happened, what came out. Every file in it appears whole or not at all.

config.json  environment.json     what was asked for, on what machine
metrics.jsonl  tensorboard/       a line an epoch
best.safetensors  card.json       the best weights, and what zoo.load(folder) needs to know of them
last.safetensors                  the weights of the last epoch
predictions.safetensors           logits of the evaluated images, or clips; these also as predictions.csv
result.json  report.html          what was measured at the end
state.pt                          what --resume needs, while the run is not finished
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from finetune import renamed
from finetune.errors import FinetuneError
from finetune.runs.metrics import read_json
from zoo.disk import digests, replacing, write_json

CARD_FORMAT = 1
FILES = (
    "config.json", "environment.json", "metrics.jsonl", "best.safetensors", "card.json", "last.safetensors", "net.prototxt",
    "predictions.safetensors", "predictions.csv", "result.json", "report.html", "state.pt",
)  # fmt: skip
PACKAGES = ("caffezoo", "torch", "torchvision", "accelerate", "torchmetrics", "safetensors", "numpy")
NOT_COMPARED = {"command", "started", "data.notes", "config.about", "config.source", "config.input.source"}  # prose


class Run:
    """An open run folder; create() or resume() opens one. Of several processes, only the first writes to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, config: Mapping[str, object], *, overwrite: bool = False, device: str = "cpu") -> Run:
        """A new folder with its config.json; `device` is what it trains on. Raises FinetuneError where `path` holds something."""
        if path.exists() and not path.is_dir():
            raise FinetuneError(f"{path} is a file; --out names a folder")
        held = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        if held and "config.json" not in held:
            raise FinetuneError(f"{path} is not empty and holds no run; --out names a new folder")
        if held and not overwrite:
            raise FinetuneError(f"{path} holds a run already; --resume continues it, --overwrite replaces it")
        run = cls(path)
        for name in FILES:  # never the folder as a whole: it may hold other files, too
            (path / name).unlink(missing_ok=True)
        shutil.rmtree(path / "tensorboard", ignore_errors=True)
        path.mkdir(parents=True, exist_ok=True)
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
        return cls(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def log(self, values: Mapping[str, object]) -> None:
        """Appends a line to metrics.jsonl."""
        with (self / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """What metrics.jsonl holds, a dict an epoch."""
        path = self / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    def keep_lines(self, count: int) -> None:
        """Drops what metrics.jsonl has beyond `count` lines: epochs after the state that is resumed."""
        path = self / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        if len(lines) < count:
            raise FinetuneError(f"{path}: {len(lines)} epochs where the saved state has {count}; start anew with --overwrite")
        with replacing(path) as temporary:
            temporary.write_text("".join(lines[:count]), encoding="utf-8")

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
        """Writes a safetensors file; the tensors may lie on any device."""
        from safetensors.torch import save_file

        with replacing(self / name) as temporary:
            save_file({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}, temporary, metadata)

    def save_text(self, name: str, text: str) -> None:
        with replacing(self / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def load_tensors(self, name: str) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(self / name)

    def save_state(self, state: Mapping[str, object]) -> None:
        with replacing(self / "state.pt") as temporary:
            torch.save(dict(state), temporary)

    def load_state(self) -> dict[str, Any] | None:
        """What save_state() wrote last, on the CPU, or None. Nothing but tensors and plain values is read from the file."""
        path = self / "state.pt"
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise FinetuneError(f"{path}: no saved state ({str(error).splitlines()[0][:200]}); start anew with --overwrite") from error
        return state

    def write_card(self, card: Mapping[str, object], weights: str = "best.safetensors") -> None:
        digest = digests(self / weights, ())["sha256"]
        write_json(self / "card.json", {"format": CARD_FORMAT, **card, "weights": weights, "sha256": digest})

    def finish(self, result: Mapping[str, object]) -> None:
        write_json(self / "result.json", result)
        (self / "state.pt").unlink(missing_ok=True)


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
