"""The page itself in headless Chromium, whose network ends at this machine; the server's own connections are listed by an audit hook."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from chromium import CHROMIUM, Chromium
from PIL import Image

from finetune.serve.reader import MOST_BYTES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here to open the page with"),
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="the page is drawn by gradio: the extra serve"),
]
# Started by Python itself before the command: every name that is looked up and every address that is connected to, one a line.
AUDIT = """
import os, sys
def heard(event, arguments, place=os.environ["HEARD"]):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        with open(place, "a") as file:
            print(event, arguments[1:] if event == "socket.connect" else arguments, file=file)
sys.addaudithook(heard)
"""
NAME = 'a<img src=x onerror=alert(1)>";..%2f\u202e.png'  # of a picture, as somebody hostile would name it
FACES = "Number(document.querySelector('#answer [data-faces]')?.dataset.faces)"


@dataclass(frozen=True)
class Served:
    url: str
    process: subprocess.Popen[str]
    heard: Path  # what the server connected to
    temporary: Path  # its folder for temporary files


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    data = pytest.importorskip("skimage.data", reason="the picture comes with scikit-image")
    image: np.ndarray = data.astronaut()
    return image


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page of the model that comes with the package, as the command shows it."""
    pytest.importorskip("cv2", reason="faces are found by OpenCV's cascade")
    place = tmp_path_factory.mktemp("served")
    (place / "site").mkdir()
    (place / "temporary").mkdir()
    (place / "site" / "sitecustomize.py").write_text(AUDIT)
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(place / "site"), str(Path(__file__).parents[3])]), "HEARD": str(place / "heard"),
        "TMPDIR": str(place / "temporary"), "CAFFEZOO_HOME": str(place / "home"),
    }  # fmt: skip
    command = [sys.executable, "-m", "finetune.serve", "fer_mini", "--port", "0"]
    process = subprocess.Popen(command, env=environment, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("http://127.0.0.1:"), (line, process.communicate(timeout=20)[1])
    yield Served(line.split()[0], process, place / "heard", place / "temporary")
    process.kill()
    process.communicate()


@contextlib.contextmanager
def opened(served: Served, folder: Path, *more: str) -> Iterator[Chromium]:
    browser = Chromium(folder, more=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", *more])
    try:
        browser.go(served.url)
        browser.wait("document.querySelector('#picture input[type=file]') !== null")
        yield browser
    finally:
        browser.close()


def foreign(browser: Chromium, served: Served) -> list[str]:
    return [url for url in browser.requests() if not url.startswith((served.url, "data:", f"blob:{served.url}"))]


def uploads(served: Served) -> list[Path]:
    places = [*Path("/dev/shm").glob(f"caffezoo-serve-{served.process.pid}-*"), *served.temporary.glob("caffezoo-serve-*")]
    assert len(places) == 1
    return [path for path in places[0].rglob("*") if path.is_file()]


def status(url: str, body: bytes | None = None, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_from_a_dropped_picture_to_bars_and_nobody_else_is_asked(served: Served, astronaut: np.ndarray, tmp_path: Path) -> None:
    picture = tmp_path / NAME
    Image.fromarray(astronaut).save(picture)
    with opened(served, tmp_path / "profile") as browser:
        browser.put_file("#picture input[type=file]", picture)
        browser.wait(FACES)
        assert browser.run(FACES) == 1 and browser.run("document.querySelector('#answer h3').innerText") == "1: happy"
        shares = browser.run("[...document.querySelectorAll('#answer [role=meter]')].map(bar => Number(bar.ariaValueNow))")
        assert len(shares) == 7 and shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1, abs=0.01)
        widths = browser.run("[...document.querySelectorAll('#answer .fill')].map(bar => bar.offsetWidth / bar.parentElement.offsetWidth)")
        assert widths == pytest.approx(shares, abs=0.03)
        shown = browser.run("(() => { const i = document.querySelector('#answer img'); return [i.naturalWidth, i.naturalHeight] })()")
        assert shown == [512, 512]
        text = browser.run("document.body.innerText")
        assert "not feelings" in text and "Not for decisions about people" in text and "FER2013" in text
        assert not browser.run("document.querySelector('img[src=x]') !== null") and "Use via API" not in text
        assert browser.run("getComputedStyle(document.querySelector('h1')).fontFamily").startswith("system-ui")
        browser.wait("document.querySelector('#picture img') === null")  # the drop zone is empty again
        assert not foreign(browser, served)
        blocked = [event for name, event in browser.events if name == "Log.entryAdded" and "Content Security Policy" in str(event)]
        assert not blocked
    assert not uploads(served)


def test_a_file_that_is_no_picture_and_the_next_one(served: Served, astronaut: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    Image.fromarray(np.concatenate([astronaut, astronaut], 1)).save(tmp_path / "twins.webp")
    with opened(served, tmp_path / "profile") as browser:
        browser.put_file("#picture input[type=file]", tmp_path / "broken.png")
        browser.wait("document.querySelector('#answer [data-status=unreadable]') !== null")
        browser.wait("document.querySelector('#picture input[type=file]') !== null")
        browser.put_file("#picture input[type=file]", tmp_path / "twins.webp")
        browser.wait(f"{FACES} === 2")
    assert not uploads(served)


def test_the_camera_s_newest_frame_is_read_again_and_again(served: Served, astronaut: np.ndarray, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="the camera's film is written by PyAV")
    film = tmp_path / "film.mjpeg"
    with av.open(str(film), "w", format="mjpeg") as out:
        stream = out.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 512, 512, "yuvj420p"
        for frame in [*[av.VideoFrame.from_ndarray(astronaut, format="rgb24")] * 5, None]:
            out.mux(stream.encode(frame))
    fake = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", f"--use-file-for-fake-video-capture={film}")
    with opened(served, tmp_path / "profile", *fake) as browser:
        browser.run("[...document.querySelectorAll('[role=tab]')].find(tab => tab.innerText.trim() === 'Camera').click()")
        browser.wait("document.querySelector('#camera div[title] button') !== null")
        browser.run("document.querySelector('#camera div[title] button').click()")
        browser.wait("[...document.querySelectorAll('#camera button')].some(each => each.innerText.includes('Record'))")
        browser.run("[...document.querySelectorAll('#camera button')].find(each => each.innerText.includes('Record')).click()")
        browser.wait(FACES)
        first = browser.run("document.querySelector('#answer img').src.length + document.querySelector('#answer h3').innerText")
        assert first.endswith("1: happy")
        browser.run("document.querySelector('#answer [data-faces]').remove()")
        browser.wait(FACES)  # another frame
        assert not foreign(browser, served)
    assert not uploads(served)


def test_what_is_no_part_of_the_page_is_closed_and_large_uploads_are_refused(served: Served) -> None:
    for path in (
        "docs", "redoc", "openapi.json", "gradio_api/info", "gradio_api/openapi.json", "gradio_api/file=/etc/passwd", "monitoring",
        "gradio_api/runs", "gradio_api/proxy=https://example.com/", "gradio_api/mcp/sse", "login_check", "pwa_icon",
    ):  # fmt: skip
        assert status(served.url + path) == 404, path
    assert status(served.url, Host="evil.example") == 403
    head, end = b'--x\r\ncontent-disposition: form-data; name="files"; filename="a.png"\r\n\r\n', b"\r\n--x--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert status(served.url + "gradio_api/upload", head + bytes(MOST_BYTES + 1) + end, **kind) == 413
    assert status(served.url + "gradio_api/upload", head + bytes(2 * MOST_BYTES) + end, **kind) == 413
    assert not uploads(served)


@pytest.mark.parametrize("path", ["", "config", "theme.css", "manifest.json"])
def test_the_page_names_no_other_host(path: str, served: Served) -> None:
    with urllib.request.urlopen(served.url + path, timeout=30) as answer:
        body = answer.read().decode()
    named = set(re.findall(r"(?:https?:)?//[\w.-]+(?::\d+)?", body)) - {
        served.url.rstrip("/"),
        "http://www.w3.org",
    }  # SVG's name, no address
    assert not {name for name in named if "." in name}, named


def test_the_server_asked_nobody_and_ends_at_ctrl_c_with_nothing_left(served: Served) -> None:
    """The last test of this file: it ends the server."""
    before = uploads(served)
    served.process.send_signal(signal.SIGINT)
    _, err = served.process.communicate(timeout=30)
    assert served.process.returncode == 0 and not before, err
    assert "Traceback" not in err and "not feelings" in err
    heard = served.heard.read_text().splitlines() if served.heard.exists() else []
    assert all("127.0.0.1" in line or "AF_UNIX" in line or "/" in line.partition("(")[2][:3] for line in heard), heard
    assert not list(served.temporary.iterdir()) and not list(Path("/dev/shm").glob(f"caffezoo-serve-{served.process.pid}-*"))
