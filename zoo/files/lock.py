"""The lock that makes one process do the work. Where locks do not work it lets everybody in: parts.py keeps them apart."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from converter.files import NO_FOLLOW, READING
from zoo.disk import refuse_link, writing
from zoo.errors import CacheError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PATIENCE = 3600.0  # seconds to wait for another process's download before starting one's own
PAUSE = 0.1
log = logging.getLogger("caffezoo")


@contextmanager
def lock(place: Path) -> Iterator[None]:
    """One process at a time in the folder `place`, which is made if it is missing.

    Raises CacheError where the folder or the lock's file is a symbolic link, or the file is anything but a regular one.
    """
    refuse_link(place)
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
        handle = _opened(place / ".lock")
    try:
        _wait(handle, place)
        yield
    finally:
        os.close(handle)


def _opened(path: Path) -> int:
    """The lock's file, which everybody may lock, whatever the umask: in a shared cache others have to be able to."""
    refuse_link(path)
    if path.exists() and not path.is_file():
        raise CacheError(f"{path} is no regular file: remove it")
    handle = os.open(path, READING | os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o666)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:  # a second name may be that of somebody's private file
        os.close(handle)
        raise CacheError(f"{path} is no regular file, or has a second name elsewhere: remove it")
    if status.st_mode & 0o666 != 0o666 and hasattr(os, "fchmod"):
        with contextlib.suppress(OSError):
            os.fchmod(handle, 0o666)
    return handle


def _wait(handle: int, place: Path) -> None:
    if fcntl is None:
        log.info("%s: this system has no such locks: going on without", place)
        return
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except (BlockingIOError, PermissionError):
            if time.monotonic() > end:
                log.warning("%s has been locked for %.0f s: going on without the lock", place, PATIENCE)
                return
            time.sleep(PAUSE)
        except (OSError, NotImplementedError) as error:
            log.info("%s: locks do not work here (%s): going on without", place, error)
            return
