"""What the adapters sign, and whose signatures they believe."""

import base64
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from schedules.channels import alipay, epay, generic_json, stripe, unionpay, wechat_v3
from schedules.channels.http import Answer
from schedules.channels.keys import CheckingKey, checking_key, signing_key
from schedules.channels.reading import UnclearError
from tests.orders_asked import NOW, order

_COMMON = {"currency": "CNY", "timeout_s": 1.0}


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, 2048)


@pytest.fixture(scope="module")
def private(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


@pytest.fixture(scope="module")
def public(key: rsa.RSAPrivateKey) -> str:
    return _pem(key.public_key())


def _pem(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def _sign(key: rsa.RSAPrivateKey, data: bytes) -> str:
    return base64.b64encode(key.sign(data, padding.PKCS1v15(), hashes.SHA256())).decode()


def _verify(key: rsa.RSAPrivateKey, signature: str, data: bytes) -> None:
    raw = base64.b64decode(signature)
    key.public_key().verify(raw, data, padding.PKCS1v15(), hashes.SHA256())


def test_alipay_signs_every_parameter_but_the_signature_in_name_order(
    key: rsa.RSAPrivateKey, private: str, public: str
) -> None:
    options = alipay.Options.model_validate(
        {**_COMMON, "app_id": "2014", "private_key": private, "public_key": public}
    )
    ask = alipay.request(options, "alipay.trade.query", {"out_trade_no": "A&7=中"}, now=NOW)
    form = {name: values[0] for name, values in parse_qs(ask.body.decode()).items()}
    signature = form.pop("sign")
    signed = (
        'app_id=2014&biz_content={"out_trade_no":"A&7=中"}&charset=utf-8&format=JSON'
        "&method=alipay.trade.query&sign_type=RSA2&timestamp=2026-01-31 20:00:00&version=1.0"
    )
    _verify(key, signature, signed.encode())
    assert "&".join(f"{name}={form[name]}" for name in sorted(form)) == signed


def test_wechat_signs_method_target_time_nonce_and_body(
    key: rsa.RSAPrivateKey, private: str, public: str
) -> None:
    options = _wechat(private, public)
    ask = wechat_v3.request(options, "POST", "/v3/x?mchid=1", b'{"a":1}', now=NOW, nonce="N")
    token = dict(ask.headers)["Authorization"].removeprefix("WECHATPAY2-SHA256-RSA2048 ")
    facts = dict(part.split("=", 1) for part in token.split(","))
    assert facts["timestamp"] == f'"{int(NOW.timestamp())}"'
    signed = f'POST\n/v3/x?mchid=1\n{int(NOW.timestamp())}\nN\n{{"a":1}}\n'
    _verify(key, facts["signature"].strip('"'), signed.encode())
    # WeChat's documentation prints this string for a GET; its body line is empty.
    assert wechat_v3.sign_string("GET", "/v3/certificates", 1554208460, "593BEC0C", b"") == (
        b"GET\n/v3/certificates\n1554208460\n593BEC0C\n\n"
    )


def test_unionpay_signs_the_hash_in_lower_case_hex(
    key: rsa.RSAPrivateKey, private: str, public: str
) -> None:
    options = _unionpay(private, public)
    ask = unionpay.request(options, "A7", NOW)
    form = {name: values[0] for name, values in parse_qs(ask.body.decode()).items()}
    signature = form.pop("signature")
    assert form["txnTime"] == "20260131200000"
    text = "&".join(f"{name}={form[name]}" for name in sorted(form))
    _verify(key, signature, hashlib.sha256(text.encode()).hexdigest().encode())


def test_an_order_number_cannot_leave_its_place(private: str, public: str) -> None:
    nasty = "A/../7?x=1&act=settle#'\"}"
    http = generic_json.Options.model_validate(
        {
            **_COMMON,
            "url": "https://b.example.org/o/{order_no}",
            "method": "POST",
            "body": '{"no":"{order_no}"}',
            "key": "k",
            "headers": {"X-Key": "{key}"},
            "order_path": "o",
            "state_path": "s",
            "states": {"P": "paid"},
            "amount_path": "a",
            "amount_unit": "minor",
        }
    )
    ask = generic_json.request(http, http.url, {"order_no": nasty})
    assert urlsplit(ask.url).path.count("/") == 2
    assert (urlsplit(ask.url).query, urlsplit(ask.url).fragment) == ("", "")
    assert json.loads(ask.body) == {"no": nasty}
    gateway = epay.Options.model_validate(
        {**_COMMON, "url": "https://e.example.org/", "pid": "1", "key": "k"}
    )
    asked = parse_qs(urlsplit(epay.request(gateway, order(nasty)).url).query)
    assert asked == {"act": ["order"], "pid": ["1"], "key": ["k"], "out_trade_no": [nasty]}
    assert stripe.search("order_no", "A'\\7") == "metadata['order_no']:'A\\'\\\\7'"


def _reply(text: str, signature: str, extra: str = "") -> Answer:
    body = f'{{"alipay_trade_query_response":{text},"sign":"{signature}"{extra}}}'
    return Answer(status=200, body=body.encode())


def test_alipays_signature_counts_over_the_very_text(key: rsa.RSAPrivateKey, public: str) -> None:
    node, trusted = "alipay_trade_query_response", checking_key(public)
    text = '{ "code" :"10000","url":"a\\/b","n":1.10 }'
    good = _sign(key, text.encode())
    assert alipay.verified(_reply(text, good), node, trusted).text("code") == "10000"
    for answer in (
        _reply(text.replace(" ", ""), good),
        _reply(text.replace("10000", "10001"), good),
        _reply(text, ""),
        _reply(text, "%%%"),
        _reply(text, good[:-4]),
        # A second, unsigned object of the same name: two readers would read two answers.
        _reply(text, good, f',"{node}":{{"code":"10000"}}'),
        _reply(text, good, ',"sign":"x"'),
        replace(_reply(text, good), status=500),
        Answer(status=200, body=_reply(text, good).body + b"{}"),
        Answer(status=200, body=b'{"error_response":{"code":"40002"}}'),
        Answer(status=200, body=b"{" + b'"a":[' * 5000),
    ):
        with pytest.raises(UnclearError):
            alipay.verified(answer, node, trusted)


def _wechat(private: str, public: str, **more: Any) -> wechat_v3.Options:
    return wechat_v3.Options.model_validate(
        {
            **_COMMON,
            "mchid": "19",
            "serial_no": "S",
            "private_key": private,
            "platform_serial": "P1",
            "public_key": public,
            **more,
        }
    )


def _unionpay(private: str, public: str) -> unionpay.Options:
    return unionpay.Options.model_validate(
        {
            **_COMMON,
            "mer_id": "777",
            "cert_id": "68",
            "private_key": private,
            "public_key": public,
        }
    )


@pytest.mark.parametrize(
    ("change", "believed"),
    [
        ({}, True),
        ({"age_s": 299}, True),
        ({"age_s": -299}, True),
        ({"age_s": 301}, False),
        ({"age_s": -301}, False),
        ({"serial": "P2"}, False),
        ({"serial": ""}, False),
        ({"body": b"{} "}, False),
        ({"nonce": "other"}, False),
        ({"status": 500}, False),
        ({"status": 401}, False),
        ({"time": "nan"}, False),
        ({"time": "1e9"}, False),
        ({"time": "9" * 30}, False),
        ({"time": "-1"}, False),
    ],
)
def test_a_reply_of_wechat_is_believed_when_signed_just_now(
    key: rsa.RSAPrivateKey, public: str, change: dict[str, Any], believed: bool
) -> None:
    stamp = change.get("time", str(int(NOW.timestamp()) - change.get("age_s", 0)))
    headers = {
        "wechatpay-serial": change.get("serial", "P1"),
        "wechatpay-timestamp": stamp,
        "wechatpay-nonce": change.get("nonce", "N"),
        "wechatpay-signature": _sign(key, f"{stamp}\nN\n{{}}\n".encode()),
    }
    answer = Answer(
        status=change.get("status", 200), headers=headers, body=change.get("body", b"{}")
    )
    if believed:
        wechat_v3.check(answer, {"P1": checking_key(public)}, now=NOW)
        return
    with pytest.raises(UnclearError):
        wechat_v3.check(answer, {"P1": checking_key(public)}, now=NOW)


def test_two_keys_of_a_channel_are_believed_while_one_is_replaced(
    key: rsa.RSAPrivateKey, private: str, public: str
) -> None:
    other = rsa.generate_private_key(65_537, 2048)
    keys = (checking_key(_pem(other.public_key())), checking_key(public))
    facts = {"respCode": "00", "orderId": "A7"}
    body = f"respCode=00&orderId=A7&signature={_sign(key, unionpay.digest(facts))}".encode()
    assert unionpay.verified(Answer(status=200, body=body), keys).text("orderId") == "A7"
    with pytest.raises(UnclearError, match="bad signature"):
        unionpay.verified(Answer(status=200, body=body), keys[:1])


@pytest.mark.parametrize("body", [b"", b"a", b"=1", b"a=1&a=2", b"a=1&&b=2", b"\xff=1", b"<html>"])
def test_what_is_no_list_of_fields_is_not_unionpays(body: bytes) -> None:
    with pytest.raises(UnclearError):
        unionpay.parse(body)


def test_keys_are_read_as_pem_and_as_bare_base64(private: str, public: str) -> None:
    for text in (private, "".join(private.split("\n")[1:-2])):
        assert isinstance(checking_key(public), CheckingKey)
        assert checking_key(public).checks(signing_key(text).sign(b"x"), b"x")
    assert checking_key("".join(public.split("\n")[1:-2])).checks(
        signing_key(private).sign(b"x"), b"x"
    )


def test_a_weak_or_foreign_key_is_refused_without_being_quoted() -> None:
    curve = _pem(ec.generate_private_key(ec.SECP256R1()).public_key())
    for text in (curve, "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"):
        for read in (signing_key, checking_key):
            with pytest.raises(ValueError, match="is no ") as refused:
                read(text)
            assert text not in str(refused.value)


def test_nothing_that_holds_a_key_shows_it(private: str, public: str) -> None:
    gateway = epay.Options.model_validate(
        {**_COMMON, "url": "https://e.example.org", "pid": "1", "key": "WSJ6XXnFb3Ok"}
    )
    made = _wechat(private, public)
    shown = (
        repr(gateway)
        + repr(epay.request(gateway, order()))
        + repr(made)
        + repr(wechat_v3.request(made, "GET", "/x", b"", now=NOW, nonce="N"))
    )
    assert "WSJ6XXnFb3Ok" not in shown
    assert "PRIVATE" not in shown
    assert "WECHATPAY2" not in shown


def test_a_time_in_another_zone_is_asked_in_beijing_time(private: str, public: str) -> None:
    placed = datetime(2025, 12, 31, 16, 30, tzinfo=UTC) + timedelta(microseconds=5)
    ask = unionpay.request(_unionpay(private, public), "A7", placed)
    assert b"txnTime=20260101003000" in ask.body
