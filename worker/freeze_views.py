"""Frozen endpoints as operators see them. Reads only."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, func, select

from worker.freeze_writes import FROZEN, now_of
from worker.tables_freeze import freeze


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeView:
    """A freeze as operators see it; the last one of its endpoint.

    Attributes:
        person: why only a person can resume it; empty: a probe can.
        unfrozen_at: None while it is frozen.
        unfrozen_by: ``freeze`` after a probe, or the person who moved it.
        frozen_s: how long it was frozen, until now while it is.
    """

    frozen_at: datetime
    why: str
    times: int
    probes: int
    probed_at: datetime | None
    code: str
    status: int
    probe_at: datetime
    person: str
    unfrozen_at: datetime | None
    unfrozen_by: str
    frozen_s: int


def of_endpoint(engine: Engine, endpoint_id: int) -> FreezeView | None:
    """Return the present or last freeze of an endpoint; None when it never was."""
    with engine.connect() as connection:
        now = now_of(connection)
        row = connection.execute(select(freeze).where(freeze.c.endpoint_id == endpoint_id)).first()
    if row is None:
        return None
    return FreezeView(
        frozen_at=row.frozen_at,
        why=row.why,
        times=row.times,
        probes=row.probes,
        probed_at=row.probed_at,
        code=row.code,
        status=row.status,
        probe_at=row.probe_at,
        person=row.person,
        unfrozen_at=row.unfrozen_at,
        unfrozen_by=row.unfrozen_by,
        frozen_s=round(((row.unfrozen_at or now) - row.frozen_at).total_seconds()),
    )


def count(engine: Engine) -> tuple[int, int]:
    """Count frozen endpoints, and those of them that wait for a person."""
    with engine.connect() as connection:
        frozen, waiting = connection.execute(
            select(func.count(), func.count().filter(freeze.c.person != ""))
            .select_from(freeze)
            .where(FROZEN)
        ).one()
    return int(frozen), int(waiting)
