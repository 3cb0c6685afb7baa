"""An OrderPort on any table of orders whose layout is known; ours is one of them.

Every method works in the caller's transaction. Must never move an order that is not as the caller
last saw it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Select,
    Text,
    bindparam,
    cast,
    literal,
    null,
    select,
    tuple_,
    update,
)

from schedules.order_layout import LATEST, HostState, Layout, check_currency
from schedules.order_states import UNSETTLED, WAS_PAID, may_move, may_move_refund
from schedules.ports import Finding, Order, OrderState, Refund, RefundState
from schedules.refunds_sql import SqlRefunds
from schedules.sql_rows import RowT, named, one_of, page
from worker.columns import database_now
from worker.errors import BadFieldError, WrongStateError

_TIMES = ("expires_at", "paid_at", "changed_at")
_OPTIONAL = ("expires_at", "paid_at", "changed_at", "channel_txn_no", "refunded", "notify_url")


class SqlOrders:
    """Reads and moves orders of one table.

    Args:
        layout: where they stand.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._by_value = {v: s for s, values in layout.states.items() for v in values}
        self._refunds = None if layout.refunds is None else SqlRefunds(layout, layout.refunds)
        # Made once: building it takes as long as running it.
        self._all = self._query()
        self._one = self._all.where(layout.order_no == bindparam("wanted"))
        self._held = self._one.with_for_update()

    def get(self, tx: Connection, order_no: str) -> Order | None:
        """Read one order.

        Raises:
            BadFieldError: its row holds what the layout does not know.
        """
        row = tx.execute(self._one, {"wanted": order_no}).one_or_none()
        return None if row is None else self._read(row)

    def unsettled(self, tx: Connection, *, after: str, limit: int) -> Sequence[Order]:
        """Read orders that are neither paid nor over, by number; unreadable ones are left out."""
        number = self._layout.order_no
        query = self._all.where(self._in(UNSETTLED)).order_by(number)

        def fetch(last: RowT | None) -> Sequence[RowT]:
            behind = after if last is None else last.order_no
            return tx.execute(query.where(number > behind).limit(limit)).all()

        return page(fetch, self._read, limit)[:limit]

    def ended(self, tx: Connection, *, since: datetime, after: str, limit: int) -> Sequence[Order]:
        """Read orders that were paid, by ``changed_at`` and number behind (``since``, ``after``).

        Nothing, when the host's table does not say when a row was changed.
        """
        layout, changed_at, number = self._layout, self._layout.changed_at, self._layout.order_no
        if changed_at is None:
            return ()
        times = layout.times
        ordered = times.sortable(changed_at)
        # Behind a sentinel there is nothing to page on from.
        real = ordered < times.mark(LATEST, changed_at)
        query = self._all.where(self._in(WAS_PAID), real).order_by(ordered, number)

        def fetch(last: RowT | None) -> Sequence[RowT]:
            mark, behind = times.mark(since, changed_at), after
            if last is not None:
                mark, behind = times.sortable(literal(last.changed_at, times.type)), last.order_no
            place = tuple_(mark, literal(behind, Text()))
            return tx.execute(query.where(tuple_(ordered, number) > place).limit(limit)).all()

        return page(fetch, self._read, limit)[:limit]

    def move(self, tx: Connection, order: Order, to: OrderState, finding: Finding) -> bool:
        """Move an order on if its state, money and channel still are as ``order`` says.

        Raises:
            WrongStateError: no order may go this way.
            BadFieldError: the host's table has no value for that state.
        """
        if not may_move(order.state, to):
            raise WrongStateError(f"order {order.order_no}", order.state, f"never made {to}")
        held = self.hold(tx, order.order_no)
        if held is None or _essence(held) != _essence(order):
            return False
        values: dict[Any, object] = {self._layout.state: self._value(to)}
        if to is OrderState.PAID:
            self._add_payment(values, finding, _now(tx))
        return self._write(tx, held, values)

    def refunds(self, tx: Connection, *, after: str, limit: int) -> Sequence[Refund]:
        """Read refunds that are not over, by number; unreadable ones are left out."""
        return () if self._refunds is None else self._refunds.open(tx, after=after, limit=limit)

    def refund(self, tx: Connection, refund_no: str) -> Refund | None:
        """Read one refund."""
        return None if self._refunds is None else self._refunds.get(tx, refund_no)

    def refunds_of(self, tx: Connection, order_no: str) -> Sequence[Refund] | None:
        """Read all refunds of an order; None when the host keeps none, nor what was refunded."""
        if self._refunds is None:
            return None if self._layout.refunded is None else ()
        return self._refunds.of(tx, order_no)

    def move_refund(self, tx: Connection, refund: Refund, to: RefundState) -> bool:
        """Move a refund on if it still is as ``refund`` says; a success counts at its order.

        Raises:
            WrongStateError: no refund may go this way.
        """
        if self._refunds is None or not may_move_refund(refund.state, to):
            raise WrongStateError(f"refund {refund.refund_no}", refund.state, f"never made {to}")
        # The order first, so that two refunds of one order wait for each other here.
        held = self.hold(tx, refund.order_no)
        if not self._refunds.move(tx, refund, to, now=_now(tx)):
            return False
        if to is RefundState.SUCCESS and held is not None and held.state in WAS_PAID:
            self._count_refund(tx, held, refund)
        return True

    def _count_refund(self, tx: Connection, held: Order, refund: Refund) -> None:
        layout = self._layout
        if layout.refunded is None:
            return  # without a sum in its table the host counts for itself
        refunded = min(held.refunded_minor + refund.amount_minor, held.amount_minor)
        values: dict[Any, object] = {layout.refunded: layout.write_amount(refunded, held.currency)}
        to = OrderState.REFUNDED if refunded == held.amount_minor else OrderState.PARTIAL_REFUND
        if to in layout.states and may_move(held.state, to):
            values[layout.state] = self._value(to)
        self._write(tx, held, values)

    def _add_payment(self, values: dict[Any, object], finding: Finding, now: datetime) -> None:
        layout = self._layout
        if layout.paid_at is not None:
            values[layout.paid_at] = layout.times.write(finding.paid_at or now)
        if layout.channel_txn_no is not None and finding.channel_txn_no:
            values[layout.channel_txn_no] = finding.channel_txn_no

    def _write(self, tx: Connection, held: Order, values: dict[Any, object]) -> bool:
        layout = self._layout
        if layout.changed_at is not None:
            values[layout.changed_at] = layout.times.write(_now(tx))
        done = tx.execute(
            update(layout.table)
            .where(layout.order_no == held.order_no, self._in((held.state,)))
            .values(named(values))
        )
        return done.rowcount == 1

    def hold(self, tx: Connection, order_no: str) -> Order | None:
        """Read one order and lock its row until the transaction ends."""
        # SQLite has locked the whole file when the transaction began.
        row = tx.execute(self._held, {"wanted": order_no}).one_or_none()
        return None if row is None else self._read(row)

    def _value(self, state: OrderState) -> HostState:
        values = self._layout.states.get(state)
        if not values and state is OrderState.FAILED:
            values = self._layout.states.get(OrderState.CLOSED)
        if not values:
            raise BadFieldError(
                f"states.{state}", "has no value of the host's table; add it to orders.toml"
            )
        return values[0]

    def _in(self, states: Iterable[OrderState]) -> ColumnElement[bool]:
        known = self._layout.states
        return one_of(
            self._layout.state, [v for s in _IN_ORDER if s in states for v in known.get(s, ())]
        )

    def _query(self) -> Select[Any]:
        layout = self._layout
        chosen: list[Any] = [
            layout.order_no.label("order_no"),
            layout.state.label("state"),
            layout.times.chosen(layout.placed_at).label("placed_at"),
            self._amount(layout.amount).label("amount"),
        ]
        for name in ("merchant", "channel", "currency"):
            source = getattr(layout, name)
            chosen.append((literal(source) if isinstance(source, str) else source).label(name))
        for name in _OPTIONAL:
            source = getattr(layout, name)
            if source is not None and name == "refunded":
                source = self._amount(source)
            elif source is not None and name in _TIMES:
                source = layout.times.chosen(source)
            chosen.append((null() if source is None else source).label(name))
        return select(*chosen).select_from(layout.table)

    def _amount(self, column: Column[Any]) -> ColumnElement[Any]:
        # As text: a driver that hands decimals out as floats would have changed them.
        return cast(column, Text) if self._layout.major else column

    def _read(self, row: RowT) -> Order:
        layout = self._layout
        where = f"order {row.order_no}"
        currency = check_currency(row.currency, f"{where}: currency")
        placed_at = layout.read_time(row.placed_at, f"{where}: placed_at")
        if placed_at is None:
            raise BadFieldError(f"{where}: placed_at", "is empty; windows are measured from it")
        if row.state not in self._by_value:
            raise BadFieldError(
                f"{where}: state",
                f"{str(row.state)[:40]!r} stands under no name of [states] in orders.toml; add it",
            )
        return Order(
            order_no=row.order_no,
            merchant=str(row.merchant),
            channel=layout.channels.get(str(row.channel), str(row.channel)),
            amount_minor=layout.read_amount(row.amount, currency, f"{where}: amount"),
            currency=currency,
            state=self._by_value[row.state],
            placed_at=placed_at,
            expires_at=layout.read_expiry(row.expires_at, f"{where}: expires_at"),
            paid_at=layout.read_time(row.paid_at, f"{where}: paid_at"),
            changed_at=layout.read_time(row.changed_at, f"{where}: changed_at"),
            channel_txn_no=str(row.channel_txn_no or ""),
            refunded_minor=layout.read_amount(row.refunded or 0, currency, f"{where}: refunded"),
            notify_url=row.notify_url or None,
        )


# As our own partial indexes spell them.
_IN_ORDER = tuple(OrderState)


def _essence(order: Order) -> tuple[object, ...]:
    return order.state, order.amount_minor, order.currency, order.channel


def _now(tx: Connection) -> datetime:
    now: datetime = tx.execute(select(database_now())).scalar_one()
    return now
