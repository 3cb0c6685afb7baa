"""An OrderPort on the host's own table, as ``config/orders.toml`` describes it.

The table is compared with the description when it is loaded. Must never guess: a column that is
not there, an amount that may not be exact, a number that is not unique is refused with a sentence.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import (
    Column,
    DateTime,
    Engine,
    Float,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    inspect,
)
from sqlalchemy.engine.reflection import Inspector
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.sql.elements import quoted_name
from sqlalchemy.types import TypeEngine

from schedules.order_layout import Layout, RefundLayout, TimeForm, Times, Timestamps, UnixTimes
from schedules.orders_options import TableOptions
from schedules.orders_sql import SqlOrders
from worker.errors import SettingsError

_TIME_COLUMNS = ("placed_at", "expires_at", "paid_at", "changed_at")


def open_mapped(engine: Engine, options: TableOptions, *, where: str) -> SqlOrders:
    """Open the host's table.

    Args:
        engine: of the database it stands in, which is ours too.
        options: its description.
        where: name of the file, for messages.

    Raises:
        SettingsError: the table does not fit; with one sentence per problem, all of them.
    """
    inspector = inspect(engine)
    problems: list[str] = []
    orders = _Real(inspector, options.name, options, f"{where}: table", problems)
    columns = options.columns.model_dump(exclude_none=True)
    orders.check(columns, unique="order_no", states=options.states)
    back = options.refunds
    refunds: _Real | None = None
    back_columns: dict[str, str] = {}
    if back is not None:
        back_columns = back.columns.model_dump(exclude_none=True)
        refunds = _Real(inspector, back.name, options, f"{where}: table.refunds", problems)
        refunds.check(back_columns, unique="refund_no", states=back.states)
    if problems:
        raise SettingsError(*problems)
    times = orders.times(columns["placed_at"])
    found = orders.table(columns, times)
    fixed = options.fixed.model_dump(exclude_none=True)
    return SqlOrders(
        Layout(
            **{name: found.c[column] for name, column in columns.items()},
            **fixed,
            table=found,
            times=times,
            states=options.states,
            major=options.amount_unit == "major",
            channels=options.channels,
            refunds=(
                None
                if refunds is None or back is None
                else _refunds(refunds.table(back_columns, times), back_columns, back.states)
            ),
        )
    )


def _refunds(table: Table, columns: Mapping[str, str], states: Any) -> RefundLayout:
    found = {name: table.c[column] for name, column in columns.items()}
    found.setdefault("changed_at", None)  # type: ignore[arg-type]
    return RefundLayout(table=table, states=states, **found)


class _Real:
    """One table of the host as it really is; what does not fit is added to ``problems``."""

    def __init__(
        self,
        inspector: Inspector,
        name: str,
        options: TableOptions,
        where: str,
        problems: list[str],
    ) -> None:
        self._inspector = inspector
        self._name, self._options = name, options
        self._where, self._problems = where, problems
        self._types: dict[str, TypeEngine[Any]] = {}

    def check(
        self, columns: Mapping[str, str], *, unique: str, states: Mapping[Any, tuple[Any, ...]]
    ) -> None:
        """Compare the columns, and the states with the type of theirs."""
        schema = self._options.in_schema
        try:
            found = self._inspector.get_columns(self._name, schema)
        except NoSuchTableError:
            found = []
        if not found:
            names = self._inspector.get_table_names(schema)
            self._say("name", f"there is no table {self._name!r}{_near(self._name, names)}")
            return
        self._types = {column["name"]: column["type"] for column in found}
        for field, column in columns.items():
            if column not in self._types:
                near = _near(column, list(self._types))
                self._say(f"columns.{field}", f"{self._name} has no column {column!r}{near}")
                continue
            self._check_type(field, column)
        if columns[unique] in self._types:
            self._check_unique(columns[unique], unique)
        if columns["state"] in self._types:
            self._check_states(columns["state"], states)

    def table(self, columns: Mapping[str, str], times: Times) -> Table:
        """Make the table with these columns only, every name quoted."""
        made = []
        for field, column in columns.items():
            kind = times.type if field in _TIME_COLUMNS else self._types[column]
            made.append(Column(quoted_name(column, quote=True), kind))
        schema = self._options.in_schema
        return Table(
            quoted_name(self._name, quote=True),
            MetaData(),
            *made,
            schema=None if schema is None else quoted_name(schema, quote=True),
        )

    def times(self, column: str) -> Times:
        """Make what reads and writes the times of this table, by one of its columns."""
        form = self._options.times
        if form is not TimeForm.TIMESTAMP:
            return UnixTimes(form)
        kind = self._types[column]
        return Timestamps(
            ZoneInfo(self._options.zone),
            aware=isinstance(kind, DateTime) and bool(kind.timezone),
            text=self._inspector.dialect.name == "sqlite",
        )

    def _check_type(self, field: str, column: str) -> None:
        kind = self._types[column]
        if field in ("amount", "refunded"):
            self._check_amount(field, column, kind)
        elif field in ("order_no", "refund_no") and not isinstance(kind, String):
            self._say(f"columns.{field}", f"{column} is {kind}; numbers of orders must be text")
        elif field in _TIME_COLUMNS:
            self._check_time(field, column, kind)

    def _check_amount(self, field: str, column: str, kind: TypeEngine[Any]) -> None:
        if self._options.amount_unit == "minor":
            if not isinstance(kind, Integer):
                self._say(
                    f"columns.{field}",
                    f"{column} is {kind}; minor units need an integer column, or say "
                    'amount_unit = "major"',
                )
        elif isinstance(kind, Float) or not isinstance(kind, Numeric | Integer | String):
            self._say(
                f"columns.{field}",
                f"{column} is {kind}, which cannot hold money exactly; use NUMERIC",
            )

    def _check_time(self, field: str, column: str, kind: TypeEngine[Any]) -> None:
        unix = self._options.times is not TimeForm.TIMESTAMP
        sqlite = self._inspector.dialect.name == "sqlite"
        fits = isinstance(kind, Integer if unix else (DateTime, String) if sqlite else DateTime)
        if not fits:
            self._say(
                f"columns.{field}",
                f"{column} is {kind}, which does not go with times = {self._options.times}",
            )

    def _check_unique(self, column: str, field: str) -> None:
        schema = self._options.in_schema
        keys: list[list[Any]] = [
            self._inspector.get_pk_constraint(self._name, schema)["constrained_columns"]
        ]
        keys += [
            unique["column_names"]
            for unique in self._inspector.get_unique_constraints(self._name, schema)
        ]
        keys += [
            list(index["column_names"])
            for index in self._inspector.get_indexes(self._name, schema)
            if index["unique"] and not index.get("dialect_options", {}).get("postgresql_where")
        ]
        if [column] not in keys:
            self._say(
                f"columns.{field}",
                f"{column} is not unique by itself; give it a unique index, or one order could "
                "be taken for another",
            )

    def _check_states(self, column: str, states: Mapping[Any, tuple[Any, ...]]) -> None:
        wanted = int if isinstance(self._types[column], Integer) else str
        for state, values in states.items():
            for value in values:
                if not isinstance(value, wanted) or isinstance(value, bool):
                    kind = self._types[column]
                    self._say(f"states.{state.value}", f"{value!r} is no value of a {kind} column")

    def _say(self, field: str, problem: str) -> None:
        self._problems.append(f"{self._where}.{field}: {problem}")


def _near(name: str, names: list[str]) -> str:
    found = get_close_matches(name, names, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
