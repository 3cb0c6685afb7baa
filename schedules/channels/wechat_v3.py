"""WeChat Pay API v3: query and close by our order number, refund query.

https://pay.weixin.qq.com/doc/v3/merchant/4012791839 (query), 4012365340 (signing requests),
4012365342 (checking replies)

Must never believe a reply that the platform's key did not sign within the last five minutes.
"""

import json
import secrets
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Annotated
from urllib.parse import quote, urlsplit

from pydantic import BeforeValidator, model_validator

from schedules.channels.http import Answer, Ask, Http
from schedules.channels.keys import CheckingKey, checking_key
from schedules.channels.options import FromOutside, PrivateKey, PublicKey, RouteOptions, Word
from schedules.channels.reading import (
    Fields,
    UnclearError,
    currency_code,
    finding,
    iso_time,
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

_AGE_MAX_S = 300  # WeChat's own limit, both ways
_STATES = {
    "SUCCESS": ChannelState.PAID,
    # It was paid and some or all of it went back; how much, this reply does not say.
    "REFUND": ChannelState.PARTIAL_REFUND,
    "NOTPAY": ChannelState.UNPAID,
    "USERPAYING": ChannelState.UNPAID,
    "ACCEPT": ChannelState.UNPAID,
    "CLOSED": ChannelState.CLOSED,
    "REVOKED": ChannelState.CLOSED,
    "PAYERROR": ChannelState.FAILED,
}
_REFUND_STATES = {
    "SUCCESS": RefundState.SUCCESS,
    "PROCESSING": RefundState.PROCESSING,
    "CLOSED": RefundState.FAILED,
    "ABNORMAL": RefundState.ABNORMAL,
}
_NOT_FOUND = ("ORDER_NOT_EXIST", "ORDERNOTEXIST", "RESOURCE_NOT_EXISTS")


class Options(RouteOptions):
    """How one merchant number is asked.

    The platform's key is named by its serial or, in public-key mode, its id (``PUB_KEY_ID_…``).
    While WeChat replaces it, the second pair names the next one.
    """

    url: str = "https://api.mch.weixin.qq.com"
    mchid: Word
    serial_no: Word
    private_key: PrivateKey
    platform_serial: Word
    public_key: PublicKey
    next_platform_serial: Word | None = None
    next_public_key: Annotated[
        CheckingKey | None,
        BeforeValidator(lambda text: text if text is None else checking_key(text)),
        FromOutside(secret=False),
    ] = None

    @model_validator(mode="after")
    def _pair(self) -> "Options":
        if (self.next_platform_serial is None) != (self.next_public_key is None):
            raise ValueError("next_platform_serial and next_public_key come together or not at all")
        return self


class WechatV3:
    """One route to WeChat Pay."""

    def __init__(self, options: Options, http: Http) -> None:
        self._options = options
        self._http = http

    def query(self, order: Order) -> Finding:
        """Ask by our order number."""
        path = f"/v3/pay/transactions/out-trade-no/{quote(order.order_no, safe='')}"
        answer = self._asked("GET", f"{path}?mchid={self._options.mchid}")
        return finding(answer, self._checked(partial(self._read_query, order=order)))

    def close(self, order: Order) -> Finding:
        """Close an unpaid order."""
        path = f"/v3/pay/transactions/out-trade-no/{quote(order.order_no, safe='')}/close"
        body = json.dumps({"mchid": self._options.mchid}, separators=(",", ":")).encode()
        return finding(self._asked("POST", path, body), self._checked(read_close))

    def query_refund(self, order: Order, refund: Refund) -> RefundFinding:
        """Ask by our refund number."""
        path = f"/v3/refund/domestic/refunds/{quote(refund.refund_no, safe='')}"

        def read(answer: Answer) -> RefundFinding:
            self._check(answer)
            return read_refund(answer, refund)

        return refund_finding(self._asked("GET", path), read)

    def _asked(self, method: str, path: str, body: bytes = b"") -> Answer:
        ask = request(
            self._options, method, path, body, now=clock.now(), nonce=secrets.token_hex(16)
        )
        return self._http.send(ask)

    def _checked(self, read: Callable[[Answer], Finding]) -> Callable[[Answer], Finding]:
        def checked(answer: Answer) -> Finding:
            self._check(answer)
            return read(answer)

        return checked

    def _check(self, answer: Answer) -> None:
        check(answer, _keys(self._options), now=clock.now())

    def _read_query(self, answer: Answer, order: Order) -> Finding:
        return read_query(answer, order, mchid=self._options.mchid)


def make(options: Options, http: Http) -> WechatV3:
    """Make one route."""
    return WechatV3(options, http)


def request(
    options: Options, method: str, path: str, body: bytes, *, now: datetime, nonce: str
) -> Ask:
    """Sign one call; ``path`` goes behind the route's URL, ``nonce`` is for this call only."""
    url = options.url.rstrip("/") + path
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    timestamp = int(now.timestamp())
    signature = options.private_key.sign(sign_string(method, target, timestamp, nonce, body))
    token = (
        f'mchid="{options.mchid}",nonce_str="{nonce}",signature="{signature}",'
        f'timestamp="{timestamp}",serial_no="{options.serial_no}"'
    )
    return Ask(
        method=method,
        url=url,
        headers=(
            ("Authorization", f"WECHATPAY2-SHA256-RSA2048 {token}"),
            ("Accept", "application/json"),
            ("Wechatpay-Serial", options.platform_serial),
            *((("Content-Type", "application/json"),) if body else ()),
        ),
        body=body,
    )


def sign_string(method: str, target: str, timestamp: int, nonce: str, body: bytes) -> bytes:
    r"""Write what a request signs: five lines, each ended by a line feed.

    Examples:
        >>> sign_string("GET", "/v3/certificates", 1554208460, "593BEC0C", b"")
        b'GET\n/v3/certificates\n1554208460\n593BEC0C\n\n'
    """
    return f"{method}\n{target}\n{timestamp}\n{nonce}\n".encode() + body + b"\n"


def check(answer: Answer, keys: dict[str, CheckingKey], *, now: datetime) -> None:
    """Refuse a reply that WeChat did not sign just now.

    Raises:
        UnclearError: server trouble, an unknown serial, a wrong signature or an old reply.
    """
    need_status(answer, 200, 204, 400, 403, 404)
    serial, timestamp, nonce, signature = (
        answer.headers.get(f"wechatpay-{name}", "")
        for name in ("serial", "timestamp", "nonce", "signature")
    )
    key = keys.get(serial)
    if key is None:
        raise UnclearError(
            f"HTTP {answer.status} signed with serial {serial[:64]}, which is not configured"
            if serial
            else f"HTTP {answer.status} without a signature"
        )
    signed = f"{timestamp}\n{nonce}\n".encode("utf-8", "replace") + answer.body + b"\n"
    if not key.checks(signature, signed):
        raise UnclearError("bad signature: the reply is not WeChat's")
    if not (timestamp.isdecimal() and len(timestamp) < 12) or (
        abs(int(timestamp) - now.timestamp()) > _AGE_MAX_S
    ):
        raise UnclearError(f"the reply is not of the last {_AGE_MAX_S} s; compare the clocks")


def read_query(answer: Answer, order: Order, *, mchid: str) -> Finding:
    """Read the reply to a query, already checked."""
    fields = json_object(answer.body)
    if answer.status != 200:
        return _refused(answer.status, fields)
    must_be(fields.maybe("out_trade_no"), order.order_no, "order")
    must_be(fields.maybe("mchid"), mchid, "merchant")
    state = fields.text("trade_state")
    if state not in _STATES:
        raise UnclearError(f"trade_state is {state}, which is not known")
    amount = fields.inside("amount")
    # An order nobody has opened yet has no amount.
    known = amount.has("total") or _STATES[state] in (
        ChannelState.PAID,
        ChannelState.PARTIAL_REFUND,
    )
    return Finding(
        state=_STATES[state],
        amount_minor=amount.whole("total") if known else None,
        currency=currency_code(amount.maybe("currency") or "CNY") if known else None,
        channel_txn_no=reference(fields.maybe("transaction_id")),
        paid_at=iso_time(fields.maybe("success_time")),
        detail=f"{state} {fields.maybe('trade_state_desc')}".rstrip(),
    )


def read_close(answer: Answer) -> Finding:
    """Read the reply to a close, already checked."""
    if answer.status == 204:
        return Finding(state=ChannelState.CLOSED, detail="closed now")
    fields = json_object(answer.body)
    if fields.maybe("code") in ("ORDER_CLOSED", "ORDERCLOSED"):
        return Finding(state=ChannelState.CLOSED, detail=_words(answer.status, fields))
    if fields.maybe("code") in ("ORDERPAID", "ORDER_PAID"):
        return unknown(_words(answer.status, fields))
    return _refused(answer.status, fields)


def read_refund(answer: Answer, refund: Refund) -> RefundFinding:
    """Read the reply to a refund query, already checked."""
    fields = json_object(answer.body)
    if answer.status != 200:
        found = _refused(answer.status, fields)
        return RefundFinding(state=None, detail=found.detail)
    must_be(fields.maybe("out_refund_no"), refund.refund_no, "refund")
    must_be(fields.maybe("out_trade_no"), refund.order_no, "order")
    status = fields.text("status")
    if status not in _REFUND_STATES:
        raise UnclearError(f"status is {status}, which is not known")
    amount = fields.inside("amount")
    return RefundFinding(
        state=_REFUND_STATES[status],
        amount_minor=amount.whole("refund"),
        currency=currency_code(amount.maybe("currency") or "CNY"),
        detail=status,
    )


def _refused(status: int, fields: Fields) -> Finding:
    if status == 404 and fields.maybe("code") in _NOT_FOUND:
        return Finding(state=ChannelState.NOT_FOUND, detail=_words(status, fields))
    raise UnclearError(_words(status, fields))


def _words(status: int, fields: Fields) -> str:
    return f"HTTP {status} {fields.maybe('code')} {fields.maybe('message')}".rstrip()


def _keys(options: Options) -> dict[str, CheckingKey]:
    keys = {options.platform_serial: options.public_key}
    if options.next_platform_serial and options.next_public_key:
        keys[options.next_platform_serial] = options.next_public_key
    return keys
