"""What the server answers at all. gradio offers far more than a page needs: files, proxies, an API, recordings; they stay closed."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from finetune.serve.keep import MOST_WAITING, Keep
from finetune.serve.reader import MOST_BYTES

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BODY = MOST_BYTES * 4 // 3 + (1 << 20)  # a picture in base64, and what is around it
MOST_DRAINED = 64 << 20  # bytes of a refused body that are let through to nowhere
# What the page asks for. A file is shown to the browser that uploaded it, from the folder of uploads only.
OPEN = (
    ("GET", r"/"),
    ("GET", r"/(config|theme\.css|favicon\.ico|manifest\.json)"),
    ("GET", r"/(assets|static)/[\w./~-]+"),
    ("GET", r"/gradio_api/(heartbeat/\w+|queue/data|upload_progress)"),
    ("POST", r"/gradio_api/(upload|queue/join|cancel|stream/\w+(/close)?)"),
)
# Nothing is fetched from elsewhere, whatever a later gradio would like to.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self' data: blob:; object-src 'none';"
    " base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
)
FOREIGN_TAG = re.compile(rb"<(?:meta|link|script)\b[^>]*?\b(?:content|href|src)\s*=\s*[\"']?(?:https?:)?//[^>]*>(?:\s*</script>)?", re.I)
FOREIGN_EXAMPLE = re.compile(rb"https://raw\.githubusercontent\.com/gradio-app/[^\"]*")  # in gradio's description of a component


class Guard:
    """An ASGI application around gradio's: it passes on what the page needs, from the names in `hosts` (None: any), and no more.

    Answers 403 for a page of another name that asks through a visitor's browser, 404 for everything that is not OPEN, 413 for too
    many bytes. Addresses of other hosts are taken out of the page, and the browser is told to ask nobody else.
    """

    def __init__(self, app: App, keep: Keep, hosts: frozenset[str] | None) -> None:
        self.app, self.keep, self.hosts = app, keep, hosts
        self.open = [(method, re.compile(pattern)) for method, pattern in OPEN]
        self.files = re.compile(rf"/gradio_api/file={re.escape(str(keep.path))}/[^/]+/[^/]+")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self.refusal(scope["method"], scope["path"], headers)
        if refusal is not None:
            await _drain(receive)
            await _answer(send, *refusal)
            return
        page = scope["path"] in ("/", "/config")
        if page:  # unpacked, to be looked through
            scope = {**scope, "headers": [each for each in scope["headers"] if each[0].lower() != b"accept-encoding"]}
        await self.app(scope, _limited(receive), _page(send) if page else _guarded(send))

    def refusal(self, method: str, path: str, headers: dict[bytes, str]) -> tuple[int, str] | None:
        """(status, reason) for what is not answered."""
        if self.hosts is not None:
            asked = [headers.get(b"host", ""), headers.get(b"origin", "").partition("://")[2]]
            if not asked[0] or any(name and _without_port(name) not in self.hosts for name in asked):
                return 403, "this page answers under its own name only"
        elif (origin := headers.get(b"origin", "").partition("://")[2]) and origin != headers.get(b"host"):
            return 403, "another page asks"
        if method == "HEAD":
            method = "GET"
        if not any(method == each and pattern.fullmatch(path) for each, pattern in self.open) and not (
            method == "GET" and ".." not in path and self.files.fullmatch(path)
        ):
            return 404, "not here"
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or int(length) > MOST_BODY:
            return 413, f"a picture has at most {MOST_BYTES >> 20} MB"
        if path == "/gradio_api/upload" and self.keep.size() > MOST_WAITING:
            return 503, "too many pictures are waiting; try again in a minute"
        return None


def _without_port(name: str) -> str:
    return re.sub(r":\d+$", "", name).strip("[]").lower()


async def _drain(receive: Receive) -> None:
    """Lets a sender finish, who would not hear the answer before; not for ever."""
    seen = 0
    while seen <= MOST_DRAINED and (message := await receive()).get("more_body"):
        seen += len(message["body"])


async def _answer(send: Send, status: int, words: str) -> None:
    body = words.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _limited(receive: Receive) -> Receive:
    """A body that says nothing of its length ends where it is too long."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > MOST_BODY else message

    return limited


def _guarded(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            ours = {name for name, _ in HEADERS}
            message = {**message, "headers": [each for each in message["headers"] if each[0].lower() not in ours] + list(HEADERS)}
        await send(message)

    return guarded


def _page(send: Send) -> Send:
    """The page without the tags that name another host: pictures for other sites' previews, a script for frames."""
    guarded = _guarded(send)
    start: list[Message] = []
    body = bytearray()

    async def collect(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.append(message)
            return
        body.extend(message.get("body", b""))
        if message.get("more_body"):
            return
        clean = FOREIGN_EXAMPLE.sub(b"", FOREIGN_TAG.sub(b"", bytes(body)))
        headers = [each for each in start[0]["headers"] if each[0].lower() != b"content-length"]
        await guarded({**start[0], "headers": [*headers, (b"content-length", str(len(clean)).encode())]})
        await guarded({"type": "http.response.body", "body": clean})

    return collect
