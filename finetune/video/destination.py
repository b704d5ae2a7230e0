"""The folder that the faces go to: what it remembers of each video, report.csv, and that only one run writes there."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import FinetuneError
from finetune.video.records import LASTING, REMEMBERED, Options, Outcome, Video
from zoo import ZooError
from zoo.cards.record import Crop
from zoo.disk import digests
from zoo.errors import printable

FORMAT = 1  # of what is remembered; a change of what an option does is a new one
OWN = ".prepared"  # the folder in DST
WORKSPACE = "unfinished"  # in there: videos under way
COLUMNS = ("video", "emotion", "frames", "faces", "status", "message", "folder")


def record_path(dst: Path, job: Video) -> Path:
    return dst / OWN / f"{job.folder}.json"


def read_record(dst: Path, job: Video) -> dict[str, Any]:
    """What is remembered of the video, {} for nothing."""
    try:
        record = json.loads(record_path(dst, job).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and record.get("format") == FORMAT else {}


def write_record(dst: Path, job: Video, **fields: object) -> None:
    path = record_path(dst, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = dst / OWN / WORKSPACE / f"{secrets.token_hex(8)}.json"
    temporary.write_text(json.dumps({"format": FORMAT, "video": printable(job.name), **fields}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def settings_of(options: Options, detector: Callable[..., object]) -> dict[str, Any]:
    """As they come back from json."""
    result: dict[str, Any] = json.loads(json.dumps({**dataclasses.asdict(options), "detector": detector.__name__}))
    return result


def remembered(dst: Path, job: Video, wanted: Mapping[str, object]) -> Outcome | None:
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


def crop_of(folder: Path) -> Crop | None:
    """What prepare_video's faces in `folder`, or in the folder of a split in it, show; None where it made none, or not all alike."""
    for dst in (folder, folder.parent):
        if (dst / OWN).is_dir():
            break
    else:
        return None
    crops = set()
    for path in (dst / OWN).rglob("*.json"):
        if (dst / OWN / WORKSPACE) in path.parents:
            continue
        try:
            options = json.loads(path.read_bytes())["options"]
            (height, width), margin = options["size"], options["margin"]
            crops.add(Crop(float(margin), True, "finetune.prepare_video", (int(height), int(width))))
        except (OSError, ValueError, KeyError, TypeError):
            return None
    return crops.pop() if len(crops) == 1 else None


def place(dst: Path, job: Video, made: Path, outcome: Outcome, wanted: Mapping[str, object]) -> None:
    """Puts the video's folder into DST, in the place of what an earlier run made; the record comes last.

    Raises FinetuneError where a folder is in the way that this command hasn't made.
    """
    final = dst / job.folder
    if final.exists() and not read_record(dst, job):
        raise FinetuneError(f"{final}: is there already and was not made by this command; move it away")
    # Remembered without a status, a folder is this command's and not finished.
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
    folders = {printable(job.name): job.folder for job in videos}
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
            rows.writerow([printable(job.name), job.emotion, outcome.frames, outcome.faces, outcome.status, printable(message), folder])
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
