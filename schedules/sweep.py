"""The loop every sweep shares: one runner at a time, bounded batches, a budget, a heartbeat.

A sweep says how to do one batch after a cursor; this file does the rest, so that a sweep can be
killed anywhere and goes on from its cursor. Must never be what correctness rests on: each batch
is safe to do twice.

One runner at a time is a lease in the sweep's own row, on the database's clock, on both kinds of
database. An advisory lock would add nothing to it: behind a pooler that shares sessions it is
given back in another session than the one that took it, and is then held for ever.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy import Connection, Engine, or_, select, update
from sqlalchemy.exc import DBAPIError

from schedules import rows
from schedules.deadline import Deadline
from worker import database
from worker.masking import mask
from worker.tables_schedules import sweep as _row

# Outlasts a batch by far. A tick's lease is twice as long, so that whoever starts a lost tick
# again never finds the sweep still leased by the dead one.
LEASE_S = 30.0
_ERROR_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one batch did.

    Attributes:
        cursor: where the next batch begins; empty when the round is over.
        counts: what was done, by name; added up over the round.
    """

    cursor: str = ""
    counts: dict[str, int] = field(default_factory=dict)


class Sweep(Protocol):
    """One sweep; made once per process."""

    name: str

    def step(self, cursor: str) -> Step:
        """Do one batch, at most some 200 ms of the database's time, in its own transactions.

        Args:
            cursor: what the step before returned; empty at the beginning of a round.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What one run of a sweep did.

    Attributes:
        steps: batches of this run.
        counts: what this run did, by name.
        whole: the round is over; otherwise the next run goes on where this one stopped.
        busy: who runs it now, or took it over meanwhile; empty when it was ours to the end.
    """

    name: str
    steps: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    whole: bool = False
    busy: str = ""

    @property
    def line(self) -> str:
        """Say it in one line for people.

        Examples:
            >>> Summary(name="redrive", steps=2, counts={"revived": 7, "seen": 9}, whole=True).line
            'redrive: 2 batches, revived 7, seen 9'
            >>> Summary(name="redrive", busy="host:7").line
            'redrive: host:7 runs it'
        """
        done = f"{self.steps} batch{'' if self.steps == 1 else 'es'}" if self.steps else ""
        did = [f"{name} {count}" for name, count in sorted(self.counts.items()) if count]
        rest = "" if self.whole or self.busy else "goes on next time"
        other = f"{self.busy} runs it" if self.busy else ""
        return f"{self.name}: {', '.join(filter(None, [done, *did, rest, other]))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepState:
    """How a sweep stands; see :data:`worker.tables_schedules.sweep`."""

    name: str
    runner: str
    cursor: str
    beat_at: datetime | None
    round_started_at: datetime | None
    round_finished_at: datetime | None
    counts: dict[str, int]
    last_counts: dict[str, int]
    last_error: str


def run(
    engine: Engine,
    sweep: Sweep,
    *,
    runner: str,
    budget_s: float,
    deadline: Deadline | None = None,
    lease_s: float = LEASE_S,
) -> Summary:
    """Run a sweep from its cursor to the end of its round, or until its time is up.

    Called twice at once, the second finds it busy and does nothing. Killed anywhere, it goes on
    from the last batch written down as soon as the lease is over; that batch may be done again.

    Args:
        engine: where the sweep's row is.
        sweep: what to do.
        runner: who runs it, for people.
        budget_s: no batch begins later than this.
        deadline: of the job it runs in; the earlier of the two counts.
        lease_s: how long it stays ours after a batch; longer than any batch takes.

    Raises:
        Exception: whatever a batch raised; it stands in the row, and the next run begins with
            that batch again.
    """
    lease = _Lease(engine, sweep.name, runner, lease_s)
    cursor = lease.take()
    if cursor is None:
        return Summary(name=sweep.name, busy=lease.owner())
    end = deadline.within(budget_s) if deadline else Deadline(budget_s)
    try:
        return _round(sweep, lease, cursor, end)
    except Exception as error:
        lease.give_back(f"{type(error).__name__}: {error}")
        raise


def states(engine: Engine) -> list[SweepState]:
    """Say how every sweep that ever ran stands, by name."""
    with engine.connect() as connection:
        found = connection.execute(select(_row).order_by(_row.c.name)).all()
    return [
        SweepState(
            name=row.name,
            runner=row.runner,
            cursor=row.cursor,
            beat_at=row.beat_at,
            round_started_at=row.round_started_at,
            round_finished_at=row.round_finished_at,
            counts=json.loads(row.counts),
            last_counts=json.loads(row.last_counts),
            last_error=row.last_error,
        )
        for row in found
    ]


def _round(sweep: Sweep, lease: "_Lease", cursor: str, end: Deadline) -> Summary:
    steps = 0
    counts: dict[str, int] = {}
    while not end.over:
        step = sweep.step(cursor)
        cursor = step.cursor
        steps += 1
        _add(counts, step.counts)
        if not lease.keep(step):
            return Summary(name=sweep.name, steps=steps, counts=counts, busy=lease.owner())
        if not cursor:
            return Summary(name=sweep.name, steps=steps, counts=counts, whole=True)
    lease.give_back()
    return Summary(name=sweep.name, steps=steps, counts=counts)


class _Lease:
    """The right to run one sweep, and where its row is written."""

    def __init__(self, engine: Engine, name: str, runner: str, lease_s: float) -> None:
        self._engine = engine
        self._name = name
        self._runner = runner
        self._lease = timedelta(seconds=lease_s)
        self._claim_no = 0
        self._counts: dict[str, int] = {}

    def take(self) -> str | None:
        """Take it if it is free; returns the cursor, None when somebody else has it."""
        with self._engine.begin() as tx:
            rows.insert_new(tx, _row, {"name": self._name})
            now = rows.now(tx)
            got = tx.execute(
                update(_row)
                .where(
                    _row.c.name == self._name,
                    or_(_row.c.lease_until.is_(None), _row.c.lease_until < now),
                )
                .values(
                    runner=self._runner,
                    claim_no=_row.c.claim_no + 1,
                    lease_until=now + self._lease,
                    beat_at=now,
                )
                .returning(_row.c.claim_no, _row.c.cursor, _row.c.counts)
            ).one_or_none()
            if got is None:
                return None
            self._claim_no = got.claim_no
            if got.cursor:
                self._counts = json.loads(got.counts)
            else:
                self._write(tx, {"round_started_at": now, "counts": "{}"})
            return str(got.cursor)

    def keep(self, step: Step) -> bool:
        """Write down what a batch did and keep the lease; False when it is somebody else's."""
        _add(self._counts, step.counts)
        written = json.dumps(self._counts, sort_keys=True)
        values: dict[str, object] = {"cursor": step.cursor, "counts": written, "last_error": ""}
        with self._engine.begin() as tx:
            now = rows.now(tx)
            values |= {"beat_at": now, "lease_until": now + self._lease}
            if not step.cursor:
                values |= {"round_finished_at": now, "last_counts": written, "lease_until": None}
            return self._write(tx, values)

    def give_back(self, error: str | None = None) -> None:
        """Let others run it at once; the cursor stays."""
        values: dict[str, object] = {"lease_until": None}
        if error is not None:
            values["last_error"] = mask(error)[:_ERROR_MAX]
        try:
            with self._engine.begin() as tx:
                self._write(tx, values)
        except DBAPIError as away:
            # The lease ends by itself; what went wrong before matters more.
            if error is None:
                raise database.unavailable(away) from away

    def owner(self) -> str:
        """Say who has it now."""
        with self._engine.connect() as connection:
            found = connection.scalar(select(_row.c.runner).where(_row.c.name == self._name))
        return str(found or "somebody else")

    def _write(self, tx: Connection, values: dict[str, object]) -> bool:
        # By the claim's number: a runner that slept through its lease changes nothing.
        mine = (_row.c.name == self._name, _row.c.claim_no == self._claim_no)
        return tx.execute(update(_row).where(*mine).values(**values)).rowcount == 1


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for name, count in more.items():
        total[name] = total.get(name, 0) + count
