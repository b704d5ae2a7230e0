"""What the zoo and the recipes do on disk: where the cache is, digests, files that appear whole or not at all, errors that help."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from converter.files import replacing
from zoo.errors import CacheError

__all__ = ["BLOCK", "digests", "home", "replacing", "write_json", "writing"]
BLOCK = 1 << 20  # bytes read at once


def home() -> Path:
    """$CAFFEZOO_HOME, or the user's cache directory."""
    if folder := os.environ.get("CAFFEZOO_HOME"):
        return Path(folder).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("caffezoo")


def digests(path: Path, algorithms: Iterable[str]) -> dict[str, str]:
    """The file's digests, read once from disk. "git-blob-sha1" is the id that git gives the content."""
    hashes = {}
    for algorithm in {"sha256", *algorithms}:
        name = "sha1" if algorithm == "git-blob-sha1" else algorithm
        hashes[algorithm] = hashlib.new(name, usedforsecurity=False)
    if "git-blob-sha1" in hashes:
        hashes["git-blob-sha1"].update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb", buffering=0) as source:
        while block := source.read(BLOCK):
            for each in hashes.values():
                each.update(block)
    return {algorithm: each.hexdigest() for algorithm, each in hashes.items()}


def write_json(path: Path, value: object) -> None:
    """Whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


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
        raise CacheError(f"{place}: {error}") from error
