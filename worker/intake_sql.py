"""The statements that write events, per database.

PostgreSQL takes any number of them in one statement and one round trip; SQLite has no round
trips to save. Must never overwrite: what is there already stays as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    Integer,
    LargeBinary,
    Text,
    TextClause,
    bindparam,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.types import TypeEngine

from worker import tables
from worker.drafts import Draft

Key = tuple[int, str]
_NOTIFICATION = tables.notification


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One event for one endpoint, ready to be written."""

    endpoint: str
    endpoint_id: int
    lane_id: int
    slow: bool
    message_id: str
    content_type: str | None
    draft: Draft

    @property
    def key(self) -> Key:
        """What makes it unique for ever."""
        return self.endpoint_id, self.draft.event_key


_ARRAYS: dict[str, TypeEngine[Any]] = {
    "endpoint_id": BigInteger(),
    "lane_id": BigInteger(),
    "message_id": Text(),
    "event_type": Text(),
    "event_key": Text(),
    "order_no": Text(),
    "payload": LargeBinary(),
    "content_type": Text(),
    "headers": Text(),
    "notify_url": Text(),
    "schedule": Text(),
    "trace_id": Text(),
    "deliver_at": TIMESTAMP(timezone=True),
    "expires_at": TIMESTAMP(timezone=True),
    "priority": Integer(),
}

# Both rows of each new event. One that is there already, or that another transaction is writing
# at this moment (it is waited for), is left alone and not answered.
_POSTGRESQL: TextClause = text("""
WITH item AS (
  SELECT * FROM unnest(
    :endpoint_id, :lane_id, :message_id, :event_type, :event_key, :order_no, :payload,
    :content_type, :headers, :notify_url, :schedule, :trace_id, :deliver_at, :expires_at, :priority
  ) AS item (endpoint_id, lane_id, message_id, event_type, event_key, order_no, payload,
    content_type, headers, notify_url, schedule, trace_id, deliver_at, expires_at, priority)
), fresh AS (
  INSERT INTO paynotify_notification (endpoint_id, message_id, event_type, event_key, order_no,
    payload, content_type, headers, notify_url, schedule, trace_id, deliver_at, expires_at)
  SELECT endpoint_id, message_id, event_type, event_key, order_no,
    payload, content_type, headers, notify_url, schedule, trace_id, deliver_at, expires_at
  FROM item
  ON CONFLICT (endpoint_id, event_key) DO NOTHING
  RETURNING id, endpoint_id, event_key, deliver_at
), queued AS (
  INSERT INTO paynotify_delivery (id, lane_id, state, priority, due_at)
  SELECT fresh.id, item.lane_id,
    CASE WHEN fresh.deliver_at > now() THEN 'waiting' ELSE 'pending' END,
    item.priority, greatest(fresh.deliver_at, now())
  FROM fresh JOIN item USING (endpoint_id, event_key)
)
SELECT id, endpoint_id, event_key FROM fresh
""").bindparams(*(bindparam(name, type_=ARRAY(kind)) for name, kind in _ARRAYS.items()))

# The row that changes, for a notification just written.
_SQLITE_DELIVERY = text(f"""
INSERT INTO paynotify_delivery (id, lane_id, state, priority, due_at)
VALUES (:id, :lane_id,
  CASE WHEN :deliver_at > {tables.SQLITE_NOW} THEN 'waiting' ELSE 'pending' END,
  :priority, max(coalesce(:deliver_at, 0), {tables.SQLITE_NOW}))
""").bindparams(bindparam("deliver_at", type_=tables.Moment()))  # noqa: S608 - a constant


def write(connection: Connection, entries: Sequence[Entry]) -> dict[Key, int]:
    """Write entries with keys that differ; answer the ids of those that are new."""
    if not entries:
        return {}
    rows = [_row(entry) for entry in entries]
    if connection.dialect.name == "postgresql":
        columns = {name: [row[name] for row in rows] for name in _ARRAYS}
        made = connection.execute(_POSTGRESQL, columns)
        return {(row.endpoint_id, row.event_key): row.id for row in made}
    return _write_sqlite(connection, rows)


def _write_sqlite(connection: Connection, rows: list[dict[str, Any]]) -> dict[Key, int]:
    statement = (
        insert(_NOTIFICATION)
        .on_conflict_do_nothing()
        .returning(_NOTIFICATION.c.id, _NOTIFICATION.c.endpoint_id, _NOTIFICATION.c.event_key)
    )
    small = ("lane_id", "priority")
    large = [{name: row[name] for name in row if name not in small} for row in rows]
    fresh = {
        (row.endpoint_id, row.event_key): row.id for row in connection.execute(statement, large)
    }
    deliveries = [
        {"id": id_} | {name: row[name] for name in (*small, "deliver_at")}
        for row in rows
        if (id_ := fresh.get((row["endpoint_id"], row["event_key"])))
    ]
    if deliveries:
        connection.execute(_SQLITE_DELIVERY, deliveries)
    return fresh


def read(connection: Connection, keys: Sequence[Key]) -> dict[Key, tuple[int, bytes]]:
    """Answer id and payload of notifications that are there already."""
    table = _NOTIFICATION.c
    query = select(table.id, table.endpoint_id, table.event_key, table.payload).where(
        tuple_(table.endpoint_id, table.event_key).in_(keys)
    )
    return {
        (row.endpoint_id, row.event_key): (row.id, bytes(row.payload))
        for row in connection.execute(query)
    }


def _row(entry: Entry) -> dict[str, Any]:
    draft = entry.draft
    return {
        "endpoint_id": entry.endpoint_id,
        "lane_id": entry.lane_id,
        "message_id": entry.message_id,
        "event_type": draft.event_type,
        "event_key": draft.event_key,
        "order_no": draft.order_no,
        "payload": draft.payload,
        "content_type": entry.content_type,
        "headers": draft.headers,
        "notify_url": draft.notify_url,
        "schedule": draft.schedule,
        "trace_id": draft.trace_id,
        "deliver_at": draft.deliver_at,
        "expires_at": draft.expires_at,
        "priority": draft.priority,
    }
