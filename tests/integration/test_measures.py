"""Measures read by index, whatever has piled up, and mean what their names say."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal

import psycopg
import pytest
from sqlalchemy import Connection, Engine, event, insert, update

from schedules import measures_backlog
from schedules.measures import MEASURES
from schedules.readings import Question, Reading
from tests.alarms import count_up, minutes, now_of
from tests.seeding import add_due, add_lane, change_lane
from worker import tables
from worker.tables_orders import payment_order

_GROWING = ("delivery", "notification", "attempt", "rollup", "recon_evidence", "payment_order")


def asked(
    engine: Engine, measure: str, *, least: float = 1, minimum: int = 1, window_s: int = 300
) -> list[Reading]:
    with engine.connect() as connection:
        question = _question(engine, least=least, minimum=minimum, window_s=window_s)
        return list(MEASURES[measure].take(connection, question))


def _question(engine: Engine, *, least: float, minimum: int, window_s: int) -> Question:
    return Question(
        now=now_of(engine),
        window_s=window_s,
        baseline_s=10_800,
        minimum=minimum,
        least=Decimal(str(least)),
        most=Decimal(100),
        breaker_failures=20,
    )


def value(engine: Engine, measure: str) -> object:
    [reading] = asked(engine, measure)
    return reading.value


@contextmanager
def statements(engine: Engine) -> Iterator[list[tuple[str, object]]]:
    seen: list[tuple[str, object]] = []

    def keep(_c: object, _cur: object, sql: str, values: object, *_rest: object) -> None:
        seen.append((sql, values))

    event.listen(engine, "before_cursor_execute", keep)
    yield seen
    event.remove(engine, "before_cursor_execute", keep)


@pytest.mark.parametrize("measure", MEASURES)
def test_no_measure_reads_a_growing_table_whole(measure: str, postgres_engine: Engine) -> None:
    lane = add_lane(postgres_engine, slow=True)
    now = now_of(postgres_engine)
    count_up(postgres_engine, lane, now, acked=1, failed=9)
    with postgres_engine.connect() as connection:
        question = _question(postgres_engine, least=0.1, minimum=1, window_s=300)
        with statements(postgres_engine) as seen:
            MEASURES[measure].take(connection, question)
        assert seen
        for sql, values in seen:
            plan = _plan(connection, sql, values)
            for table in _GROWING:
                assert f"Seq Scan on paynotify_{table} " not in plan, plan
            # An index read from end to end is no better.
            for lines in plan.split("->"):
                whole = "paynotify_delivery_pkey" in lines and "Index Cond" not in lines
                assert not whole, plan


def _plan(connection: Connection, sql: str, values: object) -> str:
    """The plan as the server keeps it: made without the values."""
    assert isinstance(values, dict)
    given: dict[str, object] = values
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", sql)))
    numbered = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", sql)
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    with psycopg.ClientCursor(raw) as cursor:
        cursor.execute(f"PREPARE asked AS {numbered.replace('%%', '%')}".encode())
        places = ", ".join(["%s"] * len(names))
        call = f"EXECUTE asked({places})" if names else "EXECUTE asked"
        cursor.execute(f"EXPLAIN {call}".encode(), [given[name] for name in names] or None)
        plan = "\n".join(str(row[0]) for row in cursor.fetchall())
        cursor.execute("DEALLOCATE asked")
    return plan


def test_a_backlog_counts_what_could_go_out_now_and_stops_when_it_knows_enough(
    engine: Engine,
) -> None:
    for number in range(3):
        add_due(engine, add_lane(engine, f"shop-{number}"), 5)
    add_due(engine, add_lane(engine, "paused", held=True), 5)
    broken = add_lane(engine, "broken", open_until=now_of(engine) + minutes(1))
    add_due(engine, broken, 5)
    add_due(engine, 1, 5, state="waiting", due_in_s=60)
    assert value(engine, "backlog") == 15
    add_due(engine, 1, 300, priority=3)
    [reading] = asked(engine, "backlog")
    assert 200 <= int(reading.value) < 315
    assert reading.summary.startswith("at least 2")


def test_the_oldest_due_row_counts_whatever_its_priority(engine: Engine) -> None:
    assert value(engine, "oldest_due_s") == 0
    lane = add_lane(engine)
    add_due(engine, lane, priority=0, due_in_s=-10)
    add_due(engine, lane, priority=9, due_in_s=-500)
    add_due(engine, add_lane(engine, "paused", held=True), due_in_s=-5000)
    assert 500 <= int(str(value(engine, "oldest_due_s"))) < 560


def test_rows_that_nobody_stages_are_late_too(engine: Engine) -> None:
    add_due(engine, add_lane(engine), state="waiting", due_in_s=-300)
    assert 300 <= int(str(value(engine, "oldest_due_s"))) < 360


def test_a_lease_that_ran_out_counts_before_anybody_releases_it(engine: Engine) -> None:

    add_due(engine, add_lane(engine), 2)
    lease = now_of(engine) - timedelta(seconds=40)
    with engine.begin() as tx:
        tx.execute(update(tables.delivery).values(state="sending", lease_until=lease))
    count_up(engine, 0, now_of(engine), abandoned=3)
    assert value(engine, "expired_leases") == 5


def test_what_is_usual_for_an_endpoint_is_taken_off(engine: Engine) -> None:
    now = now_of(engine)
    weak, sound = add_lane(engine, "weak"), add_lane(engine, "sound")
    for endpoint_id, failed in ((weak, 40), (sound, 0)):
        count_up(engine, endpoint_id, now - minutes(60), acked=100 - failed, failed=failed)
        count_up(engine, endpoint_id, now, acked=50, failed=50)
    found = {reading.subject: reading for reading in asked(engine, "endpoint_failures", least=0.05)}
    assert found["weak"].value == 0.1
    assert found["sound"].value == 0.5
    assert found["weak"].summary == "50 of 100 sends failed within 5 min (50 %; usually 40 %)"


def test_an_endpoint_with_few_sends_says_nothing(engine: Engine) -> None:
    count_up(engine, add_lane(engine), now_of(engine), failed=5)
    assert asked(engine, "endpoint_failures", least=0.3, minimum=20) == []
    assert len(asked(engine, "endpoint_failures", least=0.3, minimum=5)) == 1


def test_money_that_waits_is_added_up_exactly_and_per_currency(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = add_lane(engine)
    rows = [("A1", "CNY", 2**53 + 1), ("A2", "CNY", 2), ("A3", "JPY", 700)]
    with engine.begin() as tx:
        for order_no, currency, amount in rows:
            tx.execute(
                insert(payment_order).values(
                    order_no=order_no,
                    merchant="m",
                    channel="c",
                    amount_minor=amount,
                    currency=currency,
                )
            )
    for order_no in ("A1", "A2", "A3", "unknown"):
        add_due(engine, lane, order_no=order_no)
    found = {reading.subject: reading.value for reading in asked(engine, "amount_waiting")}
    assert found == {"CNY": 2**53 + 3, "JPY": 700}
    # Not all of a long queue is looked at, and the summary says so.
    monkeypatch.setattr(measures_backlog, "_ROWS_MAX", 2)
    summaries = [reading.summary for reading in asked(engine, "amount_waiting")]
    assert summaries
    assert all(summary.startswith("at least ") for summary in summaries)


def test_a_shop_without_a_worker_is_not_a_quiet_shop(engine: Engine) -> None:
    assert asked(engine, "no_data_s") == []
    add_lane(engine)
    assert int(str(value(engine, "no_data_s"))) < 60
    count_up(engine, 0, now_of(engine) - minutes(30))
    assert int(str(value(engine, "no_data_s"))) >= 1800
    count_up(engine, 0, now_of(engine))
    assert int(str(value(engine, "no_data_s"))) < 61


def test_the_way_to_an_open_breaker_is_told_in_percent(engine: Engine) -> None:
    lane = add_lane(engine, slow=True, failures_in_row=13)
    assert value(engine, "failures_in_row") == 65
    change_lane(engine, lane, failures_in_row=50, open_until=now_of(engine))
    [reading] = asked(engine, "failures_in_row")
    assert (reading.subject, reading.value) == ("acme", 100)
    assert reading.summary.endswith("(it is open)")
    change_lane(engine, lane, held=True)
    assert asked(engine, "failures_in_row") == []
