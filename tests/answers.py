"""What the scripted merchant answers on which path; the bytes, and how they are handed out.

Must never depend on anything but the path, the message id and what the control path set.
"""

import base64
import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

Query = dict[str, str]
KEEP, CLOSE, RST, HANG = "keep", "close", "rst", "hang"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How one request is treated.

    Attributes:
        status: what the ledger records; 0 when no full head is ever sent.
        raw: bytes sent first.
        pieces: bytes sent after them, one piece every ``interval_s``, as fast as the peer reads
            when that is 0.
        delay_s: wait before the first byte.
        end: what happens to the connection afterwards.
    """

    status: int
    raw: bytes = b""
    pieces: Callable[[], Iterator[bytes]] | None = None
    interval_s: float = 0.0
    delay_s: float = 0.0
    end: str = KEEP


@dataclass
class State:
    """What the merchant remembers from one request to the next."""

    seen: Counter[str] = field(default_factory=Counter)
    toggles: dict[str, str] = field(default_factory=dict)


def answer(target: str, message_id: str, state: State) -> Answer:
    """Choose the answer to one request; an unknown path is a 404."""
    if target.startswith(("/flaky", "/fitful", "/toggle/", "/_control/")):
        path, query = _split(target)
        return _remembering(path, query, message_id, state)
    return _plain(target)


def whole(status: int, body: bytes, *headers: str, end: str = KEEP, delay_s: float = 0) -> Answer:
    """Build an honest answer with its length."""
    closing = () if end == KEEP else ("Connection: close",)
    names = (f"Content-Length: {len(body)}", *headers, *closing)
    return Answer(status=status, raw=head(status, *names) + body, end=end, delay_s=delay_s)


def head(status: int, *headers: str) -> bytes:
    """Build a status line and headers."""
    phrase = next((known.phrase for known in HTTPStatus if known == status), "Whatever")
    return "\r\n".join((f"HTTP/1.1 {status} {phrase}", *headers, "", "")).encode("latin-1")


def _split(target: str) -> tuple[str, Query]:
    parts = urlsplit(target)
    return parts.path, dict(parse_qsl(parts.query, keep_blank_values=True))


def _remembering(path: str, query: Query, message_id: str, state: State) -> Answer:
    kind, _, name = path.strip("/").partition("/")
    if kind == "_control":
        state.toggles[name] = query.get("status", "200")
        return whole(200, b"done")
    if kind == "flaky":
        state.seen[path + message_id] += 1
        bad = state.seen[path + message_id] <= int(query.get("fail", "1"))
        return whole(500, b"not yet") if bad else whole(200, b"success")
    if kind == "fitful":
        return _fitful(path + message_id, query, state)
    status = state.toggles.get(name, "503")
    if status == HANG:
        return Answer(status=0, end=HANG)
    return whole(int(status), b"success" if status == "200" else b"dead")


def _fitful(who: str, query: Query, state: State) -> Answer:
    """Fail ``percent`` of the requests, whichever, after ``ms``; the same ones in every run."""
    state.seen[who] += 1
    lot = zlib.crc32(f"{who}{state.seen[who]}".encode()) % 100
    status, body = (503, b"not now") if lot < int(query.get("percent", "30")) else (200, b"success")
    return whole(status, body, delay_s=float(query.get("ms", "0")) / 1000)


@cache
def _plain(target: str) -> Answer:
    path, query = _split(target)
    name = path.strip("/")
    if name.isdigit() and len(name) == 3:
        return _by_status(int(name), query)
    known = _KNOWN.get(name)
    if known is None and name in _DRIPS:
        return _drip(name, float(query.get("ms", "400")) / 1000)
    return known(query) if known else whole(404, b"no such path")


def _by_status(status: int, query: Query) -> Answer:
    headers = []
    if "retry_after" in query:
        headers.append(f"Retry-After: {query['retry_after']}")
    if 301 <= status <= 308:
        headers.append(f"Location: {query.get('to', '/sink')}")
    return whole(status, b"" if status in (204, 304) else b"ok", *headers)


def _word(query: Query) -> Answer:
    kind = query.get("type", "text/plain")
    body = query.get("body", "").encode()
    return whole(int(query.get("status", "200")), body, f"Content-Type: {kind}")


def _slow(query: Query) -> Answer:
    return whole(200, b"success", delay_s=float(query.get("ms", "1000")) / 1000)


def _raw(query: Query) -> Answer:
    """Send exactly ``b64`` (URL-safe) and close, or ``hang`` with the connection open."""
    data = base64.urlsafe_b64decode(query["b64"])
    return Answer(status=int(query.get("status", "0")), raw=data, end=query.get("end", CLOSE))


def _bomb(_query: Query) -> Answer:
    packer = zlib.compressobj(1, wbits=31)
    zeros = bytes(1 << 20)
    packed = b"".join([*(packer.compress(zeros) for _ in range(50)), packer.flush()])
    return whole(200, packed, "Content-Encoding: gzip")


def _many_headers(query: Query) -> Answer:
    count = int(query.get("count", "5000"))
    return whole(200, b"success", *(f"X-Header-{i}: {i}" for i in range(count)))


def _endless(_query: Query) -> Answer:
    body = b"x" * 65_536
    return Answer(status=200, raw=head(200), pieces=lambda: itertools.repeat(body), end=CLOSE)


def _raw_text(text: str, *, end: str = CLOSE, status: int = 200) -> Callable[[Query], Answer]:
    made = Answer(status=status, raw=text.replace("\n", "\r\n").encode("latin-1"), end=end)
    return lambda _query: made


def _body(body: bytes, *headers: str) -> Callable[[Query], Answer]:
    return lambda _query: whole(200, body, *headers)


def _drip(name: str, interval_s: float) -> Answer:
    raw, piece = _DRIPS[name]
    return Answer(
        status=200 if name == "drip-body" else 0,
        raw=raw,
        pieces=lambda: itertools.repeat(piece),
        interval_s=interval_s,
        end=CLOSE,
    )


_DRIPS = {
    "drip-head": (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a"),
    "drip-line": (b"HTTP/1.1 2", b"0"),
    "drip-body": (head(200, "Content-Length: 100000"), b"s"),
    "drip-1xx": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "drip-chunk-ext": (head(200, "Transfer-Encoding: chunked") + b"5;a=", b"b"),
}

_KNOWN: dict[str, Callable[[Query], Answer]] = {
    "success": _body(b"success"),
    "fail": _body(b"fail"),
    "sink": _body(b"should not have come here"),
    "word": _word,
    "slow": _slow,
    "raw": _raw,
    "hang": lambda _query: Answer(status=0, end=HANG),
    "rst": lambda _query: Answer(status=0, end=RST),
    "close": lambda _query: Answer(status=0, end=CLOSE),
    "close-mid": _raw_text("HTTP/1.1 200 OK\nContent-Length: 1000\n\nsuc"),
    "refresh": _body(b"<html>", "Refresh: 0; url=/sink", "Content-Type: text/html"),
    "huge": _endless,
    "gzip": _bomb,
    "nul": _body(b"suc\x00cess"),
    "utf8-bad": _body(b"\xff\xfe\x80success"),
    "surrogate": _body(b'{"code":"\\ud800"}\xed\xa0\x80', "Content-Type: application/json"),
    "long-line": _body(b"x" * 4_000_000),
    "headers-5000": _many_headers,
    "header-2mb": lambda _query: whole(200, b"success", "X-Long: " + "x" * 2_000_000),
    "dup-cl": _raw_text("HTTP/1.1 200 OK\nContent-Length: 7\nContent-Length: 4\n\nsuccess"),
    "te-cl": _raw_text(
        "HTTP/1.1 200 OK\nContent-Length: 7\nTransfer-Encoding: chunked\n\n7\nsuccess\n0\n\n"
    ),
    "bad-framing": _raw_text("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nzz\nsuccess\n0\n\n"),
    "no-http": _raw_text("SSH-2.0-OpenSSH_9.2\n", status=0),
}
