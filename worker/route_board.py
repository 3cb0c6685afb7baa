"""How the callback routes of endpoints are doing: remembered in each worker, shared in a table.

A worker that sees a failure writes it down and acts on what the row says then; the others read the
row again before they choose a route, at most :data:`FRESH_S` later. Must never cost an endpoint
with a single route a statement, and never keep a notification from being sent.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from threading import Lock
from typing import Any

from sqlalchemy import Engine, Row, select, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from worker import clock, telemetry
from worker.columns import database_now
from worker.database import unavailable
from worker.models import Decision, Endpoint, Settlement
from worker.route_facts import RouteHealth, RoutePolicy, RouteTally, Standing, Via
from worker.route_rows import all_routes, columns_of, has_moved, insert_missing, read_health
from worker.routes import after, is_calm, is_usable, pick, shares
from worker.tables_routes import callback_route

# What is remembered of a route is read again after this long, when it is needed.
FRESH_S = 0.25
# A probe nobody reported on is granted again this long after its deadline.
_PROBE_GRACE_S = 5.0
# After the database did not say who may probe.
_ASK_AGAIN_S = 1.0

_SOUND = RouteHealth()
_Key = tuple[int, int]  # endpoint and number of a route
Way = tuple[Endpoint, Via]  # the endpoint as it is called through a route


class _Seen:
    """What the table said of one endpoint's routes, by their number."""

    __slots__ = ("healths", "read_s")

    def __init__(self, healths: Mapping[int, RouteHealth], read_s: float) -> None:
        self.healths = healths
        self.read_s = read_s


class _Plan:
    """How one endpoint is called as long as neither it nor what was seen of it changes."""

    __slots__ = ("due_s", "endpoint", "parts", "seen", "ways")

    def __init__(self, endpoint: Endpoint, seen: _Seen, policy: RoutePolicy) -> None:
        routes, pinned = all_routes(endpoint), endpoint.pinned is not None
        if pinned:
            routes = tuple(route for route in routes if route.no == endpoint.pinned)
        healths = [seen.healths.get(route.no, _SOUND) for route in routes]
        self.endpoint = endpoint
        self.seen = seen
        self.parts = shares(routes, healths, policy)
        self.ways: list[Way] = [
            (
                replace(endpoint, url=route.url),
                Via(no=route.no, trips=health.trips, pinned=pinned),
            )
            for route, health in zip(routes, healths, strict=True)
        ]
        # Monotonic time from which each of them may be probed.
        self.due_s = [
            seen.read_s + health.probe_in_s
            if health.standing is Standing.TRIPPED and not pinned
            else math.inf
            for health in healths
        ]


class RouteBoard:
    """Chooses routes and hears how it went; safe between threads.

    Args:
        engine: of the database with our tables.
        policy: when a route trips and how it returns.
        luck: draws from [0, 1).
    """

    def __init__(
        self, engine: Engine, policy: RoutePolicy, *, luck: Callable[[], float] = random.random
    ) -> None:
        self._engine = engine
        self._policy = policy
        self._luck = luck
        self._seen: dict[int, _Seen] = {}
        self._plans: dict[int, _Plan] = {}
        self._lock = Lock()

    # Before a send

    def look(self, endpoints: Iterable[Endpoint]) -> None:
        """Read what is too old of these endpoints' routes; what cannot be read stays as it was."""
        old_s = clock.monotonic_s() - FRESH_S
        wanted = [
            endpoint.id
            for endpoint in endpoints
            if endpoint.routes
            and ((seen := self._seen.get(endpoint.id)) is None or seen.read_s <= old_s)
        ]
        if not wanted:
            return
        try:
            self._read(wanted)
        except SQLAlchemyError as error:
            _lost(error)

    def choose(self, endpoint: Endpoint) -> Way:
        """Choose how the next notification of an endpoint with several routes is sent.

        A route whose probe is due is granted to one send of all workers together.
        """
        plan = self._plan(endpoint)
        now_s = clock.monotonic_s()
        for place, due_s in enumerate(plan.due_s):
            if due_s <= now_s and self._may_probe(plan, place):
                return plan.ways[place]
        return plan.ways[pick(plan.parts, self._luck())]

    def _plan(self, endpoint: Endpoint) -> _Plan:
        seen = self._seen.get(endpoint.id)
        if seen is None:
            seen = self._seen.setdefault(endpoint.id, _Seen({}, -math.inf))
        plan = self._plans.get(endpoint.id)
        if plan is None or plan.endpoint is not endpoint or plan.seen is not seen:
            plan = self._plans[endpoint.id] = _Plan(endpoint, seen, self._policy)
        return plan

    def _may_probe(self, plan: _Plan, place: int) -> bool:
        endpoint, via = plan.ways[place]
        plan.due_s[place] = clock.monotonic_s() + _ASK_AGAIN_S
        table = callback_route
        try:
            with self._engine.begin() as tx:
                now = tx.execute(select(database_now())).scalar_one()
                granted = tx.execute(
                    update(table)
                    .where(table.c.endpoint_id == endpoint.id, table.c.no == via.no)
                    .where(table.c.standing == Standing.TRIPPED.value, table.c.trips == via.trips)
                    .where(table.c.probe_at <= now)
                    .values(
                        probing=True,
                        probe_at=now + timedelta(seconds=endpoint.timeout_s + _PROBE_GRACE_S),
                    )
                ).rowcount
            self._read([endpoint.id])
        except SQLAlchemyError as error:
            _lost(error)
            return False
        return bool(granted)

    # After a send

    def hear(self, settlements: Sequence[Settlement]) -> Sequence[Settlement]:
        """Move routes on; what went well through a sound one costs nothing.

        Returns:
            Those that their lanes must hear of too. A failure is a route's own as long as the
            endpoint has another one to go through.

        Raises:
            SQLAlchemyError: the database is away; nothing was told.
        """
        routed = [settlement for settlement in settlements if settlement.via is not None]
        if not routed:
            return settlements
        self._tell(self._tallied(routed))
        return [settlement for settlement in settlements if not self._is_spared(settlement)]

    def outlives(self, settlement: Settlement) -> bool:
        """Trip the route that answered 410; says whether its endpoint has another one.

        Raises:
            UnavailableError: the database is away; nothing was told.
        """
        via = settlement.via
        if via is None or via.pinned or settlement.verdict.decision is not Decision.HOLD:
            return False
        key = (settlement.claimed.endpoint_id, via.no)
        # Of a batch that came back with 410 the first one says it for all.
        if self._health(*key).trips == via.trips:
            try:
                self._tell({key: [RouteTally(trips=via.trips, gone=True)]})
            except DBAPIError as error:
                raise unavailable(error) from error
        return self._has_other(*key)

    def _tallied(self, routed: Sequence[Settlement]) -> dict[_Key, list[RouteTally]]:
        counts: defaultdict[tuple[int, int, int], list[int]] = defaultdict(lambda: [0, 0])
        for settlement in routed:
            via, healthy = settlement.via, settlement.verdict.healthy
            if via is not None and healthy is not None:
                counts[settlement.claimed.endpoint_id, via.no, via.trips][not healthy] += 1
        tallies: defaultdict[_Key, list[RouteTally]] = defaultdict(list)
        for (endpoint_id, no, trips), (ok, failed) in sorted(counts.items()):
            if failed or not is_calm(self._health(endpoint_id, no)):
                tallies[endpoint_id, no].append(RouteTally(trips=trips, ok=ok, failed=failed))
        return tallies

    def _tell(self, tallies: Mapping[_Key, Sequence[RouteTally]]) -> None:
        if not tallies:
            return
        ids = sorted({endpoint_id for endpoint_id, _ in tallies})
        found: dict[_Key, RouteHealth] = {}
        with self._engine.begin() as tx:
            insert_missing(tx, tallies)
            # In the order of their keys, so that two settles never wait for each other in a circle.
            for row in tx.execute(_rows(ids).with_for_update()).all():
                key = (row.endpoint_id, row.no)
                before = health = read_health(row)
                for tally in tallies.get(key, ()):
                    health = after(health, tally, policy=self._policy)
                if health is not before:
                    tx.execute(
                        update(callback_route)
                        .where(
                            callback_route.c.endpoint_id == key[0], callback_route.c.no == key[1]
                        )
                        .values(columns_of(before, health, row.now))
                    )
                    self._say(key, before, health)
                found[key] = health
        # Stamped after the commit: whoever read before it must not put its older word over this.
        self._adopt(ids, found, clock.monotonic_s())

    def _is_spared(self, settlement: Settlement) -> bool:
        via = settlement.via
        return (
            via is not None
            and not via.pinned
            and settlement.verdict.healthy is False
            and self._has_other(settlement.claimed.endpoint_id, via.no)
        )

    def _has_other(self, endpoint_id: int, no: int) -> bool:
        plan = self._plans.get(endpoint_id)
        return plan is not None and any(
            via.no != no and is_usable(self._health(endpoint_id, via.no)) for _, via in plan.ways
        )

    def _say(self, key: _Key, before: RouteHealth, health: RouteHealth) -> None:
        if has_moved(before, health):
            plan = self._plans.get(key[0])
            telemetry.log(
                telemetry.Event.ROUTE_MOVED,
                level="warning" if health.standing is Standing.TRIPPED else "info",
                endpoint=plan.endpoint.name if plan else key[0],
                route=key[1],
                standing=health.standing,
                step=health.step,
            )

    # What is remembered

    def _health(self, endpoint_id: int, no: int) -> RouteHealth:
        seen = self._seen.get(endpoint_id)
        return _SOUND if seen is None else seen.healths.get(no, _SOUND)

    def _read(self, ids: Sequence[int]) -> None:
        read_s = clock.monotonic_s()
        with self._engine.connect() as connection:
            rows: Sequence[Row[Any]] = connection.execute(_rows(ids)).all()
        self._adopt(ids, {(row.endpoint_id, row.no): read_health(row) for row in rows}, read_s)

    def _adopt(self, ids: Sequence[int], found: Mapping[_Key, RouteHealth], read_s: float) -> None:
        healths: dict[int, dict[int, RouteHealth]] = {endpoint_id: {} for endpoint_id in ids}
        for (endpoint_id, no), health in found.items():
            healths[endpoint_id][no] = health
        with self._lock:
            for endpoint_id, by_no in healths.items():
                known = self._seen.get(endpoint_id)
                if known is None or (known.read_s < read_s and known.healths != by_no):
                    self._seen[endpoint_id] = _Seen(by_no, read_s)
                elif known.read_s < read_s:
                    known.read_s = read_s


def _rows(ids: Sequence[int]) -> Any:
    table = callback_route
    return (
        select(table, database_now().label("now"))
        .where(table.c.endpoint_id.in_(ids))
        .order_by(table.c.endpoint_id, table.c.no)
    )


def _lost(error: SQLAlchemyError) -> None:
    # What is remembered is advice, not truth: a wrong route costs a try, no route a delivery.
    telemetry.log(telemetry.Event.HEALTH_LOST, level="warning", why=type(error).__name__)
