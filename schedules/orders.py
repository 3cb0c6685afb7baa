"""Our own orders and refunds, for hosts that have no table of theirs to map.

Every method works in the caller's transaction. Must never change the money of an order that is
there.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

from schedules import money
from schedules.order_layout import Layout, OurTimes, RefundLayout, check_currency
from schedules.order_states import REFUND_OPEN
from schedules.orders_sql import SqlOrders
from schedules.ports import Order, OrderState, Refund, RefundState
from worker.errors import BadFieldError, NotFoundError
from worker.fields import visible
from worker.tables_orders import payment_order, refund

NUMBER_MAX = 128


def _own_layout() -> Layout:
    order, back = payment_order.c, refund.c
    return Layout(
        table=payment_order,
        order_no=order.order_no,
        merchant=order.merchant,
        channel=order.channel,
        currency=order.currency,
        amount=order.amount_minor,
        state=order.state,
        placed_at=order.created_at,
        times=OurTimes(),
        states={state: (state.value,) for state in OrderState},
        expires_at=order.expires_at,
        paid_at=order.paid_at,
        changed_at=order.updated_at,
        channel_txn_no=order.channel_txn_no,
        refunded=order.refunded_minor,
        notify_url=order.notify_url,
        refunds=RefundLayout(
            table=refund,
            refund_no=back.refund_no,
            order_no=back.order_no,
            amount=back.amount_minor,
            state=back.state,
            placed_at=back.created_at,
            changed_at=back.updated_at,
            states={state: (state.value,) for state in RefundState},
        ),
    )


class Orders(SqlOrders):
    """The OrderPort on ``paynotify_payment_order`` and ``paynotify_refund``, with a way in."""

    def __init__(self) -> None:
        super().__init__(_own_layout())

    def add(
        self,
        tx: Connection,
        *,
        order_no: str,
        merchant: str,
        channel: str,
        amount_minor: int,
        currency: str,
        expires_at: datetime | None = None,
        notify_url: str | None = None,
        state: OrderState = OrderState.PENDING,
    ) -> Order:
        """Write an order that waits for its payment; again with the same facts is harmless.

        Args:
            tx: the caller's; nothing is there before it commits.
            order_no: 1 to 128 visible ASCII characters, unique.
            merchant: 1 to 64 visible ASCII characters, as its endpoints have it.
            channel: name of a payment channel, 1 to 64 visible ASCII characters.
            amount_minor: whole minor units, 1 to 10^12.
            currency: ISO 4217, three capital letters.
            expires_at: after which it is closed when unpaid (aware); None never.
            notify_url: where the merchant wants to hear of it; None is its endpoint's URL.
            state: created or pending.

        Raises:
            BadFieldError: names the field; also when the number is taken by another order.
        """
        visible(order_no, "order_no", NUMBER_MAX)
        visible(merchant, "merchant", 64)
        visible(channel, "channel", 64)
        check_amount(amount_minor)
        check_currency(currency)
        if expires_at is not None and expires_at.utcoffset() is None:
            raise BadFieldError("expires_at", "needs a time zone: 2026-01-31T08:00:00Z")
        if state not in (OrderState.CREATED, OrderState.PENDING):
            raise BadFieldError("state", f"is {state}; a new order is created or pending")
        values = {
            "order_no": order_no,
            "merchant": merchant,
            "channel": channel,
            "amount_minor": amount_minor,
            "currency": currency,
            "state": state.value,
            "expires_at": expires_at,
            "notify_url": notify_url,
        }
        _insert_new(tx, payment_order, values)
        found = self.get(tx, order_no)
        assert found is not None  # noqa: S101 - for the type checker
        for name in ("merchant", "channel", "amount_minor", "currency"):
            if getattr(found, name) != values[name]:
                raise BadFieldError(
                    "order_no",
                    f"{order_no} is there already with {name} {getattr(found, name)}, not "
                    f"{values[name]}; give a new order a new number",
                )
        return found

    def add_refund(
        self, tx: Connection, *, refund_no: str, order_no: str, amount_minor: int
    ) -> Refund:
        """Write a refund that was asked for at the channel; again with the same facts is harmless.

        Raises:
            BadFieldError: names the field; also when the number is taken by another refund, or
                when more would be refunded than the order has.
            NotFoundError: no such order.
        """
        visible(refund_no, "refund_no", NUMBER_MAX)
        check_amount(amount_minor)
        # Held, so that two refunds of one order wait for each other here.
        order = self.hold(tx, order_no)
        if order is None:
            raise NotFoundError("order", order_no[:NUMBER_MAX])
        if self.refund(tx, refund_no) is None:
            self._check_left(tx, order, amount_minor)
        _insert_new(
            tx,
            refund,
            {"refund_no": refund_no, "order_no": order_no, "amount_minor": amount_minor},
        )
        found = self.refund(tx, refund_no)
        assert found is not None  # noqa: S101 - for the type checker
        if (found.order_no, found.amount_minor) != (order_no, amount_minor):
            raise BadFieldError(
                "refund_no",
                f"{refund_no} is there already for order {found.order_no} with "
                f"{found.amount_minor}; give a new refund a new number",
            )
        return found

    def _check_left(self, tx: Connection, order: Order, amount_minor: int) -> None:
        known = self.refunds_of(tx, order.order_no) or ()
        done = sum(one.amount_minor for one in known if one.state is RefundState.SUCCESS)
        on_the_way = sum(one.amount_minor for one in known if one.state in REFUND_OPEN)
        left = order.amount_minor - max(done, order.refunded_minor) - on_the_way
        if amount_minor > left:
            raise BadFieldError(
                "amount_minor",
                f"is {amount_minor}, but of order {order.order_no} only {max(left, 0)} is left to "
                "refund; give that or less",
            )


def check_amount(value: object, field: str = "amount_minor") -> int:
    """Return an amount of whole minor units, 1 to 10^12.

    Raises:
        BadFieldError: it is none.
    """
    if type(value) is not int or not 1 <= value <= money.MINOR_MAX:
        raise BadFieldError(field, f"must be a whole number of minor units, 1 to {money.MINOR_MAX}")
    return value


def _insert_new(tx: Connection, table: Table, values: dict[str, Any]) -> None:
    dialect = postgresql if tx.dialect.name == "postgresql" else sqlite
    tx.execute(dialect.insert(table).values(values).on_conflict_do_nothing())
