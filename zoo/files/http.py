"""One body over HTTP into a part file, whatever the server does: resumed, bounded in time and size, never trusted.

Own code, on requests, because what it has to withstand is the point: see tests/zoo/files/test_fetching.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeVar

from converter.files import stand_in
from zoo import disk
from zoo.files import archive, drive
from zoo.files.parts import Note, Part

if TYPE_CHECKING:
    import requests

T = TypeVar("T")


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
    import requests

    resumed = part.size > 0
    tries, pause = 0, job.limits.pause
    with requests.Session() as session:
        session.max_redirects = 10
        session.headers.update({"Accept-Encoding": "identity", "User-Agent": "caffezoo"})
        while True:
            before = part.size
            try:
                _request(session, job, part)
                return resumed
            except _Again as failure:
                if part.size - before >= job.limits.progress:
                    tries, pause = 0, job.limits.pause
                tries += 1
                if tries >= job.limits.tries:
                    raise MirrorFailed(f"{failure} (tried {tries} times)") from failure
                time.sleep(max(pause, min(failure.wait, 60)))
                pause *= 2


def _request(session: requests.Session, job: Job, part: Part) -> None:
    """One request, for all that is missing. The part keeps what came."""
    have, note = part.size, part.note
    if have and have in (note.total, None if note.encoding else job.size):
        return  # the last run ended between the last byte and the proof
    headers = {"Range": f"bytes={have}-", "If-Range": note.validator} if have and note.validator else {}
    with contextlib.closing(_open(session, job, headers)) as response:
        if headers and response.status_code == 416 and response.headers.get("Content-Range") == f"bytes */{have}":
            return  # nothing is missing; the first answer did not say how long the body is
        sent = _continuation(response, part, have) if response.status_code == 206 else None
        if sent is None:
            sent = _beginning(response, part)
            if job.size is not None and not sent.encoding and sent.total not in (None, job.size):
                raise MirrorFailed(f"offers {sent.total:,} bytes; {job.size:,} are expected")
            part.start(sent)
        if (sent.total or 0) - part.size > shutil.disk_usage(part.path.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _receive(response, job, part, sent)


def _beginning(response: requests.Response, part: Part) -> Note:
    """What an answer that starts from the first byte says of itself, if it is the file at all."""
    status = response.status_code
    if status == 416:
        part.discard()
        raise _Again("HTTP 416: the server has fewer bytes than came before")
    if status in (408, 425, 429) or status >= 500:
        wait = response.headers.get("Retry-After", "")
        raise _Again(f"HTTP {status} {response.reason}", float(wait) if wait.isdigit() else 0)
    if status != 200:
        raise MirrorFailed(f"HTTP {status} {response.reason}")
    if _is_page(response):
        raise MirrorFailed("returned a web page instead of the file")
    return _note_of(response)


def _continuation(response: requests.Response, part: Part, have: int) -> Note:
    """The note of the part that a 206 goes on with, if it does."""
    note = part.note
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    total = _number(found[2]) if found else None
    same = found and int(found[1]) == have and (total == note.total or None in (total, note.total))
    if not same or _note_of(response).validator not in ("", note.validator):
        part.discard()
        raise _Again("the server goes on with another file than it began with")
    return note


def _note_of(response: requests.Response) -> Note:
    tag = response.headers.get("ETag", "")
    validator = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")  # W/"..." proves no bytes
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    total = _number(response.headers.get("Content-Length", ""))
    return Note(validator, total, "" if encoding == "identity" else encoding)


def _receive(response: requests.Response, job: Job, part: Part, sent: Note) -> None:
    from tqdm import tqdm
    from urllib3.exceptions import HTTPError

    limits, have = job.limits, part.size
    limit = job.limits.largest if job.size is None or sent.encoding else job.size
    hide = None if job.bar is None else not job.bar
    with (
        tqdm(total=sent.total, initial=have, desc=job.name, unit="B", unit_scale=True, disable=hide) as bar,
        part.path.open("ab") as out,
    ):
        since, came = time.monotonic(), 0
        while True:
            try:
                # read1 returns what is there; read would wait for a whole block, for ever on a trickling line.
                block = response.raw.read1(disk.BLOCK, decode_content=False)
            except (HTTPError, OSError) as error:
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
            came, passed = came + len(block), time.monotonic() - since
            if passed > limits.window:
                if came < limits.slowest * passed:
                    raise _Again(f"sends only {came / passed:,.0f} bytes per second")
                since, came = time.monotonic(), 0
    if sent.total is not None and have != sent.total:
        raise _Again(f"the body ended after {have:,} of {sent.total:,} bytes")


def _open(session: requests.Session, job: Job, headers: dict[str, str]) -> requests.Response:
    """The answer's headers, with the body still to be read; behind Google Drive's page where there is one."""
    import requests
    from urllib3.exceptions import HTTPError

    limits = job.limits

    def get(url: str, extra: dict[str, str]) -> requests.Response:
        timeout = (limits.connect, limits.read)
        return _within(limits.answer, lambda: session.get(url, headers=headers | extra, stream=True, timeout=timeout))

    try:
        if not drive.is_drive(job.url):
            return get(job.url, {})
        address, extra = drive.direct(job.url)
        response = get(address, extra)
        if _is_page(response):
            response = get(drive.confirmed(_page(response, limits), response.url), extra)
        if _is_page(response):  # drive.confirmed raises with what the second page says
            drive.confirmed(_page(response, limits), response.url)
        return response
    except (ValueError, requests.TooManyRedirects, requests.exceptions.SSLError) as error:
        raise MirrorFailed(str(error)) from error
    except (requests.RequestException, HTTPError, TimeoutError) as error:
        raise _Again(f"no answer: {error}") from error


def _is_page(response: requests.Response) -> bool:
    return response.headers.get("Content-Type", "").lower().startswith("text/html")


def _page(response: requests.Response, limits: Limits) -> str:
    page = _within(limits.answer, lambda: response.raw.read(disk.BLOCK, decode_content=True))
    return page.decode("utf-8", "replace")


def _within(seconds: float, call: Callable[[], T]) -> T:
    """call(), or TimeoutError: a server that sends its headers byte by byte never trips a socket's timeout."""
    outcome: list[Callable[[], T]] = []

    def run() -> None:
        try:
            value = call()
            outcome.append(lambda: value)
        except Exception as error:
            caught = error

            def fail() -> NoReturn:
                raise caught

            outcome.append(fail)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no complete answer within {seconds:.0f} s")
    return outcome[0]()


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None
