"""Answers are carried out in groups: fast when all is well, and one bad order stands alone."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event, text

from schedules.answer_groups import AnswerGroups
from schedules.asking import Answered, Question
from schedules.checks import Check, Checks
from schedules.corrections import Corrector
from schedules.orders import Orders
from schedules.ports import (
    ChannelState,
    Finding,
    Order,
    OrderState,
    Refund,
    RefundFinding,
    RefundState,
)
from tests.channel_sim import ChannelSim
from tests.reconciling import Shop
from worker.client import Notifier


class Plain:
    """A port with the methods a host has to write, and no others."""

    def __init__(self) -> None:
        self._orders = Orders()
        self.add, self.add_refund = self._orders.add, self._orders.add_refund

    def get(self, tx: Connection, order_no: str) -> Order | None:
        return self._orders.get(tx, order_no)

    def unsettled(self, tx: Connection, *, after: str, limit: int) -> Sequence[Order]:
        return self._orders.unsettled(tx, after=after, limit=limit)

    def ended(self, tx: Connection, *, since: datetime, after: str, limit: int) -> Sequence[Order]:
        return self._orders.ended(tx, since=since, after=after, limit=limit)

    def move(self, tx: Connection, order: Order, to: OrderState, finding: Finding) -> bool:
        return self._orders.move(tx, order, to, finding)

    def refunds(self, tx: Connection, *, after: str, limit: int) -> Sequence[Refund]:
        return self._orders.refunds(tx, after=after, limit=limit)

    def refund(self, tx: Connection, refund_no: str) -> Refund | None:
        return self._orders.refund(tx, refund_no)

    def refunds_of(self, tx: Connection, order_no: str) -> Sequence[Refund] | None:
        return self._orders.refunds_of(tx, order_no)

    def move_refund(self, tx: Connection, refund: Refund, to: RefundState) -> bool:
        return self._orders.move_refund(tx, refund, to)


def _orders(shop: Shop, count: int, state: str = "paid") -> None:
    for number in range(count):
        shop.order(f"A{number}")
        shop.sim.set_order("generic_json", f"A{number}", state, 1230)


def _with_refunds(shop: Shop, count: int) -> None:
    for number in range(count):
        shop.order(f"B{number}", state=OrderState.PAID)
        with shop.engine.begin() as tx:
            shop.orders.add_refund(
                tx, refund_no=f"R{number}", order_no=f"B{number}", amount_minor=9
            )
        shop.sim.set_order("generic_json", f"B{number}", "paid", 1230)
        shop.sim.set_refund("generic_json", f"B{number}", f"R{number}", "success", 9)


@contextmanager
def _counted(engine: Engine) -> Iterator[Counter[str]]:
    """Count statements by their first word; a statement with many rows is one."""
    seen: Counter[str] = Counter()

    def count(_c: object, _cursor: object, statement: str, *_: object) -> None:
        seen[statement.split(maxsplit=1)[0].upper()] += 1

    event.listen(engine, "before_cursor_execute", count)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", count)


def test_a_port_that_knows_single_orders_only_is_served_all_the_same(
    engine: Engine, sim: ChannelSim, file: Path
) -> None:
    shop = Shop(engine, sim, file, orders=Plain())  # type: ignore[arg-type]
    shop.merchant()
    _orders(shop, 3)
    _with_refunds(shop, 2)
    assert shop.ask() == {"paid": 3, "refund_moved": 2}
    assert [shop.state(no) for no in ("A0", "B1")] == [OrderState.PAID, OrderState.PARTIAL_REFUND]
    assert [len(shop.told(no)) for no in ("A0", "A1", "A2", "B0", "B1")] == [1] * 5


def _answers(shop: Shop) -> list[Answered]:
    """Everything due was paid, or refunded, in full."""
    checks = Checks(lambda: 0.0)
    with shop.engine.begin() as tx:
        due = checks.due(tx, "generic_json", now=shop.now(tx), limit=100)
        return [_answer(shop, tx, seen) for seen in due]


def _answer(shop: Shop, tx: Connection, seen: Check) -> Answered:
    order = shop.orders.get(tx, seen.order_no)
    assert order is not None
    refund = shop.orders.refund(tx, seen.subject_no)
    question = Question(check=seen, order=order, refund=refund, policy=shop.policy)
    if refund is None:
        paid = Finding(state=ChannelState.PAID, amount_minor=order.amount_minor, currency="CNY")
        return Answered(question=question, finding=paid, route="main")
    back = RefundFinding(
        state=RefundState.SUCCESS, amount_minor=refund.amount_minor, currency="CNY"
    )
    return Answered(question=question, refund_finding=back, route="main")


def _groups(shop: Shop) -> AnswerGroups:
    corrector = Corrector(shop.orders, Checks(lambda: 0.0), Notifier())
    return AnswerGroups(shop.engine, corrector, shop.now, most=50)


def test_many_answers_take_no_more_statements_than_one(shop: Shop) -> None:
    _orders(shop, 25)
    shop.run()
    shop.later(seconds=61)
    groups = _groups(shop)
    first, *others = _answers(shop)
    with _counted(shop.engine) as one:
        assert groups.carry_out([first]) == {"paid": 1}
    with _counted(shop.engine) as many:
        assert groups.carry_out(others) == {"paid": 24}
    assert many == one
    # Once more: somebody else was first.
    assert groups.carry_out([first, *others]) == {"overtaken": 25}
    for number in range(25):
        [row] = shop.evidence(f"A{number}")
        assert row.done.startswith("pending -> paid; told by ")
        assert len(shop.told(f"A{number}")) == 1


def test_an_order_its_table_refuses_takes_no_other_along(shop: Shop) -> None:
    _orders(shop, 9)
    shop.order("Z", state=OrderState.PAID, channel="epay")
    shop.overwrite("Z", OrderState.PAID, channel_txn_no="T1")
    with shop.engine.begin() as tx:
        tx.execute(
            text(
                "CREATE UNIQUE INDEX once ON paynotify_payment_order (channel_txn_no) "
                "WHERE channel_txn_no = 'T1'"
            )
        )
    shop.sim.set_order("generic_json", "A4", "paid", 1230, txn_no="T1")
    assert shop.ask() == {"paid": 8, "unreadable": 1}
    assert shop.state("A4") is OrderState.PENDING
    assert (shop.cases("A4"), shop.told("A4")) == (["unreadable"], [])
    assert shop.check("A4").unknowns == 1
    for number in (0, 3, 5, 8):
        assert len(shop.told(f"A{number}")) == 1
        assert len(shop.evidence(f"A{number}")) == 1


def test_an_order_that_its_host_holds_is_asked_about_again_soon(
    postgres_engine: Engine, sim: ChannelSim, file: Path
) -> None:
    # A SQLite file is held as a whole.
    shop = Shop(postgres_engine, sim, file)
    shop.merchant()
    _orders(shop, 5)
    shop.run()
    shop.later(seconds=61)
    with shop.engine.connect() as host, host.begin():
        host.execute(text("SELECT 1 FROM paynotify_payment_order WHERE order_no = 'A2' FOR UPDATE"))
        assert shop.run() == {"paid": 4, "busy": 1}
    assert (shop.state("A2"), shop.cases("A2"), shop.evidence("A2")) == (OrderState.PENDING, [], [])
    shop.later(minutes=2)
    assert shop.run() == {"paid": 1}


def test_refunds_of_one_order_are_carried_out_one_after_the_other(shop: Shop) -> None:
    shop.order(state=OrderState.PAID)
    with shop.engine.begin() as tx:
        for number in range(3):
            shop.orders.add_refund(tx, refund_no=f"R{number}", order_no="A7", amount_minor=410)
    shop.run()
    shop.later(seconds=61)
    answers = _answers(shop)
    assert _groups(shop).carry_out(answers) == {"refund_moved": 3}
    assert shop.state() is OrderState.REFUNDED
    assert [told["amount"] for told in shop.told()] == ["4.10"] * 3
    assert shop.cases() == []


def test_everyone_is_told_though_one_merchant_is_not_there(
    engine: Engine, sim: ChannelSim, file: Path
) -> None:
    shop = Shop(engine, sim, file)
    shop.merchant()
    fields: list[dict[str, Any]] = [{}, {"merchant": "nobody"}, {"notify_url": "ftp://x"}, {}]
    for number, more in enumerate(fields):
        shop.order(f"A{number}", **more)
        sim.set_order("generic_json", f"A{number}", "paid", 1230)
    assert shop.ask() == {"paid": 4}
    assert [len(shop.told(f"A{number}")) for number in range(4)] == [1, 0, 0, 1]
    assert [shop.cases(f"A{number}") for number in range(4)] == [
        [],
        ["not_notified"],
        ["not_notified"],
        [],
    ]
