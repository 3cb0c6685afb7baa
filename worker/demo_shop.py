"""The demo's host platform: orders in a table of its own, notifications in the same transaction."""

from collections.abc import Iterable, Mapping
from datetime import timedelta

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    MetaData,
    Table,
    Text,
    insert,
    select,
    update,
)

from worker import clock
from worker.client import Notifier

# One event: order number and event type.
Event = tuple[str, str]
PAID, REFUNDED = "payment.succeeded", "refund.succeeded"

_METADATA = MetaData()
_ORDER = Table(
    "demo_order",
    _METADATA,
    Column("order_no", Text, primary_key=True),
    Column("merchant", Text, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("state", Text, nullable=False),
)
_PRICES = ((12800, "CNY"), (990, "CNY"), (45000, "CNY"), (6600, "HKD"), (100, "CNY"))
_CHANNELS = ("alipay", "wechat", "unionpay")
_BEIJING = timedelta(hours=8)


class Shop:
    """Takes orders and tells merchants through the client, as any host would.

    Args:
        engine: of the database that holds its own table and ours.
        notifier: the client.
    """

    def __init__(self, engine: Engine, notifier: Notifier) -> None:
        self._engine = engine
        self._notifier = notifier
        self._count = 0

    def open(self) -> None:
        """Make its table."""
        _METADATA.create_all(self._engine)

    def pay(self, merchant: str) -> str:
        """Record a paid order and its notification, together; returns the order number."""
        with self._engine.begin() as tx:
            return self._pay(tx, merchant)

    def pay_together(self, merchants: Iterable[str]) -> None:
        """Record one paid order for each, all in one transaction, as a till that was offline."""
        with self._engine.begin() as tx:
            for merchant in merchants:
                self._pay(tx, merchant)

    def pay_and_roll_back(self, merchant: str) -> str:
        """Do the same in a transaction that does not commit."""
        with self._engine.connect() as tx:
            order_no = self._pay(tx, merchant)
            tx.rollback()
        return order_no

    def refund(self, order_no: str) -> None:
        """Record the refund of a paid order and its notification."""
        with self._engine.begin() as tx:
            order = tx.execute(select(_ORDER).where(_ORDER.c.order_no == order_no)).one()
            tx.execute(update(_ORDER).where(_ORDER.c.order_no == order_no).values(state=REFUNDED))
            self._tell(tx, REFUNDED, order._asdict())

    def promised(self, merchant: str) -> set[Event]:
        """Return the events a merchant must hear of, as the shop's own table says."""
        query = select(_ORDER.c.order_no, _ORDER.c.state).where(_ORDER.c.merchant == merchant)
        with self._engine.connect() as tx:
            rows = tx.execute(query).all()
        return {(row.order_no, PAID) for row in rows} | {
            (row.order_no, REFUNDED) for row in rows if row.state == REFUNDED
        }

    def _pay(self, tx: Connection, merchant: str) -> str:
        self._count += 1
        amount_minor, currency = _PRICES[self._count % len(_PRICES)]
        local = clock.now() + _BEIJING
        order = {
            "order_no": f"{local:%Y%m%d%H%M%S}{self._count:06d}",
            "merchant": merchant,
            "amount_minor": amount_minor,
            "currency": currency,
            "channel": _CHANNELS[self._count % len(_CHANNELS)],
            "state": PAID,
        }
        tx.execute(insert(_ORDER).values(order))
        self._tell(tx, PAID, order)
        return str(order["order_no"])

    def _tell(self, tx: Connection, event_type: str, order: Mapping[str, object]) -> None:
        order_no = str(order["order_no"])
        self._notifier.enqueue(
            tx,
            merchant=str(order["merchant"]),
            event_type=event_type,
            event_key=f"{order_no}:{event_type}",
            order_no=order_no,
            payload={
                "type": event_type,
                "order_no": order_no,
                "amount_minor": order["amount_minor"],
                "currency": order["currency"],
                "channel": order["channel"],
                "at": clock.now().isoformat(timespec="seconds"),
            },
        )
