"""Notifications as hosts and operators see them, and cancelling one.

Reads through the caller's connection; must never move a notification that is on the wire.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select, update

from worker import columns, ordering, tables
from worker.errors import NotFoundError
from worker.models import EndpointState, Outcome, State
from worker.states import FINAL
from worker.views import Attempt, Notification

_NOTIFICATION, _DELIVERY = tables.notification, tables.delivery
_ENDPOINT, _ATTEMPT = tables.endpoint, tables.attempt
_QUIET = (State.BLOCKED, State.WAITING, State.PENDING)
# Nobody knows when a blocked one is sent.
_NOT_DUE = {*FINAL, State.DEAD, State.BLOCKED}


def get(connection: Connection, notification: int | str) -> Notification:
    """Return one notification by id or message id; of equal message ids the newest."""
    if isinstance(notification, str):
        which = _NOTIFICATION.c.message_id == notification
    else:
        which = _NOTIFICATION.c.id == notification
    query = _query().where(which).order_by(_NOTIFICATION.c.id.desc()).limit(1)
    row = connection.execute(query).first()
    if row is None:
        raise NotFoundError("notification", str(notification)[:64])
    return _read(row)


def list_by_order(connection: Connection, order_no: str) -> list[Notification]:
    """Return all notifications of an order, oldest first."""
    query = _query().where(_NOTIFICATION.c.order_no == order_no).order_by(_NOTIFICATION.c.id)
    return [_read(row) for row in connection.execute(query)]


def find(
    connection: Connection,
    *,
    state: State | None = None,
    endpoint: str | None = None,
    merchant: str | None = None,
    since: datetime | None = None,
    before_id: int | None = None,
    limit: int = 50,
) -> list[Notification]:
    """Return one page of notifications, newest first.

    Args:
        connection: of the caller.
        state: only these.
        endpoint: name of one endpoint.
        merchant: of one merchant.
        since: created then or later (aware).
        before_id: the last id of the page before.
        limit: most notifications, 1 to 1000.
    """
    query = _query()
    if state is not None:
        query = query.where(_DELIVERY.c.state == state.value)
    if endpoint is not None:
        query = query.where(_ENDPOINT.c.name == endpoint)
    if merchant is not None:
        query = query.where(_ENDPOINT.c.merchant == merchant)
    if since is not None:
        query = query.where(_NOTIFICATION.c.created_at >= since)
    if before_id is not None:
        query = query.where(_NOTIFICATION.c.id < before_id)
    rows = connection.execute(query.order_by(_NOTIFICATION.c.id.desc()).limit(limit))
    return [_read(row) for row in rows]


def attempts(connection: Connection, notification_id: int) -> list[Attempt]:
    """Return the attempts of a notification, first to last."""
    query = (
        select(_ATTEMPT)
        .where(_ATTEMPT.c.notification_id == notification_id)
        .order_by(_ATTEMPT.c.attempt_no)
    )
    return [
        Attempt(
            attempt_no=row.attempt_no,
            started_at=row.started_at,
            finished_at=row.finished_at,
            outcome=None if row.outcome is None else Outcome(row.outcome),
            status=row.status,
            error=row.error,
            evidence=row.evidence,
            elapsed_ms=row.elapsed_ms,
            remote_ip=row.remote_ip,
            secret_version=row.secret_version,
            signed_at=row.signed_at,
            config_no=row.config_no,
            worker=row.worker,
            route=row.route,
        )
        for row in connection.execute(query)
    ]


def payload(connection: Connection, notification_id: int) -> bytes:
    """Return the frozen bytes of a notification."""
    query = select(_NOTIFICATION.c.payload).where(
        _NOTIFICATION.c.id == notification_id, _NOTIFICATION.c.forgotten_at.is_(None)
    )
    found = connection.execute(query).scalar_one_or_none()
    if found is None:
        raise NotFoundError("notification", str(notification_id))
    return bytes(found)


def cancel(connection: Connection, notification_id: int) -> bool:
    """Cancel a notification that is not on the wire; calling it again answers False."""
    cancelled = connection.execute(
        update(_DELIVERY)
        .where(_DELIVERY.c.id == notification_id, _DELIVERY.c.state.in_(_QUIET))
        .values(state=State.CANCELLED, finished_at=columns.database_now())
        .returning(_DELIVERY.c.ordering)
    ).first()
    if cancelled is not None:
        if cancelled.ordering is not None:
            ordering.follow(connection, [cancelled.ordering])
        return True
    known = select(_DELIVERY.c.id).where(_DELIVERY.c.id == notification_id)
    if connection.execute(known).first() is None:
        raise NotFoundError("notification", str(notification_id))
    return False


def _query() -> Select[Any]:
    return (
        select(
            *(column for column in _NOTIFICATION.c if column is not _NOTIFICATION.c.payload),
            func.length(_NOTIFICATION.c.payload).label("payload_bytes"),
            _DELIVERY.c.state,
            _DELIVERY.c.attempt_no,
            _DELIVERY.c.due_at,
            _DELIVERY.c.finished_at,
            _DELIVERY.c.superseded_by,
            _ENDPOINT.c.name.label("endpoint"),
            _ENDPOINT.c.merchant,
            _ENDPOINT.c.state.label("endpoint_state"),
        )
        .join(_DELIVERY, _DELIVERY.c.id == _NOTIFICATION.c.id)
        .join(_ENDPOINT, _ENDPOINT.c.id == _NOTIFICATION.c.endpoint_id)
    )


def _read(row: Row[Any]) -> Notification:
    state = State(row.state)
    return Notification(
        id=row.id,
        message_id=row.message_id,
        endpoint=row.endpoint,
        merchant=row.merchant,
        event_type=row.event_type,
        event_key=row.event_key,
        order_no=row.order_no,
        state=state,
        held=state in _QUIET and row.endpoint_state != EndpointState.ACTIVE,
        attempts=row.attempt_no,
        created_at=row.created_at,
        due_at=None if state in _NOT_DUE else row.due_at,
        finished_at=row.finished_at,
        expires_at=row.expires_at,
        notify_url=row.notify_url,
        trace_id=row.trace_id,
        payload_bytes=row.payload_bytes,
        ordering_key=row.ordering_key,
        superseded_by=row.superseded_by,
    )
