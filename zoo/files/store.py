"""The cache on disk: where files lie, what proves them, and how a file gets its final name.

    <home>/<model>/<file>                the authors' bytes, proven
    <home>/<model>/<file>.receipt.json   size, sha256, and what proved them
    <home>/<model>/terms.json            that the terms were accepted
    <home>/<model>/.*.part               downloads under way (parts.py)
    <home>/converted/*.safetensors       converted weights, named after the bytes they came from (models/named.py)

A file gets its final name by rename, after its bytes are proven and on disk. So a file that has its name is whole,
and a hit costs two system calls and a small read: no lock, no write, no hashing.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from converter.files import flush_to_disk
from zoo.cards.record import Card, Checksum, File
from zoo.disk import digests_of, home, is_file, opened, read_record, refuse_link, write_json, writing
from zoo.errors import CacheError, ProofError, TermsNotAccepted
from zoo.files.parts import owner
from zoo.files.refusal import foreign


@dataclass(frozen=True)
class Receipt:
    size: int
    sha256: str
    proof: str  # which published checksums agreed, or that the file was pinned on first use
    origin: str  # the URL or path the bytes came from
    pinned: bool = False


def folder(card: Card) -> Path:
    return home() / card.name


def receipt_of(path: Path) -> Receipt | None:
    """The receipt of a file in the cache; None where there is none that can be read. Raises CacheError for a link in its place."""
    try:
        found = read_record(_receipt_path(path))
    except CacheError:
        raise
    except (OSError, ValueError):
        return None
    size, pinned = found.get("size"), found.get("pinned", False)
    sha256, proof, origin = (found.get(name) for name in ("sha256", "proof", "origin"))
    if type(size) is int and isinstance(sha256, str) and isinstance(proof, str) and isinstance(origin, str) and isinstance(pinned, bool):
        return Receipt(size, sha256, proof, origin, pinned)
    return None


def cached(place: Path, file: File) -> Path | None:
    """The proven file, or None. Says None too where the card has changed since the file was proven.

    Raises CacheError where the folder or the receipt is a symbolic link.
    """
    refuse_link(place)
    path = place / file.name
    if not is_file(path):
        return None
    size = path.stat().st_size
    receipt = receipt_of(path)
    if receipt is None or receipt.size != size or file.size not in (None, size):
        return None
    if any(known.algorithm == "sha256" and known.value != receipt.sha256 for known in file.checksums):
        return None
    return path


def prove(path: Path, what: str, size: int | None, checksums: tuple[Checksum, ...]) -> tuple[int, str]:
    """Holds the file at `path` against everything published about it; returns its (size, sha256).

    Raises ProofError, which lists every disagreement with the source of the claim.
    """
    with opened(path) as source:
        return _prove(source, path, what, size, checksums)


def _prove(source: IO[bytes], path: Path, what: str, size: int | None, checksums: tuple[Checksum, ...]) -> tuple[int, str]:
    found_size = os.fstat(source.fileno()).st_size
    if size not in (None, found_size):
        raise ProofError(f"{what}: {found_size:,} bytes; {size:,} are expected{_what_it_is(path, what)}")
    found = digests_of(source, (known.algorithm for known in checksums))
    wrong = [
        f"  {known.algorithm} is {found[known.algorithm]}, but {known.value} is published by {known.source}"
        for known in checksums
        if found[known.algorithm] != known.value
    ]
    if wrong:
        raise ProofError("\n".join([f"{what}: these are not the published bytes{_what_it_is(path, what)}", *wrong]))
    return found_size, found["sha256"]


def checksums_of(place: Path, file: File) -> tuple[Checksum, ...]:
    """The published checksums; where there are none, the one that was pinned when the file first came."""
    receipt = None if file.checksums else receipt_of(place / file.name)
    if receipt and receipt.pinned:
        return (Checksum("sha256", receipt.sha256, f"this cache, pinned on first use, from {receipt.origin}"),)
    return file.checksums


def install(temporary: Path, place: Path, file: File, origin: str, archive_proof: str = "", unverified: str = "") -> Path:
    """Proves the bytes at `temporary` and gives them their name in the cache. Raises ProofError or CacheError.

    `temporary` is a file that this process made and that nobody else has open: what is proven stays as it is. `archive_proof`
    names the checksum that proved the archive the file was taken from; `unverified` is what to say of a file that nothing published
    can prove.
    """
    known, path = checksums_of(place, file), place / file.name
    with opened(temporary, follow=False) as source:
        before = os.fstat(source.fileno())
        if before.st_nlink > 1:
            raise ProofError(f"{file.name}: what came has a second name, under which it could be changed: refused")
        size, sha256 = _prove(source, temporary, file.name, file.size, known)
        proof = "; ".join([*(f"{each.algorithm} as stated by {each.source}" for each in known), archive_proof]).strip("; ")
        pinned = not file.checksums and not archive_proof
        if pinned and (found := _what_it_is(temporary, file.name)):
            raise ProofError(f"{file.name}: this is not the file{found}")
        receipt = Receipt(size, sha256, unverified or proof or "nothing: no checksum is published, pinned on first use", origin, pinned)
        with writing(place):
            os.fsync(source.fileno())
            # The receipt goes first: a file must never stand under its name without one.
            write_json(_receipt_path(path), asdict(receipt))
            try:
                if facts(temporary.lstat()) != facts(before):
                    raise ProofError(f"{file.name}: what came was changed by somebody else while it was proven")
                temporary.replace(path)
            except (FileNotFoundError, ProofError) as error:
                _receipt_path(path).unlink(missing_ok=True)
                if isinstance(error, ProofError):
                    raise
                raise ProofError(f"{file.name}: another process, taking this one for dead, has taken over the download") from None
            flush_to_disk(place)
    return path


def facts(status: os.stat_result) -> tuple[int, ...]:
    """By which a file is still the one, and as it was."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _receipt_path(path: Path) -> Path:
    return path.with_name(path.name + ".receipt.json")


def prove_in_place(place: Path, file: File) -> Path | None:
    """Takes in a file that lies in the cache without a valid receipt, or a link to one, if a published checksum proves it.

    It is copied, for whoever put it there may have it open.
    """
    path = place / file.name
    if not file.checksums or not path.is_file() or file.size not in (None, path.stat().st_size):
        return None
    copy = temporary(place)
    try:
        with writing(place):
            shutil.copyfile(path, copy)
        return install(copy, place, file, origin=str(path))
    except ProofError:
        return None
    finally:
        copy.unlink(missing_ok=True)


def temporary(place: Path) -> Path:
    """A name in the cache that no file has, and that says whose it is."""
    return place / f".{owner()}.tmp"


def accept_terms(card: Card, accepted: bool) -> None:
    """Raises TermsNotAccepted unless the terms ask nothing, were accepted before, or are accepted now."""
    if not card.terms.ask:
        return
    refuse_link(folder(card))
    record = folder(card) / "terms.json"
    text = card.terms.licence
    try:
        if read_record(record).get("terms") == text:
            return
    except CacheError:
        raise
    except (OSError, ValueError):
        pass
    if not accepted:
        raise TermsNotAccepted(
            f"{card.title} comes under these terms: {text}\n  (stated by: {card.terms.source})\n"
            f"If you agree, say so once: zoo.load({card.name!r}, accept_terms=True)"
            f" or caffe-zoo fetch {card.name} --accept-terms (add and export take it, too)"
        )
    with suppress(CacheError), writing(record.parent):  # in a read-only cache the agreement holds for this call
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, {"terms": text, "accepted": time.strftime("%Y-%m-%d")})


def _what_it_is(path: Path, wanted: str) -> str:
    found = foreign(path, wanted)
    return f" (it is {found})" if found else ""
