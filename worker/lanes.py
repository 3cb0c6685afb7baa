"""How the lanes of endpoints are doing, for operators: breakers, pace, what is on the wire.

Reads only.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Row, Select, func, or_, select

from worker.models import Pool, State
from worker.tables import delivery, endpoint, lane


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneView:
    """One lane as an operator sees it.

    Attributes:
        host: of notifications with their own ``notify_url``; empty for the endpoint's URL.
        breaker_until: an open breaker sends one probe from then on; None when it is closed.
        ramp: in-flight limit while recovering; None when fully recovered.
        sending: notifications on the wire now.
    """

    endpoint: str
    host: str
    pool: Pool
    failures_in_row: int
    breaker_until: datetime | None
    ramp: int | None
    latency_ms: int
    sending: int


def of_endpoint(engine: Engine, endpoint_id: int) -> list[LaneView]:
    """Return all lanes of an endpoint, its own first."""
    with engine.connect() as connection:
        rows = connection.execute(
            _QUERY.where(lane.c.endpoint_id == endpoint_id).order_by(lane.c.id)
        )
        return [_read(row) for row in rows]


def troubled(engine: Engine, *, limit: int) -> list[LaneView]:
    """Return lanes that are failing, recovering or slow; those with an open breaker first."""
    trouble = or_(lane.c.open_until.is_not(None), lane.c.ramp.is_not(None), lane.c.slow)
    query = _QUERY.where(trouble).order_by(lane.c.open_until.is_(None), lane.c.id).limit(limit)
    with engine.connect() as connection:
        return [_read(row) for row in connection.execute(query)]


_SENDING = (
    select(func.count())
    .where(delivery.c.lane_id == lane.c.id, delivery.c.state == State.SENDING.value)
    .correlate(lane)
    .scalar_subquery()
)
_QUERY: Select[Any] = select(
    lane, endpoint.c.name.label("endpoint"), _SENDING.label("sending")
).select_from(lane.join(endpoint, endpoint.c.id == lane.c.endpoint_id))


def _read(row: Row[Any]) -> LaneView:
    return LaneView(
        endpoint=row.endpoint,
        host=row.host,
        pool=Pool.SLOW if row.slow else Pool.FAST,
        failures_in_row=row.failures_in_row,
        breaker_until=row.open_until,
        ramp=row.ramp,
        latency_ms=round(row.latency_ms),
        sending=row.sending,
    )
