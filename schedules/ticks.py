"""The ticks in the database: who decides them, who runs them, what became of them.

A tick is a row with a unique key (line, instant), written before anybody is told of it. So it is
decided once, however many beats look and however often clocks are set. Whoever runs it holds a
lease with a number; a runner that is lost is followed by another one. Everything is measured on
the database's clock.

Must never run two ticks of one line at once, nor let one that was finished be run again.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    Row,
    and_,
    exists,
    func,
    select,
    tuple_,
    update,
)

from schedules import rows
from schedules.catch_up import GRACE, Decision, Waiting, decide
from schedules.crontable import Line
from worker import telemetry
from worker.columns import spelled
from worker.masking import mask
from worker.tables_schedules import schedule, tick

# A tick that takes its runner with it as often as this is not tried again.
LOST_MAX = 3
# The database's clock may be corrected by this much without anybody caring.
_CORRECTION = timedelta(seconds=60)
_RESULT_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One tick that is ours to run.

    Attributes:
        runs: starts, this one included; those that were handed back do not count.
    """

    name: str
    tick_at: datetime
    job: str
    arguments: dict[str, object]
    time_limit_s: int
    claim_no: int
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """What was found of runners that are gone: ticks that are due again, and given up."""

    again: int = 0
    given_up: int = 0


def _is(ticks: FromClause, state: str) -> ColumnElement[bool]:
    return spelled(ticks.c.state, state)


_DUE = _is(tick, "due")


class Ticks:
    """The door to the ticks; safe to share between threads.

    Args:
        engine: of the database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def decide(self, lines: Iterable[Line]) -> int:
        """Decide about every tick whose time has come; returns how many are to be run now.

        Each line is one transaction: the row that says how far it is decided moves by
        compare-and-set together with the ticks' rows. Whoever comes second, or dies before,
        leaves nothing behind.
        """
        chosen = [line for line in lines if line.enabled]
        with self._engine.connect() as connection:
            now = rows.now(connection)
            found = {row.name: row for row in connection.execute(select(schedule))}
            waiting = _waiting(connection)
        due = 0
        for line in chosen:
            row = found.get(line.name)
            if row is None or not row.paused:
                due += self._decide(line, row, now, waiting.get(line.name))
        self._forget_disabled(lines, found)
        return due

    def claim(
        self, runner: str, *, lease_s: float, without: frozenset[str] = frozenset()
    ) -> Tick | None:
        """Take the oldest due tick of a line of which none runs; None when there is none.

        Args:
            runner: who takes it, for people.
            lease_s: how long it stays ours without :meth:`renew`.
            without: lines that are not asked for.
        """
        running = tick.alias()
        mine = and_(tick.c.name == schedule.c.name, _DUE)
        busy = exists().where(running.c.name == schedule.c.name, _is(running, "running"))
        oldest = select(func.min(tick.c.tick_at)).where(mine).scalar_subquery()
        free = (
            select(schedule.c.name)
            .where(
                ~schedule.c.paused,
                schedule.c.name.not_in(sorted(without)),
                exists().where(mine),
                ~busy,
            )
            .order_by(oldest)
            .limit(1)
            .with_for_update(of=schedule, skip_locked=True)
        )
        with self._engine.begin() as tx:
            name = tx.scalar(free)
            return None if name is None else _take(tx, name, runner, lease_s)

    def renew(self, ticks: Sequence[Tick], *, lease_s: float) -> list[Tick]:
        """Keep leases; returns the ticks that are still ours."""
        if not ticks:
            return []
        with self._engine.begin() as tx:
            until = rows.now(tx) + timedelta(seconds=lease_s)
            kept = tx.execute(
                update(tick)
                .where(
                    tuple_(tick.c.name, tick.c.tick_at, tick.c.claim_no).in_(
                        [(each.name, each.tick_at, each.claim_no) for each in ticks]
                    ),
                    _is(tick, "running"),
                )
                .values(lease_until=until)
                .returning(tick.c.name, tick.c.tick_at, tick.c.claim_no)
            ).all()
        ours = {tuple(row) for row in kept}
        return [each for each in ticks if (each.name, each.tick_at, each.claim_no) in ours]

    def finish(self, done: Tick, *, ok: bool, result: str) -> bool:
        """Write down how it ended; False when the tick is somebody else's by now."""
        with self._engine.begin() as tx:
            return _end(tx, done, "done" if ok else "failed", mask(result)[:_RESULT_MAX])

    def hand_back(self, unfinished: Tick) -> bool:
        """Let somebody else go on with it at once; False when it is not ours any more.

        It does not count as a start: only losses lead to giving up.
        """
        with self._engine.begin() as tx:
            mine = _mine(unfinished)
            handed = update(tick).where(*mine)
            handed = handed.values(state="due", lease_until=None, runner="", runs=tick.c.runs - 1)
            return tx.execute(handed).rowcount == 1

    def release(self) -> Lost:
        """Make ticks due again whose runner was lost; give up those that were lost too often."""
        with self._engine.begin() as tx:
            now = rows.now(tx)
            lost = (_is(tick, "running"), tick.c.lease_until < now)
            given_up = tx.execute(
                update(tick)
                .where(*lost, tick.c.runs >= LOST_MAX)
                .values(
                    state="failed",
                    lease_until=None,
                    finished_at=now,
                    result=f"given up: its runner was lost {LOST_MAX} times",
                )
            ).rowcount
            again = tx.execute(
                update(tick).where(*lost).values(state="due", lease_until=None)
            ).rowcount
        return Lost(again=again, given_up=given_up)

    def unheard(self, *, after_s: float, without: frozenset[str] = frozenset()) -> bool:
        """Tell whether a tick that could be run was decided ``after_s`` ago and nobody took it.

        Ticks of the lines in ``without`` are not asked for.
        """
        running = tick.alias()
        busy = exists().where(running.c.name == tick.c.name, _is(running, "running"))
        with self._engine.connect() as connection:
            old = rows.now(connection) - timedelta(seconds=after_s)
            query = (
                select(tick.c.name)
                .join(schedule, schedule.c.name == tick.c.name)
                .where(
                    _DUE,
                    tick.c.decided_at <= old,
                    tick.c.name.not_in(sorted(without)),
                    ~schedule.c.paused,
                    ~busy,
                )
                .limit(1)
            )
            return connection.scalar(query) is not None

    def _decide(
        self, line: Line, row: Row[tuple[object, ...]] | None, now: datetime, waits: Waiting | None
    ) -> int:
        if row is None:
            with self._engine.begin() as tx:
                first = {"decided_until": now, "fingerprint": line.fingerprint}
                rows.insert_new(tx, schedule, {"name": line.name, **first})
            return 0
        until: datetime = row.decided_until
        if row.fingerprint != line.fingerprint:
            # Two beats with different files would otherwise leave out what comes in between.
            until = max(until, now - GRACE)
        if until > now + _CORRECTION:
            telemetry.log(telemetry.Event.CLOCK_SET_BACK, level="warning", schedule=line.name)
            until = now
        made = decide(line.cron, line.policy, until=until, now=now, waiting=waits)
        last = max([*made.run, *(at for at, _ in made.skip)], default=until)
        if (last, line.fingerprint) == (row.decided_until, row.fingerprint):
            return 0
        with self._engine.begin() as tx:
            if not _move(tx, row, last, line.fingerprint):
                return 0
            return _write(tx, line, made)

    def _forget_disabled(
        self, lines: Iterable[Line], found: dict[str, Row[tuple[object, ...]]]
    ) -> None:
        """Let a line that is switched off begin anew when it is switched on."""
        for line in lines:
            row = found.get(line.name)
            if row is not None and not line.enabled and row.fingerprint:
                with self._engine.begin() as tx:
                    _move(tx, row, row.decided_until, "")


def _waiting(connection: Connection) -> dict[str, Waiting]:
    query = (
        select(tick.c.name, func.count(), func.min(tick.c.tick_at))
        .where(_DUE)
        .group_by(tick.c.name)
    )
    return {
        name: Waiting(count=count, oldest=oldest)
        for name, count, oldest in connection.execute(query)
    }


def _move(tx: Connection, row: Row[tuple[object, ...]], until: datetime, fingerprint: str) -> bool:
    """Say how far a line is decided, unless somebody else did."""
    moved = tx.execute(
        update(schedule)
        .where(
            schedule.c.name == row.name,
            schedule.c.decided_until == row.decided_until,
            schedule.c.fingerprint == row.fingerprint,
            ~schedule.c.paused,
        )
        .values(decided_until=until, fingerprint=fingerprint, updated_at=rows.now(tx))
    )
    return moved.rowcount == 1


def _write(tx: Connection, line: Line, made: Decision) -> int:
    work = {"job": line.job, "arguments": line.arguments, "time_limit_s": line.time_limit_s}
    due = [
        {"name": line.name, "tick_at": at, "state": "due", "note": "", **work} for at in made.run
    ]
    skipped = [
        {"name": line.name, "tick_at": at, "state": "skipped", "note": why, **work}
        for at, why in made.skip
    ]
    rows.insert_new(tx, tick, *skipped)
    return rows.insert_new(tx, tick, *due)


def _take(tx: Connection, name: str, runner: str, lease_s: float) -> Tick | None:
    # Looked at again: between the look above and our lock somebody may have been faster.
    running = tick.alias()
    now = rows.now(tx)
    row = tx.execute(
        update(tick)
        .where(
            tick.c.name == name,
            _DUE,
            tick.c.tick_at
            == select(func.min(tick.c.tick_at))
            .where(tick.c.name == name, _DUE)
            .correlate(None)
            .scalar_subquery(),
            ~exists().where(running.c.name == name, _is(running, "running")),
        )
        .values(
            state="running",
            runner=runner,
            claim_no=tick.c.claim_no + 1,
            runs=tick.c.runs + 1,
            started_at=now,
            lease_until=now + timedelta(seconds=lease_s),
        )
        .returning(tick)
    ).one_or_none()
    if row is None:
        return None
    return Tick(
        name=row.name,
        tick_at=row.tick_at,
        job=row.job,
        arguments=json.loads(row.arguments),
        time_limit_s=row.time_limit_s,
        claim_no=row.claim_no,
        runs=row.runs,
    )


def _end(tx: Connection, done: Tick, state: str, result: str) -> bool:
    values = {"state": state, "lease_until": None, "finished_at": rows.now(tx), "result": result}
    return tx.execute(update(tick).where(*_mine(done)).values(**values)).rowcount == 1


def _mine(taken: Tick) -> tuple[ColumnElement[bool], ...]:
    return (
        tick.c.name == taken.name,
        tick.c.tick_at == taken.tick_at,
        tick.c.claim_no == taken.claim_no,
        _is(tick, "running"),
    )
