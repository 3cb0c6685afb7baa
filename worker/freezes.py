"""Freezing what keeps failing: found by its breaker, held in one transaction each.

Must never freeze an endpoint that recovered in the meantime, or that is not to be frozen.
"""

from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, insert, select, text, update

from worker import endpoint_writes as write
from worker import freeze_rules
from worker.breaker import Policy
from worker.freeze_rules import Manner
from worker.freeze_writes import health_of, move, now_of, print_of
from worker.models import Endpoint, EndpointState
from worker.tables import endpoint as _endpoint
from worker.tables import lane
from worker.tables_freeze import certificate
from worker.tables_freeze import freeze as _freeze


def freeze_failing(
    engine: Engine, *, manner: Manner, breaker: Policy, limit: int
) -> list[tuple[str, str]]:
    """Freeze endpoints that keep failing; returns their names and why.

    Called twice, the second finds them frozen.
    """
    if not manner.trips and not manner.open_s:
        return []
    frozen = []
    for endpoint_id in _suspects(engine, manner, breaker, limit):
        with engine.begin() as tx:
            done = _freeze_one(tx, endpoint_id, manner, breaker)
        if done is not None:
            frozen.append(done)
    return frozen


def _suspects(engine: Engine, manner: Manner, breaker: Policy, limit: int) -> list[int]:
    with engine.connect() as connection:
        now = now_of(connection)
        rows = connection.execute(
            select(lane.c.endpoint_id, lane.c.open_until, lane.c.opened_times)
            # An open breaker's lane is slow; as the index of slow lanes says it.
            .where(text("paynotify_lane.slow"), ~lane.c.held, lane.c.host == "")
            .where(lane.c.open_until > now)
            .order_by(lane.c.opened_times.desc(), lane.c.id)
            .limit(limit)
        ).all()
    return [
        row.endpoint_id
        for row in rows
        if freeze_rules.why_freeze(
            health_of(row.open_until, row.opened_times, now), manner, breaker
        )
    ]


def _freeze_one(
    tx: Connection, endpoint_id: int, manner: Manner, breaker: Policy
) -> tuple[str, str] | None:
    before = write.locked(tx, _endpoint.c.id == endpoint_id)
    if before is None or before.state is not EndpointState.ACTIVE or not before.freeze:
        return None
    now = now_of(tx)
    row = tx.execute(
        select(lane.c.open_until, lane.c.opened_times).where(
            lane.c.endpoint_id == endpoint_id, lane.c.host == ""
        )
    ).one()
    # Again, now that nobody can change it: it may have recovered in between.
    why = freeze_rules.why_freeze(health_of(row.open_until, row.opened_times, now), manner, breaker)
    if not why:
        return None
    times = _times(tx, endpoint_id, row.opened_times)
    _write_freeze(tx, before, now, why, times, manner)
    opened = row.opened_times
    move(tx, before, EndpointState.FROZEN, "endpoint.freeze", why, times=times, opened=opened)
    return before.name, why


def _times(tx: Connection, endpoint_id: int, opened_times: int) -> int:
    """Say how often it was frozen without a recovery in between, this one included."""
    last = tx.execute(
        select(_freeze.c.times, _freeze.c.trips).where(_freeze.c.endpoint_id == endpoint_id)
    ).first()
    # A recovery starts the count of openings anew.
    return last.times + 1 if last is not None and 0 < last.trips < opened_times else 1


def _write_freeze(
    tx: Connection, endpoint: Endpoint, now: datetime, why: str, times: int, manner: Manner
) -> None:
    shown = tx.scalar(select(certificate.c.sha256).where(certificate.c.endpoint_id == endpoint.id))
    values: dict[str, object] = {
        "frozen_at": now,
        "why": why,
        "url_sha256": print_of(endpoint.url),
        "certificate": shown or "",
        "times": times,
        "probe_at": now + timedelta(seconds=freeze_rules.first_wait_s(times, manner.probe_s)),
        "lease_until": None,
        "probes": 0,
        "probed_at": None,
        "code": "",
        "status": 0,
        "person": "",
        "unfrozen_at": None,
        "unfrozen_by": "",
    }
    # The endpoint's row is locked: nobody else writes this one.
    mine = _freeze.c.endpoint_id == endpoint.id
    if not tx.execute(update(_freeze).where(mine).values(**values)).rowcount:
        tx.execute(insert(_freeze).values(endpoint_id=endpoint.id, **values))
