"""Against a server that misbehaves: nothing corrupt reaches the cache, and nothing complete is lost."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import misbehaving as bad
import pytest
from limits import file_size_limit
from misbehaving import Server, wait_until

from zoo import disk
from zoo.cards.record import Checksum, File, Mirror
from zoo.errors import CacheError, FetchError, Offline, Unverified
from zoo.files import drive, http, parts, store
from zoo.files.fetch import obtain
from zoo.files.http import Job, Limits

BODY = random.Random(7).randbytes(300_000)
OTHER = random.Random(8).randbytes(300_000)
QUICK = Limits(connect=5, read=10, answer=10, tries=3, progress=50_000, pause=0.01)
HASTY = Limits(connect=5, read=1, answer=0.5, window=0.3, slowest=10_000, tries=3, progress=50_000, pause=0.01)
SLOW = {bad.slow_body, bad.slow_headers, bad.silent}
ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("home")


def file_at(*urls: str, body: bytes = BODY, proven: bool = True) -> File:
    known = (Checksum("sha256", hashlib.sha256(body).hexdigest(), "this test"),) if proven else ()
    return File("net.caffemodel", tuple(map(Mirror, urls)), len(body) if proven else None, known)


def get(place: Path, *urls: str, limits: Limits = QUICK) -> Path:
    return obtain(file_at(*urls), place, limits=limits, progress=False)


def litter(place: Path) -> list[str]:
    """What lies in the folder besides finished files and the lock."""
    return sorted(path.name for path in place.glob(".*") if path.name != ".lock")


# Each row: what the server does, and how many requests it takes to get the file in spite of it.
RECOVERED = {
    "an honest server": ([], 1),
    "a truncated body": ([bad.truncated(100_000)], 2),
    "a body truncated at every megabyte, or sooner": ([bad.truncated(60_000)] * 4, 5),
    "a body truncated before its first byte": ([bad.truncated(0)], 2),
    "503, then the file": ([bad.status(503, Retry_After="0")], 2),
    "503 in the middle": ([bad.truncated(100_000), bad.status(503)], 3),
    "429 with no hint": ([bad.status(429)], 2),
    "416 to a resume": ([bad.truncated(100_000), bad.status(416)], 3),
    "no ranges": ([bad.truncated(100_000), bad.without_ranges], 2),
    "no Content-Length": ([bad.without_length()], 1),
    "a chunked body": ([bad.chunked()], 1),
    "a chunked body that ends early": ([bad.chunked(after=90_000)], 2),
    "gzip in flight, though identity was asked for": ([bad.gzipped], 1),
    "a false claim of gzip": ([bad.labelled_gzip], 1),
    "gzip in flight in the middle of a resume": ([bad.truncated(100_000), bad.gzipped], 2),
    "a body that trickles": ([bad.slow_body], 2),
    "headers that trickle": ([bad.slow_headers], 2),
    "silence": ([bad.silent], 2),
}


@pytest.mark.parametrize(("faults", "requests"), RECOVERED.values(), ids=RECOVERED.keys())
def test_the_file_comes_whole_in_spite_of(faults: list[bad.Fault], requests: int, server: Server, tmp_path: Path) -> None:
    slow = bool(SLOW & set(faults))
    path = get(tmp_path, server.serve("/net", BODY, *faults), limits=HASTY if slow else QUICK)
    assert path.read_bytes() == BODY
    # On a busy machine an honest answer can come too late for the hasty limits, and is asked for again.
    assert len(server.log) == requests or (slow and len(server.log) > requests)
    assert not litter(tmp_path)


# Each row: what the only mirror does for ever, and what the error says of it.
REFUSED = {
    "a web page with status 200": (bad.web_page(), "web page"),
    "a web page that calls itself a file": (bad.web_page(kind="application/octet-stream"), "offers 38 bytes"),
    "a web page without a length": (
        lambda handler, resource: (handler.begin(200, {}), handler.send(b"\n<HTML>" + b" " * 300_000)),
        "web page",
    ),
    "404": (bad.status(404), "HTTP 404"),
    "503 without end": (bad.status(503), r"HTTP 503 .*tried 3 times"),
    "a redirect loop": (bad.redirect("/net"), "redirects"),
    "a redirect into the filesystem": (bad.redirect("file:///etc/passwd"), "no connection adapters|No connection"),
    "another file of the same size": (bad.changed(OTHER, '"other"'), "not the published bytes"),
    "a shorter file": (bad.changed(BODY[:-1], '"short"'), "offers 299,999 bytes"),
    "a shorter file of unknown length": (
        bad.changed(BODY[:-1], '"short"', bad.without_length()),
        "299,999 bytes; 300,000",
    ),
    "a longer file of unknown length": (bad.changed(BODY * 2, '"long"', bad.without_length()), "sent more than"),
    "damaged gzip in flight": (bad.changed(b"\x1f\x8b" + OTHER, '"x"', bad.labelled_gzip), "gzip-encoded body is damaged"),
    "a body that always trickles": (bad.slow_body, r"bytes per second"),
    "silence for ever": (bad.silent, "no answer"),
}


def test_where_nobody_listens_the_reason_is_told_without_the_address_a_second_time(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"no answer: Failed to establish a new connection: .*[Rr]efused") as failure:
        get(tmp_path / "alone", "http://127.0.0.1:9/net", limits=QUICK)
    assert str(failure.value).count("127.0.0.1") == 1


@pytest.mark.parametrize(("fault", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_mirror_is_given_up_and_the_next_one_asked_for(fault: bad.Fault, reason: str, server: Server, tmp_path: Path) -> None:
    limits = HASTY if fault in SLOW else QUICK
    wrong = server.serve("/net", BODY, *[fault] * 20)
    with pytest.raises(FetchError, match=reason) as failure:
        get(tmp_path / "alone", wrong, limits=limits)
    assert wrong in str(failure.value)
    assert "zoo.add('alone', path)" in str(failure.value)
    assert not (tmp_path / "alone" / "net.caffemodel").exists()

    server.resources["/net"] = bad.Resource(BODY, faults=[fault] * 20)
    assert get(tmp_path / "both", wrong, server.serve("/good", BODY), limits=limits).read_bytes() == BODY


def test_a_dead_host_is_given_up_for_the_next_mirror(server: Server, tmp_path: Path) -> None:
    closed = "http://127.0.0.1:9/net"
    assert get(tmp_path, closed, server.serve("/net", BODY)).read_bytes() == BODY


def test_a_resume_asks_for_the_rest_under_the_same_etag(server: Server, tmp_path: Path) -> None:
    get(tmp_path, server.serve("/net", BODY, bad.truncated(100_000)))
    first, second = server.log
    assert first.headers["Accept-Encoding"] == "identity"
    assert "Range" not in first.headers
    assert second.headers["Range"] == "bytes=100000-"
    assert second.headers["If-Range"] == '"v1"'
    assert (second.status, second.sent) == (206, 200_000)


def test_a_weak_etag_is_not_resumed_under(server: Server, tmp_path: Path) -> None:
    url = server.serve("/net", BODY, bad.truncated(100_000), etag='W/"v1"')
    assert get(tmp_path, url).read_bytes() == BODY
    assert "Range" not in server.log[1].headers


def test_a_file_that_changes_midway_is_fetched_from_its_first_byte(server: Server, tmp_path: Path) -> None:
    url = server.serve("/net", OTHER, bad.truncated(100_000), bad.changed(BODY, '"v2"'))
    assert get(tmp_path, url).read_bytes() == BODY
    assert [entry.status for entry in server.log] == [200, 200]


def test_a_server_that_ignores_if_range_does_not_mix_two_files(server: Server, tmp_path: Path) -> None:
    url = server.serve("/net", OTHER, bad.truncated(100_000), bad.changed(BODY, '"v2"', bad.ignoring_the_condition))
    assert get(tmp_path, url).read_bytes() == BODY
    assert [entry.status for entry in server.log] == [200, 206, 200]


def test_a_resumed_file_that_is_wrong_is_fetched_once_more_from_its_first_byte(server: Server, tmp_path: Path) -> None:
    """The part of an earlier run is damaged on disk (a power cut, say); the server is honest."""
    url = server.serve("/net", BODY, *[bad.truncated(100_000), bad.status(503), bad.status(503)])
    with pytest.raises(FetchError):
        get(tmp_path, url)
    (part,) = tmp_path.glob(".*.part")
    part.write_bytes(bytes(100_000))
    assert get(tmp_path, url).read_bytes() == BODY
    assert server.log[-2].status == 206
    assert "Range" not in server.log[-1].headers


def test_what_came_before_a_failure_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    url = server.serve("/net", BODY, bad.truncated(250_000), *[bad.status(503)] * 3)
    with pytest.raises(FetchError):
        get(tmp_path, url)
    assert litter(tmp_path) != []
    assert get(tmp_path, url).read_bytes() == BODY
    assert server.log[-1].sent == 50_000
    assert not litter(tmp_path)


@pytest.mark.parametrize("length_known", [True, False])
def test_a_body_that_is_complete_but_not_yet_proven_is_not_fetched_again(length_known: bool, server: Server, tmp_path: Path) -> None:
    url = server.serve("/net", BODY)
    with parts.claim(tmp_path, "net.caffemodel", url) as part:
        part.start(parts.Note('"v1"', len(BODY) if length_known else None))
        part.path.write_bytes(BODY)
    sha1 = hashlib.sha1(BODY).hexdigest()
    file = File("net.caffemodel", (Mirror(url),), None, (Checksum("sha1", sha1, "this test"),))
    assert obtain(file, tmp_path, limits=QUICK).read_bytes() == BODY
    assert sum(entry.sent for entry in server.log) == 0


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha1", "md5", "git-blob-sha1"])
def test_each_kind_of_checksum_proves_and_refuses(algorithm: str, server: Server, tmp_path: Path) -> None:
    if algorithm == "git-blob-sha1":
        command = ["git", "hash-object", "--stdin"]
        value = subprocess.run(command, input=BODY, capture_output=True, check=True).stdout.decode().strip()
    else:
        value = hashlib.new(algorithm, BODY).hexdigest()
    url = server.serve("/net", BODY)
    wrong = value[:-1] + ("0" if value[-1] != "0" else "1")
    for claim, agrees in ((value, True), (wrong, False)):
        known = (Checksum(algorithm, claim, "this test"),)  # type: ignore[arg-type]
        file = File("net.caffemodel", (Mirror(url),), None, known)
        if agrees:
            assert obtain(file, tmp_path / "right", limits=QUICK).exists()
        else:
            with pytest.raises(FetchError, match=f"{algorithm} is {value}"):
                obtain(file, tmp_path / "wrong", limits=QUICK)
            assert not (tmp_path / "wrong" / "net.caffemodel").exists()


def test_all_published_checksums_have_to_agree(server: Server, tmp_path: Path) -> None:
    claims = (
        Checksum("sha256", hashlib.sha256(BODY).hexdigest(), "one publisher"),
        Checksum("md5", hashlib.md5(OTHER).hexdigest(), "another publisher"),
    )
    file = File("net.caffemodel", (Mirror(server.serve("/net", BODY)),), None, claims)
    with pytest.raises(FetchError, match="another publisher"):
        obtain(file, tmp_path, limits=QUICK)


def test_a_cache_hit_asks_nobody_writes_nothing_and_takes_under_a_millisecond(server: Server, tmp_path: Path) -> None:
    url = server.serve("/net", BODY)
    get(tmp_path, url)
    (tmp_path / ".lock").unlink()
    before = {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.iterdir()]}
    times = []
    for _ in range(50):
        start = time.process_time()
        get(tmp_path, url)
        times.append(time.process_time() - start)
    assert len(server.log) == 1
    assert {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.iterdir()]} == before
    assert sorted(times)[25] < 1e-3


@pytest.mark.parametrize("damage", ["truncated", "without a receipt", "another version"])
def test_a_cached_file_that_lost_its_proof_is_proven_again_or_replaced(damage: str, server: Server, tmp_path: Path) -> None:
    url = server.serve("/net", BODY)
    path = get(tmp_path, url)
    receipt = path.with_name("net.caffemodel.receipt.json")
    if damage == "truncated":
        path.write_bytes(BODY[:1000])
    elif damage == "without a receipt":
        receipt.unlink()
    else:
        receipt.write_text(receipt.read_text().replace(hashlib.sha256(BODY).hexdigest(), "0" * 64))
    assert get(tmp_path, url).read_bytes() == BODY
    assert len(server.log) == (2 if damage == "truncated" else 1)
    assert json.loads(receipt.read_text())["sha256"] == hashlib.sha256(BODY).hexdigest()


def test_a_file_without_a_checksum_is_refused_then_pinned(server: Server, tmp_path: Path) -> None:
    url = server.serve("/net", BODY)
    file = file_at(url, proven=False)
    with pytest.raises(Unverified, match="allow_unverified"):
        obtain(file, tmp_path, limits=QUICK)
    with pytest.raises(Unverified, match=r"over http, where anybody on the way can change it\..*--allow-unverified-http"):
        obtain(file, tmp_path, limits=QUICK, allow_unverified=True)
    assert not server.log

    path = obtain(file, tmp_path, limits=QUICK, allow_unverified_http=True)
    assert "pinned on first use" in json.loads(path.with_name(path.name + ".receipt.json").read_text())["proof"]
    assert obtain(file, tmp_path, limits=QUICK) == path

    path.unlink()
    server.serve("/net", OTHER)
    with pytest.raises(FetchError, match="pinned on first use"):
        obtain(file, tmp_path, limits=QUICK)
    assert not path.exists()
    server.serve("/net", BODY)
    assert obtain(file, tmp_path, limits=QUICK).read_bytes() == BODY


def test_of_https_and_http_only_https_is_asked_without_a_checksum(server: Server, tmp_path: Path) -> None:
    """And an https mirror that leads to http is not followed there."""
    secure = "https://127.0.0.1:9/net"
    file = file_at(secure, server.serve("/net", BODY), proven=False)
    with pytest.raises(FetchError, match=secure) as failure:
        obtain(file, tmp_path, limits=QUICK, allow_unverified=True)
    assert server.url("") not in str(failure.value)
    assert not server.log


def test_without_a_checksum_no_redirect_leads_away_from_https(server: Server) -> None:
    job = Job("https://example.org/net", "net", None, False, QUICK, secure=True)

    class Redirecting:
        def get(self, url: str, **_: object) -> object:
            assert url == job.url
            return SimpleNamespace(status_code=302, headers={"Location": server.url("/net")}, close=lambda: None)

    with pytest.raises(ValueError, match="not https"):
        http._follow(Redirecting(), job, job.url, {})  # type: ignore[arg-type]


def test_offline_mode_serves_hits_and_names_misses(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.serve("/net", BODY)
    get(tmp_path, url)
    monkeypatch.setenv("CAFFEZOO_OFFLINE", "1")
    assert get(tmp_path, url).exists()
    with pytest.raises(Offline, match="CAFFEZOO_OFFLINE"):
        get(tmp_path / "elsewhere", url)
    assert len(server.log) == 1


def test_a_proxy_from_the_environment_is_asked(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("http_proxy", server.url(""))
    server.serve("/net", BODY)
    assert get(tmp_path, "http://models.invalid/net").read_bytes() == BODY
    assert server.log[0].path == "http://models.invalid/net"


# --- processes ---------------------------------------------------------------------------------------------------

CHILD = """
import sys, errno
from pathlib import Path
locks, place, url, sha256, size = sys.argv[1:]
if locks != "working":
    import fcntl
    def flock(handle, operation):
        if locks == "refused":
            raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = flock
from zoo.cards.record import Checksum, File, Mirror
from zoo.files.fetch import obtain
print("ready", flush=True)
sys.stdin.readline()
file = File("net.caffemodel", (Mirror(url),), int(size), (Checksum("sha256", sha256, "this test"),))
obtain(file, Path(place), progress=False)
print("done", flush=True)
"""


def start_child(place: Path, url: str, body: bytes, locks: str = "working") -> subprocess.Popen[str]:
    arguments = [locks, str(place), url, hashlib.sha256(body).hexdigest(), str(len(body))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments], cwd=ROOT, **pipes)  # type: ignore[call-overload]


@pytest.mark.parametrize("locks", ["working", "refused", "without effect"])
def test_eight_processes_at_once_get_one_good_file(locks: str, server: Server, tmp_path: Path) -> None:
    url = server.serve("/net", BODY, pace=0.05)
    children = [start_child(tmp_path, url, BODY, locks) for _ in range(8)]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        assert child.communicate(timeout=600)[0] == "done\n"
        assert child.returncode == 0
    assert (tmp_path / "net.caffemodel").read_bytes() == BODY
    assert not litter(tmp_path)
    if locks == "working":
        assert len(server.log) == 1


@pytest.mark.parametrize("locks", ["working", "refused", "without effect"])
def test_a_download_that_was_killed_is_resumed_by_the_next_process(locks: str, server: Server, tmp_path: Path) -> None:
    body = BODY * 7
    url = server.serve("/net", body, pace=0.03)
    child = start_child(tmp_path, url, body, locks)
    child.stdin.write("go\n")
    child.stdin.flush()

    def arrived() -> int:
        return max((path.stat().st_size for path in tmp_path.glob(".*.part")), default=0)

    wait_until(lambda: arrived() > 500_000)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=600)
    kept = arrived()
    assert not (tmp_path / "net.caffemodel").exists()

    second = start_child(tmp_path, url, body, locks)
    assert second.communicate("go\n", timeout=600)[0] == "ready\ndone\n"
    assert (tmp_path / "net.caffemodel").read_bytes() == body
    assert server.log[-1].headers["Range"] == f"bytes={kept}-"
    assert server.log[-1].sent == len(body) - kept
    assert not litter(tmp_path)


def test_a_living_owners_part_is_left_alone_and_a_dead_ones_is_adopted_once(tmp_path: Path) -> None:
    url = "http://example.org/net"
    with parts.claim(tmp_path, "net", url) as mine:
        mine.start(parts.Note('"v1"', 10))
        mine.path.write_bytes(b"12345")
        with parts.claim(tmp_path, "net", url) as theirs:
            assert theirs.size == 0
        # The owner dies without a word: its name stays, its process does not.
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        dead = mine.path.with_name(mine.path.name.replace(f"~{os.getpid()}~", f"~{gone.pid}~"))
        mine.path.rename(dead)
        mine.path.with_suffix(".note").rename(dead.with_suffix(".note"))
    with parts.claim(tmp_path, "net", url) as first, parts.claim(tmp_path, "net", url) as second:
        assert (first.size, first.note) == (5, parts.Note('"v1"', 10))
        assert second.size == 0


def test_the_part_of_another_host_is_adopted_after_a_long_silence(tmp_path: Path) -> None:
    url = "http://example.org/net"
    with parts.claim(tmp_path, "net", url) as mine:
        mine.path.write_bytes(b"12345")
    foreign = mine.free.with_name(mine.free.name.replace(".part", ".elsewhere~1~abcd.part"))
    mine.free.rename(foreign)
    with parts.claim(tmp_path, "net", url) as part:
        assert part.size == 0
    long_ago = time.time() - 2 * parts.ABANDONED
    os.utime(foreign, (long_ago, long_ago))
    with parts.claim(tmp_path, "net", url) as part:
        assert part.size == 5


def test_a_finished_download_sweeps_up_what_killed_processes_left_of_it(server: Server, tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, living = (tmp_path / f".net.caffemodel.abc.{parts._host()}~{pid}~1.part" for pid in (gone.pid, os.getpid()))
    other = tmp_path / ".another.caffemodel.abc.part"
    for path in (dead, dead.with_suffix(".note"), living, living.with_suffix(".note"), other):
        path.write_bytes(b"{}")
    get(tmp_path, server.serve("/net", BODY))
    assert litter(tmp_path) == sorted([other.name, living.name, living.with_suffix(".note").name])


# --- the disk ----------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_leaves_a_part_that_the_next_run_goes_on_with(server: Server, tmp_path: Path) -> None:
    url = server.serve("/net", BODY)
    with file_size_limit(100_000), pytest.raises(CacheError, match="full"):
        get(tmp_path, url)
    assert not (tmp_path / "net.caffemodel").exists()
    assert get(tmp_path, url).read_bytes() == BODY
    assert server.log[-1].headers["Range"] == "bytes=100000-"


def test_a_file_that_does_not_fit_is_refused_before_it_is_fetched(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.serve("/net", BODY)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CacheError, match="full"):
        get(tmp_path, url, server.serve("/second", BODY))
    assert [entry.path for entry in server.log] == ["/net"]  # another mirror would not help
    assert not list(tmp_path.glob("net*"))


def test_no_space_while_the_receipt_is_written_leaves_no_file_under_its_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.serve("/net", BODY)
    honest = disk.write_json

    def full(path: Path, value: object) -> None:
        if path.name.endswith(".receipt.json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(path, value)

    with monkeypatch.context() as patched, pytest.raises(CacheError, match="full"):
        patched.setattr(store, "write_json", full)
        get(tmp_path, url)
    assert not (tmp_path / "net.caffemodel").exists()
    assert get(tmp_path, url).read_bytes() == BODY
    assert len(server.log) == 1  # the body was complete


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of a user without root's power to write anywhere."""
    place = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    if root:
        os.chown(place, 65534, -1)
        os.seteuid(65534)
    yield place
    if root:
        os.seteuid(0)
    shutil.rmtree(place)


def test_a_read_only_cache_serves_hits_and_explains_misses(server: Server, unprivileged: Path) -> None:
    place = unprivileged / "model"
    url = server.serve("/net", BODY)
    get(place, url)
    place.chmod(0o555)
    unprivileged.chmod(0o555)
    try:
        assert get(place, url).read_bytes() == BODY
        for miss in (unprivileged / "another", place):
            file = File("missing.caffemodel", (Mirror(url),), len(BODY), file_at(url).checksums)
            with pytest.raises(CacheError, match="CAFFEZOO_HOME"):
                obtain(file, miss, limits=QUICK)
        assert len(server.log) == 1
    finally:
        unprivileged.chmod(0o755)
        place.chmod(0o755)


# --- Google Drive ------------------------------------------------------------------------------------------------

CONFIRM = """<!DOCTYPE html><html><body>Google Drive can't scan this file for viruses.
<form id="download-form" action="/confirmed" method="get"><input type="submit" value="Download anyway"/>
<input type="hidden" name="id" value="ID"><input type="hidden" name="confirm" value="t&amp;x">
<input type="hidden" name="uuid" value="1-2"></form></body></html>"""
QUOTA = "<html><head><title>Google Drive - Quota exceeded</title></head></html>"


@pytest.fixture
def google(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(drive, "ENDPOINT", server.url("/download"))
    monkeypatch.setattr(drive, "HOSTS", frozenset({"drive.google.com", server.url("").removeprefix("http://")}))
    return server


def test_google_drive_gives_the_file_at_once(google: Server, tmp_path: Path) -> None:
    google.serve("/download", BODY)
    url = "https://drive.google.com/open?id=ID&resourcekey=0-key"
    assert get(tmp_path, url).read_bytes() == BODY
    assert google.log[0].path == "/download?id=ID&export=download&confirm=t&resourcekey=0-key"
    assert google.log[0].headers["X-Goog-Drive-Resource-Keys"] == "ID/0-key"


def test_google_drives_confirmation_page_is_answered_and_the_file_resumed(google: Server, tmp_path: Path) -> None:
    google.serve("/download", b"", *[bad.web_page(CONFIRM)] * 2)
    google.serve("/confirmed", BODY, bad.truncated(100_000))
    assert get(tmp_path, "https://drive.google.com/file/d/ID/view?usp=sharing").read_bytes() == BODY
    assert [entry.path for entry in google.log][:2] == [
        "/download?id=ID&export=download&confirm=t",
        "/confirmed?id=ID&confirm=t%26x&uuid=1-2",
    ]
    assert google.log[-1].headers["Range"] == "bytes=100000-"


@pytest.mark.parametrize(
    ("pages", "reason"),
    [
        ([QUOTA], "quota"),
        ([CONFIRM, QUOTA], "quota"),
        (["<html>You need access</html>"], "private, gone, or needs a resource key"),
        ([CONFIRM.replace("/confirmed", "http://elsewhere.invalid/")], "private, gone"),
    ],
    ids=["quota", "quota behind the confirmation", "no access", "a form that leads away"],
)
def test_google_drives_other_pages_are_reported(pages: list[str], reason: str, google: Server, tmp_path: Path) -> None:
    google.serve("/download", b"", bad.web_page(pages[0]))
    google.serve("/confirmed", b"", *map(bad.web_page, pages[1:]))
    with pytest.raises(FetchError, match=reason):
        get(tmp_path, "https://drive.google.com/open?id=ID")
    assert not (tmp_path / "net.caffemodel").exists()
