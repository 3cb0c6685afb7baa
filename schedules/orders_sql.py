"""An OrderPort on any table of orders whose layout is known; ours is one of them.

Every method works in the caller's transaction. Must never move an order that is not as the caller
last saw it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
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
)

from schedules.order_layout import LATEST, HostState, Layout, check_currency
from schedules.order_states import UNSETTLED, WAS_PAID, may_move, may_move_refund
from schedules.ports import Finding, Move, Order, OrderState, Refund, RefundMove, RefundState
from schedules.refunds_sql import SqlRefunds
from schedules.sql_rows import Change, RowT, each, one_of, page, write
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

    def get_many(self, tx: Connection, order_nos: Collection[str]) -> dict[str, Order | Exception]:
        """Read orders; one that cannot be read is its error."""
        query = self._all.where(self._layout.order_no.in_(sorted(order_nos)))
        return each(tx.execute(query).all(), self._read, "order_no")

    def move(self, tx: Connection, order: Order, to: OrderState, finding: Finding) -> bool:
        """Move an order on if its state, money and channel still are as ``order`` says.

        Raises:
            WrongStateError: no order may go this way.
            BadFieldError: the host's table has no value for that state.
        """
        return bool(self.move_many(tx, [Move(order=order, to=to, finding=finding)], wait=True))

    def move_many(self, tx: Connection, moves: Sequence[Move], *, wait: bool) -> set[str]:
        """Move orders on, each as :meth:`move` does; returns the numbers of those that moved."""
        for one in moves:
            if not may_move(one.order.state, one.to):
                subject = f"order {one.order.order_no}"
                raise WrongStateError(subject, one.order.state, f"never made {one.to}")
        held = self._hold(tx, [one.order.order_no for one in moves], wait=wait)
        now, changes = _now(tx), []
        for one in moves:
            row = held.get(one.order.order_no)
            if row is None or _essence(row) != _essence(one.order):
                continue
            values: dict[Any, object] = {self._layout.state: self._value(one.to)}
            if one.to is OrderState.PAID:
                self._add_payment(values, one.finding, now)
            changes.append(self._change(row, values, now))
        return write(tx, self._layout.order_no, self._layout.state, changes)

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

    def get_refunds(
        self, tx: Connection, refund_nos: Collection[str]
    ) -> dict[str, Refund | Exception]:
        """Read refunds; one that cannot be read is its error."""
        return {} if self._refunds is None else self._refunds.get_many(tx, refund_nos)

    def refunds_of_many(
        self, tx: Connection, order_nos: Collection[str]
    ) -> Mapping[str, Sequence[Refund]] | None:
        """Read all refunds of orders; None as :meth:`refunds_of` says it."""
        if self._refunds is None:
            return None if self._layout.refunded is None else {}
        return self._refunds.of_many(tx, order_nos)

    def move_refund(self, tx: Connection, refund: Refund, to: RefundState) -> bool:
        """Move a refund on if it still is as ``refund`` says; a success counts at its order.

        Raises:
            WrongStateError: no refund may go this way.
        """
        return bool(self.move_refunds(tx, [RefundMove(refund=refund, to=to)], wait=True))

    def move_refunds(self, tx: Connection, moves: Sequence[RefundMove], *, wait: bool) -> set[str]:
        """Move refunds of as many orders on, each as :meth:`move_refund` does."""
        for one in moves:
            if self._refunds is None or not may_move_refund(one.refund.state, one.to):
                subject = f"refund {one.refund.refund_no}"
                raise WrongStateError(subject, one.refund.state, f"never made {one.to}")
        if self._refunds is None:
            return set()
        # The orders first, so that two refunds of one order wait for each other here.
        held = self._hold(tx, [one.refund.order_no for one in moves], wait=wait)
        now = _now(tx)
        moved = self._refunds.move(tx, moves, now=now, wait=wait)
        changes = []
        for one in moves:
            order = held.get(one.refund.order_no)
            given_back = one.refund.refund_no in moved and one.to is RefundState.SUCCESS
            if given_back and order is not None and order.state in WAS_PAID:
                changes += self._count_refund(order, one.refund, now)
        write(tx, self._layout.order_no, self._layout.state, changes)
        return moved

    def _count_refund(self, held: Order, refund: Refund, now: datetime) -> list[Change]:
        layout = self._layout
        if layout.refunded is None:
            return []  # without a sum in its table the host counts for itself
        refunded = min(held.refunded_minor + refund.amount_minor, held.amount_minor)
        values: dict[Any, object] = {layout.refunded: layout.write_amount(refunded, held.currency)}
        to = OrderState.REFUNDED if refunded == held.amount_minor else OrderState.PARTIAL_REFUND
        if to in layout.states and may_move(held.state, to):
            values[layout.state] = self._value(to)
        return [self._change(held, values, now)]

    def _add_payment(self, values: dict[Any, object], finding: Finding, now: datetime) -> None:
        layout = self._layout
        if layout.paid_at is not None:
            values[layout.paid_at] = layout.times.write(finding.paid_at or now)
        if layout.channel_txn_no is not None and finding.channel_txn_no:
            values[layout.channel_txn_no] = finding.channel_txn_no

    def _change(self, held: Order, values: dict[Any, object], now: datetime) -> Change:
        layout = self._layout
        if layout.changed_at is not None:
            values[layout.changed_at] = layout.times.write(now)
        return Change(no=held.order_no, was=layout.states[held.state], values=values)

    def hold(self, tx: Connection, order_no: str) -> Order | None:
        """Read one order and lock its row until the transaction ends."""
        return self._hold(tx, [order_no], wait=True).get(order_no)

    def _hold(self, tx: Connection, order_nos: Iterable[str], *, wait: bool) -> dict[str, Order]:
        # SQLite has locked the whole file when the transaction began. In the order of their
        # numbers, so that two of us do not wait for each other in a circle.
        number = self._layout.order_no
        query = self._all.where(number.in_(sorted(order_nos))).order_by(number)
        rows = tx.execute(query.with_for_update(nowait=not wait)).all()
        return {row.order_no: self._read(row) for row in rows}

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
