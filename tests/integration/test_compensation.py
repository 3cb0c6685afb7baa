"""What was lost is found again, and nothing that is in order is touched."""

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, select, update

from schedules import compensation
from schedules.compensation import Compensation
from schedules.deadline import Deadline
from schedules.jobs import Jobs
from schedules.sweep import Step
from tests.office import add_endpoint, office, until
from tests.receiver import Receiver
from tests.seeding import (
    add_due,
    add_lane,
    attempts_of,
    letters_of,
    row_of,
    settle,
    store_on,
)
from tests.sweeping import contents, whole_round, wipe
from worker import inbox, tables
from worker.client import Notifier
from worker.errors import SettingsError
from worker.inbox import Accepted
from worker.models import Pool
from worker.store import LOST_MAX

_TABLES = ("delivery", "attempt", "dead_letter", "inbox", "notification")


class Rung:
    """A bell that remembers who was rung for."""

    def __init__(self) -> None:
        self.pools: list[Pool] = []

    def ring(self, pool: Pool = Pool.FAST) -> bool:
        self.pools.append(pool)
        return True


def _sweep(engine: Engine, bell: Rung | None = None, rows: int = 2000) -> Compensation:
    def take_in(limit: int) -> Accepted:
        return inbox.accept(engine, Notifier(None), limit=limit)

    return Compensation(store=store_on(engine), take_in=take_in, bell=bell or Rung(), rows=rows)


# A lease that holds, and one that ran out.
_LIVE_S, _LOST_S = 50.0, -5.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One notification before the sweep."""

    state: str
    due_in_s: float
    lease_in_s: float
    lane: int
    abandoned: int

    @property
    def untouchable(self) -> bool:
        """Over, not due yet, or leased by somebody who lives."""
        if self.state == "waiting":
            return self.due_in_s > 0
        return self.state != "sending" or self.lease_in_s > 0


_ROWS = st.builds(
    Row,
    state=st.sampled_from(["waiting", "pending", "sending", "delivered", "dead", "cancelled"]),
    due_in_s=st.sampled_from([-3600.0, -1.0, 3600.0]),
    lease_in_s=st.sampled_from([_LIVE_S, _LOST_S]),
    lane=st.integers(0, 2),
    abandoned=st.sampled_from([0, 2, LOST_MAX - 1]),
)


def _write(engine: Engine, rows: list[Row]) -> list[int]:
    lanes = [add_lane(engine, "acme"), add_lane(engine, "paused", held=True)]
    lanes.append(add_lane(engine, "snail", slow=True))
    ids = []
    now = store_on(engine).now()
    for place, row in enumerate(rows):
        [row_id] = add_due(
            engine, lanes[row.lane], state=row.state, due_in_s=row.due_in_s, trace_id=str(place)
        )
        lease_until = now + timedelta(seconds=row.lease_in_s) if row.state == "sending" else None
        with engine.begin() as tx:
            tx.execute(
                update(tables.delivery)
                .where(tables.delivery.c.id == row_id)
                .values(abandoned=row.abandoned, claim_no=1, attempt_no=1, lease_until=lease_until)
            )
            tx.execute(
                insert(tables.attempt).values(
                    notification_id=row_id,
                    attempt_no=1,
                    claim_no=1,
                    started_at=now,
                    outcome=None if row.state == "sending" else "not_acked",
                )
            )
        ids.append(row_id)
    return ids


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(_ROWS, max_size=10), size=st.sampled_from([1, 2, 2000]))
def test_a_second_round_finds_nothing_and_what_is_in_order_is_untouched(
    engine: Engine, rows: list[Row], size: int
) -> None:
    wipe(engine)
    ids = _write(engine, rows)
    before = {row_id: row_of(engine, row_id) for row_id in ids}
    whole_round(_sweep(engine, rows=size))
    after = contents(engine, *_TABLES)
    for row_id, row in zip(ids, rows, strict=True):
        now = row_of(engine, row_id)
        if row.untouchable:
            assert now == before[row_id]
        elif row.state == "waiting":
            assert now.state == "pending"
        else:
            assert now.state == ("dead" if row.abandoned + 1 >= LOST_MAX else "pending")
            assert [tried.outcome for tried in attempts_of(engine, row_id)] == ["abandoned"]
            assert len(letters_of(engine, row_id)) == (now.state == "dead")
        # A sweep sends nothing.
        assert (now.claim_no, now.attempt_no, now.tries) == (1, 1, 0)
    again = whole_round(_sweep(engine, rows=size))
    assert contents(engine, *_TABLES) == after
    assert not again.keys() - {"rung"}


@pytest.mark.parametrize(
    ("state", "due_in_s", "held"),
    [
        ("delivered", -9.0, False),
        ("cancelled", -9.0, False),
        ("dead", -9.0, False),
        ("waiting", 99.0, False),
        ("pending", -9.0, True),
    ],
)
def test_nobody_is_rung_for_what_is_over_held_or_not_due(
    engine: Engine, state: str, due_in_s: float, held: bool
) -> None:
    add_due(engine, add_lane(engine, held=held), state=state, due_in_s=due_in_s)
    bell = Rung()
    assert whole_round(_sweep(engine, bell)) == {}
    assert bell.pools == []


def test_rows_nobody_announced_are_rung_for_in_their_own_queue(engine: Engine) -> None:
    add_due(engine, add_lane(engine, "acme"))
    add_due(engine, add_lane(engine, "snail", slow=True), state="waiting")
    bell = Rung()
    assert whole_round(_sweep(engine, bell)) == {"staged": 1, "rung": 2}
    assert set(bell.pools) == {Pool.FAST, Pool.SLOW}


def test_an_event_written_by_sql_is_taken_in_once(engine: Engine) -> None:
    lane = add_lane(engine, "acme")
    with engine.begin() as tx:
        for key in ("a", "a", "b"):
            tx.execute(
                insert(tables.inbox).values(
                    merchant="acme", event_type="payment.paid", event_key=key, payload='{"a":1}'
                )
            )
        tx.execute(
            insert(tables.inbox).values(
                merchant="nobody", event_type="payment.paid", event_key="c", payload="1"
            )
        )
    bell = Rung()
    assert whole_round(_sweep(engine, bell, rows=2)) == {"accepted": 3, "refused": 1, "rung": 1}
    with engine.connect() as connection:
        keys = connection.scalars(select(tables.notification.c.event_key)).all()
        assert sorted(keys) == ["a", "b"]
        assert connection.scalars(select(tables.delivery.c.lane_id)).all() == [lane, lane]


def test_a_sweep_beside_claims_takes_no_lease_away(engine: Engine) -> None:
    """Claims and settles on two threads, the sweep on a third: no verdict comes too late."""
    lane = add_lane(engine, in_flight_cap=10_000)
    ids = add_due(engine, lane, 150) + add_due(engine, lane, 150, state="waiting")
    stale: list[int] = []
    sent: Counter[int] = Counter()
    done = Event()

    def work() -> None:
        store = store_on(engine)
        while not done.is_set():
            rows = store.claim(Pool.FAST, limit=7, worker="w").rows
            sent.update(row.id for row in rows)
            if rows:
                stale.extend(settle(store, rows))
            elif not store.due_pools():
                done.wait(0.005)

    workers = [Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    sweep = _sweep(engine, rows=50)
    until(lambda: whole_round(sweep) is not None and len(sent) == len(ids), within_s=30)
    until(lambda: all(row_of(engine, row_id).state == "delivered" for row_id in ids), within_s=30)
    done.set()
    for worker in workers:
        worker.join()
    assert stale == []
    assert set(sent.values()) == {1}


class Orders:
    """A sweep that finds three orders in two batches."""

    name = "order_notifications"

    def __init__(self) -> None:
        self.cursors: list[str] = []

    def step(self, cursor: str) -> Step:
        self.cursors.append(cursor)
        if cursor:
            return Step(counts={"orders": 1})
        return Step(cursor="o:2", counts={"orders": 2})


def test_orders_without_a_notification_have_a_place_before_the_bell(engine: Engine) -> None:
    orders = Orders()
    sweep = Compensation(
        store=store_on(engine),
        take_in=lambda _: Accepted(accepted=0, refused=0),
        bell=Rung(),
        orders=orders,
    )
    assert whole_round(sweep) == {"orders": 3}
    assert orders.cursors == ["", "o:2"]


class Broken(Orders):
    """A sweep over a host's table that fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def step(self, cursor: str) -> Step:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        SettingsError("orders.toml: table: shop_order is not there"),
        OverflowError("date value out of range"),
        RuntimeError("a host's own port"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_orders_that_cannot_be_looked_for_stop_nothing_else(
    engine: Engine, error: Exception
) -> None:
    add_due(engine, add_lane(engine))
    sweep = Compensation(
        store=store_on(engine),
        take_in=lambda _: Accepted(accepted=0, refused=0),
        bell=Rung(),
        orders=Broken(error),
    )
    assert whole_round(sweep) == {"orders_failed": 1, "rung": 1}


def test_the_job_brings_an_unannounced_row_to_its_merchant(dsn: str, tmp_path: Path) -> None:
    """With no tick to help: the sweep finds, a delivery sends."""
    with Receiver(tmp_path) as receiver, office(dsn, start=False) as working:
        endpoint = add_endpoint(working, receiver)
        with working.desk.engine.begin() as tx:
            tx.execute(
                insert(tables.inbox).values(
                    endpoint=endpoint.name,
                    event_type="payment.paid",
                    event_key="o-1",
                    payload='{"order":"o-1"}',
                )
            )
        # The bell of an installation without a broker says that nobody hears it.
        assert +whole_round(compensation.sweep(working.desk)) == {"accepted": 1}
        working.courier.start()
        working.courier.deliver(Pool.FAST)
        until(lambda: len(receiver.ledger()) == 1)
        working.courier.close(timeout_s=5)


@pytest.mark.parametrize("name", ["compensation", "redrive", "retention"])
def test_the_cron_table_can_run_each_as_a_job(dsn: str, name: str) -> None:
    with office(dsn, start=False) as working:
        work = Jobs(working.desk, "test")
        assert work.run(name, {}, Deadline(30)).startswith(f"{name}: ")
        # The sweep is the same one the next time.
        assert work.run(name, {}, Deadline(30)).startswith(f"{name}: ")
