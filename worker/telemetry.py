"""What the engine says about itself: every log event, every metric, and what none may show.

Importing this starts nothing. Must never let a secret, a signature or a full card number through:
the mask lies over the finished line, at the handler, so other libraries' lines pass it too.
"""

import errno
import json
import logging
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from threading import Thread
from typing import Literal, TextIO
from wsgiref.simple_server import WSGIServer

from prometheus_client import start_http_server

from worker.masking import is_secret_name, mask

Level = Literal["debug", "info", "warning", "error"]
Form = Literal["json", "text"]


class Event(StrEnum):
    """What can happen; the value is what stands in the log and is searched for."""

    WORKER_STARTED = "worker.started"
    WORKER_STOPPED = "worker.stopped"
    METRICS_SERVED = "metrics.served"
    THREAD_LOST = "worker.thread_lost"  # a thread of ours died; the process is of no use now
    TICK_FAILED = "tick.failed"  # one round; the next tries again
    RELEASED = "lease.released"  # leases that ran out: attempts abandoned, rows back or buried
    UNSENDABLE = "attempt.unsendable"  # no request could be made of a row
    REFUSED = "guard.refused"  # the guard kept a request from going out
    SETTLE_RETRY = "settle.retry"  # the database did not take verdicts; tried again
    UNSETTLED = "settle.given_up"  # verdicts dropped because their lease is nearly over
    HEALTH_LOST = "health.lost"  # a breaker was not told; the next failures will
    BROKER_AWAY = "broker.away"
    BROKER_BACK = "broker.back"


def log(event: Event, level: Level = "info", **fields: object) -> None:
    """Write one line.

    Args:
        event: what happened.
        level: how bad that is.
        fields: the facts, each shown as text; one whose name says secret, password, token or
            signature shows ``***``. Pass an id rather than an object.
    """
    number = _LEVELS[level]
    if _logger.isEnabledFor(number):
        # Not Logger.log(): looking for the caller's file and line is half of its cost.
        _logger.handle(
            logging.LogRecord(_logger.name, number, "", 0, event.value, None, None, None)
            if not fields
            else _logger.makeRecord(
                _logger.name, number, "", 0, event.value, (), None, extra={"facts": fields}
            )
        )


def configure(level: Level, form: Form, stream: TextIO | None = None) -> None:
    """Send every log line of this process through one handler; called again, it replaces itself.

    Args:
        level: least level that is written.
        form: ``json``, one object a line, or ``text`` for people.
        stream: where to; None is standard error.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(handler)
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(LineFormatter(form))
    root.addHandler(handler)
    root.setLevel(_LEVELS[level])


class LineFormatter(logging.Formatter):
    """Turn any record into one line: control characters escaped, secrets masked.

    Args:
        form: ``json`` or ``text``.
    """

    def __init__(self, form: Form) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line feed."""
        head = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        facts: dict[str, object] = {}
        if record.name == _logger.name:
            head["event"] = record.getMessage()
            facts = getattr(record, "facts", {})
        else:
            head["logger"] = record.name
            facts["message"] = record.getMessage()
        if record.exc_info:
            facts = {**facts, "traceback": self.formatException(record.exc_info)}
        shown = {name: "***" if is_secret_name(name) else fact for name, fact in facts.items()}
        return mask(
            _one_line(self._json(shown | head) if self._form == "json" else _text(head, shown))
        )

    @staticmethod
    def _json(facts: dict[str, object]) -> str:
        first = {
            name: facts.pop(name) for name in ("at", "level", "event", "logger") if name in facts
        }
        return json.dumps(first | facts, ensure_ascii=False, default=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsServer:
    """The page Prometheus reads. ``port`` is the one really bound."""

    port: int
    _server: WSGIServer
    _thread: Thread

    def close(self) -> None:
        """Stop serving; called again, it does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve_metrics(port: int, *, address: str = "127.0.0.1", tries: int = 64) -> MetricsServer:
    """Serve this process's metrics over HTTP, without any login.

    Args:
        port: of the first worker process on this machine; the next ones find it taken and use
            the ones behind it. 0 is any free port.
        address: to bind to; others can read it unless it is a loopback address.
        tries: how many ports to try.

    Raises:
        OSError: none of them is free, or the address is not ours.
    """
    for last in range(port, port + tries):
        try:
            server, thread = start_http_server(last, addr=address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or last == port + tries - 1:
                raise
        else:
            return MetricsServer(port=server.server_port, _server=server, _thread=thread)
    raise ValueError("tries must be 1 or more")


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that ``configure`` can find it again."""


def _one_line(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _text(head: dict[str, str], facts: dict[str, object]) -> str:
    words = [head["at"], head["level"], head.get("event", head.get("logger", ""))]
    return " ".join(words + [f"{name}={fact}" for name, fact in facts.items()])


_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
# C0, DEL, C1 and the two Unicode line ends: none may make one event look like two.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_logger = logging.getLogger("paynotify")
