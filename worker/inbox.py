"""The inbox: one INSERT that any language can do in its own transaction.

A host without Python writes a row of ``paynotify_inbox``; the workers' tick turns it into
notifications. On PostgreSQL::

    INSERT INTO paynotify_inbox (merchant, event_type, event_key, order_no, payload)
    VALUES ('shop-77', 'payment.succeeded', 'o-1:paid', 'o-1', '{"order_no":"o-1"}');

Must never lose a row, never read one for ever and never let one hold up the others: a row that
is refused stays, with the reason in ``refused_because``; setting that back to NULL offers it
again. A row whose event key an open transaction holds is left for the next look. The payload's
bytes are kept as the host wrote them. Rows of one ordering key go in one after the other, by id;
of transactions that are open at the same time, the one that commits first. On SQLite, times are
whole microseconds since 1970.
"""

import json
import logging
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
    exists,
    func,
    insert,
    select,
    true,
    update,
)
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    SQLAlchemyError,
    StatementError,
)

from worker import clock, tables
from worker.client import Notifier
from worker.drafts import Draft, Enqueue, draft
from worker.errors import BadFieldError, PaynotifyError
from worker.fields import ORDERING_WAIT_MAX_S, check_wait
from worker.intake import Outcome

_log = logging.getLogger(__name__)
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
    "ordering_key",
)
_MOMENTS = ("deliver_at", "expires_at")
_NUMBERS = ("priority", "ordering_wait_s", "supersede")
_COLUMNS = (*_TEXTS, *_MOMENTS, *_NUMBERS)
_REASON_MAX = 500
UNWANTED = (
    "event_type: no endpoint of this merchant wants it; see `paynotify endpoint list`, then set "
    "refused_because to NULL"
)
# A host that leaves its transaction open holds its event keys: a batch looks again row by row,
# and each such row costs the others no more than this.
_BATCH_WAIT = "200ms"
_ROW_WAIT = "20ms"
# Lock timeout, statement timeout, deadlock, serialization.
_WAITS = frozenset({"55P03", "57014", "40P01", "40001"})
_MICROSECONDS = re.compile(r"[0-9]{1,16}").fullmatch
_DIGIT = re.compile(r"[0-9]").fullmatch
_SECONDS = re.compile(r"[0-9]{1,9}").fullmatch
_TRUTHS = {"true": True, "false": False, "1": True, "0": False}


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
        # An event nobody wants is a typo more often than not: it stays, too.
        refused = {
            id_: str(why) if isinstance(why, Exception) else UNWANTED
            for id_, why in outcomes.items()
            if isinstance(why, Exception) or not why
        }
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
    for id_ in _behind(connection, drafts):
        del drafts[id_]
    _wait_at_most(connection, _BATCH_WAIT)
    try:
        with connection.begin_nested():
            taken = notifier.take(connection, list(drafts.values()))
        return outcomes | dict(zip(drafts, taken, strict=True))
    except Exception as error:
        if not _may_be_a_row(error):
            raise
    return outcomes | _take_each(connection, notifier, drafts)


def _take_each(
    connection: Connection, notifier: Notifier, drafts: Mapping[int, Draft]
) -> dict[int, Outcome]:
    """Take rows one by one: some row spoils the batch, find out which."""
    _wait_at_most(connection, _ROW_WAIT)
    outcomes: dict[int, Outcome] = {}
    stuck: set[str | None] = set()
    for id_, one in drafts.items():
        key = one.event.ordering_key
        outcome = None if key in stuck else _take_one(connection, notifier, id_, one)
        if outcome is not None:
            outcomes[id_] = outcome
        elif key is not None:
            stuck.add(key)
    return outcomes


def _behind(connection: Connection, drafts: Mapping[int, Draft]) -> Sequence[int]:
    """Return ordered rows that an older unread one of their key, in other hands, stands before.

    They are left for a later look: two processes that took them at once would not keep the order.
    """
    ordered = [id_ for id_, one in drafts.items() if one.event.ordering_key is not None]
    if not ordered:
        return ()
    older, own = _INBOX.alias("older"), _INBOX.c
    same = (
        older.c.ordering_key == own.ordering_key,
        # One may name the merchant and the other its endpoint.
        func.coalesce(older.c.merchant == own.merchant, true()),
        func.coalesce(older.c.endpoint == own.endpoint, true()),
    )
    query = select(own.id).where(
        own.id.in_(ordered),
        exists().where(
            *same,
            older.c.id < own.id,
            older.c.refused_because.is_(None),
            older.c.id.not_in(list(drafts)),
        ),
    )
    return connection.scalars(query).all()


def _take_one(connection: Connection, notifier: Notifier, id_: int, one: Draft) -> Outcome | None:
    """Take a row by itself; None leaves it unread for the next look."""
    try:
        with connection.begin_nested():
            return notifier.take(connection, [one])[0]
    except Exception as error:
        if not _may_be_a_row(error):
            raise
        if _is_wait(error):
            _log.info("inbox row %d is left: a transaction that is open holds its key", id_)
            return None
        if isinstance(error, DBAPIError):
            return BadFieldError("row", f"the database refuses it ({error.orig})")
        _log.exception("inbox row %d cannot be taken", id_)
        return BadFieldError("row", f"cannot be taken ({type(error).__name__}: {error})")


def _wait_at_most(connection: Connection, wait: str) -> None:
    # On SQLite all waiting is over once a transaction has begun.
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{wait}'")


def _may_be_a_row(error: Exception) -> bool:
    # A lost connection, a full disk, a missing table say nothing about the rows.
    if isinstance(error, DBAPIError):
        return not error.connection_invalidated and (
            isinstance(error, DataError | IntegrityError) or _is_wait(error)
        )
    if isinstance(error, SQLAlchemyError):
        return isinstance(error, StatementError)
    return not isinstance(error, OSError | MemoryError)


def _is_wait(error: Exception) -> bool:
    return getattr(getattr(error, "orig", None), "sqlstate", None) in _WAITS


def _event(row: RowMapping) -> Enqueue:
    payload = row["payload"]
    _check_json(payload, _text(row, "content_type"))
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
        ordering_key=_text(row, "ordering_key"),
        ordering_wait_s=_wait(_text(row, "ordering_wait_s")),
        supersede=_supersede(_text(row, "supersede")),
    )


def _check_json(payload: object, content_type: str | None) -> None:
    """Refuse what looks like JSON and is none: here the host still sees it, later nobody does."""
    text = payload.decode("utf-8", "replace") if isinstance(payload, bytes) else str(payload)
    looks_like = text.lstrip()[:1] in ("{", "[")
    if not (looks_like if content_type is None else "json" in content_type):
        return
    try:
        json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise BadFieldError("payload", f"is not valid JSON ({error}); write it whole") from None


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


def _wait(text: str | None) -> int | None:
    if text is None:
        return None
    # Whatever is no number is refused with the range.
    return check_wait(int(text) if _SECONDS(text) else text)


def _supersede(text: str | None) -> bool:
    if text not in _TRUTHS:
        raise BadFieldError("supersede", "must be true or false (1 or 0 on SQLite)")
    return _TRUTHS[text]


def keep_refused(engine: Engine, fields: Mapping[str, Any], why: str) -> None:
    """Keep an event that came as a message and was refused, as a row that was read and refused.

    Args:
        engine: of our tables.
        fields: as they came; what is no text is kept as JSON.
        why: goes into ``refused_because``; put right and set to NULL, the row is taken in.
    """
    texts = {name: _as_text(fields[name]) for name in _TEXTS if fields.get(name) is not None}
    row: dict[str, object] = {"event_type": "", "event_key": "", "payload": "null", **texts}
    wait_s = fields.get("ordering_wait_s")
    if type(wait_s) is int and 0 < wait_s <= ORDERING_WAIT_MAX_S:
        row["ordering_wait_s"] = wait_s
    row["supersede"] = fields.get("supersede") is True
    with engine.begin() as tx:
        tx.execute(insert(_INBOX).values(**row, refused_because=why[:_REASON_MAX]))


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
