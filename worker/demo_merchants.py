"""The demo's three merchants: real HTTP servers that keep books of their own.

They share no code with the engine: what a merchant knows is its URL, its secret and what
arrives. Must never answer ``success`` to a notification whose signature it has not checked.
"""

import base64
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread

from worker import clock

# A merchant's answer to the n-th time it sees one notification: status and body.
Manners = Callable[[int], tuple[int, str]]
_TOLERANCE_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a merchant's book.

    Attributes:
        nth: which time this notification came, from 1; 0 for what was refused.
        acked: it answered ``success``.
        genuine: the signature was right.
    """

    message_id: str
    order_no: str
    event_type: str
    nth: int
    status: int
    answer: str
    acked: bool
    genuine: bool


class Merchant:
    """One merchant: a server on a free port of 127.0.0.1 and a book in a file.

    Args:
        name: also the name of its endpoint and of its file.
        manners: how it answers; may be changed at any time.
        folder: where the book is kept, one JSON object per line.
    """

    def __init__(self, name: str, manners: Manners, folder: Path) -> None:
        self.name = name
        self.manners = manners
        self.file = folder / f"{name}.jsonl"
        self._secret = b""
        self._seen: Counter[str] = Counter()
        self._entries: list[Entry] = []
        self._lock = Lock()
        merchant = self

        class Handler(_Handler):
            def do_POST(self) -> None:
                self.answer(*merchant._receive(self))

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where it wants to be called."""
        return f"http://127.0.0.1:{self.port}/pay/notify"

    @property
    def port(self) -> int:
        """Its TCP port."""
        return int(self._server.server_address[1])

    def open(self, secret: str) -> None:
        """Start serving with the secret it was given (``whsec_…``)."""
        self._secret = base64.b64decode(secret.removeprefix("whsec_"))
        self._thread.start()

    def close(self) -> None:
        """Stop serving; the book stays."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()

    def entries(self) -> list[Entry]:
        """Return what arrived, oldest first."""
        with self._lock:
            return [*self._entries]

    def book(self) -> list[Entry]:
        """Read the book back from its file."""
        if not self.file.exists():
            return []
        with self.file.open(encoding="utf-8") as lines:
            return [Entry(**json.loads(line)) for line in lines]

    def _receive(self, handler: "_Handler") -> tuple[int, str]:
        body = handler.rfile.read(int(handler.headers.get("content-length", "0")))
        message_id = handler.headers.get("webhook-id", "")
        genuine = self._is_genuine(
            message_id,
            handler.headers.get("webhook-timestamp", ""),
            handler.headers.get("webhook-signature", ""),
            body,
        )
        event = json.loads(body) if genuine else {}
        with self._lock:
            if genuine:
                self._seen[message_id] += 1
                nth = self._seen[message_id]
                status, answer = self.manners(nth)
            else:
                nth, status, answer = 0, 401, "bad signature"
            entry = Entry(
                message_id=message_id,
                order_no=event.get("order_no", ""),
                event_type=event.get("type") or event.get("event", ""),
                nth=nth,
                status=status,
                answer=answer,
                acked=status == 200 and answer == "success",
                genuine=genuine,
            )
            # Written before it is answered: the book may know more than the sender, never less.
            with self.file.open("a", encoding="utf-8") as book:
                book.write(json.dumps(asdict(entry)) + "\n")
            self._entries.append(entry)
        return status, answer

    def _is_genuine(self, message_id: str, timestamp: str, signatures: str, body: bytes) -> bool:
        if not timestamp.isdecimal() or abs(clock.unix_s() - int(timestamp)) > _TOLERANCE_S:
            return False
        signed = f"{message_id}.{timestamp}.".encode() + body
        digest = hmac.digest(self._secret, signed, hashlib.sha256)
        wanted = "v1," + base64.b64encode(digest).decode()
        return any(hmac.compare_digest(wanted, given) for given in signatures.split())


def healthy(nth: int) -> tuple[int, str]:
    """Answer ``success`` at once.

    Examples:
        >>> healthy(1)
        (200, 'success')
    """
    return 200, "success"


def flaky(nth: int) -> tuple[int, str]:
    """Fail the first time, forget the word the second time, then answer ``success``.

    Examples:
        >>> [flaky(nth) for nth in (1, 2, 3)]
        [(500, 'busy'), (200, 'received'), (200, 'success')]
    """
    return [(500, "busy"), (200, "received")][nth - 1] if nth <= 2 else (200, "success")


def dead(nth: int) -> tuple[int, str]:
    """Be down.

    Examples:
        >>> dead(1)
        (503, 'down for maintenance')
    """
    return 503, "down for maintenance"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A hundred connections may come at once.
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one packet: two would wait 40 ms for the other side's acknowledgement.
    wbufsize = -1
    # Whoever keeps a connection open and says nothing must not keep a thread for ever.
    timeout = 60

    def answer(self, status: int, text: str) -> None:
        """Send a short reply and keep the connection."""
        body = text.encode()
        self.send_response(status)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing: the screen belongs to the demo."""
