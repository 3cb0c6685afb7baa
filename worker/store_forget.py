"""How finished notifications go: their payload, attempts and letters are removed, the key stays.

An event key is unique for ever, so a host that enqueues an old event once more must find it taken.
Of a forgotten notification its own row is left, with endpoint, keys, order and event type, and with
the SHA-256 of its payload where the payload was: the unique index that has always kept the promise
goes on keeping it, at no cost for those who enqueue; other bytes under the same key are still
refused; and an order that is refunded a year later is still known to have been told. Such a row
takes some 250 bytes with its index entries.

Must never touch what is not delivered or cancelled, what has an open dead letter, or is on hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    ColumnElement,
    Connection,
    delete,
    exists,
    func,
    null,
    or_,
    select,
    update,
)

from worker import holds
from worker.models import State
from worker.tables import attempt, dead_letter, delivery, notification

_OVER = (State.DELIVERED.value, State.CANCELLED.value)
_EMPTIED = (
    *("content_type", "headers", "notify_url", "schedule", "trace_id"),
    *("deliver_at", "expires_at"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What one batch did.

    Attributes:
        last_id: where the next batch begins; 0 when there is nothing old behind it.
        count: notifications that were forgotten.
    """

    last_id: int
    count: int


def forget(
    tx: Connection, *, after_id: int, limit: int, before: datetime, now: datetime
) -> Forgotten:
    """Forget the finished notifications among the next ``limit`` rows.

    Walks by id, which costs the same however many rows there are and needs no index of its own.
    Ids rise with time, so the walk is over at the first page that is all young. Called again
    after a process died in the middle, it finds the batch as it was before.

    Args:
        tx: a transaction of the caller; nobody places a hold until it ends.
        after_id: the last row of the page before; 0 for the first.
        limit: rows of one page, 1 to 1000.
        before: what finished earlier goes (aware).
        now: kept as ``forgotten_at`` (aware).
    """
    holds.freeze(tx)
    page = tx.execute(
        select(delivery.c.id, delivery.c.state, delivery.c.finished_at)
        .where(delivery.c.id > after_id)
        .order_by(delivery.c.id)
        .limit(limit)
    ).all()
    if not page:
        return Forgotten(last_id=0, count=0)
    # What was written later cannot have finished earlier.
    born = tx.execute(
        select(notification.c.created_at).where(notification.c.id.in_([row.id for row in page]))
    ).scalars()
    old = any(moment < before for moment in born)
    last_id = page[-1].id if old and len(page) == limit else 0
    finished = [
        row.id
        for row in page
        if row.state in _OVER and row.finished_at is not None and row.finished_at < before
    ]
    return Forgotten(last_id=last_id, count=_forget(tx, finished, before, now))


def _forget(tx: Connection, finished: Sequence[int], before: datetime, now: datetime) -> int:
    free = (
        tx.execute(
            select(notification.c.id).where(
                notification.c.id.in_(finished), *_may_go(notification.c.id)
            )
        )
        .scalars()
        .all()
    )
    if not free:
        return 0
    # Guarded once more in the statement itself, as every move of a delivery is.
    gone = (
        tx.execute(
            delete(delivery)
            .where(
                delivery.c.id.in_(free),
                delivery.c.state.in_(_OVER),
                delivery.c.finished_at < before,
            )
            .returning(delivery.c.id)
        )
        .scalars()
        .all()
    )
    tx.execute(delete(attempt).where(attempt.c.notification_id.in_(gone)))
    tx.execute(delete(dead_letter).where(dead_letter.c.notification_id.in_(gone)))
    tx.execute(
        update(notification)
        .where(notification.c.id.in_(gone))
        .values(
            **dict.fromkeys(_EMPTIED, null()),
            message_id="",
            # As intake_sql.digest() does; the bytes need not come here for it.
            payload=func.sha256(notification.c.payload),
            forgotten_at=now,
        )
    )
    return len(gone)


def _may_go(notification_id: ColumnElement[int]) -> tuple[ColumnElement[bool], ...]:
    letter = exists().where(
        dead_letter.c.notification_id == notification_id, dead_letter.c.resolution.is_(None)
    )
    held = or_(
        holds.on_endpoint(notification.c.endpoint_id),
        holds.on_order(func.coalesce(notification.c.order_no, "")),
    )
    return (~letter, ~held)
