"""The store on SQLite: the same promises, with one writer at a time as the lock.

Every transaction begins IMMEDIATE (see ``database.py``), so what a claim counts cannot change
under it. Must never be slower to leave the lock than the work in it needs: no HTTP, no waiting.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from worker import clock
from worker.errors import UnavailableError
from worker.models import Claimed, Pool, Reason, Settled, Settlement, State
from worker.seen import Measured
from worker.store import LOST_MAX, Claim, Released, Rules
from worker.store_order import follow_sqlite, look_sqlite
from worker.store_rows import (
    LEASE_OVER,
    STATE_AFTER,
    claimed_row,
    given_back,
    lines_of,
    room_of,
    seen_rows,
)
from worker.store_upkeep import Upkeep
from worker.tables import SUSPECT_AFTER

_READY = f"state = 'pending' AND abandoned < {SUSPECT_AFTER}"

# Lanes with claimable rows after :after, one index probe per lane.
_LANES = f"""
WITH RECURSIVE hop (lane_id) AS (
  SELECT min(lane_id) FROM paynotify_delivery WHERE {_READY} AND lane_id > :after
  UNION ALL
  SELECT (SELECT min(lane_id) FROM paynotify_delivery WHERE {_READY} AND lane_id > hop.lane_id)
    FROM hop WHERE hop.lane_id IS NOT NULL
)
SELECT l.id, l.in_flight_cap, l.ramp, l.open_until, l.rate_per_s, l.tokens, l.tokens_at,
       (SELECT count(*) FROM paynotify_delivery s
         WHERE s.state = 'sending' AND s.lane_id = l.id) AS sending
  FROM hop JOIN paynotify_lane l ON l.id = hop.lane_id
 WHERE NOT l.held AND l.slow = :slow AND (l.open_until IS NULL OR l.open_until <= :now)
"""  # noqa: S608 - constants

_READY_OF_LANE = f"""
SELECT id FROM paynotify_delivery WHERE {_READY} AND lane_id = :lane
 ORDER BY priority, due_at LIMIT :limit
"""  # noqa: S608 - constants

_SUSPECT = f"""
SELECT d.id FROM paynotify_delivery d JOIN paynotify_lane l ON l.id = d.lane_id
 WHERE d.state = 'pending' AND d.abandoned >= {SUSPECT_AFTER} AND NOT l.held
   AND (l.open_until IS NULL OR l.open_until <= :now)
 ORDER BY d.due_at LIMIT 1
"""  # noqa: S608 - constants

_TAKE = """
UPDATE paynotify_delivery
   SET state = 'sending', claim_no = claim_no + 1, attempt_no = attempt_no + 1,
       tries = tries + 1, lease_until = :lease_until
 WHERE id = :id AND state = 'pending'
"""

_OPEN = """
INSERT INTO paynotify_attempt (notification_id, attempt_no, claim_no, worker, started_at)
SELECT id, attempt_no, claim_no, :worker, :now FROM paynotify_delivery WHERE id = :id
"""

_CARRIED = """
SELECT t.id, t.lane_id, t.attempt_no, t.tries, t.claim_no, l.endpoint_id, l.config_no,
       l.failures_in_row <> 0 OR l.window_at IS NOT NULL OR l.open_until IS NOT NULL
         OR l.ramp IS NOT NULL OR l.slow OR l.latency_ms <> 0 AS troubled,
       n.message_id, n.event_type, n.event_key, n.order_no, n.payload, n.content_type, n.headers,
       n.notify_url, n.schedule, n.trace_id, (n.expires_at - :now) / 1000000.0 AS expires_in_s,
       n.ordering_key
  FROM paynotify_delivery t
  JOIN paynotify_lane l ON l.id = t.lane_id
  JOIN paynotify_notification n ON n.id = t.id
 WHERE t.id = :id
"""

_SETTLE = """
UPDATE paynotify_delivery
   SET state = :state,
       due_at = CASE WHEN :state IN ('waiting', 'pending') THEN :due_at ELSE due_at END,
       tries = tries - :given_back, abandoned = 0, lease_until = NULL,
       finished_at = CASE WHEN :state IN ('delivered', 'dead') THEN :now END
 WHERE id = :id AND claim_no = :claim_no AND state = 'sending'
"""

_CLOSE = """
UPDATE paynotify_attempt
   SET finished_at = :now, outcome = :outcome, status = :status, error = :error,
       evidence = :evidence, elapsed_ms = :elapsed_ms, remote_ip = :remote_ip, route = :route,
       secret_version = :secret_version, signed_at = :signed_at, config_no = :config_no
 WHERE notification_id = :id AND claim_no = :claim_no
"""

_BURY = """
INSERT INTO paynotify_dead_letter (notification_id, endpoint_id, reason, last_status, last_error,
    last_reply, attempts, first_failed_at, last_failed_at, died_at)
SELECT n.id, n.endpoint_id, :reason, :status, :error, :evidence, d.attempt_no,
       (SELECT min(a.started_at) FROM paynotify_attempt a WHERE a.notification_id = n.id),
       :now, :now
  FROM paynotify_notification n JOIN paynotify_delivery d ON d.id = n.id WHERE n.id = :id
"""

_LOST = """
SELECT id, abandoned, ordering FROM paynotify_delivery
 WHERE state = 'sending' AND lease_until < :now LIMIT :limit
"""

_ALONE = f"""
SELECT d.id, d.abandoned, d.ordering FROM paynotify_delivery d
  JOIN paynotify_attempt a ON a.notification_id = d.id AND a.attempt_no = d.attempt_no
 WHERE d.state = 'sending' AND d.abandoned >= {SUSPECT_AFTER} AND a.worker = :worker
"""  # noqa: S608 - a constant

_RELEASE = """
UPDATE paynotify_delivery
   SET state = :state, abandoned = abandoned + 1, lease_until = NULL, due_at = :now,
       finished_at = CASE WHEN :state = 'dead' THEN :now END
 WHERE id = :id AND state = 'sending'
"""

_ABANDON = """
UPDATE paynotify_attempt
   SET outcome = 'abandoned', finished_at = :now, error = :why
 WHERE notification_id = :id AND outcome IS NULL
"""

_STAGE = """
UPDATE paynotify_delivery SET state = 'pending' WHERE id IN (
  SELECT id FROM paynotify_delivery WHERE state = 'waiting' AND due_at <= :now
   ORDER BY due_at LIMIT :limit)
"""

_ROLL_UP = """
INSERT INTO paynotify_rollup AS r (minute_at, worker, endpoint_id, acked, failed, dead, held,
    abandoned, stale, elapsed_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (minute_at, endpoint_id, worker) DO UPDATE
   SET acked = r.acked + excluded.acked, failed = r.failed + excluded.failed,
       dead = r.dead + excluded.dead, held = r.held + excluded.held,
       abandoned = r.abandoned + excluded.abandoned, stale = r.stale + excluded.stale,
       elapsed_ms = r.elapsed_ms + excluded.elapsed_ms
"""

_ALREADY = """
SELECT 1 FROM paynotify_attempt
 WHERE notification_id = :id AND claim_no = :claim_no
   AND outcome IS NOT NULL AND outcome <> 'abandoned'
"""


class SqliteStore(Upkeep):
    """See :class:`worker.store.Store`.

    Args:
        engine: from :func:`worker.database.connect`.
        rules: lease, poison limit, breaker policy.
    """

    def __init__(self, engine: Engine, rules: Rules) -> None:
        super().__init__(engine, rules)
        self._after = dict.fromkeys(Pool, 0)

    def claim(self, pool: Pool, *, limit: int, worker: str) -> Claim:
        """See :meth:`worker.store.Store.claim`."""
        with self._write() as tx:
            now = _now()
            lanes, after = self._lanes_with_room(tx, pool, now, limit)
            share = -(-limit // max(1, len(lanes)))
            rows: list[Claimed] = []
            more, full = after > 0, set[bool]()
            for lane_id, room, metered in lanes:
                wanted = min(share, room, limit - len(rows))
                taken = self._take_of_lane(tx, lane_id, wanted, worker, now)
                more = more or share <= len(taken) < room
                full |= {metered} if len(taken) >= room else set()
                rows += taken
            self._after[pool] = after
        return Claim(
            rows=tuple(rows),
            more=more or len(rows) >= limit,
            capped=False in full,
            metered=True in full,
        )

    def _lanes_with_room(
        self, tx: sqlite3.Connection, pool: Pool, now: int, limit: int
    ) -> tuple[list[tuple[int, int, bool]], int]:
        """``(lane, room, metered)`` from the cursor on, once around; and the next cursor."""
        start = self._after[pool]
        slow = pool is Pool.SLOW
        found = _all(tx, _LANES, after=start, slow=slow, now=now)
        if start:
            found += [
                lane for lane in _all(tx, _LANES, after=0, slow=slow, now=now) if lane[0] <= start
            ]
        rooms = [(lane[0], *room_of(lane, now)) for lane in found]
        lanes = [lane for lane in rooms if lane[1] > 0]
        return lanes[:limit], lanes[limit - 1][0] if len(lanes) > limit else 0

    def _take_of_lane(
        self, tx: sqlite3.Connection, lane_id: int, wanted: int, worker: str, now: int
    ) -> list[Claimed]:
        if wanted <= 0:
            return []
        ids = [row[0] for row in _all(tx, _READY_OF_LANE, lane=lane_id, limit=wanted)]
        taken = [self._take(tx, row_id, worker, now) for row_id in ids]
        _one(
            tx,
            "UPDATE paynotify_lane SET tokens_at = :now, tokens = min(max(rate_per_s, 1.0), "
            "tokens + rate_per_s * max(0, :now - tokens_at) / 1000000.0) - :used "
            "WHERE id = :lane AND rate_per_s IS NOT NULL",
            now=now,
            used=len(taken),
            lane=lane_id,
        )
        return taken

    def _take(self, tx: sqlite3.Connection, row_id: int, worker: str, now: int) -> Claimed:
        _one(tx, _TAKE, id=row_id, lease_until=now + int(self._rules.lease_s * 1_000_000))
        _one(tx, _OPEN, id=row_id, worker=worker, now=now)
        return claimed_row(_all(tx, _CARRIED, id=row_id, now=now)[0])

    def claim_suspect(self, *, worker: str) -> Claim:
        """See :meth:`worker.store.Store.claim_suspect`."""
        with self._write() as tx:
            now = _now()
            rows = tuple(self._take(tx, row[0], worker, now) for row in _all(tx, _SUSPECT, now=now))
        return Claim(rows=rows, more=bool(rows))

    def suspects(self) -> bool:
        """See :meth:`worker.store.Store.suspects`."""
        with self._write() as tx:
            return bool(_all(tx, _SUSPECT, now=_now()))

    def settle(self, settlements: Sequence[Settlement]) -> Settled:
        """See :meth:`worker.store.Store.settle`."""
        written: list[int] = []
        stale: list[int] = []
        with self._write() as tx:
            now = _now()
            for settlement in settlements:
                wrote = _settle_one(tx, settlement, now)
                (written if wrote else stale).append(settlement.claimed.id)
            promoted = follow_sqlite(tx, lines_of(settlements), now)
        return Settled(written=tuple(written), stale=tuple(stale), promoted=promoted)

    def roll_up(self, seen: Mapping[int, Measured], *, worker: str) -> None:
        """See :meth:`worker.store.Store.roll_up`."""
        with self._write() as tx:
            now = _now()
            minute_at = now - now % 60_000_000
            tx.executemany(_ROLL_UP, [(minute_at, worker, *row) for row in seen_rows(seen)])

    def stage(self, *, limit: int) -> int:
        """See :meth:`worker.store.Store.stage`."""
        with self._write() as tx:
            return _one(tx, _STAGE, now=_now(), limit=limit)

    def look(self, *, limit: int) -> int:
        """See :meth:`worker.store.Store.look`."""
        with self._write() as tx:
            return look_sqlite(tx, _now(), limit=limit)

    def release(self, *, limit: int) -> Released:
        """See :meth:`worker.store.Store.release`."""
        return self._take_back(_LOST, LOST_MAX, LEASE_OVER, limit=limit)

    def condemn(self, *, worker: str, why: str) -> Released:
        """See :meth:`worker.store.Store.condemn`."""
        return self._take_back(_ALONE, self._rules.poison_after, why, worker=worker)

    def _take_back(self, lost: str, dead_after: int, why: str, **which: int | str) -> Released:
        again = poisoned = 0
        with self._write() as tx:
            now = _now()
            taken = _all(tx, lost, now=now, **which)
            for row_id, abandoned, _ in taken:
                dead = abandoned + 1 >= dead_after
                state = State.DEAD if dead else State.PENDING
                _one(tx, _RELEASE, id=row_id, state=state.value, now=now)
                _one(tx, _ABANDON, id=row_id, now=now, why=why)
                if dead:
                    error = f"lost {abandoned + 1} times in a row: {why}"
                    _bury(tx, row_id, now, reason=Reason.POISON, error=error)
                poisoned += dead
                again += not dead
            follow_sqlite(tx, {row[2] for row in taken if row[2]}, now)
        return Released(again=again, poisoned=poisoned)

    def due_pools(self) -> frozenset[Pool]:
        """See :meth:`worker.store.Store.due_pools`."""
        with self._write() as tx:
            now = _now()
            return frozenset(
                pool for pool in Pool if _all(tx, _LANES, after=0, slow=pool is Pool.SLOW, now=now)
            )

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction; statements go to the driver itself, ten times quicker."""
        try:
            with self._engine.begin() as tx:
                raw = tx.connection.driver_connection
                assert isinstance(raw, sqlite3.Connection)  # noqa: S101 - for the type checker
                yield raw
        except (DBAPIError, PoolTimeoutError, sqlite3.OperationalError) as error:
            raise UnavailableError("database", str(error), "it is tried again") from error


def _settle_one(tx: sqlite3.Connection, settlement: Settlement, now: int) -> bool:
    claimed, verdict = settlement.claimed, settlement.verdict
    moved = _one(
        tx,
        _SETTLE,
        id=claimed.id,
        claim_no=claimed.claim_no,
        state=STATE_AFTER[verdict.decision],
        due_at=now + int(verdict.delay_s * 1_000_000),
        given_back=given_back(verdict),
        now=now,
    )
    if not moved:
        return bool(_all(tx, _ALREADY, id=claimed.id, claim_no=claimed.claim_no))
    _one(
        tx,
        _CLOSE,
        id=claimed.id,
        claim_no=claimed.claim_no,
        now=now,
        outcome=verdict.outcome.value,
        status=settlement.status,
        error=settlement.error,
        evidence=settlement.evidence,
        elapsed_ms=settlement.elapsed_ms,
        remote_ip=settlement.remote_ip,
        secret_version=settlement.secret_version,
        signed_at=settlement.signed_at,
        config_no=settlement.config_no,
        route=settlement.via.no if settlement.via else 0,
    )
    if verdict.reason:
        _bury(
            tx,
            claimed.id,
            now,
            reason=verdict.reason,
            status=settlement.status,
            error=settlement.error,
            evidence=settlement.evidence,
        )
    return True


def _bury(
    tx: sqlite3.Connection,
    row_id: int,
    now: int,
    *,
    reason: Reason,
    status: int = 0,
    error: str = "",
    evidence: str = "",
) -> None:
    _one(
        tx,
        _BURY,
        id=row_id,
        now=now,
        reason=reason.value,
        status=status,
        error=error,
        evidence=evidence,
    )


def _now() -> int:
    return clock.to_us(clock.now())


def _all(tx: sqlite3.Connection, sql: str, **values: object) -> list[tuple[Any, ...]]:
    return tx.execute(sql, values).fetchall()


def _one(tx: sqlite3.Connection, sql: str, **values: object) -> int:
    return tx.execute(sql, values).rowcount
