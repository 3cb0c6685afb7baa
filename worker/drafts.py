"""Drafts: what a host asks to have delivered, checked field by field before anything is written.

Pure. Must never let through what a merchant could not be sent: here the host still sees it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from worker.endpoint_rows import schedule_text
from worker.errors import BadFieldError
from worker.fields import check_content_type, check_wait, parse_schedule, quoted, visible
from worker.guard import check_headers
from worker.models import Schedule
from worker.payload import encode
from worker.retry import check_schedule

_EVENT_TYPE = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*").fullmatch
_EVENT_TYPE_MAX = 128
# Beyond these years the two databases and their drivers no longer agree on what they can hold.
_EARLIEST = datetime(1970, 1, 2, tzinfo=UTC)
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueue:
    """One event to be delivered; exactly one of ``merchant`` and ``endpoint`` is given.

    Attributes:
        merchant: all of its endpoints that want this event type get it.
        endpoint: name of the one endpoint that gets it, whatever its event filter.
        event_type: dotted words, at most 128 characters (``payment.succeeded``).
        event_key: the event's identity, unique per endpoint for ever, 1 to 200 visible ASCII
            characters.
        payload: see :func:`worker.payload.encode`; at most 256 KiB.
        order_no: to find it by, 1 to 128 visible ASCII characters.
        notify_url: where this one goes instead of the endpoint's URL.
        content_type: of the payload; None is the endpoint's.
        headers: at most 10 more, see :func:`worker.guard.check_header`.
        deliver_at: not before (aware, or ISO 8601 text with an offset); None is now.
        expires_at: given up after (aware), later than ``deliver_at``; None is never.
        priority: 0 first to 9 last, within one endpoint.
        schedule: instead of the endpoint's; also as text, ``60,300,600``.
        trace_id: 1 to 128 visible ASCII characters, kept with it.
        ordering_key: within one endpoint, not sent before earlier events of the same key are
            over; 1 to 128 visible ASCII characters, None is unordered.
        ordering_wait_s: how long it lets each earlier one hold it up, 1 to 604 800 s; None is the
            endpoint's.
        supersede: undelivered earlier events of the same key are dropped.
    """

    event_type: str
    event_key: str
    payload: object
    merchant: str | None = None
    endpoint: str | None = None
    order_no: str | None = None
    notify_url: str | None = None
    content_type: str | None = None
    headers: Mapping[str, str] | None = None
    deliver_at: datetime | str | None = None
    expires_at: datetime | str | None = None
    priority: int = 5
    schedule: Schedule | str | None = None
    trace_id: str | None = None
    ordering_key: str | None = None
    ordering_wait_s: int | None = None
    supersede: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """An event that passed all checks but those that need its endpoint.

    Attributes:
        event: as the host gave it, every plain field checked.
        payload: the bytes that will be sent, frozen.
        payload_type: media type of a payload we encoded ourselves; None when we did not.
        headers: JSON list of pairs; None is none.
        schedule: JSON; None is the endpoint's.
    """

    event: Enqueue
    payload: bytes
    payload_type: str | None
    headers: str | None
    deliver_at: datetime | None
    expires_at: datetime | None
    schedule: str | None


def draft(event: Enqueue) -> Draft:
    """Check an event and freeze its payload.

    Raises:
        BadFieldError: names the first field that is wrong.
    """
    _check_receiver(event)
    _check_event_type(event.event_type)
    visible(event.event_key, "event_key", 200)
    if event.order_no is not None:
        visible(event.order_no, "order_no", 128)
    if event.trace_id is not None:
        visible(event.trace_id, "trace_id", 128)
    if event.content_type is not None:
        check_content_type(event.content_type)
    if event.notify_url is not None and not isinstance(event.notify_url, str):
        raise BadFieldError("notify_url", f"must be text, not {type(event.notify_url).__name__}")
    if type(event.priority) is not int or not 0 <= event.priority <= 9:
        raise BadFieldError("priority", "must be a whole number, 0 to 9")
    _check_ordering(event)
    payload, payload_type = encode(event.payload)
    deliver_at = None if event.deliver_at is None else _moment(event.deliver_at, "deliver_at")
    return Draft(
        event,
        payload,
        payload_type,
        None if event.headers is None else _headers(event.headers),
        deliver_at,
        None if event.expires_at is None else _expires_at(event.expires_at, deliver_at),
        None if event.schedule is None else _schedule(event.schedule),
    )


def _check_receiver(event: Enqueue) -> None:
    if (event.merchant is None) == (event.endpoint is None):
        raise BadFieldError("merchant", "give either merchant or endpoint, one of the two")
    if event.merchant is not None:
        visible(event.merchant, "merchant", 64)
    else:
        visible(event.endpoint, "endpoint", 64)


def _check_ordering(event: Enqueue) -> None:
    if type(event.supersede) is not bool:
        raise BadFieldError("supersede", "must be true or false")
    if event.ordering_key is not None:
        visible(event.ordering_key, "ordering_key", 128)
    elif event.supersede:
        raise BadFieldError("supersede", "needs an ordering_key: it says what is superseded")
    if event.ordering_wait_s is None:
        return
    if event.ordering_key is None:
        raise BadFieldError("ordering_wait_s", "needs an ordering_key: without one nothing waits")
    check_wait(event.ordering_wait_s)


def _check_event_type(value: object) -> None:
    if not isinstance(value, str) or len(value) > _EVENT_TYPE_MAX or not _EVENT_TYPE(value):
        raise BadFieldError(
            "event_type",
            f"{quoted(value, 130)} is no event type; write words of letters, digits, - and _ "
            f"with dots between, at most {_EVENT_TYPE_MAX} characters, like payment.succeeded",
        )


def _headers(headers: object) -> str | None:
    if not isinstance(headers, Mapping):
        raise BadFieldError("headers", f"must be a mapping, not {type(headers).__name__}")
    pairs = check_headers(headers)
    return json.dumps(pairs, separators=(",", ":")) if pairs else None


def _moment(value: object, field: str) -> datetime:
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise BadFieldError(
            field,
            "must be a datetime with a time zone, datetime.now(UTC) for example, or such text: "
            "2026-01-31T09:30:00+08:00",
        )
    if not _EARLIEST <= moment <= _LATEST:
        raise BadFieldError(field, f"is {moment.isoformat()}, must be within 1970 to 2200")
    return moment


def _expires_at(value: object, deliver_at: datetime | None) -> datetime:
    expires_at = _moment(value, "expires_at")
    if deliver_at is not None and expires_at <= deliver_at:
        raise BadFieldError(
            "expires_at", "is not after deliver_at, so it could never be sent; set it later"
        )
    return expires_at


def _schedule(value: object) -> str:
    if isinstance(value, str):
        return schedule_text(parse_schedule(value))
    if not isinstance(value, Schedule):
        raise BadFieldError("schedule", "must be a Schedule or text like 60,300,600")
    check_schedule(value)
    return schedule_text(value)
