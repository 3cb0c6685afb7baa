"""Merchants of platforms with key pairs, XML and signatures inside JSON: ``verifying.py``'s checks.

Knows nothing of our code. A key here is what a merchant was given.
"""

from typing import Any

from tests.platform_checks import PLATFORMS, Asked, Believed, Platform, RefusedError, need
from tests.verifying import VERIFY, ForgedError, Got

_XML = "<xml><return_code><![CDATA[{}]]></return_code></xml>"


def _told(profile: str, asked: Asked, key: str) -> dict[str, Any]:
    """Verify as the platform's merchants do; they see the URL they gave."""
    need(asked.method == "POST", f"{profile} posts")
    url = f"http://{asked.headers['host']}{asked.target}"
    got = Got(method=asked.method, url=url, headers=asked.headers, body=asked.body)
    try:
        return VERIFY[profile](got, key)
    except (ForgedError, ValueError, LookupError, TypeError, SyntaxError) as error:
        raise RefusedError("signature") from error


def standard_webhooks_v1a(asked: Asked, key: str) -> Believed:
    told = _told("standard-webhooks-v1a", asked, key)
    return Believed(order_no=told["order_no"], amount=str(told["amount"]))


def square(asked: Asked, key: str) -> Believed:
    told = _told("square", asked, key)
    return Believed(order_no=told["order_no"], amount=str(told["amount"]))


def adyen(asked: Asked, key: str) -> Believed:
    told = _told("adyen", asked, key)
    need(told["eventCode"] == "AUTHORISATION" and told["success"] == "true", "not paid")
    return Believed(order_no=told["merchantReference"], amount=str(told["amount"]["value"]))


def wechat_v2(asked: Asked, key: str) -> Believed:
    told = _told("wechat-v2", asked, key)
    need(told["result_code"] == "SUCCESS", "not paid")
    return Believed(order_no=told["out_trade_no"], amount=told["total_fee"])


def wechat_v3(asked: Asked, key: str) -> Believed:
    told = _told("wechat-v3", asked, key)
    need(told["trade_state"] == "SUCCESS", "not paid")
    return Believed(order_no=told["out_trade_no"], amount=str(told["amount"]["total"]))


def alipay_rsa2(asked: Asked, key: str) -> Believed:
    told = _told("alipay-rsa2", asked, key)
    need(told["trade_status"] == "TRADE_SUCCESS", "not paid")
    return Believed(order_no=told["out_trade_no"], amount=told["total_amount"])


def unionpay_51(asked: Asked, key: str) -> Believed:
    told = _told("unionpay-5.1", asked, key)
    need(told["respCode"] == "00", "not paid")
    return Believed(order_no=told["orderId"], amount=told["txnAmt"])


SIGNED: dict[str, Platform] = {
    "standard-webhooks-v1a": Platform(check=standard_webhooks_v1a, yes=(204, ""), no=(401, "")),
    "square": Platform(check=square, yes=(200, ""), no=(403, "")),
    "adyen": Platform(check=adyen, yes=(200, "[accepted]"), no=(401, "")),
    "wechat-v2": Platform(
        check=wechat_v2, yes=(200, _XML.format("SUCCESS")), no=(200, _XML.format("FAIL"))
    ),
    # Status beats body: 200 with a refusal in it is an acknowledgement.
    "wechat-v3": Platform(
        check=wechat_v3, yes=(200, '{"code":"FAIL"}'), no=(500, '{"code":"FAIL","message":"x"}')
    ),
    "alipay-rsa2": Platform(
        check=alipay_rsa2, yes=(200, "success"), no=(200, "fail"), amount="12.90"
    ),
    "unionpay-5.1": Platform(check=unionpay_51, yes=(200, "ok"), no=(400, "")),
}

EVERY: dict[str, Platform] = PLATFORMS | SIGNED
