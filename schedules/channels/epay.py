"""epay (易支付): what most card shops and small gateways speak, ``api.php?act=order``.

The reply carries **no signature**: nothing but TLS says that it is the gateway's, so plain HTTP
here believes whoever stands between. The contract puts the merchant's key into the query string;
it is never logged. The protocol can neither close an order nor ask about a refund.

Must never take a reply for a success because a word stands in it.
"""

from functools import partial
from urllib.parse import urlencode

from schedules.channels.http import Answer, Ask, Http
from schedules.channels.options import ApiKey, RouteOptions, Word
from schedules.channels.reading import (
    UnclearError,
    beijing_time,
    finding,
    json_object,
    must_be,
    need_status,
    reference,
    unknown,
)
from schedules.ports import ChannelState, Finding, Order, Refund, RefundFinding

_TIME = "%Y-%m-%d %H:%M:%S"
_STATES = {
    "0": ChannelState.UNPAID,
    "1": ChannelState.PAID,
    # Refunded; the reply does not say how much of it.
    "2": ChannelState.PARTIAL_REFUND,
}


class Options(RouteOptions):
    """How one gateway is asked; ``url`` is its front page, without ``api.php``."""

    pid: Word
    key: ApiKey


class Epay:
    """One route to an epay gateway."""

    def __init__(self, options: Options, http: Http) -> None:
        self._options = options
        self._http = http

    def query(self, order: Order) -> Finding:
        """Ask by our order number."""
        answer = self._http.send(request(self._options, order))
        return finding(answer, partial(read_query, order=order, options=self._options))

    def close(self, order: Order) -> Finding:
        """Say that epay cannot."""
        return unknown("epay cannot close orders")

    def query_refund(self, order: Order, refund: Refund) -> RefundFinding:
        """Say that epay cannot."""
        return RefundFinding(state=None, detail="epay cannot be asked about refunds")


def make(options: Options, http: Http) -> Epay:
    """Make one route."""
    return Epay(options, http)


def request(options: Options, order: Order) -> Ask:
    """Write the question; the key is part of its URL."""
    query = urlencode(
        {
            "act": "order",
            "pid": options.pid,
            "key": options.key,
            "out_trade_no": order.order_no,
        }
    )
    return Ask(url=f"{options.url.rstrip('/')}/api.php?{query}")


def read_query(answer: Answer, order: Order, options: Options) -> Finding:
    """Read the reply to ``act=order``; ``money`` is in major units."""
    need_status(answer, 200)
    fields = json_object(answer.body)
    message = fields.maybe("msg")
    code = fields.maybe("code")
    if code != "1":
        # Only the words tell an unknown order from a wrong key; both come as code -1.
        if "订单" in message and "不存在" in message:
            return Finding(state=ChannelState.NOT_FOUND, detail=f"code {code} {message}")
        raise UnclearError(f"code {code or '?'} {message}".rstrip())
    must_be(fields.maybe("out_trade_no"), order.order_no, "order")
    must_be(fields.maybe("pid"), options.pid, "merchant")
    status = fields.text("status")
    if status not in _STATES:
        return unknown(f"status is {status}, which settles nothing")
    return Finding(
        state=_STATES[status],
        amount_minor=fields.amount("money", options.currency),
        currency=options.currency,
        channel_txn_no=reference(fields.maybe("trade_no")),
        paid_at=beijing_time(fields.maybe("endtime"), _TIME) if status != "0" else None,
        detail=f"status {status}",
    )
