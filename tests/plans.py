"""Which way PostgreSQL really went for every statement of a test, told by ``auto_explain``.

Must never judge by time: what is counted is pages touched, which is the same on any machine.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from worker import database

_SETTINGS = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_level": "notice",
    "auto_explain.log_format": "json",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_nested_statements": "on",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One statement that ran.

    Attributes:
        pages: touched, wherever they came from.
        read_whole: tables that were read from end to end.
    """

    statement: str
    pages: int
    read_whole: frozenset[str]


@dataclass(slots=True)
class Seen:
    """Everything that ran since the last :meth:`take`."""

    plans: list[Plan] = field(default_factory=list)

    def take(self) -> list[Plan]:
        """Return what ran, and begin anew."""
        taken, self.plans = self.plans, []
        return taken


@contextmanager
def watched(dsn: str) -> Iterator[tuple[Engine, Seen]]:
    """Open an engine on a PostgreSQL database of our own whose every plan is seen."""
    _explain(dsn)
    seen = Seen()
    engine = database.connect(dsn)

    @event.listens_for(engine, "connect")
    def _listen(raw: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        assert isinstance(raw, psycopg.Connection)
        raw.add_notice_handler(lambda notice: _keep(seen, notice.message_primary or ""))

    try:
        yield engine, seen
    finally:
        engine.dispose()
        with psycopg.connect(dsn.replace("+psycopg", ""), autocommit=True) as plain:
            name = sql.Identifier(plain.info.dbname)
            plain.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(name))


def _explain(dsn: str) -> None:
    with psycopg.connect(dsn.replace("+psycopg", ""), autocommit=True) as plain:
        name = sql.Identifier(plain.info.dbname)
        for setting, value in _SETTINGS.items():
            parts = sql.SQL(".").join(map(sql.Identifier, setting.split(".")))
            plain.execute(sql.SQL("ALTER DATABASE {} SET {} = {}").format(name, parts, value))


def _keep(seen: Seen, message: str) -> None:
    if "plan:" not in message:
        return
    told = json.loads(message[message.index("{") :])
    root = told["Plan"]
    seen.plans.append(
        Plan(
            statement=" ".join(told["Query Text"].split()),
            pages=root.get("Shared Hit Blocks", 0) + root.get("Shared Read Blocks", 0),
            read_whole=frozenset(
                node["Relation Name"] for node in _nodes(root) if node["Node Type"] == "Seq Scan"
            ),
        )
    )


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for below in node.get("Plans", ()):
        yield from _nodes(below)
