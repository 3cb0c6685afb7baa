"""Refunds in a host's table, or in ours.

Every method works in the caller's transaction. Must never move a refund that is not as the caller
last saw it.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, Text, cast, literal, select

from schedules.order_layout import Layout, RefundLayout
from schedules.order_states import REFUND_OPEN
from schedules.ports import Refund, RefundMove, RefundState
from schedules.sql_rows import Change, RowT, each, one_of, page, readable, write
from worker.errors import BadFieldError


class SqlRefunds:
    """Reads and moves refunds.

    Args:
        layout: of the orders they belong to.
        where: they stand themselves.
    """

    def __init__(self, layout: Layout, where: RefundLayout) -> None:
        self._layout, self._where = layout, where
        self._by_value = {value: s for s, values in where.states.items() for value in values}

    def open(self, tx: Connection, *, after: str, limit: int) -> Sequence[Refund]:
        """Read refunds that are not over, by number; unreadable ones are left out."""
        number = self._where.refund_no
        values = [
            v
            for state in RefundState
            if state in REFUND_OPEN
            for v in self._where.states.get(state, ())
        ]
        query = self._query().where(one_of(self._where.state, values)).order_by(number)

        def fetch(last: RowT | None) -> Sequence[RowT]:
            behind = after if last is None else last.refund_no
            return tx.execute(query.where(number > behind).limit(limit)).all()

        return page(fetch, self._read, limit)[:limit]

    def get(self, tx: Connection, refund_no: str) -> Refund | None:
        """Read one refund.

        Raises:
            BadFieldError: its row holds what the layout does not know.
        """
        row = tx.execute(self._query().where(self._where.refund_no == refund_no)).one_or_none()
        return None if row is None else self._read(row)

    def of(self, tx: Connection, order_no: str) -> Sequence[Refund]:
        """Read all refunds of an order."""
        query = self._query().where(self._where.order_no == order_no)
        rows = tx.execute(query.order_by(self._where.refund_no)).all()
        return readable(rows, self._read)

    def get_many(
        self, tx: Connection, refund_nos: Collection[str]
    ) -> dict[str, Refund | Exception]:
        """Read refunds; one that cannot be read is its error."""
        number = self._where.refund_no
        rows = tx.execute(self._query().where(number.in_(sorted(refund_nos)))).all()
        return each(rows, self._read, "refund_no")

    def of_many(self, tx: Connection, order_nos: Collection[str]) -> dict[str, list[Refund]]:
        """Read all refunds of orders, by order; unreadable ones are left out."""
        query = self._query().where(self._where.order_no.in_(sorted(order_nos)))
        found: defaultdict[str, list[Refund]] = defaultdict(list)
        for one in readable(tx.execute(query.order_by(self._where.refund_no)).all(), self._read):
            found[one.order_no].append(one)
        return found

    def move(
        self, tx: Connection, moves: Sequence[RefundMove], *, now: datetime, wait: bool
    ) -> set[str]:
        """Move refunds on that still are in the state they were read in; returns their numbers."""
        where = self._where
        held = self._hold(tx, [one.refund.refund_no for one in moves], wait=wait)
        changes = []
        for one in moves:
            if one.to not in where.states:
                raise BadFieldError(
                    f"refunds.states.{one.to}",
                    "has no value of the host's table; add it to orders.toml",
                )
            if held.get(one.refund.refund_no) is not one.refund.state:
                continue
            values: dict[Any, object] = {where.state: where.states[one.to][0]}
            if where.changed_at is not None:
                values[where.changed_at] = self._layout.times.write(now)
            was = where.states[one.refund.state]
            changes.append(Change(no=one.refund.refund_no, was=was, values=values))
        return write(tx, where.refund_no, where.state, changes)

    def _hold(
        self, tx: Connection, refund_nos: Sequence[str], *, wait: bool
    ) -> dict[str, RefundState | None]:
        """Lock rows until the transaction ends; returns what state each is in."""
        where = self._where
        query = (
            select(where.refund_no.label("no"), where.state.label("state"))
            .where(where.refund_no.in_(sorted(refund_nos)))
            .order_by(where.refund_no)
            .with_for_update(nowait=not wait)
        )
        return {str(row.no): self._by_value.get(row.state) for row in tx.execute(query)}

    def _query(self) -> Select[Any]:
        layout, where = self._layout, self._where
        currency: Any = layout.currency
        if isinstance(currency, str):
            currency = literal(currency)
        amount: Any = cast(where.amount, Text) if layout.major else where.amount
        return (
            select(
                where.refund_no.label("refund_no"),
                # As the order's own row spells it: the two are looked up by each other.
                layout.order_no.label("order_no"),
                amount.label("amount"),
                where.state.label("state"),
                layout.times.chosen(where.placed_at).label("placed_at"),
                currency.label("currency"),
            )
            .select_from(where.table)
            .join(layout.table, layout.order_no == where.order_no)
        )

    def _read(self, row: RowT) -> Refund:
        name = f"refund {row.refund_no}"
        placed_at = self._layout.read_time(row.placed_at, f"{name}: placed_at")
        if placed_at is None:
            raise BadFieldError(f"{name}: placed_at", "is empty; windows are measured from it")
        if row.state not in self._by_value:
            raise BadFieldError(
                f"{name}: state",
                f"{str(row.state)[:40]!r} stands under no name of [refunds.states] in orders.toml",
            )
        return Refund(
            refund_no=str(row.refund_no),
            order_no=str(row.order_no),
            amount_minor=self._layout.read_amount(row.amount, row.currency, f"{name}: amount"),
            state=self._by_value[row.state],
            placed_at=placed_at,
        )
