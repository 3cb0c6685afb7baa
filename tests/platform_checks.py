"""What merchants of each platform do with a notification: check it, then say what they must.

Written from the platforms' rules and with other people's libraries; knows nothing of our code.
Each check takes a request and a key, and returns the order number and the amount it believes in,
or raises :class:`RefusedError`.
"""

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

import stripe
from standardwebhooks import Webhook, WebhookVerificationError


class RefusedError(Exception):
    """The merchant does not believe it."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the URL."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def form(self) -> dict[str, str]:
        """The parameters of the body."""
        kind = self.headers.get("content-type", "")
        charset = kind.partition("charset=")[2] or "utf-8"
        need(kind.startswith("application/x-www-form-urlencoded"), "no form")
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True, encoding=charset))


@dataclass(frozen=True, kw_only=True)
class Believed:
    """What a merchant takes for true."""

    order_no: str
    amount: str


@dataclass(frozen=True, kw_only=True)
class Platform:
    """One kind of merchant.

    Attributes:
        check: see the module.
        yes, no: status and body that acknowledge and that refuse.
        amount: what an order of 1290 fen costs, as this platform writes it.
    """

    check: Callable[[Asked, str], Believed]
    yes: tuple[int, str]
    no: tuple[int, str]
    amount: str = "1290"


def need(fact: object, why: str) -> None:
    """Refuse unless ``fact`` holds."""
    if not fact:
        raise RefusedError(why)


def epay(asked: Asked, key: str) -> Believed:
    """PHP: ksort, drop sign, sign_type and empty values, append the key, md5."""
    need(asked.method == "GET", "epay sends GET")
    got = asked.query
    text = "&".join(
        f"{name}={got[name]}"
        for name in sorted(got)
        if got[name] != "" and name not in ("sign", "sign_type", "shop")
    )
    wanted = hashlib.md5((text + key).encode()).hexdigest()
    need(hmac.compare_digest(wanted, got.get("sign", "")), "sign")
    need(got["sign_type"] == "MD5" and got["trade_status"] == "TRADE_SUCCESS", "not paid")
    return Believed(order_no=got["out_trade_no"], amount=got["money"])


def jeepay(asked: Asked, key: str) -> Believed:
    """Java: strings "k=v&" sorted with CASE_INSENSITIVE_ORDER, "key=" behind, upper-case MD5."""
    need(asked.method == "POST" and "?" not in asked.target, "JeePay posts to the bare URL")
    got = asked.form
    strings = [f"{k}={v}&" for k, v in got.items() if v not in ("", None) and k not in _NOT_SIGNED]
    text = "".join(sorted(strings, key=lambda one: one.upper().lower())) + "key=" + key
    need(got.get("sign") == hashlib.md5(text.encode()).hexdigest().upper(), "sign")
    need(got["state"] == "2", "not paid")
    return Believed(order_no=got["mchOrderNo"], amount=got["amount"])


_NOT_SIGNED = ("sign", "shop")


def roncoo(asked: Asked, key: str) -> Believed:
    """Java: a TreeMap without blank values, joined, "&paySecret=" behind, upper-case MD5."""
    need(asked.method == "GET", "roncoo sends GET")
    got = asked.query
    sign = got.pop("sign", "")
    got.pop("shop", None)
    pairs = [f"{name}={got[name]}" for name in sorted(got) if got[name].strip()]
    pairs.append("paySecret=" + key)
    need(sign == hashlib.md5("&".join(pairs).encode()).hexdigest().upper(), "sign")
    need(got["tradeStatus"] == "SUCCESS", "not paid")
    return Believed(order_no=got["orderNo"], amount=got["orderPrice"])


def stripe_style(asked: Asked, key: str) -> Believed:
    """The library of Stripe itself, with its tolerance of 300 s."""
    header = asked.headers.get("stripe-signature", "")
    try:
        stripe.WebhookSignature.verify_header(asked.body.decode(), header, key, tolerance=300)
    except stripe.SignatureVerificationError as error:
        raise RefusedError("signature") from error
    return _json(asked)


def standard_webhooks(asked: Asked, key: str) -> Believed:
    """The reference library of Standard Webhooks."""
    try:
        Webhook(key).verify(asked.body, asked.headers)
    except WebhookVerificationError as error:
        raise RefusedError("signature") from error
    return _json(asked)


def plain_hmac(asked: Asked, key: str) -> Believed:
    """The text before the first point is checked against the clock, the rest is an HMAC."""
    sent_at = asked.headers.get("x-shop-time", "")
    wanted = hmac.new(key.encode(), f"{sent_at}.".encode() + asked.body, hashlib.sha256).hexdigest()
    need(hmac.compare_digest("sha256=" + wanted, asked.headers.get("x-shop-sign", "")), "sign")
    need(abs(time.time() - int(sent_at)) < 300, "too old")
    return _json(asked)


def _json(asked: Asked) -> Believed:
    got = json.loads(asked.body)
    return Believed(order_no=got["order_no"], amount=str(got["amount"]))


PLATFORMS: dict[str, Platform] = {
    "epay": Platform(check=epay, yes=(200, "success"), no=(200, "fail"), amount="12.90"),
    "jeepay": Platform(check=jeepay, yes=(200, "SUCCESS"), no=(200, "FAIL")),
    "roncoo": Platform(check=roncoo, yes=(200, "success"), no=(200, "fail"), amount="12.90"),
    "stripe-style": Platform(check=stripe_style, yes=(200, ""), no=(400, "")),
    "standard-webhooks": Platform(check=standard_webhooks, yes=(204, ""), no=(401, "")),
    "plain-hmac": Platform(check=plain_hmac, yes=(200, ""), no=(403, "")),
}
