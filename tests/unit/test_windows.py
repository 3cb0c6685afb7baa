"""When a channel is asked next."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.windows import Kind, first_check, is_too_old, next_check

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def pause_s(kind: Kind, age_s: float, *, luck: float = 0.0, unknowns: int = 0) -> float:
    now = NOON + timedelta(seconds=age_s)
    at = next_check(kind, NOON, now=now, luck=luck, unknowns=unknowns)
    return (at - now).total_seconds()


@pytest.mark.parametrize(
    ("age_s", "expected_s"),
    [
        (60, 60),
        (599, 60),
        (600, 600),
        (3599, 600),
        (3600, 3600),
        (86_399, 3600),
        (86_400, 86_400),
        (604_799, 86_400),
    ],
)
def test_orders_are_asked_about_less_often_as_they_age(age_s: float, expected_s: float) -> None:
    assert pause_s(Kind.ORDER, age_s) == expected_s


def test_nobody_asks_in_the_first_minute() -> None:
    assert first_check(NOON, luck=0) == NOON + timedelta(seconds=60)
    early = next_check(Kind.ORDER, NOON, now=NOON - timedelta(hours=1), luck=0)
    assert early == NOON + timedelta(seconds=60)


def test_a_refund_is_asked_about_each_minute_first_and_daily_in_the_end() -> None:
    ages = (60, 299, 300, 600, 1200, 3600, 10_800, 86_400, 259_200)
    expected = [60, 60, 300, 600, 1200, 1800, 3600, 21_600, 86_400]
    assert [pause_s(Kind.REFUND, age) for age in ages] == expected


@pytest.mark.parametrize(("kind", "days"), [(Kind.ORDER, 7), (Kind.REFUND, 30)])
def test_asking_ends_at_a_set_age(kind: Kind, days: int) -> None:
    end = NOON + timedelta(days=days)
    assert is_too_old(kind, NOON, now=end)
    assert not is_too_old(kind, NOON, now=end - timedelta(microseconds=1))


def test_answers_that_say_nothing_double_the_pause_up_to_six_hours() -> None:
    pauses = [pause_s(Kind.ORDER, 120, unknowns=n) for n in range(1, 12)]
    assert pauses == [60, 120, 240, 480, 960, 1920, 3840, 7680, 15_360, 21_600, 21_600]
    assert pause_s(Kind.ORDER, 120, unknowns=10**6) == 21_600
    assert pause_s(Kind.ORDER, 90_000, unknowns=1) == 86_400


@given(
    st.sampled_from(Kind),
    st.floats(-1e6, 1e8),
    st.floats(0, 1),
    st.integers(0, 10**6),
)
def test_jitter_only_adds_and_never_more_than_a_tenth(
    kind: Kind, age_s: float, luck: float, unknowns: int
) -> None:
    plain = pause_s(kind, age_s, unknowns=unknowns)
    lucky = pause_s(kind, age_s, luck=luck, unknowns=unknowns)
    assert plain > 0
    assert plain <= lucky <= max(plain * 1.1, plain + 6) + 1e-3


def test_a_week_of_unpaid_order_costs_a_bounded_number_of_questions() -> None:
    at, asked = first_check(NOON, luck=0), 0
    while not is_too_old(Kind.ORDER, NOON, now=at):
        at = next_check(Kind.ORDER, NOON, now=at, luck=0)
        asked += 1
    assert asked == 9 + 5 + 23 + 6
