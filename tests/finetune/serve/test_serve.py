"""What stands behind the page: from what a browser sent to bars, what is kept of it, and what the server answers at all."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import io
import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coloured_run import COLOURS, SQUARES, probabilities, write_run
from marked_videos import picture
from PIL import Image

from finetune.errors import FinetuneError
from finetune.predict.model import load_model
from finetune.serve import app, html
from finetune.serve.__main__ import main, parser
from finetune.serve.guard import FOREIGN_TAG, MOST_BODY, OPEN, Guard, Message
from finetune.serve.keep import OLDEST, PREFIX, Keep, keeping
from finetune.serve.reader import MOST_BYTES, Reader

RED, GREEN, BLUE = COLOURS
TWO = picture((10, 20, 30, RED), (60, 12, 50, GREEN))


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    (tmp_path / "uploads").mkdir()
    return Keep(tmp_path / "uploads")


@pytest.fixture
def reader(tmp_path: Path, keep: Keep) -> Reader:
    return Reader(load_model(str(write_run(tmp_path / "run")), "cpu"), SQUARES, keep)


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    body = io.BytesIO()
    Image.fromarray(image).save(body, kind)
    return body.getvalue()


def sent(keep: Keep, body: bytes, name: str = "face.png") -> dict[str, Any]:
    """An upload as gradio leaves it: a folder named after the bytes, and in it a file of the browser's name."""
    place = keep.path / "5f5f"
    place.mkdir()
    (place / name).write_bytes(body)
    return {"path": str(place / name), "url": f"/gradio_api/file={place / name}", "orig_name": name, "meta": {"_type": "gradio.FileData"}}


# --- from a picture to bars -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["a file", "a data address"])
def test_faces_and_bars_of_what_a_browser_sent(way: str, reader: Reader, keep: Keep) -> None:
    body = encoded(TWO)
    what = sent(keep, body) if way == "a file" else {"url": f"data:image/png;base64,{base64.b64encode(body).decode()}", "path": None}
    reading = reader.read_sent(what)
    assert [row.box for row in reading.rows] == [(60, 12, 50, 50), (10, 20, 30, 30)]
    answer = html.answer(reading, reader.model)
    assert 'data-status="ok" data-faces="2"' in answer
    shares = [float(value) for value in re.findall(r'aria-valuenow="([\d.]+)"', answer)]
    expected = [sorted(probabilities(colour), reverse=True) for colour in (GREEN, RED)]
    assert shares == pytest.approx(np.concatenate(expected).tolist(), abs=1e-3)
    assert re.findall(r"<h3>(.*?)</h3>", answer) == ["1: happy", "2: angry"]
    (inside,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', answer)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(inside))))
    assert shown.shape == TWO.shape and np.abs(shown.astype(int) - TWO)[40:60, 70:100].max() < 40
    assert not list(keep.path.iterdir())  # read, and gone


def test_a_large_picture_comes_back_small_with_its_box_in_place(reader: Reader) -> None:
    image = np.kron(TWO, np.ones((8, 8, 1), np.uint8))
    reading = reader.read(image)
    assert reading.image is not None and max(reading.image.shape[:2]) == 1024
    scale = 1024 / max(TWO.shape[:2])
    assert reading.rows[0].box == pytest.approx([60 * scale, 12 * scale, 50 * scale, 50 * scale], abs=1)


def test_no_face_and_no_picture_are_said(reader: Reader, keep: Keep) -> None:
    assert 'data-status="no_face" data-faces="0"><p>No face was found.' in html.answer(reader.read(picture()), reader.model)
    for body, words in ((encoded(TWO)[:200], "not a whole picture"), (b"%PDF-1.4", "not a picture"), (b"", "the file is empty")):
        answer = html.answer(reader.read_sent(sent(keep, body)), reader.model)
        assert 'data-status="unreadable"' in answer and words in answer
        assert not list(keep.path.iterdir())


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(reader: Reader, keep: Keep) -> None:
    body = io.BytesIO()
    Image.new("1", (8000, 6000)).save(body, "PNG")
    begin = time.process_time()
    assert "8000×6000 pixels, more than 40,000,000" in reader.read_sent(sent(keep, body.getvalue())).problem
    assert time.process_time() - begin < 0.5


def test_labels_and_names_of_a_stranger_s_card_are_text_and_no_html(tmp_path: Path, keep: Keep) -> None:
    evil = "<script>alert(1)</script>"
    folder = write_run(tmp_path / "a<b>run", classes=[evil, 'x"onload="y', "sad\x1b[2J"], title=evil, recipe=evil)
    reader = Reader(load_model(str(folder), "cpu"), SQUARES, keep)
    shown = html.answer(reader.read(TWO), reader.model) + html.heading(reader.model) + html.card(reader.model, "mtcnn")
    assert "<script" not in shown and '"onload' not in shown and "\x1b" not in shown and "<b>run" not in shown
    assert "&lt;script&gt;alert(1)" in shown


def test_the_card_says_what_the_model_is_not_for(reader: Reader) -> None:
    shown = html.card(reader.model, "opencv_cascade")
    for words in ("apparent expression", "Not for decisions about people", "mean colours", "angry, happy, sad", reader.model.sha256):
        assert words in shown
    assert "not feelings" in html.heading(reader.model)


# --- what is kept ---------------------------------------------------------------------------------------------------------------------


def test_only_an_upload_is_read_and_it_is_gone_afterwards(keep: Keep, tmp_path: Path, reader: Reader) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(TWO))
    (keep.path / "link.png").symlink_to(secret)
    (keep.path / "place").symlink_to(tmp_path)
    os.mkfifo(keep.path / "pipe")
    for path in (
        secret, keep.path / "link.png", keep.path / "place" / "secret.png", keep.path / ".." / "secret.png", keep.path / "pipe",
        keep.path, keep.path / "gone.png", "secret.png", "\0", "http://example.com/a.png",
    ):  # fmt: skip
        reading = reader.read_sent({"path": str(path), "url": None})
        assert reading.image is None and re.search("not an upload|is gone", reading.problem), path
    assert secret.exists()
    large = keep.path / "large.png"
    large.write_bytes(bytes(MOST_BYTES + 1))
    assert "more than 20 MB" in reader.read_sent({"path": str(large)}).problem and not large.exists()


@pytest.mark.parametrize("what", [None, 3, {}, {"path": 3}, {"url": "https://example.com/a.png"}, {"url": "data:text/html;base64,AAAA"},
                                  {"url": "data:image/png;base64,***"}, {"url": "data:image/png"}])  # fmt: skip
def test_what_is_no_picture_is_no_picture(what: Any, reader: Reader) -> None:
    assert reader.read_sent(what).problem


def test_what_nobody_takes_is_swept_away(keep: Keep) -> None:
    sent(keep, b"12345")
    assert keep.size() == 5
    keep.sweep()
    assert keep.size() == 5
    keep.sweep(time.time() + OLDEST + 1)
    assert not list(keep.path.iterdir())


def test_the_folder_of_uploads_is_private_and_gone_at_the_end_and_a_killed_page_s_too(tmp_path: Path) -> None:
    (left := tmp_path / f"{PREFIX}{2**22 + 1}-x").mkdir()  # no system has so many processes
    (alive := tmp_path / f"{PREFIX}{os.getpid()}-y").mkdir()
    (other := tmp_path / f"{PREFIX}notes").mkdir()
    with keeping(tmp_path) as keep:
        assert keep.path.stat().st_mode & 0o77 == 0 and not left.exists() and alive.exists() and other.exists()
        sent(keep, b"1")
    assert not keep.path.exists()


# --- what is answered -----------------------------------------------------------------------------------------------------------------

OURS = {b"host": "127.0.0.1:7860"}
CLOSED = [
    ("GET", "/docs"), ("GET", "/redoc"), ("GET", "/openapi.json"), ("GET", "/gradio_api/info"), ("GET", "/gradio_api/openapi.json"),
    ("POST", "/gradio_api/run/predict"), ("POST", "/gradio_api/call/predict"), ("GET", "/gradio_api/file=/etc/passwd"),
    ("GET", "/monitoring"),
    ("GET", "/gradio_api/proxy=http://example.com/"), ("GET", "/gradio_api/runs"), ("POST", "/gradio_api/process_recording"),
    ("GET", "/gradio_api/file=http://example.com/a.png"), ("POST", "/gradio_api/vibe-edit"), ("POST", "/"), ("GET", "/gradio_api/mcp/sse"),
    ("GET", "/?view=api/x"), ("DELETE", "/gradio_api/upload"),
]  # fmt: skip


@pytest.fixture
def guard(keep: Keep) -> Guard:
    return Guard(page_with(b""), keep, app.LOOPBACK)


def page_with(body: bytes) -> Any:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body[:5], "more_body": True})
        await send({"type": "http.response.body", "body": body[5:]})

    return answer


def asked(guard: Guard, method: str, path: str, blocks: list[bytes] | None = None, **headers: str) -> tuple[int, bytes, dict[bytes, bytes]]:
    out: list[Message] = []
    parts = list(blocks or [b""])

    async def receive() -> Message:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Message) -> None:
        out.append(message)

    named = [(name.encode(), value.encode()) for name, value in {"host": "localhost:7860", **headers}.items()]
    asyncio.run(guard({"type": "http", "method": method, "path": path, "headers": named}, receive, send))
    body = b"".join(message.get("body", b"") for message in out)
    return (out[0]["status"], body, dict(out[0]["headers"])) if out else (0, b"", {})


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_what_the_page_does_not_need_is_closed(method: str, path: str, guard: Guard) -> None:
    assert guard.refusal(method, path, OURS) == (404, "not here")


def test_uploads_are_shown_and_no_other_file(guard: Guard, keep: Keep) -> None:
    assert guard.refusal("GET", f"/gradio_api/file={keep.path}/5f5f/a b.png", OURS) is None
    for path in (f"{keep.path}/../secret.png", f"{keep.path}/x/../../a", f"{keep.path}/a", "/etc/passwd", f"{keep.path}/a/b/c"):
        assert guard.refusal("GET", f"/gradio_api/file={path}", OURS) == (404, "not here")


@pytest.mark.parametrize("name", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "10.0.0.1"])
def test_pages_of_other_names_cannot_ask_through_a_visitor_s_browser(name: str, guard: Guard) -> None:
    """DNS rebinding: another site's name that leads to this machine; and another site's form."""
    assert guard.refusal("GET", "/", {b"host": name})[0] == 403  # type: ignore[index]
    if name:
        assert guard.refusal("POST", "/gradio_api/upload", {**OURS, b"origin": f"http://{name}"})[0] == 403  # type: ignore[index]
    for own in ("localhost:1", "127.0.0.1", "[::1]:7860"):
        assert guard.refusal("GET", "/", {b"host": own, b"origin": f"http://{own}"}) is None


def test_too_many_bytes_are_refused_with_and_without_a_length(guard: Guard) -> None:
    status, words, _ = asked(guard, "POST", "/gradio_api/upload", **{"content-length": str(MOST_BODY + 1)})
    assert status == 413 and b"20 MB" in words
    assert asked(guard, "POST", "/gradio_api/queue/join", [bytes(1 << 20)] * (MOST_BODY // (1 << 20) + 2))[0] == 0
    assert asked(guard, "POST", "/gradio_api/queue/join", [b"a", b"b"])[0] == 200


def test_the_page_loses_the_tags_that_name_other_hosts(keep: Keep) -> None:
    kept = b'<link rel="stylesheet" href="./theme.css"><script src="./a.js"></script><meta name="x" content="y">'
    gone = (
        b'<link rel="preconnect" href="https://fonts.example.com" />',
        b'<script src="//cdn.example.com/a.js" async></script>',
        b'<meta\n property="og:image"\n content="https://example.com/a.jpg"\n/>',
        b"<link href=http://example.com/a.css rel=stylesheet>",
    )
    status, body, headers = asked(Guard(page_with(kept.join((b"", *gone, b""))), keep, None), "GET", "/")
    assert status == 200 and body == kept * 5 and headers[b"content-length"] == str(len(body)).encode()
    assert b"default-src 'self'" in headers[b"content-security-policy"] and headers[b"cache-control"] == b"no-store"
    assert all(FOREIGN_TAG.fullmatch(tag) for tag in gone)


def test_the_open_addresses_are_no_wider_than_they_look() -> None:
    for _, pattern in OPEN:
        assert not re.fullmatch(pattern, "/gradio_api/file=/etc/passwd") and not re.fullmatch(pattern, "/gradio_api/info")


# --- the command ----------------------------------------------------------------------------------------------------------------------


def test_this_machine_only_unless_it_is_said() -> None:
    options = parser().parse_args(["fer_mini"])
    assert (options.host, options.port) == ("127.0.0.1", 7860) and app.is_loopback(options.host)
    assert not app.is_loopback("0.0.0.0") and not app.is_loopback("127x.example")


def test_a_port_that_is_taken_is_told_with_another_one() -> None:
    with app.bound("127.0.0.1", 0) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(FinetuneError, match=rf"127.0.0.1:{number} cannot be used: .*--port {number + 1}"):
            app.bound("127.0.0.1", number)
    with app.bound("127.0.0.1", number) as again:
        assert again.getsockname()[1] == number


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="the command asks for gradio first: the extra serve")
@pytest.mark.parametrize(("host", "open_to_all"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_a_page_for_everybody_says_so_and_what_it_reads(
    host: str, open_to_all: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "require_gradio", lambda keep: None)
    monkeypatch.setattr(app, "application", lambda reader, host: reader)
    monkeypatch.setattr(app, "run", lambda reader, taken: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["fer_mini", "--host", host, "--port", "0", "--no-detect"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"http://{host}:") and "Ctrl-C" in printed.out
    assert "not feelings" in printed.err and ("no password" in printed.err) == open_to_all


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="the command asks for gradio first: the extra serve")
@pytest.mark.parametrize(
    ("words", "answer"),
    [(["no_such_model"], "no model 'no_such_model'"), (["fer_mini", "--host", "no.such.host.invalid"], "--host no.such.host.invalid")],
)
def test_what_cannot_be_is_said_in_a_line(
    words: list[str], answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "require_gradio", lambda keep: None)
    monkeypatch.setattr(socket, "getaddrinfo", unknown(socket.getaddrinfo))
    before = signal.getsignal(signal.SIGTERM)
    assert main([*words, "--port", "0"]) == 1
    assert signal.getsignal(signal.SIGTERM) == before
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and answer in line


def unknown(look_up: Any) -> Any:
    """getaddrinfo that asks nobody."""

    def find(host: str, *rest: Any, **more: Any) -> Any:
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *rest, **more)

    return find


@pytest.mark.parametrize("words", [[], ["fer_mini", "--port", "70000"], ["fer_mini", "--port", "x"], ["a", "b"]])
def test_a_wrong_command_is_answered_with_status_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and capsys.readouterr().err
