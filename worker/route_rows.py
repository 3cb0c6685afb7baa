"""How the health of a callback route lies in its row, and how operators see it.

Must never show the query of a URL: legacy merchants keep keys in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Row, select
from sqlalchemy.dialects import postgresql, sqlite

from worker.columns import database_now
from worker.masking import mask
from worker.models import Endpoint
from worker.route_facts import OWN, Route, RouteHealth, RoutePolicy, Standing
from worker.routes import shares
from worker.tables_routes import callback_route


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteView:
    """One route as an operator sees it.

    Attributes:
        url: without what must not be shown.
        pinned: a person wants this one and no other.
        percent: of the traffic that goes through it now.
        failed, sends: in the present window.
        probe_at: when a tripped route is probed next.
        moved_at: when it last tripped, returned a step or was sound again; None is never.
    """

    no: int
    url: str
    weight: int
    standing: Standing
    pinned: bool
    percent: float
    failures_in_row: int
    failed: int
    sends: int
    probe_at: datetime | None
    trips: int
    moved_at: datetime | None


def all_routes(endpoint: Endpoint) -> tuple[Route, ...]:
    """Return every route of an endpoint in order, its own URL first."""
    return (Route(no=OWN, url=endpoint.url, weight=endpoint.weight), *endpoint.routes)


def views(engine: Engine, endpoint: Endpoint, policy: RoutePolicy) -> list[RouteView]:
    """Return how the routes of an endpoint are doing, in order; one that has but one has none."""
    if not endpoint.routes:
        return []
    query = select(callback_route, database_now().label("now")).where(
        callback_route.c.endpoint_id == endpoint.id
    )
    with engine.connect() as connection:
        rows = {row.no: row for row in connection.execute(query)}
    routes = all_routes(endpoint)
    healths = [
        read_health(rows[route.no]) if route.no in rows else RouteHealth() for route in routes
    ]
    if endpoint.pinned is None:
        parts = shares(routes, healths, policy)
    else:
        parts = tuple(float(route.no == endpoint.pinned) for route in routes)
    return [
        RouteView(
            no=route.no,
            url=mask(route.url),
            weight=route.weight,
            standing=health.standing,
            pinned=route.no == endpoint.pinned,
            percent=round(100 * part, 1),
            failures_in_row=health.failures_in_row,
            failed=health.window_failed,
            sends=health.window_ok + health.window_failed,
            probe_at=rows[route.no].probe_at if route.no in rows else None,
            trips=health.trips,
            moved_at=rows[route.no].moved_at if route.no in rows else None,
        )
        for route, health, part in zip(routes, healths, parts, strict=True)
    ]


def read_health(row: Row[Any]) -> RouteHealth:
    """Read a row that carries the database's clock as ``now``."""
    now: datetime = row.now
    return RouteHealth(
        standing=Standing(row.standing),
        step=row.step,
        failures_in_row=row.failures_in_row,
        window_ok=row.window_ok,
        window_failed=row.window_failed,
        window_age_s=max(0.0, (now - row.window_at).total_seconds()) if row.window_at else 0.0,
        probe_in_s=max(0.0, (row.probe_at - now).total_seconds()) if row.probe_at else 0.0,
        probing=row.probing,
        pauses=row.pauses,
        trips=row.trips,
    )


def columns_of(before: RouteHealth, health: RouteHealth, now: datetime) -> dict[str, object]:
    """Write a health as the columns of its row."""
    counting = health.standing is Standing.RETURNING or health.window_ok or health.window_failed
    values: dict[str, object] = {
        "standing": health.standing.value,
        "step": health.step,
        "failures_in_row": health.failures_in_row,
        "window_ok": health.window_ok,
        "window_failed": health.window_failed,
        "window_at": now - timedelta(seconds=health.window_age_s) if counting else None,
        "probe_at": (
            now + timedelta(seconds=health.probe_in_s)
            if health.standing is Standing.TRIPPED
            else None
        ),
        "probing": health.probing,
        "pauses": health.pauses,
        "trips": health.trips,
    }
    if has_moved(before, health):
        values["moved_at"] = now
    return values


def has_moved(before: RouteHealth, health: RouteHealth) -> bool:
    """Tell whether two healths differ in more than counts."""
    return (before.standing, before.step) != (health.standing, health.step)


def insert_missing(tx: Connection, keys: Iterable[tuple[int, int]]) -> None:
    """Add rows of routes by endpoint and number; those that are there stay as they are."""
    dialect = postgresql if tx.dialect.name == "postgresql" else sqlite
    values = [{"endpoint_id": endpoint_id, "no": no} for endpoint_id, no in sorted(keys)]
    statement: Any = dialect.insert(callback_route).on_conflict_do_nothing()
    tx.execute(statement, values)
