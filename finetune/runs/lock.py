"""One process at a time in a run's folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from finetune.errors import FinetuneError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """The folder for this process alone; it is made, and removed again where nothing is written to it.

    The folder itself is locked, so that no file is left and the lock ends with the process, however it dies. Where the system or
    the disk has no such locks, everybody is let in. Raises FinetuneError where another process is inside.
    """
    made = not path.exists()
    with suppress(FileExistsError):  # a file of this name: Run.create tells
        path.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDONLY) if fcntl is not None and path.is_dir() else None
    try:
        if handle is not None:
            lock(handle, path)
        yield
    finally:
        if handle is not None:
            os.close(handle)
        if made:
            with suppress(OSError):  # not empty
                path.rmdir()


def lock(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # others: NFS, which locks no folders
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            raise FinetuneError(f"{path}: another process is at work in this folder; wait for it, or name another one (--out)") from None
