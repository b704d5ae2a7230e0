"""An HTTP server on loopback that serves files, and misbehaves on purpose.

A resource has a list of faults; each request takes the next one, and when none is left the answer is honest.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Resource:
    body: bytes
    etag: str = '"v1"'
    faults: list[Fault] = field(default_factory=list)
    pace: float = 0  # seconds between blocks of 64 KiB


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.resources: dict[str, Resource] = {}
        self.log: list[Request] = []
        self.stopped = threading.Event()

    def serve(self, path: str, body: bytes, *faults: Fault, **extra: object) -> str:
        self.resources[path] = Resource(body, faults=list(faults), **extra)  # type: ignore[arg-type]
        return self.url(path)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that are killed or that give up are what these tests are about


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.entry = Request(self.path, dict(self.headers.items()))
        self.server.log.append(self.entry)
        self.close_connection = True
        resource = self.server.resources.get(path)
        if resource is None:
            self.begin(404, {"Content-Length": "0"})
            return
        fault = resource.faults.pop(0) if resource.faults else honest
        fault(self, resource)

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.entry.status = status
        self.send_response(status)
        for name, value in {"Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, data: bytes, pace: float = 0) -> None:
        for start in range(0, len(data), 1 << 16):
            block = data[start : start + (1 << 16)]
            self.wfile.write(block)
            self.entry.sent += len(block)
            if pace and self.server.stopped.wait(pace):
                return

    def log_message(self, format: str, *args: object) -> None:
        pass


Fault = Callable[[Handler, Resource], None]


def honest(handler: Handler, resource: Resource, cut: int | None = None) -> None:
    """Range and If-Range as RFC 9110 has them; `cut` closes the connection after so many bytes."""
    asked, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
    total, start, status = len(resource.body), 0, 200
    headers = {"ETag": resource.etag} if resource.etag else {}
    if asked and condition in (None, resource.etag):
        start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
        if start >= total:
            handler.begin(416, {"Content-Range": f"bytes */{total}", "Content-Length": "0"})
            return
        headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
    handler.begin(status, {**headers, "Content-Length": str(total - start)})
    handler.send(resource.body[start : total if cut is None else start + cut], resource.pace)


def truncated(after: int) -> Fault:
    return lambda handler, resource: honest(handler, resource, cut=after)


def status(code: int, **headers: str) -> Fault:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, resource: handler.begin(code, {"Content-Length": "0", **given})


def without_ranges(handler: Handler, resource: Resource) -> None:
    handler.begin(200, {"Content-Length": str(len(resource.body)), "ETag": resource.etag})
    handler.send(resource.body, resource.pace)


def without_length(after: int | None = None) -> Fault:
    def fault(handler: Handler, resource: Resource) -> None:
        handler.begin(200, {"ETag": resource.etag})
        handler.send(resource.body[:after])

    return fault


def chunked(after: int | None = None) -> Fault:
    def fault(handler: Handler, resource: Resource) -> None:
        handler.begin(200, {"Transfer-Encoding": "chunked", "ETag": resource.etag})
        for start in range(0, len(resource.body) if after is None else after, 5000):
            block = resource.body[start : start + 5000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
        if after is None:
            handler.wfile.write(b"0\r\n\r\n")

    return fault


def changed(body: bytes, etag: str, then: Fault = honest) -> Fault:
    """The file on the server is another one from now on."""

    def fault(handler: Handler, resource: Resource) -> None:
        resource.body, resource.etag = body, etag
        then(handler, resource)

    return fault


def ignoring_the_condition(handler: Handler, resource: Resource) -> None:
    """A broken server: it answers 206 whatever If-Range says."""
    start, total = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-")), len(resource.body)
    headers = {"Content-Range": f"bytes {start}-{total - 1}/{total}", "ETag": resource.etag}
    handler.begin(206, {**headers, "Content-Length": str(total - start)})
    handler.send(resource.body[start:])


def gzipped(handler: Handler, resource: Resource) -> None:
    packed = gzip.compress(resource.body, 1)
    handler.begin(200, {"Content-Encoding": "gzip", "Content-Length": str(len(packed)), "ETag": '"packed"'})
    handler.send(packed)


def labelled_gzip(handler: Handler, resource: Resource) -> None:
    """A server that calls a .tar.gz "gzip-encoded" because of its name."""
    headers = {"Content-Encoding": "x-gzip", "Content-Length": str(len(resource.body)), "ETag": resource.etag}
    handler.begin(200, headers)
    handler.send(resource.body)


def web_page(text: str = "<!DOCTYPE html><title>Not here</title>", kind: str = "text/html; charset=utf-8") -> Fault:
    def fault(handler: Handler, resource: Resource) -> None:
        handler.begin(200, {"Content-Type": kind, "Content-Length": str(len(text))})
        handler.send(text.encode())

    return fault


def redirect(to: str) -> Fault:
    return lambda handler, resource: handler.begin(302, {"Location": to, "Content-Length": "0"})


def slow_body(handler: Handler, resource: Resource) -> None:
    handler.begin(200, {"Content-Length": str(len(resource.body)), "ETag": resource.etag})
    for each in resource.body:
        handler.wfile.write(bytes([each]))
        handler.wfile.flush()
        if handler.server.stopped.wait(0.02):
            return


def slow_headers(handler: Handler, resource: Resource) -> None:
    handler.entry.status = 200
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.server.stopped.wait(0.02):
        handler.wfile.write(b"X")
        handler.wfile.flush()


def silent(handler: Handler, resource: Resource) -> None:
    handler.server.stopped.wait(10)


def wait_until(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
