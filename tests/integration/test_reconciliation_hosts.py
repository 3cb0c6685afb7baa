"""What hosts write into their tables of orders, and how little of it reconciliation trusts."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from schedules import rows
from schedules.ports import OrderState, RefundState
from tests.channel_sim import ChannelSim
from tests.order_tables import open_place
from tests.reconciling import Shop


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChannelSim]:
    with ChannelSim(tmp_path_factory.mktemp("channels")) as sim:
        yield sim


@pytest.fixture
def sim(running: ChannelSim) -> ChannelSim:
    running.forget()
    running.behave()
    return running


@pytest.fixture
def file(sim: ChannelSim) -> Path:
    return sim.config(rate_per_s=1000, timeout_s=0.5)


@pytest.fixture
def shop(engine: Engine, sim: ChannelSim, file: Path) -> Shop:
    made = Shop(engine, sim, file)
    made.merchant()
    return made


def test_a_row_with_a_time_that_is_none_stops_nobody_else(
    engine: Engine, sim: ChannelSim, file: Path
) -> None:
    place = open_place(engine, "gateway")
    spoil = text(
        "UPDATE t_pay_order SET expired_time = '0001-01-01 00:00:00' WHERE \"Pay Order\" = 'A1'"
    )
    shop = Shop(engine, sim, file, orders=place.port)  # type: ignore[arg-type]
    with engine.begin() as tx:
        placed_at = rows.now(tx) - timedelta(minutes=5)
        for no in ("A0", "A1", "A2"):
            place.add(tx, no, OrderState.PENDING, 1230, placed_at, channel="generic_json")
            place.add_refund(tx, f"R{no}", no, RefundState.PROCESSING, 100, placed_at)
        tx.execute(spoil)
    counts = shop.run()
    assert (counts["enrolled"], counts["refunds_enrolled"]) == (2, 2)


def test_a_row_spoiled_while_it_is_asked_about_becomes_a_case(
    engine: Engine, sim: ChannelSim, file: Path
) -> None:
    place = open_place(engine, "gateway")
    shop = Shop(engine, sim, file, orders=place.port)  # type: ignore[arg-type]
    with engine.begin() as tx:
        placed_at = rows.now(tx) - timedelta(minutes=5)
        for no in ("A0", "A1"):
            place.add(tx, no, OrderState.PENDING, 1230, placed_at, channel="generic_json")
            sim.set_order("generic_json", no, "unpaid", 1230)
    assert shop.run() == {"enrolled": 2, "wait": 2}
    with engine.begin() as tx:
        tx.execute(
            text("UPDATE t_pay_order SET success_time = '0001-01-01' WHERE \"Pay Order\" = 'A1'")
        )
    shop.later(seconds=61)
    assert shop.run() == {"unreadable": 1, "wait": 1}
    assert shop.cases("A1") == ["unreadable"]
    assert shop.cases("A0") == []
