"""Unfinished downloads: who owns one, and how another process goes on with it.

A download grows in a part file of its own, named after its owner:

    .<file>.<hash of the URL>.<host>~<pid>~<random>.part     claimed
    .<file>.<hash of the URL>.part                           left behind by an owner that gave up

A part is claimed by renaming it, and of several processes that try only one can succeed; then its bytes are copied into a file
that the claimant made. So two processes never write to one file, also where the filesystem's locks do nothing, and an owner that
was only asleep writes, when it wakes, into a file that has no name any more. The lock (lock.py) only saves the others from
downloading too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from converter.files import NO_FOLLOW, READING
from zoo.disk import BLOCK, is_alive, opened, read_record, write_json, writing

ABANDONED = 900.0  # a part that nobody has written to for so long has no owner; a live one gives up far earlier
MOST_VALIDATOR = 1024  # characters of an ETag or a date


@dataclass(frozen=True)
class Note:
    """What the server said of the body that a part holds the beginning of."""

    validator: str = ""  # a strong ETag, or Last-Modified: what If-Range takes
    total: int | None = None
    encoding: str = ""  # Content-Encoding of the bytes as they were sent


@dataclass(frozen=True)
class Part:
    """A file that this process made and has open, and nobody else."""

    path: Path
    free: Path  # its name without an owner
    descriptor: int

    @property
    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    @property
    def ours(self) -> bool:
        """Whether the name is still that of the file: another process may have taken this one for dead."""
        try:
            return os.path.samestat(os.lstat(self.path), os.fstat(self.descriptor))
        except OSError:
            return False

    @property
    def note(self) -> Note:
        return _note(self.path, os.fstat(self.descriptor).st_ino)

    def start(self, note: Note) -> None:
        """Empties the part and notes what is about to fill it: in this order, a note never speaks of older bytes."""
        _note_path(self.path).unlink(missing_ok=True)
        os.ftruncate(self.descriptor, 0)
        _write_note(self, note)

    @contextmanager
    def appending(self) -> Iterator[IO[bytes]]:
        with os.fdopen(os.dup(self.descriptor), "r+b") as out:
            out.seek(0, os.SEEK_END)
            yield out

    def discard(self) -> None:
        """Empties the part, unless it has been installed under another name."""
        _note_path(self.path).unlink(missing_ok=True)
        if self.ours:
            os.ftruncate(self.descriptor, 0)


@contextmanager
def claim(place: Path, name: str, url: str) -> Iterator[Part]:
    """A part for `name` from `url` that is this caller's alone, with the bytes of the longest that has no living owner, if there is one.

    What is left of it afterwards is set free for the next caller, whoever that is.
    """
    stem = f".{name}.{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    free = place / f"{stem}.part"
    with writing(place):  # a folder that cannot be written is found out before anything is asked of a server
        part = _created(place / f"{stem}.{owner()}.part", free)
    try:
        with writing(place):
            for orphan in sorted(place.glob(f"{stem}.*part"), key=_size, reverse=True):
                if (orphan == free or _is_dead(orphan)) and _take_over(orphan, part, place / f"{stem}.{owner()}.part"):
                    break
        yield part
    finally:
        with contextlib.suppress(OSError):
            if part.ours and part.size:
                part.path.rename(free)
                _note_path(part.path).rename(_note_path(free))
            elif part.ours:
                part.path.unlink()
                _note_path(part.path).unlink(missing_ok=True)
        os.close(part.descriptor)


def _created(path: Path, free: Path) -> Part:
    return Part(path, free, os.open(path, READING | os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_FOLLOW, 0o666))


def _take_over(orphan: Path, part: Part, claimed: Path) -> bool:
    """Copies an orphan's bytes and its note into the part; False if another process was quicker, or it is not to be trusted."""
    try:
        if not stat.S_ISREG(os.lstat(orphan).st_mode):  # a link or a pipe, which this package never makes
            return False
        orphan.rename(claimed)
    except FileNotFoundError:
        return False
    try:
        with opened(claimed, follow=False) as source, os.fdopen(os.dup(part.descriptor), "r+b") as out:
            before = os.fstat(source.fileno())
            note = _note(orphan, before.st_ino)
            shutil.copyfileobj(source, out, BLOCK)
            out.flush()
            after = os.fstat(source.fileno())
    except OSError:  # the disk is full, perhaps: the next one finds it as it was
        with contextlib.suppress(OSError):
            claimed.rename(part.free)
            _note_path(orphan).rename(_note_path(part.free))
        os.ftruncate(part.descriptor, 0)
        raise
    unchanged = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    if unchanged:
        _write_note(part, note)
    else:  # its owner has woken up
        os.ftruncate(part.descriptor, 0)
    for path in (claimed, _note_path(orphan)):
        with contextlib.suppress(OSError):
            path.unlink()
    return unchanged


def leftovers(place: Path, name: str = "") -> list[Path]:
    """Unfinished downloads (of the file `name`) and their notes, and temporary files, that no living process owns."""
    start = f".{name}." if name else "."
    found = [path for path in place.glob(f"{start}*.part") if path.name.count("~") != 2 or _is_dead(path)]
    living = set(place.glob(".*.part")) - set(found)
    notes = [path for path in place.glob(f"{start}*.note") if path.with_suffix(".part") not in living]
    found += notes + [path for path in place.glob(".*.tmp") if _is_dead(path)]
    return [path for path in found if path.is_symlink() or not path.is_dir()]


def _note_path(part: Path) -> Path:
    return part.with_suffix(".note")


def _write_note(part: Part, note: Note) -> None:
    write_json(_note_path(part.path), {**asdict(note), "inode": os.fstat(part.descriptor).st_ino})


def _note(part: Path, inode: int) -> Note:
    """The note of a part; an empty one where there is none, or one that was not written for this file."""
    try:
        found = read_record(_note_path(part))
    except (OSError, ValueError):
        return Note()
    validator, total, encoding = found.get("validator"), found.get("total"), found.get("encoding")
    if (
        found.get("inode", inode) == inode
        and (isinstance(validator, str) and len(validator) <= MOST_VALIDATOR and validator.isascii() and validator.isprintable())
        and (total is None or (type(total) is int and 0 <= total < 1 << 62))
        and (isinstance(encoding, str) and len(encoding) <= MOST_VALIDATOR)
    ):
        return Note(validator, total, encoding)
    return Note()


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return -1


def owner() -> str:
    """What a file's name says of the process that writes it."""
    return f"{_host()}~{os.getpid()}~{secrets.token_hex(4)}"


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def _is_dead(path: Path) -> bool:
    """Whether the owner of a part or a temporary file is a process of this host that is gone, or has not written for ABANDONED seconds."""
    try:
        if time.time() - path.lstat().st_mtime > ABANDONED:
            return True
    except OSError:
        return False
    # Temporary files of files.replacing() live for a moment, and don't name the host.
    owner = re.fullmatch(r"(?:(.+)~)?([0-9]{1,9})[~-][0-9a-f]+", path.stem.rsplit(".", 1)[-1])
    if owner is None or owner[1] not in (None, _host()):
        return False
    return not is_alive(int(owner[2]))
