"""Reads what is to be asked now, with the orders and refunds it is about, a page at a time.

Works in the caller's transaction, before any channel is asked. Must never let an order that cannot
be read keep the others from being asked about.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection

from schedules.answer_groups import UNREADABLE
from schedules.asking import Question
from schedules.checks import Check, Checks
from schedules.corrections import GONE, MOVED, Corrector
from schedules.decisions import Policy
from schedules.order_pages import pages_of
from schedules.ports import Order, OrderPort, Refund
from schedules.windows import Kind


class Questions:
    """Reads.

    Args:
        orders: the host's.
        checks: what is asked about.
        corrector: puts off what cannot be read, and follows orders to other channels.
        policy_of: the policy of a merchant.
    """

    def __init__(
        self,
        orders: OrderPort,
        checks: Checks,
        corrector: Corrector,
        policy_of: Callable[[str], Policy],
    ) -> None:
        self._orders, self._checks = pages_of(orders), checks
        self._corrector, self._policy_of = corrector, policy_of

    def read(
        self, tx: Connection, due: Sequence[Check], *, now: datetime, counts: Counter[str]
    ) -> list[Question]:
        """Make questions of what is due; what needs no asking is dealt with here.

        Args:
            tx: the caller's.
            due: checks.
            now: the database's time.
            counts: what was dealt with is added.
        """
        orders, refunds = self._rows(tx, due)
        questions = []
        gone: list[tuple[Check, str]] = []
        for seen in due:
            refund, order = _found(seen, orders, refunds)
            if isinstance(order, Exception):
                self._corrector.put_off(tx, seen, str(order), now=now)
                counts[UNREADABLE] += 1
            elif order is None:
                gone.append((seen, GONE))
            elif self._corrector.follow(tx, seen, order, refund, now=now):
                counts[MOVED] += 1
            else:
                policy = self._policy_of(order.merchant)
                made = Question(check=seen, order=order, refund=refund, policy=policy)
                questions.append(made)
        self._checks.finish(tx, gone, now=now)
        return questions

    def _rows(
        self, tx: Connection, due: Sequence[Check]
    ) -> tuple[Mapping[str, Order | Exception], Mapping[str, Refund | Exception]]:
        order_nos = {seen.subject_no for seen in due if seen.kind is Kind.ORDER}
        refund_nos = {seen.subject_no for seen in due if seen.kind is Kind.REFUND}
        refunds = self._orders.get_refunds(tx, refund_nos) if refund_nos else {}
        order_nos |= {one.order_no for one in refunds.values() if isinstance(one, Refund)}
        return (self._orders.get_many(tx, order_nos) if order_nos else {}), refunds


def _found(
    seen: Check, orders: Mapping[str, Order | Exception], refunds: Mapping[str, Refund | Exception]
) -> tuple[Refund | None, Order | Exception | None]:
    """Return the refund, if it is one, and the order, or what is wrong with either."""
    if seen.kind is Kind.ORDER:
        return None, orders.get(seen.subject_no)
    refund = refunds.get(seen.subject_no)
    if not isinstance(refund, Refund):
        return None, refund
    return refund, orders.get(refund.order_no)
