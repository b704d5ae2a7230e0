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

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from converter.files import flush_to_disk, head, stand_in
from zoo.cards.record import Card, Checksum, File
from zoo.disk import digests, home, write_json, writing
from zoo.errors import CacheError, ProofError, TermsNotAccepted


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
    try:
        return Receipt(**json.loads(path.with_name(path.name + ".receipt.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def cached(place: Path, file: File) -> Path | None:
    """The proven file, or None. Says None too where the card has changed since the file was proven."""
    path = place / file.name
    try:
        size = path.stat().st_size
    except OSError:
        return None
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
    found_size = path.stat().st_size
    if size not in (None, found_size):
        raise ProofError(f"{what}: {found_size:,} bytes; {size:,} are expected{_what_it_is(path)}")
    found = digests(path, (known.algorithm for known in checksums))
    wrong = [
        f"  {known.algorithm} is {found[known.algorithm]}, but {known.value} is published by {known.source}"
        for known in checksums
        if found[known.algorithm] != known.value
    ]
    if wrong:
        raise ProofError("\n".join([f"{what}: these are not the published bytes{_what_it_is(path)}", *wrong]))
    return found_size, found["sha256"]


def checksums_of(place: Path, file: File) -> tuple[Checksum, ...]:
    """The published checksums; where there are none, the one that was pinned when the file first came."""
    receipt = None if file.checksums else receipt_of(place / file.name)
    if receipt and receipt.pinned:
        return (Checksum("sha256", receipt.sha256, f"this cache, pinned on first use, from {receipt.origin}"),)
    return file.checksums


def install(temporary: Path, place: Path, file: File, origin: str, archive_proof: str = "") -> Path:
    """Proves the bytes at `temporary` and gives them their name in the cache. Raises ProofError or CacheError.

    `archive_proof` names the checksum that proved the archive the file was taken from.
    """
    known = checksums_of(place, file)
    size, sha256 = prove(temporary, file.name, file.size, known)
    proof = "; ".join([*(f"{each.algorithm} as stated by {each.source}" for each in known), archive_proof]).strip("; ")
    pinned = not file.checksums and not archive_proof
    receipt = Receipt(size, sha256, proof or "nothing: no checksum is published, pinned on first use", origin, pinned)
    path = place / file.name
    with writing(place):
        flush_to_disk(temporary)
        # The receipt goes first: a file must never stand under its name without one.
        write_json(path.with_name(path.name + ".receipt.json"), asdict(receipt))
        temporary.replace(path)
        flush_to_disk(place)
    return path


def prove_in_place(place: Path, file: File) -> Path | None:
    """Takes in a file that lies in the cache without a valid receipt, if a published checksum proves it."""
    path = place / file.name
    if not file.checksums or not path.is_file():
        return None
    try:
        return install(path, place, file, origin=str(path))
    except ProofError:
        return None


def accept_terms(card: Card, accepted: bool) -> None:
    """Raises TermsNotAccepted unless the terms ask nothing, were accepted before, or are accepted now."""
    if not card.terms.ask:
        return
    record = folder(card) / "terms.json"
    text = card.terms.licence
    try:
        if json.loads(record.read_bytes())["terms"] == text:
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if not accepted:
        raise TermsNotAccepted(
            f"{card.title} comes under these terms: {text}\n  (stated by: {card.terms.source})\n"
            f"If you agree, say so once: zoo.load({card.name!r}, accept_terms=True)"
            f" or caffe-zoo fetch {card.name} --accept-terms"
        )
    with suppress(CacheError), writing(record.parent):  # in a read-only cache the agreement holds for this call
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, {"terms": text, "accepted": time.strftime("%Y-%m-%d")})


def _what_it_is(path: Path) -> str:
    found = stand_in(head(path, 512))
    return f" (it is {found})" if found else ""
