"""The measure of callback routes: merchants who are reached, but not where they want to be."""

from collections.abc import Sequence

from sqlalchemy import Connection, select

from schedules.readings import SUBJECTS_MAX, Measure, Question, Reading
from worker.endpoint_rows import read_endpoint
from worker.models import EndpointState
from worker.route_facts import Standing
from worker.route_rows import all_routes
from worker.tables import endpoint
from worker.tables_routes import callback_route


def _routes_tripped(connection: Connection, question: Question) -> Sequence[Reading]:
    """How many routes of an endpoint get nothing but probes."""
    rows = connection.execute(
        select(endpoint, callback_route.c.no.label("route_no"))
        .join(callback_route, callback_route.c.endpoint_id == endpoint.c.id)
        .where(
            callback_route.c.standing == Standing.TRIPPED.value,
            endpoint.c.state == EndpointState.ACTIVE.value,
        )
        .order_by(endpoint.c.id, callback_route.c.no)
        .limit(SUBJECTS_MAX)
    ).all()
    tripped: dict[str, list[int]] = {}
    numbers: dict[str, set[int]] = {}
    for row in rows:
        numbers.setdefault(row.name, {route.no for route in all_routes(read_endpoint(row))})
        # What was on its way when a route was removed may still have been written down.
        if row.route_no in numbers[row.name]:
            tripped.setdefault(row.name, []).append(row.route_no)
    return [
        Reading(
            subject=name,
            value=len(found),
            summary=(
                f"route {', '.join(map(str, found))} is in trouble; "
                f"{len(numbers[name]) - len(found)} of {len(numbers[name])} are left"
            ),
        )
        for name, found in tripped.items()
    ]


MEASURES = (
    Measure(name="routes_tripped", unit="routes", subject="endpoint", take=_routes_tripped),
)
