"""Brings a model's files into the cache, proven: from their mirrors (fetch) or from the user's disk (add).

What arrives is held against the published checksums; what agrees is renamed into place, and what does not is deleted,
and the next mirror is asked.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from zoo import disk
from zoo.cards import registry
from zoo.cards.record import Archive, Card, Checksum, File, Mirror
from zoo.errors import FetchError, Offline, ProofError, Unverified
from zoo.files import archive, converted, copies, parts, refusal, store
from zoo.files.http import Job, Limits, MirrorFailed, download
from zoo.files.lock import lock
from zoo.files.unpacked import pieces


@dataclass(frozen=True)
class Finding:
    """What verify() says of one file."""

    file: str
    state: Literal["proven", "pinned", "missing", "wrong"]
    detail: str


def fetch(
    name: str,
    *,
    accept_terms: bool = False,
    allow_unverified: bool = False,
    allow_unverified_http: bool = False,
    progress: bool | None = None,
) -> dict[str, Path]:
    """Returns {file name: path} of the model's needed files, fetching what the cache does not have.

    `progress` None shows a bar on a terminal. Raises UnknownModel, TermsNotAccepted, Offline, Unverified (nobody has
    published a checksum; `allow_unverified` takes the file over https and pins what came, `allow_unverified_http` over http, too,
    where anybody on the way can change it), FetchError with each mirror's reason, or CacheError.
    """
    card = registry.card_of(name)
    if card.folder is not None:
        return {file.name: card.folder / file.name for file in card.files}
    store.accept_terms(card, accept_terms)
    place = store.folder(card)
    return {
        file.name: obtain(
            file,
            place,
            together=card.files,
            allow_unverified=allow_unverified,
            allow_unverified_http=allow_unverified_http,
            progress=progress,
        )
        for file in card.files
        if file.needed
    }


def obtain(
    file: File,
    place: Path,
    *,
    together: Sequence[File] = (),
    allow_unverified: bool = False,
    allow_unverified_http: bool = False,
    progress: bool | None = None,
    limits: Limits | None = None,
) -> Path:
    """The proven `file` in the folder `place`. Files of `together` that the same archive holds come along."""
    if hit := store.cached(place, file):
        return hit
    if os.environ.get("CAFFEZOO_OFFLINE", "0") not in ("", "0"):
        raise Offline(f"{file.name} is not in {place}, and CAFFEZOO_OFFLINE is set. {_by_hand(place.name)}")
    if not file.mirrors:
        raise FetchError(f"{file.name} has no download address. {_by_hand(place.name)}")

    def trusted(mirror: Mirror) -> bool:
        """Whether what comes from there may be taken though nothing published speaks for it."""
        return allow_unverified_http or (allow_unverified and _is_https(mirror))

    mirrors = [mirror for mirror in file.mirrors if trusted(mirror) or _provable(place, file, mirror)]
    if not mirrors:
        raise Unverified(_unverified(place.name, file, http=not any(map(_is_https, file.mirrors))))
    with lock(place):
        if hit := store.cached(place, file) or store.prove_in_place(place, file):
            return hit
        failures = []
        for mirror in mirrors:
            size = mirror.archive.size if mirror.archive else file.size
            secure = not (allow_unverified_http or _provable(place, file, mirror))
            job = Job(mirror.url, file.name, size, progress, limits or Limits(), secure)
            siblings = _siblings(place, file, mirror, together, trusted(mirror))
            try:
                with disk.writing(place):
                    path = _from_mirror(job, mirror, file, place, siblings)
                    for stale in parts.leftovers(place, file.name):  # of killed processes, and of other mirrors
                        stale.unlink(missing_ok=True)
                    return path
            except MirrorFailed as failure:
                failures.append(f"  {mirror.url}\n    {failure}")
    if hit := store.cached(place, file):  # where locks do not work, another process may have fetched it meanwhile
        return hit
    raise FetchError("\n".join([f"{file.name} could not be downloaded from any mirror:", *failures, f"  {_by_hand(place.name)}"]))


def add(name: str, path: str | os.PathLike[str], *, accept_terms: bool = False, allow_unverified: bool = False) -> dict[str, Path]:
    """Copies a file from disk into the cache, under the same checks: the authors' archive, or one of its members.

    Returns {file name: path} of what came in. Raises ProofError if the file is none of the model's, Unverified if
    nothing published can tell, TermsNotAccepted and CacheError.
    """
    card, source = registry.card_of(name), Path(path)
    if card.folder is not None:
        raise ProofError(f"{name} comes with the package, and nothing can be added to it; zoo.load({name!r}) loads it")
    store.accept_terms(card, accept_terms)
    try:
        disk.opened(source).close()
    except (OSError, ValueError) as error:
        raise ProofError(f"{source} cannot be read: {getattr(error, 'strerror', error)}") from error
    place = store.folder(card)
    taken: dict[str, Path] = {}
    refusals, unproven = [], []
    with lock(place), disk.writing(place):
        for file, mirror in _ways_in(card, source):
            if file.name in taken:
                continue
            if not (allow_unverified or _provable(place, file, mirror)):
                unproven.append(_unverified(name, file))
                continue
            body = _copy(source, place) if mirror.archive is None else source
            siblings = _siblings(place, file, mirror, card.files, allow_unverified)
            try:
                taken[file.name] = settle(body, mirror, file, place, siblings, origin=str(source.resolve()))
                taken |= {other.name: hit for other, _ in siblings if (hit := store.cached(place, other))}
            except ProofError as error:
                refusals.append(str(error))
            finally:
                if body != source:
                    body.unlink(missing_ok=True)
    if taken:
        return taken
    if unproven and not refusals:
        raise Unverified(unproven[0])
    problems = dict.fromkeys([*unproven, *refusals])
    found = f"{source} is none of {name}'s files: it is {refusal.what_it_is(source)}"
    raise ProofError("\n  ".join([found, *problems, f"expected: {refusal.expected(card)}"]))


def clean(name: str | None = None, everything: bool = False) -> list[Path]:
    """Removes unfinished downloads and converted weights, of one model or of all; `everything` removes the authors'
    files with their receipts, pins and accepted terms as well. Returns what is gone."""
    cards = [registry.card_of(name)] if name else registry.CARDS
    for card in cards:
        disk.refuse_link(store.folder(card))
    gone: list[Path] = []
    for card in cards:
        place = store.folder(card)
        stale = parts.leftovers(place) + converted.files_of(card)
        if everything and place.is_dir():
            stale += [path for path in place.iterdir() if not (path.name.startswith(".") or stat.S_ISDIR(path.lstat().st_mode))]
        with disk.writing(disk.home()):
            for path in stale:
                path.unlink(missing_ok=True)
        gone += stale
    return gone


def verify(name: str) -> list[Finding]:
    """Reads every cached file of the model again and holds it against what is published, and the weights that were converted
    from them against their own hash. Changes nothing."""
    card = registry.card_of(name)
    place = store.folder(card) if card.folder is None else card.folder
    if card.folder is None:
        disk.refuse_link(place)
    findings = []
    for file in card.files:
        path, receipt = place / file.name, store.receipt_of(place / file.name)
        if not path.is_file():
            findings.append(Finding(file.name, "missing", f"not in {place}"))
            continue
        known = store.checksums_of(place, file)
        if not known and receipt:  # proven by its archive, which is gone
            known = (Checksum("sha256", receipt.sha256, f"the receipt, which says: {receipt.proof}"),)
        try:
            store.prove(path, file.name, file.size, known)
        except ProofError as error:
            findings.append(Finding(file.name, "wrong", f"{error}\ncaffe-zoo clean --all {name} removes it"))
            continue
        if not known:
            findings.append(Finding(file.name, "wrong", "neither a receipt nor a published checksum speaks for it"))
            continue
        state: Literal["proven", "pinned"] = "pinned" if receipt and receipt.pinned else "proven"
        findings.append(Finding(file.name, state, "; ".join(f"{each.algorithm}: {each.source}" for each in known)))
    if (held := copies.check(card)) is not None:
        findings.append(Finding(copies.COPY.name, "pinned" if held[1] else "wrong", held[0]))
    return findings + [_converted(name, path) for path in converted.files_of(card)]


def _converted(name: str, path: Path) -> Finding:
    shown = f"converted/{path.name}"
    try:
        converted.check(path)
    except (ProofError, OSError) as error:
        return Finding(shown, "wrong", f"{error}\ncaffe-zoo clean {name} removes it, and the next load converts again")
    return Finding(shown, "proven", "sha256: kept in the file when it was converted")


Siblings = Sequence[tuple[File, str]]  # files that the same archive holds, with their paths inside


def settle(source: Path, mirror: Mirror, file: File, place: Path, siblings: Siblings, origin: str) -> Path:
    """Proves the complete body at `source` and installs `file`, and what comes with it. Raises ProofError."""
    outer = mirror.archive
    if outer is None:
        return store.install(source, place, file, origin)
    before = store.facts(source.stat())
    store.prove(source, f"the archive of {file.name}", outer.size, outer.checksums)
    proof = "; ".join(f"the archive's {known.algorithm} as stated by {known.source}" for known in outer.checksums)
    wanted = {outer.member: (file, store.temporary(place))}
    wanted |= {member: (other, store.temporary(place)) for other, member in siblings}
    try:
        found = archive.extract(source, wanted)
        if outer.member not in found:
            raise ProofError(f"the archive {source.name} does not contain {outer.member}")
        if store.facts(source.stat()) != before:
            raise ProofError(f"the archive {source.name} was changed while it was read")
        for member in found - {outer.member}:
            with contextlib.suppress(ProofError):  # it is reported when it is asked for
                store.install(wanted[member][1], place, wanted[member][0], origin, proof)
        return store.install(wanted[outer.member][1], place, file, origin, proof)
    finally:
        for _, temporary in wanted.values():
            temporary.unlink(missing_ok=True)


def _siblings(place: Path, file: File, mirror: Mirror, together: Sequence[File], allow_unverified: bool) -> list[tuple[File, str]]:
    """What else of the model the archive at this mirror holds, may be taken, and is not there yet."""
    return [
        (other, same.archive.member)
        for other in together
        for same in other.mirrors
        if other != file
        and same.archive
        and same.url == mirror.url
        and (allow_unverified or other.checksums or (mirror.archive and mirror.archive.checksums))
        and not store.cached(place, other)
    ]


def _from_mirror(job: Job, mirror: Mirror, file: File, place: Path, siblings: Siblings) -> Path:
    with parts.claim(place, file.name, mirror.url) as part:
        while True:
            resumed = download(job, part)
            if not part.ours:
                raise MirrorFailed("another process, taking this one for dead, has taken over the download")
            try:
                with _as_sent_or_unpacked(part, job) as bodies:
                    result = _first_that_settles(bodies, mirror, file, place, siblings)
                part.discard()
                return result
            except FileNotFoundError:
                raise MirrorFailed("another process, taking this one for dead, has taken over the download") from None
            except ProofError as error:
                part.discard()
                if not resumed:
                    raise MirrorFailed(str(error)) from error
                # Bytes of an earlier run were among them: once more, from the first byte.


def _first_that_settles(bodies: Iterator[Path], mirror: Mirror, file: File, place: Path, siblings: Siblings) -> Path:
    refusals = []
    for body in bodies:
        try:
            return settle(body, mirror, file, place, siblings, mirror.url)
        except ProofError as error:
            refusals.append(error)
    raise refusals[0]


@contextmanager
def _as_sent_or_unpacked(part: parts.Part, job: Job) -> Iterator[Iterator[Path]]:
    """The body as it was sent and, if the server packed it in flight, as it was before. Misconfigured servers call a
    .tar.gz "encoded" as well, so only the checksum can tell which of the two is the file."""
    plain = store.temporary(part.path.parent)
    limit = job.limits.largest if job.size is None else job.size

    def bodies() -> Iterator[Path]:
        encoding = part.note.encoding
        yield part.path
        if encoding in ("gzip", "x-gzip"):
            try:
                with disk.opened(part.path, follow=False) as packed, plain.open("xb") as out:
                    for block in pieces(packed):
                        out.write(block)
                        if out.tell() > limit:
                            break
            except (EOFError, zlib.error) as error:
                raise ProofError(f"the gzip-encoded body is damaged ({error})") from error
            yield plain

    try:
        yield bodies()
    finally:
        plain.unlink(missing_ok=True)


def _ways_in(card: Card, source: Path) -> Iterator[tuple[File, Mirror]]:
    """Each reading of the user's file that may make it one of the model's, the plainest first."""
    packed = archive.is_archive(source)
    sizes = (None, source.stat().st_size)
    for file in card.files:
        named = file.name == source.name
        if named or (file.checksums and file.size in sizes and not packed):
            yield file, Mirror(url="")
        archives = {mirror.archive: mirror for mirror in file.mirrors if mirror.archive} if packed else {}
        for published, mirror in archives.items():
            yield file, mirror
            yield file, replace(mirror, archive=Archive(published.member))  # packed again by somebody


def _provable(place: Path, file: File, mirror: Mirror) -> bool:
    return bool(store.checksums_of(place, file) or (mirror.archive and mirror.archive.checksums))


def _is_https(mirror: Mirror) -> bool:
    return mirror.url.lower().startswith("https://")


def _copy(source: Path, place: Path) -> Path:
    target = store.temporary(place)
    shutil.copyfile(source, target)
    return target


def _unverified(name: str, file: File, http: bool = False) -> str:
    if http:
        return (
            f"no checksum has been published for {name}'s {file.name}, and it comes over http, where anybody on the way can change it."
            " allow_unverified_http=True (--allow-unverified-http) accepts it once, and pins what came"
        )
    return (
        f"no checksum has been published for {name}'s {file.name}, so it cannot be verified."
        " allow_unverified=True (--allow-unverified) accepts it once, and pins what came"
    )


def _by_hand(name: str) -> str:
    return f"If you have the file: zoo.add({name!r}, path), or caffe-zoo add {name} PATH"
