"""The command python -m finetune.prepare_video: raw clips become folders of aligned faces."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from finetune.errors import FinetuneError
from finetune.video import faces
from finetune.video.prepare import prepare
from finetune.video.records import STATUSES, Options, Outcome, UsageError, Video
from finetune.video.sources import find_videos
from zoo.errors import ZooError, counted, printable
from zoo.models.device import check_device
from zoo.terminal import Parser, missing, notes, say

FEW = 5  # names in the summary


def main(argv: Sequence[str] | None = None, *, detector: Callable[[str], faces.Detect] = faces.mtcnn) -> int:
    """The command; returns its exit status: 0 done, 1 a video (or all) failed, 2 usage, 130 for Ctrl-C, 143 for SIGTERM."""
    command = parser()
    given = command.parse_args(argv)
    begin = time.monotonic()
    try:
        options = Options(**{field.name: getattr(given, field.name) for field in dataclasses.fields(Options)})
        find_videos(given.src, given.dst)
    except FinetuneError as error:
        command.error(str(error))
    try:
        if given.device != "cpu":  # which takes torch's import to know
            check_device(given.device)
        with terminated_like_interrupted(), notes():
            results = prepare(given.src, given.dst, options, processes=given.workers, device=given.device, detector=detector)
    except UsageError as error:
        command.error(str(error))
    except (FinetuneError, ZooError) as error:
        say(f"prepare_video: {error}", sys.stderr)
        return 1
    except ImportError as error:
        if (reason := missing(error)) is None:
            raise
        say(f"prepare_video: {reason}", sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        print("prepare_video: interrupted; finished videos are kept, the same command goes on with the others", file=sys.stderr)
        return 143 if isinstance(interruption, Terminated) else 130
    say(summary(results, given.dst, options, time.monotonic() - begin))
    return int(any(outcome.status != "done" for _, outcome in results))


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does: the processes are stopped, the report is written."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def summary(results: Sequence[tuple[Video, Outcome]], dst: Path, options: Options, seconds: float) -> str:
    counts = Counter(outcome.status for _, outcome in results)
    new = [outcome for _, outcome in results if not outcome.earlier]
    images = sum(outcome.faces for _, outcome in results)
    size = "×".join(map(str, options.size))
    lines = [f"{counted(len(results), 'video')}: {', '.join(f'{counts[status]} {status}' for status in STATUSES if counts[status])}"]
    if len(new) < len(results):
        lines.append(f"{len(results) - len(new)} of them had been prepared before and were skipped")
    frames = sum(outcome.frames for outcome in new)
    speed = f"; {frames:,} frames read in {seconds:.0f} s, {frames / seconds:.1f} frames/s" if frames else ""
    lines.append(f"{images:,} faces of {size} (height×width) in {dst}{speed}")
    for status in STATUSES[1:]:
        names = [(printable(job.name), printable(outcome.message)) for job, outcome in results if outcome.status == status]
        lines += [f"  {status}: {name}" + (f": {message}" if message else "") for name, message in names[:FEW]]
        if len(names) > FEW:
            lines.append(f"  {status}: and {len(names) - FEW} more")
    lines.append(f"every video has a row in {dst / 'report.csv'}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    command = Parser(
        prog="python -m finetune.prepare_video",
        description="Finds, follows and aligns one face in each video and writes it as images:"
        " SRC/[split/]Emotion/clip.avi becomes DST/[split/]Emotion/clip/images0001.jpg, ...",
        epilog="Of several faces, the one is taken that is there longest, larger faces counting more. A second run with the same"
        " options skips what is done; use a DST for each SRC. Exit status: 0 all done, 1 some videos are not, 2 a wrong command.",
    )  # fmt: skip
    default = Options()
    command.add_argument("src", metavar="SRC", type=Path, help="folder of videos, in folders named after the emotions or not")
    command.add_argument("dst", metavar="DST", type=Path, help="folder for the faces")

    def add(name: str, help: str, **settings: Any) -> None:
        field = name.replace("-", "_")
        command.add_argument(f"--{name}", help=help, **{"default": getattr(default, field, None), **settings})

    add("size", "HEIGHTxWIDTH of the faces: 112x96 for center-loss nets, 224 for VGG-Face (default 112x96)", type=size_of, metavar="SIZE")
    add("margin", "more to be seen on every side, as a part of the height (default 0)", type=float, metavar="PART")
    add("fps", "keep so many frames a second (default: all)", type=float, metavar="N")
    add("every", "search for faces in every k-th frame only, and interpolate between (default 1)", type=int, metavar="K")
    add("smooth", "frames that landmarks are smoothed over, an odd number; 1: not at all (default %(default)s)", type=int, metavar="N")
    add("max-gap", "longest time without a found face that is interpolated (default %(default)s)", type=float, metavar="SECONDS")
    add("min-face", "smallest face to be found (default %(default)s)", type=int, metavar="PIXELS")
    add("max-seconds", "read only so much of each video (default: all)", type=float, metavar="SECONDS")
    add("quality", "of the JPEG files (default %(default)s)", type=int, metavar="1..100")
    add("workers", "processes (default: one per CPU)", type=count_of, metavar="N")
    add("device", "where the detector runs: cpu, cuda, cuda:1 (default cpu)", default="cpu", metavar="NAME")
    return command


def size_of(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r}; expected HEIGHTxWIDTH, as 112x96, or one number for a square")
    return int(match[1]), int(match[2] or match[1])


def count_of(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number from 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
