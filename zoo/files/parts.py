"""Unfinished downloads: who owns one, who may go on with it, and the lock that makes one process do the work.

A download grows in a part file of its own, named after its owner:

    .<file>.<hash of the URL>.<host>~<pid>~<random>.part     claimed
    .<file>.<hash of the URL>.part                           left behind by an owner that gave up

A part is claimed by renaming it, and of several processes that try only one can succeed. So two processes never write
to one part, also where the filesystem's locks do nothing; the lock only saves the others from downloading too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from zoo.disk import write_json, writing

PATIENCE = 3600.0  # seconds to wait for another process's download before starting one's own
ABANDONED = 900.0  # a part that nobody has written to for so long has no owner; a live one gives up far earlier
log = logging.getLogger("caffezoo")


@dataclass(frozen=True)
class Note:
    """What the server said of the body that a part holds the beginning of."""

    validator: str = ""  # a strong ETag, or Last-Modified: what If-Range takes
    total: int | None = None
    encoding: str = ""  # Content-Encoding of the bytes as they were sent


@dataclass(frozen=True)
class Part:
    path: Path
    free: Path  # its name without an owner

    @property
    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    @property
    def note(self) -> Note:
        try:
            return Note(**json.loads(_note_path(self.path).read_bytes()))
        except (OSError, ValueError, TypeError):
            return Note()

    def start(self, note: Note) -> None:
        """Empties the part and notes what is about to fill it: in this order, a note never speaks of older bytes."""
        _note_path(self.path).unlink(missing_ok=True)
        self.path.write_bytes(b"")
        write_json(_note_path(self.path), asdict(note))

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        _note_path(self.path).unlink(missing_ok=True)


@contextmanager
def lock(place: Path) -> Iterator[None]:
    """One process at a time in `place`. Where locks do not work it lets everybody in: see the module's docstring."""
    from filelock import FileLock, Timeout

    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
        probe = place / ".lock"
        os.close(os.open(probe, os.O_RDWR | os.O_CREAT, 0o666))
    with contextlib.suppress(OSError):
        probe.chmod(0o666)  # whatever the umask: in a shared cache others have to be able to lock it
    try:
        guard = FileLock(probe, timeout=PATIENCE, poll_interval=0.1, fallback_to_soft=False)
    except TypeError:  # older filelock, which has no soft locks to fall back to
        guard = FileLock(probe, timeout=PATIENCE, poll_interval=0.1)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(guard)
        except Timeout:
            log.warning("%s has been locked for %.0f s: going on without the lock", place, PATIENCE)
        except (OSError, NotImplementedError) as error:
            log.info("%s: locks do not work here (%s): going on without", place, error)
        yield


@contextmanager
def claim(place: Path, name: str, url: str) -> Iterator[Part]:
    """A part for `name` from `url` that is this caller's alone: the longest that has no living owner, or a new one.

    What is left of it afterwards is set free for the next caller, whoever that is.
    """
    stem = f".{name}.{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    with writing(place):
        owner = f"{_host()}~{os.getpid()}~{secrets.token_hex(4)}"
        part = Part(place / f"{stem}.{owner}.part", place / f"{stem}.part")
        for orphan in sorted(place.glob(f"{stem}.*part"), key=_size, reverse=True):
            if orphan == part.free or _is_dead(orphan):
                try:
                    orphan.rename(part.path)
                except FileNotFoundError:  # another process was quicker
                    continue
                with contextlib.suppress(OSError):  # without its note a part is only started again
                    _note_path(orphan).rename(_note_path(part.path))
                break
        part.path.touch()  # a folder that cannot be written is found out before anything is asked of a server
    try:
        yield part
    finally:
        with contextlib.suppress(OSError):
            if part.size:
                part.path.rename(part.free)
                _note_path(part.path).rename(_note_path(part.free))
            else:
                part.discard()


def leftovers(place: Path, name: str = "") -> list[Path]:
    """Unfinished downloads (of the file `name`), their notes and temporary files that no living process owns."""
    start = f".{name}." if name else "."
    found = [path for path in place.glob(f"{start}*.part") if path.name.count("~") != 2 or _is_dead(path)]
    living = set(place.glob(".*.part")) - set(found)
    notes = [path for path in place.glob(f"{start}*.note") if path.with_suffix(".part") not in living]
    old = time.time() - ABANDONED
    return found + notes + [path for path in place.glob(f"{start}*.tmp") if path.stat().st_mtime < old]


def _note_path(part: Path) -> Path:
    return part.with_suffix(".note")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def _is_dead(part: Path) -> bool:
    """True if the part's owner is a process of this host that is gone, or has not written for ABANDONED seconds."""
    try:
        untouched = time.time() - part.stat().st_mtime
        host, pid, _ = part.stem.rsplit(".", 1)[-1].split("~")
    except (OSError, ValueError):
        return False
    if untouched > ABANDONED:
        return True
    if host != _host():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return False
    return False
