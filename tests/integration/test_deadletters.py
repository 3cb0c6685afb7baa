"""Dead letters on both databases: finding, explaining, redriving and discarding them."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine, select, update

from tests.seeding import DEAD, RETRY, add_due, add_lane, row_of, settle, store_on
from worker import columns, deadletters, tables, timeline
from worker.deadletters import Filters, Progress
from worker.errors import BadFieldError, NotFoundError
from worker.models import EndpointState, Outcome, Pool, Reason, State
from worker.store import Store
from worker.timeline import Kind

WHO, WHY = "li", "the merchant is back"


class Waits:
    """Stands where the clock would block; remembers how long, and may act instead."""

    def __init__(self, act: Callable[[], None] = lambda: None) -> None:
        self.seconds: list[float] = []
        self._act = act

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self._act()


def _bury(engine: Engine, lane: int, count: int = 1, order_no: str | None = None) -> list[int]:
    """Let notifications die; returns their ids."""
    store = store_on(engine)
    wanted = add_due(engine, lane, count, order_no=order_no)
    left = set(wanted)
    while left:
        rows = store.claim(Pool.FAST, limit=200, worker="w").rows
        assert rows
        settle(store, rows, DEAD)
        left -= {row.id for row in rows}
    return wanted


def _set_letter(engine: Engine, letter_id: int, **values: object) -> None:
    letter = tables.dead_letter
    with engine.begin() as tx:
        tx.execute(update(letter).where(letter.c.id == letter_id).values(**values))


def _redrive(engine: Engine, filters: Filters, *, rate_per_s: float = 10_000.0) -> int:
    return deadletters.redrive(
        store_on(engine), engine, filters=filters, who=WHO, why=WHY, rate_per_s=rate_per_s
    )


def _wide_lane(engine: Engine, name: str = "acme") -> int:
    return add_lane(engine, name, in_flight_cap=10_000)


def test_letters_are_found_oldest_first_page_by_page(engine: Engine) -> None:
    ids = _bury(engine, _wide_lane(engine), 5, order_no="A1")
    first = deadletters.find(engine, limit=3)
    rest = deadletters.find(engine, after_id=first[-1].id, limit=3)
    found = first + rest
    assert sorted(letter.notification_id for letter in found) == ids
    assert [letter.id for letter in found] == sorted(letter.id for letter in found)
    assert deadletters.find(engine, after_id=rest[-1].id) == []
    assert {(x.endpoint, x.merchant, x.order_no, x.reason) for x in found} == {
        ("acme", "acme", "A1", Reason.EXHAUSTED)
    }
    assert found[0].last_reply == "success"
    assert found[0].resolution is None


def test_each_filter_leaves_out_what_it_does_not_name(engine: Engine) -> None:
    _bury(engine, _wide_lane(engine, "acme"), 2)
    _bury(engine, _wide_lane(engine, "umbrella"))
    old, poison, other = deadletters.find(engine)
    now = store_on(engine).now()
    _set_letter(engine, old.id, died_at=now - timedelta(days=2))
    _set_letter(engine, poison.id, reason="poison")

    def found(filters: Filters) -> list[int]:
        letters = [letter.id for letter in deadletters.find(engine, filters)]
        assert deadletters.count(engine, filters) == len(letters)
        return letters

    assert found(Filters()) == [old.id, poison.id, other.id]
    assert found(Filters(endpoint="umbrella")) == [other.id]
    assert found(Filters(reason=Reason.POISON)) == [poison.id]
    assert found(Filters(since=now - timedelta(days=1))) == [poison.id, other.id]
    assert found(Filters(until=now - timedelta(days=1))) == [old.id]
    assert found(Filters(ids=(old.id, other.id), endpoint="acme")) == [old.id]
    _redrive(engine, Filters(ids=(old.id,)))
    assert found(Filters()) == [poison.id, other.id]
    assert found(Filters(open_only=False)) == [old.id, poison.id, other.id]


def test_an_endpoint_nobody_knows_is_refused_with_the_nearest_name(engine: Engine) -> None:
    add_lane(engine, "acme")
    with pytest.raises(NotFoundError, match="did you mean acme"):
        deadletters.count(engine, Filters(endpoint="acne"))


def test_a_time_without_a_zone_and_a_limit_out_of_range_are_refused(engine: Engine) -> None:
    with pytest.raises(BadFieldError, match="since: needs a time zone"):
        deadletters.count(engine, Filters(since=datetime(2026, 1, 1)))  # noqa: DTZ001 - the point
    with pytest.raises(BadFieldError, match="limit: is 201"):
        deadletters.find(engine, limit=201)


def test_a_redriven_letter_is_claimed_again_with_a_fresh_budget(engine: Engine) -> None:
    store = store_on(engine)
    [row_id] = add_due(engine, _wide_lane(engine))
    settle(store, store.claim(Pool.FAST, limit=1, worker="w").rows, DEAD)
    assert _redrive(engine, Filters()) == 1
    stored = row_of(engine, row_id)
    assert (stored.state, stored.tries, stored.finished_at) == ("pending", 0, None)
    [again] = store.claim(Pool.FAST, limit=1, worker="w").rows
    assert (again.id, again.attempt_no, again.tries) == (row_id, 2, 1)
    settle(store, [again])
    assert row_of(engine, row_id).state == "delivered"


def test_redriving_again_sends_nothing_twice(engine: Engine) -> None:
    [row_id] = _bury(engine, _wide_lane(engine))
    [letter] = deadletters.find(engine)
    by_id = Filters(ids=(letter.id,))
    assert [_redrive(engine, by_id), _redrive(engine, by_id)] == [1, 0]
    store = store_on(engine)
    [row] = store.claim(Pool.FAST, limit=9, worker="w").rows
    assert _redrive(engine, by_id) == 0
    assert row_of(engine, row_id).claim_no == row.claim_no
    assert store.claim(Pool.FAST, limit=9, worker="w").rows == ()


def test_a_letter_whose_notification_is_no_longer_dead_moves_nothing(engine: Engine) -> None:
    [row_id] = _bury(engine, _wide_lane(engine))
    with engine.begin() as tx:
        tx.execute(update(tables.delivery).values(state=State.CANCELLED.value))
    _redrive(engine, Filters())
    assert row_of(engine, row_id).state == "cancelled"


def test_a_redrive_is_spread_over_time_at_its_rate(engine: Engine) -> None:
    ids = _bury(engine, _wide_lane(engine), 30)
    start = store_on(engine).now()
    waits = Waits()
    steps: list[Progress] = []
    done = deadletters.redrive(
        store_on(engine),
        engine,
        filters=Filters(),
        who=WHO,
        why=WHY,
        rate_per_s=2.0,
        on_progress=steps.append,
        wait=waits,
    )
    assert done == 30
    # Pages of 5 s; nothing is waited for before the first or after the last.
    assert [(step.seen, step.done) for step in steps] == [(10, 10), (20, 20), (30, 30)]
    assert len(waits.seconds) == 2
    assert all(4 < seconds <= 5 for seconds in waits.seconds)
    due_s = sorted((row_of(engine, row_id).due_at - start).total_seconds() for row_id in ids)
    assert due_s[0] >= 0
    assert 4.5 <= max(due_s) < 10
    states = [row_of(engine, row_id).state for row_id in ids]
    # What is due within the second may be claimed at once, the rest waits to be staged.
    assert states.count("pending") == 6
    assert states.count("waiting") == 24


def test_an_interrupted_redrive_goes_on_where_it_stopped(engine: Engine) -> None:
    _bury(engine, _wide_lane(engine), 30)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deadletters.redrive(
            store_on(engine),
            engine,
            filters=Filters(),
            who=WHO,
            why=WHY,
            rate_per_s=2.0,
            wait=Waits(interrupt),
        )
    assert deadletters.count(engine) == 20
    assert _redrive(engine, Filters()) == 20
    assert deadletters.count(engine) == 0
    with engine.connect() as connection:
        subjects = connection.scalars(select(tables.audit.c.subject)).all()
    assert len(subjects) == len(set(subjects)) == 30


def test_what_dies_while_a_redrive_runs_is_left_alone(engine: Engine) -> None:
    lane = _wide_lane(engine)
    _bury(engine, lane, 20)

    def die_again() -> None:
        store = store_on(engine)
        settle(store, store.claim(Pool.FAST, limit=200, worker="w").rows, DEAD)

    done = deadletters.redrive(
        store_on(engine),
        engine,
        filters=Filters(endpoint="acme"),
        who=WHO,
        why=WHY,
        rate_per_s=2.0,
        wait=Waits(die_again),
    )
    assert done == 20
    assert deadletters.count(engine) == 2


@pytest.mark.parametrize(
    ("who", "why", "rate_per_s", "field"),
    [
        ("", WHY, 1.0, "who"),
        ("  ", WHY, 1.0, "who"),
        (WHO, "", 1.0, "why"),
        (WHO, "x" * 501, 1.0, "why"),
        (WHO, WHY, 0.0, "rate"),
        (WHO, WHY, -1.0, "rate"),
        (WHO, WHY, float("nan"), "rate"),
        (WHO, WHY, 10_001.0, "rate"),
    ],
)
def test_an_order_without_a_person_a_reason_or_a_sane_rate_does_nothing(
    sqlite_engine: Engine, who: str, why: str, rate_per_s: float, field: str
) -> None:
    _bury(sqlite_engine, _wide_lane(sqlite_engine))
    with pytest.raises(BadFieldError) as caught:
        deadletters.redrive(
            store_on(sqlite_engine),
            sqlite_engine,
            filters=Filters(),
            who=who,
            why=why,
            rate_per_s=rate_per_s,
        )
    assert caught.value.field == field
    assert deadletters.count(sqlite_engine) == 1


def test_one_unknown_id_among_many_stops_the_whole_order(engine: Engine) -> None:
    _bury(engine, _wide_lane(engine), 2)
    [first, _] = deadletters.find(engine)
    for work in (_redrive, _discard):
        with pytest.raises(NotFoundError, match="'999999'"):
            work(engine, Filters(ids=(first.id, 999_999)))
    assert deadletters.count(engine) == 2


def _discard(engine: Engine, filters: Filters) -> int:
    return deadletters.discard(store_on(engine), engine, filters=filters, who=WHO, why="a test")


def test_a_discarded_letter_is_cancelled_and_stays_so(engine: Engine) -> None:
    [row_id] = _bury(engine, _wide_lane(engine))
    assert [_discard(engine, Filters()), _discard(engine, Filters())] == [1, 0]
    assert _redrive(engine, Filters()) == 0
    assert row_of(engine, row_id).state == "cancelled"
    [letter] = deadletters.find(engine, Filters(open_only=False))
    assert (letter.resolution, letter.resolved_by, letter.resolved_why) == (
        "discarded",
        WHO,
        "a test",
    )


def test_more_letters_than_a_page_are_all_discarded(sqlite_engine: Engine) -> None:
    _bury(sqlite_engine, _wide_lane(sqlite_engine), 201)
    assert _discard(sqlite_engine, Filters()) == 201
    assert deadletters.count(sqlite_engine) == 0


def _life(store: Store, engine: Engine) -> int:
    """Enqueue, fail, die, be redriven, be delivered; returns the letter's id."""
    add_due(engine, _wide_lane(engine))
    settle(store, store.claim(Pool.FAST, limit=1, worker="w").rows, RETRY)
    with engine.begin() as tx:
        tx.execute(update(tables.delivery).values(state="pending", due_at=columns.database_now()))
    settle(store, store.claim(Pool.FAST, limit=1, worker="w").rows, DEAD)
    [letter] = deadletters.find(engine)
    _redrive(engine, Filters())
    settle(store, store.claim(Pool.FAST, limit=1, worker="w").rows)
    return letter.id


def test_the_whole_life_is_explained_in_order(engine: Engine) -> None:
    store = store_on(engine)
    story = deadletters.explain(engine, _life(store, engine))
    assert [step.kind for step in story.steps] == [
        Kind.ENQUEUED,
        Kind.ATTEMPT,
        Kind.ATTEMPT,
        Kind.DIED,
        Kind.REDRIVEN,
        Kind.ATTEMPT,
        Kind.DELIVERED,
    ]
    moments = [step.at for step in story.steps]
    assert moments == sorted(moments)
    tries = [step.attempt for step in story.steps if step.attempt]
    assert [tried.attempt_no for tried in tries] == [1, 2, 3]
    assert tries[-1].outcome is Outcome.ACKED
    redriven = story.steps[4].letter
    assert redriven is not None
    assert (redriven.resolved_by, redriven.resolved_why) == (WHO, WHY)
    assert (story.state, story.standing, story.due_at) == (State.DELIVERED, "delivered", None)


def test_a_discard_closes_the_story(engine: Engine) -> None:
    _bury(engine, _wide_lane(engine))
    [letter] = deadletters.find(engine)
    assert "until somebody redrives" in deadletters.explain(engine, letter.id).standing
    _discard(engine, Filters())
    story = deadletters.explain(engine, letter.id)
    assert [step.kind for step in story.steps][-2:] == [Kind.DIED, Kind.DISCARDED]
    assert story.standing == "cancelled"


def test_a_story_says_what_holds_a_notification_up(engine: Engine) -> None:
    lane = _wide_lane(engine)
    [row_id] = add_due(engine, lane)
    assert timeline.of(engine, row_id).standing == "due, waits for a worker"
    with engine.begin() as tx:
        later = tx.execute(select(columns.database_now())).scalar_one() + timedelta(minutes=5)
        tx.execute(update(tables.lane).values(open_until=later))
    story = timeline.of(engine, row_id)
    assert "breaker of acme" in story.standing
    assert story.breaker_until == later
    with engine.begin() as tx:
        tx.execute(
            update(tables.endpoint).values(
                state=EndpointState.PAUSED.value, state_reason="moving house"
            )
        )
    assert timeline.of(engine, row_id).standing == ("held: endpoint acme is paused (moving house)")


def test_ids_nobody_knows_are_not_explained(engine: Engine) -> None:
    with pytest.raises(NotFoundError, match="dead letter '7'"):
        deadletters.explain(engine, 7)
    with pytest.raises(NotFoundError, match="notification '7'"):
        timeline.of(engine, 7)
