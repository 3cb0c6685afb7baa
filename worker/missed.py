"""What a merchant has not acknowledged, page by page, so that it can settle without a resend.

Reads only. Stable while everything moves: pages go by the notification's number up to the one that
was the newest when the first page was asked for, so nothing is left out or comes twice because it
was settled meanwhile. Must never take a cursor it has not made itself, nor read more rows for one
page than a bounded number.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from enum import StrEnum
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, func, select

from worker import clock, missed_cursor
from worker.columns import database_now
from worker.endpoint_rows import read_endpoint
from worker.errors import BadFieldError, NotFoundError
from worker.masking import mask
from worker.missed_cursor import Place
from worker.models import Endpoint, EndpointState, State
from worker.sealing import Sealer
from worker.tables import attempt, dead_letter, delivery, lane, notification
from worker.tables import endpoint as _endpoint

PAGE_MAX = 200
# Numbers one query looks through, and queries of one page: some 100 ms of the database's time. A
# page of a quiet endpoint among millions of others is empty and has a cursor to go on.
_WINDOW = 20_000
_WINDOWS = 10
_UNFINISHED = (State.DEAD, State.WAITING, State.PENDING, State.SENDING)


class Standing(StrEnum):
    """How a notification that was not acknowledged stands.

    ``DEAD``: given up. ``HELD``: its endpoint is not called now. ``WAITING``: due, or due later.
    ``IN_FLIGHT``: being sent, its answer is not known yet.
    """

    DEAD = "dead"
    HELD = "held"
    WAITING = "waiting"
    IN_FLIGHT = "in_flight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """One notification that was not acknowledged; the fields of an export, in this order.

    Attributes:
        message_id: what the merchant tells doubles by.
        reason: why it is dead; empty otherwise.
        attempts: sends so far.
        last_status: of the last answer; 0 when none came.
        next_at: when it is sent next at the earliest; None when it is not.
        payload: the frozen text, secrets and card numbers in it masked.
        payload_sha256: of the frozen bytes as they are sent.
    """

    message_id: str
    event_type: str
    event_key: str
    order_no: str | None
    standing: Standing
    reason: str
    attempts: int
    last_status: int
    created_at: datetime
    next_at: datetime | None
    content_type: str
    payload: str
    payload_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page.

    Attributes:
        endpoint: name.
        since, until: created then or later, and before then (aware).
        rows: at most 200, by number; may be none though there are more.
        cursor: of the next page; empty after the last.
        seen, of: how far it is, in numbers of notifications.
    """

    endpoint: str
    since: datetime
    until: datetime
    rows: tuple[Missed, ...]
    cursor: str
    seen: int
    of: int


def page(
    engine: Engine,
    sealer: Sealer,
    *,
    endpoint: str,
    since: datetime | None = None,
    until: datetime | None = None,
    cursor: str = "",
    limit: int = PAGE_MAX,
) -> Page:
    """Return one page of what an endpoint has not acknowledged, oldest first.

    What a host commits after its place was passed is not in this walk, but in the next one.

    Args:
        engine: of the database with our tables.
        sealer: signs cursors; any process with the same master key reads them.
        endpoint: name, deleted or not.
        since: created then or later (aware); needed for the first page, taken from the cursor on
            later ones.
        until: created before then; None is now.
        cursor: of the page before; empty for the first.
        limit: most rows, 1 to 200.

    Raises:
        BadFieldError: names the field: a cursor that was changed, or belongs to another endpoint
            or other times.
        NotFoundError: no such endpoint.
    """
    if type(limit) is not int or not 1 <= limit <= PAGE_MAX:
        raise BadFieldError("limit", f"is {limit!r:.20}, must be 1 to {PAGE_MAX}")
    with engine.connect() as connection:
        found = _find(connection, endpoint)
        if cursor:
            place = missed_cursor.read(sealer, cursor, found.id, since, until)
        else:
            place = _first(connection, found.id, since, until)
        rows, after = _walk(connection, place, limit)
        kept = tuple(_missed(row, found) for row in rows)
    place = replace(place, after=after)
    return Page(
        endpoint=found.name,
        since=clock.from_us(place.since_us),
        until=clock.from_us(place.until_us),
        rows=kept,
        cursor="" if after >= place.last else missed_cursor.written(sealer, place),
        seen=min(after, place.last) - place.first,
        of=max(0, place.last - place.first),
    )


def _find(connection: Connection, name: str) -> Endpoint:
    row = connection.execute(select(_endpoint).where(_endpoint.c.name == name)).first()
    if row is None:
        names = connection.scalars(select(_endpoint.c.name).limit(5000))
        near = get_close_matches(name, names, n=1)
        raise NotFoundError("endpoint", name[:64], f"did you mean {near[0]}?" if near else "")
    return read_endpoint(row)


def _first(
    connection: Connection, endpoint_id: int, since: datetime | None, until: datetime | None
) -> Place:
    now = connection.execute(select(database_now())).scalar_one()
    if since is None:
        raise BadFieldError("since", "is missing; say from when on, for example 2h or 2026-01-31")
    start = missed_cursor.aware(since, "since")
    end = now if until is None else min(now, missed_cursor.aware(until, "until"))
    if start >= end:
        raise BadFieldError("since", "must be before now and before until")
    last = connection.scalar(select(func.max(notification.c.id))) or 0
    first = _before(connection, start, last)
    return Place(
        endpoint_id=endpoint_id,
        since_us=clock.to_us(start),
        until_us=clock.to_us(end),
        first=first,
        after=first,
        last=last,
    )


# Walking


def _before(connection: Connection, since: datetime, last: int) -> int:
    """Find a number before that of everything created since then, by halving.

    Numbers rise with time but for the length of hosts' transactions: ten windows of slack are more
    than they enqueue.
    """
    low, high = 0, last + 1
    while high - low > _WINDOW:
        middle = (low + high) // 2
        row = connection.execute(
            select(notification.c.created_at)
            .where(notification.c.id >= middle)
            .order_by(notification.c.id)
            .limit(1)
        ).first()
        if row is not None and row.created_at < since:
            low = middle
        else:
            high = middle
    return max(0, low - 10 * _WINDOW) if low else 0


def _walk(connection: Connection, place: Place, limit: int) -> tuple[list[Row[Any]], int]:
    """Collect rows from window to window; returns them and the last number looked at."""
    rows: list[Row[Any]] = []
    after = place.after
    for _ in range(_WINDOWS):
        if after >= place.last or len(rows) >= limit:
            break
        end = min(after + _WINDOW, place.last)
        found = connection.execute(_query(place, after, end, limit - len(rows))).all()
        rows += found
        after = found[-1].id if len(rows) >= limit else end
    return rows, after


def _query(place: Place, after: int, end: int, limit: int) -> Select[Any]:
    own = select(lane.c.id).where(lane.c.endpoint_id == place.endpoint_id)
    letter = (
        select(dead_letter.c.reason)
        .where(dead_letter.c.notification_id == delivery.c.id)
        .order_by(dead_letter.c.id.desc())
        .limit(1)
        .correlate(delivery)
        .scalar_subquery()
    )
    status = (
        select(attempt.c.status)
        .where(
            attempt.c.notification_id == delivery.c.id,
            attempt.c.attempt_no == delivery.c.attempt_no,
        )
        .correlate(delivery)
        .scalar_subquery()
    )
    return (
        select(
            notification,
            delivery.c.state,
            delivery.c.attempt_no,
            delivery.c.due_at,
            letter.label("reason"),
            status.label("status"),
        )
        .join(notification, notification.c.id == delivery.c.id)
        .where(
            delivery.c.id > after,
            delivery.c.id <= end,
            delivery.c.lane_id.in_(own),
            delivery.c.state.in_([state.value for state in _UNFINISHED]),
            notification.c.created_at >= clock.from_us(place.since_us),
            notification.c.created_at < clock.from_us(place.until_us),
            notification.c.forgotten_at.is_(None),
        )
        .order_by(delivery.c.id)
        .limit(limit)
    )


def _missed(row: Row[Any], endpoint: Endpoint) -> Missed:
    standing = _standing(row.state, endpoint.state)
    payload = bytes(row.payload)
    return Missed(
        message_id=row.message_id,
        event_type=row.event_type,
        event_key=row.event_key,
        order_no=row.order_no,
        standing=standing,
        reason=row.reason or "" if standing is Standing.DEAD else "",
        attempts=row.attempt_no,
        last_status=row.status or 0,
        created_at=row.created_at,
        next_at=row.due_at if standing is Standing.WAITING else None,
        content_type=row.content_type or endpoint.content_type,
        payload=mask(payload.decode("utf-8", "backslashreplace")),
        payload_sha256=sha256(payload).hexdigest(),
    )


def _standing(state: str, endpoint: EndpointState) -> Standing:
    if state == State.DEAD:
        return Standing.DEAD
    if state == State.SENDING:
        return Standing.IN_FLIGHT
    return Standing.WAITING if endpoint is EndpointState.ACTIVE else Standing.HELD
