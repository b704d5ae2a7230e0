"""Reads a written net back in a fresh process, by the tool that its users have, and compares what it computes with the net."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converter.errors import ConversionError
from converter.net import CaffeNet
from converter.write.fresh import Reader
from converter.write.sizes import Shapes, drawn

TOLERANCE = 1e-4  # of an output's largest magnitude: float32 summed in another order, over many layers
Runs = list[list[Tensor]]
Results = list[dict[str, Tensor]]

_TORCH = """
torch.set_num_threads(threads)
runs = torch.load(folder + "/inputs", weights_only=True)
with torch.no_grad():
    found = [net(*run) for run in runs]
torch.save([dict(each) if isinstance(each, dict) else [each] for each in found], folder + "/found")
print("torch " + torch.__version__)
"""
_READERS = {  # what each imports, and what it does then
    ".py": (
        "importlib.abc, runpy, torch",
        """
folder, threads = given
class NotInstalled(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("converter", "zoo", "architectures", "finetune"):
            raise ImportError("the file imports " + name)
sys.meta_path.insert(0, NotInstalled())
net = runpy.run_path(path)["load"]()
"""
        + _TORCH,
    ),
    ".pt2": (
        "torch, torch.export",
        """
folder, threads = given
net = torch.export.load(path).module()
"""
        + _TORCH,
    ),
    ".onnx": (
        "numpy, onnxruntime",
        """
folder, threads = given
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level, options.enable_cpu_mem_arena = threads, 3, False
options.add_session_config_entry("session.disable_prepacking", "1")  # a second copy of the weights
net = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
names = [each.name for each in net.get_inputs()]
found = {}
with numpy.load(folder + "/inputs.npz") as inputs:
    for run in range(len(inputs.files) // max(len(names), 1)):
        results = net.run(None, {name: inputs[f"{run}.{i}"] for i, name in enumerate(names)})
        found.update({f"{run}.{i}": result for i, result in enumerate(results)})
numpy.savez(folder + "/found.npz", **found)
print("ONNX Runtime " + onnxruntime.__version__)
""",
    ),
}


def reader_of(suffix: str) -> Reader:
    """A fresh process that runs nets of this form."""
    imports, code = _READERS[suffix]
    return Reader(f"import {imports}", code)


@dataclass(frozen=True)
class Proof:
    """What the net makes of drawn inputs."""

    runs: Runs
    wanted: Results

    def check(self, path: Path, shown_path: Path, process: Reader) -> str:
        """Read the file in a fresh process, of reader_of(); returns what to say of it.

        Raises:
            ConversionError: the other tool cannot read or run it, or computes something else.
        """
        reader, found = _read(path, self.runs, list(self.wanted[0]), shown_path, process)
        worst = 0.0
        for inputs, got, want in zip(self.runs, found, self.wanted, strict=True):
            for name, value in want.items():
                difference = differs_by(got[name], value)
                if not difference <= TOLERANCE:
                    shapes = " and ".join("×".join(map(str, x.shape)) for x in inputs)
                    raise ConversionError(
                        f"{shown_path} is not written: in {reader}, its output {name!r} for an input of {shapes} differs by"
                        f" {difference:.1e} of the largest value."
                        " Please report it; --no-check (check=False) writes the file all the same."
                    )
                worst = max(worst, difference)
        return f"read back by {reader}: " + ("the same, bit for bit" if worst == 0 else f"differs by {worst:.0e} of the largest value")


def proof_of(net: CaffeNet, shapes: Sequence[Shapes], run: Callable[[Runs], Results], where: Path) -> Proof:
    """Draw inputs that the net takes (see sizes.drawn) and run it on them.

    Raises:
        ConversionError: the net takes none of them.
    """
    problem = ""
    for how in range(4):
        runs = [drawn(net, each, how, seed) for seed, each in enumerate(shapes)]
        try:
            return Proof(runs, run(runs))
        except (RuntimeError, IndexError, ValueError) as error:
            problem = str(error).strip().splitlines()[0]
    raise ConversionError(
        f"{where} is not written: the net takes none of the inputs that were drawn to compare it on ({problem});"
        " --no-check (check=False) writes the file without."
    )


def differs_by(found: Tensor, want: Tensor) -> float:
    """The largest difference as a part of the largest magnitude; infinite where shapes, or what is not finite, differ."""
    if found.shape != want.shape or not torch.equal(found.isfinite(), want.isfinite()):
        return float("inf")
    if not want.numel():
        return 0.0
    odd = ~want.isfinite()
    if not torch.equal(found[odd].nan_to_num(0.0), want[odd].nan_to_num(0.0)):
        return float("inf")
    found, want = found.double().masked_fill(odd, 0), want.double().masked_fill(odd, 0)
    return float((found - want).abs().max()) / max(float(want.abs().max()), 1e-3)


def _read(path: Path, runs: Runs, names: Sequence[str], shown_path: Path, process: Reader) -> tuple[str, Results]:
    """What another process makes of the inputs, and what it read the file with."""
    with tempfile.TemporaryDirectory(prefix="convert-caffe-") as folder:
        _put(Path(folder), runs, path.suffix)
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        reader = process.read_back(path, shown_path, folder, min(torch.get_num_threads(), allowed))
        return reader, _taken(Path(folder), len(runs), names, path.suffix)


def _put(folder: Path, runs: Runs, suffix: str) -> None:
    if suffix != ".onnx":
        torch.save(runs, folder / "inputs")
        return
    import numpy

    arrays: dict[str, Any] = {f"{n}.{i}": value.numpy() for n, run in enumerate(runs) for i, value in enumerate(run)}
    numpy.savez(folder / "inputs.npz", **arrays)


def _taken(folder: Path, runs: int, names: Sequence[str], suffix: str) -> Results:
    if suffix != ".onnx":
        found = torch.load(folder / "found", weights_only=True)
        return [each if isinstance(each, dict) else dict(zip(names, each, strict=True)) for each in found]
    import numpy

    with numpy.load(folder / "found.npz") as held:
        return [{name: torch.from_numpy(held[f"{run}.{i}"]) for i, name in enumerate(names)} for run in range(runs)]
