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
from finetune.predict.sources import End, Look
from finetune.predict.timeline import clock
from zoo.errors import printable
from zoo.terminal import Parser, require, say

LONGEST = 1280  # pixels of the longer side of what is searched for faces
EXPRESSION_NOTE = (
    "note: these are apparent expressions, as a net reads them from pixels: not feelings. Don't base decisions about people on them."
)
OTHER_NOTE = "note: these are a net's guesses from pixels. Don't base decisions about people on them."


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
    require("PIL.Image")
    from tqdm import tqdm

    from finetune.predict.camera import camera
    from finetune.predict.crops import told
    from finetune.predict.detect import detector
    from finetune.predict.model import load_model
    from finetune.predict.outlet import Outlet, closing
    from finetune.predict.pipeline import answers
    from finetune.predict.rows import Table, written
    from finetune.predict.sources import find_sources, looks

    begin = time.monotonic()
    device = _device(options.device)
    model = load_model(options.model, device, options.margin)
    wanted = {"mtcnn": "mtcnn", "opencv": "opencv_cascade", "none": "none", None: None if model.faces else "none"}[options.detector]
    search = detector(wanted, device, min_face=options.min_face, min_score=options.min_score, longest=LONGEST)  # type: ignore[arg-type]
    others = 0
    if options.camera is None:
        sources, others = find_sources(options.paths, options.annotate)
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
    say(f"{model.name} on {device}; faces: {_told(search.name, search.landmarks, model.crop.align)}", sys.stderr)
    if search.name != "none":
        say(f"crop: {told(model.crop)}", sys.stderr)

    bar = tqdm(total=len(sources), unit="file", disable=None if options.camera is None else True)
    facts = {
        "model": model.name, "model_sha256": model.sha256, "labels": list(model.labels), "detector": search.name,
        "margin": model.crop.margin, "align": model.crop.align, "every": options.every, "smooth": options.smooth,
    }  # fmt: skip
    with written(options.output, model.labels, facts) as sink:
        table = Table([source.name for source in sources], model.labels, options.top, lambda line: _show(line, bar))
        outlet = Outlet(sink, table, model.labels, folder=options.annotate, top=options.top, inputs=inputs, live=options.camera is not None)
        stopped = False
        with closing(outlet):
            try:
                stream = answers(
                    _counted(items, bar),
                    model,
                    search,
                    batch=options.batch,
                    smooth=options.smooth,
                    keep_images=options.annotate is not None,
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


def _told(name: str, landmarks: bool, align: bool) -> str:
    words = {
        "mtcnn": "MTCNN",
        "opencv_cascade": "OpenCV's cascade (frontal faces; MTCNN finds more: caffe-zoo fetch mtcnn)",
        "none": "not looked for, each picture is one",
    }[name]
    if align and name == "opencv_cascade":
        words += "; the net was trained with aligned faces, and the cascade sees no eyes: they are taken to be where they are on average"
    return words


def _device(wanted: str | None) -> str:
    import torch

    if wanted is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=wanted)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise FinetuneError(f"--device {wanted}: {str(error).splitlines()[0][:200]}; cpu always works") from None
    return wanted


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number from 1")
    return int(text)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number from 0")
    return int(text)


def _between(low: float, high: float) -> type:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r}; expected a number from {low:g} to {high:g}")
        return value

    return parse  # type: ignore[return-value]


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
    add("--camera", type=_number, metavar="N", help="look through this machine's camera (0: the first) until Ctrl-C")
    add("--seconds", type=_between(0, 1e9), metavar="S", help="... or for so long")
    add("-o", "--output", type=_result, metavar="FILE", help="write the rows as .csv or .json")
    add("--annotate", type=Path, metavar="FOLDER", help="write pictures and videos with the answers in them, and a timeline of each video")
    add("--top", type=_positive, default=3, metavar="N", help="labels to print and draw for each face (default 3)")
    add("--detector", choices=("mtcnn", "opencv"), help="default: mtcnn where it has been fetched, else opencv")
    add("--no-detect", action="store_const", const="none", dest="detector", help="each picture is one face, as crops of data sets are")
    add(
        "--margin",
        type=_between(-0.4, 4),
        metavar="PART",
        help="to see around a face on every side, as a part of it (default: the model's)",
    )
    add("--min-face", type=_positive, default=40, metavar="PIXELS", help="smallest face to be found (default 40)")
    add("--min-score", type=_between(0, 1), default=0.9, metavar="P", help="smallest probability of a face, for MTCNN (default 0.9)")
    add("--every", type=_positive, default=1, metavar="N", help="look at every N-th frame of a video (default 1)")
    add("--smooth", type=_between(0, 3600), default=0.0, metavar="SECONDS", help="average a face's answers in time (default 0: not)")
    add("--batch", type=_positive, default=32, metavar="N", help="faces that the net sees at once (default 32)")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: cuda where there is one)")
    return command


if __name__ == "__main__":
    sys.exit(main())
