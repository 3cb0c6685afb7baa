"""A merchant's first site goes away and comes back, in real worker processes."""

from pathlib import Path

import pytest

from tests.faults import routes
from tests.faults.site import site
from worker.route_facts import Standing


@pytest.mark.timeout(120)
def test_traffic_switches_to_the_spare_and_returns_in_grey_steps(
    postgres_dsn: str, broker_url: str, tmp_path: Path
) -> None:
    changes = {"breaker_open_s": 1, "breaker_minimum": 40, "route_step_s": 1.0}
    with site(postgres_dsn, broker_url, tmp_path, fast=True, **changes) as place:
        ran = routes.run(place, per_s=200, workers=2)
    print(ran.text())
    assert {move.standing for move in ran.moves} == set(Standing)
    assert [percent for percent, _, _ in ran.shares][-2:] == [5, 25]
    ran.books.check()
    assert ran.books.states == {"delivered": ran.books.accepted}
    # Whatever one site acked was sent to neither again, but for what was on a killed wire.
    assert ran.books.duplicates <= ran.books.on_wire_of(ran.killed)
