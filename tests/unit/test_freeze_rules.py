"""When an endpoint is frozen and what a probe orders: rules without a database."""

from dataclasses import replace

import pytest

from worker.breaker import Policy
from worker.freeze_rules import (
    CERTIFICATE_CHANGED,
    UNSENDABLE,
    URL_CHANGED,
    Manner,
    Move,
    Seen,
    after_probe,
    failing_for_s,
    first_wait_s,
    why_freeze,
)
from worker.seen import Health

_MANNER = Manner(trips=3, open_s=600.0, probe_s=30.0, trial_s=1800.0)
_SEEN = Seen(
    acked=False,
    status=0,
    same_url=True,
    certificate="",
    frozen_certificate="",
    frozen_for_s=60.0,
)


@pytest.mark.parametrize(
    ("open_for_s", "opened_times", "manner", "frozen"),
    [
        (None, 9, _MANNER, False),  # it recovers
        (0.0, 9, _MANNER, False),  # nothing is sent, so nothing is used up
        (5.0, 2, _MANNER, False),
        (5.0, 3, _MANNER, True),
        (1.0, 5, replace(_MANNER, trips=0), True),  # 30+60+120+240+480-1 s
        (479.0, 5, replace(_MANNER, trips=0), False),
        (1.0, 9, replace(_MANNER, trips=0, open_s=0.0), False),
    ],
)
def test_an_endpoint_is_frozen_while_its_breaker_opens_again_and_again(
    open_for_s: float | None, opened_times: int, manner: Manner, *, frozen: bool
) -> None:
    health = Health(open_for_s=open_for_s, opened_times=opened_times)
    assert bool(why_freeze(health, manner, Policy())) is frozen


def test_how_long_it_fails_is_never_said_too_long() -> None:
    policy = Policy(open_s=30, open_max_s=100)
    assert failing_for_s(Health(open_for_s=30.0, opened_times=1), policy) == 0
    assert failing_for_s(Health(open_for_s=40.0, opened_times=4), policy) == 30 + 60 + 100 + 60
    assert failing_for_s(Health(), policy) == 0


def test_one_that_answers_pings_and_fails_payments_is_let_go_less_and_less_often() -> None:
    assert [first_wait_s(times, 30) for times in range(1, 8)] == [30, 60, 120, 240, 480, 600, 600]
    assert first_wait_s(99, 120) == 600


@pytest.mark.parametrize(
    ("seen", "move"),
    [
        ({"status": 0}, Move.WAIT),
        ({"status": 503, "frozen_for_s": 9e9}, Move.WAIT),
        ({"status": 429, "frozen_for_s": 9e9}, Move.WAIT),
        ({"status": 200, "acked": True}, Move.UNFREEZE),
        ({"status": 410}, Move.GONE),
        ({"status": 410, "acked": True}, Move.UNFREEZE),  # its ack rule says so
        ({"status": 200, "frozen_for_s": 1799.0}, Move.WAIT),
        ({"status": 200, "frozen_for_s": 1800.0}, Move.TRIAL),
        ({"status": 404, "frozen_for_s": 1800.0}, Move.TRIAL),
        ({"acked": True, "status": 200, "same_url": False}, Move.PERSON),
        ({"sendable": False}, Move.PERSON),
        ({"acked": True, "certificate": "b", "frozen_certificate": "a"}, Move.PERSON),
        ({"acked": True, "certificate": "a", "frozen_certificate": "a"}, Move.UNFREEZE),
        ({"acked": True, "certificate": "b"}, Move.UNFREEZE),  # none was known before
        ({"status": 500, "certificate": "b", "frozen_certificate": "a"}, Move.WAIT),
    ],
)
def test_what_a_probe_orders(seen: dict[str, object], move: Move) -> None:
    ordered, why = after_probe(replace(_SEEN, **seen), _MANNER)  # type: ignore[arg-type]
    assert ordered is move
    if move is Move.PERSON:
        assert why in (URL_CHANGED, CERTIFICATE_CHANGED, UNSENDABLE)


def test_no_trial_where_people_do_not_want_one() -> None:
    seen = replace(_SEEN, status=200, frozen_for_s=9e9)
    assert after_probe(seen, replace(_MANNER, trial_s=0.0))[0] is Move.WAIT
