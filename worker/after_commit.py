"""Rings the doorbell when the database has committed, and not a moment earlier.

SQLAlchemy's ``commit`` event comes before the COMMIT, and a Session's ``after_commit`` also comes
for a Session that joined somebody else's transaction. The one place that every real COMMIT goes
through is ``Dialect.do_commit``, so that is wrapped, once per engine. Must never raise into a
commit that has succeeded.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, Dialect, PoolProxiedConnection

from worker import clock
from worker.doorbell import Doorbell
from worker.models import Pool

_KEY = "paynotify.bells"
# Per pool the monotonic time from which on it is rung for.
_Bells = dict[Doorbell, dict[Pool, float]]


def ring_after_commit(
    connection: Connection, doorbell: Doorbell, pools: Mapping[Pool, float]
) -> None:
    """Ring for these pools once the connection's present transaction is committed.

    A rollback forgets them. Rolling back a savepoint does not: the ring may then be for
    nothing, which is harmless, where a missing one would not be.

    Args:
        connection: in its transaction.
        doorbell: that is rung.
        pools: for whom, unless the commit comes before this monotonic time; 0 rings always.
    """
    _wrap(connection.dialect)
    bells: _Bells = connection.info.setdefault(_KEY, {})
    mine = bells.setdefault(doorbell, {})
    for pool, from_s in pools.items():
        mine[pool] = min(from_s, mine.get(pool, from_s))


def _wrap(dialect: Dialect) -> None:
    if _KEY in vars(dialect):
        return
    # Two threads may both get here; the inner wrapper then finds nothing left to ring.
    setattr(dialect, _KEY, True)
    for name in ("do_commit", "do_commit_twophase"):
        setattr(dialect, name, _then_ring(getattr(dialect, name)))
    for name in ("do_rollback", "do_rollback_twophase"):
        setattr(dialect, name, _then_forget(getattr(dialect, name)))


def _then_ring(commit: Callable[..., Any]) -> Callable[..., Any]:
    def committed(connection: object, *args: Any, **kwargs: Any) -> None:
        commit(connection, *args, **kwargs)
        for doorbell, pools in _taken(connection).items():
            for pool, from_s in pools.items():
                if clock.monotonic_s() >= from_s:
                    doorbell.ring(pool)

    return committed


def _then_forget(roll_back: Callable[..., Any]) -> Callable[..., Any]:
    def rolled_back(connection: object, *args: Any, **kwargs: Any) -> None:
        _taken(connection)
        roll_back(connection, *args, **kwargs)

    return rolled_back


def _taken(connection: object) -> _Bells:
    # The pool hands a raw driver connection in when it is first opened; nothing waits on that.
    if not isinstance(connection, PoolProxiedConnection | Connection):
        return {}
    bells: _Bells = connection.info.pop(_KEY, {})
    return bells
