"""Brings the tables up to date, and says so when they are not.

Must never touch a table that is not ours: the host's live in the same database.
"""

from importlib import import_module
from pathlib import Path

from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError

from worker import (
    tables,
    tables_alerts,
    tables_freeze,
    tables_orders,
    tables_retention,
    tables_routes,
    tables_schedules,
)
from worker.columns import metadata
from worker.database import unavailable
from worker.errors import TablesError

# The newest file in migrations/versions; a test compares them.
HEAD = "0010"
# All of them, whichever files declare them.
METADATA = metadata
_DECLARED_BY = (
    tables,
    tables_alerts,
    tables_freeze,
    tables_orders,
    tables_retention,
    tables_routes,
    tables_schedules,
)
# Two processes that migrate at once take turns.
_GATE = "SELECT pg_advisory_xact_lock(7274497)"


def migrate(engine: Engine) -> None:
    """Create or upgrade our tables, in one transaction. Again, or twice at once, is harmless.

    Raises:
        UnavailableError: the database cannot be reached.
    """
    # Alembic costs a tenth of a second; most processes find everything up to date.
    command, config = import_module("alembic.command"), import_module("alembic.config").Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    try:
        with engine.begin() as tx:
            if engine.dialect.name == "postgresql":
                tx.execute(text("SET LOCAL lock_timeout = 0"))
                tx.execute(text(_GATE))
            config.attributes["connection"] = tx
            command.upgrade(config, "head")
    except DBAPIError as error:
        raise unavailable(error) from error


def is_current(engine: Engine) -> bool:
    """Say whether the tables are those this code was written for.

    Raises:
        UnavailableError: the database cannot be reached.
    """
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("paynotify_version"):
                return False
            found = connection.scalar(text("SELECT version_num FROM paynotify_version"))
    except DBAPIError as error:
        raise unavailable(error) from error
    return bool(found == HEAD)


def require_current(engine: Engine) -> None:
    """Refuse to go on with other tables.

    Raises:
        TablesError: tables are missing or of another version.
        UnavailableError: the database cannot be reached.
    """
    if not is_current(engine):
        raise TablesError(
            "database", "our tables are missing or of another version", "run: paynotify migrate"
        )
