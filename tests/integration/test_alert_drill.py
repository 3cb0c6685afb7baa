"""Every shipped rule: something goes wrong, one alert arrives, it is put right, one end arrives."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, update
from standardwebhooks import Webhook

from schedules.alert_delivery import deliver_due
from schedules.alert_rules import Book
from tests.alarms import SECRET, SHIPPED, alerts_of, at, count_up, minutes, now_of, shipped, webhook
from tests.receiver import Received, Receiver
from tests.seeding import add_due, add_lane, change_lane
from worker import tables
from worker.tables_freeze import freeze
from worker.tables_orders import evidence, payment_order, recon_case
from worker.tables_routes import callback_route
from worker.tables_schedules import sweep, tick

Change = Callable[[Engine, datetime], None]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What goes wrong, what puts it right (nothing: it passes), and what it is about."""

    cause: Change
    cure: Change = lambda _engine, _now: None
    subject: str = ""


def _all_fail(engine: Engine, now: datetime) -> None:
    for number in range(12):
        count_up(engine, add_lane(engine, f"shop-{number}"), now, failed=10)


def _old_minute(engine: Engine, now: datetime) -> None:
    count_up(engine, 0, now - minutes(10))


def _fresh_minute(engine: Engine, now: datetime) -> None:
    count_up(engine, 0, now)


def _one_fails(engine: Engine, now: datetime) -> None:
    lane = add_lane(engine)
    count_up(engine, lane, now - minutes(60), acked=98, failed=2)
    count_up(engine, lane, now, acked=20, failed=20)
    count_up(engine, add_lane(engine, "always-bad"), now, acked=20, failed=1)


def _half_way(engine: Engine, now: datetime) -> None:
    add_lane(engine, failures_in_row=10, slow=True)


def _healthy(engine: Engine, now: datetime) -> None:
    change_lane(engine, 1, failures_in_row=0, slow=False, open_until=None)


def _ten_open(engine: Engine, now: datetime) -> None:
    for number in range(10):
        add_lane(engine, f"shop-{number}", slow=True, open_until=now + minutes(1))


def _all_closed(engine: Engine, now: datetime) -> None:
    for number in range(10):
        change_lane(engine, number + 1, open_until=None)


def _gone(engine: Engine, now: datetime) -> None:
    add_lane(engine)
    _set_endpoint(engine, "gone")


def _back(engine: Engine, now: datetime) -> None:
    _set_endpoint(engine, "active")


def _frozen(person: str = "") -> Change:
    def cause(engine: Engine, now: datetime) -> None:
        values = {"endpoint_id": add_lane(engine), "frozen_at": now, "probe_at": now}
        with engine.begin() as tx:
            tx.execute(insert(freeze).values(**values, why="it failed", person=person))

    return cause


def _let_go(engine: Engine, now: datetime) -> None:
    with engine.begin() as tx:
        tx.execute(update(freeze).values(unfrozen_at=now))


def _set_endpoint(engine: Engine, state: str) -> None:
    with engine.begin() as tx:
        tx.execute(update(tables.endpoint).values(state=state))


def _route_trips(engine: Engine, now: datetime) -> None:
    endpoint_id = add_lane(engine)
    with engine.begin() as tx:
        # Of the second no endpoint knows any more.
        rows = [{"endpoint_id": endpoint_id, "no": no, "standing": "tripped"} for no in (0, 7)]
        tx.execute(insert(callback_route), rows)


def _route_returns(engine: Engine, now: datetime) -> None:
    with engine.begin() as tx:
        tx.execute(update(callback_route).values(standing="sound").where(callback_route.c.no == 0))


def _counted(**counts: int) -> Change:
    def cause(engine: Engine, now: datetime) -> None:
        count_up(engine, add_lane(engine), now, **counts)

    return cause


def _six_due(engine: Engine, now: datetime) -> None:
    add_due(engine, add_lane(engine), 6)


def _one_late(engine: Engine, now: datetime) -> None:
    add_due(engine, add_lane(engine), due_in_s=-130)


def _sent(engine: Engine, now: datetime) -> None:
    with engine.begin() as tx:
        tx.execute(update(tables.delivery).values(state="delivered"))


def _paid_and_silent(engine: Engine, now: datetime) -> None:
    lane = add_lane(engine)
    with engine.begin() as tx:
        for number in range(2):
            tx.execute(
                insert(payment_order).values(
                    order_no=f"A{number}",
                    merchant="acme",
                    channel="alipay",
                    amount_minor=5_000_000,
                    currency="CNY",
                )
            )
    # Two notifications of one order are the same money.
    add_due(engine, lane, order_no="A0", due_in_s=-2)
    add_due(engine, lane, order_no="A0", state="waiting", due_in_s=60)
    add_due(engine, lane, order_no="A1", state="waiting", due_in_s=61)


def _beat(ago_s: float) -> Change:
    def change(engine: Engine, now: datetime) -> None:
        moment = now - timedelta(seconds=ago_s)
        with engine.begin() as tx:
            if not tx.execute(update(sweep).values(beat_at=moment)).rowcount:
                tx.execute(insert(sweep).values(name="beat", beat_at=moment))

    return change


def _tick_waits(engine: Engine, now: datetime) -> None:
    with engine.begin() as tx:
        tx.execute(insert(tick).values(name="retention", tick_at=now - minutes(16)))


def _tick_done(engine: Engine, now: datetime) -> None:
    with engine.begin() as tx:
        tx.execute(update(tick).values(state="done"))


def _sweep_stands(engine: Engine, now: datetime) -> None:
    began = now - minutes(20)
    with engine.begin() as tx:
        tx.execute(
            insert(sweep).values(
                name="compensation", round_started_at=began, beat_at=began + minutes(1)
            )
        )


def _sweep_done(engine: Engine, now: datetime) -> None:
    with engine.begin() as tx:
        tx.execute(update(sweep).values(round_finished_at=now))


def _channel_silent(engine: Engine, now: datetime) -> None:
    def answers(count: int, decision: str, ago_min: float) -> list[dict[str, object]]:
        row = {"channel": "alipay", "subject_no": "A1", "decision": decision}
        return [{**row, "at": now - minutes(ago_min)} for _ in range(count)]

    with engine.begin() as tx:
        tx.execute(insert(evidence), answers(49, "agreed", 60) + answers(1, "unknown", 60))
        tx.execute(insert(evidence), answers(10, "agreed", 0) + answers(15, "unknown", 0))


def _case(engine: Engine, now: datetime) -> None:
    with engine.begin() as tx:
        tx.execute(
            insert(recon_case).values(
                reason="late_payment",
                subject_no="A1",
                channel="alipay",
                opened_at=now - minutes(60 * 25),
            )
        )


def _case_closed(engine: Engine, now: datetime) -> None:
    with engine.begin() as tx:
        tx.execute(update(recon_case).values(resolved_at=now))


SCENARIOS = {
    "everything-fails": Scenario(cause=_all_fail),
    "no-data": Scenario(cause=_old_minute, cure=_fresh_minute),
    "endpoint-fails": Scenario(cause=_one_fails, subject="acme"),
    "failures-in-row": Scenario(cause=_half_way, cure=_healthy, subject="acme"),
    "breakers-open": Scenario(cause=_ten_open, cure=_all_closed),
    "endpoint-gone": Scenario(cause=_gone, cure=_back, subject="acme"),
    "route-tripped": Scenario(cause=_route_trips, cure=_route_returns, subject="acme"),
    "endpoint-frozen": Scenario(cause=_frozen(), cure=_let_go, subject="acme"),
    "freeze-waits": Scenario(cause=_frozen("its URL changed"), cure=_let_go, subject="acme"),
    "dead-letters": Scenario(cause=_counted(dead=20)),
    "endpoint-dead-letters": Scenario(cause=_counted(dead=1), subject="acme"),
    "backlog": Scenario(cause=_six_due, cure=_sent),
    "oldest-due": Scenario(cause=_one_late, cure=_sent),
    "amount-waiting": Scenario(cause=_paid_and_silent, cure=_sent, subject="CNY"),
    "expired-leases": Scenario(cause=_counted(abandoned=10)),
    "stale-settles": Scenario(cause=_counted(stale=10)),
    "beat-silent": Scenario(cause=_beat(400), cure=_beat(0)),
    "schedule-late": Scenario(cause=_tick_waits, cure=_tick_done, subject="retention"),
    "sweep-silent": Scenario(cause=_sweep_stands, cure=_sweep_done, subject="compensation"),
    "channel-fails": Scenario(cause=_channel_silent, subject="alipay"),
    "old-cases": Scenario(cause=_case, cure=_case_closed),
}


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("desk")) as running:
        yield running


def only(book: Book, rule: str) -> Book:
    """The same book with one rule."""
    return replace(book, rules=tuple(each for each in book.rules if each.name == rule))


def test_every_shipped_rule_has_a_scenario() -> None:
    names = [line.split('"')[1] for line in SHIPPED.read_text().splitlines() if line[:4] == "name"]
    assert set(names) - {"log"} == set(SCENARIOS)


@pytest.mark.parametrize("rule", SCENARIOS)
def test_a_rule_raises_once_and_recovers_once_at_a_real_sink(
    rule: str, engine: Engine, receiver: Receiver, tmp_path: Path
) -> None:
    url = receiver.url("/200", rule=rule, on=engine.dialect.name)
    desk = webhook("desk", url, tmp_path)
    book = only(shipped(tmp_path, desk, names=["desk"]), rule)
    scenario = SCENARIOS[rule]
    now = now_of(engine)
    assert at(engine, book, now).open == 0

    scenario.cause(engine, now)
    assert at(engine, book, now).opened == 1
    assert at(engine, book, now + minutes(1)).opened == 0
    assert deliver_due(engine, book.sinks, now=now + minutes(1)).sent == 1
    assert deliver_due(engine, book.sinks, now=now + minutes(2)).sent == 0

    # Longer than any window and cool-down: what is only counted has passed by itself.
    later = now + minutes(121)
    scenario.cure(engine, later)
    assert at(engine, book, later).resolved == 1
    assert at(engine, book, later + minutes(1)).resolved == 0
    assert deliver_due(engine, book.sinks, now=later + minutes(1)).sent == 1

    [raised, resolved] = [
        _verified(record) for record in receiver.ledger() if url.endswith(record.target)
    ]
    assert raised["type"] == "paynotify.alert.raised"
    assert resolved["type"] == "paynotify.alert.resolved"
    assert (raised["alert"]["rule"], raised["alert"]["subject"]) == (rule, scenario.subject)
    assert resolved["alert"]["resolved_at"] is not None
    [row] = alerts_of(engine)
    assert row.subjects == 1


def _verified(record: Received) -> dict[str, Any]:
    assert record.body is not None
    Webhook(SECRET).verify(record.body, record.headers)
    document: dict[str, Any] = json.loads(record.body)
    return document
