"""Notices of alerts on their way out: rows that are leased, tried again and never forgotten.

A notice is sent at least once: a sender that dies between sending and noting it sends again.
Notices of one alert go to one sink in order. Must never keep the database waiting for a sink.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Select,
    exists,
    or_,
    select,
    update,
)

from worker import telemetry
from worker.alerts import get
from worker.columns import spelled
from worker.errors import NotFoundError
from worker.incidents import Alert, Occasion
from worker.masking import mask
from worker.tables_alerts import alert_delivery

# 10 s, 20 s, ... half an hour: a sink that is back is found soon, one that is gone costs little.
_FIRST_DELAY_S = 10.0
_LONGEST_DELAY_S = 1800.0
# After so many days nobody wants to hear it; the log gets it then.
KEEP = timedelta(days=7)
_ERROR_MAX = 300
_NO_ALERT = "its alert is no more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One notice that its holder has to send.

    Attributes:
        alert: as it is now, which may be later than what ``text`` says.
        tries: this one included; fences off a holder whose lease ran out.
        written_at: when what it tells of happened.
    """

    id: int
    alert: Alert
    occasion: Occasion
    sink: str
    text: str
    tries: int
    written_at: datetime


def claim(
    engine: Engine, *, now: datetime, lease_s: float, without: frozenset[str] = frozenset()
) -> Notice | None:
    """Take the notice that has been due for longest; None when nothing is due.

    A notice whose alert is no more is given up on the way; the log gets it.

    Args:
        engine: of the database with our tables.
        now: on the database's clock.
        lease_s: for so long nobody else takes it.
        without: sinks that are not asked for now.
    """
    chosen = _first_due(now, without)
    lease_until = now + timedelta(seconds=lease_s)
    while True:
        with engine.begin() as tx:
            row = tx.execute(
                update(alert_delivery)
                .where(alert_delivery.c.id == chosen.scalar_subquery())
                .values(lease_until=lease_until, tries=alert_delivery.c.tries + 1)
                .returning(alert_delivery)
            ).first()
            if row is None:
                return None
            notice = _notice(tx, row)
        if notice is not None:
            return notice
        # Nobody can send it, and all the others would wait behind it.
        telemetry.log(
            telemetry.Event.ALERT_GIVEN_UP,
            level="error",
            alert=row.alert_id,
            sink=row.sink,
            why=_NO_ALERT,
            text=row.text,
        )


def _first_due(now: datetime, without: frozenset[str]) -> Select[tuple[int]]:
    earlier = alert_delivery.alias()
    table = alert_delivery
    return (
        select(table.c.id)
        .where(
            spelled(table.c.state, "due"),
            table.c.due_at <= now,
            or_(table.c.lease_until.is_(None), table.c.lease_until <= now),
            table.c.sink.not_in(sorted(without)),
            ~exists().where(
                earlier.c.alert_id == table.c.alert_id,
                earlier.c.sink == table.c.sink,
                spelled(earlier.c.state, "due"),
                earlier.c.id < table.c.id,
            ),
        )
        .order_by(table.c.due_at, table.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )


def _notice(tx: Connection, row: Row[Any]) -> Notice | None:
    """Read a notice with its alert; one without is closed."""
    try:
        found = get(tx, row.alert_id)
    except NotFoundError:
        tx.execute(
            update(alert_delivery)
            .where(alert_delivery.c.id == row.id)
            .values(state="given_up", lease_until=None, last_error=_NO_ALERT)
        )
        return None
    return Notice(
        id=row.id,
        alert=found,
        occasion=Occasion(row.occasion),
        sink=row.sink,
        text=row.text,
        tries=row.tries,
        written_at=row.written_at,
    )


def sent(engine: Engine, notice: Notice, *, now: datetime) -> bool:
    """Note that a sink took a notice; False when somebody else has it by now."""
    return _close(engine, notice, state="sent", sent_at=now, last_error="")


def failed(engine: Engine, notice: Notice, why: str, *, now: datetime) -> bool:
    """Note that a sink did not take it; it is due again later. False as in :func:`sent`."""
    return _close(
        engine,
        notice,
        state="due",
        due_at=now + timedelta(seconds=delay_s(notice.tries)),
        last_error=mask(why)[:_ERROR_MAX],
    )


def give_up(engine: Engine, notice: Notice, why: str) -> bool:
    """Note that a notice is not tried again. False as in :func:`sent`."""
    return _close(engine, notice, state="given_up", last_error=mask(why)[:_ERROR_MAX])


def delay_s(tries: int) -> float:
    """Say how long after a try the next one is due, seconds.

    Examples:
        >>> [delay_s(tries) for tries in (1, 2, 3, 100)]
        [10.0, 20.0, 40.0, 1800.0]
    """
    return float(min(_FIRST_DELAY_S * 2 ** min(tries - 1, 20), _LONGEST_DELAY_S))


def _close(engine: Engine, notice: Notice, **values: object) -> bool:
    table = alert_delivery
    with engine.begin() as tx:
        moved = tx.execute(
            update(table)
            .where(table.c.id == notice.id, table.c.tries == notice.tries, table.c.state == "due")
            .values(lease_until=None, **values)
        ).rowcount
    return moved == 1
