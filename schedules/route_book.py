"""Where the health of routes and the pace of channels are kept, for all processes together.

Each method is a short transaction of its own. Must never be held open while a channel is asked.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Row, select, update

from schedules import rows
from schedules.route_health import RouteHealth, after_failure
from worker.breaker import Policy
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

    def failed(
        self, channel: str, name: str, *, now: datetime, policy: Policy, probe: bool
    ) -> RouteHealth:
        """Remember a question without an answer; returns the health that follows."""
        with self._engine.begin() as tx:
            before = self._hold(tx, channel, name)
            health = after_failure(before, now=now, policy=policy, probe=probe)
            if health != before:
                self._write(tx, channel, name, health, now)
        return health

    def answered(self, channel: str, name: str, *, now: datetime, probe: bool) -> RouteHealth:
        """Remember an answer: failures are forgotten, and a probe closes the breaker."""
        with self._engine.begin() as tx:
            before = self._hold(tx, channel, name)
            if before.open_until is not None and not probe:
                return before  # asked before it opened; the probe will tell
            self._write(tx, channel, name, RouteHealth(), now)
        return RouteHealth()

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

    def _hold(self, tx: Connection, channel: str, name: str) -> RouteHealth:
        rows.insert_new(tx, route, {"channel": channel, "route": name})
        query = select(route).where(route.c.channel == channel, route.c.route == name)
        return _read(tx.execute(query.with_for_update()).one())

    def _write(
        self, tx: Connection, channel: str, name: str, health: RouteHealth, now: datetime
    ) -> None:
        tx.execute(
            update(route)
            .where(route.c.channel == channel, route.c.route == name)
            .values(
                failures_in_row=health.failures_in_row,
                open_until=health.open_until,
                opened_times=health.opened_times,
                updated_at=now,
            )
        )


def _read(row: Row[Any]) -> RouteHealth:
    return RouteHealth(
        failures_in_row=row.failures_in_row,
        open_until=row.open_until,
        opened_times=row.opened_times,
    )
