"""Compares what the shop promised, what our database says and what the merchants wrote down.

Must never take one book's word for another's: every number comes from the book it is named after.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, Row, func, select

from worker.demo_merchants import Entry
from worker.demo_shop import Event
from worker.models import State
from worker.tables import attempt, delivery, endpoint, notification


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One merchant's three books side by side.

    Attributes:
        promised: events of orders the shop committed.
        delivered: notifications our database calls delivered.
        acked: events the merchant answered ``success`` to.
        attempts: sends our database has on record.
        requests: genuine requests in the merchant's book.
        unfinished: notifications that are not delivered.
        lost: promised, not acked, and our database does not know that either.
        phantom: delivered by our database, but not acked.
        unexpected: arrived, but never promised.
        duplicates: arrived again after they had been acked.
        refused: requests whose signature was wrong.
    """

    merchant: str
    promised: int
    delivered: int
    acked: int
    attempts: int
    requests: int
    unfinished: int
    lost: int
    phantom: int
    unexpected: int
    duplicates: int
    refused: int

    @property
    def agrees(self) -> bool:
        """Whether the three books say the same, and nothing is left to do."""
        wrong = self.lost + self.phantom + self.unexpected + self.duplicates
        return not wrong and not self.unfinished and self.attempts == self.requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One attempt, for the screen."""

    at: datetime
    merchant: str
    order_no: str
    event_type: str
    attempt_no: int
    outcome: str
    status: int
    elapsed_ms: int


def compare(
    merchant: str,
    *,
    promised: set[Event],
    states: Mapping[Event, State],
    attempts: int,
    book: Sequence[Entry],
) -> Account:
    """Compare the books of one merchant.

    Args:
        merchant: its name.
        promised: from the shop.
        states: of its notifications, from our database.
        attempts: sends of these, from our database.
        book: the merchant's own.

    Examples:
        >>> compare("m", promised={("1", "paid")}, states={}, attempts=0, book=[]).lost
        1
    """
    genuine = [entry for entry in book if entry.genuine]
    acked = {(entry.order_no, entry.event_type) for entry in genuine if entry.acked}
    arrived = {(entry.order_no, entry.event_type) for entry in genuine}
    delivered = {event for event, state in states.items() if state is State.DELIVERED}
    # Still due, dead or cancelled: not delivered, but not forgotten either.
    known = states.keys() - delivered
    return Account(
        merchant=merchant,
        promised=len(promised),
        delivered=len(delivered),
        acked=len(acked),
        attempts=attempts,
        requests=len(genuine),
        unfinished=len(known),
        lost=len(promised - acked - known),
        phantom=len(delivered - acked),
        unexpected=len(arrived - promised),
        duplicates=_after_ack(genuine),
        refused=len(book) - len(genuine),
    )


def states(engine: Engine, merchant: str) -> dict[Event, State]:
    """Read what our database says of a merchant's notifications."""
    query = (
        select(notification.c.order_no, notification.c.event_type, delivery.c.state)
        .join(delivery, delivery.c.id == notification.c.id)
        .join(endpoint, endpoint.c.id == notification.c.endpoint_id)
        .where(endpoint.c.merchant == merchant)
    )
    with engine.connect() as tx:
        return {(row.order_no, row.event_type): State(row.state) for row in tx.execute(query)}


def attempts(engine: Engine, merchant: str) -> int:
    """Count the sends on record for a merchant."""
    query = (
        select(func.count())
        .select_from(attempt)
        .join(notification, notification.c.id == attempt.c.notification_id)
        .join(endpoint, endpoint.c.id == notification.c.endpoint_id)
        .where(endpoint.c.merchant == merchant)
    )
    with engine.connect() as tx:
        return tx.execute(query).scalar_one()


def counts(engine: Engine) -> dict[str, Counter[State]]:
    """Count notifications by merchant and state."""
    query = (
        select(endpoint.c.merchant, delivery.c.state, func.count().label("count"))
        .select_from(delivery)
        .join(notification, notification.c.id == delivery.c.id)
        .join(endpoint, endpoint.c.id == notification.c.endpoint_id)
        .group_by(endpoint.c.merchant, delivery.c.state)
    )
    found: dict[str, Counter[State]] = {}
    with engine.connect() as tx:
        for merchant, state, count in tx.execute(query):
            found.setdefault(merchant, Counter())[State(state)] = count
    return found


def recent(engine: Engine, limit: int) -> list[Try]:
    """Return the last attempts, newest first."""
    query = (
        select(attempt, notification.c.order_no, notification.c.event_type, endpoint.c.merchant)
        .join(notification, notification.c.id == attempt.c.notification_id)
        .join(endpoint, endpoint.c.id == notification.c.endpoint_id)
        .order_by(attempt.c.started_at.desc(), attempt.c.notification_id.desc())
        .limit(limit)
    )
    with engine.connect() as tx:
        return [_read(row) for row in tx.execute(query)]


def _read(row: Row[tuple[object, ...]]) -> Try:
    return Try(
        at=row.started_at,
        merchant=row.merchant,
        order_no=row.order_no,
        event_type=row.event_type,
        attempt_no=row.attempt_no,
        outcome=row.outcome or "on the wire",
        status=row.status,
        elapsed_ms=row.elapsed_ms,
    )


def _after_ack(genuine: Sequence[Entry]) -> int:
    acked: set[str] = set()
    again = 0
    for entry in genuine:
        again += entry.message_id in acked
        if entry.acked:
            acked.add(entry.message_id)
    return again
