"""A sweep that is killed anywhere goes on where it stopped, and does nothing twice."""

import random
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, insert, select, update

from tests.faults.sweeping import ROOT, sweep_of
from tests.seeding import add_due, add_lane, store_on
from tests.sweeping import contents, whole_round
from worker import tables
from worker.store import LOST_MAX
from worker.tables_alerts import rollup
from worker.tables_schedules import tick

_KILLS = 5
_ALL = ("delivery", "attempt", "dead_letter", "notification", "inbox", "audit", "tick", "revival")


def _say(name: str, dsn: str, *points: int) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.sweeping", name, dsn, *map(str, points)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.split()


def _kill_often(name: str, dsn: str, engine: Engine) -> None:
    """Kill round after round, each at another point; then let one run to its end.

    Few lines as often as many: what is lost between two statements is as likely to show at the
    beginning of a round as at its end.
    """
    luck = random.Random(name)
    said = _say(name, dsn, *(int(10 ** luck.uniform(1.3, 3.3)) for _ in range(_KILLS)))
    assert said.count("killed") >= _KILLS // 2
    assert set(said) <= {"killed", "done"}
    whole_round(sweep_of(name, engine))
    done = contents(engine, *_ALL)
    whole_round(sweep_of(name, engine))
    assert contents(engine, *_ALL) == done


def _set(engine: Engine, ids: list[int], **values: object) -> None:
    with engine.begin() as tx:
        tx.execute(update(tables.delivery).where(tables.delivery.c.id.in_(ids)).values(**values))


def test_a_retention_that_is_killed_goes_on_and_removes_nothing_else(
    engine: Engine, dsn: str
) -> None:
    now = store_on(engine).now()
    lane = add_lane(engine)
    times: dict[str, Any] = {"created_at": now - timedelta(days=200), "order_no": "o-1"}
    old = add_due(engine, lane, 30, trace_id="old", **times)
    unfinished = add_due(engine, lane, 5, trace_id="unfinished", **times)
    young = add_due(engine, lane, 5, trace_id="young")
    _set(engine, old, state="delivered", finished_at=now - timedelta(days=190))
    _set(engine, young, state="delivered", finished_at=now - timedelta(days=3))
    with engine.begin() as tx:
        for row_id in (*old, *unfinished, *young):
            tx.execute(
                insert(tables.attempt).values(
                    notification_id=row_id, attempt_no=1, claim_no=1, started_at=now
                )
            )
        for days in range(20, 50):
            tx.execute(
                insert(tick).values(name="a", tick_at=now - timedelta(days=days), state="done")
            )
    _kill_often("retention", dsn, engine)
    left = contents(engine, "delivery", "attempt", "notification", "tick")
    assert [row[0] for row in left["delivery"]] == [*unfinished, *young]
    assert [row[0] for row in left["attempt"]] == [*unfinished, *young]
    # Every key is still there.
    assert [row[0] for row in left["notification"]] == [*old, *unfinished, *young]
    assert len(left["tick"]) == 10


def test_a_compensation_that_is_killed_takes_nothing_in_twice(engine: Engine, dsn: str) -> None:
    store = store_on(engine)
    lane = add_lane(engine)
    gone = store.now() - timedelta(seconds=5)
    lost = add_due(engine, lane, 10, trace_id="lost")
    poison = add_due(engine, lane, 5, trace_id="poison")
    waiting = add_due(engine, lane, 10, state="waiting")
    live = add_due(engine, lane, 3, trace_id="live")
    _set(engine, lost, state="sending", lease_until=gone, claim_no=1, attempt_no=1)
    _set(
        engine,
        poison,
        state="sending",
        lease_until=gone,
        claim_no=3,
        attempt_no=3,
        abandoned=LOST_MAX - 1,
    )
    held: dict[str, Any] = {
        "lease_until": store.now() + timedelta(hours=1),
        "claim_no": 1,
        "attempt_no": 1,
    }
    _set(engine, live, state="sending", **held)
    keys = [f"k-{number}" for number in range(20)]
    with engine.begin() as tx:
        for key in keys:
            tx.execute(
                insert(tables.inbox).values(
                    merchant="acme", event_type="payment.paid", event_key=key, payload="1"
                )
            )
    _kill_often("compensation", dsn, engine)
    with engine.connect() as connection:
        states = {
            row.id: (row.state, row.claim_no, row.abandoned)
            for row in connection.execute(select(tables.delivery))
        }
        letters = connection.scalars(select(tables.dead_letter.c.notification_id)).all()
        taken = connection.scalars(
            select(tables.notification.c.event_key).where(tables.notification.c.event_key.in_(keys))
        ).all()
        assert connection.scalars(select(tables.inbox.c.id)).all() == []
    assert {states[row_id] for row_id in lost} == {("pending", 1, 1)}
    assert {states[row_id] for row_id in poison} == {("dead", 3, LOST_MAX)}
    assert {states[row_id] for row_id in waiting} == {("pending", 0, 0)}
    assert {states[row_id] for row_id in live} == {("sending", 1, 0)}
    assert sorted(letters) == poison
    assert sorted(taken) == sorted(keys)


def test_a_revival_that_is_killed_sends_no_letter_twice_and_no_batch_beside_another(
    engine: Engine, dsn: str
) -> None:
    now = store_on(engine).now()
    for number in range(6):
        lane = add_lane(engine, f"shop-{number}")
        ids = add_due(engine, lane, 5)
        _set(engine, ids, state="dead", tries=8, finished_at=now)
        with engine.begin() as tx:
            for row_id in ids:
                tx.execute(
                    insert(tables.dead_letter).values(
                        notification_id=row_id,
                        endpoint_id=lane,
                        reason="exhausted",
                        died_at=now - timedelta(hours=2),
                    )
                )
            minute = (now - timedelta(minutes=5)).replace(second=0, microsecond=0)
            tx.execute(
                insert(rollup).values(minute_at=minute, endpoint_id=lane, worker="w", acked=1)
            )
    _kill_often("redrive", dsn, engine)
    with engine.connect() as connection:
        letters = connection.execute(select(tables.dead_letter)).all()
        subjects = connection.scalars(select(tables.audit.c.subject)).all()
        pending = connection.scalars(
            select(tables.delivery.c.id).where(tables.delivery.c.state == "pending")
        ).all()
    revived = [letter for letter in letters if letter.resolution == "redriven"]
    assert [*Counter(letter.endpoint_id for letter in revived).values()] == [1] * 6
    assert sorted(subjects) == sorted(f"notification/{one.notification_id}" for one in revived)
    assert sorted(pending) == sorted(one.notification_id for one in revived)
