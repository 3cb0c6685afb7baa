"""What the redrive reads: open letters, the lanes they belong to, how the last batch went.

Every query goes by keys, and looks at a bounded number of rows. Must never change a letter or a
delivery: that is the store's.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, or_, select, update

from schedules.revival import WHO, Fate, fate
from schedules.rows import insert_new, now
from worker import endpoint_rows, ordering
from worker.models import Endpoint, Reason, State
from worker.tables import dead_letter, delivery, lane, notification
from worker.tables import endpoint as _endpoint
from worker.tables_alerts import rollup
from worker.tables_retention import revival

__all__ = [
    "Candidate",
    "acked_at",
    "endpoint",
    "fit",
    "last_batch",
    "next_endpoint",
    "now",
    "open_letters",
    "write_down",
]

# Only what ran out of tries: everything else fails again for the same reason.
_REVIVABLE = Reason.EXHAUSTED.value
# How far back a success is looked for.
_LATELY = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An open dead letter."""

    id: int
    notification_id: int
    reason: str
    died_at: datetime


def next_endpoint(tx: Connection, after: int) -> int:
    """Return the next endpoint with open letters by id; 0 when there is none."""
    query = (
        select(dead_letter.c.endpoint_id)
        .where(dead_letter.c.resolution.is_(None), dead_letter.c.endpoint_id > after)
        .order_by(dead_letter.c.endpoint_id)
        .limit(1)
    )
    return tx.scalar(query) or 0


def endpoint(tx: Connection, endpoint_id: int) -> Endpoint | None:
    """Read one endpoint without its secrets."""
    row = tx.execute(select(_endpoint).where(_endpoint.c.id == endpoint_id)).first()
    return None if row is None else endpoint_rows.read_endpoint(row)


def acked_at(tx: Connection, endpoint_id: int) -> datetime | None:
    """Return the start of the last minute within the hour in which it acknowledged something."""
    found: datetime | None = tx.scalar(
        select(func.max(rollup.c.minute_at)).where(
            rollup.c.endpoint_id == endpoint_id,
            rollup.c.minute_at > now(tx) - _LATELY,
            rollup.c.acked > 0,
        )
    )
    return found


def open_letters(tx: Connection, endpoint_id: int, *, after: int, limit: int) -> list[Candidate]:
    """Read a page of an endpoint's open letters, oldest first."""
    letter = dead_letter.c
    found = tx.execute(
        select(letter.id, letter.notification_id, letter.reason, letter.died_at)
        .where(letter.resolution.is_(None), letter.endpoint_id == endpoint_id, letter.id > after)
        .order_by(letter.id)
        .limit(limit)
    )
    return [
        Candidate(
            id=row.id,
            notification_id=row.notification_id,
            reason=row.reason,
            died_at=row.died_at,
        )
        for row in found
    ]


def fit(
    tx: Connection,
    page: Sequence[Candidate],
    *,
    died: tuple[datetime, datetime],
    times_max: int,
    limit: int,
) -> list[Candidate]:
    """Return those that may be revived, at most ``limit``.

    Args:
        tx: a transaction.
        page: from :func:`open_letters`.
        died: not before the first moment, and before the second.
        times_max: most revivals of one notification.
        limit: most letters.
    """
    since, until = died
    timely = [
        letter for letter in page if letter.reason == _REVIVABLE and since <= letter.died_at < until
    ]
    found: list[Candidate] = []
    # A few at a time: mostly the first ones will do.
    chunk = 2 * limit + 8
    for first in range(0, len(timely), chunk):
        found += _fit(tx, timely[first : first + chunk], times_max)
        if len(found) >= limit:
            break
    return found[:limit]


def _fit(tx: Connection, letters: Sequence[Candidate], times_max: int) -> list[Candidate]:
    ids = [letter.notification_id for letter in letters]
    expires_at = notification.c.expires_at
    spotless = set(
        tx.scalars(
            select(delivery.c.id)
            .join(lane, lane.c.id == delivery.c.lane_id)
            .join(notification, notification.c.id == delivery.c.id)
            .where(
                delivery.c.id.in_(ids),
                notification.c.id.in_(ids),
                or_(expires_at.is_(None), expires_at > now(tx)),
                delivery.c.state == State.DEAD.value,
                ~lane.c.held,
                lane.c.open_until.is_(None),
                lane.c.ramp.is_(None),
                lane.c.failures_in_row == 0,
            )
        )
    )
    times: dict[int, int] = {
        row[0]: row[1]
        for row in tx.execute(
            select(dead_letter.c.notification_id, func.count())
            .where(dead_letter.c.notification_id.in_(ids), dead_letter.c.resolved_by == WHO)
            .group_by(dead_letter.c.notification_id)
        )
    }
    # What a newer event of the same ordering key has overtaken is left to people. Of the others
    # the first goes: the next batch waits for this one, and must not wait for who stands behind.
    spotless -= ordering.overtaken(tx, spotless).keys()
    spotless = ordering.first_in_line(tx, spotless)
    return [
        letter
        for letter in letters
        if letter.notification_id in spotless and times.get(letter.notification_id, 0) < times_max
    ]


def last_batch(tx: Connection, endpoint_id: int) -> tuple[int, list[Fate]]:
    """Return the size of the endpoint's last batch, 0 for none, and what became of it."""
    row = tx.execute(select(revival).where(revival.c.endpoint_id == endpoint_id)).first()
    if row is None:
        return 0, []
    found = tx.execute(
        select(delivery.c.state, delivery.c.tries).where(
            delivery.c.id.in_(json.loads(row.notification_ids))
        )
    )
    return row.size, [fate(one.state, tries=one.tries) for one in found]


def write_down(tx: Connection, endpoint_id: int, size: int, notification_ids: list[int]) -> None:
    """Keep which batch is sent next."""
    insert_new(tx, revival, {"endpoint_id": endpoint_id})
    tx.execute(
        update(revival)
        .where(revival.c.endpoint_id == endpoint_id)
        .values(size=size, notification_ids=json.dumps(notification_ids), revived_at=now(tx))
    )
