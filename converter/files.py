"""Reading and writing whole files: what is a regular file, its hash, and outputs that appear complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from converter.errors import ConversionError, shown

SUFFIXES = (".safetensors", ".pth", ".pt", ".py", ".onnx", ".pt2", ".caffemodel")  # what can be written
_PIECE = 8 << 20  # large: another thread imports torch meanwhile, and each piece waits for its turn twice

# How a file is opened to be read. Windows knows none of the first two, and would translate line ends without the third.
READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_seeking = threading.Lock()

_KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISLNK, "a symbolic link"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip


def opened(path: str | os.PathLike[str], *, follow: bool = True) -> IO[bytes]:
    """A regular file, to be read: nothing else is opened, so that no pipe is waited for and no device set going.

    Raises OSError, whose strerror says what it is instead; without `follow` for a symbolic link as well.
    """
    _refuse_others(Path(path).stat(follow_symlinks=follow), path)
    handle = os.open(path, READING | (0 if follow else NO_FOLLOW))
    try:
        _refuse_others(os.fstat(handle), path)  # another may have taken the name meanwhile
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _refuse_others(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for test, name in _KINDS if test(status.st_mode)), "something unknown")
        raise OSError(errno.EINVAL, f"{kind}, not a regular file", os.fspath(path))


def read_file(path: Path, limit: int, what: str, error: type[Exception]) -> bytes:
    """The bytes of a regular file of at most limit bytes."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a folder, not a regular file" if path.is_dir() else "not a regular file"
            raise error(f"{path}: {kind}, so no {what}.")
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise error(f"{path}: {size:,} bytes are too many for a {what}; is it the weight file?")
            return file.read(limit + 1)[:limit]
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror or problem}).") from problem
    except ValueError as problem:  # a NUL in the name
        raise error(f"{shown(str(path))}: no file can have this name.") from problem


def read_at(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fills as much of a buffer of bytes as one read gives, from `offset` on, and says how much; 0 at the end of the file."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], offset)
    with _seeking:  # Windows reads only where the file stands
        os.lseek(descriptor, offset, os.SEEK_SET)
        data = os.read(descriptor, min(len(buffer), _PIECE))
    buffer[: len(data)] = data
    return len(data)


def head(path: Path, count: int) -> bytes:
    """The first bytes of a regular file; none of anything else, which opening it in earnest will explain."""
    with contextlib.suppress(OSError, ValueError), opened(path) as file:
        return file.read(count)
    return b""


def stand_in(start: bytes) -> str | None:
    """What came in place of the file that was wanted, by its first 512 bytes, and what to do; None for anything else."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if re.match(rb"<[a-z!?/]", text) and not re.match(rb"<(\?xml[^>]*>\s*<)?net\b", text):  # OpenVINO's nets are XML, too
        return "a web page: the link gave a page (a login, a quota, a moved file); download the file itself, on GitHub its raw form"
    if re.match(rb"version https://(git-lfs|hawser)\.github\.com", text):
        return "a Git LFS pointer, 130 bytes that name the file; run `git lfs pull` in its repository to get the file itself"
    if re.match(rb"(\.\./)*(\.git)?/?annex/objects/", text):
        return "a git-annex pointer, which names the file; run `git annex get` in its repository to get the file itself"
    return None


def stamp_of(path: Path) -> tuple[int, int] | None:
    """By what a file is known again without reading it: its size and the time of its last change; None where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


class Hasher(threading.Thread):
    """sha256 of a file, on a thread of its own: it runs while torch is imported."""

    def __init__(self, path: Path):
        super().__init__(daemon=True)
        self.path, self.digest = path, ""
        self.start()

    def run(self) -> None:
        state, buffer = hashlib.sha256(), memoryview(bytearray(_PIECE))
        with contextlib.suppress(OSError), opened(self.path) as file:
            while count := file.raw.readinto(buffer):  # type: ignore[attr-defined]
                state.update(buffer[:count])
            self.digest = state.hexdigest()

    def result(self) -> str:
        self.join()
        if not self.digest:
            raise ConversionError(f"{self.path}: cannot be read again for its hash.")
        return self.digest


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A temporary file's name beside `path`, to be written in the block: it takes the name `path` when the block ends well (`sync`:
    once its bytes are on the disk), and vanishes otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        share(temporary)
        if sync:
            flush_to_disk(temporary)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink()


def share(path: Path) -> None:
    """Gives a file that a library made for its owner alone (safetensors: 0600) the mode that any new file gets here."""
    if stat.S_IMODE(path.stat().st_mode) != 0o600:
        return
    probe = path.with_name(f"{path.name}.mode")  # the umask can only be asked by setting it, for all threads
    handle = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        path.chmod(stat.S_IMODE(os.fstat(handle).st_mode))
    finally:
        os.close(handle)
        probe.unlink()


def flush_to_disk(path: Path) -> None:
    """fsync of a file or folder, where the file system has it."""
    if os.name == "nt":  # it opens no folders, and syncs only what was opened to be written
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network filesystems cannot sync a directory
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name only when the block ends well.

    Raises:
        ConversionError: the folder is missing or not writable, the disk is full.
    """
    try:
        # The caller can write the file again: waiting for the disk would double the time of a large conversion.
        with replacing(path, sync=False) as temporary, _created(temporary, path) as file:
            yield file
    except OSError as problem:
        raise ConversionError(f"{path}: cannot be written ({problem.strerror or problem}).") from problem


@contextlib.contextmanager
def whole_files(path: Path) -> Iterator[Path]:
    """A folder to write a file and its companions into: they go to their places beside `path` when the block ends well, `path` last.

    Raises:
        ConversionError: as whole_file().
    """
    try:
        folder = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            folder.mkdir()
            yield folder
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            for made in sorted(folder.iterdir(), key=lambda made: made.name == path.name):
                made.replace(path.with_name(made.name))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as problem:
        raise ConversionError(f"{path}: cannot be written ({problem.strerror or problem}).") from problem
    except ValueError as problem:
        if "\0" not in str(path):
            raise
        raise ConversionError(f"{shown(str(path))}: no file can have this name.") from problem


def _created(temporary: Path, path: Path) -> IO[bytes]:
    try:
        return temporary.open("xb")
    except ValueError as problem:  # a NUL in the name
        raise ConversionError(f"{shown(str(path))}: no file can have this name.") from problem
