"""The part of the Hugging Face Hub that a download asks: HEAD and GET of /owner/name/resolve/revision/file, with its headers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def commit(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


@dataclass
class Repo:
    """Branches, and the files of each commit."""

    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def push(self, files: dict[str, bytes], branch: str = "main") -> str:
        name = commit(f"{len(self.commits)} {branch}")
        self.branches[branch], self.commits[name] = name, dict(files)
        return name


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.log: list[str] = []
        self.claims: dict[str, str] = {}  # a revision asked for -> the commit that a lying server answers with
        self.sizes: dict[str, int] = {}  # a file -> the size that it states
        self.status: dict[str, int] = {}  # a file -> what every question for it is answered with
        self.bodies: dict[str, bytes] = {}  # a file -> what comes in place of its bytes
        self.endless: set[str] = set()  # files whose bytes never end
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        self.server.log.append(f"{self.command} {'/'.join(parts)}")
        if len(parts) < 5 or parts[2] != "resolve":
            return self._refused("EntryNotFound")
        repo = self.server.repos.get("/".join(parts[:2]))
        if repo is None:
            return self._refused("RepoNotFound")
        revision, file = "/".join(parts[3:-1]), parts[-1]
        if file in self.server.status:
            self.send_response(self.server.status[file])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        name = repo.branches.get(revision, revision)
        if name not in repo.commits:
            return self._refused("RevisionNotFound")
        content = repo.commits[name].get(file)
        if content is None:
            return self._refused("EntryNotFound")
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.server.claims.get(revision, name))
        if file in self.server.sizes:
            self.send_header("X-Linked-Size", str(self.server.sizes[file]))
        if body and file in self.server.endless:
            return self._never_end()
        content = self.server.bodies.get(file, content)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)
        return None

    def _never_end(self) -> None:
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            while self.server.sent < 1 << 30:  # a client that does not stop fails its test, and not the disk
                self.wfile.write(bytes(1 << 20))
                self.server.sent += 1 << 20
        except OSError:
            return

    def _refused(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
