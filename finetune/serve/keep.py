"""Where an upload lies until it is read: a folder of its own, in memory where the system has that, which nothing outlives."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from zoo.disk import is_alive, opened
from zoo.errors import PictureError

MEMORY = Path("/dev/shm")
PREFIX = "caffezoo-serve-"
OLDEST = 60.0  # seconds that an upload waits for being read
MOST_WAITING = 200 << 20  # bytes of uploads that wait


class Keep:
    """The folder `path`. take() reads a file and removes it; what nobody takes is swept away after OLDEST seconds."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.ended = threading.Event()

    def take(self, path: str, most: int) -> bytes:
        """The bytes of an upload, which is removed. Raises PictureError for a file that is none, or has more than `most` bytes."""
        found = Path(path)
        if not found.is_absolute() or found.parent.resolve() != found.parent or not found.is_relative_to(self.path):
            raise PictureError("not an upload of this page")
        try:
            with opened(found, follow=False) as file:
                body = file.read(most + 1)
        except OSError as error:
            raise PictureError("the upload is gone; send it again") from error
        finally:
            self.remove(found)
        if len(body) > most:
            raise PictureError(f"more than {most >> 20} MB: refused")
        return body

    def remove(self, file: Path) -> None:
        """The file, and the folder that gradio made for it."""
        with contextlib.suppress(OSError):
            file.unlink()
        with contextlib.suppress(OSError):
            if file.parent != self.path:
                file.parent.rmdir()

    def size(self) -> int:
        """Bytes that lie there."""
        total = 0
        for file in self.files():
            with contextlib.suppress(OSError):
                total += file.lstat().st_size
        return total

    def files(self) -> Iterator[Path]:
        for place, _, names in os.walk(self.path):
            yield from (Path(place) / name for name in names)

    def sweep(self, now: float | None = None) -> None:
        """Removes what waits for longer than OLDEST."""
        now = time.time() if now is None else now
        for file in self.files():
            with contextlib.suppress(OSError):
                if now - file.lstat().st_mtime > OLDEST:
                    self.remove(file)

    def sweeping(self) -> None:
        while not self.ended.wait(OLDEST / 6):
            self.sweep()


@contextlib.contextmanager
def keeping(base: Path | None = None) -> Iterator[Keep]:
    """A new folder for uploads that only this user can read, gone at the end; folders that a killed page left go, too."""
    base = base or (MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir()))
    for left in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            number = int(left.name.removeprefix(PREFIX).partition("-")[0])
            if not is_alive(number) and left.lstat().st_uid == os.getuid():
                shutil.rmtree(left, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=base))
    keep = Keep(path)
    sweeper = threading.Thread(target=keep.sweeping, daemon=True)
    sweeper.start()
    try:
        yield keep
    finally:
        keep.ended.set()
        sweeper.join()
        shutil.rmtree(path, ignore_errors=True)
