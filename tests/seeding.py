"""Rows for tests of the store: lanes and notifications written straight into the tables."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, Row, insert, select, update

from worker import columns, tables
from worker.breaker import Policy
from worker.models import (
    Claimed,
    Decision,
    Outcome,
    Reason,
    Settlement,
    Verdict,
)
from worker.retry import DELIVERED
from worker.store import Rules, Store
from worker.store_postgresql import PostgresqlStore
from worker.store_sqlite import SqliteStore

RULES = Rules(lease_s=60, poison_after=3, breaker=Policy())
RETRY = Verdict(decision=Decision.RETRY, outcome=Outcome.NOT_ACKED, delay_s=60.0, healthy=False)
DEAD = Verdict(
    decision=Decision.DEAD, outcome=Outcome.NOT_ACKED, reason=Reason.EXHAUSTED, healthy=False
)
HOLD = Verdict(decision=Decision.HOLD, outcome=Outcome.NOT_ACKED, given_back=True)


def store_on(engine: Engine, rules: Rules = RULES) -> Store:
    """The store of this engine's database."""
    if engine.dialect.name == "postgresql":
        return PostgresqlStore(engine, rules)
    return SqliteStore(engine, rules)


def add_lane(engine: Engine, name: str = "acme", **lane: object) -> int:
    """One endpoint with one lane; returns the lane's id, which is the endpoint's too."""
    with engine.begin() as tx:
        endpoint_id = tx.execute(
            insert(tables.endpoint)
            .values(name=name, merchant=name, url="https://acme.com/", config="{}")
            .returning(tables.endpoint.c.id)
        ).scalar_one()
        tx.execute(
            insert(tables.lane).values(id=endpoint_id, endpoint_id=endpoint_id, host="", **lane)
        )
    return int(endpoint_id)


def add_due(
    engine: Engine,
    lane_id: int,
    count: int = 1,
    *,
    state: str = "pending",
    due_in_s: float = -1.0,
    priority: int = 5,
    **notification: object,
) -> list[int]:
    """``count`` notifications of one lane; returns their ids in order."""
    with engine.begin() as tx:
        now = tx.execute(select(columns.database_now())).scalar_one()
        ids = []
        for place in range(count):
            key = f"{lane_id}-{state}-{priority}-{due_in_s}-{place}-{notification!r}"
            ids.append(
                tx.execute(
                    insert(tables.notification)
                    .values(
                        endpoint_id=lane_id,
                        message_id=f"msg_{key}",
                        event_type="payment.succeeded",
                        event_key=key,
                        payload=b'{"amount":1}',
                        **notification,
                    )
                    .returning(tables.notification.c.id)
                ).scalar_one()
            )
        tx.execute(
            insert(tables.delivery),
            [
                {
                    "id": row_id,
                    "lane_id": lane_id,
                    "state": state,
                    "priority": priority,
                    # A microsecond apart: earliest first must mean something.
                    "due_at": now + timedelta(seconds=due_in_s, microseconds=place),
                }
                for place, row_id in enumerate(ids)
            ],
        )
    return ids


def row_of(engine: Engine, notification_id: int) -> Row[Any]:
    """The delivery row."""
    with engine.connect() as connection:
        return connection.execute(
            select(tables.delivery).where(tables.delivery.c.id == notification_id)
        ).one()


def notification_of(engine: Engine, notification_id: int) -> Row[Any]:
    """The notification row."""
    with engine.connect() as connection:
        return connection.execute(
            select(tables.notification).where(tables.notification.c.id == notification_id)
        ).one()


def attempts_of(engine: Engine, notification_id: int) -> list[Row[Any]]:
    """Attempt rows in order."""
    with engine.connect() as connection:
        return list(
            connection.execute(
                select(tables.attempt)
                .where(tables.attempt.c.notification_id == notification_id)
                .order_by(tables.attempt.c.attempt_no)
            )
        )


def letters_of(engine: Engine, notification_id: int) -> list[Row[Any]]:
    """Dead letters of a notification, oldest first."""
    with engine.connect() as connection:
        return list(
            connection.execute(
                select(tables.dead_letter)
                .where(tables.dead_letter.c.notification_id == notification_id)
                .order_by(tables.dead_letter.c.id)
            )
        )


def age(engine: Engine, seconds: float, *ids: int) -> None:
    """Let time pass for some rows (all without ids): due times, leases and the like move back."""
    step = timedelta(seconds=seconds)
    delivery, lane = tables.delivery, tables.lane
    with engine.begin() as tx:
        for row in tx.execute(select(delivery)).all():
            if ids and row.id not in ids:
                continue
            tx.execute(
                update(delivery)
                .where(delivery.c.id == row.id)
                .values(
                    due_at=row.due_at - step,
                    lease_until=row.lease_until and row.lease_until - step,
                    turn_at=row.turn_at and row.turn_at - step,
                )
            )
        for row in tx.execute(select(lane)).all():
            tx.execute(
                update(lane)
                .where(lane.c.id == row.id)
                .values(
                    open_until=row.open_until and row.open_until - step,
                    tokens_at=row.tokens_at - step,
                    window_at=row.window_at and row.window_at - step,
                )
            )


def change_lane(engine: Engine, lane_id: int, **values: object) -> None:
    """Set columns of a lane."""
    with engine.begin() as tx:
        tx.execute(update(tables.lane).where(tables.lane.c.id == lane_id).values(**values))


def verdict_on(
    claimed: Claimed, verdict: Verdict = DELIVERED, *, evidence: str = "success", error: str = ""
) -> Settlement:
    """A settlement of a claim."""
    return Settlement(
        claimed=claimed,
        verdict=verdict,
        status=200,
        elapsed_ms=3,
        evidence=evidence,
        error=error,
        remote_ip="127.0.0.1",
        secret_version=1,
    )


def settle(store: Store, rows: Sequence[Claimed], verdict: Verdict = DELIVERED) -> tuple[int, ...]:
    """Settle all with one verdict; returns the stale ones."""
    return store.settle([verdict_on(row, verdict) for row in rows]).stale


def superseded(claimed: Claimed) -> Claimed:
    """The same claim under a number that is no longer the row's."""
    return replace(claimed, claim_no=claimed.claim_no - 1)
