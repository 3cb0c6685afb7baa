"""Dead letters come back by themselves: slowly, only where somebody answers, never in a circle."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, select, update

from schedules.redrive import Redrive, pace
from schedules.revival import WHO, Fate, Pace, fate, next_size
from tests.seeding import DEAD, add_due, add_lane, change_lane, letters_of, row_of, settle, store_on
from tests.sweeping import contents, whole_round
from worker import tables
from worker.models import Pool
from worker.settings import alone
from worker.tables_alerts import rollup

HOUR = timedelta(hours=1)
_PACE = Pace(batch_max=64, times_max=2, within_s=7 * 86_400.0)


def _redrive(engine: Engine, pace: Pace = _PACE) -> Redrive:
    return Redrive(engine, store_on(engine), pace)


def _revived(engine: Engine, pace: Pace = _PACE) -> int:
    return whole_round(_redrive(engine, pace))["revived"]


def _dead(engine: Engine, lane: int, count: int = 1, **letter: Any) -> list[int]:
    """Notifications that ran out of tries two hours ago."""
    ids = add_due(engine, lane, count, trace_id=str(len(contents(engine, "delivery")["delivery"])))
    died_at = letter.pop("died_at", store_on(engine).now() - 2 * HOUR)
    with engine.begin() as tx:
        tx.execute(
            update(tables.delivery)
            .where(tables.delivery.c.id.in_(ids))
            .values(state="dead", tries=8, attempt_no=8, claim_no=8, finished_at=died_at)
        )
        values = {"endpoint_id": lane, "reason": "exhausted", "died_at": died_at} | letter
        tx.execute(
            insert(tables.dead_letter), [{"notification_id": row_id} | values for row_id in ids]
        )
    return ids


def _acked(engine: Engine, endpoint_id: int, *, at: datetime | None = None) -> None:
    """The endpoint acknowledged something, five minutes ago."""
    minute = (at or store_on(engine).now() - timedelta(minutes=5)).replace(second=0, microsecond=0)
    with engine.begin() as tx:
        tx.execute(
            insert(rollup).values(minute_at=minute, endpoint_id=endpoint_id, worker="w", acked=1)
        )


def _states(engine: Engine, ids: Sequence[int]) -> Counter[str]:
    return Counter(row_of(engine, row_id).state for row_id in ids)


def _configure(engine: Engine, config: str, **values: object) -> None:
    with engine.begin() as tx:
        tx.execute(update(tables.endpoint).values(config=config, **values))


def _deliver(engine: Engine, *, fail: bool = False) -> int:
    """Settle whatever is due; returns how many that were."""
    store = store_on(engine)
    rows = store.claim(Pool.FAST, limit=200, worker="w").rows
    if rows:
        settle(store, rows, DEAD) if fail else settle(store, rows)
    return len(rows)


def test_a_recovered_endpoint_gets_one_then_two_then_four(engine: Engine) -> None:
    lane = add_lane(engine)
    ids = _dead(engine, lane, 20)
    _acked(engine, lane)
    sizes = []
    for _ in range(4):
        sizes.append(_revived(engine))
        assert _deliver(engine) == sizes[-1]
    assert sizes == [1, 2, 4, 8]
    assert _states(engine, ids) == {"delivered": 15, "dead": 5}


def test_the_next_batch_waits_until_the_last_one_came_back(engine: Engine) -> None:
    lane = add_lane(engine)
    _dead(engine, lane, 5)
    _acked(engine, lane)
    assert [_revived(engine), _revived(engine)] == [1, 0]
    store = store_on(engine)
    rows = store.claim(Pool.FAST, limit=9, worker="w").rows
    assert _revived(engine) == 0
    settle(store, rows)
    assert _revived(engine) == 2


def test_a_batch_that_dies_again_starts_the_ramp_anew(engine: Engine) -> None:
    lane = add_lane(engine)
    _dead(engine, lane, 30)
    _acked(engine, lane)
    for size in (1, 2, 4):
        assert _revived(engine) == size
        _deliver(engine)
    assert _revived(engine) == 8
    _deliver(engine, fail=True)
    assert _revived(engine) == 1


def test_a_letter_is_revived_twice_and_then_left_to_people(engine: Engine) -> None:
    lane = add_lane(engine)
    [row_id] = _dead(engine, lane)
    tries = []
    for _ in range(4):
        later = store_on(engine).now() - timedelta(minutes=10)
        with engine.begin() as tx:
            tx.execute(update(tables.dead_letter).values(died_at=later))
            tx.execute(rollup.delete())
        _acked(engine, lane)
        tries.append(_revived(engine))
        _deliver(engine, fail=True)
    assert tries == [1, 1, 0, 0]
    letters = letters_of(engine, row_id)
    assert [letter.resolved_by for letter in letters] == [WHO, WHO, None]


def test_a_revival_is_kept_in_the_audit_log(engine: Engine) -> None:
    lane = add_lane(engine)
    [row_id] = _dead(engine, lane)
    _acked(engine, lane)
    assert _revived(engine) == 1
    with engine.connect() as connection:
        [kept] = connection.execute(select(tables.audit)).all()
    assert (kept.actor, kept.action) == (WHO, "dead_letter.redriven")
    assert kept.subject == f"notification/{row_id}"
    assert kept.why == "endpoint acme acknowledges again"


@pytest.mark.parametrize("reason", ["expired", "terminal_status", "poison", "unsendable"])
def test_what_did_not_run_out_of_tries_is_left_alone(engine: Engine, reason: str) -> None:
    lane = add_lane(engine)
    _dead(engine, lane, reason=reason)
    _acked(engine, lane)
    assert _revived(engine) == 0


def test_letters_that_cannot_come_back_do_not_stand_before_those_that_can(
    engine: Engine,
) -> None:
    lane = add_lane(engine)
    _dead(engine, lane, 450, reason="poison")
    [row_id] = _dead(engine, lane)
    _acked(engine, lane)
    assert _revived(engine) == 1
    assert row_of(engine, row_id).state == "pending"


@pytest.mark.parametrize(
    "lane",
    [
        {"failures_in_row": 1},
        {"ramp": 4},
        {"open": True},
        {"held": True},
    ],
    ids=lambda lane: next(iter(lane)),
)
def test_a_lane_that_is_not_spotless_gets_nothing(engine: Engine, lane: dict[str, Any]) -> None:
    lane_id = add_lane(engine)
    ids = _dead(engine, lane_id)
    _acked(engine, lane_id)
    open_until = store_on(engine).now() + HOUR
    change_lane(engine, lane_id, **{"open_until": open_until} if "open" in lane else lane)
    assert _revived(engine) == 0
    assert _states(engine, ids) == {"dead": 1}


@pytest.mark.parametrize(
    ("config", "state"), [('{"revive":false}', "active"), ("{}", "paused"), ("{}", "deleted")]
)
def test_an_endpoint_that_opted_out_or_is_not_active_gets_nothing(
    engine: Engine, config: str, state: str
) -> None:
    lane = add_lane(engine)
    _dead(engine, lane)
    _acked(engine, lane)
    _configure(engine, config, state=state)
    assert _revived(engine) == 0


@pytest.mark.parametrize(("ago", "revived"), [(HOUR * 3, 0), (timedelta(minutes=2), 1)])
def test_only_a_success_after_the_death_counts(
    engine: Engine, ago: timedelta, revived: int
) -> None:
    lane = add_lane(engine)
    _dead(engine, lane, died_at=store_on(engine).now() - timedelta(minutes=30))
    _acked(engine, lane, at=store_on(engine).now() - ago)
    assert _revived(engine) == revived


def test_somebody_elses_success_proves_nothing(engine: Engine) -> None:
    lane, other = add_lane(engine), add_lane(engine, "umbrella")
    _dead(engine, lane)
    _acked(engine, other)
    assert _revived(engine) == 0


def test_letters_too_old_or_past_their_deadline_are_left_to_people(engine: Engine) -> None:
    lane = add_lane(engine)
    now = store_on(engine).now()
    _dead(engine, lane, died_at=now - timedelta(days=8))
    [expired] = _dead(engine, lane)
    with engine.begin() as tx:
        tx.execute(
            update(tables.notification)
            .where(tables.notification.c.id == expired)
            .values(expires_at=now - HOUR)
        )
    _acked(engine, lane)
    assert _revived(engine) == 0


@pytest.mark.parametrize(
    ("config", "most"), [('{"in_flight_cap":3}', 3), ('{"rate_per_s":2.5}', 2), ("{}", 4)]
)
def test_a_batch_stays_within_cap_rate_and_setting(engine: Engine, config: str, most: int) -> None:
    lane = add_lane(engine)
    _dead(engine, lane, 20)
    _acked(engine, lane)
    _configure(engine, config)
    sizes = []
    for _ in range(5):
        sizes.append(_revived(engine, Pace(batch_max=4, times_max=2, within_s=1e6)))
        # What has a rate is spread over the second.
        with engine.begin() as tx:
            tx.execute(
                update(tables.delivery)
                .where(tables.delivery.c.state == "waiting")
                .values(state="pending")
            )
        _deliver(engine)
    assert max(sizes) == sizes[-1] == most


def test_each_endpoint_has_a_ramp_of_its_own(engine: Engine) -> None:
    good, bad = add_lane(engine), add_lane(engine, "umbrella")
    mine, theirs = _dead(engine, good, 3), _dead(engine, bad, 3)
    _acked(engine, good)
    _acked(engine, bad)
    assert _revived(engine) == 2
    _deliver(engine)
    change_lane(engine, bad, failures_in_row=1)
    assert _revived(engine) == 2
    assert _states(engine, mine) == {"delivered": 1, "pending": 2}
    assert _states(engine, theirs) == {"delivered": 1, "dead": 2}


def test_zero_times_switches_it_off(engine: Engine) -> None:
    lane = add_lane(engine)
    _dead(engine, lane)
    _acked(engine, lane)
    off = pace(alone(revive_times_max=0))
    assert _revived(engine, off) == 0


_FATES = st.lists(st.sampled_from(Fate), max_size=70)
_RATE = st.one_of(st.none(), st.floats(0.1, 1000))


@given(st.integers(0, 1000), _FATES, st.integers(1, 1000), st.integers(1, 1000), _RATE)
def test_the_ramp_never_leaves_its_bounds(
    last: int, fates: list[Fate], batch_max: int, cap: int, rate_per_s: float | None
) -> None:
    size = next_size(last, fates, batch_max=batch_max, in_flight_cap=cap, rate_per_s=rate_per_s)
    assert (size == 0) == (Fate.OUT in fates)
    assert size <= min(batch_max, cap, max(1, 2 * last))

    if rate_per_s is not None:
        assert size <= max(1, rate_per_s)
    if fates.count(Fate.FAILED) >= fates.count(Fate.DELIVERED):
        assert size <= 1


@pytest.mark.parametrize(
    ("state", "tries", "expected"),
    [
        ("pending", 0, Fate.OUT),
        ("waiting", 0, Fate.OUT),
        ("sending", 1, Fate.OUT),
        ("pending", 1, Fate.FAILED),
        ("sending", 2, Fate.FAILED),
        ("delivered", 3, Fate.DELIVERED),
        ("dead", 1, Fate.FAILED),
        ("cancelled", 0, Fate.FAILED),
    ],
)
def test_the_fate_of_a_revived_notification(state: str, tries: int, expected: Fate) -> None:
    assert fate(state, tries=tries) is expected


def test_of_one_ordering_key_one_is_revived_at_a_time_and_none_that_was_overtaken(
    engine: Engine,
) -> None:
    lane = add_lane(engine)
    ids = _dead(engine, lane, 3)
    _in_line(engine, ids)
    _acked(engine, lane)
    for _ in ids:
        assert _revived(engine) == 1
        assert store_on(engine).look(limit=9) == 1
        assert _deliver(engine) == 1
    assert _states(engine, ids) == {"delivered": 3}
    [late] = _dead(engine, lane)
    _in_line(engine, [late])
    with engine.begin() as tx:
        tx.execute(
            update(tables.delivery).where(tables.delivery.c.id == ids[0]).values(state="dead")
        )
        tx.execute(update(tables.dead_letter).values(resolution=None))
    assert _revived(engine) == 1
    assert _states(engine, [ids[0], late]) == {"dead": 1, "blocked": 1}


def _in_line(engine: Engine, ids: Sequence[int]) -> None:
    with engine.begin() as tx:
        for table, values in (
            (tables.notification, {"ordering_key": "k", "ordering_wait_s": 600}),
            (tables.delivery, {"ordering": "1:k"}),
        ):
            tx.execute(update(table).where(table.c.id.in_(ids)).values(**values))
