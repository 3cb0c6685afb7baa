"""Asks a channel over HTTP: one request, one answer, whatever the channel does.

Must never raise for what a channel does, follow a redirect, take a proxy, cookie or password
from the machine's environment, read more than its cap, or put a URL into words: keys stand in
some of them.
"""

import hashlib
import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import requests
from urllib3.exceptions import HTTPError

from schedules.channels.dial import Deadline, DialError, Dialler, Pinned, Resolve, ask_dns
from worker import guard
from worker.errors import UrlRefusedError
from worker.identity import system_ca_file
from worker.models import Allowed, Failure

_CHUNK = 16_384
_GRACE_S = 1.0  # the watchdog is first; a time limit of the library's own would race it
_NOTHING = Allowed()
_KINDS = {
    "refused": Failure.REFUSED,
    "dns": Failure.DNS,
    "connect": Failure.CONNECT,
    "timeout": Failure.TIMEOUT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request to a channel, signed.

    Attributes:
        headers: without ``Host``, ``Content-Length`` and what governs connection and encoding.
    """

    method: str = "GET"
    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back.

    Attributes:
        failure: why there is no whole answer; ``NONE`` when there is one, of any status.
        status: 100 to 999, or 0.
        headers: names in lower case.
        body: as received; empty when there is no whole answer.
        sha256: of the body, hex; empty when none came.
        detail: one line about the failure, without URL and address.
    """

    failure: Failure = Failure.NONE
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    sha256: str = ""
    detail: str = ""


class Http:
    """Sends requests to one route; any number of threads may use it at once.

    Args:
        timeout_s: total deadline: resolve, connect, TLS, send and receive together.
        reply_max_bytes: a longer body is no answer.
        allowed: what the guard lets this route do beyond the rules for all.
        ca_pem: authorities that replace the machine's; None are the machine's.
        resolve: replaces DNS in tests.

    Raises:
        ssl.SSLError: ``ca_pem`` holds no certificates.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        reply_max_bytes: int = 262_144,
        allowed: Allowed = _NOTHING,
        ca_pem: str | None = None,
        resolve: Resolve = ask_dns,
    ) -> None:
        self._timeout_s = timeout_s
        self._reply_max_bytes = reply_max_bytes
        self._allowed = allowed
        self._resolve = resolve
        self._ca_pem = ca_pem
        if ca_pem:
            tls_context(ca_pem)

    def send(self, ask: Ask) -> Answer:
        """Send one request and read the answer; every way it can end is a value."""
        with Deadline(self._timeout_s) as deadline:
            answer = self._tried(ask, deadline)
            # A body that was cut at the deadline can look whole.
            return self._timed_out() if deadline.passed else answer

    def _tried(self, ask: Ask, deadline: Deadline) -> Answer:
        try:
            return self._exchanged(ask, deadline)
        except UrlRefusedError as error:
            return Answer(failure=Failure.REFUSED, detail=f"the URL {error.problem}")
        except DialError as error:
            if error.kind == "timeout":
                return self._timed_out()
            return Answer(failure=_KINDS[error.kind], detail=error.problem)
        except (requests.RequestException, HTTPError, OSError, http.client.HTTPException) as error:
            return self._timed_out() if deadline.passed else _broken(error)

    def _exchanged(self, ask: Ask, deadline: Deadline) -> Answer:
        target = guard.check_url(ask.url, self._allowed)
        dialler = Dialler(deadline, self._allowed.networks, self._resolve)
        adapter = Pinned(dialler, target, lambda: tls_context(self._ca_pem))
        try:
            response = adapter.send(
                _prepared(ask), stream=True, timeout=deadline.left_s() + _GRACE_S, proxies={}
            )
            try:
                return self._read(response)
            finally:
                response.close()
        finally:
            adapter.close()

    def _read(self, response: requests.Response) -> Answer:
        headers = {name.lower(): value for name, value in response.headers.items()}
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            return _protocol("is compressed, which was not asked for")
        parts: list[bytes] = []
        room = self._reply_max_bytes + 1
        while room > 0:
            part = response.raw.read(min(room, _CHUNK), decode_content=False)
            if not part:
                break
            parts.append(part)
            room -= len(part)
        if room <= 0:
            return _protocol(f"is longer than {self._reply_max_bytes} bytes")
        body = b"".join(parts)
        return Answer(
            status=response.status_code,
            headers=headers,
            body=body,
            sha256=hashlib.sha256(body).hexdigest(),
        )

    def _timed_out(self) -> Answer:
        return Answer(
            failure=Failure.TIMEOUT, detail=f"no whole answer within {self._timeout_s:g} s"
        )


@lru_cache(maxsize=64)
def tls_context(ca_pem: str | None) -> ssl.SSLContext:
    """Return how TLS is spoken: to whom these authorities vouch for; None are the machine's.

    Made once for each: loading a bundle takes longer than many an exchange.
    """
    if ca_pem:
        return ssl.create_default_context(cadata=ca_pem)
    return ssl.create_default_context(cafile=str(system_ca_file()))


def _prepared(ask: Ask) -> requests.PreparedRequest:
    prepared = requests.PreparedRequest()
    prepared.prepare_method(ask.method)
    # Not prepare_url: it rewrites escapes, and what was signed is what must be sent.
    prepared.url = ask.url
    prepared.prepare_headers(
        {
            "User-Agent": "paynotify",
            "Accept": "*/*",
            **dict(ask.headers),
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
    )
    prepared.prepare_body(ask.body or None, None)
    return prepared


def _protocol(problem: str) -> Answer:
    return Answer(failure=Failure.PROTOCOL, detail=f"the answer {problem}")


def _broken(error: Exception) -> Answer:
    """Say in our own words what broke: the libraries' words hold the URL."""
    cause: BaseException | None = error
    for _ in range(8):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Answer(failure=Failure.TLS, detail=f"its certificate: {cause.verify_message}")
        if isinstance(cause, ssl.SSLError):
            return Answer(failure=Failure.TLS, detail="the TLS handshake failed")
        if isinstance(cause, ConnectionError) and not isinstance(cause, requests.RequestException):
            return Answer(failure=Failure.RESET, detail="the connection was cut")
        cause = _beneath(cause)
    return _protocol("is not HTTP, or ended too early")


def _beneath(error: BaseException | None) -> BaseException | None:
    if error is None:
        return None
    inner = [getattr(error, "reason", None), *error.args, error.__cause__, error.__context__]
    return next((found for found in inner if isinstance(found, BaseException)), None)
