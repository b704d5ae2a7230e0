"""Headless Chromium, driven by the DevTools protocol over two pipes: no package is needed, and no port is open."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--remote-debugging-pipe",
)  # fmt: skip


class Chromium:
    """One page. `events` are what the browser told of it, as (method, parameters)."""

    def __init__(self, folder: Path, size: tuple[int, int] = (1280, 900), more: Sequence[str] = ()) -> None:
        assert CHROMIUM is not None
        ours, theirs = os.pipe(), os.pipe()  # what it reads, what it writes
        words = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}", *more, "about:blank"]

        def give() -> None:  # Chromium reads from 3 and writes to 4
            reading, writing = os.dup(ours[0]), os.dup(theirs[1])
            os.dup2(reading, 3)
            os.dup2(writing, 4)

        self.process = subprocess.Popen(
            words, preexec_fn=give, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        os.close(ours[0])
        os.close(theirs[1])
        self.write, self.read, self.rest = ours[1], theirs[0], b""
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.number, self.session = 0, ""
        target = next(each for each in self.ask("Target.getTargets")["targetInfos"] if each["type"] == "page")
        self.session = self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, seconds: float = 60, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
        raise TimeoutError(method)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            block = os.read(self.read, 1 << 16)
            assert block, "Chromium has ended"
            self.rest += block
        line, _, self.rest = self.rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append((message["method"], message["params"]))
        return message

    def go(self, url: str) -> None:
        self.ask("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """Until the expression is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"never true: {script}\n{self.run('document.body.innerText')}"
            time.sleep(0.2)
        return value

    def put_file(self, selector: str, file: Path) -> None:
        """Chooses a file in an <input type=file>."""
        found = self.ask("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.ask("DOM.setFileInputFiles", files=[str(file)], objectId=found["result"]["objectId"])

    def requests(self) -> list[str]:
        """Every address that the page asked for."""
        return [event["request"]["url"] for method, event in self.events if method == "Network.requestWillBeSent"]

    def screenshot(self, **more: Any) -> bytes:
        import base64

        return base64.b64decode(self.ask("Page.captureScreenshot", **more)["data"])

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self.write)
        os.close(self.read)
