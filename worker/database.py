"""Engines: how each database is opened.

Never hands out an engine that would hang: every wait on a database has an end.
"""

import math
import sqlite3
from hashlib import sha256

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from worker import clock
from worker.errors import SettingsError, UnavailableError

# Server-side ends for every wait, so that a stuck statement frees its locks by itself.
_POSTGRESQL_OPTIONS = (
    "-c statement_timeout=5s -c lock_timeout=2s -c idle_in_transaction_session_timeout=10s "
    "-c synchronous_commit=on -c timezone=UTC "
    # A claim costs 1.4 ms to plan and every plan is the same: keep the first one.
    "-c plan_cache_mode=force_generic_plan -c jit=off "
    # Everything here goes by an index; a plan made while a table was small must not read it whole
    # when it no longer is.
    "-c enable_seqscan=off"
)

# A connection that rested longer is asked whether it still lives before it is used: no server is
# restarted faster.
_PING_AFTER_S = 0.2
_RESTS = "paynotify.rests_since_s"

_WHERE = "database_url (PAYNOTIFY_DATABASE_URL)"
_FIX = "use postgresql://user:password@host/name or sqlite:////path/file.db"


def connect(dsn: str, *, pool_size: int = 5) -> Engine:
    """Open an engine; nothing is dialled until it is used.

    Args:
        dsn: SQLAlchemy URL of PostgreSQL (psycopg) or SQLite.
        pool_size: most connections kept; two more may be opened for a moment.

    Raises:
        SettingsError: the URL names another database, or cannot be read.
    """
    try:
        return _open(dsn, pool_size)
    except (ArgumentError, ValueError, ImportError) as error:
        # Its text may quote the URL, with its password.
        raise SettingsError(f"{_WHERE}: cannot be read ({type(error).__name__}); {_FIX}") from None


def _open(dsn: str, pool_size: int) -> Engine:
    if dsn.startswith("sqlite"):
        return _sqlite(dsn, pool_size)
    if dsn.startswith("postgresql"):
        return _postgresql(dsn, pool_size)
    scheme = dsn.split(":", 1)[0]
    raise SettingsError(f"{_WHERE}: {scheme!r} is not supported; {_FIX}")


def _postgresql(dsn: str, pool_size: int) -> Engine:
    engine = create_engine(
        dsn,
        pool_size=pool_size,
        max_overflow=2,
        pool_timeout=5,
        # At low load always the same one: its statements are prepared, its pages warm.
        pool_use_lifo=True,
        hide_parameters=True,
        connect_args={
            "options": _POSTGRESQL_OPTIONS,
            "connect_timeout": 3,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            # A partition is noticed when unacknowledged bytes are this old, not after the
            # kernel's quarter of an hour.
            "tcp_user_timeout": 8000,
            "target_session_attrs": "read-write",
            "application_name": "paynotify",
        },
    )

    @event.listens_for(engine, "checkin")
    def _rests(raw: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
        entry.info[_RESTS] = clock.monotonic_s()

    @event.listens_for(engine, "checkout")
    def _works(raw: DBAPIConnection, entry: ConnectionPoolEntry, fairy: object) -> None:
        # A round trip each time would be a tenth of a claim.
        if clock.monotonic_s() - entry.info.get(_RESTS, math.inf) > _PING_AFTER_S:
            try:
                engine.dialect.do_ping(raw)
            except engine.dialect.loaded_dbapi.Error as error:
                raise InvalidatePoolError from error

    return engine


def _sqlite(dsn: str, pool_size: int) -> Engine:
    engine = create_engine(
        dsn,
        pool_size=pool_size,
        max_overflow=2,
        pool_timeout=5,
        hide_parameters=True,
        connect_args={"check_same_thread": False, "timeout": 5},
    )

    @event.listens_for(engine, "connect")
    def _open(raw: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        assert isinstance(raw, sqlite3.Connection)  # noqa: S101 - for the type checker
        # The driver's own transaction handling begins too late; ours begins below.
        raw.isolation_level = None
        cursor = raw.cursor()
        cursor.execute("PRAGMA busy_timeout=10000")
        cursor.execute("PRAGMA journal_mode=WAL")
        # FULL: a committed claim or settle survives a power cut.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        # PostgreSQL has it built in.
        raw.create_function("sha256", 1, _sha256, deterministic=True)
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # IMMEDIATE: a transaction that reads first and writes later would otherwise fail with
        # "database is locked" as soon as another one wrote in between.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _sha256(data: bytes) -> bytes:
    return sha256(data).digest()


def unavailable(error: DBAPIError) -> UnavailableError:
    """Turn a driver's error into one sentence without the URL's password."""
    first = str(error.orig).strip().splitlines()
    return UnavailableError(
        "database",
        first[0] if first else type(error.orig).__name__,
        "check PAYNOTIFY_DATABASE_URL and that the server runs",
    )
