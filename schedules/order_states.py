"""Which way orders and refunds may go, and which states mean what.

Pure. Must never allow a way out of PAID but into refunds, whoever asks.
"""

from collections.abc import Mapping

from schedules.ports import ChannelState, OrderState, RefundState

UNSETTLED = frozenset({OrderState.CREATED, OrderState.PENDING})
# Money came in; what happens then is refunds.
WAS_PAID = frozenset({OrderState.PAID, OrderState.PARTIAL_REFUND, OrderState.REFUNDED})
CHANNEL_SAYS_PAID = frozenset(
    {
        ChannelState.PAID,
        ChannelState.FINISHED,
        ChannelState.PARTIAL_REFUND,
        ChannelState.REFUNDED,
    }
)
# What CREATED may become by way of PENDING it may become at once: nobody saw it pending.
MOVES: Mapping[OrderState, frozenset[OrderState]] = {
    OrderState.CREATED: frozenset(
        {OrderState.PENDING, OrderState.PAID, OrderState.FAILED, OrderState.CLOSED}
    ),
    OrderState.PENDING: frozenset({OrderState.PAID, OrderState.FAILED, OrderState.CLOSED}),
    # The late payment: only with what the channel said as evidence.
    OrderState.CLOSED: frozenset({OrderState.PAID}),
    OrderState.FAILED: frozenset({OrderState.PAID}),
    OrderState.PAID: frozenset({OrderState.PARTIAL_REFUND, OrderState.REFUNDED}),
    OrderState.PARTIAL_REFUND: frozenset({OrderState.PARTIAL_REFUND, OrderState.REFUNDED}),
    OrderState.REFUNDED: frozenset(),
}

REFUND_OPEN = frozenset({RefundState.CREATED, RefundState.PROCESSING, RefundState.ABNORMAL})
REFUND_MOVES: Mapping[RefundState, frozenset[RefundState]] = {
    RefundState.CREATED: frozenset(
        {
            RefundState.PROCESSING,
            RefundState.SUCCESS,
            RefundState.FAILED,
            RefundState.ABNORMAL,
        }
    ),
    RefundState.PROCESSING: frozenset(
        {RefundState.SUCCESS, RefundState.FAILED, RefundState.ABNORMAL}
    ),
    # Not final: a person may still make it work at the channel.
    RefundState.ABNORMAL: frozenset({RefundState.SUCCESS, RefundState.FAILED}),
    RefundState.SUCCESS: frozenset(),
    RefundState.FAILED: frozenset(),
}


def may_move(before: OrderState, to: OrderState) -> bool:
    """Tell whether an order may go this way.

    Examples:
        >>> may_move(OrderState.PENDING, OrderState.PAID)
        True
        >>> may_move(OrderState.PAID, OrderState.CLOSED)
        False
    """
    return to in MOVES[before]


def may_move_refund(before: RefundState, to: RefundState) -> bool:
    """Tell whether a refund may go this way.

    Examples:
        >>> may_move_refund(RefundState.SUCCESS, RefundState.FAILED)
        False
    """
    return to in REFUND_MOVES[before]
