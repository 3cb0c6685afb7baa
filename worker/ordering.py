"""Ordered notifications in a transaction of the caller: getting in line, and who goes next.

A later event of a line (one ordering key of one endpoint) is not sent before the earlier ones are
acknowledged, dead, cancelled or expired, or have had their turn for longer than it is willing to
wait. Later is who has the higher id. Must never wait for another line, and never drop what is on
the wire.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, and_, or_, select, text

from worker import clock, ordering_sql, tables
from worker.models import State

_NOTIFICATION, _DELIVERY, _LINE = tables.notification, tables.delivery, tables.ordering
_UNSENT = (State.BLOCKED, State.DEAD, State.CANCELLED)

_ENTER = text(ordering_sql.ENTER_POSTGRESQL)
_MARK = text(ordering_sql.MARK)
_FOLLOW = {
    "postgresql": (text(ordering_sql.DROP_POSTGRESQL), text(ordering_sql.PROMOTE_POSTGRESQL)),
    "sqlite": (text(ordering_sql.DROP_SQLITE), text(ordering_sql.PROMOTE_SQLITE)),
}


def line(endpoint_id: int, key: str) -> str:
    """Name the line of an ordering key.

    Examples:
        >>> line(7, "A1001")
        '7:A1001'
    """
    return f"{endpoint_id}:{key}"


def written(lines: Iterable[str]) -> str:
    """Write lines as the statements take them: JSON, each once."""
    return json.dumps(sorted(set(lines)))


def enter(connection: Connection, lines: Iterable[str]) -> None:
    """Wait until no other transaction writes into these lines, and keep others out until the end.

    SQLite has one writer anyway. Lines are taken in order, so that two never wait in a circle.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_ENTER, {"lines": written(lines)})


def supersede(connection: Connection, newest: Mapping[str, int]) -> None:
    """Drop what is older than these notifications in their lines, but for what is on the wire.

    That has no retry any more, and what came in now waits for it.
    """
    if newest:
        marks = [{"line": name, "id": newest[name]} for name in sorted(newest)]
        connection.execute(_MARK, marks)
        follow(connection, newest)


def follow(connection: Connection, lines: Collection[str]) -> int:
    """Drop what is superseded in some lines and let go who is next; returns how many go."""
    given: dict[str, Any] = {"lines": written(lines)}
    if connection.dialect.name == "sqlite":
        given["now"] = clock.to_us(clock.now())
    drop, promote = _FOLLOW[connection.dialect.name]
    connection.execute(drop, given)
    return connection.execute(promote, given).rowcount


def overtaken(connection: Connection, ids: Collection[int]) -> dict[int, int]:
    """Tell which of some notifications a newer one of their line has left behind.

    It has been sent, is on its way now, or has superseded them.

    Returns:
        The newest such id, by the id that was left behind.
    """
    ordered = connection.execute(
        select(_NOTIFICATION.c.id, _NOTIFICATION.c.endpoint_id, _NOTIFICATION.c.ordering_key).where(
            _NOTIFICATION.c.id.in_(ids), _NOTIFICATION.c.ordering_key.is_not(None)
        )
    ).all()
    found: dict[int, int] = {}
    newest: dict[str, int] = {}
    for row in ordered:
        name = line(row.endpoint_id, row.ordering_key)
        if name not in newest:
            newest[name] = _newest_sent(connection, row.endpoint_id, row.ordering_key)
        if newest[name] > row.id:
            found[row.id] = newest[name]
    return found


def first_in_line(connection: Connection, ids: Collection[int]) -> set[int]:
    """Return those of some notifications that no earlier one of their line stands in front of.

    Neither an unfinished one nor another one of ``ids``.
    """
    first: dict[str, int] = {}
    free = set()
    for row in connection.execute(
        select(_DELIVERY.c.id, _DELIVERY.c.ordering)
        .where(_DELIVERY.c.id.in_(ids))
        .order_by(_DELIVERY.c.id)
    ):
        if row.ordering is None:
            free.add(row.id)
        else:
            first.setdefault(row.ordering, row.id)
    return free | {id_ for name, id_ in first.items() if in_front(connection, id_, name) is None}


def superseded_by(connection: Connection, notification_id: int, name: str | None) -> int | None:
    """Return the newer notification that takes the place of one in line ``name``; None is none."""
    if name is None:
        return None
    mark: int | None = connection.scalar(
        select(_LINE.c.superseded_below).where(
            _LINE.c.ordering == name, _LINE.c.superseded_below > notification_id
        )
    )
    return mark


def in_front(connection: Connection, notification_id: int, name: str) -> int | None:
    """Return the first unfinished notification before one in line ``name``; None is none."""
    found: int | None = connection.scalar(
        select(_DELIVERY.c.id)
        .where(
            _DELIVERY.c.ordering == name,
            text(tables.IN_LINE),
            _DELIVERY.c.id < notification_id,
        )
        .order_by(_DELIVERY.c.id)
        .limit(1)
    )
    return found


def _newest_sent(connection: Connection, endpoint_id: int, key: str) -> int:
    # What is forgotten has no delivery; it was finished, and not by dying.
    sent = connection.scalar(
        select(_NOTIFICATION.c.id)
        .outerjoin(_DELIVERY, _DELIVERY.c.id == _NOTIFICATION.c.id)
        .where(
            _NOTIFICATION.c.endpoint_id == endpoint_id,
            _NOTIFICATION.c.ordering_key == key,
            or_(_DELIVERY.c.id.is_(None), _DELIVERY.c.state.not_in(_UNSENT)),
        )
        .order_by(_NOTIFICATION.c.id.desc())
        .limit(1)
    )
    mark = connection.scalar(
        select(_LINE.c.superseded_below).where(
            and_(_LINE.c.ordering == line(endpoint_id, key), _LINE.c.superseded_below.is_not(None))
        )
    )
    return max(sent or 0, mark or 0)
