"""The command convert-caffe. It imports torch only where a net is built: --help and listing a caffemodel are quick."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from converter.arguments import check_precision, numbers_of, parser, shapes_of
from converter.errors import ConversionError, counted, printable, shown
from converter.extras import missing, require
from converter.files import SUFFIXES, head
from converter.startup import importing_torch
from converter.terminal import Bar, notes, say

if TYPE_CHECKING:
    from converter.build.graph import Graph
    from converter.build.matching import Plan
    from converter.files import Hasher
    from converter.read.caffemodel import Weights
    from converter.read.upgrade import NetSpec
    from converter.verify import Verification
    from converter.write.forms import Written
    from converter.write.rounding import Rounding


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit status: 0 done, 1 failed, 2 usage, 130 interrupted (SIGINT), 143 terminated (SIGTERM, SIGHUP)."""
    came: list[int] = []
    with _signals(came):
        p = parser()
        options = p.parse_args(arguments)
        try:
            _run(options, p.error)
        except BaseException:  # of any kind: torch's imports turn what a signal raised into errors of their own
            if not came:
                raise
            stopped, status = ("interrupted", 130) if came[0] == signal.SIGINT else ("terminated", 143)
            sys.stderr.write(f"convert-caffe: {stopped}; no unfinished file is left\n")
            sys.exit(status)


def _run(options: argparse.Namespace, usage: Callable[[str], NoReturn]) -> None:
    """run(), with a sentence for what a user can mend."""
    try:
        with notes():
            run(options, usage)
        sys.stdout.flush()
    except ConversionError as error:
        sys.exit(f"convert-caffe: {_one_paragraph(str(error))}")
    except ImportError as error:
        if (reason := missing(error)) is None:
            raise
        sys.exit(f"convert-caffe: {_one_paragraph(reason)}")
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


class _Terminated(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT: passes through, so that unfinished files are removed."""


@contextmanager
def _signals(came: list[int]) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise an exception inside the block, and are noted; one that is ignored, as under nohup, stays so."""

    def end(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else _Terminated

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _one_paragraph(text: str) -> str:
    return printable(" ".join(text.split()))


def run(options: argparse.Namespace, usage: Callable[[str], NoReturn]) -> None:
    if options.list_layers:
        from converter.layers.document import listing

        print(listing())
        return
    check_precision(options, usage)
    prototxt, weights = _told_apart(options.files, usage)
    shapes = shapes_of(options.input_shape, usage)
    options.stated = {name: numbers_of(name, getattr(options, name), usage) for name in ("mean", "scale")}
    if options.report is not None:
        require("jinja2", extra="report")
        _check_output(options.report, [p for p in (prototxt, weights, options.output) if p is not None], (".html", ".htm"))
    if (options.image or options.every_blob) and not options.verify:
        usage("--image and --every-blob go with --verify")
    verification: Verification | None = None
    if options.verify:
        if weights is None:
            usage("--verify takes a prototxt and a caffemodel, or a caffemodel that holds its net")
        try:
            verification, problem = _verify(options, prototxt, weights, shapes)
        except ConversionError as error:
            if options.report is not None:
                with suppress(ConversionError):  # the files themselves are wrong, which is being told
                    _report(options, prototxt, weights, shapes, None, [str(error)])
            raise
        if problem:
            if options.report is not None:
                _report(options, prototxt, weights, shapes, verification)
            raise ConversionError(problem)
    written: list[str] = []
    if options.output is None and not options.verify and options.report is None:
        _show(options, prototxt, weights, shapes)
    elif options.output is None:
        pass
    elif prototxt is None and weights is not None and _is_mean(weights):
        _write_mean(options, weights)
    else:
        written = _convert(options, prototxt, weights, shapes)
    if options.report is not None:
        _report(options, prototxt, weights, shapes, verification, written)


def _told_apart(files: list[Path], usage: Callable[[str], NoReturn]) -> tuple[Path | None, Path | None]:
    """Which file is the prototxt and which holds weights, by their first bytes: the order does not matter."""
    if not 1 <= len(files) <= 2:
        usage("give a prototxt, a caffemodel, or both")
    binary = [_is_binary(path) for path in files]
    if len(files) == 1:
        return (None, files[0]) if binary[0] else (files[0], None)
    if binary == [True, False]:
        return files[1], files[0]
    return files[0], files[1]


def _is_binary(path: Path) -> bool:
    return b"\0" in head(path, 1 << 16) or path.suffix in (".caffemodel", ".h5", ".binaryproto")


def _is_mean(path: Path) -> bool:
    from converter.read.caffemodel import blob_file, is_hdf5
    from converter.read.source import open_source

    return not is_hdf5(path) and blob_file(open_source(path))


def _show(options: argparse.Namespace, prototxt: Path | None, weights: Path | None, shapes: dict[str, tuple[int, ...]]) -> None:
    from converter import table

    if prototxt is None:
        assert weights is not None
        if _is_mean(weights):
            from converter.read.caffemodel import walk_blob

            blob = walk_blob(weights)
            print(json.dumps({"mean": list(blob.shape)}) if options.json else f"mean image of shape {'×'.join(map(str, blob.shape))}")
            return
        from converter.read.weights import open_weights

        found = open_weights(weights)
        print(json.dumps(table.weights_json(found)) if options.json else table.weights_table(found))
        return
    graph, _ = _prepared(options, prototxt, weights, shapes)
    print(json.dumps(table.net_json(graph)) if options.json else table.net_table(graph))
    _notes([*graph.changes, *graph.notes], options)


def _verify(
    options: argparse.Namespace, prototxt: Path | None, weights: Path, shapes: dict[str, tuple[int, ...]]
) -> tuple[Verification, str]:
    """What was compared, and what to say where the two differ, "" where they do not."""
    _read(options, prototxt, weights)
    from converter.verify.files import verify_files
    from converter.verify.text import as_json, lines, verdict

    found = verify_files(
        lambda unchanged: _prepared(options, prototxt, weights, shapes, unchanged=unchanged),
        prototxt,
        weights,
        own_state=bool(options.phase != "TEST" or options.stage or options.level or shapes),
        image=options.image,
        every_blob=options.every_blob,
    )
    if options.json:
        if options.output is None:
            print(json.dumps(as_json(found)))
    elif not options.quiet:
        for line in lines(found, options.every_blob):
            say(line)
    return found, verdict(found, str(prototxt or weights))


def _report(
    options: argparse.Namespace,
    prototxt: Path | None,
    weights: Path | None,
    shapes: dict[str, tuple[int, ...]],
    verification: Verification | None,
    written: Sequence[str] = (),
) -> None:
    spec, found = _read(options, prototxt, weights)
    graph, plan = _prepared(options, spec, found, shapes)
    from converter.report.page import Verified, write_report

    verified = Verified([*written])
    if verification is not None:
        verified = Verified(
            [*written, *verification.notes, *(f"not compared: {text}" for text in verification.left)], verification.compared
        )
    write_report(options.report, graph, plan, prototxt, found, verified)
    if not options.quiet and not options.json:
        say(f"{options.report}: a report of {counted(len(graph.steps), 'layer')}; open it in a browser")


def _read(
    options: argparse.Namespace, prototxt: Path | NetSpec | None, weights: Path | Weights | None
) -> tuple[NetSpec | None, Weights | None]:
    """What the files hold. It takes no torch: what is wrong with them is said at once."""
    from converter.read.prototxt import read_prototxt
    from converter.read.weights import open_weights

    found = open_weights(weights) if isinstance(weights, Path) else weights
    return read_prototxt(prototxt, options.phase) if isinstance(prototxt, Path) else prototxt, found


def _prepared(
    options: argparse.Namespace,
    prototxt: Path | NetSpec | None,
    weights: Path | Weights | None,
    shapes: dict[str, tuple[int, ...]],
    unchanged: bool = False,
) -> tuple[Graph, Plan | None]:
    """The net as the options want it; `unchanged`: with the layers and inputs of the files."""
    spec, found = _read(options, prototxt, weights)
    with importing_torch():
        from converter.build.preprocessing import Stated
        from converter.conversion import prepare

    stated = Stated(**options.stated, channels=options.channels)
    return prepare(
        spec,
        found,
        phase=options.phase,
        stages=options.stage,
        level=options.level,
        input_shapes=shapes,
        ignore=options.ignore,
        preprocess=None if stated == Stated() else stated,
        fold_batchnorm=options.fold_batchnorm and not unchanged,
        input=None if unchanged else options.input,
    )


def _notes(notes: list[str], options: argparse.Namespace) -> None:
    if not options.quiet and not options.json:
        for note in notes:
            say(f"note: {note}", sys.stderr)


def _convert(options: argparse.Namespace, prototxt: Path | None, weights: Path | None, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Returns what was written and how it was proven, for the report."""
    from converter.files import Hasher

    output: Path = options.output
    _check_output(output, [p for p in (prototxt, weights) if p is not None])
    if weights is None and output.suffix != ".py" and not options.random_weights:
        raise ConversionError(
            f"{output}: no weights were given: it would hold random numbers. Give the .caffemodel, too; or --random-weights, to write what"
            " the prototxt's fillers draw; or -o net.py, for the structure alone."
        )
    spec, found = _read(options, prototxt, weights)
    # The hashes are made on threads of their own, while this one imports torch.
    sources = [path for path in (prototxt, weights) if path is not None and path.is_file()]
    alike = len({path.name for path in sources}) < len(sources)
    hashers = {str(path) if alike else path.name: Hasher(path) for path in sources}
    graph, rounding, written = _written(options, spec, found, shapes, hashers)
    from converter.write.output import prototxt_beside

    _notes([*graph.notes, *written.notes], options)
    if options.json:
        from converter.table import net_json

        print(json.dumps({"output": str(output), "sha256": {n: h.result() for n, h in hashers.items()}, **net_json(graph)}))
    elif not options.quiet:
        count = sum(p.numel() for p in {id(p): p for module in graph.modules.values() for p in module.parameters()}.values())
        checked = (
            "every blob of the net found, each of the right shape"
            if weights is not None
            else "random weights, as the prototxt's fillers draw them"
        )
        if output.suffix == ".py" and weights is None and not options.random_weights:
            checked = "the structure; load() reads the weights from a state dict, as -o net.safetensors writes one"
        say(f"{output}: {counted(len(graph.steps), 'layer')}, {counted(count, 'parameter')}; {checked}")
        for line in [*graph.changes, *([] if rounding is None else [rounding.summary()]), *written.lines]:
            say(f"  {printable(line)}")
        if beside := prototxt_beside(output, graph):
            say(f"{beside}: the changed net, to which these weights belong")
    return [f"{printable(output.name)} was written from these files" + "".join(f"; {printable(line)}" for line in written.lines) + "."]


def _written(
    options: argparse.Namespace,
    spec: NetSpec | None,
    weights: Weights | None,
    shapes: dict[str, tuple[int, ...]],
    hashers: Mapping[str, Hasher],
) -> tuple[Graph, Rounding | None, Written]:
    """Write the output. The process that reads it back is started first: it imports what it needs while this one imports torch."""
    from converter.write.readback import STATE_DICTS, reader_of

    output: Path = options.output
    with ExitStack() as stack:
        reader = None
        if not options.no_check and output.suffix in STATE_DICTS:
            reader = stack.enter_context(reader_of(output.suffix, [] if weights is None else [weights.source]))
        with importing_torch():
            import torch

            from converter.write.output import check_beside, write
            from converter.write.rounding import Rounding

        graph, plan = _prepared(options, spec, weights, shapes)
        check_beside(output, graph)
        rounding = Rounding(torch.float16 if options.half else torch.bfloat16) if options.half or options.bf16 else None
        size = sum(p.numel() * 4 for module in graph.modules.values() for p in module.parameters())
        with Bar(size, output.name, not (options.quiet or options.json)) as bar:
            written = write(
                output,
                graph,
                plan,
                lambda: {name: hasher.result() for name, hasher in hashers.items()},
                bar,
                rounding=rounding,
                check=not options.no_check,
                reader=reader,
                structure_only=weights is None and not options.random_weights,
            )
    return graph, rounding, written


def _check_output(output: Path, sources: list[Path], suffixes: Sequence[str] = SUFFIXES) -> None:
    """Refuse what must fail before an hour of work, and an output that is an input."""
    try:
        is_folder = output.is_dir()
    except OSError as problem:  # a name that is too long
        raise ConversionError(f"{shown(str(output))}: cannot be written ({problem.strerror}).") from problem
    if is_folder:
        raise ConversionError(f"{output}: this is a folder; name the file to write, such as {output / ('net' + suffixes[0])}.")
    if output.suffix not in suffixes:
        raise ConversionError(f"{output}: the output's name must end in one of {', '.join(suffixes)}.")
    if not output.parent.is_dir():
        raise ConversionError(f"{output}: there is no folder {output.parent}; make it first.")
    beside = {".py": [output.with_suffix(".safetensors")], ".onnx": [output.with_name(f"{output.name}.data")]}.get(output.suffix, [])
    if any(each.exists() and source.exists() and each.samefile(source) for each in beside for source in sources):
        raise ConversionError(f"{output}: its weights would go to {beside[0]}, which is one of the input files; choose another name.")
    if any(output.exists() and source.exists() and output.samefile(source) for source in sources):
        raise ConversionError(f"{output}: this is one of the input files; choose another name.")


def _write_mean(options: argparse.Namespace, path: Path) -> None:
    from converter.read.weights import read_mean

    mean = read_mean(path)
    output: Path = options.output
    if output.suffix != ".safetensors":
        raise ConversionError(f"{output}: a mean image is written as .safetensors.")
    _check_output(output, [path])
    from safetensors.numpy import save

    from converter.files import whole_file

    with whole_file(output) as file:
        file.write(save({"mean": mean}))
    if not options.quiet:
        say(f"{output}: mean of shape {'×'.join(map(str, mean.shape))}")


if __name__ == "__main__":
    main()
