"""What to say of a file that is none of a model's: what it is, and what was expected."""

from __future__ import annotations

from pathlib import Path

from converter.files import head, stand_in
from converter.formats import LENGTH, PLAIN, recognised
from zoo.cards.record import Card, File


def what_it_is(path: Path) -> str:
    """A file's format by its first bytes, or at least its size."""
    size = path.stat().st_size
    if not size:
        return "an empty file"
    start = head(path, LENGTH)
    if found := stand_in(start):
        return found
    found_format = recognised(start)
    return f"a file of {size:,} bytes" if found_format is None else f"{found_format.what} of {size:,} bytes"


def foreign(path: Path, wanted: str) -> str:
    """What a file is that cannot be the one that is wanted, by its first bytes; "" where that does not show.

    `wanted` is the file's name, or says that it is an archive.
    """
    start = head(path, LENGTH)
    if found := stand_in(start):
        return found
    found_format = recognised(start) if wanted.endswith(".caffemodel") else None
    if found_format in (None, PLAIN) or ("archive" in wanted and "archive" in found_format.what):
        return ""  # some text may be anything: that is the reader's to say
    return found_format.what


def expected(card: Card) -> str:
    """The model's files, and by what each is known."""
    return "; ".join(_one(file) for file in card.files)


def _one(file: File) -> str:
    size = "" if file.size is None else f", {file.size:,} bytes"
    archives = {mirror.url.rsplit("/", 1)[-1] for mirror in file.mirrors if mirror.archive}
    packed = f", also in the authors' archive {', '.join(sorted(archives))}" if archives else ""
    if file.checksums:
        return f"{file.name}{size}{packed}, under any name"
    return f"{file.name}{size}{packed}, under this name, for no checksum of it has been published"
