"""The story of one notification, read from its rows: enqueued, tried, died, redriven, done.

Reads only. Must never show a payload, a secret or a signature.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, select

from worker import lookup, ordering
from worker.errors import NotFoundError
from worker.models import EndpointState, Reason, State
from worker.states import FINAL
from worker.tables import dead_letter, delivery, endpoint, lane, notification
from worker.views import Attempt


class Kind(StrEnum):
    """What happened in one step; the order is that of steps at the same moment."""

    ENQUEUED = "enqueued"
    ATTEMPT = "attempt"
    DIED = "died"
    REDRIVEN = "redriven"
    DISCARDED = "discarded"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One dead letter.

    Attributes:
        attempts: number of the last attempt when it died.
        last_reply: head of the last reply's body as safe text, see ``evidence.py``.
        resolution: ``redriven`` or ``discarded``; None while it is open.
        resolved_by, resolved_why: the person who did it, in their own words.
    """

    id: int
    notification_id: int
    message_id: str
    endpoint: str
    merchant: str
    event_type: str
    order_no: str | None
    reason: Reason
    last_status: int
    last_error: str
    last_reply: str
    attempts: int
    first_failed_at: datetime | None
    last_failed_at: datetime | None
    died_at: datetime
    resolution: str | None
    resolved_at: datetime | None
    resolved_by: str | None
    resolved_why: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that happened.

    Attributes:
        attempt: of an ``attempt``.
        letter: of ``died``, ``redriven`` and ``discarded``.
    """

    at: datetime
    kind: Kind
    attempt: Attempt | None = None
    letter: Letter | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """How one notification came to be where it is.

    Attributes:
        due_at: when it is sent next, at the earliest; None once finished and while sending.
        breaker_until: the breaker of its lane is open until then; None when it is closed.
        ordering_key: what it is kept in order by; None is nothing.
        waits_for: the first unfinished one of its key before it, while it is blocked.
        superseded_by: a newer one that takes its place.
        overtaken_by: the newest one of its key that was sent though it comes later, while dead.
        steps: oldest first.
    """

    notification_id: int
    message_id: str
    endpoint: str
    endpoint_state: EndpointState
    endpoint_reason: str
    state: State
    tries: int
    due_at: datetime | None
    expires_at: datetime | None
    breaker_until: datetime | None
    ordering_key: str | None
    waits_for: int | None
    superseded_by: int | None
    overtaken_by: int | None
    steps: tuple[Step, ...]

    @property
    def standing(self) -> str:
        """What it waits for, or how it ended, in one clause."""
        if self.state in _ENDED:
            return _ENDED[self.state] + self._left_behind
        if self.state is State.SENDING:
            return "being sent now" + self._left_behind
        if self.endpoint_state is not EndpointState.ACTIVE:
            return f"held: endpoint {self.endpoint} is {self.endpoint_state}" + (
                f" ({self.endpoint_reason})" if self.endpoint_reason else ""
            )
        if self.breaker_until is not None:
            return f"due; waits for the breaker of {self.endpoint}, which probes from then on"
        if self.state is State.BLOCKED:
            what = "a worker to look" if self.waits_for is None else f"{self.waits_for}"
            return f"behind others of key {self.ordering_key}; waits for {what}"
        return "waits for its time" if self.state is State.WAITING else "due, waits for a worker"

    @property
    def _left_behind(self) -> str:
        if self.superseded_by is not None:
            told = "; not tried again" if self.state is State.SENDING else ""
            return f"; superseded by {self.superseded_by}{told}"
        if self.overtaken_by is not None:
            return (
                f"; overtaken by {self.overtaken_by} of the same key, so a redrive leaves it "
                "unless told to go out of order"
            )
        return ""


def of(engine: Engine, notification_id: int) -> Timeline:
    """Read the story of a notification.

    Raises:
        NotFoundError: no such notification.
    """
    with engine.connect() as connection:
        row = connection.execute(_HEAD.where(delivery.c.id == notification_id)).first()
        if row is None:
            raise NotFoundError("notification", str(notification_id))
        steps = [Step(at=row.created_at, kind=Kind.ENQUEUED)]
        steps += [
            Step(at=tried.started_at, kind=Kind.ATTEMPT, attempt=tried)
            for tried in lookup.attempts(connection, notification_id)
        ]
        steps += _deaths(connection, notification_id)
        state = State(row.state)
        waits_for, superseded_by, overtaken_by = _in_line(connection, row, state)
    if state is State.DELIVERED or (
        state is State.CANCELLED and all(step.kind is not Kind.DISCARDED for step in steps)
    ):
        steps.append(Step(at=row.finished_at or row.created_at, kind=Kind(state.value)))
    steps.sort(key=_place)
    return Timeline(
        notification_id=row.id,
        message_id=row.message_id,
        endpoint=row.endpoint,
        endpoint_state=EndpointState(row.endpoint_state),
        endpoint_reason=row.endpoint_reason,
        state=state,
        tries=row.tries,
        due_at=row.due_at if state in (State.WAITING, State.PENDING) else None,
        expires_at=row.expires_at,
        breaker_until=row.open_until,
        ordering_key=row.ordering_key,
        waits_for=waits_for,
        superseded_by=superseded_by,
        overtaken_by=overtaken_by,
        steps=tuple(steps),
    )


def _in_line(
    connection: Connection, row: Any, state: State
) -> tuple[int | None, int | None, int | None]:
    """Tell whom it waits for, who superseded it and who has overtaken it."""
    if row.ordering_key is None:
        return None, None, None
    waits_for = superseded_by = overtaken_by = None
    if state is State.BLOCKED:
        waits_for = ordering.in_front(connection, row.id, row.ordering)
    elif state is State.DEAD:
        overtaken_by = ordering.overtaken(connection, [row.id]).get(row.id)
    if state is State.CANCELLED:
        superseded_by = row.superseded_by
    elif state not in FINAL:
        superseded_by = ordering.superseded_by(connection, row.id, row.ordering)
    return waits_for, superseded_by, overtaken_by


def letters_query() -> Select[Any]:
    """Return the query whose rows :func:`read_letter` reads, without conditions or order."""
    return select(
        dead_letter,
        notification.c.message_id,
        notification.c.event_type,
        notification.c.order_no,
        endpoint.c.name.label("endpoint"),
        endpoint.c.merchant,
    ).select_from(
        dead_letter.join(notification, notification.c.id == dead_letter.c.notification_id).join(
            endpoint, endpoint.c.id == dead_letter.c.endpoint_id
        )
    )


def read_letter(row: Row[Any]) -> Letter:
    """Read a row of :func:`letters_query`."""
    return Letter(
        id=row.id,
        notification_id=row.notification_id,
        message_id=row.message_id,
        endpoint=row.endpoint,
        merchant=row.merchant,
        event_type=row.event_type,
        order_no=row.order_no,
        reason=Reason(row.reason),
        last_status=row.last_status,
        last_error=row.last_error,
        last_reply=row.last_reply,
        attempts=row.attempts,
        first_failed_at=row.first_failed_at,
        last_failed_at=row.last_failed_at,
        died_at=row.died_at,
        resolution=row.resolution,
        resolved_at=row.resolved_at,
        resolved_by=row.resolved_by,
        resolved_why=row.resolved_why,
    )


_ENDED = {
    State.DELIVERED: "delivered",
    State.DEAD: "stays so until somebody redrives or discards it",
    State.CANCELLED: "cancelled",
}
_ORDER = {kind: place for place, kind in enumerate(Kind)}
_HEAD = select(
    delivery.c.id,
    delivery.c.state,
    delivery.c.tries,
    delivery.c.due_at,
    delivery.c.finished_at,
    delivery.c.ordering,
    delivery.c.superseded_by,
    notification.c.ordering_key,
    notification.c.message_id,
    notification.c.created_at,
    notification.c.expires_at,
    endpoint.c.name.label("endpoint"),
    endpoint.c.state.label("endpoint_state"),
    endpoint.c.state_reason.label("endpoint_reason"),
    lane.c.open_until,
).select_from(
    delivery.join(notification, notification.c.id == delivery.c.id)
    .join(endpoint, endpoint.c.id == notification.c.endpoint_id)
    .join(lane, lane.c.id == delivery.c.lane_id)
)


def _place(step: Step) -> tuple[datetime, int]:
    return step.at, _ORDER[step.kind]


def _deaths(connection: Connection, notification_id: int) -> list[Step]:
    steps = []
    query = letters_query().where(dead_letter.c.notification_id == notification_id)
    for row in connection.execute(query.order_by(dead_letter.c.id)):
        letter = read_letter(row)
        steps.append(Step(at=letter.died_at, kind=Kind.DIED, letter=letter))
        if letter.resolution is not None and letter.resolved_at is not None:
            steps.append(Step(at=letter.resolved_at, kind=Kind(letter.resolution), letter=letter))
    return steps
