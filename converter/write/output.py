"""Writes a net in the format that the output's suffix names.

Every output is written beside its place and moved there when it is whole; nothing is left where that fails.
"""

from __future__ import annotations

from pathlib import Path

import torch

from converter.build.assemble import assemble, load
from converter.build.graph import Graph
from converter.build.matching import Plan
from converter.errors import ConversionError
from converter.files import SUFFIXES, whole_file
from converter.write.back import save_caffemodel
from converter.write.safetensors import Hashes, Progress, write_safetensors


def write(path: Path, graph: Graph, plan: Plan | None, hashes: Hashes, progress: Progress | None = None, *, half: bool = False) -> None:
    """Write the net in the format of the path's suffix; `half` is save_caffemodel()'s.

    Raises:
        ConversionError: no such format, or the file cannot be written.
    """
    report = progress or (lambda _: None)
    if path.suffix == ".safetensors":
        write_safetensors(path, graph, plan, hashes, report)
    elif path.suffix in (".pth", ".pt"):
        net = assemble(graph)
        load(net, graph, plan)
        with whole_file(path) as file:
            try:
                torch.save({key: value.detach() for key, value in net.state_dict().items()}, file)
            except RuntimeError as problem:  # torch's zip writer stumbles once more over what it could not write
                raise problem.__context__ if isinstance(problem.__context__, OSError) else problem from None
        report(sum(value.nbytes for value in net.state_dict().values()))
    elif path.suffix == ".py":
        assemble(graph).to_source(path)
    elif path.suffix == ".caffemodel":
        net = assemble(graph)
        load(net, graph, plan)
        save_caffemodel(net, path, half=half)
        report(sum(value.nbytes for value in net.state_dict().values()))
    else:
        raise ConversionError(f"{path}: the output's name ends in {path.suffix!r}; it must be one of {', '.join(SUFFIXES)}.")
