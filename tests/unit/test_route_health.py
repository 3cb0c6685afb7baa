"""The breaker of a route."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from schedules.route_health import RouteHealth, after_failure, is_open
from worker.breaker import Policy

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
POLICY = Policy(failures=3, open_s=30, open_max_s=100)


def test_it_opens_at_the_set_number_of_failures_in_a_row_and_not_before() -> None:
    health = RouteHealth()
    for failures in (1, 2):
        health = after_failure(health, now=NOON, policy=POLICY, probe=False)
        assert (health.failures_in_row, health.open_until) == (failures, None)
    health = after_failure(health, now=NOON, policy=POLICY, probe=False)
    assert health.open_until == NOON + timedelta(seconds=30)
    assert is_open(health, NOON + timedelta(seconds=29))
    assert not is_open(health, NOON + timedelta(seconds=30))


def test_what_was_on_its_way_when_it_opened_changes_nothing() -> None:
    opened = RouteHealth(failures_in_row=3, open_until=NOON, opened_times=1)
    assert after_failure(opened, now=NOON, policy=POLICY, probe=False) == opened


@given(st.integers(0, 10**6))
def test_each_failed_probe_doubles_the_pause_up_to_the_most(opened_times: int) -> None:
    before = RouteHealth(failures_in_row=3, open_until=NOON, opened_times=opened_times)
    health = after_failure(before, now=NOON, policy=POLICY, probe=True)
    assert health.open_until is not None
    pause_s = (health.open_until - NOON).total_seconds()
    assert pause_s == min(30 * 2 ** min(opened_times, 10), 100)
