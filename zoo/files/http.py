"""One body over HTTP into a part file, whatever the server does: resumed, bounded in time and size, never trusted.

Own code, on requests, because what it has to withstand is the point: see tests/zoo/files/test_fetching.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from converter.files import stand_in
from zoo import disk
from zoo.files import archive, drive
from zoo.files.connection import Line, session
from zoo.files.parts import MOST_VALIDATOR, Note, Part

if TYPE_CHECKING:
    import requests

MOST_REDIRECTS = 10
MOST_TOLD = 200  # characters of what a server says, in a message


@dataclass(frozen=True)
class Limits:
    """How patient to be with a server. Seconds, bytes per second, bytes."""

    connect: float = 15
    read: float = 30  # without a single byte
    answer: float = 60  # until the headers are complete, redirects included
    window: float = 30  # over so long ...
    slowest: float = 1024  # ... a body has to come at least this fast
    tries: int = 4  # requests in a row that bring less than `progress`
    progress: int = 1 << 20
    pause: float = 1  # before the second try; doubles after that
    largest: int = archive.LIMIT  # where no size is published


@dataclass(frozen=True)
class Job:
    """What is being downloaded: where from, under which name to show it, and its size where that is published."""

    url: str
    name: str
    size: int | None
    bar: bool | None  # None: on a terminal
    limits: Limits
    secure: bool = False  # over https all the way: nothing else speaks for the bytes


class MirrorFailed(Exception):
    """This mirror does not give the file; its text says why."""


class _Again(Exception):
    """This request failed in a way that another one may not."""

    def __init__(self, reason: str, wait: float = 0) -> None:
        super().__init__(reason)
        self.wait = wait


def download(job: Job, part: Part) -> bool:
    """Makes `part` the complete body; says whether bytes of an earlier run are in it.

    Raises MirrorFailed, and OSError where the part cannot be written.
    """
    resumed = part.size > 0
    tries, pause = 0, job.limits.pause
    line = Line()
    with session(line) as client:
        while True:
            before = part.size
            try:
                _request(client, line, job, part)
                return resumed
            except _Again as failure:
                if part.size - before >= job.limits.progress:
                    tries, pause = 0, job.limits.pause
                tries += 1
                if tries >= job.limits.tries:
                    raise MirrorFailed(f"{failure} (tried {tries} times)") from failure
                time.sleep(max(pause, min(failure.wait, 60)))
                pause *= 2
            finally:
                line.let_go()


def _request(client: requests.Session, line: Line, job: Job, part: Part) -> None:
    """One request, for all that is missing. The part keeps what came."""
    have, note = part.size, part.note
    if have and have in (note.total, None if note.encoding else job.size):
        return  # the last run ended between the last byte and the proof
    headers = {"Range": f"bytes={have}-", "If-Range": note.validator} if have and note.validator else {}
    with contextlib.closing(_open(client, line, job, headers)) as response:
        if headers and response.status_code == 416 and response.headers.get("Content-Range") == f"bytes */{have}":
            return  # nothing is missing; the first answer did not say how long the body is
        sent = _continuation(response, part, have) if response.status_code == 206 else None
        if sent is None:
            sent = _beginning(response, part)
            if job.size is not None and not sent.encoding and sent.total not in (None, job.size):
                raise MirrorFailed(f"offers {sent.total:,} bytes; {job.size:,} are expected")
            if (sent.total or 0) > _most(job, sent):
                raise MirrorFailed(f"offers {sent.total:,} bytes; at most {_most(job, sent):,} are expected")
            part.start(sent)
        if (sent.total or 0) - part.size > shutil.disk_usage(part.path.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _receive(response, line, job, part, sent)


def _most(job: Job, sent: Note) -> int:
    """How many bytes a body may have: packed in flight, a file grows by less than a hundredth."""
    if job.size is None:
        return job.limits.largest
    return job.size + (job.size // 100 + (1 << 16) if sent.encoding else 0)


def _beginning(response: requests.Response, part: Part) -> Note:
    """What an answer that starts from the first byte says of itself, if it is the file at all."""
    status, reason = response.status_code, _told(response.reason)
    if status == 416:
        part.discard()
        raise _Again("HTTP 416: the server has fewer bytes than came before")
    if status in (408, 425, 429) or status >= 500:
        raise _Again(f"HTTP {status} {reason}", _number(response.headers.get("Retry-After", "")) or 0)
    if status != 200:
        raise MirrorFailed(f"HTTP {status} {reason}")
    if _is_page(response):
        raise MirrorFailed("returned a web page instead of the file")
    return _note_of(response)


def _continuation(response: requests.Response, part: Part, have: int) -> Note:
    """The note of the part that a 206 goes on with, if it does."""
    note = part.note
    found = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", response.headers.get("Content-Range", ""))
    total = _number(found[2]) if found else None
    same = found and int(found[1]) == have and (total == note.total or None in (total, note.total))
    if not same or _note_of(response).validator not in ("", note.validator):
        part.discard()
        raise _Again("the server goes on with another file than it began with")
    return note


def _note_of(response: requests.Response) -> Note:
    tag = response.headers.get("ETag", "")
    validator = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")  # W/"..." proves no bytes
    if len(validator) > MOST_VALIDATOR or not (validator.isascii() and validator.isprintable()):
        validator = ""  # it could not be sent back as it came
    encoding = response.headers.get("Content-Encoding", "").strip().lower()[:MOST_TOLD]
    return Note(validator, _number(response.headers.get("Content-Length", "")), "" if encoding == "identity" else encoding)


def _receive(response: requests.Response, line: Line, job: Job, part: Part, sent: Note) -> None:
    from tqdm import tqdm
    from urllib3.exceptions import HTTPError

    have, limit = part.size, _most(job, sent)
    hide = None if job.bar is None else not job.bar
    with (
        tqdm(total=sent.total, initial=have, desc=job.name, unit="B", unit_scale=True, disable=hide) as bar,
        line.watched(job.limits.window, job.limits.slowest) as watch,
        part.appending() as out,
    ):
        while True:
            try:
                # read1 returns what is there; read would wait for a whole block, for ever on a trickling line.
                block = response.raw.read1(disk.BLOCK, decode_content=False)
            except (HTTPError, OSError, ValueError) as error:  # ValueError: a chunk's length that is no number
                if watch.rate is not None:
                    break
                raise _Again(f"the connection broke after {have:,} bytes ({type(error).__name__})") from error
            if not block:
                break
            if not have and (found := stand_in(block[:512])):
                part.discard()
                raise MirrorFailed(f"sent {found}")
            have += len(block)
            if have > limit:
                part.discard()
                raise MirrorFailed(f"sent more than the expected {limit:,} bytes")
            out.write(block)
            bar.update(len(block))
            watch.came += len(block)
    if watch.rate is not None:
        raise _Again(f"sends only {watch.rate:,.0f} bytes per second")
    if sent.total is not None and have != sent.total:
        raise _Again(f"the body ended after {have:,} of {sent.total:,} bytes")


def _open(client: requests.Session, line: Line, job: Job, headers: dict[str, str]) -> requests.Response:
    """The answer's headers, with the body still to be read; behind Google Drive's page where there is one."""
    import requests
    from urllib3.exceptions import HTTPError

    limits = job.limits

    def get(url: str, extra: dict[str, str]) -> requests.Response:
        return line.within(limits.answer, lambda: _follow(client, job, url, headers | extra))

    def page(response: requests.Response) -> str:
        with contextlib.closing(response):
            return line.within(limits.answer, lambda: _text(response))

    try:
        if not drive.is_drive(job.url):
            return get(job.url, {})
        address, extra = drive.direct(job.url)
        response = get(address, extra)
        if _is_page(response):
            response = get(drive.confirmed(page(response), response.url), extra)
        if _is_page(response):  # drive.confirmed raises with what the second page says
            drive.confirmed(page(response), response.url)
        return response
    except (ValueError, requests.exceptions.SSLError) as error:
        raise MirrorFailed(_told(error)) from error
    except (requests.RequestException, HTTPError, TimeoutError, OSError) as error:
        raise _Again(f"no answer: {_told(_cause(error))}") from error


def _follow(client: requests.Session, job: Job, url: str, headers: dict[str, str]) -> requests.Response:
    """The answer at the end of the redirects, whose bodies are not read. Raises ValueError where they lead nowhere."""
    for _ in range(MOST_REDIRECTS + 1):
        if job.secure and urlsplit(url).scheme.lower() != "https":
            raise ValueError(f"leads to {_told(url)}, which is not https, and no checksum would show what was changed on the way")
        response = client.get(url, headers=headers, stream=True, timeout=(job.limits.connect, job.limits.read), allow_redirects=False)
        target = response.headers.get("Location")
        if response.status_code not in (301, 302, 303, 307, 308) or target is None:
            return response
        response.close()
        url = urljoin(url, target.encode("latin-1", "replace").decode("utf-8", "replace"))
    raise ValueError(f"more than {MOST_REDIRECTS} redirects")


def _is_page(response: requests.Response) -> bool:
    return response.headers.get("Content-Type", "").lower().startswith("text/html")


def _text(response: requests.Response) -> str:
    """The beginning of a page."""
    page = b""
    while len(page) < disk.BLOCK and (block := response.raw.read1(disk.BLOCK, decode_content=False)):
        page += block
    if page.startswith(b"\x1f\x8b"):
        with contextlib.suppress(zlib.error):
            page = zlib.decompressobj(31).decompress(page, disk.BLOCK)
    return page[: disk.BLOCK].decode("utf-8", "replace")


def _cause(error: Exception) -> str:
    """What urllib3 says happened, without the addresses that requests repeats around it."""
    inner = error.args[0] if error.args else error
    return re.sub(r"^\w+\(host='[^']*', port=\d+\): ", "", str(getattr(inner, "reason", None) or error))


def _told(text: object) -> str:
    found = str(text)
    return found if len(found) <= MOST_TOLD else f"{found[: MOST_TOLD - 1]}…"


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None
