"""Downloads that are killed at any moment: what is there is whole, what is left is gone on with, and nothing piles up."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import misbehaving as bad
import pytest
from misbehaving import Server

from zoo.files import parts, store

ROOT = Path(__file__).parents[3]
BODY = random.Random(11).randbytes(1_500_000)
SHA256 = hashlib.sha256(BODY).hexdigest()

# Imports once, and forks a process for every download.
NURSERY = """
import json, os, sys
import requests, tqdm, urllib3
from pathlib import Path
from zoo.cards.record import Archive, Checksum, File, Mirror
from zoo.files.fetch import obtain
from zoo.files.http import Limits
for line in sys.stdin:
    place, url, member, sha256 = json.loads(line)
    pid = os.fork()
    if not pid:
        known = (Checksum("sha256", sha256, "this test"),) if sha256 else ()
        file = File("net.caffemodel", (Mirror(url, Archive(member) if member else None),), None, known)
        try:
            obtain(file, Path(place), limits=Limits(pause=0.01, progress=50_000), progress=False, allow_unverified_http=True)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Nursery:
    def __init__(self) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", NURSERY], cwd=ROOT, **pipes)  # type: ignore[call-overload]

    def download(self, *arguments: str, kill_after: float | None = None) -> int:
        """The exit status of a download that is killed after so many seconds, if it is still there."""
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return int(self.process.stdout.readline())


@contextmanager
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    try:
        yield made
    finally:
        made.process.stdin.close()
        made.process.wait()
        made.process.stdout.close()


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as archive:
        info = tarfile.TarInfo("net/net.caffemodel")
        info.size = len(BODY)
        archive.addfile(info, io.BytesIO(BODY))
    return out.getvalue()


# What is fetched: (its bytes on the server, the member inside, the published checksum).
KINDS = {
    "a file": (BODY, "", SHA256),
    "a file that nothing proves": (BODY, "", ""),
    "an archive": (tar(), "net/net.caffemodel", SHA256),
}


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("rounds", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_downloads_that_are_killed_end_as_if_they_had_not_been(rounds: int, server: Server, tmp_path: Path) -> None:
    draw = random.Random(rounds)
    kills = left = 0
    with nursery() as children:
        for number in range(rounds):
            kind = list(KINDS)[number % len(KINDS)]
            packed, member, sha256 = KINDS[kind]
            place = tmp_path / f"{number}"
            url = server.serve(f"/{number}", packed, pace=0.004)
            for _ in range(draw.randint(1, 4)):
                server.resources[f"/{number}"].faults = draw.choice(([], [bad.truncated(draw.randrange(len(packed)))], [bad.status(503)]))
                kills += children.download(str(place), url, member, sha256, kill_after=draw.uniform(0, 0.35)) == -signal.SIGKILL
                whole(place)
            server.resources[f"/{number}"].faults = []
            assert children.download(str(place), url, member, sha256) == 0, (kind, number)
            assert whole(place), (kind, number)
            rest = {path for path in place.iterdir() if path.name not in (".lock", "net.caffemodel", "net.caffemodel.receipt.json")}
            # Killed between the rename and the sweeping: `caffe-zoo clean` knows what that left.
            assert rest <= set(parts.leftovers(place)), (kind, number, rest)
            left += bool(rest)
    assert kills >= rounds // 2, "the machine was too quick, or too slow, for the kills to mean anything"
    assert left <= max(2, rounds // 4)


def whole(place: Path) -> bool:
    """Whether the file is there; it is right if it is, and its receipt speaks of it."""
    path = place / "net.caffemodel"
    if not path.exists():
        return False
    assert path.read_bytes() == BODY
    receipt = store.receipt_of(path)
    assert receipt is not None
    assert (receipt.size, receipt.sha256) == (len(BODY), SHA256)
    return True
