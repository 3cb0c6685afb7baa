"""Every row of the decision table, against a real simulated channel, on both databases."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from schedules import rows
from schedules.deadline import Deadline
from schedules.decisions import LatePayment, Policy
from schedules.jobs import Jobs
from schedules.ports import OrderState
from schedules.route_book import RouteBook
from tests.channel_sim import ChannelSim
from tests.office import office
from tests.reconciling import Shop
from worker.tables_orders import payment_order

FILE = "channels.toml"


def test_a_paid_order_nobody_told_us_of_becomes_paid_and_the_merchant_is_told_once(
    shop: Shop,
) -> None:
    shop.order()
    shop.sim.set_order("generic_json", "A7", "paid", 1230, txn_no="T1")
    assert shop.run() == {"enrolled": 1}
    assert not shop.sim.asked(), "nobody asks in the first minute"
    shop.later(seconds=61)
    assert shop.run() == {"paid": 1}
    assert shop.state() is OrderState.PAID
    [payload] = shop.told()
    assert payload["amount_minor"] == 1230
    assert payload["amount"] == "12.30"
    assert (payload["event"], payload["channel_txn_no"]) == ("payment.succeeded", "T1")
    [evidence] = shop.evidence()
    assert evidence.decision == "paid"
    assert evidence.done.startswith("pending -> paid; told by ")
    assert len(evidence.reply_sha256) == 64
    assert evidence.route == "main"
    assert shop.check().finished_because == "paid"
    shop.later(days=1)
    assert shop.run() == {}
    assert len(shop.told()) == 1
    assert shop.cases(every=True) == []


@pytest.mark.parametrize(
    ("channel", "notify_url"),
    [
        ("alipay", None),
        ("wechat_v3", None),
        ("unionpay", None),
        ("stripe", None),
        ("epay", None),
        ("generic_json", "https://merchant.com/order/7"),
    ],
)
def test_every_kind_of_channel_is_believed(
    shop: Shop, channel: str, notify_url: str | None
) -> None:
    order_no = "A7000000"
    shop.order(order_no, channel=channel, notify_url=notify_url)
    shop.sim.set_order(channel, order_no, "paid", 1230)
    if channel == "stripe":
        shop.overwrite(order_no, OrderState.PENDING, channel_txn_no=_intent(shop, order_no))
    shop.ask()
    assert shop.state(order_no) is OrderState.PAID, shop.evidence(order_no)
    assert len(shop.told(order_no)) == 1


def _intent(shop: Shop, order_no: str) -> str:
    shop.sim.set_order("stripe", order_no, "paid", 1230, txn_no="pi_7")
    return "pi_7"


@pytest.mark.parametrize(
    ("kind", "reason"), [("amount", "amount_mismatch"), ("currency", "currency_mismatch")]
)
def test_other_money_than_was_asked_for_is_a_case_once_and_heals_when_it_was_a_lie(
    shop: Shop, kind: str, reason: str
) -> None:
    shop.order()
    shop.sim.set_order("generic_json", "A7", "paid", 1230)
    shop.sim.misbehave(kind)  # type: ignore[arg-type]
    shop.ask()
    shop.later(minutes=2)
    shop.run()
    assert shop.state() is OrderState.PENDING
    assert shop.told() == []
    assert shop.cases() == [reason]
    assert [row.decision for row in shop.evidence()] == ["disagreed"] * 2
    shop.sim.behave()
    shop.later(minutes=2)
    shop.run()
    assert shop.state() is OrderState.PAID
    assert shop.cases() == []
    assert len(shop.told()) == 1


def test_an_unpaid_order_is_asked_about_by_its_windows(shop: Shop) -> None:
    shop.order()
    shop.sim.set_order("generic_json", "A7", "unpaid", 1230)
    shop.run()
    for minutes in range(12):
        shop.later(seconds=61)
        shop.run()
        assert shop.check().checks == min(minutes + 1, 10)
    assert shop.state() is OrderState.PENDING
    assert (shop.told(), shop.cases()) == ([], [])


def test_an_order_the_channel_does_not_know_yet_is_waited_for(shop: Shop) -> None:
    shop.order()
    assert shop.ask() == {"wait": 1}
    assert shop.state() is OrderState.PENDING


def test_an_expired_order_is_closed_at_the_channel_and_here(shop: Shop) -> None:
    shop.order(channel="wechat_v3", expires_in_s=30)
    shop.sim.set_order("wechat_v3", "A7", "unpaid", 1230)
    shop.ask()
    assert shop.sim.state("wechat_v3", "A7") == "closed"
    assert shop.state() is OrderState.CLOSED
    assert [one.what for one in shop.sim.asked()] == ["query", "close", "query"]
    assert '"before_close":{"state":"unpaid"' in shop.evidence()[0].theirs
    assert shop.told() == [], "merchants are told of payments, unless they ask for more"


def test_an_order_paid_while_it_was_being_closed_is_paid(shop: Shop) -> None:
    shop.order(channel="wechat_v3", expires_in_s=30)
    shop.sim.set_order("wechat_v3", "A7", "unpaid", 1230)
    shop.sim.misbehave("paid_on_close")
    shop.ask()
    assert shop.state() is OrderState.PAID
    assert len(shop.told()) == 1


def test_an_order_a_channel_cannot_close_is_closed_here_and_watched_for_late_payment(
    shop: Shop,
) -> None:
    shop.order(expires_in_s=30)
    shop.sim.set_order("generic_json", "A7", "unpaid", 1230)
    shop.ask()
    assert shop.state() is OrderState.PENDING
    shop.later(minutes=12)
    shop.run()
    assert shop.state() is OrderState.CLOSED
    shop.sim.set_order("generic_json", "A7", "paid", 1230)
    shop.later(minutes=12)
    shop.run()
    assert shop.state() is OrderState.CLOSED
    assert shop.cases() == ["late_payment"]
    assert shop.told() == []


@pytest.mark.parametrize(
    ("theirs", "ours"), [("closed", OrderState.CLOSED), ("failed", OrderState.FAILED)]
)
def test_what_ended_at_the_channel_ends_here(shop: Shop, theirs: str, ours: OrderState) -> None:
    shop.order()
    shop.sim.set_order("generic_json", "A7", theirs, 1230)
    shop.ask()
    assert shop.state() is ours
    assert shop.check().finished_at is not None


@pytest.mark.parametrize("ours", [OrderState.CLOSED, OrderState.FAILED])
def test_a_late_payment_is_a_case_for_a_person(shop: Shop, ours: OrderState) -> None:
    shop.order()
    shop.run()
    shop.overwrite("A7", ours)
    shop.sim.set_order("generic_json", "A7", "paid", 1230)
    shop.later(seconds=61)
    shop.run()
    assert shop.state() is ours
    assert (shop.cases(), shop.told()) == (["late_payment"], [])


@pytest.mark.parametrize("ours", [OrderState.CLOSED, OrderState.FAILED])
def test_by_policy_a_late_payment_is_promoted(shop: Shop, ours: OrderState) -> None:
    shop.policy = Policy(late_payment=LatePayment.PROMOTE)
    shop.order()
    shop.run()
    shop.overwrite("A7", ours)
    shop.sim.set_order("generic_json", "A7", "paid", 1230)
    shop.later(seconds=61)
    shop.run()
    assert shop.state() is OrderState.PAID
    assert len(shop.told()) == 1
    assert shop.cases() == []
    assert shop.cases(every=True) == ["late_payment"]


@pytest.mark.parametrize("theirs", ["unpaid", "closed", "failed", "not_found"])
def test_a_paid_order_is_never_taken_back(shop: Shop, theirs: str) -> None:
    shop.order(expires_in_s=1)
    shop.run()
    shop.overwrite("A7", OrderState.PAID)
    shop.sim.set_order("generic_json", "A7", theirs, 1230)
    for _ in range(3):
        shop.later(minutes=2)
        shop.run()
    assert shop.state() is OrderState.PAID
    assert shop.cases() == ["status_mismatch"]
    shop.sim.set_order("generic_json", "A7", "finished", 1230)
    shop.later(minutes=2)
    shop.run()
    assert shop.cases() == []
    assert shop.check().finished_because == "agreed"


def test_a_refund_at_the_channel_that_we_do_not_know_is_a_case(shop: Shop) -> None:
    shop.order()
    shop.run()
    shop.overwrite("A7", OrderState.PAID)
    shop.sim.set_order("alipay", "A7", "paid", 1230)
    shop.sim.set_order("generic_json", "A7", "refunded", 1230)
    shop.later(minutes=2)
    shop.run()
    assert shop.state() is OrderState.PAID
    assert shop.cases() == ["refund_mismatch"]


@pytest.mark.parametrize(
    "kind", ["stall", "500", "garbage", "huge", "reset", "other_order", "redirect", "drip"]
)
def test_an_answer_that_is_none_changes_nothing(shop: Shop, kind: str) -> None:
    shop.order(expires_in_s=1)
    shop.sim.set_order("generic_json", "A7", "paid", 1230)
    shop.sim.misbehave(kind)  # type: ignore[arg-type]
    assert shop.ask() == {"unknown": 1}
    assert shop.state() is OrderState.PENDING
    assert (shop.told(), shop.cases()) == ([], [])
    assert shop.check().unknowns == 1
    assert shop.evidence()[0].done == ""


@pytest.mark.parametrize("channel", ["alipay", "wechat_v3", "unionpay"])
def test_a_bad_signature_changes_nothing(shop: Shop, channel: str) -> None:
    shop.order("A7000000", channel=channel)
    shop.sim.set_order(channel, "A7000000", "paid", 1230)
    shop.sim.misbehave("bad_signature")
    assert shop.ask() == {"unknown": 1}
    assert shop.state("A7000000") is OrderState.PENDING


def test_silence_is_asked_into_later_and_later_and_becomes_a_case(shop: Shop) -> None:
    shop.order(channel="nobody")
    shop.run()
    for _ in range(60):
        shop.later(minutes=5)
        shop.run()
    row = shop.check()
    assert shop.cases() == ["unanswered"]
    assert 8 <= row.checks <= 12
    assert shop.state() is OrderState.PENDING


def test_after_seven_days_an_order_is_a_dead_case_and_asked_about_no_more(shop: Shop) -> None:
    shop.order()
    shop.sim.set_order("generic_json", "A7", "unpaid", 1230)
    shop.ask(days=8)
    assert shop.cases() == ["too_old"]
    assert shop.check().finished_because == "too_old"
    asked = len(shop.sim.asked())
    shop.ask(days=1)
    assert len(shop.sim.asked()) == asked


def test_refunds_are_polled_until_they_end_and_counted_at_their_order(shop: Shop) -> None:
    shop.order()
    shop.overwrite("A7", OrderState.PAID)
    with shop.engine.begin() as tx:
        shop.orders.add_refund(tx, refund_no="R1", order_no="A7", amount_minor=230)
    shop.sim.set_order("generic_json", "A7", "paid", 1230)
    shop.sim.set_refund("generic_json", "A7", "R1", "processing", 230)
    assert shop.ask() == {"wait": 1}
    shop.sim.set_refund("generic_json", "A7", "R1", "success", 230)
    shop.later(seconds=61)
    assert shop.run() == {"refund_moved": 1}
    assert shop.state() is OrderState.PARTIAL_REFUND
    [payload] = shop.told()
    assert (payload["event"], payload["amount"]) == ("refund.succeeded", "2.30")
    assert shop.check("R1").finished_at is not None


def test_refunds_of_more_than_was_paid_are_a_case(shop: Shop) -> None:
    shop.order()
    shop.overwrite("A7", OrderState.PAID)
    with shop.engine.begin() as tx:
        shop.orders.add_refund(tx, refund_no="R1", order_no="A7", amount_minor=230)
    shop.overwrite("A7", OrderState.PARTIAL_REFUND, refunded_minor=1100)
    shop.sim.set_order("generic_json", "A7", "paid", 1230)
    shop.sim.set_refund("generic_json", "A7", "R1", "success", 230)
    assert shop.ask() == {"refund_moved": 1}
    assert shop.state() is OrderState.REFUNDED
    assert shop.cases("R1") == ["refund_mismatch"]


def test_an_order_that_changed_while_the_channel_was_asked_is_not_judged(
    engine: Engine, sim: ChannelSim, file: Path
) -> None:
    sim.config(rate_per_s=0.01, timeout_s=0.5, channels=["generic_json"], file="slow.toml")
    waits: list[float] = []

    def callback_comes_in(seconds: float) -> None:
        waits.append(seconds)
        asker.overwrite("A7", OrderState.PAID)

    asker = Shop(engine, sim, file.parent / "slow.toml", wait=callback_comes_in, budget_s=1000.0)
    asker.order()
    sim.set_order("generic_json", "A7", "unpaid", 1230)
    asker.run()
    asker.later(seconds=61)
    with engine.begin() as tx:
        now = asker.now(tx)
    # Somebody else was promised the present moment: our question waits.
    RouteBook(engine).reserve("generic_json", 1, 0.01, now=now)
    assert asker.run() == {"changed_meanwhile": 1}
    assert len(waits) == 1
    assert (asker.cases(), asker.evidence()) == ([], [])


def test_the_job_is_made_of_the_files_in_force(
    engine: Engine, sim: ChannelSim, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file.parent / "paynotify.toml").write_text("")
    monkeypatch.setenv("PAYNOTIFY_CONFIG", str(file.parent / "paynotify.toml"))
    shop = Shop(engine, sim, file)
    shop.merchant()
    with engine.begin() as tx:
        shop.orders.add(
            tx,
            order_no="A7",
            merchant="m-1",
            channel="generic_json",
            amount_minor=1230,
            currency="CNY",
        )
        tx.execute(payment_order.update().values(created_at=rows.now(tx) - timedelta(minutes=5)))
    sim.set_order("generic_json", "A7", "paid", 1230)
    with office(engine.url.render_as_string(hide_password=False), start=False) as working:
        jobs = Jobs(working.desk, "test")
        said = jobs.run("status-reconciliation", {}, Deadline(30))
    assert said == "status_reconciliation: 3 batches, enrolled 1, paid 1"
    assert shop.state() is OrderState.PAID
