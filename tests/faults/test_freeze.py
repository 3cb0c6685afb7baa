"""A merchant that breaks down is frozen, and recovers by itself when it answers."""

from pathlib import Path

import pytest

from tests.faults import freeze
from tests.faults.site import site


@pytest.mark.timeout(120)
def test_a_frozen_merchant_that_answers_drains_slowly_and_nobody_had_to_look(
    postgres_dsn: str, broker_url: str, tmp_path: Path
) -> None:
    hurry = {"breaker_failures": 5, "breaker_open_s": 1, "freeze_after_trips": 1}
    with site(postgres_dsn, broker_url, tmp_path, fast=True, freeze_probe_s=1, **hurry) as place:
        ran = freeze.run(place, count=300, rate=100, per_s=40, down_s=1.5, workers=2)
    print(ran.text())
    ran.books.check()
    assert ran.books.duplicates == 0
    assert ran.broken(p99_growth=None) == []
