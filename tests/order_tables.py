"""Tables of orders for tests: ours, and two that hosts could have, with the files that map them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Engine, text

from schedules import orders_mapped, orders_options
from schedules.orders import Orders
from schedules.orders_sql import SqlOrders
from schedules.ports import OrderState, RefundState
from worker.tables_orders import payment_order, refund

# A gateway's: whole minor units, numbered states, timestamps without a zone, odd names.
GATEWAY = {
    "name": "t_pay_order",
    "amount_unit": "minor",
    "zone": "Asia/Shanghai",
    "columns": {
        "order_no": "Pay Order",
        "merchant": "mch_no",
        "channel": "if_code",
        "currency": "currency",
        "amount": "amount",
        "state": "state",
        "placed_at": "created_at",
        "expires_at": "expired_time",
        "paid_at": "success_time",
        "changed_at": "updated_at",
        "channel_txn_no": "channel_order_no",
        "refunded": "refund_amount",
        "notify_url": "notify_url",
    },
    "states": {
        "created": [0],
        "pending": [1],
        "paid": [2],
        "failed": [3],
        "closed": [6, 4],
        "partial_refund": [7],
        "refunded": [5],
    },
    "channels": {"wxpay": "wechat"},
    "refunds": {
        "name": "t_refund_order",
        "columns": {
            "refund_no": "refund_id",
            "order_no": "pay_order",
            "amount": "amount",
            "state": "state",
            "placed_at": "created_at",
            "changed_at": "updated_at",
        },
        "states": {
            "created": [0],
            "processing": [1],
            "success": [2],
            "failed": [3],
            "abnormal": [9],
        },
    },
}
# A card shop's: decimals, words, seconds since 1970.
SHOP = {
    "name": "orders",
    "amount_unit": "major",
    "times": "unix_s",
    "columns": {
        "order_no": "no",
        "merchant": "seller",
        "channel": "pay_type",
        "amount": "total",
        "state": "status",
        "placed_at": "created",
        "expires_at": "expires",
        "paid_at": "paid",
        "changed_at": "updated",
        "channel_txn_no": "trade_no",
        "refunded": "returned",
        "notify_url": "callback",
    },
    "fixed": {"currency": "CNY"},
    "states": {
        "created": ["new"],
        "pending": ["wait"],
        "paid": ["done", "shipped"],
        "failed": ["error"],
        "closed": ["gone"],
        "partial_refund": ["part"],
        "refunded": ["back"],
    },
    "refunds": {
        "name": "returns",
        "columns": {
            "refund_no": "no",
            "order_no": "order_no",
            "amount": "total",
            "state": "status",
            "placed_at": "created",
        },
        "states": {
            "created": ["new"],
            "processing": ["wait"],
            "success": ["done"],
            "failed": ["error"],
            "abnormal": ["stuck"],
        },
    },
}
_GATEWAY_SQL = """
CREATE TABLE t_pay_order ("Pay Order" VARCHAR(64) PRIMARY KEY, mch_no VARCHAR(64) NOT NULL,
 if_code VARCHAR(20) NOT NULL, currency CHAR(3) NOT NULL, amount BIGINT NOT NULL,
 state SMALLINT NOT NULL, created_at TIMESTAMP NOT NULL, expired_time TIMESTAMP,
 success_time TIMESTAMP, updated_at TIMESTAMP NOT NULL, channel_order_no VARCHAR(64),
 refund_amount BIGINT, notify_url VARCHAR(128));
CREATE TABLE t_refund_order (refund_id VARCHAR(64) PRIMARY KEY, pay_order VARCHAR(64) NOT NULL,
 amount BIGINT NOT NULL, state SMALLINT NOT NULL, created_at TIMESTAMP NOT NULL,
 updated_at TIMESTAMP NOT NULL)
"""
_SHOP_SQL = """
CREATE TABLE orders (id INTEGER PRIMARY KEY, no TEXT NOT NULL UNIQUE, seller TEXT NOT NULL,
 pay_type TEXT NOT NULL, total NUMERIC(12, 2) NOT NULL, status TEXT NOT NULL,
 created BIGINT NOT NULL, expires BIGINT, paid BIGINT, updated BIGINT NOT NULL, trade_no TEXT,
 returned NUMERIC(12, 2), callback TEXT);
CREATE TABLE returns (no TEXT PRIMARY KEY, order_no TEXT NOT NULL, total NUMERIC(12, 2) NOT NULL,
 status TEXT NOT NULL, created BIGINT NOT NULL)
"""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A table of orders: the port on it, and the host's own way in.

    Attributes:
        add: writes ``(tx, order_no, state, minor, placed_at, **more)``.
        add_refund: writes ``(tx, refund_no, order_no, state, minor, placed_at)``.
        overwrite: sets an order's state as the host would, asking nobody.
    """

    name: str
    port: SqlOrders
    add: Callable[..., None]
    add_refund: Callable[..., None]
    overwrite: Callable[[Connection, str, OrderState], None]


def open_place(engine: Engine, name: str) -> Place:
    """Make one of ``own``, ``gateway``, ``shop``."""
    if name == "own":
        return Place(
            name=name,
            port=Orders(),
            add=_add_own,
            add_refund=_add_own_refund,
            overwrite=lambda tx, no, state: _set(tx, payment_order.name, "order_no", no, state),
        )
    statements, options = {"gateway": (_GATEWAY_SQL, GATEWAY), "shop": (_SHOP_SQL, SHOP)}[name]
    with engine.begin() as tx:
        for statement in statements.split(";"):
            tx.execute(text(statement))
    return Place(name=name, port=mapped(engine, options), **_HOSTS[name])


def mapped(engine: Engine, table: dict[str, Any]) -> SqlOrders:
    """Open a host's table as orders.toml would have it."""
    checked = orders_options.check({"table": table}, "orders.toml")
    assert checked.table is not None
    return orders_mapped.open_mapped(engine, checked.table, where="orders.toml")


def _set(tx: Connection, table: str, key: str, no: str, state: object) -> None:
    column = "status" if table == "orders" else "state"
    tx.execute(
        text(f'UPDATE {table} SET {column} = :state WHERE "{key}" = :no'),
        {"state": state, "no": no},
    )


def _add_own(
    tx: Connection, no: str, state: OrderState, minor: int, placed_at: datetime, **more: Any
) -> None:
    tx.execute(
        payment_order.insert().values(
            order_no=no,
            merchant=more.pop("merchant", "m-1"),
            channel=more.pop("channel", "wechat"),
            amount_minor=minor,
            currency="CNY",
            state=state.value,
            created_at=placed_at,
            updated_at=more.pop("changed_at", placed_at),
            **more,
        )
    )


def _add_own_refund(
    tx: Connection, no: str, order_no: str, state: RefundState, minor: int, placed_at: datetime
) -> None:
    values = {"refund_no": no, "order_no": order_no, "amount_minor": minor, "state": state.value}
    tx.execute(refund.insert().values(**values, created_at=placed_at))


def _local(moment: datetime | None) -> str | None:
    # As a host in China writes it: wall clock, no zone.
    if moment is None:
        return None
    return (moment + timedelta(hours=8)).strftime("%Y-%m-%d %H:%M:%S.%f")


def _add_gateway(
    tx: Connection, no: str, state: OrderState, minor: int, placed_at: datetime, **more: Any
) -> None:
    values = {
        "no": no,
        "merchant": more.get("merchant", "m-1"),
        "channel": more.get("channel", "wxpay"),
        "amount": minor,
        "state": _GATEWAY_STATES[state],
        "placed": _local(placed_at),
        "expires": _local(more.get("expires_at")),
        "changed": _local(more.get("changed_at", placed_at)),
        "url": more.get("notify_url"),
        "refunded": more.get("refunded_minor"),
    }
    tx.execute(
        text(
            "INSERT INTO t_pay_order VALUES (:no, :merchant, :channel, 'CNY', :amount, :state,"
            " CAST(:placed AS TIMESTAMP), CAST(:expires AS TIMESTAMP), NULL,"
            " CAST(:changed AS TIMESTAMP), NULL, :refunded, :url)"
            if tx.dialect.name == "postgresql"
            else "INSERT INTO t_pay_order VALUES (:no, :merchant, :channel, 'CNY', :amount, :state,"
            " :placed, :expires, NULL, :changed, NULL, :refunded, :url)"
        ),
        values,
    )


def _add_gateway_refund(
    tx: Connection, no: str, order_no: str, state: RefundState, minor: int, placed_at: datetime
) -> None:
    placed = "CAST(:at AS TIMESTAMP)" if tx.dialect.name == "postgresql" else ":at"
    tx.execute(
        text(
            f"INSERT INTO t_refund_order VALUES (:no, :order, :minor, :state, {placed}, {placed})"
        ),
        {
            "no": no,
            "order": order_no,
            "minor": minor,
            "state": GATEWAY["refunds"]["states"][state.value][0],  # type: ignore[index]
            "at": _local(placed_at),
        },
    )


def _unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


def _add_shop(
    tx: Connection, no: str, state: OrderState, minor: int, placed_at: datetime, **more: Any
) -> None:
    refunded = more.get("refunded_minor")
    tx.execute(
        text(
            "INSERT INTO orders (id, no, seller, pay_type, total, status, created, expires,"
            " updated, returned, callback) VALUES ((SELECT coalesce(max(id), 0) + 1 FROM orders),"
            " :no, :merchant, :channel, :total, :status, :created, :expires, :updated, :returned,"
            " :url)"
        ),
        {
            "no": no,
            "merchant": more.get("merchant", "m-1"),
            "channel": more.get("channel", "wechat"),
            "total": _decimal(tx, minor),
            "status": _SHOP_STATES[state],
            "created": _unix(placed_at),
            "expires": _unix(more.get("expires_at")),
            "updated": _unix(more.get("changed_at", placed_at)),
            "returned": None if refunded is None else _decimal(tx, refunded),
            "url": more.get("notify_url"),
        },
    )


def _add_shop_refund(
    tx: Connection, no: str, order_no: str, state: RefundState, minor: int, placed_at: datetime
) -> None:
    status = SHOP["refunds"]["states"][state.value][0]  # type: ignore[index]
    tx.execute(
        text("INSERT INTO returns VALUES (:no, :order, :total, :status, :at)"),
        {
            "no": no,
            "order": order_no,
            "total": _decimal(tx, minor),
            "status": status,
            "at": _unix(placed_at),
        },
    )


def _decimal(tx: Connection, minor: int) -> object:
    major = Decimal(minor) / 100
    return major if tx.dialect.name == "postgresql" else str(major)


_GATEWAY_STATES = {s: GATEWAY["states"][s.value][0] for s in OrderState}  # type: ignore[index]
_SHOP_STATES = {s: SHOP["states"][s.value][0] for s in OrderState}  # type: ignore[index]
_HOSTS: dict[str, dict[str, Any]] = {
    "gateway": {
        "add": _add_gateway,
        "add_refund": _add_gateway_refund,
        "overwrite": lambda tx, no, state: _set(
            tx, "t_pay_order", "Pay Order", no, _GATEWAY_STATES[state]
        ),
    },
    "shop": {
        "add": _add_shop,
        "add_refund": _add_shop_refund,
        "overwrite": lambda tx, no, state: _set(tx, "orders", "no", no, _SHOP_STATES[state]),
    },
}
