"""Each profile at a merchant of its platform, who checks with other people's code."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.office import LOCAL, enqueue, office, state_of, until
from tests.platform_checks_signed import EVERY
from tests.platform_merchant import PlatformMerchant
from worker import as_sent, deadletters, profiles
from worker.endpoint_fields import Fields
from worker.models import Allowed
from worker.runtime import Runtime
from worker.signers.contract import KeyPair
from worker.signers.registry import find

ORDER = "A20260131-7"
PAYLOAD = {
    "order_no": ORDER,
    "amount": 1290,
    "currency": "CNY",
    "subject": "VIP 会员 & 王=1",
    "trade_no": "T1",
    "pay_type": "alipay",
    "paid_at": "2026-01-31T16:30:00+08:00",
}
# What a merchant of plain-hmac asked for.
BESIDE: dict[str, Fields] = {
    "plain-hmac": {
        "options": {
            "header": "X-Shop-Sign",
            "prefix": "sha256=",
            "signed": "time.body",
            "time_header": "X-Shop-Time",
        }
    }
}
# An extra digit or a changed word, where each kind has its signed content.
ALTERED = {"12.90": "1.90", "1290": "129"}


@cache
def key_of(platform: str) -> str:
    """What we sign with."""
    return find(platform).new_secret()


def held_by_merchant(platform: str) -> str:
    """What the merchant verifies with."""
    scheme = find(platform)
    return (
        scheme.for_merchant(key_of(platform)) if isinstance(scheme, KeyPair) else key_of(platform)
    )


@pytest.fixture(scope="module")
def merchant() -> Iterator[PlatformMerchant]:
    shops = {
        name: {
            "platform": name,
            "key": held_by_merchant(name),
            "order_no": ORDER,
            "amount": platform.amount,
        }
        for name, platform in EVERY.items()
    }
    with PlatformMerchant(shops) as running:
        yield running


@pytest.fixture
def working(dsn: str) -> Iterator[Runtime]:
    with office(dsn) as running:
        yield running


def register(working: Runtime, merchant: PlatformMerchant, platform: str, **more: str) -> str:
    allowed = Allowed(http=True, ports=(merchant.port,), networks=LOCAL.networks)
    given: Fields = {"url": merchant.url(platform), "allowed": allowed, **BESIDE.get(platform, {})}
    name = more.get("name", platform)
    working.desk.endpoints.register(
        name=name,
        merchant="m-1001",
        who="test",
        secret=more.get("secret", key_of(platform)),
        **profiles.laid_over(profiles.ready()[platform], given),
    )
    return name


def altered(line: dict[str, Any], amount: str) -> list[tuple[str, str]]:
    """What somebody on the way would change: amount and order, or what they are ciphered as."""
    if ORDER in line["body"] + line["target"]:
        return [(amount, ALTERED[amount]), (ORDER, "A20260131-8")]
    sealed = json.loads(line["body"])["resource"]["ciphertext"]
    return [(sealed[at : at + 8], sealed[at : at + 8].swapcase()) for at in (32, 64)]


def ask_again(line: dict[str, Any], port: int, find: str, put: str) -> tuple[int, str]:
    """Send what came once more with one thing altered; what the merchant answers."""
    target, body = line["target"], line["body"].encode("latin-1")
    if find:
        assert find in target or find.encode() in body
        target, body = target.replace(find, put), body.replace(find.encode(), put.encode())
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{target}",
        data=body if line["method"] == "POST" else None,
        headers={k: v for k, v in line["headers"] if k.lower() not in ("host", "content-length")},
        method=line["method"],
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("platform", sorted(EVERY))
def test_a_merchant_of_the_platform_believes_us_and_nobody_else(
    platform: str, working: Runtime, merchant: PlatformMerchant
) -> None:
    kind = EVERY[platform]
    name = register(working, merchant, platform)
    endpoint = working.desk.endpoints.find(name)
    sent = enqueue(working, endpoint, f"{platform}:paid", payload=PAYLOAD, order_no=ORDER)
    line = merchant.next()
    assert line["refused"] == ""
    until(lambda: state_of(working, sent) == "delivered")

    # The same bytes again are believed: it is the alterations below that are refused.
    assert ask_again(line, merchant.port, "", "") == kind.yes
    assert merchant.next()["refused"] == ""
    for old, new in altered(line, kind.amount):
        assert ask_again(line, merchant.port, old, new) == kind.no
        assert "sign" in merchant.next()["refused"].lower()

    # What was sent can be written once more, byte for byte, and shown without its signature.
    with working.desk.engine.connect() as connection:
        again = as_sent.rebuilt(connection, working.desk.sealer, sent)
        shown = as_sent.masked(connection, sent, 1)
    assert again.method == line["method"]
    assert urlsplit(again.url).path == urlsplit(line["target"]).path
    assert urlsplit(again.url).query == urlsplit(line["target"]).query
    assert again.body == line["body"].encode("latin-1")
    got = {k.lower(): v for k, v in line["headers"]}
    assert {k.lower(): v for k, v in again.headers}.items() <= got.items()
    text = repr(shown)
    assert "***" in text
    assert (ORDER in text) is (ORDER in line["body"] + line["target"])
    for header in ("x-shop-sign", "webhook-signature", "wechatpay-signature"):
        assert header not in got or got[header] not in text


@pytest.mark.parametrize("platform", sorted(EVERY))
def test_a_wrong_key_or_another_amount_is_not_acknowledged(
    platform: str, working: Runtime, merchant: PlatformMerchant
) -> None:
    wrong = find(platform).new_secret()
    name = register(working, merchant, platform, name=f"{platform}-wrong", secret=wrong)
    endpoint = working.desk.endpoints.find(name)
    forged = enqueue(working, endpoint, "forged", payload=PAYLOAD, order_no=ORDER)
    assert "sign" in merchant.next()["refused"].lower()
    until(lambda: state_of(working, forged) == "waiting")

    register(working, merchant, platform, name=f"{platform}-cheap")
    endpoint = working.desk.endpoints.find(f"{platform}-cheap")
    cheap = enqueue(working, endpoint, "cheap", payload=PAYLOAD | {"amount": 1}, order_no=ORDER)
    assert "costs" in merchant.next()["refused"]
    until(lambda: state_of(working, cheap) == "waiting")


def test_a_payload_that_cannot_be_told_is_a_dead_letter_that_says_why(
    working: Runtime, merchant: PlatformMerchant
) -> None:
    name = register(working, merchant, "epay", name="epay-odd")
    endpoint = working.desk.endpoints.find(name)
    odd = enqueue(working, endpoint, "odd", payload={"amount": "12.90"}, order_no=ORDER)
    until(lambda: state_of(working, odd) == "dead")
    engine = working.desk.engine
    [letter] = [one for one in deadletters.find(engine) if one.notification_id == odd]
    assert "fields.money: " in letter.last_error
