"""Sends the notices that are due, each to its sink, within a budget of time.

A sink that fails is left alone until the next round; the others get theirs. Must never run where
callbacks are delivered, nor lose a notice because its sink is down.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy import Engine

from schedules import alert_rules
from schedules.alert_sinks import Sink
from worker import alert_post, clock, telemetry
from worker.alert_post import Notice
from worker.errors import BadFieldError
from worker.runtime import Desk

# More than any send may take, so that nobody sends beside a sender that is only slow.
_LEASE_S = 90.0
NOTHING_DUE = "nothing is due"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What one round did; counts of notices."""

    sent: int = 0
    failed: int = 0
    given_up: int = 0

    def __str__(self) -> str:
        if not (self.sent or self.failed or self.given_up):
            return NOTHING_DUE
        lost = f", {self.given_up} given up" if self.given_up else ""
        return f"{self.sent} sent, {self.failed} to be tried again{lost}"


def deliver_due(
    engine: Engine, sinks: Mapping[str, Sink], *, now: datetime, budget_s: float = 60.0
) -> Delivered:
    """Send what is due; safe to call in several processes at once.

    A process that dies while it sends leaves a lease; the notice is sent again after it.

    Args:
        engine: of the database with our tables.
        sinks: those in force, by name.
        now: on the database's clock, when the round begins.
        budget_s: nothing is begun after so long.
    """
    began_s = clock.monotonic_s()
    down: set[str] = set()
    sent = failed = given_up = 0
    while (passed_s := clock.monotonic_s() - began_s) < budget_s:
        at = now + timedelta(seconds=passed_s)
        notice = alert_post.claim(engine, now=at, lease_s=_LEASE_S, without=frozenset(down))
        if notice is None:
            break
        why = send(sinks.get(notice.sink), notice)
        at = now + timedelta(seconds=clock.monotonic_s() - began_s)
        if not why:
            sent += alert_post.sent(engine, notice, now=at)
        elif at - notice.written_at > alert_post.KEEP:
            given_up += _gave_up(engine, notice, why)
        else:
            down.add(notice.sink)
            failed += alert_post.failed(engine, notice, why, now=at)
            _say(telemetry.Event.ALERT_UNSENT, notice, why, level="warning")
    return Delivered(sent=sent, failed=failed, given_up=given_up)


class Deadline(Protocol):
    """What says how long a job may go on."""

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        ...


def run(desk: Desk, arguments: Mapping[str, object], deadline: Deadline) -> str:
    """Do the job ``alert-delivery``: send what is due; returns what came of it.

    Args:
        desk: tools of this process.
        arguments: none are known.
        deadline: nothing is begun after it.

    Raises:
        SettingsError: ``alerts.toml`` cannot be read.
    """
    if arguments:
        raise BadFieldError("arguments", f"has {', '.join(arguments)}; this job takes none")
    sinks = alert_rules.load(desk.settings).sinks
    now = desk.store.now()
    return str(deliver_due(desk.engine, sinks, now=now, budget_s=deadline.left_s))


def send(sink: Sink | None, notice: Notice) -> str:
    """Hand one notice to a sink; returns why it was not taken, empty when it was."""
    if sink is None:
        return f"alerts.toml has no sink {notice.sink!r} that works"
    try:
        return sink.send(notice)
    except Exception as error:  # noqa: BLE001 - one sink's mistake must not keep the others waiting
        # Its text may quote an address.
        return f"it failed with {type(error).__name__}"


def _gave_up(engine: Engine, notice: Notice, why: str) -> bool:
    # The log is the sink of last resort.
    _say(telemetry.Event.ALERT_GIVEN_UP, notice, why, level="error", text=notice.text)
    return alert_post.give_up(engine, notice, why)


def _say(
    event: telemetry.Event, notice: Notice, why: str, *, level: telemetry.Level, text: str = ""
) -> None:
    facts: dict[str, object] = {"alert": notice.alert.id, "sink": notice.sink, "why": why}
    telemetry.log(event, level=level, **facts | ({"text": text} if text else {}))
