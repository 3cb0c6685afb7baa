"""Each profile at a merchant of its platform, who checks with other people's code."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.office import LOCAL, enqueue, office, state_of, until
from tests.platform_checks import PLATFORMS
from tests.platform_merchant import PlatformMerchant
from worker import as_sent, deadletters, profiles
from worker.endpoint_fields import Fields
from worker.models import Allowed
from worker.runtime import Runtime

KEYS = {
    "standard-webhooks": "whsec_" + "QUFB" * 8,
    "stripe-style": "whsec_" + "c3RyaXBl" * 4,
}
TEXT_KEY = "WSJ6XXnFb3OkFPyM0dGYxQ8CSRy1S3g5"
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


def key_of(platform: str) -> str:
    return KEYS.get(platform, TEXT_KEY)


@pytest.fixture(scope="module")
def merchant() -> Iterator[PlatformMerchant]:
    shops = {
        name: {
            "platform": name,
            "key": key_of(name),
            "order_no": ORDER,
            "amount": platform.amount,
        }
        for name, platform in PLATFORMS.items()
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


@pytest.mark.parametrize("platform", sorted(PLATFORMS))
def test_a_merchant_of_the_platform_believes_us_and_nobody_else(
    platform: str, working: Runtime, merchant: PlatformMerchant
) -> None:
    kind = PLATFORMS[platform]
    name = register(working, merchant, platform)
    endpoint = working.desk.endpoints.find(name)
    sent = enqueue(working, endpoint, f"{platform}:paid", payload=PAYLOAD, order_no=ORDER)
    line = merchant.next()
    assert line["refused"] == ""
    until(lambda: state_of(working, sent) == "delivered")

    # The same bytes again are believed: it is the alterations below that are refused.
    assert ask_again(line, merchant.port, "", "") == kind.yes
    assert merchant.next()["refused"] == ""
    for find, put in ((kind.amount, ALTERED[kind.amount]), (ORDER, "A20260131-8")):
        assert ask_again(line, merchant.port, find, put) == kind.no
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
    assert ORDER in text
    for word in (got.get("x-shop-sign", ""), got.get("webhook-signature", "")):
        assert not word or word not in text


@pytest.mark.parametrize("platform", sorted(PLATFORMS))
def test_a_wrong_key_or_another_amount_is_not_acknowledged(
    platform: str, working: Runtime, merchant: PlatformMerchant
) -> None:
    wrong = key_of(platform)[::-1] if platform not in KEYS else "whsec_" + "WFhY" * 8
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
