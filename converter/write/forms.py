"""The forms in which a net runs without this package: Python source, torch.export's program, ONNX. Each is proven before it appears.

The order keeps memory low: what the net computes is worked out first, layer by layer, and then the net is traced without values.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from converter.errors import ConversionError
from converter.files import whole_files
from converter.net import CaffeNet
from converter.write.fresh import Reader
from converter.write.onnx import INLINE, check_installed, onnx_model, write_onnx
from converter.write.proof import proof_of, reader_of
from converter.write.safetensors import Progress, write_safetensors
from converter.write.sizes import Sizes, sizes_of
from converter.write.source import source_of
from converter.write.traced import quiet, traced
from converter.write.values import Held, Planned

FORMS = (".py", ".pt2", ".onnx")
FACTS = "caffezoo.json"  # the extra file of a .pt2
Facts = Callable[[], dict[str, str]]


@dataclass(frozen=True)
class Written:
    """What there is to say of a written form."""

    checked: str = ""  # by what it was read back, and how equal it was
    notes: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()  # that may have any length
    beside: tuple[str, ...] = ()  # the files that belong to it

    @property
    def lines(self) -> list[str]:
        """What a person wants to know."""
        said = [f"{', '.join(self.axes)}: any size"] if self.axes else []
        said += [f"its weights are in {', '.join(self.beside)}; keep the two together"] if self.beside else []
        return [*said, *([self.checked] if self.checked else [])]


def write_form(path: Path, values: Held | Planned, facts: Facts, *, check: bool, progress: Progress | None = None) -> Written:
    """Write the net in the form of the path's suffix, with its weights; `check` reads it back in a fresh process and compares.

    Raises:
        UnsupportedError: a layer that this form cannot hold.
        ConversionError: a package is missing, the file cannot be written, or reads back as something else; nothing is left then.
    """
    if path.suffix == ".onnx":
        check_installed(str(path), runtime=check)
    if not check:
        return _write(path, values, facts, None, progress)
    with reader_of(path.suffix) as reader:
        return _write(path, values, facts, reader, progress)


def _write(path: Path, values: Held | Planned, facts: Facts, reader: Reader | None, progress: Progress | None) -> Written:
    net, suffix = values.net, path.suffix
    sizes = sizes_of(net)
    try:
        proof = proof_of(net, sizes.proofs, values.results, path) if reader else None
    except ConversionError:  # shapes fit that values do not, such as the places of an unpooling
        if "height" not in _named(sizes):
            raise
        sizes = sizes.without(("height", "width"), "height and width: the net does not run at other sizes")
        proof = proof_of(net, sizes.proofs, values.results, path)
    if suffix == ".py":
        with whole_files(path) as folder:
            _write_source(folder / path.name, values, facts(), progress)
            checked = proof.check(folder / path.name, path, reader) if proof and reader else ""
            return Written(checked, beside=_beside(folder, path))
    program, free = traced(values.stand_in(), sizes, str(path))
    if proof and free.proofs != sizes.proofs:
        proof = proof_of(net, free.proofs, values.results, path)
    axes = {blob: {str(axis): name for axis, name in held.items()} for blob, held in free.axes.items()}
    held = {**facts(), "axes": json.dumps(axes), "torch": torch.__version__}
    if suffix == ".onnx":
        model = onnx_model(program, net, free, held, str(path))
        del program
    with whole_files(path) as folder:
        if suffix == ".onnx":
            _write_onnx(folder / path.name, model, values, held, progress)
        else:
            _reserve(folder / path.name, values.net, len(program.graph.nodes))
            with quiet():
                torch.export.save(program, folder / path.name, extra_files={FACTS: json.dumps(held)})
        checked = proof.check(folder / path.name, path, reader) if proof and reader else ""
        return Written(checked, free.notes, _named(free), _beside(folder, path))


def _reserve(path: Path, net: CaffeNet, nodes: int) -> None:
    """Find out whether a .pt2 has room: torch's writer aborts the process where a write fails, as on a full disk.

    Raises:
        OSError: it has none.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    size = sum(value.nbytes for value in net.state_dict().values()) + (nodes << 12) + (1 << 16)  # and the graph as JSON
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    path.unlink()


def _named(sizes: Sizes) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for held in sizes.axes.values() for name in held.values()))


def _beside(folder: Path, path: Path) -> tuple[str, ...]:
    return tuple(sorted(each.name for each in folder.iterdir() if each.name != path.name))


def structure(path: Path, net: CaffeNet, facts: Facts) -> None:
    """Write the net's source alone."""
    with whole_files(path) as folder:
        (folder / path.name).write_bytes(_source(net, facts()))


def _source(net: CaffeNet, facts: dict[str, str]) -> bytes:
    return source_of(dict(net.named_children()), net.program, tuple(net.outputs), facts, net.preprocess).encode()


def _write_source(path: Path, values: Held | Planned, facts: dict[str, str], progress: Progress | None) -> None:
    path.write_bytes(_source(values.net, facts))
    with path.with_suffix(".safetensors").open("wb") as file:
        write_safetensors(file, values, facts, progress)


def _write_onnx(path: Path, model: object, values: Held | Planned, facts: dict[str, str], progress: Progress | None) -> None:
    """Many weights lie beside the model, which a runtime maps into memory; few stand in it, one file being handier than two."""
    size = sum(value.nbytes for value in values.net.state_dict().values())
    if size <= INLINE:
        write_onnx(path, model, values.net, values.state(), {})
        return
    with path.with_name(f"{path.name}.data").open("wb") as file:
        places = write_safetensors(file, values, facts, progress)
    write_onnx(path, model, values.net, None, places)
