"""Where the health of routes and the pace of channels are kept, for all processes together.

Each method is a short transaction of its own. Must never be held open while a channel is asked.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, Row, select, update
from sqlalchemy.dialects import postgresql, sqlite

from schedules import rows
from schedules.route_health import RouteHealth
from worker.tables_orders import route

# A probe that nobody reports on is granted again after this.
PROBE_S = 60.0
# The row that stands for the channel itself.
_CHANNEL = ""


class RouteBook:
    """Reads and writes ``paynotify_route``.

    Args:
        engine: of the database with our tables.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def health(self, channel: str) -> dict[str, RouteHealth]:
        """Return what is remembered of a channel's routes, by name."""
        query = select(route).where(route.c.channel == channel, route.c.route != _CHANNEL)
        with self._engine.connect() as connection:
            return {row.route: _read(row) for row in connection.execute(query)}

    def write(self, channel: str, name: str, health: RouteHealth, *, now: datetime) -> None:
        """Keep a route's health; a breaker that somebody else opened is not closed by a count.

        Args:
            channel: of the route.
            name: of the route.
            health: as it is now.
            now: aware.
        """
        values = {
            "failures_in_row": health.failures_in_row,
            "open_until": health.open_until,
            "opened_times": health.opened_times,
            "updated_at": now,
        }
        with self._engine.begin() as tx:
            dialect = postgresql if tx.dialect.name == "postgresql" else sqlite
            statement: Any = dialect.insert(route).values(channel=channel, route=name, **values)
            counted = health.failures_in_row > 0 and health.open_until is None
            tx.execute(
                statement.on_conflict_do_update(
                    index_elements=["channel", "route"],
                    set_=values,
                    where=route.c.open_until.is_(None) if counted else None,
                )
            )

    def grant_probe(
        self, channel: str, name: str, seen: RouteHealth, *, now: datetime
    ) -> RouteHealth | None:
        """Grant the one probe of an open route; None when somebody else has it."""
        until = now + timedelta(seconds=PROBE_S)
        with self._engine.begin() as tx:
            done = tx.execute(
                update(route)
                .where(
                    route.c.channel == channel,
                    route.c.route == name,
                    route.c.open_until == seen.open_until,
                )
                .values(open_until=until, updated_at=now)
            )
        if done.rowcount != 1:
            return None
        return RouteHealth(
            failures_in_row=seen.failures_in_row,
            open_until=until,
            opened_times=seen.opened_times,
        )

    def reserve(
        self, channel: str, questions: int, rate_per_s: float, *, now: datetime
    ) -> datetime:
        """Reserve room for questions, evenly spaced; returns when the first may go out."""
        with self._engine.begin() as tx:
            rows.insert_new(tx, route, {"channel": channel, "route": _CHANNEL})
            found = tx.scalar(
                select(route.c.busy_until)
                .where(route.c.channel == channel, route.c.route == _CHANNEL)
                .with_for_update()
            )
            first = now if found is None else max(now, found)
            tx.execute(
                update(route)
                .where(route.c.channel == channel, route.c.route == _CHANNEL)
                .values(
                    busy_until=first + timedelta(seconds=questions / rate_per_s), updated_at=now
                )
            )
        return first


def _read(row: Row[Any]) -> RouteHealth:
    return RouteHealth(
        failures_in_row=row.failures_in_row,
        open_until=row.open_until,
        opened_times=row.opened_times,
    )
