"""What merchants are told about orders and refunds: one event each, the same bytes every time.

Pure. Must never give an event two keys, nor write an amount that is not exact.
"""

from datetime import UTC, datetime

from schedules import money
from schedules.decisions import (
    PAYMENT_CLOSED,
    PAYMENT_FAILED,
    PAYMENT_SUCCEEDED,
    REFUND_FAILED,
    REFUND_SUCCEEDED,
)
from schedules.ports import Order, Refund
from worker.drafts import Enqueue

# What the key ends in, and what state the merchant is told.
_ORDER_STATES = {PAYMENT_SUCCEEDED: "paid", PAYMENT_CLOSED: "closed", PAYMENT_FAILED: "failed"}
_REFUND_STATES = {REFUND_SUCCEEDED: "refunded", REFUND_FAILED: "refund_failed"}


def of_order(order: Order, event: str) -> Enqueue:
    """Write an order's event; the key is the one a host would give it (``A7:paid``).

    Args:
        order: as it stands after it was moved.
        event: one of the payment events.
    """
    state = _ORDER_STATES[event]
    paid = event == PAYMENT_SUCCEEDED
    return Enqueue(
        merchant=order.merchant,
        event_type=event,
        event_key=f"{order.order_no}:{state}",
        order_no=order.order_no,
        notify_url=order.notify_url,
        payload={
            "event": event,
            "order_no": order.order_no,
            "state": state,
            "amount_minor": order.amount_minor,
            "amount": money.to_major(order.amount_minor, order.currency),
            "currency": order.currency,
            "channel": order.channel,
            "channel_txn_no": order.channel_txn_no,
            "paid_at": _moment(order.paid_at) if paid else None,
        },
    )


def of_refund(order: Order, refund: Refund, event: str) -> Enqueue:
    """Write a refund's event (key ``R1:refunded``).

    Args:
        order: that it belongs to.
        refund: the refund.
        event: one of the refund events.
    """
    state = _REFUND_STATES[event]
    return Enqueue(
        merchant=order.merchant,
        event_type=event,
        event_key=f"{refund.refund_no}:{state}",
        order_no=order.order_no,
        notify_url=order.notify_url,
        payload={
            "event": event,
            "refund_no": refund.refund_no,
            "order_no": order.order_no,
            "state": state,
            "amount_minor": refund.amount_minor,
            "amount": money.to_major(refund.amount_minor, order.currency),
            "currency": order.currency,
            "channel": order.channel,
        },
    )


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
