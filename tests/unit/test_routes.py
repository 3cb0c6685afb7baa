"""Callback routes: when one trips, how it returns, and who gets its traffic meanwhile."""

import pytest

from worker.endpoint_routes import ROUTES_MAX, added, pinned, removed, weighted
from worker.errors import BadFieldError, NotFoundError
from worker.models import Endpoint
from worker.route_facts import Route, RouteHealth, RoutePolicy, RouteTally, Standing
from worker.routes import after, kept, pick, shares

POLICY = RoutePolicy(
    failures=3, minimum=10, window_s=60.0, pause_s=10.0, pause_max_s=35.0, step_s=5.0
)
SOUND = RouteHealth()
TRIPPED = RouteHealth(standing=Standing.TRIPPED, probe_in_s=10.0, pauses=1, trips=1)
RETURNING = RouteHealth(standing=Standing.RETURNING, pauses=1, trips=1)
ACME = Endpoint(id=1, name="acme", merchant="m", url="https://a.example.com/")


def routes(*weights: int) -> tuple[Route, ...]:
    return tuple(
        Route(no=no, url=f"https://{no}.example.com/", weight=weight)
        for no, weight in enumerate(weights)
    )


def told(health: RouteHealth, *, ok: int = 0, failed: int = 0, gone: bool = False) -> RouteHealth:
    tally = RouteTally(trips=health.trips, ok=ok, failed=failed, gone=gone)
    return after(health, tally, policy=POLICY)


def aged(health: RouteHealth, seconds: float) -> RouteHealth:
    fields = {name: getattr(health, name) for name in RouteHealth.__slots__}
    fields["window_age_s"] += seconds
    fields["probe_in_s"] = max(0.0, fields["probe_in_s"] - seconds)
    return RouteHealth(**fields)


# One route


def test_failures_in_a_row_trip_it_and_a_success_between_does_not() -> None:
    twice = told(SOUND, failed=2)
    assert twice.standing is Standing.SOUND
    assert told(told(twice, ok=1), failed=2).standing is Standing.SOUND
    tripped = told(twice, failed=1)
    assert (tripped.standing, tripped.probe_in_s, tripped.trips) == (Standing.TRIPPED, 10.0, 1)


def test_a_share_of_failures_in_the_window_trips_it_too() -> None:
    health = SOUND
    for _ in range(4):
        health = told(told(health, failed=1), ok=1)
    assert health.standing is Standing.SOUND
    assert told(told(told(health, failed=1), ok=1), failed=1).standing is Standing.TRIPPED


def test_410_trips_it_at_once_and_for_long() -> None:
    gone = told(SOUND, gone=True)
    assert (gone.standing, gone.probe_in_s) == (Standing.TRIPPED, 35.0)


def test_what_was_on_the_wire_when_it_tripped_changes_nothing() -> None:
    for late in (RouteTally(trips=0, failed=50), RouteTally(trips=0, ok=50)):
        for health in (TRIPPED, RETURNING):
            assert after(health, late, policy=POLICY) is health


def test_a_failed_probe_doubles_the_pause_up_to_its_limit() -> None:
    pauses = []
    health = TRIPPED
    for _ in range(3):
        probing = RouteHealth(
            standing=Standing.TRIPPED, probing=True, pauses=health.pauses, trips=health.trips
        )
        health = told(probing, failed=1)
        pauses.append(health.probe_in_s)
    assert pauses == [20.0, 35.0, 35.0]


def test_a_failure_that_is_no_probe_leaves_a_tripped_route_as_it_is() -> None:
    # All routes have tripped: something has to go somewhere.
    assert told(TRIPPED, failed=7) is TRIPPED


def test_a_probe_that_is_acked_brings_it_back_in_grey_steps() -> None:
    health = told(TRIPPED, ok=1)
    seen = [kept(health, POLICY)]
    for _ in range(2):
        # A step that has not lasted long enough goes on, whatever goes well.
        assert told(health, ok=1000).step == health.step
        health = told(aged(told(health, ok=1), POLICY.step_s), ok=1)
        seen.append(kept(health, POLICY))
    assert seen == [0.05, 0.25, 1.0]
    assert (health.standing, health.pauses) == (Standing.SOUND, 0)


def test_two_failures_in_a_row_trip_a_returning_route_again_for_longer() -> None:
    once = told(RETURNING, failed=1)
    assert once.standing is Standing.RETURNING
    again = told(once, failed=1)
    assert (again.standing, again.probe_in_s, again.trips) == (Standing.TRIPPED, 20.0, 2)


def test_steps_that_are_only_the_whole_bring_it_back_at_once() -> None:
    whole = RoutePolicy(steps=(100,))
    assert after(TRIPPED, RouteTally(trips=1, ok=1), policy=whole).standing is Standing.SOUND


# Several


def test_a_spare_gets_nothing_while_the_first_is_sound() -> None:
    assert shares(routes(100, 0, 0), (SOUND, SOUND, SOUND), POLICY) == (1.0, 0.0, 0.0)


def test_a_tripped_route_hands_everything_to_the_next_in_order() -> None:
    assert shares(routes(100, 0, 0), (TRIPPED, SOUND, SOUND), POLICY) == (0.0, 1.0, 0.0)
    assert shares(routes(100, 0, 0), (TRIPPED, TRIPPED, SOUND), POLICY) == (0.0, 0.0, 1.0)


def test_one_that_has_a_weight_goes_before_a_spare() -> None:
    parts = shares(routes(70, 0, 30), (TRIPPED, SOUND, SOUND), POLICY)
    assert parts == pytest.approx((0.0, 0.0, 1.0))


def test_weights_share_the_traffic_of_sound_routes() -> None:
    assert shares(routes(30, 10), (SOUND, SOUND), POLICY) == (0.75, 0.25)
    assert shares(routes(0, 0), (SOUND, SOUND), POLICY) == (1.0, 0.0)


def test_a_route_loses_what_it_fails() -> None:
    ailing = RouteHealth(window_ok=60, window_failed=30)
    assert shares(routes(100, 0), (ailing, SOUND), POLICY) == pytest.approx((0.7, 0.3))
    # One failure after a quiet time is no third of anything.
    assert shares(routes(100, 0), (RouteHealth(window_failed=1), SOUND), POLICY)[0] > 0.9


def test_a_returning_route_gets_its_step_and_the_rest_goes_on_elsewhere() -> None:
    assert shares(routes(100, 0), (RETURNING, SOUND), POLICY) == pytest.approx((0.05, 0.95))
    # Nobody else is left: steps are for those who have a choice.
    assert shares(routes(100, 0), (RETURNING, TRIPPED), POLICY) == pytest.approx((1.0, 0.0))
    assert shares(routes(100, 0), (TRIPPED, RETURNING), POLICY) == pytest.approx((0.0, 1.0))


def test_when_all_have_tripped_the_one_probed_first_is_tried() -> None:
    later = RouteHealth(standing=Standing.TRIPPED, probe_in_s=30.0)
    assert shares(routes(100, 0), (later, TRIPPED), POLICY) == (0.0, 1.0)


def test_luck_at_its_ends_never_picks_a_route_without_a_part() -> None:
    assert pick((0.0, 1.0), 0.0) == 1
    assert pick((1.0, 0.0), 0.9999999999999999) == 0
    assert pick((0.1, 0.2, 0.7 - 1e-12, 0.0), 0.9999999999999999) == 2


# What a person changes


def test_a_number_is_never_given_twice() -> None:
    first = added(ACME, "https://b.example.com/", weight=0)
    again = added(removed(first, 1), "https://c.example.com/", weight=5)
    assert again.routes == (Route(no=2, url="https://c.example.com/", weight=5),)


def test_a_route_is_added_once_and_not_without_end() -> None:
    with pytest.raises(BadFieldError, match="already"):
        added(ACME, ACME.url, weight=0)
    full = ACME
    for number in range(ROUTES_MAX):
        full = added(full, f"https://b{number}.example.com/", weight=0)
    with pytest.raises(BadFieldError, match="remove one first"):
        added(full, "https://one-more.example.com/", weight=0)


@pytest.mark.parametrize("weight", [-1, 101, True])
def test_a_weight_is_0_to_100(weight: int) -> None:
    with pytest.raises(BadFieldError, match="weight"):
        added(ACME, "https://b.example.com/", weight=weight)
    with pytest.raises(BadFieldError, match="weight"):
        weighted(ACME, 0, weight)


def test_neither_its_own_url_nor_a_pinned_route_is_removed() -> None:
    two = added(ACME, "https://b.example.com/", weight=0)
    with pytest.raises(BadFieldError, match="--url"):
        removed(two, 0)
    with pytest.raises(BadFieldError, match="unpin"):
        removed(pinned(two, 1), 1)
    with pytest.raises(NotFoundError, match="it has 0, 1"):
        pinned(two, 7)
    assert pinned(pinned(two, 1), None) == two
