"""How lines of ordered rows move on, within a store's own transaction; per database.

Must never be called outside of a transaction: what is superseded must not be claimed before it is
dropped.
"""

import json
import sqlite3
from collections.abc import Collection
from typing import Any

import psycopg

from worker import ordering, ordering_sql

_DROP = ordering_sql.DROP_POSTGRESQL.replace(":lines", "%(lines)s")
_PROMOTE = ordering_sql.PROMOTE_POSTGRESQL.replace(":lines", "%(lines)s")


def follow_postgresql(connection: "psycopg.Connection[Any]", lines: Collection[str]) -> int:
    """Drop what is superseded in some lines and let go who is next; returns how many go."""
    if not lines:
        return 0
    given = {"lines": ordering.written(lines)}
    connection.execute(_DROP, given)
    return connection.execute(_PROMOTE, given).rowcount


def look_postgresql(connection: "psycopg.Connection[Any]", *, limit: int) -> int:
    """See :meth:`worker.store.Store.look`."""
    with connection.transaction():
        seen = connection.execute(ordering_sql.LOOK_POSTGRESQL, {"limit": limit}).fetchall()
        promoted = follow_postgresql(connection, {row[1] for row in seen})
        if seen:
            connection.execute(ordering_sql.LATER_POSTGRESQL, {"ids": [row[0] for row in seen]})
    return promoted


def follow_sqlite(tx: sqlite3.Connection, lines: Collection[str], now: int) -> int:
    """Drop what is superseded in some lines and let go who is next; returns how many go."""
    if not lines:
        return 0
    given = {"lines": ordering.written(lines), "now": now}
    tx.execute(ordering_sql.DROP_SQLITE, given)
    return tx.execute(ordering_sql.PROMOTE_SQLITE, given).rowcount


def look_sqlite(tx: sqlite3.Connection, now: int, *, limit: int) -> int:
    """See :meth:`worker.store.Store.look`."""
    seen = tx.execute(ordering_sql.LOOK_SQLITE, {"now": now, "limit": limit}).fetchall()
    promoted = follow_sqlite(tx, {row[1] for row in seen}, now)
    if seen:
        ids = json.dumps([row[0] for row in seen])
        tx.execute(ordering_sql.LATER_SQLITE, {"now": now, "ids": ids})
    return promoted
