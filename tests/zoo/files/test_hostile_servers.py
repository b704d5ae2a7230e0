"""Servers that draw a download out, or answer in any words at all: the next mirror is asked, and nothing is left running."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import random
import socket
import threading
from pathlib import Path
from typing import Any

import misbehaving as bad
import pytest
from bounded import results
from misbehaving import Handler, Resource, Server
from mutants import mutants

from zoo.cards import registry
from zoo.cards.record import Checksum, File, Mirror, Terms
from zoo.cli import main
from zoo.errors import FetchError
from zoo.files.fetch import obtain
from zoo.files.http import Limits

BODY = random.Random(7).randbytes(50_000)
QUICK = Limits(connect=5, read=10, answer=10, tries=2, pause=0.01)
HASTY = Limits(connect=5, read=5, answer=0.4, window=0.3, slowest=10_000, tries=2, pause=0.01)

pytestmark = pytest.mark.usefixtures("home")


def file_at(*urls: str, body: bytes = BODY) -> File:
    known = (Checksum("sha256", hashlib.sha256(body).hexdigest(), "this test"),)
    return File("net.caffemodel", tuple(map(Mirror, urls)), len(body), known)


def for_ever(handler: Handler, data: bytes, pause: float) -> None:
    while not handler.server.stopped.wait(pause):
        handler.wfile.write(data)
        handler.wfile.flush()


def raw(start: bytes, again: bytes, pause: float) -> bad.Fault:
    """These bytes, then others without end."""

    def fault(handler: Handler, resource: Resource) -> None:
        handler.wfile.write(start)
        handler.wfile.flush()
        for_ever(handler, again, pause)

    return fault


CHUNKED = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: "v1"\r\n\r\n'
WHOLE = b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY)
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
ENDLESS = {
    "trailers that trickle": raw(CHUNKED + WHOLE, b"X-A: b\r\n", 0.02),
    "trailers without end": raw(CHUNKED + WHOLE, b"X-A: b\r\n" * 500, 0),
    "a chunk's extension that trickles": raw(CHUNKED + b"5;", b"x", 0.02),
    "a chunk's extension without end": raw(CHUNKED + b"5;", b"x" * 5000, 0),
    "a chunk's length that trickles": raw(CHUNKED, b"0", 0.02),
    "an empty body that never ends": raw(PLAIN, b"", 0.02),
    "a body that trickles": raw(PLAIN + BODY[:1000], b"x", 0.02),
    "a status line that trickles": raw(b"HTTP/1.1 200 ", b"O", 0.02),
    "a header that trickles": raw(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.02),
    "headers without end": raw(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 50, 0),
    "100 Continue without end": raw(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50, 0.001),
    "100 Continue that trickles": raw(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
    "an encoded body that trickles": raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b", b"x", 0.02),
}


def test_an_endless_answer_ends(server: Server, tmp_path: Path) -> None:
    """One after the other, so that what they leave running is seen; the good mirror comes last."""
    before = set(threading.enumerate())  # the server's own, and what other tests' libraries left
    for name, fault in ENDLESS.items():
        urls = (server.serve(f"/{name.replace(' ', '-')}", BODY, *[fault] * 3), server.serve("/good", BODY))
        place = tmp_path / name
        assert obtain(file_at(*urls), place, limits=HASTY).read_bytes() == BODY, name
        assert sorted(path.name for path in place.iterdir()) == [".lock", "net.caffemodel", "net.caffemodel.receipt.json"], name
        names = [each.name for each in set(threading.enumerate()) - before]
        running = [each for each in names if each.startswith("Thread") and "process_request" not in each]
        assert not running, (name, running)


def test_a_name_server_that_answers_late_opens_no_connection(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup cannot be cut: its thread lives on until the resolver gives in, and must do nothing then."""
    answered, look_up, late = threading.Event(), socket.getaddrinfo, list[threading.Thread]()

    def slow(host: str, *arguments: Any, **more: Any) -> Any:
        if host == "slow.invalid":
            late.append(threading.current_thread())
            answered.wait(60)
        return look_up("127.0.0.1", *arguments, **more)

    monkeypatch.setattr("socket.getaddrinfo", slow)
    url = server.serve("/net", BODY)
    monkeypatch.setattr("zoo.files.connection.GRACE", 0)
    file = file_at(url.replace("127.0.0.1", "slow.invalid"), server.serve("/good", BODY))
    assert obtain(file, tmp_path, limits=HASTY).read_bytes() == BODY
    answered.set()
    for thread in late:
        thread.join(60)
    assert late
    assert [entry.path for entry in server.log] == ["/good"]


def test_the_body_of_a_redirect_is_not_read(server: Server, tmp_path: Path) -> None:
    good = server.serve("/good", BODY)
    start = b"HTTP/1.1 302 Found\r\nLocation: %s\r\n\r\n" % good.encode()
    url = server.serve("/redirect", BODY, raw(start, b"x" * 65536, 0))
    assert obtain(file_at(url), tmp_path, limits=QUICK).read_bytes() == BODY
    assert [entry.path for entry in server.log] == ["/redirect", "/good"]


# What a header may say, and whether the file comes all the same.
HEADERS: dict[str, tuple[str, str, bool]] = {
    "a superscript length": ("Content-Length", "²", True),
    "an Arabic length": ("Content-Length", "٥".encode().decode("latin-1"), True),
    "a negative length": ("Content-Length", "-5", True),
    "a length of 5000 digits": ("Content-Length", "9" * 5000, True),
    "a length of 18 digits": ("Content-Length", "9" * 18, False),
    "two lengths": ("Content-Length", "5, 7", False),
    "no length": ("Content-Length", "", True),
    "an ETag of 60 KB": ("ETag", '"' + "x" * 60_000 + '"', True),
    "an ETag in Latin-1": ("ETag", '"\xe9\x9b"', True),
    "an ETag of two lines": ("ETag", '"a\r\n b"', True),
    "an ETag that moves the cursor": ("ETag", '"\x1b[2J"', True),
    "a date that is none": ("Last-Modified", "\x00\x7f", True),
    "an encoding that nobody has": ("Content-Encoding", "x" * 60_000, True),
    "a type in Latin-1": ("Content-Type", "\xff/\xfe", True),
    "a location without a redirect": ("Location", "http://[", True),
}


# urllib3 leaves the socket of an answer with two lengths to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("name", "value", "comes"), HEADERS.values(), ids=HEADERS.keys())
def test_a_header_may_say_anything(name: str, value: str, comes: bool, server: Server, tmp_path: Path) -> None:
    def fault(handler: Handler, resource: Resource) -> None:
        handler.entry.status = 200
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + f"{name}: {value}\r\n\r\n".encode("latin-1"))
        handler.send(BODY)

    url = server.serve("/net", BODY, fault)
    assert obtain(file_at(url, server.serve("/good", BODY)), tmp_path, limits=QUICK).read_bytes() == BODY
    assert (server.log[-1].path == "/net") == comes


ANSWERS: dict[str, tuple[bytes, str]] = {
    "a wait of 5000 digits": (b"HTTP/1.1 503 no\r\nRetry-After: " + b"9" * 5000 + b"\r\n\r\n", "HTTP 503 no"),
    "a wait in superscript": ("HTTP/1.1 503 no\r\nRetry-After: ²\r\n\r\n".encode("latin-1"), "HTTP 503 no"),
    "a reason of 60 KB": (b"HTTP/1.1 404 " + b"x" * 60_000 + b"\r\n\r\n", "HTTP 404 x{199}…"),
    "no status": (b"HTTP/1.1 \r\n\r\n", "no answer"),
    "another protocol": (b"SSH-2.0-OpenSSH\r\n", "no answer"),
    "a line of 70 KB": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", "no answer"),
    "200 headers": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "no answer"),
    "a redirect to no address": (b"HTTP/1.1 302 x\r\nLocation: http://[\r\n\r\n", "Invalid"),
    "a redirect to 60 KB": (b"HTTP/1.1 302 x\r\nLocation: //" + b"x" * 60_000 + b"\r\n\r\n", "Failed to parse|label|host"),
    "a redirect in Latin-1": (b"HTTP/1.1 302 x\r\nLocation: http://\xff\xfe/\r\n\r\n", "host|label|no answer|URL"),
    "a range that is none": ("HTTP/1.1 206 x\r\nContent-Range: bytes ²-٣/*\r\n\r\n".encode(), "another file"),
    "a range of 5000 digits": (b"HTTP/1.1 206 x\r\nContent-Range: bytes 0-1/" + b"9" * 5000 + b"\r\n\r\n", "another file"),
    "a chunk of no length": (CHUNKED + b"nothing\r\n", "connection broke"),
    "a chunk of 5000 digits": (CHUNKED + b"f" * 5000 + b"\r\n", "connection broke"),
    "a chunk of a negative length": (CHUNKED + b"-5\r\nhello", "connection broke|not the published|bytes"),
}


@pytest.mark.parametrize(("answer", "reason"), ANSWERS.values(), ids=ANSWERS.keys())
def test_an_answer_in_any_words_ends_in_a_reason(
    answer: bytes, reason: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    url = server.serve("/net", BODY, *[lambda handler, resource: handler.wfile.write(answer)] * 2)
    with pytest.raises(FetchError, match=reason) as failure:
        obtain(file_at(url), tmp_path / "alone", limits=QUICK)
    assert len(str(failure.value)) < 1000
    server.resources["/net"].faults = [lambda handler, resource: handler.wfile.write(answer)] * 2
    assert obtain(file_at(url, server.serve("/good", BODY)), tmp_path / "both", limits=QUICK).read_bytes() == BODY


def test_what_a_server_says_moves_no_cursor(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    evil = b"\x1b[2J\x9b31m\xe2\x80\xae\x08"
    url = server.serve("/net", BODY, lambda handler, resource: handler.wfile.write(b"HTTP/1.1 404 " + evil + b"\r\n\r\n"))
    card = dataclasses.replace(registry.card_of("squeezenet1_1"), name="small", files=(file_at(url),), terms=Terms("free", "this test"))
    monkeypatch.setattr(registry, "CARDS", (card,))
    assert main(["fetch", "small"]) == 1
    err = capsys.readouterr().err
    assert "HTTP 404 \\x1b[2J\\x9b31m" in err
    assert all(character.isprintable() or character == "\n" for character in err)


def test_a_page_that_comes_byte_by_byte_is_not_pinned(server: Server, tmp_path: Path) -> None:
    """Without a checksum only its looks can tell, and its first bytes come alone."""

    def fault(handler: Handler, resource: Resource) -> None:
        handler.begin(200, {"Content-Type": "application/octet-stream"})
        for part in (b"<", b"!doc", b"type html><title>no</title>" + b" " * 300_000):
            handler.wfile.write(part)
            handler.wfile.flush()
            handler.server.stopped.wait(0.1)

    file = File("net.caffemodel", (Mirror(server.serve("/net", BODY, fault)),))
    with pytest.raises(FetchError, match="web page"):
        obtain(file, tmp_path, limits=QUICK, allow_unverified_http=True)
    assert not list(tmp_path.glob("net*"))


def test_a_gzip_bomb_in_flight_is_cut_at_the_file_s_size(server: Server, tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(30_000_000))
    body = bytes(30_000)

    def fault(handler: Handler, resource: Resource) -> None:
        handler.begin(200, {"Content-Encoding": "gzip", "Content-Length": str(len(bomb))})
        handler.send(bomb)

    with pytest.raises(FetchError, match="30,000 are expected"):
        obtain(file_at(server.serve("/net", body, *[fault] * 4), body=body), tmp_path, limits=QUICK)


FETCH = f"""
import pathlib, socket, tempfile, threading
import requests, tqdm, urllib3
from zoo.cards.record import Checksum, File, Mirror
from zoo.errors import FetchError
from zoo.files.fetch import obtain
from zoo.files.http import Limits
threading.stack_size(1 << 20)

def check(path):
    answer, listener = path.read_bytes(), socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            with connection:
                try:
                    connection.settimeout(5)
                    connection.recv(65536)
                    connection.sendall(answer)
                except OSError:
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    known = (Checksum("sha256", {hashlib.sha256(BODY[:2000]).hexdigest()!r}, "this test"),)
    file = File("net.caffemodel", (Mirror(f"http://127.0.0.1:{{listener.getsockname()[1]}}/net"),), 2000, known)
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as place, listener:
        try:
            obtain(file, pathlib.Path(place) / "model", progress=False, limits=Limits(answer=5, window=5, tries=2, pause=0))
        except FetchError as error:
            return str(error)[:100]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            left = [each.name for each in threading.enumerate()[1:] if each.name != "tqdm_monitor"]
            assert not left, left
    return "came"
"""
ANSWER = {
    "plain": b'HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nETag: "v1"\r\nContent-Length: 2000\r\n\r\n' + BODY[:2000],
    "chunked": CHUNKED + b"3e8;a=b\r\n" + BODY[:1000] + b"\r\n3E8\r\n" + BODY[1000:2000] + b"\r\n0\r\nX-Y: z\r\n\r\n",
    "encoded": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nLast-Modified: today\r\n\r\n" + gzip.compress(BODY[:2000]),
    "elsewhere": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/x\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("count", [12, pytest.param(300, marks=pytest.mark.slow)])
def test_a_damaged_answer_gives_the_file_or_a_reason(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process with little memory; only the head of an answer is damaged, for the bytes have their checksum."""
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    inputs = {}
    for kind, answer in ANSWER.items():
        head, end, body = answer.partition(b"\r\n\r\n")
        if kind == "chunked":
            head, end, body = answer, b"", b""
        inputs |= {f"{kind} {number}": damaged + end + body for number, damaged in enumerate(mutants(head, count, seed=5))}
    found = results(FETCH, inputs, tmp_path / "answers", 200)
    for name, (said, seconds) in found.items():
        assert not said.startswith("!"), (inputs[name][:300], said)
        assert seconds < 3, (inputs[name][:300], seconds)
    assert any(said == "came" for said, _ in found.values())
