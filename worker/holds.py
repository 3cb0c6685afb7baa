"""Legal holds: what must be kept, whatever its age.

A hold names an order (or a refund) by its number, or an endpoint; nothing about it is removed
until the hold is lifted. Must never let anything slip away while a hold is being placed: once
:func:`add` has returned, what it names stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    delete,
    exists,
    insert,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError

from worker.endpoint_fields import check_person
from worker.errors import BadFieldError, NotFoundError
from worker.fields import visible
from worker.tables import audit, endpoint
from worker.tables_retention import legal_hold

_ORDER_MAX = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One hold; either ``order_no`` or ``endpoint`` (its name) is set, the other is None."""

    order_no: str | None
    endpoint: str | None
    who: str
    why: str
    placed_at: datetime


def add(
    engine: Engine, *, who: str, why: str, order_no: str | None = None, endpoint: str | None = None
) -> bool:
    """Place a hold; answers False when it stands already, and then changes nothing.

    Waits for a batch of the retention that runs, some 100 ms.

    Args:
        engine: of the database with our tables.
        who: kept in the audit log.
        why: kept in the audit log.
        order_no: of an order or a refund, 1 to 128 visible ASCII characters.
        endpoint: name of an endpoint; give one of the two.

    Raises:
        BadFieldError: names the field; nothing was changed.
        NotFoundError: no such endpoint.
    """
    who, why = check_person(who, "who"), check_person(why, "why")
    try:
        with engine.begin() as tx:
            key = _key(tx, order_no, endpoint)
            tx.execute(insert(legal_hold).values(**key, who=who, why=why))
            _keep(tx, "hold.add", order_no, endpoint, who, why)
    except IntegrityError:
        return False
    return True


def lift(
    engine: Engine, *, who: str, why: str, order_no: str | None = None, endpoint: str | None = None
) -> None:
    """Lift a hold: what it kept is removed with the next round of the retention.

    Raises:
        BadFieldError: names the field; nothing was changed.
        NotFoundError: no such hold or endpoint, so calling it again says so.
    """
    who, why = check_person(who, "who"), check_person(why, "why")
    with engine.begin() as tx:
        key = _key(tx, order_no, endpoint)
        gone = tx.execute(
            delete(legal_hold).where(*(legal_hold.c[name] == value for name, value in key.items()))
        )
        if not gone.rowcount:
            raise NotFoundError(
                "legal hold", str(order_no or endpoint), "`paynotify hold list` shows them"
            )
        _keep(tx, "hold.lift", order_no, endpoint, who, why)


def find(engine: Engine, *, limit: int = 1000) -> Sequence[Hold]:
    """Return the holds, oldest first, at most ``limit`` of them."""
    query = (
        select(legal_hold, endpoint.c.name)
        .outerjoin(endpoint, endpoint.c.id == legal_hold.c.endpoint_id)
        .order_by(legal_hold.c.placed_at, legal_hold.c.order_no)
        .limit(limit)
    )
    with engine.connect() as connection:
        return [
            Hold(
                order_no=row.order_no or None,
                endpoint=row.name,
                who=row.who,
                why=row.why,
                placed_at=row.placed_at,
            )
            for row in connection.execute(query)
        ]


def freeze(tx: Connection) -> None:
    """Let nobody place or lift a hold until this transaction ends; first thing in a batch."""
    # SQLite has one writer at a time anyway.
    if tx.dialect.name == "postgresql":
        tx.execute(text("LOCK TABLE paynotify_legal_hold IN SHARE MODE"))


def on_order(number: ColumnElement[str] | ColumnElement[str | None]) -> ColumnElement[bool]:
    """Say in SQL whether the order or refund of this number is held."""
    return exists().where(legal_hold.c.order_no == number, legal_hold.c.endpoint_id == 0)


def on_endpoint(endpoint_id: ColumnElement[int]) -> ColumnElement[bool]:
    """Say in SQL whether this endpoint is held."""
    return exists().where(legal_hold.c.order_no == "", legal_hold.c.endpoint_id == endpoint_id)


def _key(tx: Connection, order_no: str | None, name: str | None) -> dict[str, object]:
    if (order_no is None) == (name is None):
        raise BadFieldError("order", "give an order or an endpoint, one of the two")
    if order_no is not None:
        return {"order_no": visible(order_no, "order", _ORDER_MAX), "endpoint_id": 0}
    found = tx.scalar(select(endpoint.c.id).where(endpoint.c.name == name))
    if found is None:
        raise NotFoundError("endpoint", str(name)[:64], "`paynotify endpoint list` shows them")
    return {"order_no": "", "endpoint_id": found}


def _keep(
    tx: Connection, action: str, order_no: str | None, name: str | None, who: str, why: str
) -> None:
    subject = f"endpoint {name}" if order_no is None else f"order {order_no}"
    tx.execute(insert(audit).values(actor=who, action=action, subject=subject, why=why))
