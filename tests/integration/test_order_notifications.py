"""Paid orders nobody was told of: the merchant is told, once, whoever else tells it."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from schedules.ports import OrderState
from tests.channel_sim import ChannelSim
from tests.reconciling import Shop
from worker.client import Notifier


@pytest.fixture
def file(sim: ChannelSim) -> Path:
    return sim.config(channels=["generic_json"], rate_per_s=1000, timeout_s=0.5)


def test_a_correction_whose_merchant_cannot_be_told_stands_and_is_told_later(
    engine: Engine, sim: ChannelSim, file: Path
) -> None:
    shop = Shop(engine, sim, file)
    shop.order()
    sim.set_order("generic_json", "A7", "paid", 1230)
    shop.ask()
    assert shop.state() is OrderState.PAID
    assert shop.cases() == ["not_notified"]
    shop.merchant()
    shop.later(minutes=10)
    assert shop.run(shop.compensation) == {"told": 1, "orders": 1}
    assert len(shop.told()) == 1
    assert shop.cases() == []
    shop.later(minutes=61)
    assert shop.run(shop.compensation) == {"orders": 1}
    assert len(shop.told()) == 1


def test_compensation_looks_far_back_once_an_hour_and_else_at_what_is_new(shop: Shop) -> None:
    shop.order("A7")
    shop.order("B8")
    shop.overwrite("A7", OrderState.PAID)
    shop.later(minutes=10)
    assert shop.run(shop.compensation) == {"orders": 1, "told": 1}
    shop.later(minutes=20)
    assert shop.run(shop.compensation) == {}, "seen before"
    shop.overwrite("B8", OrderState.PAID, updated_at=shop.age("A7"))
    assert shop.run(shop.compensation) == {}
    shop.later(minutes=41)
    assert shop.run(shop.compensation) == {"orders": 2, "told": 1}


def test_an_order_whose_host_told_the_merchant_in_its_own_words_is_told_no_more(
    shop: Shop,
) -> None:
    shop.order()
    shop.overwrite("A7", OrderState.PAID)
    with shop.engine.begin() as tx:
        Notifier().enqueue(
            tx,
            merchant="m-1",
            event_type="payment.succeeded",
            event_key="theirs-1",
            order_no="A7",
            payload={"ok": True},
        )
    shop.later(minutes=10)
    assert shop.run(shop.compensation) == {"orders": 1}
    assert len(shop.told()) == 1


def test_a_merchant_told_by_its_host_under_our_key_is_not_told_again(shop: Shop) -> None:
    shop.order()
    with shop.engine.begin() as tx:
        Notifier().enqueue(
            tx,
            merchant="m-1",
            event_type="payment.succeeded",
            event_key="A7:paid",
            order_no="A7",
            payload={"ok": True},
        )
    shop.sim.set_order("generic_json", "A7", "paid", 1230)
    shop.ask()
    assert shop.state() is OrderState.PAID
    assert shop.told() == [{"ok": True}]
    assert "told before by notification" in shop.evidence()[0].done


def test_what_another_merchant_was_told_of_the_same_number_does_not_count(shop: Shop) -> None:
    shop.merchant("m-2")
    with shop.engine.begin() as tx:
        for key in ("theirs-1", "A7:paid"):
            Notifier().enqueue(
                tx,
                merchant="m-2",
                event_type="payment.succeeded",
                event_key=key,
                order_no="A7",
                payload={"ok": True},
            )
    shop.order()
    shop.overwrite("A7", OrderState.PAID)
    shop.later(minutes=10)
    assert shop.run(shop.compensation) == {"orders": 1, "told": 1}
    assert [told.get("event") for told in shop.told()] == [None, None, "payment.succeeded"]


@pytest.mark.parametrize("state", [OrderState.REFUNDED, OrderState.PAID])
def test_an_order_whose_money_went_back_is_not_told_as_paid_but_a_case(
    shop: Shop, state: OrderState
) -> None:
    shop.order()
    shop.overwrite("A7", state, refunded_minor=1230)
    shop.later(minutes=10)
    assert shop.run(shop.compensation) == {"orders": 1, "given_back": 1}
    assert shop.told() == []
    assert shop.cases() == ["not_notified"]
