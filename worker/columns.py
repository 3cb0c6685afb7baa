"""Column types that mean the same on both databases, and the one collection of our tables."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Dialect,
    Identity,
    Integer,
    MetaData,
    Text,
    TypeDecorator,
    literal_column,
    or_,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from worker import clock


class Moment(TypeDecorator[datetime]):
    """An aware time: ``timestamptz`` on PostgreSQL, microseconds since 1970 on SQLite."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Pick the column type."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(TIMESTAMP(timezone=True))
        return dialect.type_descriptor(BigInteger())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> object:
        """Write an aware time."""
        if value is None or dialect.name == "postgresql":
            return value
        return clock.to_us(value)

    def process_result_value(self, value: object, dialect: Dialect) -> datetime | None:
        """Read an aware time."""
        if value is None:
            return None
        if isinstance(value, datetime):
            return value.astimezone(UTC)
        return clock.from_us(int(str(value)))


class database_now(FunctionElement[datetime]):  # noqa: N801 - reads as SQL
    """The database's own clock, as a column default."""

    inherit_cache = True
    type = Moment()


@compiles(database_now, "postgresql")
def _now_postgresql(_e: database_now, _c: SQLCompiler, **_kw: object) -> str:
    return "now()"


@compiles(database_now, "sqlite")
def _now_sqlite(_e: database_now, _c: SQLCompiler, **_kw: object) -> str:
    return SQLITE_NOW


# julianday() is a double of days: good to about 40 microseconds in this century.
SQLITE_NOW = "(CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER))"

metadata = MetaData()
BigId = BigInteger().with_variant(Integer(), "sqlite")


def identity() -> Column[int]:
    """Make the key column ``id``, counted by the database."""
    return Column("id", BigId, Identity(always=False), primary_key=True)


def moment(name: str, *, nullable: bool = True, default: bool = False) -> Column[datetime]:
    """Make a time; ``default`` is the database's own clock."""
    return Column(
        name, Moment(), nullable=nullable, server_default=database_now() if default else None
    )


def words(name: str, default: str = "") -> Column[str]:
    """Make a text column that is never NULL."""
    return Column(name, Text, nullable=False, server_default=default)


def number(name: str, default: int = 0) -> Column[int]:
    """Make a whole number that is never NULL."""
    return Column(name, Integer, nullable=False, server_default=str(default))


def spelled(column: ColumnElement[str], *words: str) -> ColumnElement[bool]:
    """Compare a column with some of our own words, written out instead of bound.

    A plan made without the value could not use the partial indexes, which name it.
    """
    return or_(*(column == literal_column(f"'{word}'") for word in words))
