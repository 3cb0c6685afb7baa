"""How far a walk through missed notifications is, sealed so that nobody can change it.

A merchant may hold it. Must never take one that was changed, belongs to another endpoint, or was
made by somebody else.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import datetime

from worker import clock
from worker.errors import BadFieldError, SecretError
from worker.sealing import Sealer

_ROW = "cursor/missed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a cursor holds; numbers of notifications, times in microseconds since 1970.

    Attributes:
        first: the walk began behind it.
        after: it has come to here.
        last: it ends with this one.
    """

    endpoint_id: int
    since_us: int
    until_us: int
    first: int
    after: int
    last: int


def written(sealer: Sealer, place: Place) -> str:
    """Seal a place as text that fits into a URL."""
    values = [getattr(place, name) for name in Place.__slots__]
    sealed = sealer.seal(json.dumps(values), row=_ROW)
    return base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def read(
    sealer: Sealer, cursor: str, endpoint_id: int, since: datetime | None, until: datetime | None
) -> Place:
    """Open a cursor.

    Args:
        sealer: with the key it was sealed with.
        cursor: what :func:`written` made.
        endpoint_id: whose walk it must be.
        since: what is asked for now; None takes the cursor's.
        until: the same.

    Raises:
        BadFieldError: field ``cursor``.
    """
    try:
        sealed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        values = json.loads(sealer.open(sealed, row=_ROW))
    except (SecretError, binascii.Error, ValueError):
        raise BadFieldError(
            "cursor", "is not one we made, or was changed; begin again without it"
        ) from None
    place = Place(**dict(zip(Place.__slots__, values, strict=True)))
    if place.endpoint_id != endpoint_id:
        raise BadFieldError("cursor", "belongs to another endpoint; begin again without it")
    for field, given, held in (("since", since, place.since_us), ("until", until, place.until_us)):
        if given is not None and clock.to_us(aware(given, field)) != held:
            raise BadFieldError("cursor", f"was begun with another {field}; leave {field} out")
    return place


def aware(moment: datetime, field: str) -> datetime:
    """Refuse a time without a zone."""
    if moment.utcoffset() is None:
        raise BadFieldError(field, "needs a time zone, for example 2026-01-31T08:00:00Z")
    return moment
