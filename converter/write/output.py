"""Writes a net in the format that the output's suffix names.

Every output is written beside its place and moved there when it is whole; nothing is left where that fails.
"""

from __future__ import annotations

from pathlib import Path

import torch

from converter import __version__
from converter.build.assemble import assemble, load
from converter.build.graph import Graph
from converter.build.matching import Plan
from converter.errors import ConversionError, printable
from converter.files import SUFFIXES, head, whole_file
from converter.net import CaffeNet
from converter.write.back import save_caffemodel
from converter.write.encode import is_kernel
from converter.write.rounding import Rounding
from converter.write.safetensors import Hashes, Progress, write_safetensors

_WEIGHTS = (".safetensors", ".pth", ".pt", ".caffemodel")  # forms that hold weights alone


def write(
    path: Path, graph: Graph, plan: Plan | None, hashes: Hashes, progress: Progress | None = None, *, rounding: Rounding | None = None
) -> None:
    """Write the net in the format of the path's suffix.

    Where that holds weights alone and the net is not the files' own any more (folded layers, another input), the prototxt
    that they belong to is written beside it. `rounding`: of all values; of a caffemodel to half precision, as save_caffemodel() does.

    Raises:
        ConversionError: no such format, values that cannot be rounded, or the file cannot be written.
    """
    report = progress or (lambda _: None)
    if path.suffix == ".safetensors":
        write_safetensors(path, graph, plan, hashes, report, rounding)
    elif path.suffix == ".py":
        assemble(graph).to_source(path)
    elif path.suffix in _WEIGHTS:
        net = assemble(graph)
        load(net, graph, plan)
        if path.suffix == ".caffemodel":
            if rounding is not None:
                for key, value in net.state_dict().items():
                    if is_kernel(value.shape):
                        rounding(key, value)  # only measured: the writer rounds
            save_caffemodel(net, path, half=rounding is not None)
        else:
            _save_state(net, path, rounding)
        report(sum(value.nbytes for value in net.state_dict().values()))
    else:
        raise ConversionError(f"{path}: the output's name ends in {path.suffix!r}; it must be one of {', '.join(SUFFIXES)}.")
    if beside := prototxt_beside(path, graph):
        with whole_file(beside) as file:
            file.write(_changed_prototxt(graph).encode())


def prototxt_beside(path: Path, graph: Graph) -> Path | None:
    """The file that holds the changed net's prototxt, beside its weights; None where the output needs none."""
    return path.with_suffix(".prototxt") if graph.changes and path.suffix in _WEIGHTS else None


def check_beside(path: Path, graph: Graph) -> None:
    """Refuse to write over a prototxt that is not one of ours.

    Raises:
        ConversionError: there is one.
    """
    beside = prototxt_beside(path, graph)
    if beside is not None and beside.exists() and not head(beside, len(_OURS)).startswith(_OURS.encode()):
        raise ConversionError(
            f"{path}: the changed net's prototxt would be written over {beside}, which is another one; choose another name for the output."
        )


_OURS = "# A Caffe net changed by caffezoo"


def _changed_prototxt(graph: Graph) -> str:
    lines = [f"{_OURS} {__version__}; it belongs to the weights beside it.", *(f"# {printable(change)}" for change in graph.changes)]
    return "\n".join([*lines, assemble(graph).prototxt])


def _save_state(net: CaffeNet, path: Path, rounding: Rounding | None) -> None:
    state = {key: value.detach() for key, value in net.state_dict().items()}
    if rounding is not None:
        state = {key: rounding(key, value) for key, value in state.items()}
        rounding.check(str(path))
    with whole_file(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as problem:  # torch's zip writer stumbles once more over what it could not write
            raise problem.__context__ if isinstance(problem.__context__, OSError) else problem from None
