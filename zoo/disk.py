"""What the zoo and the recipes do on disk: where the cache is, digests, files that appear whole or not at all, errors that help."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from converter.files import head, opened, replacing, stand_in
from converter.formats import recognised
from zoo.errors import CacheError

__all__ = [
    "BLOCK",
    "digests",
    "digests_of",
    "head",
    "home",
    "is_alive",
    "is_file",
    "opened",
    "read_record",
    "recognised",
    "refuse_link",
    "replacing",
    "saving",
    "stand_in",
    "write_json",
    "writing",
]
BLOCK = 1 << 20  # bytes read at once
MOST_RECORD = 1 << 16  # bytes of a receipt, of accepted terms, of a note


def home() -> Path:
    """$CAFFEZOO_HOME, or the user's cache directory. Raises CacheError for a ~user that nobody is."""
    if folder := os.environ.get("CAFFEZOO_HOME"):
        try:
            return Path(folder).expanduser()
        except RuntimeError:
            raise CacheError(f"CAFFEZOO_HOME is {folder}: there is no user of that name; set it to a folder") from None
    from platformdirs import user_cache_path

    return user_cache_path("caffezoo")


def digests(path: Path, algorithms: Iterable[str]) -> dict[str, str]:
    """The file's digests, read once from disk. "git-blob-sha1" is the id that git gives the content."""
    with opened(path) as source:
        return digests_of(source, algorithms)


def digests_of(source: IO[bytes], algorithms: Iterable[str]) -> dict[str, str]:
    """The digests of an open file, from its first byte."""
    hashes = {}
    for algorithm in {"sha256", *algorithms}:
        name = "sha1" if algorithm == "git-blob-sha1" else algorithm
        hashes[algorithm] = hashlib.new(name, usedforsecurity=False)
    if "git-blob-sha1" in hashes:
        hashes["git-blob-sha1"].update(b"blob %d\0" % os.fstat(source.fileno()).st_size)
    source.seek(0)
    while block := source.read(BLOCK):
        for each in hashes.values():
            each.update(block)
    return {algorithm: each.hexdigest() for algorithm, each in hashes.items()}


def write_json(path: Path, value: object) -> None:
    """Whole or not at all."""
    with replacing(path) as temporary:
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # a file's name may hold bytes that are no UTF-8


@contextmanager
def saving(path: Path) -> Iterator[Path]:
    """replacing(), for torch.save and safetensors: they wrap the disk's refusals in errors of their own, which become the OSError again."""
    from safetensors import SafetensorError

    with replacing(path) as temporary:
        try:
            yield temporary
        except (SafetensorError, RuntimeError) as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            code = int(number[1]) if number else errno.ENOSPC if "iostream" in str(error) or "inline_container" in str(error) else None
            if code is None:
                raise
            raise OSError(code, os.strerror(code), str(path)) from error


def read_record(path: Path) -> dict[str, object]:
    """A small JSON object of the cache's.

    Raises FileNotFoundError, CacheError where the name is a symbolic link or anything but a regular file, and ValueError for
    every other content: text, nested too deeply, too long.
    """
    refuse_link(path)
    with opened(path, follow=False) as file:
        text = file.read(MOST_RECORD + 1)
    if len(text) > MOST_RECORD:
        raise ValueError(f"more than {MOST_RECORD:,} bytes")
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def is_alive(process: int) -> bool:
    """Whether a process of this machine may still run; of one that cannot be asked, True."""
    if os.name == "nt":  # os.kill would end it there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def refuse_link(path: Path) -> None:
    """Raises CacheError for a symbolic link: what is done to the cache must not be done where a link leads."""
    if path.is_symlink():
        raise CacheError(
            f"{path} is a symbolic link (to {path.readlink()}): refused, for what is written, removed or made readable in the cache"
            " would be so where it leads. Remove the link; to keep the cache elsewhere, set CAFFEZOO_HOME"
        )


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turns the operating system's refusals into a CacheError that says what to do."""
    try:
        yield
    except CacheError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise CacheError(
                f"the disk that holds {place} is full. What has come so far is kept: free some space and run it again,"
                " or set CAFFEZOO_HOME to a directory with more room (caffe-zoo clean removes unfinished downloads)"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise CacheError(
                f"{place} cannot be written ({error.strerror}), and what is asked for is not in it."
                " Set CAFFEZOO_HOME to a writable directory, or have its owner fetch the model"
            ) from error
        at = error.filename2 or error.filename
        if error.errno in (errno.EISDIR, errno.ENOTEMPTY) and at:
            raise CacheError(f"{at} is a folder, where a file of the cache is to lie: remove it, and run it again") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ELOOP):
            blocked = next((each for each in (place, *place.parents) if os.path.lexists(each)), place)
            raise CacheError(
                f"{blocked} stands where the cache needs a folder, and is none: remove it, or set CAFFEZOO_HOME to a folder"
            ) from error
        raise CacheError(f"{place}: {error.strerror or error}") from error


def is_file(path: Path) -> bool:
    """Whether the name itself is a regular file's: not a link to one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False
