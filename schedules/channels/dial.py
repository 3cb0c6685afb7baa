"""How a question to a channel is dialled: addresses vetted, one deadline for everything.

Must never open a socket to an address the guard forbids, whatever DNS says and whenever: the
address that was vetted is the one that is dialled. Must never wait past the deadline; requests
itself has none for the whole of an exchange.
"""

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import requests.adapters
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import ConnectionPool, HTTPConnectionPool, HTTPSConnectionPool

from worker import clock, guard
from worker.guard import Target

_GRACE_S = 1.0
Resolve = Callable[[str, int], tuple[str, ...]]


class DialError(Exception):
    """No connection: ``kind`` is ``refused``, ``dns``, ``connect`` or ``timeout``."""

    def __init__(self, kind: str, problem: str) -> None:
        super().__init__(kind, problem)
        self.kind = kind
        self.problem = problem


class Deadline:
    """The end of one exchange; what is still open then is shut down.

    Args:
        total_s: from now, above 0.
    """

    def __init__(self, total_s: float) -> None:
        self._ends_at_s = clock.monotonic_s() + total_s
        self._lock = threading.Lock()
        self._watched: socket.socket | None = None
        self._timer = threading.Timer(total_s, self._cut)
        self._timer.daemon = True
        self.passed = False

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._forget()

    def left_s(self) -> float:
        """Return the seconds left, above 0.

        Raises:
            DialError: none are.
        """
        left = self._ends_at_s - clock.monotonic_s()
        if self.passed or left <= 0:
            raise DialError("timeout", "the deadline has passed")
        return left

    def watch(self, opened: socket.socket) -> None:
        """Shut this socket down when the deadline passes; one at a time."""
        with self._lock:
            self._forget()
            if self.passed:
                raise DialError("timeout", "the deadline has passed")
            # A duplicate: TLS takes the socket's own descriptor away when it wraps it.
            self._watched = opened.dup()

    def _cut(self) -> None:
        with self._lock:
            self.passed = True
            if self._watched is not None:
                with suppress(OSError):
                    self._watched.shutdown(socket.SHUT_RDWR)
            self._forget()

    def _forget(self) -> None:
        if self._watched is not None:
            self._watched.close()
            self._watched = None


class Dialler:
    """Opens the sockets of one exchange.

    Args:
        networks: CIDR networks that may be dialled though they are not public.
        resolve: asks DNS for the addresses of a host; replaced in tests.
    """

    def __init__(self, deadline: Deadline, networks: tuple[str, ...], resolve: Resolve) -> None:
        self._deadline = deadline
        self._networks = networks
        self._resolve = resolve

    def open(self, host: str, port: int) -> socket.socket:
        """Connect to a host.

        Raises:
            DialError: it has no address, one that is forbidden, or none that answers in time.
        """
        addresses = self._vetted(host, port)
        problem = ""
        for i, address in enumerate(addresses):
            opened = socket.socket(
                socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM
            )
            try:
                self._deadline.watch(opened)
                opened.settimeout(self._deadline.left_s() / (len(addresses) - i))
                opened.connect((address, port))
                # The watchdog ends what is later; a time limit of its own would race it.
                opened.settimeout(self._deadline.left_s() + _GRACE_S)
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                opened.close()
                problem = "timeout" if isinstance(error, TimeoutError) else error.strerror or ""
            except DialError:
                opened.close()
                raise
            else:
                return opened
        kind = "timeout" if problem == "timeout" else "connect"
        raise DialError(kind, f"no connection to {host}:{port}: {problem}")

    def _vetted(self, host: str, port: int) -> tuple[str, ...]:
        addresses = self._looked_up(host, port)
        if not addresses:
            raise DialError("dns", f"{host} has no address")
        # One forbidden address among good ones is no accident; which one it is, nobody is told.
        if not all(guard.may_dial(address, self._networks) for address in addresses):
            raise DialError("refused", f"{host} leads to an address that is not public")
        return addresses

    def _looked_up(self, host: str, port: int) -> tuple[str, ...]:
        if ":" in host or host.replace(".", "").isdigit():
            return (host,)
        found: list[tuple[str, ...]] = []

        def look() -> None:
            # getaddrinfo knows no deadline, so it has a thread that nobody need wait for.
            with suppress(OSError, UnicodeError):
                found.append(self._resolve(host, port))

        thread = threading.Thread(target=look, daemon=True, name="channel-dns")
        thread.start()
        thread.join(self._deadline.left_s())
        if thread.is_alive():
            raise DialError("timeout", f"{host} was not resolved within the deadline")
        return found[0] if found else ()


class Pinned(requests.adapters.HTTPAdapter):
    """Sends one request over a connection of its own that the dialler opened."""

    def __init__(
        self, dialler: Dialler, target: Target, context: Callable[[], ssl.SSLContext]
    ) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self._dialler = dialler
        self._target = target
        self._context = context

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> ConnectionPool:
        """Make a pool for this one target; what requests would choose is not asked."""
        host, port, dialler = self._target.host, self._target.port, self._dialler
        pool: HTTPConnectionPool
        if self._target.scheme == "https":
            pool = HTTPSConnectionPool(host, port, maxsize=1, ssl_context=self._context())
            pool.ConnectionCls = lambda *_, **given: _Https(dialler, **given)  # type: ignore[assignment]
        else:
            pool = HTTPConnectionPool(host, port, maxsize=1)
            pool.ConnectionCls = lambda *_, **given: _Http(dialler, **given)  # type: ignore[assignment]
        return pool

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Leave everything to our TLS context; requests would add authorities of its own."""


class _Http(HTTPConnection):
    def __init__(self, dialler: Dialler, **given: Any) -> None:
        super().__init__(**given)
        self._dialler = dialler

    def _new_conn(self) -> socket.socket:
        return self._dialler.open(self.host, self.port)


class _Https(HTTPSConnection):
    def __init__(self, dialler: Dialler, **given: Any) -> None:
        super().__init__(**given)
        self._dialler = dialler

    def _new_conn(self) -> socket.socket:
        return self._dialler.open(self.host, self.port or 443)


def ask_dns(host: str, port: int) -> tuple[str, ...]:
    """Ask the machine's resolver; every address once, in its order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))
