"""What people see of the schedules, and what they order: history, pause, resume, a run by hand.

Must never change anything without a person and a reason in the audit log.
"""

import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    Connection,
    Engine,
    and_,
    func,
    insert,
    select,
    update,
)

from schedules import rows
from schedules.crontable import Line
from worker.columns import spelled
from worker.errors import BadFieldError, NotFoundError, WrongStateError
from worker.tables import audit
from worker.tables_schedules import schedule, sweep, tick

HISTORY_MAX = 1000
# The row in the sweeps' table that says that a beat runs.
BEAT = "beat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """One tick as history has it; see :data:`worker.tables_schedules.tick`."""

    name: str
    tick_at: datetime
    state: str
    job: str
    runs: int
    runner: str
    started_at: datetime | None
    finished_at: datetime | None
    result: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a line stands.

    Attributes:
        decided_until: every tick up to here is run, running, due or skipped.
        due: ticks that wait for a worker.
        last: the newest tick that was run; None when none was.
    """

    name: str
    paused: bool
    decided_until: datetime
    due: int
    last: Past | None


def standings(engine: Engine) -> dict[str, Standing]:
    """Say how every line stands that a beat has ever seen."""
    with engine.connect() as connection:
        waits = select(tick.c.name, func.count()).where(spelled(tick.c.state, "due"))
        due = connection.execute(waits.group_by(tick.c.name))
        waiting: dict[str, int] = {row[0]: row[1] for row in due}
        found = connection.execute(select(schedule).order_by(schedule.c.name)).all()
        return {
            row.name: Standing(
                name=row.name,
                paused=row.paused,
                decided_until=row.decided_until,
                due=waiting.get(row.name, 0),
                last=_last(connection, row.name),
            )
            for row in found
        }


def history(
    engine: Engine, name: str | None = None, *, limit: int = 50, before: datetime | None = None
) -> list[Past]:
    """List ticks, newest first.

    Args:
        engine: of the database.
        name: of one line; None is all.
        limit: 1 to 1000.
        before: only older ticks; go on with the last one's ``tick_at``.

    Raises:
        BadFieldError: a limit out of range.
    """
    if not 1 <= limit <= HISTORY_MAX:
        raise BadFieldError("limit", f"is {limit}, must be 1 to {HISTORY_MAX}")
    query = select(tick).order_by(tick.c.tick_at.desc(), tick.c.name).limit(limit)
    if name is not None:
        query = query.where(tick.c.name == name)
    if before is not None:
        query = query.where(tick.c.tick_at < before)
    with engine.connect() as connection:
        return [_past(row._mapping) for row in connection.execute(query)]  # noqa: SLF001


def order(engine: Engine, line: Line, *, who: str, why: str) -> datetime:
    """Make a tick that is due now, by hand; returns its instant. Each call makes another one."""
    with engine.begin() as tx:
        now = rows.now(tx)
        first = {"decided_until": now, "fingerprint": line.fingerprint}
        rows.insert_new(tx, schedule, {"name": line.name, **first})
        tx.execute(
            insert(tick).values(
                name=line.name,
                tick_at=now,
                note=f"ordered by {who}: {why}",
                job=line.job,
                arguments=line.arguments,
                time_limit_s=line.time_limit_s,
            )
        )
        _write_down(tx, "schedule.run", line.name, who, why)
    return now


def outcome(engine: Engine, name: str, tick_at: datetime) -> Past:
    """Say what became of one tick.

    Raises:
        NotFoundError: there is none.
    """
    with engine.connect() as connection:
        query = select(tick).where(tick.c.name == name, tick.c.tick_at == tick_at)
        row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFoundError("tick", f"{name} {tick_at}")
    return _past(row._mapping)  # noqa: SLF001 - a row as a mapping is its public face


def pause(engine: Engine, name: str, *, who: str, why: str) -> None:
    """Let a line tick no more until :func:`resume`; ticks that are due wait.

    Raises:
        WrongStateError: it is paused already.
    """
    with engine.begin() as tx:
        rows.insert_new(tx, schedule, {"name": name, "decided_until": rows.now(tx)})
        _turn(tx, name, paused=True)
        _write_down(tx, "schedule.pause", name, who, why)


def resume(engine: Engine, name: str, *, who: str, why: str) -> None:
    """Let a line tick again, from now: what it would have done meanwhile is not caught up.

    Raises:
        WrongStateError: it is not paused.
    """
    with engine.begin() as tx:
        _turn(tx, name, paused=False)
        _write_down(tx, "schedule.resume", name, who, why)


def show_beat(engine: Engine, name: str) -> None:
    """Write down that a beat runs; the row is :data:`BEAT` in the sweeps' table."""
    with engine.begin() as tx:
        rows.insert_new(tx, sweep, {"name": BEAT})
        values = {"runner": name, "beat_at": rows.now(tx)}
        tx.execute(update(sweep).where(sweep.c.name == BEAT).values(**values))


def beat_age_s(engine: Engine) -> float | None:
    """Say how long ago the last beat looked, in seconds; None when there never was one."""
    with engine.connect() as connection:
        at = connection.scalar(select(sweep.c.beat_at).where(sweep.c.name == BEAT))
        return None if at is None else max(0.0, (rows.now(connection) - at).total_seconds())


def _turn(tx: Connection, name: str, *, paused: bool) -> None:
    now = rows.now(tx)
    values: dict[str, object] = {"paused": paused, "updated_at": now}
    if not paused:
        values["decided_until"] = now
    turned = tx.execute(
        update(schedule)
        .where(and_(schedule.c.name == name, schedule.c.paused.is_(not paused)))
        .values(**values)
    )
    if turned.rowcount != 1:
        state = "paused already" if paused else "not paused"
        raise WrongStateError(f"schedule {name}", state, "nothing was changed")


def _write_down(tx: Connection, action: str, name: str, who: str, why: str) -> None:
    facts = json.dumps({"schedule": name})
    values = {"actor": who, "action": action, "subject": f"schedule {name}", "why": why}
    tx.execute(insert(audit).values(facts=facts, **values))


def _last(connection: Connection, name: str) -> Past | None:
    query = (
        select(tick)
        .where(tick.c.name == name, tick.c.runs > 0)
        .order_by(tick.c.tick_at.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else _past(row._mapping)  # noqa: SLF001 - as above


def _past(row: object) -> Past:
    fields = Past.__dataclass_fields__
    return Past(**{name: row[name] for name in fields})  # type: ignore[index]
