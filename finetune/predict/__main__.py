"""The command python -m finetune.predict: faces in pictures, videos and a camera, and what a net says of each."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune.command import exit_status_of
from finetune.errors import FinetuneError
from finetune.predict.options import (
    EXPRESSION_NOTE,
    OTHER_NOTE,
    add_face_options,
    between,
    detector_words,
    from_one,
    from_zero,
    model_and_detector,
)
from finetune.predict.sources import End, Look
from finetune.predict.timeline import clock
from zoo.errors import printable
from zoo.terminal import Parser, require, say


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, 1 where a file cannot be read or nothing can be done at all, 2 for a wrong command, 130 for Ctrl-C."""
    command = parser()
    options = command.parse_args(argv)
    if (options.camera is None) == (not options.paths):
        command.error("name pictures, videos or folders, or --camera 0")
    if options.seconds is not None and options.camera is None:
        command.error("--seconds is for --camera")
    unreadable = 0

    def work() -> None:
        nonlocal unreadable
        unreadable = predict(options)

    status = exit_status_of(work)
    return 1 if status == 0 and unreadable else status


def predict(options: argparse.Namespace) -> int:
    """Does what the command's options say; returns how many files could not be read."""
    require("PIL.Image", extra="predict")
    from tqdm import tqdm

    from finetune.predict.camera import camera
    from finetune.predict.crops import told
    from finetune.predict.outlet import Outlet, closing
    from finetune.predict.pipeline import answers
    from finetune.predict.rows import Table, written
    from finetune.predict.sources import find_sources, looks

    begin = time.monotonic()
    model, search = model_and_detector(options)
    others = 0
    if options.camera is None:
        sources, others = find_sources(options.paths, options.annotate, options.crops)
        if not sources:
            raise FinetuneError(f"no pictures or videos in {', '.join(map(str, options.paths))}")
        items = itertools.chain.from_iterable(looks(source, options.every) for source in sources)
    else:
        source, items = camera(options.camera, options.every, options.seconds)  # type: ignore[assignment]
        sources = [source]
    inputs = {source.path.resolve() for source in sources}
    if options.output is not None and options.output.resolve() in inputs:
        raise FinetuneError(f"{options.output} is one of the files to look at; give -o another name")
    print(EXPRESSION_NOTE if model.expressions else OTHER_NOTE, file=sys.stderr)
    say(f"{model.name} on {model.device}; faces: {detector_words(search.name, model.crop.align)}", sys.stderr)
    if search.name != "none":
        say(f"crop: {told(model.crop)}", sys.stderr)

    bar = tqdm(total=len(sources), unit="file", disable=None if options.camera is None else True)
    facts = {
        "model": model.name, "model_sha256": model.sha256, "labels": list(model.labels), "detector": search.name,
        "margin": model.crop.margin, "align": model.crop.align, "crop_source": model.crop.source,
        "every": options.every, "smooth": options.smooth,
    }  # fmt: skip
    with written(options.output, model.labels, facts) as sink:
        table = Table([source.name for source in sources], model.labels, options.top, lambda line: _show(line, bar))
        outlet = Outlet(
            sink,
            table,
            model.labels,
            folder=options.annotate,
            top=options.top,
            inputs=inputs,
            live=options.camera is not None,
            crops=options.crops,
            margin=options.margin or 0.0,
        )
        stopped = False
        with closing(outlet):
            try:
                stream = answers(
                    _counted(items, bar),
                    model,
                    search,
                    batch=options.batch,
                    smooth=options.smooth,
                    keep_images=options.annotate is not None or options.crops is not None,
                )
                for item in stream:
                    outlet.take(item)
            except KeyboardInterrupt:
                stopped = True
        bar.close()
        sink.finish({name.replace(" ", "_"): count for name, count in outlet.counts.items()})
    for note in outlet.notes:
        say(f"note: {note}", sys.stderr)
    say(outlet.summary(others, time.monotonic() - begin))
    made = [str(path) for path in (options.output, options.annotate, options.crops) if path is not None and path.exists()]
    if made:
        say(f"written: {', '.join(made)}")
    if stopped and options.camera is None:
        raise KeyboardInterrupt  # what was seen is written; a camera ends no other way
    return outlet.counts["unreadable"]


def _counted(items: Iterable[Look | End], bar: Any) -> Iterator[Look | End]:
    """Passes everything on and moves the bar: files, and the time in a video."""
    for number, item in enumerate(items):
        if isinstance(item, End):
            bar.update(1)
        elif item.time is not None and number % 10 == 0:
            bar.set_postfix_str(f"{printable(item.source.path.name)} {clock(round(item.time))}", refresh=False)
            bar.update(0)
        yield item


def _show(line: str, bar: Any) -> None:
    """A line of the table, above the bar."""
    try:
        bar.write(line, file=sys.stdout)
    except BrokenPipeError:  # predict ... | head: the other results are still written
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115


def _result(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in (".csv", ".json"):
        raise argparse.ArgumentTypeError(f"{text!r}; expected a name that ends in .csv or .json")
    return path


def parser() -> argparse.ArgumentParser:
    command = Parser(
        prog="python -m finetune.predict",
        description="Finds the faces in pictures, folders, videos or a camera, and says what a net reads in each: a line a face.",
        epilog="Needs the extra predict; fetches nothing. Exit status: 0 done, 1 a file could not be read, 2 a wrong command, 130 stopped.",
    )
    command.add_argument("model", metavar="MODEL_OR_RUN", help="a model of the zoo that has labels, or the folder of a run")
    command.add_argument("paths", metavar="PATH", nargs="*", type=Path, help="pictures, videos, folders of them")
    add = command.add_argument
    add("--camera", type=from_zero, metavar="N", help="look through this machine's camera (0: the first) until Ctrl-C")
    add("--seconds", type=between(0, 1e9), metavar="S", help="... or for so long")
    add("-o", "--output", type=_result, metavar="FILE", help="write the rows as .csv or .json")
    add("--annotate", type=Path, metavar="FOLDER", help="write pictures and videos with the answers in them, and a timeline of each video")
    add("--crops", type=Path, metavar="FOLDER", help="write the faces of pictures, cut out, as caffe-zoo embed and compare take them")
    add("--top", type=from_one, default=3, metavar="N", help="labels to print and draw for each face (default 3)")
    add_face_options(command)
    add("--every", type=from_one, default=1, metavar="N", help="look at every N-th frame of a video (default 1)")
    add("--smooth", type=between(0, 3600), default=0.0, metavar="SECONDS", help="average a face's answers in time (default 0: not)")
    add("--batch", type=from_one, default=32, metavar="N", help="faces that the net sees at once (default 32)")
    return command


if __name__ == "__main__":
    sys.exit(main())
