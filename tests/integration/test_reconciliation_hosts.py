"""What hosts write into their tables of orders, and how little of it reconciliation trusts."""

from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine, text

from schedules import rows
from schedules.ports import ChannelState, Finding, OrderState, RefundState
from schedules.route_book import RouteBook
from tests.channel_sim import ChannelSim
from tests.order_tables import open_place
from tests.reconciling import Shop
from worker import tables_orders


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


def _pay_at(shop: Shop, channel: str) -> None:
    """Let the payer of A7 choose a channel."""
    table = tables_orders.payment_order
    with shop.engine.begin() as tx:
        tx.execute(table.update().values(channel=channel, updated_at=rows.now(tx)))


def test_a_payer_who_changes_the_channel_is_believed_at_the_new_one(shop: Shop) -> None:
    shop.order(channel="epay", expires_in_s=200)
    shop.sim.set_order("epay", "A7", "unpaid", 1230)
    assert shop.ask() == {"wait": 1}
    _pay_at(shop, "generic_json")
    shop.sim.set_order("generic_json", "A7", "paid", 1230, txn_no="T1")
    shop.later(minutes=10)
    assert shop.run() == {"channel_changed": 1}
    assert shop.run() == {"paid": 1}
    assert shop.state() is OrderState.PAID
    assert [told["event"] for told in shop.told()] == ["payment.succeeded"]
    assert shop.evidence()[-1].channel == "generic_json"


def test_a_refund_is_asked_about_where_its_order_is(shop: Shop) -> None:
    shop.order(channel="epay", state=OrderState.PAID)
    with shop.engine.begin() as tx:
        shop.orders.add_refund(tx, refund_no="R1", order_no="A7", amount_minor=230)
    shop.run()
    _pay_at(shop, "generic_json")
    shop.sim.set_order("generic_json", "A7", "paid", 1230)
    shop.sim.set_refund("generic_json", "A7", "R1", "success", 230)
    shop.later(seconds=61)
    assert shop.run() == {"channel_changed": 1}
    assert shop.run() == {"refund_moved": 1}
    assert shop.check("R1").channel == "generic_json"


def test_the_old_channels_answer_does_not_close_an_order_that_left_while_it_was_asked(
    engine: Engine, sim: ChannelSim, file: Path
) -> None:
    sim.config(rate_per_s=0.01, timeout_s=0.5, channels=["generic_json"], file="slow.toml")
    slow = file.parent / "slow.toml"

    def leaves(_: float) -> None:
        _pay_at(asker, "epay")

    asker = Shop(engine, sim, slow, wait=leaves, budget_s=1000.0)
    asker.order()
    sim.set_order("generic_json", "A7", "closed", 1230)
    asker.run()
    asker.later(seconds=61)
    with engine.begin() as tx:
        now = asker.now(tx)
    # Somebody else was promised the present moment: our question waits.
    RouteBook(engine).reserve("generic_json", 1, 0.01, now=now)
    assert asker.run() == {"channel_changed": 1}
    assert asker.state() is OrderState.PENDING
    assert (asker.check().channel, asker.evidence()) == ("epay", [])


def test_an_order_that_left_its_channel_is_not_moved_on_by_what_was_read_before(
    shop: Shop,
) -> None:
    seen = shop.order(channel="epay")
    _pay_at(shop, "generic_json")
    with shop.engine.begin() as tx:
        assert not shop.orders.move(tx, seen, OrderState.CLOSED, Finding(state=ChannelState.CLOSED))


def test_an_order_opened_again_begins_anew_at_the_channel_it_is_at(shop: Shop) -> None:
    shop.order(channel="epay")
    shop.sim.set_order("epay", "A7", "paid", 1230)
    shop.ask()
    assert shop.check().finished_because == "paid"
    _pay_at(shop, "generic_json")
    with shop.engine.begin() as tx:
        placed_at = rows.now(tx) + shop.ahead
    shop.overwrite("A7", OrderState.PENDING, created_at=placed_at)
    assert shop.run() == {"enrolled": 1}
    check = shop.check()
    assert (check.channel, check.placed_at) == ("generic_json", placed_at)
    assert check.finished_at is None


def _rows_at(shop: Shop, channels: list[str], **fields: object) -> None:
    """Write an order an hour old at each of these, as a host would."""
    with shop.engine.begin() as tx:
        at = rows.now(tx) - timedelta(hours=1)
        values = {"merchant": "m-1", "amount_minor": 1230, "currency": "CNY", "state": "pending"}
        tx.execute(
            tables_orders.payment_order.insert(),
            [
                {
                    "order_no": f"A{number:04}",
                    "channel": channel,
                    "created_at": at,
                    "updated_at": at,
                    **values,
                    **fields,
                }
                for number, channel in enumerate(channels)
            ],
        )


def _enrolled(shop: Shop) -> str:
    """Enrol everything; returns the cursor that begins the asking."""
    cursor = ""
    while not cursor.startswith("ask:"):
        cursor = shop.sweep.step(cursor).cursor
    return cursor


def test_a_channels_name_marks_no_other_channel_as_done(shop: Shop) -> None:
    _rows_at(shop, ["generic_json"] * 60 + ["epay"] * 60 + ['x,generic_json"]'])
    for number in range(120):
        channel = "generic_json" if number < 60 else "epay"
        shop.sim.set_order(channel, f"A{number:04}", "paid", 1230)
    assert shop.run()["paid"] == 120


def test_a_step_is_bounded_however_many_channels_the_host_names(shop: Shop) -> None:
    _rows_at(shop, [f"ch{number:03}" for number in range(160)] + ["generic_json"])
    shop.sim.set_order("generic_json", "A0160", "paid", 1230)
    cursor, paid = _enrolled(shop), 0
    asked = []
    while cursor:
        step = shop.sweep.step(cursor)
        asked.append(sum(step.counts.values()))
        paid += step.counts.get("paid", 0)
        cursor = step.cursor
        assert len(cursor) < 1000
    assert (sum(asked), paid) == (161, 1)
    assert max(asked) <= 25


def test_one_step_asks_no_more_than_its_most_over_all_channels(
    engine: Engine, sim: ChannelSim
) -> None:
    # Nothing hangs here: what takes long on a busy machine must not trip a channel's route.
    shop = Shop(engine, sim, sim.config(rate_per_s=1000, timeout_s=20, file="patient.toml"))
    shop.merchant()
    _rows_at(shop, ["generic_json", "epay", "alipay"] * 20)
    cursor, asked = _enrolled(shop), []
    while cursor:
        step = shop.sweep.step(cursor)
        asked.append(sum(step.counts.values()))
        cursor = step.cursor
    assert asked[:3] == [24, 24, 12]
    assert sum(asked) == 60


def test_a_cursor_that_cannot_be_read_begins_the_asking_anew(shop: Shop) -> None:
    _rows_at(shop, ["generic_json"])
    shop.sim.set_order("generic_json", "A0000", "paid", 1230)
    _enrolled(shop)
    for written in ("a,b", "7", "[]", ""):
        assert shop.sweep.step(f"ask:{written}").counts in ({"paid": 1}, {})
    assert shop.state("A0000") is OrderState.PAID
