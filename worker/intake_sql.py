"""The statements that write events, per database.

PostgreSQL takes any number of them in one statement and one round trip; SQLite has no round
trips to save. Must never overwrite: what is there already stays as it is.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import (
    Connection,
    bindparam,
    delete,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects.sqlite import insert

from worker import columns, ordering, tables
from worker.drafts import Draft
from worker.models import Endpoint, Pool

Key = tuple[int, str]
_NOTIFICATION = tables.notification


@dataclass(frozen=True, slots=True)
class Entry:
    """One event for one endpoint, ready to be written.

    Attributes:
        key: what makes it unique for ever.
        pool: claims its lane.
        ring_from_s: it is rung for when the commit comes at this monotonic time or later.
        line: it stands in; None is unordered.
        wait_s: it lets each earlier one of the line hold it up.
    """

    endpoint: Endpoint
    key: Key
    lane_id: int
    pool: Pool
    ring_from_s: float
    content_type: str | None
    draft: Draft
    line: str | None = None
    wait_s: int | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """A notification that has this key.

    Attributes:
        payload: its bytes; of a forgotten one only their SHA-256 is left.
    """

    id: int
    payload: bytes
    forgotten: bool = False

    def carries(self, payload: bytes) -> bool:
        """Tell whether it carries, or once carried, these bytes."""
        return self.payload == (digest(payload) if self.forgotten else payload)


def digest(payload: bytes) -> bytes:
    """Return what is left of a payload when its notification is forgotten."""
    return sha256(payload).digest()


# Both rows of each new event. One that is there already, or that another transaction is writing
# at this moment (it is waited for), is left alone and not answered. The events travel as one JSON
# text: any driver can send it, and it costs a third of what arrays cost to write.
_POSTGRESQL = text("""
WITH item AS (
  SELECT * FROM json_to_recordset(CAST(:items AS json)) AS item (
    endpoint_id bigint, lane_id bigint, message_id text, event_type text, event_key text,
    order_no text, payload text, content_type text, headers text, notify_url text, schedule text,
    trace_id text, deliver_at timestamptz, expires_at timestamptz, priority smallint)
), fresh AS (
  INSERT INTO paynotify_notification (endpoint_id, message_id, event_type, event_key, order_no,
    payload, content_type, headers, notify_url, schedule, trace_id, deliver_at, expires_at)
  SELECT endpoint_id, message_id, event_type, event_key, order_no,
    decode(payload, 'hex'), content_type, headers, notify_url, schedule, trace_id, deliver_at,
    expires_at
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
""")

# The same for a batch in which some are ordered: ids rise as the events were given, and who is not
# the first of its line begins blocked. The turn to write into the lines has been taken before, so
# this sees whoever stands there.
_POSTGRESQL_ORDERED = text(f"""
WITH item AS MATERIALIZED (
  SELECT * FROM json_to_recordset(CAST(:items AS json)) AS item (
    place int, endpoint_id bigint, lane_id bigint, message_id text, event_type text,
    event_key text, order_no text, payload text, content_type text, headers text, notify_url text,
    schedule text, trace_id text, deliver_at timestamptz, expires_at timestamptz,
    priority smallint, ordering text, ordering_key text, ordering_wait_s int)
), fresh AS (
  INSERT INTO paynotify_notification (endpoint_id, message_id, event_type, event_key, order_no,
    payload, content_type, headers, notify_url, schedule, trace_id, deliver_at, expires_at,
    ordering_key, ordering_wait_s)
  SELECT endpoint_id, message_id, event_type, event_key, order_no,
    decode(payload, 'hex'), content_type, headers, notify_url, schedule, trace_id, deliver_at,
    expires_at, ordering_key, ordering_wait_s
  FROM item ORDER BY place
  ON CONFLICT (endpoint_id, event_key) DO NOTHING
  RETURNING id, endpoint_id, event_key, deliver_at
), placed AS (
  SELECT fresh.id, fresh.deliver_at, item.lane_id, item.priority, item.ordering,
    item.ordering IS NOT NULL AND (
      row_number() OVER (PARTITION BY item.ordering ORDER BY fresh.id) > 1
      OR EXISTS (SELECT 1 FROM paynotify_delivery d
                  WHERE d.ordering = item.ordering AND d.{tables.IN_LINE})) AS behind
  FROM fresh JOIN item USING (endpoint_id, event_key)
), queued AS (
  INSERT INTO paynotify_delivery (id, lane_id, state, priority, due_at, ordering, turn_at)
  SELECT id, lane_id,
    CASE WHEN behind THEN 'blocked' WHEN deliver_at > now() THEN 'waiting' ELSE 'pending' END,
    priority, CASE WHEN behind THEN now() ELSE greatest(deliver_at, now()) END, ordering,
    CASE WHEN ordering IS NOT NULL AND NOT behind THEN now() END
  FROM placed
)
SELECT id, endpoint_id, event_key FROM fresh
""")  # noqa: S608 - a constant

# The row that changes, for a notification just written.
_SQLITE_DELIVERY = text(f"""
INSERT INTO paynotify_delivery (id, lane_id, state, priority, due_at)
VALUES (:id, :lane_id,
  CASE WHEN :deliver_at > {columns.SQLITE_NOW} THEN 'waiting' ELSE 'pending' END,
  :priority, max(coalesce(:deliver_at, 0), {columns.SQLITE_NOW}))
""").bindparams(bindparam("deliver_at", type_=columns.Moment()))  # noqa: S608 - a constant

# The same when some are ordered, one after the other.
_SQLITE_ORDERED = text(f"""
INSERT INTO paynotify_delivery (id, lane_id, state, priority, due_at, ordering, turn_at)
SELECT :id, :lane_id,
  CASE WHEN behind THEN 'blocked' WHEN :deliver_at > now THEN 'waiting' ELSE 'pending' END,
  :priority, CASE WHEN behind THEN now ELSE max(coalesce(:deliver_at, 0), now) END, :ordering,
  CASE WHEN :ordering IS NOT NULL AND NOT behind THEN now END
FROM (SELECT {columns.SQLITE_NOW} AS now, EXISTS (
        SELECT 1 FROM paynotify_delivery d
         WHERE d.ordering = :ordering AND d.{tables.IN_LINE}) AS behind)
""").bindparams(bindparam("deliver_at", type_=columns.Moment()))  # noqa: S608 - constants


def write(connection: Connection, entries: Sequence[Entry]) -> dict[Key, int]:
    """Write entries with keys that differ; answer the ids of those that are new.

    In one line, ids rise in the order of ``entries``.
    """
    if not entries:
        return {}
    rows = [_row(entry) for entry in entries]
    lines = {entry.line for entry in entries if entry.line is not None}
    if lines:
        ordering.enter(connection, lines)
        rows = [
            row | _place(place, entry)
            for place, (row, entry) in enumerate(zip(rows, entries, strict=True))
        ]
    if connection.dialect.name == "postgresql":
        items = json.dumps(rows, default=_json, separators=(",", ":"))
        statement = _POSTGRESQL_ORDERED if lines else _POSTGRESQL
        made = connection.execute(statement, {"items": items})
        return {(row.endpoint_id, row.event_key): row.id for row in made}
    return _write_sqlite(connection, rows, in_line=bool(lines))


def _json(value: object) -> str:
    # What json does not know itself: a payload, a moment.
    return value.hex() if isinstance(value, bytes) else value.isoformat()  # type: ignore[attr-defined]


def _place(place: int, entry: Entry) -> dict[str, Any]:
    key = None if entry.line is None else entry.draft.event.ordering_key
    waits = {"ordering_key": key, "ordering_wait_s": entry.wait_s}
    return {"place": place, "ordering": entry.line, **waits}


def _write_sqlite(
    connection: Connection, rows: list[dict[str, Any]], *, in_line: bool
) -> dict[Key, int]:
    statement = (
        insert(_NOTIFICATION)
        .on_conflict_do_nothing()
        .returning(_NOTIFICATION.c.id, _NOTIFICATION.c.endpoint_id, _NOTIFICATION.c.event_key)
    )
    small = ("lane_id", "priority", "ordering") if in_line else ("lane_id", "priority")
    large = [
        {name: row[name] for name in row if name not in small and name != "place"} for row in rows
    ]
    fresh = {
        (row.endpoint_id, row.event_key): row.id for row in connection.execute(statement, large)
    }
    deliveries = [
        {"id": id_} | {name: row[name] for name in (*small, "deliver_at")}
        for row in rows
        if (id_ := fresh.get((row["endpoint_id"], row["event_key"])))
    ]
    if deliveries:
        connection.execute(_SQLITE_ORDERED if in_line else _SQLITE_DELIVERY, deliveries)
    return fresh


def read(connection: Connection, keys: Sequence[Key]) -> dict[Key, Known]:
    """Answer what is there already."""
    table = _NOTIFICATION.c
    query = select(
        table.id, table.endpoint_id, table.event_key, table.payload, table.forgotten_at
    ).where(tuple_(table.endpoint_id, table.event_key).in_(keys))
    return {
        (row.endpoint_id, row.event_key): Known(
            row.id, bytes(row.payload), row.forgotten_at is not None
        )
        for row in connection.execute(query)
    }


def unwrite(connection: Connection, ids: Sequence[int]) -> None:
    """Take back what this transaction has just written; nobody else has seen it.

    No savepoint: on a host's SQLite connection, releasing one could commit.
    """
    for table in (tables.delivery, _NOTIFICATION):
        connection.execute(delete(table).where(table.c.id.in_(ids)))


def message_id(endpoint: str, event_key: str) -> str:
    """Derive the id a merchant sees: the same event has the same id, even enqueued again.

    Examples:
        >>> message_id("acme", "order-1:paid")
        'msg_02991ed3dbe69d58c1d935c880f4dceb'
    """
    return "msg_" + sha256(f"{endpoint}|{event_key}".encode()).hexdigest()[:32]


def _row(entry: Entry) -> dict[str, Any]:
    draft, event = entry.draft, entry.draft.event
    return {
        "endpoint_id": entry.endpoint.id,
        "lane_id": entry.lane_id,
        "message_id": message_id(entry.endpoint.name, event.event_key),
        "event_type": event.event_type,
        "event_key": event.event_key,
        "order_no": event.order_no,
        "payload": draft.payload,
        "content_type": entry.content_type,
        "headers": draft.headers,
        "notify_url": event.notify_url,
        "schedule": draft.schedule,
        "trace_id": event.trace_id,
        "deliver_at": draft.deliver_at,
        "expires_at": draft.expires_at,
        "priority": event.priority,
    }
