import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from misbehaving import Server


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield running
    running.stopped.set()
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own, with the network allowed and no proxy between the test and its server."""
    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("CAFFEZOO_OFFLINE", raising=False)
    return tmp_path / "home"
