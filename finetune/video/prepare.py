"""Raw video -> folders of aligned faces, one face a video: python -m finetune.prepare_video SRC DST

    SRC/[split/]Angry/000123.avi  ->  DST/[split/]Angry/000123/images0001.jpg, images0002.jpg, ...

Faces are found by the zoo's MTCNN, followed through the video, and turned, scaled and shifted so that eyes, nose and mouth
lie at the same place in every frame. DST/report.csv has a row for every video; DST/.prepared remembers what is done.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import zoo
from finetune.errors import FinetuneError
from finetune.video import decode as video
from finetune.video import faces, workers
from finetune.video.crop import prepare_one
from finetune.video.destination import alone, forget_renamed, place, remembered, settings_of, write_report
from finetune.video.records import REMEMBERED, Options, Outcome, UsageError, Video
from finetune.video.sources import find_videos


def worker_setup(
    detector: Callable[[str], faces.Detect], device: str, options: Options
) -> Callable[[tuple[Video, Path], workers.Tick], Outcome]:
    """What a worker process calls first."""
    detect = detector(device)
    return lambda job, tick: prepare_one(job[0], options, job[1], detect, tick)


def prepare(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    options: Options | None = None,
    *,
    processes: int | None = None,
    device: str = "cpu",
    detector: Callable[[str], faces.Detect] = faces.mtcnn,
) -> list[tuple[Video, Outcome]]:
    """The videos below `src` and what became of each, in the order of report.csv.

    `processes` is None for one per CPU. `detector` is a function of a module that makes the detector for a device, in each
    process. Raises FinetuneError where nothing can be done at all, and what the zoo raises where the detector's weights
    cannot be had. KeyboardInterrupt leaves whole videos only, and a report.
    """
    video.require_av()
    require_pillow()
    options = options or Options()
    src, dst = Path(src), Path(dst)
    videos = find_videos(src, dst)
    if src.resolve() == dst.resolve():
        raise UsageError(f"{dst}: SRC and DST are the same folder; choose another one for the faces")
    wanted = settings_of(options, detector)
    outcomes = {job.name: Outcome("refused", job.refusal) if job.refusal else Outcome("not reached") for job in videos}
    with alone(dst) as workspace:
        forget_renamed(dst, videos)
        for job in videos:
            if not job.refusal and (outcome := remembered(dst, job, wanted)):
                outcomes[job.name] = outcome
        jobs = [(job, workspace / str(number)) for number, job in enumerate(videos) if outcomes[job.name].status == "not reached"]
        count = min(processes or workers.cpus(), len(jobs))
        setup = functools.partial(worker_setup, detector, device, options)
        progress = Progress(len(videos), len(videos) - len(jobs))
        try:
            if jobs and detector is faces.mtcnn:
                zoo.fetch("mtcnn")  # once, with its bar; the processes find it in the cache
            with contextlib.closing(workers.run(jobs, setup, count, progress.ticked)) as results:
                for (job, made), result in results:
                    outcome = Outcome("failed", result.message) if isinstance(result, workers.Failed) else result
                    if outcome.status not in REMEMBERED[:2]:
                        shutil.rmtree(made, ignore_errors=True)
                    try:
                        place(dst, job, made, outcome, wanted)
                    except FinetuneError as error:
                        outcome = Outcome("failed", str(error))
                    outcomes[job.name] = outcome
                    progress.finished_one()
        finally:
            progress.close()
            write_report(dst, videos, outcomes)
    return [(job, outcomes[job.name]) for job in videos]


class Progress:
    """A bar of videos, with the frames that were searched a second."""

    def __init__(self, videos: int, done: int) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=videos, initial=done, desc="videos", unit="video", disable=None)
        self.searched, self.begin, self.shown = 0, 0.0, 0.0

    def ticked(self, frames: int) -> None:
        now = time.monotonic()
        self.begin = self.begin or now  # loading the detector doesn't count
        self.searched += frames
        if now - self.shown > 0.5:
            self.shown = now
            self.bar.set_postfix_str(f"{self.searched:,} frames, {self.searched / max(now - self.begin, 0.1):.1f}/s")

    def finished_one(self) -> None:
        self.bar.update(1)

    def close(self) -> None:
        self.bar.close()


def require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise FinetuneError(f"Pillow writes the images and cannot be imported ({error}): pip install pillow") from None
