"""Whole pages of orders from any port: in a few statements where it can, else one by one.

Works in the caller's transaction. Must never let an order that cannot be read hide the others.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from sqlalchemy import Connection

from schedules.ports import ManyOrders, Move, Order, OrderPort, Refund, RefundMove
from worker.errors import PaynotifyError

Found = TypeVar("Found")


def pages_of(orders: OrderPort) -> ManyOrders:
    """Return the port itself if it knows pages, else what takes its orders one by one."""
    return orders if isinstance(orders, ManyOrders) else OneByOne(orders)


class OneByOne:
    """Pages of a port that knows single orders only; see :class:`schedules.ports.ManyOrders`.

    Args:
        orders: the host's. It waits for rows that somebody else holds as it always does.
    """

    def __init__(self, orders: OrderPort) -> None:
        self._orders = orders

    def get_many(
        self, tx: Connection, order_nos: Collection[str]
    ) -> Mapping[str, Order | Exception]:
        """Read orders."""
        return _each(order_nos, lambda no: self._orders.get(tx, no))

    def get_refunds(
        self, tx: Connection, refund_nos: Collection[str]
    ) -> Mapping[str, Refund | Exception]:
        """Read refunds."""
        return _each(refund_nos, lambda no: self._orders.refund(tx, no))

    def refunds_of_many(
        self, tx: Connection, order_nos: Collection[str]
    ) -> Mapping[str, Sequence[Refund]] | None:
        """Read all refunds of orders."""
        found = {}
        for no in order_nos:
            of_order = self._orders.refunds_of(tx, no)
            if of_order is None:
                return None
            found[no] = of_order
        return found

    def move_many(self, tx: Connection, moves: Sequence[Move], *, wait: bool) -> set[str]:
        """Move orders on."""
        return {
            one.order.order_no
            for one in moves
            if self._orders.move(tx, one.order, one.to, one.finding)
        }

    def move_refunds(self, tx: Connection, moves: Sequence[RefundMove], *, wait: bool) -> set[str]:
        """Move refunds on."""
        return {
            one.refund.refund_no
            for one in moves
            if self._orders.move_refund(tx, one.refund, one.to)
        }


def _each(
    numbers: Collection[str], read: Callable[[str], Found | None]
) -> dict[str, Found | Exception]:
    found: dict[str, Found | Exception] = {}
    for no in numbers:
        try:
            one = read(no)
        except (PaynotifyError, ArithmeticError, ValueError) as error:
            found[no] = error
        else:
            if one is not None:
                found[no] = one
    return found
