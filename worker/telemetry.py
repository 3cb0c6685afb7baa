"""What the engine says about itself: every log event and every metric.

Importing this starts nothing. Must never let a secret, a signature or a full card number out: the
mask lies over the finished line, at the handler, so the lines of other libraries pass it too.
"""

import errno
import json
import logging
import re
import sys
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal, TextIO

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from worker.masking import is_secret_name, mask

Level = Literal["debug", "info", "warning", "error"]
Form = Literal["json", "text"]


class Event(StrEnum):
    """What can happen; the value is what stands in the log and is searched for."""

    WORKER_STARTED = "worker.started"
    WORKER_STOPPED = "worker.stopped"
    FILES_FEW = "worker.few_files"  # fewer may be open than requests on the wire
    METRICS_SERVED = "metrics.served"
    THREAD_LOST = "worker.thread_lost"  # a thread of ours is gone; the process must go too
    TICK_FAILED = "tick.failed"  # one round; the next tries again
    ORDERS_FAILED = "orders.failed"  # orders without a notification cannot be looked for
    RELEASED = "lease.released"  # leases ran out: attempts abandoned, rows back or buried
    ALONE_FAILED = "alone.failed"  # a process for suspects did nothing; started again later
    UNSENDABLE = "attempt.unsendable"  # no request could be made of a row
    REFUSED = "guard.refused"  # the guard kept a request from going out
    ORDER_UNREADABLE = "order.unreadable"  # a host's row does not fit its mapping; left out
    ORDER_FAULT = "order.fault"  # one order could not be judged; asked about again later
    CHANNEL_FAULT = "channel.fault"  # an adapter raised; taken as an unknown answer
    SETTLE_RETRY = "settle.retry"  # the database did not take verdicts; tried again
    UNSETTLED = "settle.given_up"  # verdicts dropped, because their lease was nearly over
    HEALTH_LOST = "health.lost"  # a breaker was not told; the next failures will
    ROUTE_MOVED = "route.moved"  # a callback route tripped, came back a step, or is sound
    MEASURES_KEPT = "measures.kept"  # counts the database did not take; written with the next
    FROZEN = "endpoint.frozen"  # held because it keeps failing; probed until it answers
    FREEZE_MOVED = "endpoint.freeze_moved"  # a probe let it go, or it waits for a person
    FREEZE_FAILED = "freeze.failed"  # one round of probes; the next one tries again
    ALERT = "alert"  # what the log is told of an incident
    ALERT_UNSENT = "alert.unsent"  # a sink did not take it; tried again
    ALERT_GIVEN_UP = "alert.given_up"  # a sink did not take it for days; the log has it
    RULE_REFUSED = "alert.rule_refused"  # one entry of alerts.toml; the others work
    RULE_FAILED = "alert.rule_failed"  # its measure could not be taken this time
    DATABASE_AWAY = "database.away"  # when a worker starts; it waits
    BROKER_AWAY = "broker.away"
    BROKER_BACK = "broker.back"
    SCHEDULES_REFUSED = "schedules.refused"  # a line of the cron table, or all of it
    SCHEDULES_READ = "schedules.read"
    BEAT_STARTED = "beat.started"
    BEAT_FAILED = "beat.failed"  # one look; the next one tries again
    CLOCK_SET_BACK = "beat.clock_set_back"  # of the database; no tick comes twice for it
    JOB_DONE = "job.done"
    JOB_FAILED = "job.failed"
    JOB_LOST = "job.lost"  # its runner is gone, or it did not stop at its time limit
    JOB_HANGS = "job.hangs"  # it did not stop long after its time limit; its slot is given back
    RUNNER_FAILED = "runner.failed"  # one look for due ticks; the next one tries again
    JUNK = "broker.junk"  # what lay in a queue was no message of ours; thrown away


# Logging


def log(event: Event, level: Level = "info", **fields: object) -> None:
    """Write one line about an event.

    Args:
        event: what happened.
        level: how bad that is.
        fields: the facts, each shown as its text; one whose name says secret, password, token or
            signature shows ``***``. Give ids and whole sentences, not objects.
    """
    number = _LEVELS[level]
    if _logger.isEnabledFor(number):
        # Not Logger.log(): half of its cost is looking for the caller's file and line.
        record = logging.LogRecord(_logger.name, number, "", 0, event.value, None, None)
        record.__dict__["facts"] = fields
        _logger.handle(record)


def configure(level: Level, form: Form, stream: TextIO | None = None) -> None:
    """Send every log line of this process through one handler; called again, it replaces itself.

    Args:
        level: least level that is written.
        form: ``json``, one object a line, or ``text`` for people.
        stream: where to; None is standard error. The caller keeps it open.
    """
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler.formatter, LineFormatter):
            root.removeHandler(handler)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter(form))
    root.addHandler(handler)
    root.setLevel(_LEVELS[level])


class LineFormatter(logging.Formatter):
    """Turn any record into exactly one line: control characters escaped, secrets masked.

    Args:
        form: ``json`` or ``text``.
    """

    def __init__(self, form: Form) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its line feed."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        message = record.getMessage()
        facts: dict[str, object] = {}
        if record.name == _logger.name:
            kind = "event"
            name = message
            facts |= record.__dict__.get("facts", {})
        else:
            kind = "logger"
            name = record.name
            facts["message"] = message
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        shown = {key: "***" if is_secret_name(key) else fact for key, fact in facts.items()}
        head = {"at": moment, "level": record.levelname.lower(), kind: name}
        line = _as_json(head, shown) if self._form == "json" else _as_text(head, shown)
        return mask(line if line.isprintable() else _UNPRINTABLE.sub(_escaped, line))


def _as_json(head: dict[str, str], facts: dict[str, object]) -> str:
    # The head last, so that no field can pose as it; a dict keeps the place of the first.
    return json.dumps({**head, **facts, **head}, ensure_ascii=False, default=str)


def _as_text(head: dict[str, str], facts: dict[str, object]) -> str:
    at, level, name = head.values()
    shown = "".join(f" {key}={_value(fact)}" for key, fact in facts.items())
    return f"{at} {level:<7} {name}{shown}"


def _value(fact: object) -> str:
    text = str(fact)
    return text if _PLAIN(text) else json.dumps(text, ensure_ascii=False)


def _escaped(match: re.Match[str]) -> str:
    """Write one character as JSON would, if it may not stand as it is."""
    char = match[0]
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else json.dumps(char)[1:-1]


# Metrics


def count_claim(rows: int) -> None:
    """Count one claim that took ``rows`` rows."""
    CLAIMS.inc()
    CLAIMED.inc(rows)


def count_settled(decisions: Iterable[str], stale: int = 0) -> None:
    """Count what one settle wrote, and how many verdicts came too late to be written."""
    for decision, count in Tally(decisions).items():
        SETTLED.labels(decision).inc(count)
    if stale:
        STALE.inc(stale)


def count_stale(count: int = 1) -> None:
    """Count verdicts dropped because somebody else owns the row, or soon will."""
    STALE.inc(count)


def count_settle_retry() -> None:
    """Count a settle that the database did not take."""
    SETTLE_RETRIES.inc()


def count_abandoned(count: int) -> None:
    """Count attempts whose lease ran out without a verdict."""
    ABANDONED.inc(count)


def count_refusal() -> None:
    """Count a request that the guard kept from going out."""
    REFUSALS.inc()


def count_freeze() -> None:
    """Count an endpoint that was frozen."""
    FREEZES.inc()


def count_probe(code: str) -> None:
    """Count a ping to a frozen endpoint by what came back."""
    PROBES.labels(code).inc()


def count_unfreeze(move: str, frozen_s: float, answered_s: float) -> None:
    """Count an endpoint that was let go.

    Args:
        move: ``unfreeze``, ``trial``, ``gone``.
        frozen_s: how long it was frozen.
        answered_s: since the last probe it did not answer: it was let go at the latest so long
            after it could.
    """
    UNFREEZES.labels(move).inc()
    FROZEN_S.observe(frozen_s)
    ANSWERED_S.observe(answered_s)


def count_bell(result: Literal["rung", "coalesced", "failed"]) -> None:
    """Count a ring of the doorbell."""
    BELLS.labels(result).inc()


def show_broker_away(*, away: bool) -> None:
    """Show whether this process works without the broker."""
    BROKER_AWAY.set(away)


def show_in_flight(count: Callable[[], int]) -> None:
    """Show what ``count`` returns at each scrape; costs nothing between two of them."""
    IN_FLIGHT.set_function(count)


def serve_metrics(
    port: int, *, address: str = "127.0.0.1", tries: int = 64
) -> tuple[int, Callable[[], None]]:
    """Serve this process's metrics over HTTP, to anyone who can reach the address.

    Args:
        port: for the first worker process of this machine; the next ones find it taken and use
            the ports behind it. 0 is any free one.
        address: to bind to.
        tries: how many ports to try, 1 or more.

    Returns:
        The port that was bound, and what stops serving; to be called once.

    Raises:
        OSError: none of the ports is free, or the address is not this machine's.
    """
    ports = range(port, min(port + tries, 65_536))
    for each in ports:
        try:
            server, thread = start_http_server(each, addr=address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or each == ports[-1]:
                raise
            continue
        break

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return server.server_port, close


SETTLED = Counter("paynotify_settled", "Verdicts written, by what they order", ["decision"])
STALE = Counter("paynotify_stale_settles", "Verdicts dropped: another claim owned the row")
SETTLE_RETRIES = Counter("paynotify_settle_retries", "Settles the database did not take")
ABANDONED = Counter("paynotify_abandoned_attempts", "Attempts whose lease ran out, no verdict")
for _decision in ("delivered", "retry", "dead", "hold"):
    SETTLED.labels(_decision)  # so that rates see the first one
CLAIMS = Counter("paynotify_claims", "Claims made")
CLAIMED = Counter("paynotify_claimed", "Notifications claimed")
IN_FLIGHT = Gauge("paynotify_in_flight", "Requests on the wire in this process")
BELLS = Counter("paynotify_bells", "Rings of the doorbell", ["result"])
FREEZES = Counter("paynotify_freezes", "Endpoints frozen because they kept failing")
PROBES = Counter(
    "paynotify_freeze_probes", "Pings to frozen endpoints, by what came back", ["code"]
)
UNFREEZES = Counter("paynotify_unfreezes", "Frozen endpoints let go, by how", ["move"])
FROZEN_S = Histogram(
    "paynotify_frozen_seconds",
    "How long endpoints were frozen",
    buckets=(30, 60, 120, 300, 600, 1800, 3600, 14_400, 86_400),
)
ANSWERED_S = Histogram(
    "paynotify_unfreeze_lag_seconds",
    "From the last probe that failed to letting go: at most so late after it answered",
    buckets=(5, 10, 20, 30, 45, 60, 90, 120, 300),
)
REFUSALS = Counter("paynotify_guard_refusals", "Requests the guard kept from going out")
BROKER_AWAY = Gauge("paynotify_broker_away", "1 while this process works without the broker")

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_logger = logging.getLogger("paynotify")
_UNPRINTABLE = re.compile(r"[^ -~]")
_PLAIN = re.compile(r"[^\s\"=\\]+").fullmatch
