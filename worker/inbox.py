"""The inbox: one INSERT that any language can do in its own transaction.

A host without Python writes a row of ``paynotify_inbox``; the workers' tick turns it into
notifications. On PostgreSQL::

    INSERT INTO paynotify_inbox (merchant, event_type, event_key, order_no, payload)
    VALUES ('shop-77', 'payment.succeeded', 'o-1:paid', 'o-1', '{"order_no":"o-1"}');

Must never lose a row, never read one for ever and never let one hold up the others: a row that
is refused stays, with the reason in ``refused_because``; setting that back to NULL offers it
again. The payload's bytes are kept as the host wrote them. On SQLite, times are whole
microseconds since 1970.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    LargeBinary,
    RowMapping,
    Text,
    bindparam,
    cast,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.exc import DataError, IntegrityError

from worker import clock, tables
from worker.client import Notifier
from worker.drafts import Draft, Enqueue, draft
from worker.errors import BadFieldError, PaynotifyError
from worker.intake import Outcome

_INBOX = tables.inbox
_TEXTS = (
    "merchant",
    "endpoint",
    "event_type",
    "event_key",
    "order_no",
    "payload",
    "content_type",
    "headers",
    "notify_url",
    "trace_id",
)
_MOMENTS = ("deliver_at", "expires_at")
_COLUMNS = (*_TEXTS, *_MOMENTS, "priority")
_REASON_MAX = 500
_MICROSECONDS = re.compile(r"[0-9]{1,16}").fullmatch
_DIGIT = re.compile(r"[0-9]").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What one look into the inbox did: rows turned into notifications, rows refused."""

    accepted: int
    refused: int


def accept(engine: Engine, notifier: Notifier, *, limit: int = 500) -> Accepted:
    """Turn the oldest unread rows into notifications, in one transaction of our own.

    Any number of processes may do this at once: on PostgreSQL each takes other rows, on SQLite
    one after the other. Dying in the middle leaves everything as it was; a row offered twice
    finds its own notification by the event key.

    Args:
        engine: of the database with our tables.
        notifier: whose bell rings after the commit.
        limit: most rows of one call, 1 to 5000.
    """
    with engine.begin() as connection:
        rows = _read(connection, limit)
        if not rows:
            return Accepted(accepted=0, refused=0)
        outcomes = _take(connection, notifier, rows)
        refused = {id_: str(why) for id_, why in outcomes.items() if isinstance(why, Exception)}
        accepted = [id_ for id_ in outcomes if id_ not in refused]
        if accepted:
            connection.execute(delete(_INBOX).where(_INBOX.c.id.in_(accepted)))
        if refused:
            connection.execute(
                update(_INBOX)
                .where(_INBOX.c.id == bindparam("row_id"))
                .values(refused_because=bindparam("why")),
                [
                    {"row_id": id_, "why": why[:_REASON_MAX] or "refused"}
                    for id_, why in refused.items()
                ],
            )
    return Accepted(accepted=len(accepted), refused=len(refused))


def _read(connection: Connection, limit: int) -> Sequence[RowMapping]:
    # Everything is read in a form that no value can break: a row whose text or time the driver
    # could not decode would fail this statement for ever, and with it the whole inbox.
    columns: list[ColumnElement[Any]]
    if connection.dialect.name == "sqlite":
        columns = [cast(_INBOX.c[name], LargeBinary).label(name) for name in _COLUMNS]
    else:
        # to_json writes times in ISO 8601 whatever the server's DateStyle, and infinity too.
        columns = [
            cast(func.to_json(_INBOX.c[name]) if name in _MOMENTS else _INBOX.c[name], Text).label(
                name
            )
            for name in _COLUMNS
        ]
    query = (
        select(_INBOX.c.id, *columns)
        .where(_INBOX.c.refused_because.is_(None))
        .order_by(_INBOX.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return connection.execute(query).mappings().all()


def _take(
    connection: Connection, notifier: Notifier, rows: Sequence[RowMapping]
) -> dict[int, Outcome]:
    outcomes: dict[int, Outcome] = {}
    drafts: dict[int, Draft] = {}
    for row in rows:
        try:
            drafts[row["id"]] = draft(_event(row))
        except PaynotifyError as error:
            outcomes[row["id"]] = error
    try:
        with connection.begin_nested():
            taken = notifier.take(connection, list(drafts.values()))
        return outcomes | dict(zip(drafts, taken, strict=True))
    except (DataError, IntegrityError):
        # The database refused something no check of ours knew: find out which row it was. Any
        # other failure (a lock, a lost connection) says nothing about the rows: it is raised.
        pass
    for id_, one in drafts.items():
        try:
            with connection.begin_nested():
                outcomes[id_] = notifier.take(connection, [one])[0]
        except (DataError, IntegrityError) as error:
            outcomes[id_] = BadFieldError("row", f"the database refuses it ({error.orig})")
    return outcomes


def _event(row: RowMapping) -> Enqueue:
    payload = row["payload"]
    return Enqueue(
        merchant=_text(row, "merchant"),
        endpoint=_text(row, "endpoint"),
        event_type=_text(row, "event_type") or "",
        event_key=_text(row, "event_key") or "",
        payload=payload.encode() if isinstance(payload, str) else payload,
        order_no=_text(row, "order_no"),
        notify_url=_text(row, "notify_url"),
        content_type=_text(row, "content_type"),
        headers=_headers(_text(row, "headers")),
        deliver_at=_moment(row, "deliver_at"),
        expires_at=_moment(row, "expires_at"),
        priority=_priority(_text(row, "priority")),
        trace_id=_text(row, "trace_id"),
    )


def _text(row: RowMapping, name: str) -> str | None:
    value: str | bytes | None = row[name]
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadFieldError(name, "is not UTF-8; write it again as UTF-8") from None


def _headers(text: str | None) -> Mapping[str, str] | None:
    if text is None:
        return None
    try:
        headers = json.loads(text)
    except (ValueError, RecursionError):
        headers = None
    if not isinstance(headers, dict):
        raise BadFieldError("headers", 'must be a JSON object of texts, like {"X-Shop": "7"}')
    return headers


def _moment(row: RowMapping, name: str) -> datetime | str | None:
    text = _text(row, name)
    if text is None:
        return None
    if isinstance(row[name], str):
        return text.strip('"')
    if not _MICROSECONDS(text):
        raise BadFieldError(
            name, f"is {text[:40]!r}, must be whole microseconds since 1970 (UTC) on SQLite"
        )
    return clock.from_us(int(text))


def _priority(text: str | None) -> int:
    if text is None or not _DIGIT(text):
        raise BadFieldError("priority", "must be a whole number, 0 to 9")
    return int(text)
