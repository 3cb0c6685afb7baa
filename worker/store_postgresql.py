"""The store on PostgreSQL: a claim is one round trip, a settle another, whatever the batch size.

Must never hold a transaction open while anything but PostgreSQL is at work.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from worker import statements
from worker.database import unavailable
from worker.errors import UnavailableError
from worker.models import Claimed, Pool, Settled, Settlement
from worker.store import Claim, Released, Rules
from worker.store_rows import STATE_AFTER, claimed_row, given_back
from worker.store_upkeep import Upkeep

T = TypeVar("T")

# Lanes one claim looks at; a bound for the case that thousands of them are blocked.
_HOPS = 2000


class PostgresqlStore(Upkeep):
    """See :class:`worker.store.Store`.

    Args:
        engine: from :func:`worker.database.connect`.
        rules: lease, poison limit, breaker policy.
    """

    def __init__(self, engine: Engine, rules: Rules) -> None:
        super().__init__(engine, rules)
        self._after = dict.fromkeys(Pool, 0)
        self._after_lock = Lock()

    def claim(self, pool: Pool, *, limit: int, worker: str) -> Claim:
        """See :meth:`worker.store.Store.claim`."""
        with self._after_lock:
            start = self._after[pool]
        claim, after = self._claim_after(pool, start, limit, worker)
        if start and not after and len(claim.rows) < limit:
            # The end of the lanes came before the batch was full: go on from the first.
            first = claim
            claim, after = self._claim_after(pool, 0, limit - len(first.rows), worker)
            claim = Claim(
                rows=first.rows + claim.rows,
                more=first.more or claim.more,
                capped=first.capped or claim.capped,
            )
        with self._after_lock:
            self._after[pool] = after
        return claim

    def _claim_after(self, pool: Pool, after: int, limit: int, worker: str) -> tuple[Claim, int]:
        values = {
            "after": after,
            "hops": _HOPS,
            "slow": pool is Pool.SLOW,
            "limit": limit,
            "lease_s": self._rules.lease_s,
            "worker": worker,
        }

        def run(connection: "psycopg.Connection[Any]") -> list[tuple[Any, ...]]:
            with connection.pipeline(), connection.transaction():
                connection.execute(statements.GATE)
                cursor = connection.cursor(binary=True)
                cursor.execute(statements.CLAIM, values)
            return cursor.fetchall()

        found = self._run(run)
        next_after, share = int(found[0][0] or 0), int(found[0][1])
        found = [row[2:] for row in found if row[2] is not None]
        taken = Counter(row[1] for row in found)
        rooms = {row[1]: row[-1] for row in found}
        claim = Claim(
            rows=tuple(map(claimed_row, found)),
            # A lane that used up its share may hold more; so may lanes not reached.
            more=bool(next_after)
            or any(share <= count < rooms[lane] for lane, count in taken.items()),
            capped=any(count >= rooms[lane] for lane, count in taken.items()),
        )
        return claim, next_after

    def claim_suspect(self, *, worker: str) -> Claim:
        """See :meth:`worker.store.Store.claim_suspect`."""
        values = {"lease_s": self._rules.lease_s, "worker": worker}

        def run(connection: "psycopg.Connection[Any]") -> list[tuple[Any, ...]]:
            return (
                connection.cursor(binary=True).execute(statements.CLAIM_SUSPECT, values).fetchall()
            )

        rows = tuple(claimed_row(row) for row in self._run(run))
        return Claim(rows=rows, more=bool(rows))

    def settle(self, settlements: Sequence[Settlement]) -> Settled:
        """See :meth:`worker.store.Store.settle`."""
        columns = list(map(array, zip(*map(_settle_row, settlements), strict=True)))

        def run(connection: "psycopg.Connection[Any]") -> set[int]:
            return {row[0] for row in connection.execute(statements.SETTLE, columns)}

        written = self._run(run)
        if len(written) < len(settlements):
            written |= self._already(
                [s.claimed for s in settlements if s.claimed.id not in written]
            )
        stale = tuple(s.claimed.id for s in settlements if s.claimed.id not in written)
        return Settled(written=tuple(written), stale=stale)

    def _already(self, missing: Sequence[Claimed]) -> set[int]:
        values = ([row.id for row in missing], [row.claim_no for row in missing])

        def run(connection: "psycopg.Connection[Any]") -> set[int]:
            return {row[0] for row in connection.execute(statements.ALREADY, values)}

        return self._run(run)

    def stage(self, *, limit: int) -> int:
        """See :meth:`worker.store.Store.stage`."""
        return self._run(lambda c: c.execute(statements.STAGE, {"limit": limit}).rowcount)

    def release(self, *, limit: int) -> Released:
        """See :meth:`worker.store.Store.release`."""
        values = {"limit": limit, "poison_after": self._rules.poison_after}
        again, poisoned = self._run(
            lambda c: c.execute(statements.RELEASE, values).fetchone() or (0, 0)
        )
        return Released(again=again, poisoned=poisoned)

    def due_pools(self) -> frozenset[Pool]:
        """See :meth:`worker.store.Store.due_pools`."""
        values = {"after": 0, "hops": _HOPS}
        found = self._run(lambda c: c.execute(statements.DUE_POOLS, values).fetchall())
        return frozenset(Pool.SLOW if row[0] else Pool.FAST for row in found)

    def _run(self, work: "Callable[[psycopg.Connection[Any]], T]") -> T:
        """Run ``work`` on a raw connection in autocommit: a statement is a transaction."""
        try:
            fairy = self._engine.raw_connection()
        except (DBAPIError, PoolTimeoutError) as error:
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
    return UnavailableError("database", str(error), "it is tried again by itself")


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
        verdict.reason.value if verdict.reason else "",
    )
