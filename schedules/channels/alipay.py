"""Alipay's open platform: trade query, close and refund query, signed RSA2 both ways.

https://opendocs.alipay.com/open/02e7gm (query), 02o6e7 (close), 02ivbx (refund query)

Must never believe a reply whose signature is not Alipay's over the very bytes that are read.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from urllib.parse import urlencode

from schedules.channels.http import Answer, Ask, Http
from schedules.channels.keys import CheckingKey
from schedules.channels.options import PrivateKey, PublicKey, RouteOptions, Word
from schedules.channels.reading import (
    BEIJING,
    Fields,
    UnclearError,
    beijing_time,
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
from worker import clock

_TIME = "%Y-%m-%d %H:%M:%S"
_DONE, _BUSINESS = "10000", "40004"
_NOT_FOUND = "ACQ.TRADE_NOT_EXIST"
# Closing came too late or too early; the trade itself is well, so the route is not to blame.
_NOT_CLOSABLE = ("ACQ.TRADE_STATUS_ERROR", "ACQ.REASON_TRADE_STATUS_INVALID")
_STATES = {
    "WAIT_BUYER_PAY": ChannelState.UNPAID,
    "TRADE_SUCCESS": ChannelState.PAID,
    "TRADE_FINISHED": ChannelState.FINISHED,
}


class Options(RouteOptions):
    """How one application of the open platform is asked."""

    url: str = "https://openapi.alipay.com/gateway.do"
    app_id: Word
    private_key: PrivateKey
    public_key: PublicKey
    # Only for applications that work with certificates instead of bare public keys.
    app_cert_sn: Word | None = None
    alipay_root_cert_sn: Word | None = None


class Alipay:
    """One route to Alipay."""

    def __init__(self, options: Options, http: Http) -> None:
        self._options = options
        self._http = http

    def query(self, order: Order) -> Finding:
        """Ask by our order number (``alipay.trade.query``)."""
        answer = self._asked("alipay.trade.query", {"out_trade_no": order.order_no})
        return finding(answer, self._reader("alipay_trade_query_response", read_query, order))

    def close(self, order: Order) -> Finding:
        """Close an unpaid trade (``alipay.trade.close``)."""
        answer = self._asked("alipay.trade.close", {"out_trade_no": order.order_no})
        return finding(answer, self._reader("alipay_trade_close_response", read_close, order))

    def query_refund(self, order: Order, refund: Refund) -> RefundFinding:
        """Ask by our refund number (``alipay.trade.fastpay.refund.query``)."""
        answer = self._asked(
            "alipay.trade.fastpay.refund.query",
            {"out_trade_no": order.order_no, "out_request_no": refund.refund_no},
        )
        node = "alipay_trade_fastpay_refund_query_response"
        return refund_finding(
            answer, lambda got: read_refund(verified(got, node, self._options.public_key), refund)
        )

    def _asked(self, method: str, content: Mapping[str, str]) -> Answer:
        return self._http.send(request(self._options, method, content, now=clock.now()))

    def _reader(
        self, node: str, read: Callable[[Fields, Order], Finding], order: Order
    ) -> Callable[[Answer], Finding]:
        return lambda answer: read(verified(answer, node, self._options.public_key), order)


def make(options: Options, http: Http) -> Alipay:
    """Make one route."""
    return Alipay(options, http)


def request(options: Options, method: str, content: Mapping[str, str], *, now: datetime) -> Ask:
    """Sign one call of the gateway."""
    params = {
        "app_id": options.app_id,
        "method": method,
        "format": "JSON",
        "charset": "utf-8",
        "sign_type": "RSA2",
        "timestamp": now.astimezone(BEIJING).strftime(_TIME),
        "version": "1.0",
        "app_cert_sn": options.app_cert_sn or "",
        "alipay_root_cert_sn": options.alipay_root_cert_sn or "",
        "biz_content": json.dumps(content, ensure_ascii=False, separators=(",", ":")),
    }
    params = {name: value for name, value in params.items() if value}
    params["sign"] = options.private_key.sign(sign_string(params).encode())
    return Ask(
        method="POST",
        url=options.url,
        headers=(("Content-Type", "application/x-www-form-urlencoded;charset=utf-8"),),
        body=urlencode(params).encode(),
    )


def sign_string(params: Mapping[str, str]) -> str:
    """Write what is signed: all that is not empty but ``sign``, by name, raw.

    Examples:
        >>> sign_string({"b": "2", "a": "1&", "empty": "", "sign": "x"})
        'a=1&&b=2'
    """
    return "&".join(
        f"{name}={value}" for name, value in sorted(params.items()) if value and name != "sign"
    )


def verified(answer: Answer, node: str, key: CheckingKey) -> Fields:
    """Return the object of a reply that Alipay signed.

    Raises:
        UnclearError: it is not there, or not signed by Alipay.
    """
    need_status(answer, 200)
    members = _members(answer.body)
    if node not in members:
        code = json_object(members.get("error_response", "{}"))
        raise UnclearError(
            f"the gateway refused: {code.maybe('code')} {code.maybe('sub_code')} "
            f"{code.maybe('sub_msg')}".rstrip()
        )
    signature = json_object(f'{{"sign":{members.get("sign", "null")}}}').maybe("sign")
    if not key.checks(signature, members[node].encode()):
        raise UnclearError("bad signature: the reply is not Alipay's")
    return json_object(members[node])


def read_query(fields: Fields, order: Order) -> Finding:
    """Read the reply to ``alipay.trade.query``."""
    if fields.text("code") != _DONE:
        return _refused(fields, order)
    must_be(fields.maybe("out_trade_no"), order.order_no, "order")
    status = fields.text("trade_status")
    currency = currency_code(fields.maybe("trans_currency") or "CNY")
    total = fields.amount("total_amount", currency)
    said = partial(
        Finding,
        amount_minor=total,
        currency=currency,
        channel_txn_no=reference(fields.maybe("trade_no")),
        paid_at=beijing_time(fields.maybe("send_pay_date"), _TIME),
        detail=status,
    )
    if status == "TRADE_CLOSED":
        # Alipay's one word for two things: never paid, or paid and all of it returned.
        if _was_paid(fields, currency):
            return said(state=ChannelState.REFUNDED, refunded_minor=total)
        return said(state=ChannelState.CLOSED, paid_at=None)
    if status not in _STATES:
        raise UnclearError(f"trade_status is {status}, which is not known")
    return said(state=_STATES[status])


def read_close(fields: Fields, order: Order) -> Finding:
    """Read the reply to ``alipay.trade.close``."""
    if fields.text("code") != _DONE:
        return _refused(fields, order)
    must_be(fields.maybe("out_trade_no"), order.order_no, "order")
    return Finding(
        state=ChannelState.CLOSED,
        channel_txn_no=reference(fields.maybe("trade_no")),
        detail="closed now",
    )


def read_refund(fields: Fields, refund: Refund) -> RefundFinding:
    """Read the reply to ``alipay.trade.fastpay.refund.query``."""
    if fields.text("code") != _DONE:
        raise UnclearError(_words(fields))
    if not fields.has("refund_status"):
        # "Not received, or failed", says the documentation, and means either.
        return RefundFinding(state=None, detail="no refund_status: not received, or failed")
    must_be(fields.maybe("out_trade_no"), refund.order_no, "order")
    must_be(fields.maybe("out_request_no"), refund.refund_no, "refund")
    status = fields.text("refund_status")
    if status != "REFUND_SUCCESS":
        return RefundFinding(state=None, detail=f"refund_status is {status}")
    currency = currency_code(fields.maybe("refund_currency") or "CNY")
    return RefundFinding(
        state=RefundState.SUCCESS,
        amount_minor=fields.amount("refund_amount", currency),
        currency=currency,
        detail=status,
    )


def _refused(fields: Fields, order: Order) -> Finding:
    if fields.has("out_trade_no"):
        must_be(fields.maybe("out_trade_no"), order.order_no, "order")
    sub_code = fields.maybe("sub_code")
    if fields.maybe("code") == _BUSINESS and sub_code == _NOT_FOUND:
        return Finding(state=ChannelState.NOT_FOUND, detail=_words(fields))
    if sub_code in _NOT_CLOSABLE:
        return unknown(_words(fields))
    raise UnclearError(_words(fields))


def _words(fields: Fields) -> str:
    return " ".join(filter(None, map(fields.maybe, ("code", "msg", "sub_code", "sub_msg"))))


def _was_paid(fields: Fields, currency: str) -> bool:
    return fields.maybe("send_pay_date") != "" or any(
        fields.has(name) and fields.amount(name, currency) > 0
        for name in ("buyer_pay_amount", "receipt_amount")
    )


def _members(body: bytes) -> dict[str, str]:
    """Cut a JSON object into the exact text of its members: the signature is over that text."""
    members: dict[str, str] = {}
    decoder = json.JSONDecoder()
    try:
        text = body.decode("utf-8")
        at = _after(text, 0, "{")
        while True:
            name, at = decoder.raw_decode(text, at)
            at = _after(text, at, ":")
            _, end = decoder.raw_decode(text, at)
            if name in members:
                # Two readers would read two answers; only one of them is signed.
                raise UnclearError("a name stands twice in it")
            members[name] = text[at:end]
            at = _SPACE(text, end).end()  # type: ignore[union-attr]
            if text[at : at + 1] == "}":
                break
            at = _after(text, at, ",")
    except (ValueError, TypeError, RecursionError):
        raise UnclearError("it is no JSON object") from None
    if text[at + 1 :].strip(" \t\r\n"):
        raise UnclearError("something stands behind its JSON object")
    return members


def _after(text: str, at: int, sign: str) -> int:
    at = _SPACE(text, at).end()  # type: ignore[union-attr]
    if text[at : at + 1] != sign:
        raise ValueError(f"no {sign}")
    return _SPACE(text, at + 1).end()  # type: ignore[union-attr]


_SPACE = re.compile(r"[ \t\r\n]*").match
