"""The simulator's server: holds orders, keeps every question, and misbehaves as it is told."""

import gzip
import json
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.certificates import server_context
from tests.channel_dialects import DIALECTS
from tests.channel_speech import Dialect, Held, Keyring, Question, Reply, Request

_STALL_MAX_S = 60.0
_HUGE_BYTES = 8 << 20
_DRIP_S = 0.2


@dataclass
class _Books:
    """What the simulator knows; every field under ``lock``."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    orders: dict[tuple[str, str], Held] = field(default_factory=dict)
    rules: list[dict[str, Any]] = field(default_factory=list)
    honest: dict[str, Any] = field(default_factory=lambda: {"kind": "", "delay_s": 0})
    asked: list[dict[str, Any]] = field(default_factory=list)
    made: int = 0

    def find(self, channel: str, question: Question) -> Held | None:
        """Look an order up by whatever the question names."""
        if question.order_no and (found := self.orders.get((channel, question.order_no))):
            return found
        for (owner, _), held in self.orders.items():
            if owner == channel and (
                (question.txn_no and held.txn_no == question.txn_no)
                or (held.refund_no and held.refund_no in (question.refund_no, question.order_no))
            ):
                return held
        return None

    def rule(self, channel: str, route: str, order_no: str) -> dict[str, Any]:
        """Return the newest rule that speaks of this question."""
        for rule in reversed(self.rules):
            wanted = (rule["channel"], rule["route"], rule["order_no"])
            about = zip(wanted, (channel, route, order_no), strict=True)
            if all(want in (None, given) for want, given in about):
                return dict(rule)
        return self.honest

    def ask(
        self, channel: str, route: str, asked: Question, *, accepted: bool
    ) -> tuple[Held | None, dict[str, Any]]:
        """Note a question; returns the order it is about, and how to behave."""
        with self.lock:
            held = self.find(channel, asked)
            order_no = held.order_no if held else asked.order_no
            rule = self.rule(channel, route, order_no)
            self.asked.append(
                {
                    "channel": channel,
                    "route": route,
                    "what": asked.what,
                    "order_no": order_no,
                    "refund_no": asked.refund_no,
                    "accepted": accepted,
                    "kind": rule["kind"],
                    "at_s": time.time(),
                }
            )
            return _lived(self, channel, asked, held, rule["kind"]), rule

    def control(self, name: str, body: Any) -> object:
        with self.lock:
            if name == "asked":
                return self.asked
            if name == "state":
                held = self.orders.get((body["channel"], body["order_no"]))
                return held.state if held else "not_found"
            self._change(name, body)
            return "ok"

    def _change(self, name: str, body: Any) -> None:
        if name == "orders":
            for one in body:
                self._put(**one)
        elif name == "refund":
            key = (body.pop("channel"), body["order_no"])
            self.orders[key] = replace(self.orders[key], **body)
        elif name == "misbehave":
            self.rules.append(body)
        else:
            self.rules.clear()
            if name == "forget":
                self.orders.clear()
                self.asked.clear()

    def _put(
        self,
        channel: str,
        order_no: str,
        state: str,
        amount_minor: int,
        currency: str = "CNY",
        txn_no: str = "",
        paid_at_s: int = 0,
        refunded_minor: int = 0,
    ) -> None:
        self.made += 1
        known = self.orders.get((channel, order_no))
        prefix = "pi_" if channel == "stripe" else "20260131220014"
        self.orders[channel, order_no] = Held(
            order_no=order_no,
            state=state,
            amount_minor=amount_minor,
            currency=currency,
            txn_no=txn_no or (known.txn_no if known else f"{prefix}{self.made:014d}"),
            paid_at_s=paid_at_s or int(time.time()),
            refunded_minor=refunded_minor,
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(
        self,
        port: int,
        handler: type[BaseHTTPRequestHandler],
        books: _Books,
        speakers: dict[str, Dialect],
    ) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.books = books
        self.speakers = speakers

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up: they are told to. Say what is our own mistake."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Control(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = json.dumps(self.server.books.control(self.path.strip("/"), body)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: object) -> None:
        pass


class _Channels(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = _STALL_MAX_S

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        self.close_connection = True
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        _, route, channel, *rest = urlsplit(self.path).path.split("/")
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(method=self.command, target=self.path, headers=headers, body=body)
        speaker = self.server.speakers[channel]
        question = speaker.read(request, "/" + "/".join(rest))
        refused = question if isinstance(question, Reply) else None
        asked = Question(what="query") if isinstance(question, Reply) else question
        held, rule = self.server.books.ask(channel, route, asked, accepted=refused is None)
        kind = rule["kind"]
        reply = refused or speaker.answer(
            _about(asked, kind),
            _lied(held, kind),
            forged=kind == "bad_signature",
            stale=kind == "stale",
        )
        self._carry_out(reply, kind, rule["delay_s"])

    def _carry_out(self, reply: Reply, kind: str, delay_s: float) -> None:
        if kind == "stall":
            # Until the other side gives up: then there is something to read, an end.
            self.connection.settimeout(_STALL_MAX_S)
            self.connection.recv(1)
        elif kind == "redirect" and "redirected=1" not in self.path:
            sign = "&" if "?" in self.path else "?"
            location = ("Location", f"{self.path}{sign}redirected=1")
            self._send(replace(reply, status=302, headers=(location,), body=b""))
        elif kind == "drip":
            self._drip(reply)
        elif kind != "reset":
            if kind == "late":
                time.sleep(delay_s)
            self._send(_spoiled(reply, kind))

    def _send(self, reply: Reply) -> None:
        self._send_head(reply, len(reply.body))
        self.wfile.write(reply.body)

    def _drip(self, reply: Reply) -> None:
        self._send_head(reply, len(reply.body))
        for byte in reply.body:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(_DRIP_S)

    def _send_head(self, reply: Reply, length: int) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers:
            self.send_header(name, value)
        if reply.status != 204:
            self.send_header("Content-Length", str(length))
        self.end_headers()


def serve(folder: Path, port: int, tls: str | None) -> None:
    """Serve until terminated; prints the channels' port and the control port."""
    books, keys = _Books(), Keyring(folder)
    speakers = {name: made(keys) for name, made in DIALECTS.items()}
    control = _Server(0, _Control, books, speakers)
    channels = _Server(port, _Channels, books, speakers)
    if tls:
        context = server_context(tls, folder)
        # Handshakes in the thread of the connection, or one slow client holds them all up.
        channels.socket = context.wrap_socket(
            channels.socket, server_side=True, do_handshake_on_connect=False
        )
    threading.Thread(target=control.serve_forever, daemon=True).start()
    print(channels.server_port, control.server_port, flush=True)
    channels.serve_forever()


def _lived(
    books: _Books, channel: str, asked: Question, held: Held | None, kind: str
) -> Held | None:
    """Let a close take effect, unless the payer was faster."""
    if asked.what != "close" or held is None or held.was_paid or held.state == "not_found":
        return held
    state = "paid" if kind == "paid_on_close" else "closed"
    books.orders[channel, held.order_no] = replace(held, state=state)
    return books.orders[channel, held.order_no]


def _lied(held: Held | None, kind: str) -> Held | None:
    if held is None:
        return None
    if kind == "amount":
        return replace(held, amount_minor=held.amount_minor + 1)
    if kind == "currency":
        return replace(held, currency="USD" if held.currency == "CNY" else "CNY")
    if kind == "state":
        return replace(held, state="unpaid" if held.was_paid else "paid")
    if kind == "other_order":
        return replace(held, order_no=f"{held.order_no}9", refund_no=f"{held.refund_no}9")
    return held


def _about(asked: Question, kind: str) -> Question:
    return replace(asked, order_no=f"{asked.order_no}9") if kind == "other_order" else asked


def _spoiled(reply: Reply, kind: str) -> Reply:
    if kind == "500":
        return Reply(status=500, body=b"<html>Internal Server Error</html>")
    if kind == "garbage":
        return replace(reply, status=200, body=b"\xff\xfe<html>\x00success" + reply.body[:20])
    if kind == "huge":
        return replace(reply, status=200, body=reply.body + b" " * _HUGE_BYTES)
    if kind == "gzip":
        headers = (*reply.headers, ("Content-Encoding", "gzip"))
        return replace(reply, headers=headers, body=gzip.compress(reply.body))
    return reply
