"""Orders and refunds as a host has them, for tests that ask a channel about them."""

from datetime import UTC, datetime

from schedules.ports import Order, OrderState, Refund, RefundState

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def order(order_no: str = "A7", channel: str = "alipay", *, txn_no: str = "") -> Order:
    """Make an order of 12.34."""
    return Order(
        order_no=order_no,
        merchant="m1",
        channel=channel,
        amount_minor=1234,
        currency="CNY",
        state=OrderState.PENDING,
        placed_at=NOW,
        channel_txn_no=txn_no,
    )


def refund(refund_no: str = "R1", order_no: str = "A7") -> Refund:
    """Make a refund of 0.34."""
    return Refund(
        refund_no=refund_no,
        order_no=order_no,
        amount_minor=34,
        state=RefundState.PROCESSING,
        placed_at=NOW,
    )
