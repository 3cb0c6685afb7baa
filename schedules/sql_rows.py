"""How rows of a host's table become ours, and the conditions that find them by their index.

Must never let a row that cannot be read stop the others.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, Row, bindparam, or_, update

from schedules.order_layout import HostState
from worker import telemetry
from worker.errors import BadFieldError, WrongStateError

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is written into one row.

    Attributes:
        no: its number.
        was: values its state may have until then.
        values: by column.
    """

    no: str
    was: tuple[HostState, ...]
    values: Mapping[Column[Any], object]


def write(
    tx: Connection, number: Column[Any], state: Column[Any], changes: Iterable[Change]
) -> set[str]:
    """Write rows, each if its state still is what it was; returns the numbers of those.

    Rows that are written alike go out together.

    Raises:
        WrongStateError: of rows that went out together some were not as they were.
    """
    alike: defaultdict[tuple[tuple[HostState, ...], tuple[str, ...]], list[Change]]
    alike = defaultdict(list)
    for change in changes:
        alike[change.was, tuple(named(change.values))].append(change)
    written: set[str] = set()
    for (was, _), same in alike.items():
        statement = update(number.table).where(
            number == bindparam("paynotify_no"), or_(*(state == value for value in was))
        )
        done = tx.execute(
            statement, [{"paynotify_no": one.no, **named(one.values)} for one in same]
        ).rowcount
        if done == len(same):
            written |= {one.no for one in same}
        elif len(same) > 1:
            # Which ones is not told: the caller rolls back and takes them one by one.
            raise WrongStateError(f"{len(same)} rows", "not as they were", "only so are written")
    return written


def each(
    rows: Iterable[RowT], read: Callable[[RowT], Made], number: str
) -> dict[str, Made | Exception]:
    """Read rows, by their number; in place of one that cannot be read stands its error."""
    found: dict[str, Made | Exception] = {}
    for row in rows:
        no = str(getattr(row, number))
        try:
            found[no] = read(row)
        except (BadFieldError, ArithmeticError, ValueError) as error:
            found[no] = error
    return found


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
