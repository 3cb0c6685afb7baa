"""The breaker under any sequence of sends, answers and waiting, against a plain model."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from worker.breaker import Policy, after, allowance, is_clean, is_quiet
from worker.seen import Health, Tally

POLICY = Policy(failures=4, minimum=8, window_s=20.0, open_s=10.0, open_max_s=35.0)

tallies = st.builds(
    Tally,
    ok=st.integers(0, 30),
    failed=st.integers(0, 30),
    latency_ms=st.floats(0, 60_000),
)
healths = st.builds(
    Health,
    failures_in_row=st.integers(0, 50),
    window_ok=st.integers(0, 50),
    window_failed=st.integers(0, 50),
    window_age_s=st.floats(0, 100),
    open_for_s=st.none() | st.just(0.0) | st.floats(0, 600),
    opened_times=st.integers(0, 2000),
    ramp=st.none() | st.integers(1, 200),
    slow=st.booleans(),
    latency_ms=st.floats(0, 60_000),
)
caps = st.integers(1, 10_000)


class Lane:
    """What the database does for one lane: keeps its health, ages it, counts what is out."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.health = Health()
        self.in_flight = 0

    def claim(self) -> int:
        taken = allowance(self.health, self.cap, self.in_flight)
        self.in_flight += taken
        return taken

    def settle(self, ok: int, failed: int) -> None:
        self.in_flight -= ok + failed
        tally = Tally(ok=ok, failed=failed, latency_ms=50.0)
        self.health = after(self.health, tally, policy=POLICY, in_flight_cap=self.cap)

    def wait(self, seconds: float) -> None:
        health = self.health
        window = health.window_ok + health.window_failed
        self.health = dataclasses.replace(
            health,
            window_age_s=health.window_age_s + seconds if window else 0.0,
            open_for_s=(
                None if health.open_for_s is None else max(0.0, health.open_for_s - seconds)
            ),
        )


class BreakerMachine(RuleBasedStateMachine):
    """Two lanes; what happens to one is mirrored on neither the other nor its own past."""

    lanes = Bundle("lanes")

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Lane] = []
        self.row: dict[int, int] = {}
        self.sent: dict[int, list[bool]] = {}

    @initialize(target=lanes, cap=st.integers(1, 20))
    def first(self, cap: int) -> int:
        return self.add(cap)

    @initialize(target=lanes, cap=st.integers(1, 20))
    def second(self, cap: int) -> int:
        return self.add(cap)

    def add(self, cap: int) -> int:
        self.all.append(Lane(cap))
        at = len(self.all) - 1
        self.row[at], self.sent[at] = 0, []
        return at

    @rule(at=lanes)
    def claim(self, at: int) -> None:
        lane = self.all[at]
        lane.claim()
        if lane.health.open_for_s == 0:
            assert lane.in_flight >= 1

    @rule(at=lanes, good=st.booleans())
    def answer(self, at: int, good: bool) -> None:
        lane = self.all[at]
        if not lane.in_flight:
            return
        before, others = lane.health, [one.health for one in self.all if one is not lane]
        lane.settle(ok=int(good), failed=int(not good))
        now = lane.health
        assert [one.health for one in self.all if one is not lane] == others
        if before.open_for_s is None:
            self.row[at] = 0 if good else self.row[at] + 1
            self.sent[at].append(good)
            self.answered_while_closed(at, now, good)
        elif before.open_for_s > 0:
            assert now is before
        else:
            self.probed(at, before, now, good)

    def answered_while_closed(self, at: int, now: Health, good: bool) -> None:
        if now.open_for_s is None:
            assert self.row[at] < POLICY.failures
            return
        assert not good
        # Since the last pause; the window can only be a part of it.
        failed = self.sent[at].count(False)
        assert self.row[at] >= POLICY.failures or failed * 2 >= POLICY.minimum
        self.row[at], self.sent[at] = 0, []

    def probed(self, at: int, before: Health, now: Health, good: bool) -> None:
        self.row[at], self.sent[at] = 0, []
        if good:
            assert now.open_for_s is None
            assert allowance(now, self.all[at].cap, 0) <= 2
            return
        assert now.open_for_s == min(POLICY.open_s * 2**before.opened_times, POLICY.open_max_s)

    @rule(at=lanes, seconds=st.sampled_from([0.5, 5.0, 11.0, 40.0]))
    def wait(self, at: int, seconds: float) -> None:
        self.all[at].wait(seconds)

    @precondition(lambda self: self.all)
    @rule(at=lanes)
    def heal(self, at: int) -> None:
        """However ill a lane is, patience and good answers make it spotless."""
        lane = self.all[at]
        for _ in range(12):
            lane.settle(ok=lane.in_flight, failed=0)
            lane.wait(40.0)
            lane.claim()
        lane.settle(ok=lane.in_flight, failed=0)
        self.row[at], self.sent[at] = 0, []
        assert is_clean(lane.health)
        assert lane.claim() == lane.cap

    @invariant()
    def nothing_beyond_the_cap_is_on_the_wire(self) -> None:
        for lane in self.all:
            assert 0 <= lane.in_flight <= lane.cap
            limit = lane.health.ramp or lane.cap
            assert allowance(lane.health, lane.cap, lane.in_flight) <= limit - min(
                limit, lane.in_flight
            )

    @invariant()
    def an_open_breaker_lets_nothing_out_and_a_half_open_one_a_single_probe(self) -> None:
        for lane in self.all:
            pause = lane.health.open_for_s
            if pause is not None:
                may = allowance(lane.health, lane.cap, lane.in_flight)
                assert may == int(pause == 0 and lane.in_flight == 0)


def test_no_sequence_of_answers_breaks_the_breaker() -> None:
    run_state_machine_as_test(
        BreakerMachine, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
    )


@given(healths, tallies, caps)
def test_the_next_health_is_always_sound(health: Health, tally: Tally, cap: int) -> None:
    now = after(health, tally, policy=POLICY, in_flight_cap=cap)
    assert now.failures_in_row >= 0
    assert now.open_for_s is None or 0 <= now.open_for_s <= max(600.0, POLICY.open_max_s)
    assert now.ramp is None or now.ramp >= 1
    assert now.latency_ms >= 0
    if now is not health:
        assert now.open_for_s is None or now.slow
        assert now.ramp is None or now.ramp < cap or now.ramp <= (health.ramp or 0)


@given(tallies)
def test_a_quiet_tally_is_exactly_one_that_leaves_a_clean_lane_clean(tally: Tally) -> None:
    now = after(Health(), tally, policy=POLICY, in_flight_cap=100)
    assert is_clean(now) == is_quiet(tally, policy=POLICY)


@given(healths, caps, st.integers(0, 20_000))
def test_an_allowance_never_lifts_what_is_out_beyond_the_cap(
    health: Health, cap: int, in_flight: int
) -> None:
    may = allowance(health, cap, in_flight)
    assert may >= 0
    assert may == 0 or in_flight + may <= cap


@given(healths, caps)
def test_an_unhealthy_lane_that_only_answers_well_is_clean_in_the_end(
    health: Health, cap: int
) -> None:
    for _ in range(60):
        health = dataclasses.replace(
            health,
            window_age_s=health.window_age_s + 1.0,
            open_for_s=None if health.open_for_s is None else 0.0,
        )
        health = after(health, Tally(ok=1, latency_ms=50.0), policy=POLICY, in_flight_cap=cap)
    assert is_clean(health)
