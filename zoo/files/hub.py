"""Models from the Hugging Face Hub: fetched through huggingface_hub, pinned by commit and by hash, and never run.

    <home>/hub/<owner>--<name>/pins.json        which commit each revision was when it was first asked for
    <home>/hub/<owner>--<name>/<commit>/        the files: config.json, model.safetensors, net.prototxt, ...
    <home>/hub/<owner>--<name>/<commit>/pin.json   their sizes and sha256, as they first came

A branch moves and an owner can write over it; what a name loads here does not: the first use pins the commit, and its files by their
hashes. Only the files that config.json names are fetched, under fixed names; the repository's Python is not even downloaded.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.extras import require
from zoo.disk import digests, home, write_json, writing
from zoo.errors import CacheError, FetchError, Offline, ProofError, UnknownModel, printable
from zoo.files.lock import lock

PREFIX = "hf:"
CONFIG = "config.json"
LIBRARY = "caffezoo"  # what config.json's library_name says
_NOT_OURS = "it is no model that caffe-zoo export --hub wrote"
# The files that a folder may consist of, and how large each may be: a stranger's server sends what it likes.
LARGEST = {CONFIG: 4 << 20, "model.safetensors": 32 << 30, "net.prototxt": 32 << 20, "mean.safetensors": 64 << 20}
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_NAME = re.compile(rf"hf:({_PART})/({_PART})")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Repository:
    """A repository of the Hub, and the folder of the cache where what came from it lies."""

    owner: str
    name: str

    @property
    def id(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def place(self) -> Path:
        return home() / "hub" / f"{self.owner}--{self.name}"


def is_hub(name: object) -> bool:
    """Whether zoo.load means a repository of the Hub: "hf:owner/name"."""
    return isinstance(name, str) and name.startswith(PREFIX)


def fetch_hub(name: str, revision: str | None = None) -> Path:
    """The folder of the cache that holds a repository's files, fetched where they are not there yet.

    `revision` is a branch, a tag or a commit; without it "main". Raises UnknownModel for a name or revision that none can have or the
    service does not know, Offline, FetchError, CacheError, and ProofError where a file is another than the one that was pinned.
    """
    repository, revision = _parsed(name, revision)
    if not repository.place.is_dir():
        _offline(name)
    with lock(repository.place), writing(repository.place):
        pins = _read(repository.place / "pins.json")
        commit = revision if _COMMIT.fullmatch(revision) else pins.get(revision)
        if commit is None:
            commit = _commit(repository, revision)
            folder = _complete(repository, commit)
            write_json(repository.place / "pins.json", {**pins, revision: commit})
            return folder
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise CacheError(f"{repository.place / 'pins.json'}: {revision!r} is pinned to what is no commit; remove the file")
        return _complete(repository, commit)


def _parsed(name: str, revision: str | None) -> tuple[Repository, str]:
    found = _NAME.fullmatch(name)
    if not found or ".." in name or "--" in name:
        raise UnknownModel(f"{printable(name)!r} is no name of a model on the Hub; it takes the form hf:owner/name")
    revision = "main" if revision is None else revision
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise UnknownModel(f"revision {printable(revision)!r} is no branch, tag or commit")
    return Repository(found[1], found[2]), revision.lower() if _COMMIT.fullmatch(revision.lower()) else revision


def _complete(repository: Repository, commit: str) -> Path:
    """The commit's folder with all of its files in it, each the one that was pinned."""
    folder = repository.place / commit
    known = _read(folder / "pin.json")
    if not _there(folder, CONFIG, known):
        _bring(repository, commit, CONFIG, known)
    facts = _read(folder / CONFIG)
    if facts.get("library_name") != LIBRARY:
        shutil.rmtree(folder, ignore_errors=True)  # perhaps a proxy's page, or a bad day of the service's: it is asked again
        raise FetchError(f"{PREFIX}{repository.id} at {commit}: {_NOT_OURS}")
    for file in _named(facts):
        if not _there(folder, file, known):
            _bring(repository, commit, file, known, _stated(facts, file))
    return folder


def _stated(facts: dict[str, Any], file: str) -> str | None:
    """The sha256 that config.json says of a file."""
    hashes = facts.get("files")
    stated = facts.get("sha256") if file == facts.get("weights") else hashes.get(file) if isinstance(hashes, dict) else None
    return stated.lower() if isinstance(stated, str) and len(stated) == 64 else None


def _named(facts: dict[str, Any]) -> list[str]:
    """The files that a config.json names, of those that there can be."""
    spec = facts.get("preprocess")
    named = [facts.get("weights"), facts.get("prototxt"), spec.get("mean") if isinstance(spec, dict) else None]
    return [name for name in LARGEST if name in named]


def _there(folder: Path, file: str, known: dict[str, Any]) -> bool:
    """Whether the file lies in the folder as it was pinned. The weights are hashed where they are loaded, by config.json's sha256."""
    path, pin = folder / file, known.get(file)
    if not isinstance(pin, dict) or path.is_symlink() or not path.is_file():
        return False
    size = path.stat().st_size
    if size != pin.get("size") or (size <= LARGEST[CONFIG] and digests(path, ())["sha256"] != pin.get("sha256")):
        raise ProofError(f"{path} is not the file that came from the Hub: it was changed or cut short. Remove it, and load the model again")
    return True


def _bring(repository: Repository, commit: str, file: str, known: dict[str, Any], stated: str | None = None) -> None:
    """Fetch one file and pin it; one that was pinned before has to be the same, another the one that config.json states."""
    _offline(f"{PREFIX}{repository.id}")
    folder, incoming = repository.place / commit, repository.place / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)  # of a process that was killed: the client begins anew in any case
    try:
        arrived = _download(repository, commit, file, incoming)
        size, sha256 = arrived.stat().st_size, digests(arrived, ())["sha256"]
        pin = known.get(file)
        if isinstance(pin, dict) and (size, sha256) != (pin.get("size"), pin.get("sha256")):
            raise ProofError(
                f"{file} of {PREFIX}{repository.id} at {commit} is not the file that was pinned on first use: its sha256 is {sha256},"
                f" and was {pin.get('sha256')}. A commit's files do not change: do not trust this server"
            )
        if stated is not None and sha256 != stated:
            raise ProofError(
                f"{file} of {PREFIX}{repository.id} at {commit}: its sha256 is {sha256}, but config.json says {stated}: it came damaged,"
                " or its owner changed one of the two. Load it again; if that does not help, tell its owner, or take another revision"
            )
        folder.mkdir(parents=True, exist_ok=True)
        known[file] = {"size": size, "sha256": sha256}
        write_json(folder / "pin.json", known)  # first: no file stands here without its hash
        arrived.replace(folder / file)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _commit(repository: Repository, revision: str) -> str:
    """Which commit a revision is today."""
    _offline(f"{PREFIX}{repository.id}")
    return _head(repository, revision, CONFIG)[0]


def _head(repository: Repository, revision: str, file: str) -> tuple[str, int | None]:
    """Commit and size of a file, as the service states them."""
    require("huggingface_hub")
    import huggingface_hub as hub

    url = hub.hf_hub_url(repository.id, file, revision=revision, endpoint=_endpoint())
    try:
        found = hub.get_hf_file_metadata(url, endpoint=_endpoint(), library_name="caffezoo", token=hub.get_token())
    except Exception as error:  # the client's own, its HTTP library's, the system's
        raise _explained(error, repository, revision, file) from error
    commit = str(found.commit_hash or "")
    if not _COMMIT.fullmatch(commit):
        raise FetchError(f"{PREFIX}{repository.id}: the service names no commit for {revision!r}; is HF_ENDPOINT right?")
    return commit, found.size


def _download(repository: Repository, commit: str, file: str, incoming: Path) -> Path:
    import huggingface_hub as hub

    stated, size = _head(repository, commit, file)
    most = LARGEST[file] if size is None else size
    if stated != commit:
        raise ProofError(f"{PREFIX}{repository.id}: asked for commit {commit}, the service answers with {stated}")
    if size is not None and size > LARGEST[file]:
        raise FetchError(f"{PREFIX}{repository.id}: {file} has {size:,} bytes; {LARGEST[file]:,} are the most that it may have")
    try:
        path = Path(
            hub.hf_hub_download(
                repository.id,
                file,
                revision=commit,
                local_dir=incoming,
                endpoint=_endpoint(),
                library_name="caffezoo",
                token=hub.get_token(),
                tqdm_class=_limited(most),
            )
        )
    except _TooLarge:
        raise FetchError(
            f"{PREFIX}{repository.id}: the server sent more of {file} than the {most:,} bytes that it may have; do not trust it"
            " (is HF_ENDPOINT right?)"
        ) from None
    except Exception as error:
        raise _explained(error, repository, commit, file) from error
    if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST[file]:
        raise FetchError(f"{PREFIX}{repository.id}: {file} came as no regular file, or as a larger one than was announced")
    return path


class _TooLarge(Exception):
    """More came than was announced."""


def _limited(most: int) -> type[Any]:
    """A progress bar of huggingface_hub's kind, which sees each piece before it is written, and lets no more than this through."""
    from huggingface_hub.utils.tqdm import tqdm

    class Limited(tqdm):
        arrived = 0

        def update(self, n: float | None = 1) -> bool | None:
            self.arrived += int(n or 0)
            if self.arrived > most:
                raise _TooLarge
            return super().update(n)

    return Limited


def _explained(error: Exception, repository: Repository, revision: str, file: str) -> Exception:
    """What to say of a client's error, and what to do."""
    from huggingface_hub import errors

    name, said = f"{PREFIX}{repository.id}", printable((str(error).strip().splitlines() or [type(error).__name__])[0])[:300]
    if isinstance(error, errors.GatedRepoError):
        return FetchError(f"{name} asks its users to agree to its terms first, on its page; then log in: hf auth login")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UnknownModel(f"the Hub has no model {name}, or it is private (log in: hf auth login)")
    if isinstance(error, errors.RevisionNotFoundError):
        return UnknownModel(f"{name} has no revision {revision!r}")
    if isinstance(error, errors.EntryNotFoundError):
        kind = _NOT_OURS if file == CONFIG else "the repository is not complete"
        return FetchError(f"{name} at {revision} has no {file}: {kind}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
        return error  # of the disk: writing() says what to do
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        advice = "log in with an account that may read it (hf auth login), or set HF_TOKEN"
    elif status is not None and status < 500 and status not in (408, 429):
        advice = "check the name, and HF_ENDPOINT where it is set"
    else:
        advice = "check the connection, and HF_ENDPOINT where it is set; else try again later"
    return FetchError(f"{name}: {file} could not be fetched: {said.rstrip('.')}. To go on: {advice}")


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _offline(name: str) -> None:
    if os.environ.get("CAFFEZOO_OFFLINE", "0") not in ("", "0"):
        raise Offline(f"{name} is not in the cache, and CAFFEZOO_OFFLINE is set")


def _read(path: Path) -> dict[str, Any]:
    """A small JSON object, {} where there is none."""
    try:
        if path.is_symlink() or path.stat().st_size > LARGEST[CONFIG]:
            return {}
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
