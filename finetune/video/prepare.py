"""Raw video -> folders of aligned faces, one face a video: python -m finetune.prepare_video SRC DST

    SRC/[split/]Angry/000123.avi  ->  DST/[split/]Angry/000123/images0001.jpg, images0002.jpg, ...

Faces are found by the zoo's MTCNN, followed through the video, and turned, scaled and shifted so that eyes, nose and mouth
lie at the same place in every frame. DST/report.csv has a row for every video; DST/.prepared remembers what is done.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import functools
import itertools
import json
import os
import re
import secrets
import shutil
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import zoo
from finetune.errors import FinetuneError
from finetune.files import VIDEO_SUFFIXES
from finetune.labels import natural, split_of
from finetune.video import decode as video
from finetune.video import faces, workers
from zoo import ZooError
from zoo.files.store import digests

FORMAT = 1  # of what is remembered; a change of what an option does is a new one
OWN = ".prepared"  # the folder in DST
WORKSPACE = "unfinished"  # in there: videos under way
COLUMNS = ("video", "emotion", "frames", "faces", "status", "message", "folder")
# In the order of the summary. The first two leave faces.
STATUSES = ("done", "damaged", "no face", "unreadable", "failed", "refused", "not reached")
REMEMBERED = STATUSES[:3]
SMALLEST = 20.0  # pixels: the authors' own smallest face
FEW = 5  # names in the summary


class UsageError(FinetuneError):
    """An option, SRC or DST that cannot be meant."""


@dataclass(frozen=True)
class Options:
    """What the crops depend on; another value makes a second run do the video again."""

    size: tuple[int, int] = (112, 96)  # height, width
    margin: float = 0.0  # seen around the crop, as a part of its height
    every: int = 1  # the detector looks at every k-th frame
    smooth: int = 5  # frames that the landmarks are smoothed over
    max_gap: float = 0.5  # seconds without a found face that are interpolated
    fps: float | None = None  # frames a second to keep
    max_seconds: float | None = None  # of a video that are read
    min_face: int = 40  # pixels of the video
    quality: int = 95  # of JPEG

    def __post_init__(self) -> None:
        rules = {
            "size": all(32 <= side <= 1024 for side in self.size),
            "margin": 0 <= self.margin <= 2,
            "every": self.every >= 1,
            "smooth": self.smooth >= 1 and self.smooth % 2 == 1,
            "max_gap": 0 <= self.max_gap <= 60,
            "fps": self.fps is None or 0 < self.fps < float("inf"),
            "max_seconds": self.max_seconds is None or self.max_seconds > 0,
            "min_face": self.min_face >= 1,
            "quality": 1 <= self.quality <= 100,
        }
        expected = {
            "size": "32 to 1024 pixels a side", "margin": "0 to 2", "every": "at least 1", "smooth": "an odd number of frames",
            "max_gap": "0 to 60 seconds", "fps": "more than 0", "max_seconds": "more than 0", "min_face": "at least 1 pixel",
            "quality": "1 to 100",
        }  # fmt: skip
        for name, right in rules.items():
            if not right:
                raise UsageError(f"{name.replace('_', '-')} is {getattr(self, name)}; expected {expected[name]}")


@dataclass(frozen=True)
class Video:
    path: Path
    name: str  # its path in SRC
    folder: str  # of its faces in DST, with "/"
    emotion: str
    refusal: str = ""  # why it isn't even opened


@dataclass(frozen=True)
class Outcome:
    """What became of a video."""

    status: str  # one of STATUSES
    message: str = ""
    frames: int = 0  # read
    faces: int = 0  # written
    interpolated: int = 0  # of these, between two faces that were found
    numbers: tuple[tuple[int, int], ...] = ()  # the frames that were written, as ranges from 1
    bytes: int = 0  # of the file, as the next two
    modified: int = 0
    sha256: str = ""
    earlier: bool = False  # remembered from another run


LASTING = tuple(field.name for field in dataclasses.fields(Outcome) if field.name != "earlier")


# --- what there is to do --------------------------------------------------------------------------------------------------------------


def find_videos(src: Path, dst: Path) -> list[Video]:
    """The videos below `src` (or the file itself), sorted, each with a folder of its own in DST.

    A folder is named like the file without its ending; where two would share it, the later one keeps its ending. Links
    that leave `src`, links to folders and what is no regular file are refused, not followed.
    """
    if not src.exists():
        raise UsageError(f"{src}: no such file or folder; expected videos in SRC/<Emotion>/ or SRC/<split>/<Emotion>/")
    found: list[tuple[Path, str]] = []
    root = src if src.is_dir() else src.parent
    inside = root.resolve()
    for path in walk(src, dst.resolve()) if src.is_dir() else [src]:
        refusal = ""
        target = path.resolve()
        if path.is_symlink() and not target.is_relative_to(inside):
            refusal = "a link that leads out of the folder: not followed"
        elif path.is_dir():
            refusal = "a link to a folder: not followed"
        elif not path.is_file():
            refusal = "not a regular file"
        found.append((path, refusal))
    if not found:
        endings = " ".join(sorted(VIDEO_SUFFIXES))
        raise UsageError(f"{src}: no videos found; expected SRC/[split/]<Emotion>/<clip> with one of the endings {endings}")
    videos = []
    # Angry.avi beside the folder Angry/ does not get its faces.
    taken = {"report.csv", *("/".join(map(plain, each.parts)).casefold() for path, _ in found for each in path.relative_to(root).parents)}
    for path, refusal in sorted(found, key=lambda each: [natural(part) for part in each[0].relative_to(root).parts]):
        relative = path.relative_to(root)
        parents = [plain(part) for part in relative.parent.parts]
        names = itertools.chain([plain(path.stem), plain(path.name)], (f"{plain(path.name)}~{n}" for n in itertools.count(2)))
        folder = next(each for each in ("/".join([*parents, name]) for name in names) if each.casefold() not in taken)
        taken.add(folder.casefold())
        emotion = parents[-1] if parents and not split_of(parents[-1]) else ""
        videos.append(Video(path, str(relative), folder, emotion, refusal))
    return videos


def walk(src: Path, dst: Path) -> Iterator[Path]:
    """Files with a video's ending, and links to folders; nothing hidden, nothing in `dst`."""
    for place, folders, files in os.walk(src):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        folders[:] = [
            name for name in folders if name not in links and name[0] != "." and name != "__MACOSX" and (here / name).resolve() != dst
        ]
        yield from (here / name for name in links if name[0] != ".")
        yield from (here / name for name in files if name[0] != "." and Path(name).suffix.lower() in VIDEO_SUFFIXES)


def plain(name: str) -> str:
    """The name as one that every system, and a list of folders separated by blanks, takes: letters, digits and . - + ~ _"""
    name = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode("utf-8"))
    name = re.sub(r"[^\w.+~-]", "_", name).strip(".") or "_"
    name = "_" + name[1:] if name[0] == "-" else name
    while len(name.encode()) > 150:  # a file name has 255 bytes at most
        name = name[:-1]
    return name


def shown(text: str) -> str:
    """A name for the terminal: one line, no control characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


# --- one video ------------------------------------------------------------------------------------------------------------------------


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
    notes = [*damage, f"{without} frame(s) without the face left out"] if without else damage
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


# --- DST ------------------------------------------------------------------------------------------------------------------------------


def record_path(dst: Path, job: Video) -> Path:
    return dst / OWN / f"{job.folder}.json"


def read_record(dst: Path, job: Video) -> dict[str, Any]:
    """What is remembered of the video, {} for nothing."""
    try:
        record = json.loads(record_path(dst, job).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and record.get("format") == FORMAT else {}


def write_record(dst: Path, job: Video, **fields: Any) -> None:
    path = record_path(dst, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = dst / OWN / WORKSPACE / f"{secrets.token_hex(8)}.json"
    temporary.write_text(json.dumps({"format": FORMAT, "video": shown(job.name), **fields}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def settings(options: Options, detector: Callable[..., Any]) -> dict[str, Any]:
    """As they come back from json."""
    return json.loads(json.dumps({**dataclasses.asdict(options), "detector": detector.__name__}))


def remembered(dst: Path, job: Video, wanted: dict[str, Any]) -> Outcome | None:
    """What an earlier run made of this very file with these options, if that is still there."""
    record = read_record(dst, job)
    if record.get("options") != wanted or record.get("status") not in REMEMBERED:
        return None
    try:
        state = job.path.stat()
        outcome = Outcome(**{name: record[name] for name in LASTING})
        # Another time alone may be a copy of the same file.
        if state.st_size != outcome.bytes or (state.st_mtime_ns != outcome.modified and digests(job.path, ())["sha256"] != outcome.sha256):
            return None
        images = len(list((dst / job.folder).glob("images*.jpg"))) if outcome.faces else 0
    except (OSError, KeyError, TypeError):
        return None
    return dataclasses.replace(outcome, earlier=True) if images == outcome.faces else None


def place(dst: Path, job: Video, made: Path, outcome: Outcome, wanted: dict[str, Any]) -> None:
    """Puts the video's folder into DST, in the place of what an earlier run made; the record comes last.

    Raises FinetuneError where a folder is in the way that this command hasn't made.
    """
    final = dst / job.folder
    if final.exists() and not read_record(dst, job):
        raise FinetuneError(f"{final}: is there already and was not made by this command; move it away")
    # Remembered without a status, a folder is ours and not finished.
    write_record(dst, job)
    if final.exists():
        old = made.with_name(f"{made.name}.old")
        final.rename(old)
        shutil.rmtree(old)
    if made.exists():
        final.parent.mkdir(parents=True, exist_ok=True)
        made.rename(final)
    if outcome.status not in REMEMBERED:
        record_path(dst, job).unlink()
        return
    write_record(dst, job, options=wanted, **{name: getattr(outcome, name) for name in LASTING})


def forget_renamed(dst: Path, videos: Sequence[Video]) -> None:
    """Removes folders of videos that have another one now, since a file of nearly the same name has come."""
    folders = {shown(job.name): job.folder for job in videos}
    for path in list((dst / OWN).rglob("*.json")):
        folder = path.relative_to(dst / OWN).as_posix().removesuffix(".json")
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            name = json.loads(path.read_bytes())["video"]
            if folders.get(name, folder) != folder:
                shutil.rmtree(dst / folder, ignore_errors=True)
                path.unlink()


def write_report(dst: Path, videos: Sequence[Video], outcomes: dict[str, Outcome]) -> Path:
    path = dst / "report.csv"
    temporary = dst / OWN / WORKSPACE / "report.csv"
    with temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for job in videos:
            outcome = outcomes[job.name]
            message = "; ".join(filter(None, [outcome.message, "from an earlier run" if outcome.earlier else ""]))
            folder = job.folder if outcome.faces else ""
            rows.writerow([shown(job.name), job.emotion, outcome.frames, outcome.faces, outcome.status, shown(message), folder])
    temporary.replace(path)
    return path


@contextlib.contextmanager
def alone(dst: Path) -> Iterator[Path]:
    """DST's own folder for videos under way, emptied, with no other run beside this one. Raises FinetuneError."""
    from filelock import FileLock, Timeout

    workspace = dst / OWN / WORKSPACE
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        with FileLock(dst / OWN / "lock", timeout=0):
            shutil.rmtree(workspace)
            workspace.mkdir()
            try:
                yield workspace
            finally:
                shutil.rmtree(workspace, ignore_errors=True)
    except Timeout:
        raise FinetuneError(f"{dst}: another run is writing there; wait for it, or choose another folder") from None
    except ZooError:  # some are OSErrors
        raise
    except OSError as error:
        raise FinetuneError(f"{error.filename or dst}: cannot be written ({error.strerror or error})") from error


# --- all of them ----------------------------------------------------------------------------------------------------------------------


def _ready(detector: Callable[[str], faces.Detect], device: str, options: Options) -> Callable[[tuple[Video, Path], workers.Tick], Outcome]:
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
    from tqdm import tqdm

    video.require_av()
    require_pillow()
    options = options or Options()
    src, dst = Path(src), Path(dst)
    videos = find_videos(src, dst)
    if src.resolve() == dst.resolve():
        raise UsageError(f"{dst}: SRC and DST are the same folder; choose another one for the faces")
    wanted = settings(options, detector)
    outcomes = {job.name: Outcome("refused", job.refusal) if job.refusal else Outcome("not reached") for job in videos}
    with alone(dst) as workspace:
        forget_renamed(dst, videos)
        for job in videos:
            if not job.refusal and (outcome := remembered(dst, job, wanted)):
                outcomes[job.name] = outcome
        jobs = [(job, workspace / str(number)) for number, job in enumerate(videos) if outcomes[job.name].status == "not reached"]
        count = min(processes or workers.cpus(), len(jobs))
        setup = functools.partial(_ready, detector, device, options)
        bar = tqdm(total=len(videos), initial=len(videos) - len(jobs), desc="videos", unit="video", disable=None)
        searched, begin, told = 0, 0.0, 0.0

        def ticked(amount: int) -> None:
            nonlocal searched, begin, told
            now = time.monotonic()
            begin = begin or now  # loading the detector doesn't count
            searched += amount
            if now - told > 0.5:
                told = now
                bar.set_postfix_str(f"{searched:,} frames, {searched / max(now - begin, 0.1):.1f}/s")

        try:
            if jobs and detector is faces.mtcnn:
                zoo.fetch("mtcnn")  # once, with its bar; the processes find it in the cache
            with contextlib.closing(workers.run(jobs, setup, count, ticked)) as results:
                for (job, made), result in results:
                    outcome = Outcome("failed", result.message) if isinstance(result, workers.Failed) else result
                    if outcome.status not in REMEMBERED[:2]:
                        shutil.rmtree(made, ignore_errors=True)
                    try:
                        place(dst, job, made, outcome, wanted)
                    except FinetuneError as error:
                        outcome = Outcome("failed", str(error))
                    outcomes[job.name] = outcome
                    bar.update(1)
        finally:
            bar.close()
            write_report(dst, videos, outcomes)
    return [(job, outcomes[job.name]) for job in videos]


def require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise FinetuneError(f"Pillow writes the images and cannot be imported ({error}): pip install 'caffezoo[finetune]'") from None


# --- the command ----------------------------------------------------------------------------------------------------------------------


def summary(results: Sequence[tuple[Video, Outcome]], dst: Path, options: Options, seconds: float) -> str:
    counts = Counter(outcome.status for _, outcome in results)
    new = [outcome for _, outcome in results if not outcome.earlier]
    images = sum(outcome.faces for _, outcome in results)
    size = "×".join(map(str, options.size))
    lines = [f"{len(results)} videos: {', '.join(f'{counts[status]} {status}' for status in STATUSES if counts[status])}"]
    if len(new) < len(results):
        lines.append(f"{len(results) - len(new)} of them had been prepared before and were skipped")
    frames = sum(outcome.frames for outcome in new)
    speed = f"; {frames:,} frames read in {seconds:.0f} s, {frames / seconds:.1f} frames/s" if frames else ""
    lines.append(f"{images:,} faces of {size} (height×width) in {dst}{speed}")
    for status in STATUSES[1:]:
        names = [(shown(job.name), shown(outcome.message)) for job, outcome in results if outcome.status == status]
        lines += [f"  {status}: {name}" + (f": {message}" if message else "") for name, message in names[:FEW]]
        if len(names) > FEW:
            lines.append(f"  {status}: and {len(names) - FEW} more")
    lines.append(f"every video has a row in {dst / 'report.csv'}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None, *, detector: Callable[[str], faces.Detect] = faces.mtcnn) -> int:
    """Exit status 0, 1 where a video (or all) failed, 2 for a command that cannot be understood, 130 for Ctrl-C."""
    parser = _parser()
    given = parser.parse_args(argv)
    chosen = {field.name: getattr(given, field.name) for field in dataclasses.fields(Options)}
    begin = time.monotonic()
    try:
        options = Options(**chosen)
        find_videos(given.src, given.dst)
    except FinetuneError as error:
        parser.error(str(error))
    try:
        results = prepare(given.src, given.dst, options, processes=given.workers, device=given.device, detector=detector)
    except UsageError as error:
        parser.error(str(error))
    except (FinetuneError, ZooError) as error:
        print(f"prepare_video: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("prepare_video: interrupted; finished videos are kept, the same command goes on with the others", file=sys.stderr)
        return 130
    print(summary(results, given.dst, options, time.monotonic() - begin))
    return int(any(outcome.status != "done" for _, outcome in results))


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r}; expected HEIGHTxWIDTH, as 112x96, or one number for a square")
    return int(match[1]), int(match[2] or match[1])


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number from 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m finetune.prepare_video",
        description="Finds, follows and aligns one face in each video and writes it as images:"
        " SRC/[split/]Emotion/clip.avi becomes DST/[split/]Emotion/clip/images0001.jpg, ...",
        epilog="Of several faces, the one is taken that is there longest, larger faces counting more. A second run with the same"
        " options skips what is done; use a DST for each SRC. Exit status: 0 all done, 1 some videos are not, 2 a wrong command.",
    )  # fmt: skip
    default = Options()
    parser.add_argument("src", metavar="SRC", type=Path, help="folder of videos, in folders named after the emotions or not")
    parser.add_argument("dst", metavar="DST", type=Path, help="folder for the faces")

    def add(name: str, help: str, **settings: Any) -> None:
        field = name.replace("-", "_")
        parser.add_argument(f"--{name}", help=help, **{"default": getattr(default, field, None), **settings})

    add("size", "HEIGHTxWIDTH of the faces: 112x96 for center-loss nets, 224 for VGG-Face (default 112x96)", type=_size, metavar="SIZE")
    add("margin", "more to be seen on every side, as a part of the height (default 0)", type=float, metavar="PART")
    add("fps", "keep so many frames a second (default: all)", type=float, metavar="N")
    add("every", "search for faces in every k-th frame only, and interpolate between (default 1)", type=int, metavar="K")
    add("smooth", "frames that landmarks are smoothed over, an odd number; 1: not at all (default %(default)s)", type=int, metavar="N")
    add("max-gap", "longest time without a found face that is interpolated (default %(default)s)", type=float, metavar="SECONDS")
    add("min-face", "smallest face to be found (default %(default)s)", type=int, metavar="PIXELS")
    add("max-seconds", "read only so much of each video (default: all)", type=float, metavar="SECONDS")
    add("quality", "of the JPEG files (default %(default)s)", type=int, metavar="1..100")
    add("workers", "processes (default: one per CPU)", type=_count, metavar="N")
    add("device", "where the detector runs: cpu, cuda, cuda:1 (default cpu)", default="cpu", metavar="NAME")
    return parser
