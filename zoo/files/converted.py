"""Converted weights in the cache: safetensors files that carry a hash of themselves, so that a flipped bit is found.

The hash stands in the file's metadata, as "sha256" of the file with 64 zeros in its place.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from zoo import disk
from zoo.cards.record import Card
from zoo.errors import ProofError

EMPTY = {"sha256": "0" * 64}  # the metadata to write, before seal()
_FIELD = b'"sha256":"'
_MOST_HEADER = 16 << 20


def folder() -> Path:
    """Where they lie. Raises CacheError for a symbolic link in its place."""
    place = disk.home() / "converted"
    disk.refuse_link(place)
    return place


def files_of(card: Card) -> list[Path]:
    """The model's converted weights, of this release of the converter and of others."""
    return sorted(path for path in folder().glob(f"{card.name}-*.safetensors") if path.is_symlink() or not path.is_dir())


def seal(path: Path) -> None:
    """Puts the hash of a file that was written with the metadata EMPTY into it."""
    place = _place(path)
    digest = _digest(path, place)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(digest.encode())


def check(path: Path) -> None:
    """Raises ProofError if the file is not what was written, or has no hash (earlier releases wrote none)."""
    place = _place(path)
    with disk.opened(path, follow=False) as file:
        file.seek(place)
        expected = file.read(64)
    if _digest(path, place).encode() != expected:
        raise ProofError("the converted weights were changed after they were written")


def _place(path: Path) -> int:
    """Where the hash stands: in the header, JSON behind its length of 8 bytes."""
    with disk.opened(path, follow=False) as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, _MOST_HEADER))
    at = header.find(_FIELD)
    if at < 0 or len(header) < at + len(_FIELD) + 64:
        raise ProofError("the converted weights carry no hash")
    return 8 + at + len(_FIELD)


def _digest(path: Path, place: int) -> str:
    state = hashlib.sha256()
    with disk.opened(path, follow=False) as file:
        state.update(file.read(place) + EMPTY["sha256"].encode())
        file.seek(place + 64)
        while block := file.read(disk.BLOCK):
            state.update(block)
    return state.hexdigest()
