"""What is over and old goes, and nothing else, whenever and however often the retention runs."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, Table, insert, select, update

from schedules.ports import OrderState, RefundState
from schedules.retention import Ages, Retention
from tests.channel_sim import ChannelSim
from tests.order_tables import open_place
from tests.reconciling import Shop
from tests.seeding import add_due, add_lane, attempts_of, letters_of
from tests.sweeping import contents, whole_round, wipe
from worker import clock, holds, tables
from worker.client import Notifier
from worker.errors import EventKeyConflictError, NotFoundError
from worker.settings import alone
from worker.tables_alerts import alert, alert_delivery, rollup, silence
from worker.tables_orders import check, evidence, recon_case
from worker.tables_schedules import tick

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
AGES = Ages(
    finished=90 * DAY, ticks=30 * DAY, rollups=30 * DAY, evidence=365 * DAY, alerts=90 * DAY
)


def _retention(engine: Engine, *, at: datetime = NOW, rows: int = 500) -> Retention:
    return Retention(engine, AGES, now=lambda: at, rows_max=rows)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A notification: where it is in its life, when it came and ended, what protects it."""

    state: str
    born_days: int
    took_days: int
    endpoint: int
    order: int
    letter: str | None

    @property
    def finished_at(self) -> datetime:
        return NOW + (self.took_days - self.born_days) * DAY

    def stays(self, at: datetime, held: set[tuple[str, int]]) -> bool:
        """The rule, told once more in other words."""
        over = self.state in ("delivered", "cancelled")
        old = self.finished_at < at - AGES.finished
        kept = {("order", self.order), ("endpoint", self.endpoint)} & held
        return not over or not old or self.letter == "open" or bool(kept)


_ROWS = st.builds(
    Row,
    state=st.sampled_from(["waiting", "pending", "sending", "delivered", "dead", "cancelled"]),
    born_days=st.integers(0, 400),
    took_days=st.integers(0, 100),
    endpoint=st.integers(1, 2),
    order=st.integers(1, 3),
    letter=st.sampled_from([None, "open", "redriven"]),
)
_HOLDS = st.sets(
    st.one_of(
        st.tuples(st.just("order"), st.integers(1, 3)),
        st.tuples(st.just("endpoint"), st.integers(1, 2)),
    ),
    max_size=3,
)


def _write(engine: Engine, rows: list[Row]) -> dict[int, Row]:
    lanes = [0, add_lane(engine, "acme"), add_lane(engine, "umbrella")]
    written = {}
    # Ids rise with time.
    for place, row in enumerate(sorted(rows, key=lambda row: -row.born_days)):
        lane = lanes[row.endpoint]
        born_at = NOW - row.born_days * DAY
        [row_id] = add_due(
            engine, lane, order_no=f"o-{row.order}", created_at=born_at, trace_id=f"t-{place}"
        )
        over = row.state in ("delivered", "cancelled", "dead")
        with engine.begin() as tx:
            tx.execute(
                update(tables.delivery)
                .where(tables.delivery.c.id == row_id)
                .values(state=row.state, finished_at=row.finished_at if over else None)
            )
            tx.execute(
                insert(tables.attempt).values(
                    notification_id=row_id, attempt_no=1, claim_no=1, started_at=born_at
                )
            )
            if row.letter:
                tx.execute(
                    insert(tables.dead_letter).values(
                        notification_id=row_id,
                        endpoint_id=lane,
                        reason="exhausted",
                        died_at=born_at,
                        resolution=None if row.letter == "open" else row.letter,
                    )
                )
        written[row_id] = row
    return written


def _hold(engine: Engine, held: set[tuple[str, int]]) -> None:
    for kind, number in held:
        if kind == "order":
            holds.add(engine, order_no=f"o-{number}", who="li", why="court")
        else:
            name = ("acme", "umbrella")[number - 1]
            holds.add(engine, endpoint=name, who="li", why="court")


def _kept(engine: Engine) -> set[int]:
    with engine.connect() as connection:
        return set(connection.scalars(select(tables.delivery.c.id)))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(_ROWS, max_size=12),
    held=_HOLDS,
    after_days=st.lists(st.integers(0, 200), min_size=1, max_size=3).map(sorted),
    size=st.sampled_from([1, 3, 500]),
)
def test_a_purge_at_any_time_keeps_the_unfinished_the_young_and_the_held(
    engine: Engine, rows: list[Row], held: set[tuple[str, int]], after_days: list[int], size: int
) -> None:
    wipe(engine)
    written = _write(engine, rows)
    _hold(engine, held)
    for days in after_days:
        at = NOW + days * DAY
        whole_round(_retention(engine, at=at, rows=size))
        expected = {row_id for row_id, row in written.items() if row.stays(at, held)}
        assert _kept(engine) == expected
        for row_id, row in written.items():
            stays = row_id in expected
            assert len(attempts_of(engine, row_id)) == stays
            assert len(letters_of(engine, row_id)) == (stays and row.letter is not None)
    # A round more finds nothing.
    before = contents(engine, "notification", "delivery", "attempt", "dead_letter")
    whole_round(_retention(engine, at=NOW + after_days[-1] * DAY, rows=size))
    assert contents(engine, "notification", "delivery", "attempt", "dead_letter") == before


def _finished(
    engine: Engine, lane: int, count: int, *, days: int, order_no: str | None = None
) -> list[int]:
    ids = add_due(engine, lane, count, created_at=NOW - days * DAY, order_no=order_no)
    with engine.begin() as tx:
        tx.execute(
            update(tables.delivery)
            .where(tables.delivery.c.id.in_(ids))
            .values(state="delivered", finished_at=NOW - days * DAY)
        )
    return ids


def test_an_event_key_stays_taken_when_its_notification_is_forgotten(engine: Engine) -> None:
    add_lane(engine, in_flight_cap=10)
    notifier = Notifier(None)

    def enqueue(payload: object) -> tuple[int, ...]:
        with engine.begin() as tx:
            return notifier.enqueue(
                tx, endpoint="acme", event_type="payment.paid", event_key="o-1", payload=payload
            )

    [row_id] = first = enqueue({"order": "o-1"})
    with engine.begin() as tx:
        old = NOW - 200 * DAY
        tx.execute(update(tables.notification).values(created_at=old))
        tx.execute(update(tables.delivery).values(state="delivered", finished_at=old))
    assert whole_round(_retention(engine)) == {"notifications": 1}
    assert enqueue({"order": "o-1"}) == first
    assert _kept(engine) == set()
    with pytest.raises(EventKeyConflictError, match=f"notification {row_id}"):
        enqueue({"order": "o-2"})
    with engine.begin() as tx:
        with pytest.raises(NotFoundError):
            notifier.get(tx, row_id)
        with pytest.raises(NotFoundError):
            notifier.payload(tx, row_id)
    # What order it was of is still known: nobody is told of it a second time.
    [left] = contents(engine, "notification")["notification"]
    assert "payment.paid" in left
    assert b'"order"' not in b"".join(value for value in left if isinstance(value, bytes))


def test_the_audit_log_is_never_touched(engine: Engine) -> None:
    with engine.begin() as tx:
        tx.execute(
            insert(tables.audit).values(at=NOW - 9000 * DAY, actor="li", action="x", subject="y")
        )
    assert whole_round(_retention(engine)) == {}
    assert len(contents(engine, "audit")["audit"]) == 1


def test_a_hold_that_is_lifted_lets_go(engine: Engine) -> None:
    _finished(engine, add_lane(engine), 2, days=200, order_no="o-1")
    holds.add(engine, order_no="o-1", who="li", why="court")
    assert whole_round(_retention(engine)) == {}
    holds.lift(engine, order_no="o-1", who="li", why="settled")
    assert whole_round(_retention(engine)) == {"notifications": 2}


def test_a_round_goes_on_where_the_last_one_stopped(engine: Engine) -> None:
    ids = _finished(engine, add_lane(engine), 20, days=200)
    sweep = _retention(engine, rows=5)
    cursor = sweep.step("").cursor
    assert _kept(engine) == set(ids[5:])
    assert _retention(engine, rows=5).step(cursor).counts == {"notifications": 5}
    assert _kept(engine) == set(ids[10:])


def test_a_cursor_of_another_version_starts_the_round_anew(engine: Engine) -> None:
    _finished(engine, add_lane(engine), 1, days=200)
    assert _retention(engine).step("inventory:77").counts == {"notifications": 1}


def _add(engine: Engine, table: Table, **values: Any) -> None:
    with engine.begin() as tx:
        tx.execute(insert(table).values(**values))


def test_old_ticks_go_and_those_still_open_stay(engine: Engine) -> None:
    for name in ("a", "b", "c"):
        for days in range(20, 60):
            _add(engine, tick, name=name, tick_at=NOW - days * DAY, state="done")
        _add(engine, tick, name=name, tick_at=NOW - 70 * DAY, state="running")
        _add(engine, tick, name=name, tick_at=NOW - 71 * DAY, state="due")
    assert whole_round(_retention(engine, rows=4)) == {"ticks": 3 * 29}
    kept = contents(engine, "tick")["tick"]
    assert len(kept) == 3 * 13
    assert all(row[1] >= NOW - 30 * DAY for row in kept if row[2] == "done")


def test_old_counts_go_whole_minutes_at_a_time(engine: Engine) -> None:
    for minute in range(8):
        for worker in "abcdef":
            at = NOW - 31 * DAY + timedelta(minutes=minute)
            _add(engine, rollup, minute_at=at, endpoint_id=1, worker=worker)
    _add(engine, rollup, minute_at=NOW - 29 * DAY, endpoint_id=1, worker="a")
    # Fewer rows than a minute has, and more.
    for rows in (1, 2):
        sweep = _retention(engine, rows=rows)
        step = sweep.step("rollups:")
        assert step.counts == {"rollups": 6}
        assert step.cursor.startswith("rollups:")
    assert whole_round(_retention(engine, rows=2)) == {"rollups": 36}
    assert len(contents(engine, "rollup")["rollup"]) == 1


_CASE = {"reason": "late_payment", "channel": "ali"}


def test_evidence_stays_while_a_case_or_a_hold_needs_it(engine: Engine) -> None:
    old = NOW - 400 * DAY
    for number in ("free", "case", "held", "young"):
        at = NOW if number == "young" else old
        _add(engine, evidence, at=at, subject_no=number, channel="ali", decision="noted")
    back = {"kind": "refund", "subject_no": "r-1", "order_no": "held", "channel": "ali"}
    _add(engine, evidence, at=old, decision="noted", **back)
    _add(engine, recon_case, subject_no="case", opened_at=old, **_CASE)
    holds.add(engine, order_no="held", who="li", why="court")
    assert whole_round(_retention(engine, rows=2)) == {"evidence": 1}
    assert {row[3] for row in contents(engine, "recon_evidence")["recon_evidence"]} == {
        *("case", "held", "young", "r-1")
    }


def test_a_hold_on_an_order_keeps_all_that_was_found_of_its_refunds(
    engine: Engine, tmp_path: Path
) -> None:
    place = open_place(engine, "gateway")
    old = NOW - 400 * DAY
    with ChannelSim(tmp_path) as sim:
        file = sim.config(channels=["generic_json"])
        shop = Shop(engine, sim, file, orders=place.port)  # type: ignore[arg-type]
        with engine.begin() as tx:
            placed = shop.now(tx)
            for no, back in (("A7", "R1"), ("B8", "R2")):
                paid = {"channel": "generic_json", "changed_at": placed}
                place.add(tx, no, OrderState.PAID, 1230, placed, **paid)
                place.add_refund(tx, back, no, RefundState.PROCESSING, 100, placed)
                sim.set_order("generic_json", no, "paid", 1230)
                sim.set_refund("generic_json", no, back, "success", 99)
        shop.ask()
    assert shop.cases("R1") == shop.cases("R2") == ["amount_mismatch"]
    with engine.begin() as tx:
        tx.execute(update(evidence).values(at=old))
        tx.execute(update(recon_case).values(opened_at=old, resolved_at=old))
        tx.execute(update(check).values(placed_at=old, finished_at=old))
    holds.add(engine, order_no="A7", who="li", why="court")
    whole_round(_retention(engine))
    for table in (evidence, recon_case, check):
        with engine.connect() as connection:
            assert set(connection.scalars(select(table.c.subject_no))) == {"R1"}


def test_resolved_cases_and_finished_checks_go_with_age(engine: Engine) -> None:
    old = NOW - 400 * DAY
    _add(engine, recon_case, subject_no="open", opened_at=old, **_CASE)
    _add(engine, recon_case, subject_no="lately", opened_at=old, resolved_at=NOW, **_CASE)
    _add(engine, recon_case, subject_no="gone", opened_at=old, resolved_at=old, **_CASE)
    times = {"placed_at": old, "next_check_at": old, "channel": "ali"}
    for number, finished_at in (("asked", None), ("over", old), ("open", old)):
        _add(engine, check, subject_no=number, finished_at=finished_at, **times)
    assert whole_round(_retention(engine)) == {"cases": 1, "checks": 1}


def test_alerts_go_when_they_are_over_and_their_deliveries_after_them(engine: Engine) -> None:
    old = NOW - 100 * DAY
    for number, resolved_at, states in (
        (1, old, ("sent", "given_up")),
        (2, None, ("sent", "due")),
        # Its notice is still to go.
        (3, old, ("sent", "due")),
    ):
        _add(
            engine,
            alert,
            id=number,
            rule="r",
            severity="info",
            measure="m",
            opened_at=old,
            resolved_at=resolved_at,
        )
        for state in states:
            _add(
                engine,
                alert_delivery,
                alert_id=number,
                occasion="raised",
                sink="log",
                state=state,
                due_at=old,
            )
    for until in (old, NOW):
        _add(engine, silence, rule="*", until=until, who="li", created_at=old)
    done = whole_round(_retention(engine))
    assert done == {"alerts": 1, "alert_deliveries": 2, "silences": 1}
    assert {row[0] for row in contents(engine, "alert")["alert"]} == {2, 3}


def test_a_hold_waits_for_the_batch_that_runs_and_then_protects(
    postgres_engine: Engine,
) -> None:
    """Two transactions at once: nothing named by a hold goes after the hold was placed."""
    engine = postgres_engine
    _finished(engine, add_lane(engine), 1, days=200, order_no="o-1")
    with engine.begin() as tx:
        tx.exec_driver_sql("SET LOCAL lock_timeout = 0")
        holds.freeze(tx)
        with pytest.raises(Exception, match="lock timeout"):
            holds.add(engine, order_no="o-1", who="li", why="court")
    assert holds.add(engine, order_no="o-1", who="li", why="court")
    assert whole_round(_retention(engine)) == {}


def test_the_ages_are_those_of_the_settings() -> None:
    ages = Ages.of(alone(keep_finished_days=7, keep_ticks_days=8))
    assert (ages.finished, ages.ticks) == (7 * DAY, 8 * DAY)


def test_a_slow_batch_makes_the_next_one_smaller(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _finished(sqlite_engine, add_lane(sqlite_engine), 90, days=200)
    sweep = _retention(sqlite_engine, rows=40)
    seconds = iter(range(100))
    monkeypatch.setattr(clock, "monotonic_s", lambda: float(next(seconds)))
    counts = [sweep.step(f"notifications:{after}").counts for after in (0, 40, 60)]
    assert [count["notifications"] for count in counts] == [40, 20, 20]
