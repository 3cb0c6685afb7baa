"""What becomes of ticks that nobody sent in time."""

from datetime import UTC, datetime, timedelta

import freezegun
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.catch_up import KEPT_MAX, CatchUp, Decision, Policy, Waiting, decide
from schedules.cron import Cron, ticks_between
from worker import clock

_HOURLY = Cron(expression="0 * * * *")
_NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def _hours(decision: Decision) -> tuple[list[str], list[str]]:
    return (
        [f"{tick:%d %H:%M}" for tick in decision.run],
        [f"{tick:%d %H:%M}" for tick, _ in decision.skip],
    )


@pytest.mark.parametrize("policy", CatchUp)
def test_while_beat_runs_every_tick_is_run_whatever_the_policy(policy: CatchUp) -> None:
    """Beat looks once a second for a simulated day."""
    run: list[datetime] = []
    until = _NOON
    with freezegun.freeze_time(_NOON) as frozen:
        for _ in range(24 * 60):
            frozen.tick(60)
            made = decide(_HOURLY, Policy(catch_up=policy), until=until, now=clock.now())
            assert made.skip == ()
            run += made.run
            until = clock.now()
    assert run == [_NOON + timedelta(hours=hour) for hour in range(1, 25)]


@pytest.mark.parametrize(
    ("policy", "run", "skipped"),
    [
        (Policy(catch_up=CatchUp.SKIP), [], 24),
        (Policy(catch_up=CatchUp.ONCE), ["02 12:00"], 23),
        (Policy(catch_up=CatchUp.ALL, limit=3), ["02 10:00", "02 11:00", "02 12:00"], 21),
        (Policy(catch_up=CatchUp.ALL, limit=24), None, 0),
    ],
    ids=["skip", "once", "all but no more than the limit", "all"],
)
def test_after_a_day_without_beat_the_policy_is_kept(
    policy: Policy, run: list[str] | None, skipped: int
) -> None:
    with freezegun.freeze_time(_NOON) as frozen:
        until = clock.now()
        frozen.tick(timedelta(days=1, minutes=5))
        made = decide(_HOURLY, policy, until=until, now=clock.now())
    assert _hours(made)[0] == (run if run is not None else _all_day())
    assert len(made.skip) == skipped
    assert all(why.startswith("missed") for _, why in made.skip)


def _all_day() -> list[str]:
    ticks = ticks_between(_HOURLY, after=_NOON, until=_NOON + timedelta(days=1))
    return [f"{tick:%d %H:%M}" for tick in ticks]


def test_a_tick_that_comes_with_missed_ones_is_the_one_run_that_makes_up_for_them() -> None:
    now = _NOON + timedelta(hours=5, seconds=2)
    made = decide(_HOURLY, Policy(), until=_NOON, now=now)
    assert _hours(made) == (["01 17:00"], ["01 13:00", "01 14:00", "01 15:00", "01 16:00"])
    assert "the run of 2026-05-01 17:00:00Z makes up for it" in made.skip[0][1]


@pytest.mark.parametrize("policy", CatchUp)
def test_a_short_restart_of_beat_misses_nothing(policy: CatchUp) -> None:
    now = _NOON + timedelta(hours=1, seconds=25)
    assert _hours(decide(_HOURLY, Policy(catch_up=policy), until=_NOON, now=now)) == (
        ["01 13:00"],
        [],
    )


def test_a_day_of_seconds_is_written_down_shortly_and_says_so() -> None:
    secondly = Cron(expression="* * * * * *")
    now = _NOON + timedelta(days=1)
    made = decide(secondly, Policy(catch_up=CatchUp.ONCE), until=_NOON, now=now)
    assert made.run == (now,)
    assert len(made.skip) == KEPT_MAX - 1
    assert "so were all before it since 2026-05-01 12:00:00Z" in made.skip[0][1]
    assert "so were all" not in made.skip[1][1]


@pytest.mark.parametrize(
    ("policy", "waiting_s", "count", "run"),
    [
        (Policy(catch_up=CatchUp.ONCE), 10, 1, 1),
        (Policy(catch_up=CatchUp.ONCE), 3600, 1, 0),
        (Policy(catch_up=CatchUp.SKIP), 3600, 1, 0),
        (Policy(catch_up=CatchUp.ALL, limit=3), 3600, 2, 1),
        (Policy(catch_up=CatchUp.ALL, limit=3), 3600, 3, 0),
    ],
)
def test_ticks_do_not_pile_up_while_no_worker_takes_them(
    policy: Policy, waiting_s: int, count: int, run: int
) -> None:
    now = _NOON + timedelta(hours=1, seconds=1)
    waiting = Waiting(count=count, oldest=now - timedelta(seconds=waiting_s))
    made = decide(_HOURLY, policy, until=_NOON, now=now, waiting=waiting)
    assert (len(made.run), len(made.skip)) == (run, 1 - run)
    assert all("still waits for a worker" in why for _, why in made.skip)


@given(
    policy=st.builds(Policy, catch_up=st.sampled_from(CatchUp), limit=st.integers(1, 200)),
    looks=st.lists(st.integers(0, 20_000), min_size=1, max_size=12),
    waiting=st.one_of(
        st.none(),
        st.builds(
            Waiting,
            count=st.integers(1, 5),
            oldest=st.sampled_from([_NOON, _NOON - timedelta(days=1)]),
        ),
    ),
)
def test_every_tick_is_decided_once_however_seldom_beat_looks(
    policy: Policy, looks: list[int], waiting: Waiting | None
) -> None:
    cron = Cron(expression="*/7 * * * *", zone="Europe/Berlin")
    until = now = _NOON
    seen: list[datetime] = []
    for seconds in looks:
        now += timedelta(seconds=seconds)
        made = decide(cron, policy, until=until, now=now, waiting=waiting)
        assert list(made.run) == sorted(made.run)
        seen += [*made.run, *(tick for tick, _ in made.skip)]
        until = now
    assert sorted(seen) == list(ticks_between(cron, after=_NOON, until=now))
