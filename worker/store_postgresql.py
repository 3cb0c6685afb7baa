"""The store on PostgreSQL: a claim is one round trip, a settle another, whatever the batch size.

Must never hold a transaction open while anything but PostgreSQL is at work.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from worker import clock, statements
from worker.database import unavailable
from worker.errors import UnavailableError
from worker.models import Claimed, Pool, Settled, Settlement
from worker.seen import Measured
from worker.store import LOST_MAX, Claim, Released, Rules
from worker.store_order import follow_postgresql, look_postgresql
from worker.store_rows import (
    LEASE_OVER,
    STATE_AFTER,
    claimed_row,
    given_back,
    lines_of,
    seen_rows,
)
from worker.store_upkeep import Upkeep

T = TypeVar("T")

SHARE_MIN = 8
_SHARE_MAX = 2000

# How long claims go round a gate that somebody did not open again: a worker frozen in the middle
# of a claim holds it until its connection is found dead. Meanwhile caps may be overshot, rows
# are still claimed once.
_ROUND_THE_GATE_S = 10.0

# Lanes one claim looks at; a bound for the case that thousands of them are blocked.
_HOPS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the next claim of a pool begins.

    Attributes:
        after: lane to go on behind; 0 is in front.
        share: rows taken of one lane at most. A claim visits lanes until it is full: a small
            share visits many, a large one few. It grows while there are fewer lanes than it
            takes to fill a batch and shrinks while there are more.
    """

    after: int = 0
    share: int = SHARE_MIN

    def moved(self, after: int, *, full: bool, shared: bool) -> "_Place":
        """Return the place after a claim that got to ``after``."""
        share = self.share
        if shared and not full:
            share = min(share * 4, _SHARE_MAX)
        elif full and after:
            share = max(share // 2, SHARE_MIN)
        return _Place(after=after, share=share)


class PostgresqlStore(Upkeep):
    """See :class:`worker.store.Store`.

    Args:
        engine: from :func:`worker.database.connect`.
        rules: lease, poison limit, breaker policy.
    """

    def __init__(self, engine: Engine, rules: Rules) -> None:
        super().__init__(engine, rules)
        self._places = dict.fromkeys(Pool, _Place())
        self._places_lock = Lock()
        self._gated_from_s = 0.0

    def claim(self, pool: Pool, *, limit: int, worker: str) -> Claim:
        """See :meth:`worker.store.Store.claim`."""
        with self._places_lock:
            begun = self._places[pool]
        claim, place = self._claim_from(pool, begun, limit, worker)
        if begun.after and not place.after and len(claim.rows) < limit:
            # The end of the lanes came before the batch was full: go on from the first.
            first = claim
            try:
                claim, place = self._claim_from(pool, place, limit - len(first.rows), worker)
            except UnavailableError:
                # What is claimed already is ours to send; the next claim will complain.
                if not first.rows:
                    raise
                return first
            claim = Claim(
                rows=first.rows + claim.rows,
                more=first.more or claim.more,
                capped=first.capped or claim.capped,
                metered=first.metered or claim.metered,
                wrapped=True,
            )
        with self._places_lock:
            self._places[pool] = place
        return claim

    def _claim_from(
        self, pool: Pool, place: "_Place", limit: int, worker: str
    ) -> tuple[Claim, "_Place"]:
        values = {
            "after": place.after,
            "share": place.share,
            "hops": _HOPS,
            "slow": pool is Pool.SLOW,
            "limit": limit,
            "lease_s": self._rules.lease_s,
            "worker": worker,
        }

        def run(connection: "psycopg.Connection[Any]") -> list[tuple[Any, ...]]:
            # One transaction without BEGIN: the server commits it when the pipeline ends. With
            # one, psycopg waits for the claim before it sends COMMIT, and a worker frozen or cut
            # off just then keeps everybody else at the gate.
            with connection.pipeline():
                if clock.monotonic_s() >= self._gated_from_s:
                    connection.execute(statements.GATE)
                cursor = connection.cursor(binary=True)
                cursor.execute(statements.CLAIM, values)
            return cursor.fetchall()

        try:
            found = self._run(run)
        except UnavailableError as error:
            if not isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
                raise
            self._gated_from_s = clock.monotonic_s() + _ROUND_THE_GATE_S
            found = self._run(run)
        next_after = int(found[0][0] or 0)
        taken = [row[1:] for row in found if row[1] is not None]
        counts = Counter(row[1] for row in taken)
        rooms = {row[1]: row[-2] for row in taken}
        full = {row[-1] for row in taken if counts[row[1]] >= row[-2]}
        shared = any(place.share <= count < rooms[lane] for lane, count in counts.items())
        whole = len(taken) >= limit
        claim = Claim(
            rows=tuple(map(claimed_row, taken)),
            # A lane that used up its share may hold more; so may lanes not reached.
            more=whole or bool(next_after) or shared,
            capped=False in full,
            metered=True in full,
        )
        return claim, place.moved(next_after, full=whole, shared=shared)

    def claim_suspect(self, *, worker: str) -> Claim:
        """See :meth:`worker.store.Store.claim_suspect`."""
        values = {"lease_s": self._rules.lease_s, "worker": worker}

        def run(connection: "psycopg.Connection[Any]") -> list[tuple[Any, ...]]:
            return (
                connection.cursor(binary=True).execute(statements.CLAIM_SUSPECT, values).fetchall()
            )

        rows = tuple(claimed_row(row) for row in self._run(run))
        return Claim(rows=rows, more=bool(rows))

    def suspects(self) -> bool:
        """See :meth:`worker.store.Store.suspects`."""
        return bool(self._run(lambda c: c.execute(statements.SUSPECTS).fetchone() or (False,))[0])

    def settle(self, settlements: Sequence[Settlement]) -> Settled:
        """See :meth:`worker.store.Store.settle`."""
        columns = list(map(array, zip(*map(_settle_row, settlements), strict=True)))
        lines = lines_of(settlements)
        promoted = 0

        def run(connection: "psycopg.Connection[Any]") -> set[int]:
            return {row[0] for row in connection.execute(statements.SETTLE, columns)}

        def run_in_order(connection: "psycopg.Connection[Any]") -> set[int]:
            nonlocal promoted
            with connection.transaction():
                moved = run(connection)
                promoted = follow_postgresql(connection, lines)
            return moved

        written = self._run(run_in_order if lines else run)
        if len(written) < len(settlements):
            written |= self._already(
                [s.claimed for s in settlements if s.claimed.id not in written]
            )
        stale = tuple(s.claimed.id for s in settlements if s.claimed.id not in written)
        return Settled(written=tuple(written), stale=stale, promoted=promoted)

    def _already(self, missing: Sequence[Claimed]) -> set[int]:
        values = ([row.id for row in missing], [row.claim_no for row in missing])

        def run(connection: "psycopg.Connection[Any]") -> set[int]:
            return {row[0] for row in connection.execute(statements.ALREADY, values)}

        return self._run(run)

    def roll_up(self, seen: Mapping[int, Measured], *, worker: str) -> None:
        """See :meth:`worker.store.Store.roll_up`."""
        if seen:
            columns = map(array, zip(*seen_rows(seen), strict=True))
            self._run(lambda c: c.execute(statements.ROLL_UP, [worker, *columns]))

    def stage(self, *, limit: int) -> int:
        """See :meth:`worker.store.Store.stage`."""
        return self._run(lambda c: c.execute(statements.STAGE, {"limit": limit}).rowcount)

    def look(self, *, limit: int) -> int:
        """See :meth:`worker.store.Store.look`."""
        return self._run(lambda connection: look_postgresql(connection, limit=limit))

    def release(self, *, limit: int) -> Released:
        """See :meth:`worker.store.Store.release`."""
        return self._take_back(statements.RELEASE, LOST_MAX, LEASE_OVER, limit=limit)

    def condemn(self, *, worker: str, why: str) -> Released:
        """See :meth:`worker.store.Store.condemn`."""
        return self._take_back(statements.CONDEMN, self._rules.poison_after, why, worker=worker)

    def _take_back(self, statement: str, dead_after: int, why: str, **which: int | str) -> Released:
        values = {"dead_after": dead_after, "why": why, **which}

        def run(connection: "psycopg.Connection[Any]") -> tuple[Any, ...]:
            # Together: what is superseded must not be claimed in between.
            with connection.transaction():
                taken = connection.execute(statement, values).fetchone() or (0, 0, None)
                if taken[2]:
                    follow_postgresql(connection, taken[2])
            return taken

        again, poisoned, _ = self._run(run)
        return Released(again=again, poisoned=poisoned)

    def due_pools(self) -> frozenset[Pool]:
        """See :meth:`worker.store.Store.due_pools`."""
        slow, fast, after = False, False, 0
        while after is not None and not fast:
            values = {"after": after, "hops": _HOPS}
            slow, fast, after = self._run(
                lambda c, v=values: c.execute(statements.DUE_POOLS, v).fetchone()  # type: ignore[misc]
            )
        return frozenset(pool for pool, due in ((Pool.SLOW, slow), (Pool.FAST, fast)) if due)

    def _run(self, work: "Callable[[psycopg.Connection[Any]], T]") -> T:
        """Run ``work`` on a raw connection in autocommit: a statement is a transaction."""
        try:
            fairy = self._engine.raw_connection()
        # Dialled outside of SQLAlchemy's own calls, the driver's error comes as it is.
        except (DBAPIError, PoolTimeoutError, psycopg.OperationalError) as error:
            raise _unreachable(error) from error
        connection = fairy.driver_connection
        assert isinstance(connection, psycopg.Connection)  # noqa: S101 - for the type checker
        try:
            # Set and unset without a round trip; the pool's other users begin transactions.
            connection.autocommit = True
            answer = work(connection)
            connection.autocommit = False
        except psycopg.OperationalError as error:
            fairy.invalidate()
            raise UnavailableError(
                "database", str(error).strip().split("\n")[0], "it is tried again by itself"
            ) from error
        except BaseException:
            fairy.invalidate()
            raise
        fairy.close()
        return answer


def _unreachable(error: Exception) -> UnavailableError:
    if isinstance(error, DBAPIError):
        return unavailable(error)
    return UnavailableError(
        "database", str(error).strip().split("\n")[0], "it is tried again by itself"
    )


def array(values: Iterable[object]) -> str:
    r"""Write PostgreSQL's literal of an array; the driver's own way costs ten times as much.

    Examples:
        >>> array([1, 2])
        '{1,2}'
        >>> print(array(["a", 'say "b"', ""]))
        {"a","say \"b\"",""}
    """
    return "{" + ",".join([_item(value) for value in values]) + "}"


def _item(value: object) -> str:
    if not isinstance(value, str):
        return str(value)
    if '"' in value or "\\" in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


def _settle_row(settlement: Settlement) -> tuple[object, ...]:
    claimed, verdict = settlement.claimed, settlement.verdict
    return (
        claimed.id,
        claimed.claim_no,
        STATE_AFTER[verdict.decision],
        verdict.delay_s,
        given_back(verdict),
        verdict.outcome.value,
        settlement.status,
        settlement.error,
        settlement.evidence,
        settlement.elapsed_ms,
        settlement.remote_ip,
        settlement.secret_version,
        settlement.signed_at,
        settlement.config_no,
        verdict.reason.value if verdict.reason else "",
        settlement.via.no if settlement.via else 0,
    )
