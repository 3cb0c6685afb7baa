"""UnionPay's online gateway (ACP) 5.1.0: transaction query, signed RSA both ways.

UnionPay knows an order by its number **and** its ``txnTime``: the time the order was sent with,
in Beijing time to the second. We ask with the order's ``placed_at`` (a refund's: the refund's), so
the host must have sent that. An order cannot be closed.

Must never take "in progress" for "failed", nor believe a reply that UnionPay's key did not sign.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Annotated, Literal
from urllib.parse import urlencode

from pydantic import BeforeValidator

from schedules.channels.http import Answer, Ask, Http
from schedules.channels.keys import CheckingKey, checking_key
from schedules.channels.options import FromOutside, PrivateKey, PublicKey, RouteOptions, Word
from schedules.channels.reading import (
    BEIJING,
    Fields,
    UnclearError,
    beijing_time,
    finding,
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

_TIME = "%Y%m%d%H%M%S"
_DONE = ("00", "A6")  # A6: done, though with a flaw
_IN_PROGRESS = ("03", "04", "05")
_NOT_FOUND = "34"
_RAN_OUT = "69"  # nobody paid in time
# Only what says that this payment was turned down. Not 42 (money taken, but late), 02 and 06
# (system busy) or 70 (still at the bank): they, and any code not listed, settle nothing.
_FAILED = frozenset((
    "01", "30", "31", "32", "33", "36", "38", "39", "40", "43", "44", "60", "61", "62", "63", "64",
    "65", "66", "67", "68", "71", "72", "73", "74", "75", "76", "77", "78", "79",
))  # fmt: skip
# ISO 4217 numbers of currencies with two decimal places.
_CURRENCIES = {
    "156": "CNY", "344": "HKD", "446": "MOP", "702": "SGD", "826": "GBP", "840": "USD",
    "978": "EUR",
}  # fmt: skip


class Options(RouteOptions):
    """How one merchant number is asked.

    ``public_key`` is UnionPay's signing certificate (or its key); while UnionPay replaces it,
    ``next_public_key`` is the next one. A certificate that only stands in a reply is not believed.
    """

    url: str = "https://gateway.95516.com/gateway/api/queryTrans.do"
    mer_id: Word
    cert_id: Annotated[str, BeforeValidator(str)]
    private_key: PrivateKey
    public_key: PublicKey
    next_public_key: Annotated[
        CheckingKey | None,
        BeforeValidator(lambda text: text if text is None else checking_key(text)),
        FromOutside(secret=False),
    ] = None
    access_type: Literal["0", "1", "2"] = "0"
    biz_type: Word = "000201"


class UnionPay:
    """One route to UnionPay."""

    def __init__(self, options: Options, http: Http) -> None:
        self._options = options
        self._http = http

    def query(self, order: Order) -> Finding:
        """Ask by our order number and the time the order was placed."""
        answer = self._asked(order.order_no, order.placed_at)
        return finding(
            answer, lambda got: read_query(self._verified(got), order, options=self._options)
        )

    def close(self, order: Order) -> Finding:
        """Say that UnionPay cannot."""
        return unknown("UnionPay cannot close orders; an unpaid one runs out by itself")

    def query_refund(self, order: Order, refund: Refund) -> RefundFinding:
        """Ask by our refund number and the time the refund was placed."""
        answer = self._asked(refund.refund_no, refund.placed_at)
        return refund_finding(
            answer, lambda got: read_refund(self._verified(got), refund, options=self._options)
        )

    def _asked(self, number: str, placed_at: datetime) -> Answer:
        return self._http.send(request(self._options, number, placed_at))

    def _verified(self, answer: Answer) -> Fields:
        keys = filter(None, (self._options.public_key, self._options.next_public_key))
        return verified(answer, tuple(keys))


def make(options: Options, http: Http) -> UnionPay:
    """Make one route."""
    return UnionPay(options, http)


def request(options: Options, number: str, placed_at: datetime) -> Ask:
    """Sign one query."""
    params = {
        "version": "5.1.0",
        "encoding": "UTF-8",
        "signMethod": "01",
        "txnType": "00",
        "txnSubType": "00",
        "bizType": options.biz_type,
        "accessType": options.access_type,
        "merId": options.mer_id,
        "certId": options.cert_id,
        "orderId": number,
        "txnTime": placed_at.astimezone(BEIJING).strftime(_TIME),
    }
    params["signature"] = options.private_key.sign(digest(params))
    return Ask(
        method="POST",
        url=options.url,
        headers=(("Content-Type", "application/x-www-form-urlencoded;charset=UTF-8"),),
        body=urlencode(params).encode(),
    )


def digest(params: Mapping[str, str]) -> bytes:
    """Return what is signed: the lower-case hex SHA-256 of all that is not empty, by name.

    Examples:
        >>> digest({"b": "2", "a": "1", "signature": "x"}) == (
        ...     hashlib.sha256(b"a=1&b=2").hexdigest().encode()
        ... )
        True
    """
    text = "&".join(
        f"{name}={value}" for name, value in sorted(params.items()) if value and name != "signature"
    )
    return hashlib.sha256(text.encode()).hexdigest().encode()


def verified(answer: Answer, keys: tuple[CheckingKey, ...]) -> Fields:
    """Return the fields of a reply that UnionPay signed.

    Raises:
        UnclearError: it is not signed by one of these keys.
    """
    need_status(answer, 200)
    params = parse(answer.body)
    signature, signed = params.get("signature", ""), digest(params)
    if not any(key.checks(signature, signed) for key in keys):
        raise UnclearError("bad signature: the reply is not UnionPay's")
    return Fields(dict(params))


def parse(body: bytes) -> dict[str, str]:
    """Read ``name=value&…`` as UnionPay writes it: not URL-encoded, ``{…}`` may hold an ``&``.

    Raises:
        UnclearError: it is not of that form, or names a field twice.

    Examples:
        >>> parse(b"respCode=00&reserved={a=1&b=2}&signature=ab+/==")
        {'respCode': '00', 'reserved': '{a=1&b=2}', 'signature': 'ab+/=='}
    """
    try:
        text = body.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise UnclearError("it is no UTF-8 text") from None
    params: dict[str, str] = {}
    for part in _parts(text):
        name, equals, value = part.partition("=")
        if not equals or not name or name in params:
            raise UnclearError("it is no list of name=value, each once")
        params[name] = value
    return params


def read_query(fields: Fields, order: Order, *, options: Options) -> Finding:
    """Read the reply to a query for an order, already verified."""
    code = fields.text("respCode")
    _must_be_about(fields, order.order_no, order.placed_at, options, whole=code in _DONE)
    if code == _NOT_FOUND:
        return Finding(state=ChannelState.NOT_FOUND, detail=_words(fields, "resp"))
    if code not in _DONE:
        return _unsettled(fields, code)
    if fields.maybe("txnType") not in ("01", "00", ""):
        raise UnclearError(f"txnType is {fields.maybe('txnType')}: it is about no payment")
    outcome = fields.text("origRespCode")
    detail = _words(fields, "origResp")
    said = partial(
        Finding,
        amount_minor=_amount(fields),
        currency=_currency(fields),
        channel_txn_no=reference(fields.maybe("queryId")),
        detail=detail,
    )
    if outcome in _DONE:
        return said(state=ChannelState.PAID, paid_at=beijing_time(fields.maybe("payTime"), _TIME))
    if outcome == _RAN_OUT:
        return said(state=ChannelState.CLOSED)
    return said(state=ChannelState.FAILED) if outcome in _FAILED else unknown(detail)


def read_refund(fields: Fields, refund: Refund, *, options: Options) -> RefundFinding:
    """Read the reply to a query for a refund, already verified."""
    code = fields.text("respCode")
    _must_be_about(fields, refund.refund_no, refund.placed_at, options, whole=code in _DONE)
    if code not in _DONE:
        return RefundFinding(state=None, detail=_words(fields, "resp"))
    if fields.maybe("txnType") not in ("04", "31"):
        raise UnclearError(f"txnType is {fields.maybe('txnType')}: it is about no refund")
    outcome = fields.text("origRespCode")
    state = (
        RefundState.SUCCESS
        if outcome in _DONE
        else RefundState.PROCESSING
        if outcome in _IN_PROGRESS
        else RefundState.FAILED
        if outcome in _FAILED
        else None
    )
    return RefundFinding(
        state=state,
        amount_minor=_amount(fields),
        currency=_currency(fields),
        detail=_words(fields, "origResp"),
    )


def _must_be_about(
    fields: Fields, number: str, placed_at: datetime, options: Options, *, whole: bool
) -> None:
    """Refuse a reply about another order; a refusal (not ``whole``) may leave the echo out."""
    wanted = {
        "orderId": number,
        "txnTime": placed_at.astimezone(BEIJING).strftime(_TIME),
        "merId": options.mer_id,
    }
    for name, value in wanted.items():
        if whole or fields.has(name):
            must_be(fields.maybe(name), value, "order")


def _unsettled(fields: Fields, code: str) -> Finding:
    if code in _IN_PROGRESS:
        return unknown(_words(fields, "resp"))
    raise UnclearError(_words(fields, "resp"))


def _amount(fields: Fields) -> int:
    text = fields.text("txnAmt")
    if not (text.isascii() and text.isdecimal() and len(text) <= 12):
        raise UnclearError("txnAmt is no whole number of minor units")
    return int(text)


def _currency(fields: Fields) -> str:
    number = fields.text("currencyCode")
    if number not in _CURRENCIES:
        raise UnclearError(f"currencyCode is {number}, which is not known")
    return _CURRENCIES[number]


def _words(fields: Fields, prefix: str) -> str:
    return f"{prefix}Code {fields.maybe(prefix + 'Code')} {fields.maybe(prefix + 'Msg')}".rstrip()


def _parts(text: str) -> list[str]:
    """Cut at every ``&`` that stands in no braces."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        if char == "{":
            depth += 1
        elif char == "}":
            depth = max(0, depth - 1)
        elif char == "&" and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]
