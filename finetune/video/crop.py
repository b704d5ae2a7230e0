"""One video becomes a folder of aligned faces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.video import decode as video
from finetune.video import faces, workers
from finetune.video.records import Options, Outcome, Video
from zoo.disk import digests
from zoo.errors import counted

SMALLEST = 20.0  # pixels: the authors' own smallest face


def prepare_one(job: Video, options: Options, folder: Path, detect: faces.Detect, tick: workers.Tick) -> Outcome:
    """Reads the video twice, to find the face and to cut it out, and writes images0001.jpg, ... to the new `folder`.

    What the memory holds doesn't grow with the video but for its landmarks. What is wrong with the video is in the Outcome.
    """
    try:
        state = job.path.stat()
        file: dict[str, Any] = {"bytes": state.st_size, "modified": state.st_mtime_ns, "sha256": digests(job.path, ())["sha256"]}
        damage: list[str] = []
        times, found, shots = search(job.path, options, damage, detect, tick)
        track = faces.main_track(faces.link(found, times, shots), len(found))
        if track is None:
            return Outcome("no face", "; ".join(damage), len(times), **file)
        step = float(np.median(np.diff([times[number] for number, _ in found]))) if len(found) > 1 else 0.0
        points = faces.smooth(faces.landmarks(track, times, options.max_gap, step), options.smooth)
        wanted = np.flatnonzero(~np.isnan(points[:, 0, 0]))
        write(job.path, options, points, folder, tick)
    except video.VideoError as error:
        return Outcome("unreadable", str(error))
    except OSError as error:
        return Outcome("unreadable", error.strerror or str(error))
    without = len(times) - len(wanted)
    notes = [*damage, f"left out: {counted(without, 'frame')} without the face"] if without else damage
    breaks = np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1)
    return Outcome(
        "damaged" if damage else "done",
        "; ".join(notes),
        len(times),
        len(wanted),
        len(wanted) - len(track),
        tuple((int(run[0]) + 1, int(run[-1]) + 1) for run in breaks),
        **file,
    )


def search(
    path: Path, options: Options, damage: list[str], detect: faces.Detect, tick: workers.Tick
) -> tuple[list[float], list[tuple[int, Sequence[faces.Face]]], set[int]]:
    """The first reading: (seconds of each frame, faces in the frames that were searched, frames that begin a shot)."""
    times: list[float] = []
    thumbnails: list[np.ndarray] = []
    found: list[tuple[int, Sequence[faces.Face]]] = []

    def look(number: int, frame: video.Frame) -> None:
        image = frame.rgb(faces.DETECTION_SIDE)
        scale = np.array([frame.width / image.shape[1], frame.height / image.shape[0]])
        smallest = max(SMALLEST, options.min_face / scale.max())
        found.append((number, [faces.scaled(face, scale) for face in detect(image, smallest)]))
        tick(1)

    frame = None
    for frame in video.frames(path, damage, fps=options.fps, max_seconds=options.max_seconds):
        if len(times) % options.every == 0:
            look(len(times), frame)
        times.append(frame.time)
        thumbnails.append(frame.thumbnail())
    if frame is not None and found[-1][0] != len(times) - 1:
        look(len(times) - 1, frame)
    return times, found, faces.cuts(thumbnails)


def write(path: Path, options: Options, points: np.ndarray, folder: Path, tick: workers.Tick) -> None:
    """The second reading: a crop of each frame that has points."""
    from PIL import Image

    written = 0
    for number, frame in enumerate(video.frames(path, [], fps=options.fps, max_seconds=options.max_seconds)):
        if np.isnan(points[number, 0, 0]):
            continue
        crop = Image.fromarray(faces.align(frame.rgb(), points[number], options.size, options.margin))
        written += 1
        try:
            folder.mkdir(exist_ok=True)
            crop.save(folder / f"images{written:04d}.jpg", quality=options.quality, subsampling=0)
        except OSError as error:
            raise workers.Fatal(f"{folder.parent}: cannot be written ({error.strerror or error})") from error
        if written % 25 == 0:
            tick(0)  # a sign of life
