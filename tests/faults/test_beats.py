"""Five beats and three workers: killed and frozen, they run each tick of each line exactly once."""

import pytest

from tests.faults import beats
from tests.faults.site import Site


@pytest.mark.timeout(240)
def test_each_tick_runs_exactly_once_however_many_are_killed(place: Site) -> None:
    ran = beats.run(place, seconds=25, pause_s=2)
    print(ran.text())
    assert not ran.broken, ran.text()
    assert ran.ticks["one"] >= 20
