"""Two routes under any sequence of answers, waiting and probes: promises that always hold."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from worker.route_facts import Route, RouteHealth, RoutePolicy, RouteTally, Standing
from worker.routes import after, is_calm, is_usable, kept, pick, shares

POLICY = RoutePolicy(
    failures=3, minimum=8, window_s=20.0, pause_s=10.0, pause_max_s=35.0, step_s=5.0
)
counts = st.integers(0, 30)
healths = st.builds(
    RouteHealth,
    standing=st.sampled_from(Standing),
    step=st.integers(0, 1),
    failures_in_row=counts,
    window_ok=counts,
    window_failed=counts,
    window_age_s=st.floats(0, 100),
    probe_in_s=st.floats(0, 600),
    probing=st.booleans(),
    pauses=st.integers(0, 2000),
    trips=st.integers(0, 5),
)
places = st.integers(0, 1)


class RoutesMachine(RuleBasedStateMachine):
    """What the workers and the database do together for an endpoint with a spare."""

    def __init__(self) -> None:
        super().__init__()
        self.routes = (Route(no=0, url="https://a/", weight=100), Route(no=1, url="https://b/"))
        self.healths = [RouteHealth(), RouteHealth()]
        # Sent and not answered, by place, with the trips of the route then.
        self.on_wire: list[tuple[int, int]] = []

    @rule(luck=st.floats(0, 1, exclude_max=True))
    def send(self, luck: float) -> None:
        place = pick(shares(self.routes, self.healths, POLICY), luck)
        health = self.healths[place]
        assert is_usable(health) or not any(map(is_usable, self.healths))
        self.on_wire.append((place, health.trips))

    @rule(place=places)
    def probe(self, place: int) -> None:
        health = self.healths[place]
        if health.standing is Standing.TRIPPED and not health.probe_in_s:
            self.healths[place] = dataclasses.replace(health, probing=True, probe_in_s=8.0)
            self.on_wire.append((place, health.trips))

    @rule(good=st.booleans(), which=st.integers(0, 1000))
    def answer(self, good: bool, which: int) -> None:
        if not self.on_wire:
            return
        place, trips = self.on_wire.pop(which % len(self.on_wire))
        before = self.healths[place]
        now = after(
            before, RouteTally(trips=trips, ok=int(good), failed=int(not good)), policy=POLICY
        )
        self.healths[place] = now
        if trips != before.trips:
            assert now is before
        elif before.standing is Standing.TRIPPED and good:
            assert now.standing is Standing.RETURNING
        elif good:
            assert now.standing is not Standing.TRIPPED
            assert now.step - before.step in (0, 1) or now.standing is Standing.SOUND

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.healths = [
            dataclasses.replace(
                health,
                window_age_s=health.window_age_s + seconds,
                probe_in_s=max(0.0, health.probe_in_s - seconds),
            )
            for health in self.healths
        ]

    @invariant()
    def a_tripped_route_gets_nothing_while_another_is_left(self) -> None:
        parts = shares(self.routes, self.healths, POLICY)
        if any(map(is_usable, self.healths)):
            for health, part in zip(self.healths, parts, strict=True):
                assert part == 0 or is_usable(health)

    @invariant()
    def pauses_end(self) -> None:
        assert all(health.probe_in_s <= POLICY.pause_max_s for health in self.healths)


def test_any_course_of_events_keeps_the_promises() -> None:
    run_state_machine_as_test(RoutesMachine, settings=settings(max_examples=60))


@given(st.lists(st.tuples(st.integers(0, 100), healths), min_size=1, max_size=6))
def test_the_parts_are_all_of_the_traffic(given_: list[tuple[int, RouteHealth]]) -> None:
    routes = [
        Route(no=no, url=f"https://{no}/", weight=weight) for no, (weight, _) in enumerate(given_)
    ]
    all_healths = [health for _, health in given_]
    parts = shares(routes, all_healths, POLICY)
    assert sum(parts) == pytest.approx(1)
    assert min(parts) >= 0


@given(healths, counts, counts)
def test_a_route_that_only_succeeds_never_keeps_less(
    health: RouteHealth, ok: int, failed: int
) -> None:
    better = after(health, RouteTally(trips=health.trips, ok=ok), policy=POLICY)
    assert kept(better, POLICY) >= kept(health, POLICY) or ok == 0
    assert (
        0
        <= kept(
            after(health, RouteTally(trips=health.trips, ok=ok, failed=failed), policy=POLICY),
            POLICY,
        )
        <= 1
    )


@given(counts)
def test_success_on_a_spotless_route_is_no_news(ok: int) -> None:
    assert is_calm(after(RouteHealth(), RouteTally(trips=0, ok=ok), policy=POLICY))
