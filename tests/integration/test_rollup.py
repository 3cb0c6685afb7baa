"""Counts per minute and endpoint: what a settle adds, what is written, what a loss costs."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from sqlalchemy import Engine, Row, select, text

from tests.office import add_endpoint, enqueue, office, state_of, until
from tests.receiver import Receiver
from tests.seeding import (
    DEAD,
    HOLD,
    RETRY,
    add_due,
    add_lane,
    age,
    settle,
    store_on,
    superseded,
    verdict_on,
)
from worker import clock
from worker.models import Claimed, Decision, Outcome, Pool, Verdict
from worker.retry import DELIVERED
from worker.rollup import NOBODY, Rollup
from worker.seen import Measured
from worker.tables_alerts import rollup as table


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("merchant")) as running:
        yield running


def rows_of(engine: Engine) -> dict[tuple[int, str], Row[Any]]:
    """Rows by endpoint and worker; the minutes of one test are added up."""
    names = ("acked", "failed", "dead", "held", "abandoned", "stale", "elapsed_ms")
    sums = ", ".join(f"sum({name}) AS {name}" for name in names)
    query = f"SELECT endpoint_id, worker, {sums} FROM paynotify_rollup GROUP BY 1, 2"
    with engine.connect() as connection:
        return {(row.endpoint_id, row.worker): row for row in connection.execute(text(query))}


def claimed(engine: Engine, count: int) -> tuple[Claimed, ...]:
    store = store_on(engine)
    add_due(engine, add_lane(engine), count)
    return store.claim(Pool.FAST, limit=count, worker="w").rows


def test_counts_are_added_to_the_minute_and_workers_do_not_share_rows(engine: Engine) -> None:
    store = store_on(engine)
    seen = {7: Measured(acked=2, elapsed_ms=30), NOBODY: Measured(abandoned=1)}
    store.roll_up(seen, worker="one")
    store.roll_up(seen, worker="one")
    store.roll_up({7: Measured(failed=1, dead=1, held=1, stale=1)}, worker="two")
    store.roll_up({}, worker="three")
    rows = rows_of(engine)
    assert set(rows) == {(7, "one"), (NOBODY, "one"), (7, "two")}
    assert (rows[7, "one"].acked, rows[7, "one"].elapsed_ms) == (4, 60)
    assert rows[NOBODY, "one"].abandoned == 2
    two = rows[7, "two"]
    assert (two.acked, two.failed, two.dead, two.held, two.stale) == (0, 1, 1, 1, 1)
    with engine.connect() as connection:
        minutes = connection.execute(select(table.c.minute_at)).scalars().all()
    age_s = (store.now() - minutes[-1]).total_seconds()
    assert minutes[-1].second == 0
    assert 0 <= age_s < 61


def test_each_verdict_counts_as_what_it_says_of_the_merchant(engine: Engine) -> None:
    throttled = Verdict(decision=Decision.RETRY, outcome=Outcome.NOT_ACKED, delay_s=1.0)
    verdicts = [DELIVERED, DELIVERED, RETRY, DEAD, HOLD, throttled, DELIVERED]
    rows = claimed(engine, len(verdicts))
    counted = Rollup(store_on(engine), "w")
    pairs = zip(rows, verdicts, strict=True)
    counted.settled([verdict_on(*pair) for pair in pairs], frozenset({rows[-1].id}))
    counted.write()
    counted.write()
    row = rows_of(engine)[rows[0].endpoint_id, "w"]
    assert (row.acked, row.failed, row.dead, row.held, row.stale) == (2, 2, 1, 1, 1)
    assert row.elapsed_ms == 6 * 3


def test_what_the_database_did_not_take_is_written_with_the_next(engine: Engine) -> None:
    counted = Rollup(store_on(engine), "w")
    rows = claimed(engine, 2)
    counted.settled([verdict_on(rows[0])], frozenset())
    with engine.begin() as tx:
        tx.execute(text("ALTER TABLE paynotify_rollup RENAME TO gone_away"))
    counted.write()
    with engine.begin() as tx:
        tx.execute(text("ALTER TABLE gone_away RENAME TO paynotify_rollup"))
    counted.settled([verdict_on(rows[1])], frozenset())
    counted.write()
    assert rows_of(engine)[rows[0].endpoint_id, "w"].acked == 2


def test_a_worker_without_traffic_still_says_that_it_lives(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = clock.monotonic_s()
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)
    quiet = Rollup(store_on(engine), "w")
    quiet.write_if_due()
    assert rows_of(engine) == {}
    now_s += 5
    quiet.write_if_due()
    assert rows_of(engine)[NOBODY, "w"].acked == 0


def test_many_endpoints_are_written_less_often(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = clock.monotonic_s()
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)
    counted = Rollup(store_on(engine), "w")
    for endpoint_id in range(1, 1201):
        counted.given_up(endpoint_id)
    now_s += 11.9
    counted.write_if_due()
    assert rows_of(engine) == {}
    now_s += 0.2
    counted.write_if_due()
    assert len(rows_of(engine)) == 1201


def test_a_lost_lease_is_counted_and_so_is_a_verdict_that_comes_too_late(engine: Engine) -> None:
    store = store_on(engine)
    rows = claimed(engine, 3)
    age(engine, 61)
    released = store.release(limit=10)
    counted = Rollup(store, "w")
    counted.abandoned(again=released.again, poisoned=2)
    stale = frozenset(settle(store, [superseded(rows[0])]))
    counted.settled([verdict_on(rows[0])], stale)
    counted.write()
    seen: Mapping[tuple[int, str], Row[Any]] = rows_of(engine)
    assert (seen[NOBODY, "w"].abandoned, seen[NOBODY, "w"].dead) == (5, 2)
    assert seen[rows[0].endpoint_id, "w"].stale == 1


def test_a_working_process_counts_every_callback_and_writes_the_rest_when_it_ends(
    engine: Engine, dsn: str, receiver: Receiver
) -> None:
    with office(dsn) as working:
        good = add_endpoint(working, receiver)
        bad = add_endpoint(working, receiver, "/500")
        ids = [enqueue(working, good, f"g{number}") for number in range(20)]
        ids += [enqueue(working, bad, f"b{number}") for number in range(3)]
        until(lambda: {state_of(working, each) for each in ids} == {"delivered", "waiting"})
    rows = rows_of(engine)
    assert (rows[good.id, "test"].acked, rows[good.id, "test"].failed) == (20, 0)
    assert (rows[bad.id, "test"].acked, rows[bad.id, "test"].failed) == (0, 3)
    assert rows[good.id, "test"].elapsed_ms >= 0
