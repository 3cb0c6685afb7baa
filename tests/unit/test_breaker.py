"""The breaker's rules, one by one."""

import dataclasses

import pytest

from worker.breaker import Policy, after, allowance, is_clean, is_quiet
from worker.seen import Health, Tally

POLICY = Policy()
CAP = 100
OK = Tally(ok=1, latency_ms=50.0)
BAD = Tally(failed=1, latency_ms=50.0)


def then(health: Health, *tallies: Tally, cap: int = CAP, policy: Policy = POLICY) -> Health:
    for tally in tallies:
        health = after(health, tally, policy=policy, in_flight_cap=cap)
    return health


def opened(times: int = 1) -> Health:
    return Health(failures_in_row=20, open_for_s=17.5, opened_times=times, slow=True)


def due_for_probe(times: int = 1) -> Health:
    return dataclasses.replace(opened(times), open_for_s=0.0)


def test_a_healthy_lane_stays_spotless() -> None:
    assert then(Health(), *[Tally(ok=200, latency_ms=120.0)] * 50) == Health()


def test_a_tally_that_says_nothing_about_health_changes_nothing() -> None:
    for health in (Health(), opened(), due_for_probe(), Health(ramp=4, failures_in_row=2)):
        assert then(health, Tally(latency_ms=9000.0)) is health


def test_it_opens_at_the_failure_that_fills_the_row_and_not_before() -> None:
    almost = then(Health(), *[BAD] * 19)
    assert almost.open_for_s is None
    assert almost.failures_in_row == 19
    full = then(almost, BAD)
    assert (full.open_for_s, full.opened_times, full.slow) == (30.0, 1, True)


def test_one_success_starts_the_row_again() -> None:
    assert then(Health(), *[BAD] * 19, OK, *[BAD] * 19).open_for_s is None


@pytest.mark.parametrize(
    ("tally", "in_row"),
    [
        (Tally(ok=1, failed=1), 0),
        (Tally(ok=1, failed=19), 9),
        (Tally(ok=9, failed=9), 0),
        (Tally(ok=3, failed=36), 9),
    ],
)
def test_a_mixed_tally_counts_only_the_row_that_must_have_been_in_it(
    tally: Tally, in_row: int
) -> None:
    health = then(Health(failures_in_row=10), tally)
    assert (health.failures_in_row, health.open_for_s) == (in_row, None)


def test_it_opens_when_half_of_enough_sends_failed() -> None:
    almost = then(Health(), *[Tally(ok=1, failed=1)] * 19)
    assert (almost.window_ok, almost.window_failed, almost.open_for_s) == (19, 19, None)
    assert then(almost, Tally(ok=1, failed=1)).open_for_s == 30.0


def test_a_success_never_opens_it() -> None:
    almost = Health(window_failed=30, window_ok=9)
    assert then(almost, OK).open_for_s is None
    assert then(almost, BAD).open_for_s == 30.0


def test_less_than_the_ratio_never_opens_it() -> None:
    health = then(Health(), *[Tally(ok=11, failed=9)] * 50)
    assert health.open_for_s is None


def test_the_window_starts_with_a_failure_and_not_with_a_success() -> None:
    assert then(Health(), Tally(ok=500)).window_ok == 0
    begun = then(Health(), Tally(ok=2, failed=3))
    assert (begun.window_ok, begun.window_failed, begun.window_age_s) == (2, 3, 0.0)


def test_a_window_past_its_length_is_forgotten() -> None:
    live = Health(window_ok=5, window_failed=30, window_age_s=60.0)
    assert (then(live, OK).window_failed, then(live, OK).window_age_s) == (30, 60.0)
    old = dataclasses.replace(live, window_age_s=60.1)
    assert then(old, OK) == Health()
    renewed = then(old, BAD)
    assert (renewed.window_ok, renewed.window_failed, renewed.window_age_s) == (0, 1, 0.0)


def test_what_was_on_the_wire_when_it_opened_neither_stretches_nor_ends_the_pause() -> None:
    health = opened()
    assert then(health, Tally(failed=50), OK, Tally(ok=5, failed=5)) is health


@pytest.mark.parametrize(
    ("times", "pause"),
    [(1, 60.0), (2, 120.0), (3, 240.0), (4, 480.0), (5, 600.0), (9999, 600.0)],
)
def test_a_failed_probe_doubles_the_pause_up_to_the_longest(times: int, pause: float) -> None:
    again = then(due_for_probe(times), BAD)
    assert (again.open_for_s, again.opened_times, again.ramp) == (pause, times + 1, None)


def test_a_probe_among_failures_is_no_recovery() -> None:
    assert then(due_for_probe(), Tally(ok=1, failed=1)).open_for_s == 60.0


def test_a_good_probe_closes_it_with_a_ramp_and_not_a_flood() -> None:
    closed = then(due_for_probe(), OK)
    assert (closed.open_for_s, closed.ramp, closed.failures_in_row) == (None, 2, 0)
    ramps = []
    while closed.ramp is not None:
        ramps.append(closed.ramp)
        closed = then(closed, OK)
    assert ramps == [2, 4, 8, 16, 32, 64]
    assert closed == Health()


def test_a_ramp_that_reaches_the_cap_is_over() -> None:
    assert then(Health(ramp=4, opened_times=1), OK, cap=8) == Health()
    assert then(Health(ramp=4, opened_times=1), OK, cap=9).ramp == 8


@pytest.mark.parametrize("cap", [1, 2])
def test_a_lane_that_never_has_more_than_two_on_the_wire_needs_no_ramp(cap: int) -> None:
    assert then(due_for_probe(3), OK, cap=cap) == Health()


def test_a_failure_on_the_ramp_halves_it_down_to_one() -> None:
    health = Health(ramp=9, opened_times=1)
    ramps = []
    for _ in range(5):
        health = then(health, BAD)
        ramps.append(health.ramp)
    assert ramps == [4, 2, 1, 1, 1]
    assert then(health, OK).ramp == 2


def test_opening_again_on_the_ramp_pauses_longer() -> None:
    health = then(due_for_probe(), OK, Tally(failed=20))
    assert (health.open_for_s, health.opened_times, health.ramp) == (60.0, 2, None)


def test_a_full_recovery_forgets_earlier_pauses() -> None:
    recovered = then(due_for_probe(4), *[OK] * 7)
    assert recovered.opened_times == 0
    assert then(recovered, Tally(failed=20)).open_for_s == 30.0


def test_three_failures_in_a_row_make_a_lane_slow_and_a_clean_tally_ends_it() -> None:
    assert not then(Health(), BAD, BAD).slow
    slow = then(Health(), BAD, BAD, BAD)
    assert slow.slow
    assert then(slow, Tally(ok=1, failed=1, latency_ms=50.0)).slow
    assert not then(slow, OK).slow


def test_slow_replies_make_a_lane_slow_and_it_takes_half_to_be_quick_again() -> None:
    health, tallies = Health(), 0
    while not health.slow:
        health = then(health, Tally(ok=1, latency_ms=2500.0))
        tallies += 1
    assert 2 <= tallies <= 10
    health = then(health, *[Tally(ok=1, latency_ms=1500.0)] * 50)
    assert health.slow
    assert 1000 < health.latency_ms < 2000
    health = then(health, *[Tally(ok=1, latency_ms=100.0)] * 20)
    assert health == Health()


def test_one_slow_reply_among_quick_ones_is_soon_forgotten() -> None:
    health = then(Health(), Tally(ok=1, latency_ms=4000.0))
    assert not health.slow
    assert health.latency_ms > 0
    assert then(health, *[OK] * 10) == Health()


@pytest.mark.parametrize("latency_ms", [2001.0, 2100.0, 60_000.0])
def test_steady_replies_above_the_limit_always_make_a_lane_slow(latency_ms: float) -> None:
    assert then(Health(), *[Tally(ok=1, latency_ms=latency_ms)] * 60).slow


@pytest.mark.parametrize("latency_ms", [0.0, 100.0, 1999.0])
def test_steady_replies_below_the_limit_never_do(latency_ms: float) -> None:
    assert not then(Health(), *[Tally(ok=1, latency_ms=latency_ms)] * 60).slow


@pytest.mark.parametrize(
    ("health", "in_flight", "may"),
    [
        (Health(), 0, 100),
        (Health(), 99, 1),
        (Health(), 100, 0),
        (Health(), 150, 0),
        (Health(ramp=2), 0, 2),
        (Health(ramp=2), 2, 0),
        (Health(ramp=200), 0, 100),
        (Health(open_for_s=0.001), 0, 0),
        (Health(open_for_s=0.0), 0, 1),
        (Health(open_for_s=0.0), 1, 0),
        (Health(open_for_s=0.0), 7, 0),
    ],
)
def test_how_many_may_be_claimed(health: Health, in_flight: int, may: int) -> None:
    assert allowance(health, CAP, in_flight) == may


@pytest.mark.parametrize(
    "change",
    [
        {"failures_in_row": 1},
        {"window_failed": 1},
        {"open_for_s": 0.0},
        {"opened_times": 1},
        {"ramp": 2},
        {"slow": True},
        {"latency_ms": 500.0},
    ],
)
def test_a_lane_with_anything_to_remember_is_not_clean(change: dict[str, float]) -> None:
    assert is_clean(Health())
    assert not is_clean(dataclasses.replace(Health(), **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tally", "quiet"),
    [
        (Tally(), True),
        (Tally(latency_ms=9000.0), True),
        (Tally(ok=200, latency_ms=900.0), True),
        (Tally(ok=1, latency_ms=1100.0), False),
        (Tally(ok=199, failed=1), False),
    ],
)
def test_only_a_quiet_tally_may_go_unwritten(tally: Tally, quiet: bool) -> None:
    assert is_quiet(tally, policy=POLICY) is quiet
