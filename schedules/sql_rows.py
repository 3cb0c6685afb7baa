"""How rows of a host's table become ours, and the conditions that find them by their index.

Must never let a row that cannot be read stop the others.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, Row, bindparam

from schedules.order_layout import HostState
from worker import telemetry
from worker.errors import BadFieldError

Made = TypeVar("Made")
RowT = Row[Any]


def one_of(column: Column[Any], values: Iterable[HostState]) -> ColumnElement[bool]:
    """Make the condition that a column holds one of these.

    The values are written into the statement: a partial index is only found by what it was
    declared with.
    """
    return column.in_(bindparam(None, list(values), expanding=True, literal_execute=True))


def named(values: Mapping[Column[Any], object]) -> dict[str, object]:
    """Turn columns into their names, as an UPDATE takes them."""
    return {column.name: value for column, value in values.items()}


def readable(rows: Iterable[RowT], read: Callable[[RowT], Made]) -> list[Made]:
    """Read rows; one that cannot be read is left out and stands in the log."""
    found = []
    for row in rows:
        try:
            found.append(read(row))
        except (BadFieldError, ArithmeticError, ValueError) as error:
            telemetry.log(telemetry.Event.ORDER_UNREADABLE, level="warning", problem=str(error))
    return found


def page(
    fetch: Callable[[RowT | None], Sequence[RowT]], read: Callable[[RowT], Made], limit: int
) -> list[Made]:
    """Fill a page with rows that can be read; it is short only when there are no more.

    Args:
        fetch: returns at most ``limit`` rows behind the given one; None is from the start.
        read: turns a row into what is wanted.
        limit: rows of a whole page.
    """
    found: list[Made] = []
    last: RowT | None = None
    while True:
        rows = fetch(last)
        found += readable(rows, read)
        if len(rows) < limit or len(found) >= limit:
            return found
        last = rows[-1]
