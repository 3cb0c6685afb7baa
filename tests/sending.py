"""For tests of the transport: send requests and wait for replies; a raw server of our own bytes."""

import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from worker import clock
from worker.models import Allowed, Reply, Request
from worker.transport import Transport

LOOPBACK = ("127.0.0.0/8",)
# A deadline is checked by a thread of a machine that other tests keep busy.
LATE_S = 0.5


def request(
    url: str,
    *,
    method: str = "POST",
    body: bytes = b'{"n":1}',
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),),
    timeout_s: float = 5.0,
    networks: tuple[str, ...] = LOOPBACK,
    ca_pem: str | None = None,
    client_pem: str | None = None,
    tag: object = None,
) -> Request:
    """Build a request whose endpoint may call loopback at the URL's port."""
    return Request(
        tag=tag,
        method=method,
        url=url,
        headers=headers,
        body=body,
        timeout_s=timeout_s,
        allowed=Allowed(http=True, ports=(urlsplit(url).port or 443,), networks=networks),
        ca_pem=ca_pem,
        client_pem=client_pem,
    )


class Sender:
    """A running transport whose replies can be waited for."""

    def __init__(
        self,
        *,
        in_flight_max: int = 2000,
        connect_timeout_s: float = 3.0,
        ca_file: Path | None = None,
        resolve: Callable[[], tuple[str, ...]] | None = None,
    ) -> None:
        self._replies: queue.SimpleQueue[tuple[Request, Reply]] = queue.SimpleQueue()
        self.transport = Transport(
            self._take,
            in_flight_max=in_flight_max,
            connect_timeout_s=connect_timeout_s,
            connection_max_age_s=60,
            reply_max_bytes=65_536,
            ca_file=ca_file,
            resolve=resolve,
        )

    def __enter__(self) -> Self:
        self.transport.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.transport.close(timeout_s=0)
        assert not self.transport.alive

    def _take(self, finished: Sequence[tuple[Request, Reply]]) -> None:
        for pair in finished:
            self._replies.put(pair)

    def send(self, one: Request) -> Reply:
        """Send one request and return its reply."""
        self.transport.submit([one])
        return self.wait(1)[0][1]

    def timed(self, one: Request) -> tuple[Reply, float]:
        """Send one request; return its reply and the seconds it took."""
        since_s = clock.monotonic_s()
        return self.send(one), clock.monotonic_s() - since_s

    def wait(self, count: int, *, timeout_s: float = 30.0) -> list[tuple[Request, Reply]]:
        """Wait for replies to requests that were submitted, in the order they finished."""
        end_s = clock.monotonic_s() + timeout_s
        return [
            self._replies.get(timeout=max(0.01, end_s - clock.monotonic_s())) for _ in range(count)
        ]


Script = Sequence[tuple[bytes, float]]


class RawServer:
    """Reads one request per connection, then plays a script of bytes and pauses.

    Attributes:
        script: pieces with the seconds to wait after each; set anew for each request.
        listens: read the request first, instead of talking at once.
        hang: keep the connection open after the script instead of closing it.
        connections: how many were accepted.
        heard: bytes received, per connection.
    """

    def __init__(self) -> None:
        self.script: Script = ()
        self.listens = True
        self.hang = False
        self.connections = 0
        self.heard: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}/"

    def close(self) -> None:
        """Stop listening and end every connection."""
        self._over.set()
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self._socket.close()

    def _accept(self) -> None:
        talks: list[threading.Thread] = []
        while not self._over.is_set():
            pipe, _ = self._socket.accept()
            self.connections += 1
            talks.append(threading.Thread(target=self._talk, args=(pipe, self.script, self.hang)))
            talks[-1].start()
            talks = [talk for talk in talks if talk.is_alive()]
        for talk in talks:
            talk.join()

    def _talk(self, pipe: socket.socket, script: Script, hang: bool) -> None:
        with pipe:
            pipe.settimeout(5)
            heard = b""
            try:
                while self.listens and b"\r\n\r\n" not in heard and not self._over.is_set():
                    got = pipe.recv(65_536)
                    if not got:
                        break
                    heard += got
                self.heard.append(heard)
                for piece, pause_s in script:
                    pipe.sendall(piece)
                    if pause_s and self._over.wait(pause_s):
                        return
                if hang:
                    pipe.recv(1)
            except OSError:  # the sender hung up, as it may
                return


@contextmanager
def raw_server() -> Iterator[RawServer]:
    """Run a raw server for a ``with`` block."""
    server = RawServer()
    try:
        yield server
    finally:
        server.close()
