"""Writes a net in the format that the output's suffix names.

Every output is written beside its place and moved there when it is whole; nothing is left where that fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from converter import __version__
from converter.build.assemble import assemble, load
from converter.build.graph import Graph
from converter.build.matching import Plan
from converter.errors import ConversionError, printable
from converter.files import SUFFIXES, Hasher, head, stamp_of, whole_file
from converter.net import CaffeNet
from converter.write.back import save_caffemodel
from converter.write.encode import is_kernel
from converter.write.forms import FORMS, Written, structure, write_form
from converter.write.fresh import Reader
from converter.write.pth import write_pth
from converter.write.readback import Ledger, read_back, reader_of
from converter.write.rounding import Rounding
from converter.write.safetensors import Progress, write_safetensors
from converter.write.values import Held, Planned, values_of

Hashes = Callable[[], dict[str, str]]
_WEIGHTS = (".safetensors", ".pth", ".pt", ".caffemodel")  # forms that hold weights alone


def write(
    path: Path,
    graph: Graph,
    plan: Plan | None,
    hashes: Hashes,
    progress: Progress | None = None,
    *,
    rounding: Rounding | None = None,
    check: bool = False,
    reader: Reader | None = None,
    structure_only: bool = False,
) -> Written:
    """Write a net that is not in memory, in the format of the path's suffix.

    Where that holds weights alone and the net is not the files' own any more (folded layers, another input), the prototxt
    that they belong to is written beside it.

    Args:
        rounding: of all values of a state dict; of a caffemodel's kernels to half precision, as save_caffemodel() does.
        check: read the file back in a fresh process and compare it before it appears.
        reader: that process, of readback.reader_of(), where it runs already.
        structure_only: a .py without weights beside it.

    Raises:
        ConversionError: no such format, a layer that it cannot hold, values that cannot be rounded, or the file cannot be written.
    """
    _check_suffix(path)
    net = assemble(graph)

    def facts() -> dict[str, str]:
        return net.facts(hashes(), graph.ignored)

    if structure_only and path.suffix == ".py":
        structure(path, net, facts)
        return Written()
    if path.suffix in (".caffemodel", ".pt2"):
        load(net, graph, plan)
        values: Held | Planned = Held(net)
    else:
        values = values_of(net, graph, plan)
    return _write(path, values, facts, progress, rounding=rounding, check=check, reader=reader)


def prototxt_beside(path: Path, net: Graph | CaffeNet) -> Path | None:
    """The file that holds the changed net's prototxt, beside its weights; None where the output needs none."""
    return path.with_suffix(".prototxt") if net.changes and path.suffix in _WEIGHTS else None


def check_beside(path: Path, net: Graph | CaffeNet) -> None:
    """Refuse to write over a prototxt that is not one of ours.

    Raises:
        ConversionError: there is one.
    """
    beside = prototxt_beside(path, net)
    if beside is not None and beside.exists() and not head(beside, len(_OURS)).startswith(_OURS.encode()):
        raise ConversionError(
            f"{path}: the changed net's prototxt would be written over {beside}, which is another one; choose another name for the output."
        )


_OURS = "# A Caffe net changed by caffezoo"


def _changed_prototxt(net: CaffeNet) -> str:
    lines = [f"{_OURS} {__version__}; it belongs to the weights beside it.", *(f"# {printable(change)}" for change in net.changes)]
    return "\n".join([*lines, net.prototxt])


def save(net: CaffeNet, path: str | os.PathLike[str], *, check: bool = True) -> None:
    """Write a net with its weights; the suffix says in which form.

    .safetensors, .pth (state dict), .caffemodel; .py with a .safetensors beside it, .onnx (from 64 MiB of weights on with an
    .onnx.data beside it), .pt2: these three run without this package. `check`: the file is read back in a fresh process and compared
    before it appears. In .onnx and .pt2 the batch, height and width may have any size where the net takes any: see docs/forms.md.
    Of a net with folded layers or another input, .safetensors, .pth and .caffemodel get their prototxt beside them.

    Raises:
        UnsupportedError: a layer that the form cannot hold; it says which, and what to do.
        ConversionError: no such form, a package of the extra `onnx` is missing, or the file cannot be written; nothing is left then.
    """
    path = Path(path)
    _check_suffix(path)
    _write(path, Held(net), lambda: net.facts(hashed(net.sources)), None, rounding=None, check=check)


def hashed(sources: Sequence[tuple[Path, tuple[int, int]]]) -> dict[str, str]:
    """sha256 by file name of the sources that are still what was read: of the same size and time."""
    same = [path for path, stamp in sources if stamp_of(path) == stamp]
    alike = len({path.name for path in same}) < len(same)
    return {str(path) if alike else path.name: hasher.result() for path, hasher in [(path, Hasher(path)) for path in same]}


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise ConversionError(f"{path}: the output's name ends in {path.suffix!r}; it must be one of {', '.join(SUFFIXES)}.")


def _write(
    path: Path,
    values: Held | Planned,
    facts: Hashes,
    progress: Progress | None,
    *,
    rounding: Rounding | None,
    check: bool,
    reader: Reader | None = None,
) -> Written:
    if path.suffix in FORMS:
        return write_form(path, values, facts, check=check, progress=progress)
    check_beside(path, values.net)
    if path.suffix == ".caffemodel":
        checked = _write_caffemodel(path, values.net, rounding, check)
        if progress is not None:
            progress(sum(value.nbytes for value in values.net.state_dict().values()))
    elif check:
        with reader or reader_of(path.suffix, values.sources()) as process:
            checked = _write_state(path, values, facts, progress, rounding, process)
    else:
        checked = _write_state(path, values, facts, progress, rounding, None)
    if beside := prototxt_beside(path, values.net):
        with whole_file(beside) as file:
            file.write(_changed_prototxt(values.net).encode())
    return Written(checked)


def _write_state(
    path: Path, values: Held | Planned, facts: Hashes, progress: Progress | None, rounding: Rounding | None, reader: Reader | None
) -> str:
    ledger = None if reader is None else Ledger()
    with whole_file(path) as file:
        if path.suffix == ".safetensors":
            prototxt = {"prototxt": values.net.prototxt} if values.net.changes else {}
            write_safetensors(file, values, facts() | prototxt, progress, rounding, ledger)
        else:
            write_pth(file, values, progress, rounding, ledger)
        if rounding is not None:
            rounding.check(str(path))
        file.flush()
        return "" if ledger is None or reader is None else read_back(Path(file.name), ledger, path, reader)


def _write_caffemodel(path: Path, net: CaffeNet, rounding: Rounding | None, check: bool) -> str:
    if rounding is not None:
        for key, value in net.state_dict().items():
            if is_kernel(value.shape):
                rounding(key, value)  # only measured: the writer rounds
    return save_caffemodel(net, path, half=rounding is not None, check=check)
