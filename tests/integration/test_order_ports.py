"""One promise, three tables, two databases: what every OrderPort does."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from schedules.orders import Orders
from schedules.ports import ChannelState, Finding, Order, OrderState, RefundState
from tests.order_tables import GATEWAY, SHOP, Place, mapped, open_place
from worker.errors import BadFieldError, NotFoundError, SettingsError, WrongStateError

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
PAID_AT = datetime(2026, 1, 31, 12, 3, tzinfo=UTC)
PAID = Finding(state=ChannelState.PAID, channel_txn_no="2026T1", paid_at=PAID_AT)


@pytest.fixture(params=["own", "gateway", "shop"])
def place(request: pytest.FixtureRequest, engine: Engine) -> Place:
    return open_place(engine, request.param)


def got(engine: Engine, place: Place, no: str = "A7") -> Order:
    with engine.begin() as tx:
        found = place.port.get(tx, no)
    assert found is not None
    return found


def add(
    engine: Engine,
    place: Place,
    no: str = "A7",
    state: OrderState = OrderState.PENDING,
    minor: int = 1230,
    **more: object,
) -> Order:
    with engine.begin() as tx:
        place.add(tx, no, state, minor, NOON, **more)
    return got(engine, place, no)


def test_an_order_is_read_exactly_as_its_host_has_it(engine: Engine, place: Place) -> None:
    later = NOON + timedelta(minutes=30)
    found = add(engine, place, expires_at=later, notify_url="https://m.com/cb")
    assert found == Order(
        order_no="A7",
        merchant="m-1",
        channel="wechat",
        amount_minor=1230,
        currency="CNY",
        state=OrderState.PENDING,
        placed_at=NOON,
        expires_at=later,
        notify_url="https://m.com/cb",
        changed_at=NOON,
    )
    with engine.begin() as tx:
        assert place.port.get(tx, "nobody") is None


@pytest.mark.parametrize("minor", [1, 10, 199, 100_000_000_01])
def test_an_amount_is_never_a_float(engine: Engine, place: Place, minor: int) -> None:
    if place.name == "shop":
        minor = min(minor, 10**11)
    assert add(engine, place, minor=minor).amount_minor == minor


@pytest.mark.parametrize("state", list(OrderState))
def test_every_state_has_its_place(engine: Engine, place: Place, state: OrderState) -> None:
    assert add(engine, place, state=state).state is state


def test_unsettled_orders_come_page_by_page_and_only_they(engine: Engine, place: Place) -> None:
    for no, state in zip("ABCDEFG", OrderState, strict=True):
        add(engine, place, f"{no}1", state)
        add(engine, place, f"{no}2", state)
    with engine.begin() as tx:
        first = place.port.unsettled(tx, after="", limit=3)
        rest = place.port.unsettled(tx, after=first[-1].order_no, limit=3)
    assert [order.order_no for order in first] == ["A1", "A2", "B1"]
    assert [order.order_no for order in rest] == ["B2"]


def test_ended_orders_come_by_the_time_they_changed(engine: Engine, place: Place) -> None:
    for place_no, no in enumerate(["C", "A", "B", "D"]):
        at = NOON + timedelta(minutes=place_no // 2)
        add(engine, place, no, OrderState.PAID, changed_at=at)
    add(engine, place, "E", OrderState.REFUNDED, changed_at=NOON + timedelta(minutes=9))
    add(engine, place, "F", OrderState.PENDING, changed_at=NOON + timedelta(minutes=9))
    with engine.begin() as tx:
        since = NOON - timedelta(seconds=1)
        found = place.port.ended(tx, since=since, after="", limit=2)
        assert [order.order_no for order in found] == ["A", "C"]
        last = found[-1]
        assert last.changed_at is not None
        rest = place.port.ended(tx, since=last.changed_at, after=last.order_no, limit=9)
    assert [order.order_no for order in rest] == ["B", "D", "E"]


@pytest.mark.parametrize(
    "form",
    [
        *("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f"),
        *("%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S.%f+08:00"),
    ],
)
def test_times_in_text_are_walked_through_in_whatever_form_they_stand(
    sqlite_engine: Engine, form: str
) -> None:
    place = open_place(sqlite_engine, "gateway")
    for number in range(9):
        add(sqlite_engine, place, f"A{8 - number}", OrderState.PAID)
        at = NOON + timedelta(seconds=number // 3, hours=8)
        with sqlite_engine.begin() as tx:
            values = {"at": at.strftime(form), "no": f"A{8 - number}"}
            tx.execute(
                text('UPDATE t_pay_order SET updated_at = :at WHERE "Pay Order" = :no'), values
            )
    since, after, seen = NOON - timedelta(seconds=1), "", []
    with sqlite_engine.begin() as tx:
        while found := place.port.ended(tx, since=since, after=after, limit=2):
            seen += [one.order_no for one in found]
            assert len(seen) <= 9
            assert found[-1].changed_at is not None
            since, after = found[-1].changed_at, found[-1].order_no
        assert place.port.ended(tx, since=NOON + timedelta(seconds=9), after="", limit=2) == []
    assert seen == ["A6", "A7", "A8", "A3", "A4", "A5", "A0", "A1", "A2"]


def test_a_payment_is_written_with_the_channels_time_and_number(
    engine: Engine, place: Place
) -> None:
    order = add(engine, place)
    with engine.begin() as tx:
        assert place.port.move(tx, order, OrderState.PAID, PAID)
    found = got(engine, place)
    assert (found.state, found.paid_at, found.channel_txn_no) == (
        OrderState.PAID,
        PAID_AT,
        "2026T1",
    )
    assert found.changed_at is not None
    assert found.changed_at > NOON + timedelta(days=1)


def test_an_order_that_changed_meanwhile_is_left_alone(engine: Engine, place: Place) -> None:
    order = add(engine, place)
    with engine.begin() as tx:
        place.overwrite(tx, "A7", OrderState.CLOSED)
        assert not place.port.move(tx, order, OrderState.PAID, PAID)
    assert got(engine, place).state is OrderState.CLOSED
    with engine.begin() as tx:
        other = replace(order, state=OrderState.CLOSED, amount_minor=1)
        assert not place.port.move(tx, other, OrderState.PAID, PAID)


def test_a_move_that_is_rolled_back_never_was(engine: Engine, place: Place) -> None:
    order = add(engine, place)
    with engine.connect() as connection, connection.begin() as tx:
        assert place.port.move(connection, order, OrderState.PAID, PAID)
        tx.rollback()
    assert got(engine, place) == order


@pytest.mark.parametrize("to", [OrderState.CLOSED, OrderState.FAILED, OrderState.PENDING])
def test_nothing_leads_away_from_paid(engine: Engine, place: Place, to: OrderState) -> None:
    order = add(engine, place, state=OrderState.PAID)
    with engine.begin() as tx, pytest.raises(WrongStateError, match="order A7 is paid"):
        place.port.move(tx, order, to, Finding(state=ChannelState.CLOSED))
    assert got(engine, place).state is OrderState.PAID


def test_refunds_are_found_moved_once_and_counted_at_their_order(
    engine: Engine, place: Place
) -> None:
    add(engine, place, state=OrderState.PAID)
    with engine.begin() as tx:
        for no, minor in (("R1", 230), ("R2", 1000)):
            place.add_refund(tx, no, "A7", RefundState.PROCESSING, minor, NOON)
        place.add_refund(tx, "R3", "A7", RefundState.FAILED, 7, NOON)
    with engine.begin() as tx:
        first, second = place.port.refunds(tx, after="", limit=9)
        assert (first.refund_no, first.amount_minor, first.placed_at) == ("R1", 230, NOON)
        assert place.port.move_refund(tx, first, RefundState.SUCCESS)
        assert not place.port.move_refund(tx, first, RefundState.SUCCESS)
    order = got(engine, place)
    assert (order.state, order.refunded_minor) == (OrderState.PARTIAL_REFUND, 230)
    with engine.begin() as tx:
        assert place.port.move_refund(tx, second, RefundState.SUCCESS)
        assert place.port.refunds(tx, after="", limit=9) == []
        states = {one.refund_no: one.state for one in place.port.refunds_of(tx, "A7") or ()}
    order = got(engine, place)
    assert (order.state, order.refunded_minor) == (OrderState.REFUNDED, 1230)
    assert states == {
        "R1": RefundState.SUCCESS,
        "R2": RefundState.SUCCESS,
        "R3": RefundState.FAILED,
    }
    with engine.begin() as tx:
        ended = place.port.refund(tx, "R3")
        assert ended is not None
        with pytest.raises(WrongStateError):
            place.port.move_refund(tx, ended, RefundState.SUCCESS)


# Our own table's way in.


def test_an_order_is_added_once_and_only_with_the_same_facts(engine: Engine) -> None:
    own = Orders()
    values = {"order_no": "A7", "merchant": "m-1", "channel": "c", "currency": "CNY"}
    with engine.begin() as tx:
        first = own.add(tx, amount_minor=5, **values)  # type: ignore[arg-type]
        assert own.add(tx, amount_minor=5, **values) == first  # type: ignore[arg-type]
        with pytest.raises(BadFieldError, match="amount_minor 5, not 6"):
            own.add(tx, amount_minor=6, **values)  # type: ignore[arg-type]
        back = own.add_refund(tx, refund_no="R1", order_no="A7", amount_minor=2)
        assert own.add_refund(tx, refund_no="R1", order_no="A7", amount_minor=2) == back
        with pytest.raises(NotFoundError):
            own.add_refund(tx, refund_no="R2", order_no="B", amount_minor=2)


def test_no_more_is_refunded_than_the_order_has(engine: Engine) -> None:
    own = Orders()
    add(engine, open_place(engine, "own"), state=OrderState.PAID)
    with engine.begin() as tx:
        first = own.add_refund(tx, refund_no="R1", order_no="A7", amount_minor=1000)
        with pytest.raises(BadFieldError, match="is 231, but of order A7 only 230 is left"):
            own.add_refund(tx, refund_no="R2", order_no="A7", amount_minor=231)
        assert own.move_refund(tx, first, RefundState.SUCCESS)
        own.add_refund(tx, refund_no="R2", order_no="A7", amount_minor=230)
        assert own.add_refund(tx, refund_no="R1", order_no="A7", amount_minor=1000).amount_minor
        with pytest.raises(BadFieldError, match="only 0 is left"):
            own.add_refund(tx, refund_no="R3", order_no="A7", amount_minor=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("order_no", "a b"),
        ("merchant", ""),
        ("channel", "支付宝"),
        ("amount_minor", 0),
        ("amount_minor", 1.5),
        ("amount_minor", True),
        ("currency", "cny"),
        ("expires_at", datetime(2026, 1, 1)),  # noqa: DTZ001 - what is refused
        ("state", OrderState.PAID),
    ],
)
def test_a_wrong_field_is_named(sqlite_engine: Engine, field: str, value: object) -> None:
    values: dict[str, object] = {
        "order_no": "A7",
        "merchant": "m",
        "channel": "c",
        "amount_minor": 5,
        "currency": "CNY",
        field: value,
    }
    with sqlite_engine.begin() as tx, pytest.raises(BadFieldError) as caught:
        Orders().add(tx, **values)  # type: ignore[arg-type]
    assert caught.value.field == field


# A host's table that does not fit.


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "t_pay_orde"}, "no table 't_pay_orde'; did you mean 't_pay_order'?"),
        (
            {"columns": {**GATEWAY["columns"], "amount": "amuont"}},  # type: ignore[dict-item]
            "columns.amount: t_pay_order has no column 'amuont'; did you mean 'amount'?",
        ),
        (
            {"columns": {**GATEWAY["columns"], "order_no": "mch_no"}},  # type: ignore[dict-item]
            "columns.order_no: mch_no is not unique by itself",
        ),
        (
            {"states": {**GATEWAY["states"], "paid": ["2"]}},  # type: ignore[dict-item]
            "states.paid: '2' is no value of a",
        ),
        ({"times": "unix_s"}, "does not go with times = unix_s"),
    ],
)
def test_a_description_that_does_not_fit_says_where(
    engine: Engine, change: dict[str, object], sentence: str
) -> None:
    open_place(engine, "gateway")
    with pytest.raises(SettingsError) as caught:
        mapped(engine, {**GATEWAY, **change})
    assert sentence in str(caught.value)


def test_all_that_does_not_fit_is_said_at_once(engine: Engine) -> None:
    open_place(engine, "gateway")
    columns = {**GATEWAY["columns"], "amount": "x", "state": "y"}  # type: ignore[dict-item]
    with pytest.raises(SettingsError) as caught:
        mapped(engine, {**GATEWAY, "columns": columns})
    assert len(caught.value.problems) == 2


def test_money_in_a_float_column_is_refused(engine: Engine) -> None:
    with engine.begin() as tx:
        tx.execute(
            text(
                "CREATE TABLE orders (no TEXT PRIMARY KEY, seller TEXT, pay_type TEXT,"
                " total FLOAT, status TEXT, created BIGINT)"
            )
        )
    names = ("order_no", "merchant", "channel", "amount", "state", "placed_at")
    columns = {name: SHOP["columns"][name] for name in names}  # type: ignore[index]
    with pytest.raises(SettingsError, match="cannot hold money exactly; use NUMERIC"):
        mapped(engine, {**SHOP, "columns": columns, "refunds": None})


def test_a_row_that_cannot_be_read_stops_only_itself(engine: Engine) -> None:
    place = open_place(engine, "gateway")
    for no in ("A", "B", "C"):
        add(engine, place, no)
    with engine.begin() as tx:
        tx.execute(text("UPDATE t_pay_order SET currency = '元' WHERE \"Pay Order\" = 'A'"))
        found = place.port.unsettled(tx, after="", limit=1)
        assert [order.order_no for order in found] == ["B"]
        with pytest.raises(BadFieldError, match="order A: currency"):
            place.port.get(tx, "A")


@pytest.mark.parametrize("column", ["created_at", "expired_time", "success_time", "updated_at"])
@pytest.mark.parametrize("value", ["0001-01-01 00:00:00", "-infinity", "4711-01-01 00:00:00 BC"])
def test_a_time_that_no_time_can_be_stops_only_its_row(
    engine: Engine, column: str, value: str
) -> None:
    place = open_place(engine, "gateway")
    for no in ("A", "B", "C"):
        add(engine, place, no)
    with engine.begin() as tx:
        _spoil(tx, "t_pay_order", column, f"'{value}'", "\"Pay Order\" = 'B'")
        found = place.port.unsettled(tx, after="", limit=2)
        assert [order.order_no for order in found] == ["A", "C"]
        with pytest.raises(BadFieldError, match=r"order B: .*_at.* is no time to reckon with"):
            place.port.get(tx, "B")


def test_an_order_that_never_expires_may_say_so_with_a_date(engine: Engine) -> None:
    assert _expiry_of(engine, "9999-12-31 23:59:59.999999") is None


@pytest.mark.parametrize("value", ["infinity", "294276-01-01"])
def test_an_order_may_expire_when_only_postgresql_can_say(
    postgres_engine: Engine, value: str
) -> None:
    assert _expiry_of(postgres_engine, value) is None


def _expiry_of(engine: Engine, value: str) -> datetime | None:
    place = open_place(engine, "gateway")
    add(engine, place)
    with engine.begin() as tx:
        _spoil(tx, "t_pay_order", "expired_time", f"'{value}'")
    return got(engine, place).expires_at


def test_milliseconds_in_a_column_of_seconds_stop_only_their_row(engine: Engine) -> None:
    place = open_place(engine, "shop")
    for no in ("A", "B"):
        add(engine, place, no)
    with engine.begin() as tx:
        _spoil(tx, "orders", "expires", "1795317600000", "no = 'A'")
        found = place.port.unsettled(tx, after="", limit=2)
        assert [order.order_no for order in found] == ["B"]
        with pytest.raises(BadFieldError, match="order A: expires_at"):
            place.port.get(tx, "A")


@pytest.mark.parametrize("value", ["9999-12-31 23:59:59", "infinity"])
def test_paid_orders_changed_at_no_real_time_end_no_page_and_no_round(
    engine: Engine, value: str
) -> None:
    place = open_place(engine, "gateway")
    for no in ("A", "B", "C"):
        add(engine, place, no, OrderState.PAID)
    with engine.begin() as tx:
        _spoil(tx, "t_pay_order", "updated_at", f"'{value}'", "\"Pay Order\" IN ('A', 'B')")
        found = place.port.ended(tx, since=NOON - timedelta(days=1), after="", limit=1)
        assert [order.order_no for order in found] == ["C"]
        since = found[0].changed_at
        assert since is not None
        assert place.port.ended(tx, since=since, after="C", limit=1) == []


def test_a_refund_without_a_real_time_stops_only_itself(engine: Engine) -> None:
    place = open_place(engine, "gateway")
    add(engine, place, state=OrderState.PAID)
    with engine.begin() as tx:
        for no in ("R1", "R2"):
            place.add_refund(tx, no, "A7", RefundState.PROCESSING, 100, NOON)
        _spoil(tx, "t_refund_order", "created_at", "'0001-01-01 00:00:00'", "refund_id = 'R1'")
        assert [one.refund_no for one in place.port.refunds(tx, after="", limit=9)] == ["R2"]


def _spoil(tx: Connection, table: str, column: str, value: str, where: str = "1 = 1") -> None:
    tx.execute(text(f"UPDATE {table} SET {column} = {value} WHERE {where}"))


def test_every_name_of_a_host_is_quoted(engine: Engine) -> None:
    evil = 'orders"; DROP TABLE t_pay_order; --'
    open_place(engine, "gateway")
    with pytest.raises(SettingsError, match="there is no table"):
        mapped(engine, {**GATEWAY, "name": evil})
    with engine.begin() as tx:
        tx.execute(text('ALTER TABLE t_pay_order RENAME TO "Select; 1"'))
    port = mapped(engine, {**GATEWAY, "name": "Select; 1"})
    with engine.begin() as tx:
        assert port.unsettled(tx, after="", limit=9) == []
