"""Stripe PaymentIntents: by id, or by the order number in their metadata.

https://docs.stripe.com/api/payment_intents

Replies carry no signature; TLS says that they are Stripe's. A search finds an intent up to a
minute after it was made, so "not found" is never final. Must never pick one of two paid intents.
"""

from collections.abc import Callable
from urllib.parse import quote, urlencode

from schedules import money
from schedules.channels.http import Answer, Ask, Http
from schedules.channels.options import ApiKey, RouteOptions, Word
from schedules.channels.reading import (
    Fields,
    UnclearError,
    currency_code,
    finding,
    json_object,
    must_be,
    need_status,
    reference,
    refund_finding,
    unknown,
)
from schedules.ports import (
    ChannelState,
    Finding,
    Order,
    Refund,
    RefundFinding,
    RefundState,
)

_VERSION = "2024-06-20"
_STATES = {
    "succeeded": ChannelState.PAID,
    "canceled": ChannelState.CLOSED,
    **dict.fromkeys(
        (
            "requires_payment_method",
            "requires_confirmation",
            "requires_action",
            "requires_capture",
            "processing",
        ),
        ChannelState.UNPAID,
    ),
}
_REFUND_STATES = {
    "pending": RefundState.PROCESSING,
    "requires_action": RefundState.PROCESSING,
    "succeeded": RefundState.SUCCESS,
    "failed": RefundState.FAILED,
    "canceled": RefundState.FAILED,
}
# Where Stripe counts otherwise than ISO 4217: how many of its units make one of ISO's.
_ODD_UNITS = {"ISK": (1, 100), "UGX": (1, 100), "MGA": (100, 1)}


class Options(RouteOptions):
    """How one account is asked; a restricted key that may read PaymentIntents and Refunds is best.

    ``order_field`` and ``refund_field`` name the metadata in which the host keeps its numbers.
    """

    url: str = "https://api.stripe.com"
    key: ApiKey
    order_field: Word = "order_no"
    refund_field: Word = "refund_no"


class Stripe:
    """One route to Stripe."""

    def __init__(self, options: Options, http: Http) -> None:
        self._options = options
        self._http = http

    def query(self, order: Order) -> Finding:
        """Ask by the intent's id when it is known, else search by order number."""
        if order.channel_txn_no.startswith("pi_"):
            path = f"/v1/payment_intents/{quote(order.channel_txn_no, safe='')}"
            answer = self._get(path, {"expand[]": "latest_charge"})
            return finding(answer, self._reader(read_intent, order))
        answer = self._get(
            "/v1/payment_intents/search",
            {
                "query": search(self._options.order_field, order.order_no),
                "limit": "100",
                "expand[]": "data.latest_charge",
            },
        )
        return finding(answer, self._reader(read_search, order))

    def close(self, order: Order) -> Finding:
        """Cancel the intent; looks its id up first when it is not known."""
        intent = order.channel_txn_no
        if not intent.startswith("pi_"):
            found = self.query(order)
            if found.state is not ChannelState.UNPAID:
                return found
            intent = found.channel_txn_no
        path = f"/v1/payment_intents/{quote(intent, safe='')}/cancel"
        return finding(self._http.send(self._ask(path, "POST")), self._reader(read_cancel, order))

    def query_refund(self, order: Order, refund: Refund) -> RefundFinding:
        """Ask by the refund's id when our number is one, else look through the intent's refunds."""
        if refund.refund_no.startswith("re_"):
            answer = self._get(f"/v1/refunds/{quote(refund.refund_no, safe='')}", {})
            return refund_finding(answer, lambda got: read_refund(got, order, refund))
        intent = order.channel_txn_no
        if not intent.startswith("pi_"):
            intent = self.query(order).channel_txn_no
        if not intent:
            return RefundFinding(state=None, detail="the order's intent was not found")
        answer = self._get("/v1/refunds", {"payment_intent": intent, "limit": "100"})
        field = self._options.refund_field
        return refund_finding(answer, lambda got: read_refunds(got, intent, refund, field))

    def _get(self, path: str, query: dict[str, str]) -> Answer:
        return self._http.send(self._ask(f"{path}?{urlencode(query)}" if query else path, "GET"))

    def _ask(self, path: str, method: str) -> Ask:
        return Ask(
            method=method,
            url=self._options.url.rstrip("/") + path,
            headers=(
                ("Authorization", f"Bearer {self._options.key}"),
                ("Stripe-Version", _VERSION),
            ),
        )

    def _reader(
        self, read: Callable[[Answer, Order, str], Finding], order: Order
    ) -> Callable[[Answer], Finding]:
        return lambda answer: read(answer, order, self._options.order_field)


def make(options: Options, http: Http) -> Stripe:
    """Make one route."""
    return Stripe(options, http)


def search(field: str, order_no: str) -> str:
    r"""Write a search by metadata.

    Examples:
        >>> print(search("order_no", "A'7"))
        metadata['order_no']:'A\'7'
    """
    return f"metadata['{field}']:'{_escaped(order_no)}'"


def read_intent(answer: Answer, order: Order, field: str) -> Finding:
    """Read the reply to a query by id."""
    fields = _fields(answer)
    error = fields.inside("error")
    if answer.status == 404 and error.maybe("code") == "resource_missing":
        return Finding(state=ChannelState.NOT_FOUND, detail=_words(answer.status, error))
    _need_ok(answer, error)
    if order.channel_txn_no:
        must_be(fields.maybe("id"), order.channel_txn_no, "payment")
    return _intent(fields, order, field)


def read_search(answer: Answer, order: Order, field: str) -> Finding:
    """Read the reply to a search: the one that is paid, else the one that still may be."""
    fields = _fields(answer)
    _need_ok(answer, fields.inside("error"))
    if fields.is_true("has_more"):
        raise UnclearError("more than 100 intents carry this order number", route_failed=False)
    found = [_intent(intent, order, field) for intent in fields.each("data")]
    paid = [one for one in found if one.state not in (ChannelState.UNPAID, ChannelState.CLOSED)]
    if len(paid) > 1:
        raise UnclearError(
            f"{len(paid)} intents of this order were paid; refund all but one", route_failed=False
        )
    open_ones = [one for one in found if one.state is ChannelState.UNPAID]
    if paid or open_ones or found:
        return (paid or open_ones or found)[0]
    return Finding(state=ChannelState.NOT_FOUND, detail="no intent carries this order number")


def read_cancel(answer: Answer, order: Order, field: str) -> Finding:
    """Read the reply to a cancel; when it came too late, the reply shows the intent as it is."""
    fields = _fields(answer)
    error = fields.inside("error")
    if answer.status == 400 and error.has("payment_intent"):
        found = _intent(error.inside("payment_intent"), order, field)
        if found.state is ChannelState.UNPAID:
            return unknown(_words(400, error))
        return found
    if answer.status == 404 and error.maybe("code") == "resource_missing":
        return Finding(state=ChannelState.NOT_FOUND, detail=_words(404, error))
    _need_ok(answer, error)
    return _intent(fields, order, field)


def read_refund(answer: Answer, order: Order, refund: Refund) -> RefundFinding:
    """Read the reply to a query for one refund by its id."""
    fields = _fields(answer)
    _need_ok(answer, fields.inside("error"))
    must_be(fields.maybe("id"), refund.refund_no, "refund")
    if order.channel_txn_no:
        must_be(fields.maybe("payment_intent"), order.channel_txn_no, "payment")
    return _refund(fields)


def read_refunds(answer: Answer, intent: str, refund: Refund, field: str) -> RefundFinding:
    """Read the list of an intent's refunds and pick ours by its metadata."""
    fields = _fields(answer)
    _need_ok(answer, fields.inside("error"))
    ours = [
        one
        for one in fields.each("data")
        if one.inside("metadata").maybe(field) == refund.refund_no
        and one.maybe("payment_intent") == intent
    ]
    if len(ours) == 1:
        return _refund(ours[0])
    return RefundFinding(state=None, detail=f"{len(ours)} refunds carry this number")


def _intent(fields: Fields, order: Order, field: str) -> Finding:
    must_be(fields.inside("metadata").maybe(field), order.order_no, "order")
    status = fields.text("status")
    if status not in _STATES:
        raise UnclearError(f"status is {status[:64]}, which is not known")
    currency = currency_code(fields.text("currency"))
    state = _STATES[status]
    paid = state is ChannelState.PAID
    amount = _iso(fields.whole("amount_received" if paid else "amount"), currency)
    charge = fields.inside("latest_charge")
    refunded = None
    if paid and charge.has("amount_refunded"):
        refunded = _iso(charge.whole("amount_refunded"), currency)
        if refunded:
            state = ChannelState.REFUNDED if refunded >= amount else ChannelState.PARTIAL_REFUND
    return Finding(
        state=state,
        amount_minor=amount,
        currency=currency,
        channel_txn_no=reference(fields.text("id")),
        paid_at=charge.unix_time("created") if paid else None,
        refunded_minor=refunded,
        detail=status,
    )


def _refund(fields: Fields) -> RefundFinding:
    status = fields.text("status")
    if status not in _REFUND_STATES:
        raise UnclearError(f"status is {status[:64]}, which is not known")
    currency = currency_code(fields.text("currency"))
    return RefundFinding(
        state=_REFUND_STATES[status],
        amount_minor=_iso(fields.whole("amount"), currency),
        currency=currency,
        detail=f"{status} {fields.maybe('failure_reason')}".rstrip(),
    )


def _iso(amount: int, currency: str) -> int:
    times, by = _ODD_UNITS.get(currency, (1, 1))
    if amount % by or amount * times // by > money.MINOR_MAX:
        raise UnclearError(f"the amount is no whole number of minor units of {currency[:8]}")
    return amount * times // by


def _fields(answer: Answer) -> Fields:
    try:
        return json_object(answer.body)
    except UnclearError:
        # What stands before Stripe (a proxy, an error page) has only its status to tell.
        need_status(answer, 200)
        raise


def _need_ok(answer: Answer, error: Fields) -> None:
    if answer.status != 200 and error.has("type"):
        raise UnclearError(_words(answer.status, error))
    need_status(answer, 200)


def _words(status: int, error: Fields) -> str:
    # Not its message: that quotes part of the key.
    return f"HTTP {status} {error.maybe('type')} {error.maybe('code')}".rstrip()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
