"""Connections that can be cut from outside: whatever a server does, no call on one takes longer than its deadline.

A socket's timeout is that of one packet, so a server that sends a byte now and then, of its headers, a chunk's extension or a
trailer, is waited for without end. What does end it is to shut the connection down under the call.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    import requests

T = TypeVar("T")
GRACE = 5.0  # seconds for a call to notice that its connection was cut


class Line:
    """The sockets of one session, by handles of their own."""

    def __init__(self) -> None:
        self._handles: list[socket.socket] = []
        self._given_up = set[threading.Thread]()
        self._lock = threading.Lock()

    def add(self, made: socket.socket) -> None:
        """A connection that was just made. One that comes too late, as after a name server's long silence, is closed at once."""
        with self._lock:
            if threading.current_thread() in self._given_up:
                made.close()
                raise TimeoutError("nobody waits for this connection any more")
            self._handles.append(made.dup())

    def cut(self) -> None:
        """Ends every connection, and whatever is being read from it."""
        with self._lock:
            for handle in self._handles:
                with contextlib.suppress(OSError):
                    handle.shutdown(socket.SHUT_RDWR)

    def let_go(self) -> None:
        """Forgets the connections, which are closed by those who use them."""
        with self._lock:
            for handle in self._handles:
                handle.close()
            self._handles.clear()

    def within(self, seconds: float, call: Callable[[], T]) -> T:
        """call(), or TimeoutError: after so long its connections are cut."""
        outcome: list[Callable[[], T]] = []

        def run() -> None:
            try:
                value = call()
                outcome.append(lambda: value)
            except Exception as error:
                caught = error

                def fail() -> NoReturn:
                    raise caught

                outcome.append(fail)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(seconds)
        if not outcome:
            with self._lock:  # a name that is being looked up cannot be cut: the thread ends when the resolver does
                self._given_up.add(thread)
            self.cut()
            thread.join(GRACE)
            raise TimeoutError(f"no complete answer within {seconds:.0f} s")
        return outcome[0]()

    @contextmanager
    def watched(self, window: float, slowest: float) -> Iterator[Watch]:
        """Cuts the connections when over a window of so many seconds fewer than `slowest` bytes a second are counted."""
        watch = Watch()
        thread = threading.Thread(target=self._look, args=(watch, window, slowest), daemon=True)
        thread.start()
        try:
            yield watch
        finally:
            watch.done.set()
            thread.join()

    def _look(self, watch: Watch, window: float, slowest: float) -> None:
        since, before = time.monotonic(), 0
        while not watch.done.wait(max(0.0, since + window - time.monotonic())):
            now, came = time.monotonic(), watch.came
            rate = (came - before) / (now - since)
            if rate < slowest:
                watch.rate = rate
                self.cut()
                return
            since, before = now, came


class Watch:
    """What a body has brought so far."""

    def __init__(self) -> None:
        self.came = 0  # bytes
        self.rate: float | None = None  # bytes per second, where they were too few
        self.done = threading.Event()


def session(line: Line) -> requests.Session:
    """A session whose connections are on the line, each for one request; it follows no redirects and asks for bytes as they are."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            line.add(made)
            return made

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            line.add(made)
            return made

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    pools = {"http": PlainPool, "https": SecurePool}

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
            super().init_poolmanager(*arguments, **more)
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
            manager: Any = super().proxy_manager_for(proxy, **more)
            if not proxy.lower().startswith("socks"):
                manager.pool_classes_by_scheme = pools
            return manager

    class Session(requests.Session):
        def get_redirect_target(self, resp: requests.Response) -> None:
            """None, for requests reads the whole body of a redirect, however long."""

    made = Session()
    made.mount("http://", Adapter())
    made.mount("https://", Adapter())
    made.headers.update({"Accept-Encoding": "identity", "User-Agent": "caffezoo", "Connection": "close"})
    return made
