"""Small SQL that every file here needs, written once for both databases.

Must never hold a rule.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, select
from sqlalchemy.dialects import postgresql, sqlite

from worker.columns import database_now


def now(tx: Connection) -> datetime:
    """Read the database's clock; on PostgreSQL that of the transaction's beginning."""
    found: datetime = tx.execute(select(database_now())).scalar_one()
    return found


def insert_new(tx: Connection, table: Table, *rows: dict[str, Any]) -> int:
    """Insert the rows whose key is not there yet; returns how many that were.

    Args:
        tx: transaction of the caller.
        table: any table.
        rows: all with the same columns; none is harmless.
    """
    if not rows:
        return 0
    if tx.dialect.name == "postgresql":
        statement: Any = postgresql.insert(table).values(list(rows)).on_conflict_do_nothing()
    else:
        statement = sqlite.insert(table).values(list(rows)).on_conflict_do_nothing()
    # One statement for all of them, that says which were new: drivers do not count them.
    return len(tx.execute(statement.returning(*table.primary_key.columns)).all())
