"""The part of the store that is the same SQL on both databases: health, counts, dead letters.

Nothing here is on the hot path. Must never move a notification without the state guard in the
same statement.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    case,
    func,
    insert,
    null,
    select,
    update,
)

from worker import ordering
from worker.breaker import after
from worker.columns import database_now, spelled
from worker.models import Outcome, State
from worker.seen import Health, Tally
from worker.store import Backlog, Rules
from worker.tables import attempt, audit, dead_letter, delivery, inbox, lane


class Upkeep:
    """Shared by both stores; see :class:`worker.store.Store` for what each method promises.

    Args:
        engine: from :func:`worker.database.connect`.
        rules: lease, poison limit, breaker policy.
    """

    def __init__(self, engine: Engine, rules: Rules) -> None:
        self._engine = engine
        self._rules = rules

    def now(self) -> datetime:
        """See :meth:`worker.store.Store.now`."""
        with self._engine.connect() as connection:
            return _now(connection)

    def tell_health(self, tallies: dict[int, Tally]) -> None:
        """See :meth:`worker.store.Store.tell_health`."""
        if not tallies:
            return
        with self._engine.begin() as tx:
            now = _now(tx)
            # In id order, so that two settles never wait for each other in a circle.
            rows = tx.execute(
                select(lane).where(lane.c.id.in_(tallies)).order_by(lane.c.id).with_for_update()
            ).all()
            for row in rows:
                before = _health(row, now)
                health = after(
                    before,
                    tallies[row.id],
                    policy=self._rules.breaker,
                    in_flight_cap=row.in_flight_cap,
                )
                if health is not before:
                    tx.execute(
                        update(lane).where(lane.c.id == row.id).values(_columns(health, now))
                    )

    def backlog(self) -> Backlog:
        """See :meth:`worker.store.Store.backlog`."""
        with self._engine.connect() as connection:
            now = _now(connection)
            by_state = connection.execute(
                select(delivery.c.state, func.count())
                .where(spelled(delivery.c.state, "blocked", "waiting", "pending", "sending"))
                .group_by(delivery.c.state)
            )
            states = {row[0]: row[1] for row in by_state}
            held, oldest = connection.execute(_HELD_AND_OLDEST).one()
            dead = connection.scalar(
                select(func.count()).where(
                    dead_letter.c.resolution.is_(None), dead_letter.c.endpoint_id.is_not(None)
                )
            )
            breakers, slow = connection.execute(
                select(
                    func.count().filter(lane.c.open_until.is_not(None)),
                    func.count().filter(lane.c.slow),
                ).select_from(lane)
            ).one()
            unread, refused = connection.execute(
                select(
                    func.count().filter(inbox.c.refused_because.is_(None)),
                    func.count().filter(inbox.c.refused_because.is_not(None)),
                ).select_from(inbox)
            ).one()
            acked, failed = connection.execute(
                select(
                    func.count().filter(attempt.c.outcome == Outcome.ACKED.value),
                    func.count().filter(attempt.c.outcome != Outcome.ACKED.value),
                ).where(
                    attempt.c.started_at > now - timedelta(seconds=60),
                    attempt.c.outcome.is_not(None),
                )
            ).one()
        return Backlog(
            blocked=states.get("blocked", 0),
            waiting=states.get("waiting", 0),
            pending=states.get("pending", 0),
            sending=states.get("sending", 0),
            dead=dead or 0,
            held=held,
            oldest_due_s=max(0.0, (now - oldest).total_seconds()) if oldest else 0.0,
            open_breakers=breakers,
            slow_lanes=slow,
            inbox=unread,
            refused=refused,
            delivered_last_minute=acked,
            failed_last_minute=failed,
        )

    def redrive(
        self,
        letter_ids: Sequence[int],
        *,
        who: str,
        why: str,
        over_s: float,
        out_of_order: bool = False,
    ) -> list[int]:
        """See :meth:`worker.store.Store.redrive`."""
        with self._engine.begin() as tx:
            left_behind = _left_behind(tx, letter_ids)
            if not out_of_order:
                letter_ids = [one for one in letter_ids if one not in left_behind]
            letters = _resolve(tx, letter_ids, "redriven", who, why)
            now = _now(tx)
            # Only one state guard for the whole move: a row that is not dead stays.
            step_s = over_s / max(1, len(letters))
            for place, (letter_id, notification_id) in enumerate(letters):
                due_at = now + timedelta(seconds=place * step_s)
                # What was overtaken is out of line for good.
                line: ColumnElement[Any] = (
                    null() if letter_id in left_behind else delivery.c.ordering
                )
                tx.execute(
                    update(delivery)
                    .where(delivery.c.id == notification_id, delivery.c.state == State.DEAD.value)
                    .values(
                        # An ordered one lines up again, and is looked at when it is due.
                        state=case(
                            (line.is_not(None), State.BLOCKED.value),
                            else_="pending" if place * step_s < 1 else "waiting",
                        ),
                        ordering=line,
                        turn_at=None,
                        due_at=due_at,
                        tries=0,
                        abandoned=0,
                        finished_at=None,
                    )
                )
            return [letter_id for letter_id, _ in letters]

    def discard(self, letter_ids: Sequence[int], *, who: str, why: str) -> list[int]:
        """See :meth:`worker.store.Store.discard`."""
        with self._engine.begin() as tx:
            letters = _resolve(tx, letter_ids, "discarded", who, why)
            tx.execute(
                update(delivery)
                .where(
                    delivery.c.id.in_([notification_id for _, notification_id in letters]),
                    delivery.c.state == State.DEAD.value,
                )
                .values(state=State.CANCELLED.value, finished_at=database_now())
            )
            return [letter_id for letter_id, _ in letters]


_CLOCK: Select[Any] = select(database_now())
_NOT_SENT = spelled(delivery.c.state, "blocked", "waiting", "pending")
_HELD_AND_OLDEST = (
    select(
        func.count().filter(lane.c.held),
        func.min(delivery.c.due_at).filter(
            ~lane.c.held, lane.c.open_until.is_(None), delivery.c.state == "pending"
        ),
    )
    .select_from(delivery.join(lane, lane.c.id == delivery.c.lane_id))
    .where(_NOT_SENT)
)


def _left_behind(tx: Connection, letter_ids: Sequence[int]) -> set[int]:
    """Return the letters whose notification a newer one of its ordering key has overtaken.

    Who is writing into a line just now overtakes what is dead in it. The other lines are kept
    until the transaction ends, so that what comes next stands behind.
    """
    rows = tx.execute(
        select(dead_letter.c.id, dead_letter.c.notification_id, delivery.c.ordering)
        .outerjoin(delivery, delivery.c.id == dead_letter.c.notification_id)
        .where(dead_letter.c.id.in_(letter_ids))
    ).all()
    busy = ordering.busy(tx, {row.ordering for row in rows if row.ordering is not None})
    found = ordering.overtaken(tx, [row.notification_id for row in rows])
    return {row.id for row in rows if row.notification_id in found or row.ordering in busy}


def _resolve(
    tx: Connection, letter_ids: Sequence[int], resolution: str, who: str, why: str
) -> list[tuple[int, int]]:
    """Close open letters and write down who did it; ``(letter, notification)`` in id order."""
    closed = tx.execute(
        update(dead_letter)
        .where(dead_letter.c.id.in_(letter_ids), dead_letter.c.resolution.is_(None))
        .values(
            resolution=resolution, resolved_at=database_now(), resolved_by=who, resolved_why=why
        )
        .returning(dead_letter.c.id, dead_letter.c.notification_id)
    ).all()
    letters = sorted((row.id, row.notification_id) for row in closed)
    if letters:
        tx.execute(
            insert(audit),
            [
                {
                    "actor": who,
                    "action": f"dead_letter.{resolution}",
                    "subject": f"notification/{notification_id}",
                    "why": why,
                }
                for _, notification_id in letters
            ],
        )
    return letters


def _now(connection: Connection) -> datetime:
    moment: datetime = connection.execute(_CLOCK).scalar_one()
    return moment


def _health(row: Row[Any], now: datetime) -> Health:
    return Health(
        failures_in_row=row.failures_in_row,
        window_ok=row.window_ok,
        window_failed=row.window_failed,
        window_age_s=(now - row.window_at).total_seconds() if row.window_at else 0.0,
        open_for_s=max(0.0, (row.open_until - now).total_seconds()) if row.open_until else None,
        opened_times=row.opened_times,
        ramp=row.ramp,
        slow=row.slow,
        latency_ms=row.latency_ms,
    )


def _columns(health: Health, now: datetime) -> dict[str, object]:
    counting = bool(health.window_ok or health.window_failed)
    return {
        "failures_in_row": health.failures_in_row,
        "window_ok": health.window_ok,
        "window_failed": health.window_failed,
        "window_at": now - timedelta(seconds=health.window_age_s) if counting else None,
        "open_until": (
            None if health.open_for_s is None else now + timedelta(seconds=health.open_for_s)
        ),
        "opened_times": health.opened_times,
        "ramp": health.ramp,
        "slow": health.slow,
        "latency_ms": health.latency_ms,
    }
