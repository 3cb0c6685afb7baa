"""How a table of orders is laid out: which column holds what, and in what form.

Must never read or write a row by itself; and what cannot be read exactly is refused, not guessed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    DateTime,
    Table,
    Text,
    case,
    func,
    literal,
    or_,
)
from sqlalchemy.types import TypeEngine

from schedules import money
from schedules.ports import OrderState, RefundState
from worker.columns import Moment
from worker.errors import BadFieldError

HostState = str | int
# Times outside are what hosts write for "never" or "not yet": nothing can be reckoned from them.
EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
LATEST = datetime(9000, 1, 1, tzinfo=UTC)


class TimeForm(StrEnum):
    """How a host's table holds times."""

    TIMESTAMP = "timestamp"
    UNIX_S = "unix_s"
    UNIX_MS = "unix_ms"
    UNIX_US = "unix_us"


class Times(Protocol):
    """Reads and writes the times of one table."""

    @property
    def type(self) -> TypeEngine[Any]:
        """Of its columns, as values travel to and from the driver."""
        ...

    def chosen(self, column: Column[Any]) -> ColumnElement[Any]:
        """Make the expression that selects a column so that its driver can hand every row out."""
        ...

    def read(self, raw: Any) -> datetime | None:
        """Turn what a row holds into an aware time.

        Raises:
            BadFieldError: it is none, or none that Python can hold.
        """
        ...

    def write(self, moment: datetime) -> object:
        """Turn an aware time into what a row holds."""
        ...

    def sortable(self, held: ColumnElement[Any]) -> ColumnElement[Any]:
        """Make what puts a column, or a value as it holds them, in the order of time."""
        ...

    def mark(self, moment: datetime, held: ColumnElement[Any]) -> ColumnElement[Any]:
        """Make what an aware time is compared as with a column's :meth:`sortable`."""
        ...


class _Plain:
    """Times that the database compares rightly as they stand."""

    type: TypeEngine[Any]

    def write(self, moment: datetime) -> object:
        """Turn an aware time into what a row holds."""
        raise NotImplementedError

    def sortable(self, held: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return it, so that an index on it is used."""
        return held

    def mark(self, moment: datetime, held: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the time as a row holds it."""
        return literal(self.write(moment), self.type)


class OurTimes(_Plain):
    """The times of our own tables."""

    type: TypeEngine[Any] = Moment()

    def chosen(self, column: Column[Any]) -> ColumnElement[Any]:
        """Select it within what can be reckoned with."""
        return _within(column, self)

    def read(self, raw: Any) -> datetime | None:
        """Return it: the column's type has read it already."""
        moment: datetime | None = raw
        return moment

    def write(self, moment: datetime) -> object:
        """Return it: the column's type writes it."""
        return moment


class UnixTimes(_Plain):
    """Times as whole units since 1970.

    Args:
        form: which unit.
    """

    type: TypeEngine[Any] = BigInteger()

    def __init__(self, form: TimeForm) -> None:
        per_s = {TimeForm.UNIX_S: 1, TimeForm.UNIX_MS: 1000, TimeForm.UNIX_US: 1_000_000}
        self._us = 1_000_000 // per_s[form]

    def chosen(self, column: Column[Any]) -> ColumnElement[Any]:
        """Select it as it is: every number can be handed out."""
        return column

    def read(self, raw: Any) -> datetime | None:
        """Turn a number into a time."""
        if raw is None:
            return None
        try:
            return _EPOCH + timedelta(microseconds=int(raw) * self._us)
        except (ArithmeticError, TypeError, ValueError) as error:
            raise _no_time(raw) from error

    def write(self, moment: datetime) -> object:
        """Turn a time into a number; parts of a unit fall away."""
        return (moment - _EPOCH) // timedelta(microseconds=self._us)


class Timestamps(_Plain):
    """Times in the database's own type; on SQLite text as most frameworks write it there.

    Args:
        zone: of times that name none.
        aware: the columns carry a zone (``timestamptz``).
        text: the database is SQLite.
    """

    def __init__(self, zone: tzinfo, *, aware: bool, text: bool) -> None:
        self._zone, self._aware, self._text = zone, aware, text
        self.type: TypeEngine[Any] = Text() if text else DateTime(timezone=aware)

    def chosen(self, column: Column[Any]) -> ColumnElement[Any]:
        """Select it, on PostgreSQL within what can be reckoned with: it knows infinity."""
        return column if self._text else _within(column, self)

    def read(self, raw: Any) -> datetime | None:
        """Turn what the driver returns into a time."""
        if raw is None or raw == "":
            return None
        try:
            moment = raw if isinstance(raw, datetime) else datetime.fromisoformat(raw)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=self._zone)
            return moment.astimezone(UTC)
        except (ArithmeticError, TypeError, ValueError) as error:
            raise _no_time(raw) from error

    def write(self, moment: datetime) -> object:
        """Turn a time into what the column takes."""
        local = moment if self._aware else moment.astimezone(self._zone).replace(tzinfo=None)
        return _as_text(local) if self._text else local

    def sortable(self, held: ColumnElement[Any]) -> ColumnElement[Any]:
        """Bring the forms of a time in text (``T``, no fraction, a zone) into one; UTC with a zone.

        The seconds and the fraction one by one: SQLite's own functions round to milliseconds.
        """
        if not self._text:
            return held
        size = func.length(held) - case(
            (held.like("%Z"), 1), (held.op("GLOB")(_OFFSET), len("+00:00")), else_=0
        )
        whole = func.substr(held, 1, 19)
        seconds = case(
            (_zoned(held), func.datetime(whole.concat(func.substr(held, size + 1)))),
            else_=func.datetime(whole),
        )
        fraction = func.substr(func.substr(held, 21, size - 20).concat("000000"), 1, 6)
        plain = func.substr(held, 20, 1) == "."
        ordered = seconds.concat(".").concat(case((plain, fraction), else_="000000"))
        return func.coalesce(ordered, held)

    def mark(self, moment: datetime, held: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the time as :meth:`sortable` writes that of the row it is compared with."""
        local = literal(self.write(moment), self.type)
        if not self._text:
            return local
        utc = literal(_as_text(moment.astimezone(UTC)), self.type)
        return case((_zoned(held), utc), else_=local)


# How a time ends that names its zone by its offset, as SQLite's GLOB finds it.
_OFFSET = "*[+-][0-9][0-9]:[0-9][0-9]"


def _zoned(held: ColumnElement[Any]) -> ColumnElement[bool]:
    return or_(held.like("%Z"), held.op("GLOB")(_OFFSET))


def _as_text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundLayout:
    """Where refunds stand; see :class:`Layout`."""

    table: Table
    refund_no: Column[Any]
    order_no: Column[Any]
    amount: Column[Any]
    state: Column[Any]
    placed_at: Column[Any]
    changed_at: Column[Any] | None
    states: Mapping[RefundState, tuple[HostState, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where orders stand.

    Attributes:
        merchant, channel, currency: a column, or the one value of all rows.
        states: the host's values per state of ours; the first is the one that is written.
        major: amounts are decimals in major units; else whole minor units.
        channels: the host's names of channels, where they are not ours.
    """

    table: Table
    order_no: Column[Any]
    merchant: Column[Any] | str
    channel: Column[Any] | str
    currency: Column[Any] | str
    amount: Column[Any]
    state: Column[Any]
    placed_at: Column[Any]
    times: Times
    states: Mapping[OrderState, tuple[HostState, ...]]
    major: bool = False
    expires_at: Column[Any] | None = None
    paid_at: Column[Any] | None = None
    changed_at: Column[Any] | None = None
    channel_txn_no: Column[Any] | None = None
    refunded: Column[Any] | None = None
    notify_url: Column[Any] | None = None
    channels: Mapping[str, str] = field(default_factory=dict)
    refunds: RefundLayout | None = None

    def read_time(self, raw: Any, name: str) -> datetime | None:
        """Turn what a time's column holds into an aware time.

        Raises:
            BadFieldError: it holds none, or none that can be reckoned with.
        """
        try:
            moment = self.times.read(raw)
        except BadFieldError as error:
            raise BadFieldError(name, error.problem) from error
        if moment is not None and not EARLIEST < moment < LATEST:
            raise BadFieldError(name, _NO_TIME.format(str(raw)[:40]))
        return moment

    def read_expiry(self, raw: Any, name: str) -> datetime | None:
        """Turn what ``expires_at`` holds into a time; one that never comes is None.

        Raises:
            BadFieldError: as :meth:`read_time`.
        """
        try:
            moment = self.times.read(raw)
        except BadFieldError:
            moment = None
        return None if moment is not None and moment >= LATEST else self.read_time(raw, name)

    def read_amount(self, raw: Any, currency: str, name: str) -> int:
        """Turn what an amount's column holds into whole minor units.

        Raises:
            BadFieldError: it does not hold that.
        """
        if self.major:
            minor = money.to_minor(str(raw), currency)
            if minor is None:
                raise BadFieldError(name, f"{str(raw)[:40]!r} {currency} is no amount of money")
            return minor
        if isinstance(raw, bool) or not isinstance(raw, int | Decimal) or raw != int(raw):
            raise BadFieldError(name, f"{str(raw)[:40]!r} is no whole number of minor units")
        return int(raw)

    def write_amount(self, minor: int, currency: str) -> object:
        """Turn whole minor units into what an amount's column takes."""
        return Decimal(money.to_major(minor, currency)) if self.major else minor


_NO_TIME = "{!r} is no time to reckon with; leave it empty, and compare times in orders.toml"


def _no_time(raw: object) -> BadFieldError:
    return BadFieldError("time", _NO_TIME.format(str(raw)[:40]))


def _within(column: Column[Any], times: Times) -> ColumnElement[Any]:
    # The driver raises for a whole page at what Python's times cannot hold.
    low, high = (literal(times.write(end), times.type) for end in (EARLIEST, LATEST))
    return case((column <= low, low), (column >= high, high), else_=column)


_CURRENCY = re.compile(r"[A-Z]{3}").fullmatch


def check_currency(value: object, field_name: str = "currency") -> str:
    """Return a currency code of three capital letters.

    Raises:
        BadFieldError: it is none.
    """
    if not isinstance(value, str) or not _CURRENCY(value):
        raise BadFieldError(
            field_name, f"{str(value)[:10]!r} is no currency; write its ISO 4217 code, like CNY"
        )
    return value


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
