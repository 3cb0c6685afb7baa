"""Signers of payment platforms: vectors of others, and the merchants of tests/verifying.py."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.verifying import VERIFY, Got, believes
from worker.endpoint_manner import check_signs
from worker.errors import BadFieldError
from worker.models import Encoding, Endpoint, Secret
from worker.signers.canonical import by_name, filled, joined
from worker.signers.contract import KeyPair, Message, Shaped
from worker.signers.registry import find
from worker.signers.wechat_v2 import signature

PAID = (
    ("order_no", "A1001"),
    ("amount", "1290"),
    ("subject", "VIP 会员 & more=fun"),
    ("note", ""),
)
ADYEN = (
    ("pspReference", "7914073381342284"),
    ("originalReference", ""),
    ("merchantAccountCode", "TestMerchant"),
    ("merchantReference", "TestPayment-1407325143704"),
    ("amount.value", "1130"),
    ("amount.currency", "EUR"),
    ("eventCode", "AUTHORISATION"),
    ("success", "true"),
)
FIELDS = {"adyen": ADYEN}
ENCODINGS = {
    "adyen": Encoding.JSON,
    "alipay-rsa2": Encoding.FORM,
    "unionpay-5.1": Encoding.FORM,
    "wechat-v2": Encoding.XML,
}
SHARED = ("adyen", "square", "wechat-v2")
PAIRS = ("standard-webhooks-v1a", "wechat-v3", "alipay-rsa2", "unionpay-5.1")
ALL = (*SHARED, *PAIRS)
V1A = (
    "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
)


def message(profile: str, *secrets: str, **changes: Any) -> Message:
    encoding = ENCODINGS.get(profile, Encoding.RAW)
    facts: dict[str, Any] = {
        "message_id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "event_type": "payment.succeeded",
        "event_key": "A1001:paid",
        "order_no": "A1001",
        "attempt_no": 1,
        "url": "https://merchant.com/cb",
        "method": "POST",
        "content_type": "application/json",
        "headers": (("x-shop", "7"),),
        "body": b'{"order_no":"A1001","amount":1290}',
        "signed_at": 1614265330,
        "encoding": encoding,
        "fields": () if encoding is Encoding.RAW else FIELDS.get(profile, PAID),
        "secrets": tuple(
            Secret(version=len(secrets) - at, value=value) for at, value in enumerate(secrets)
        ),
    }
    return Message(**facts | changes)


@cache
def _made(profile: str, which: int) -> str:
    return find(profile).new_secret()


def secret(profile: str, which: int = 1) -> str:
    """One of a profile's two test secrets; made once, key pairs take long."""
    return _made(profile, which)


def merchants(profile: str, value: str) -> str:
    """What the merchant holds of a secret."""
    scheme = find(profile)
    assert isinstance(scheme, KeyPair) is (profile in PAIRS)
    return scheme.for_merchant(value) if isinstance(scheme, KeyPair) else value


def got(shaped: Shaped) -> Got:
    headers = {name.lower(): value for name, value in shaped.headers}
    return Got(url=shaped.url, headers=headers, body=shaped.body, method=shaped.method)


def shaped(profile: str, *secrets: str, **changes: Any) -> Shaped:
    return find(profile).shape(message(profile, *(secrets or (secret(profile),)), **changes))


def body_of(profile: str, **changes: Any) -> dict[str, Any]:
    return dict(json.loads(shaped(profile, **changes).body))


# Vectors of others


def test_the_published_v1a_vector_comes_out() -> None:
    made = shaped("standard-webhooks-v1a", V1A, body=b'{"test": 2432232314}')
    assert dict(made.headers)["webhook-signature"] == (
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+"
        "m7TBAg=="
    )
    public = merchants("standard-webhooks-v1a", V1A)
    assert public == "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
    assert believes("standard-webhooks-v1a", got(made), public)


def test_the_published_adyen_vector_comes_out() -> None:
    key = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"
    told = json.loads(shaped("adyen", key).body)
    item = told["notificationItems"][0]["NotificationRequestItem"]
    assert item["additionalData"]["hmacSignature"] == "coqCmt/IZ4E3CzPvMY8zTjQVL5hYJUiBRg8UU+iCWo0="
    assert item["amount"] == {"value": 1130, "currency": "EUR"}
    assert told["live"] == "true"


def test_the_square_vector_comes_out() -> None:
    made = shaped("square", "demo-key", url="https://example.com/hook", body=b'{"event_id":"e1"}')
    assert dict(made.headers)["x-square-hmacsha256-signature"] == (
        "ueRjZAD4p6TWjq6NWQyuIkeGRmcRFOkcd6Wz3Dz++cw="
    )


@pytest.mark.parametrize(
    ("kind", "sign"),
    [
        ("MD5", "9A0A8659F005D6984697E2CA0A9CF3B7"),
        ("HMAC-SHA256", "6A9AE1657590FD6257D693A078E1C3E4BB6BA4DC30B23E0EE2496E54170DACD6"),
    ],
)
def test_the_published_wechat_v2_vectors_come_out(kind: str, sign: str) -> None:
    fields = [
        ("device_info", "1000"),
        ("appid", "wxd930ea5d5a258f4f"),
        ("body", "test"),
        ("nonce_str", "ibuaiVcKdpRxkhJA"),
        ("mch_id", "10000100"),
    ]
    key = "192006250b4c09247ec02edce69f6a2d"
    assert signature(fields, key, kind) == sign
    if kind == "MD5":
        assert f"<sign><![CDATA[{sign}]]></sign>".encode() in (
            shaped("wechat-v2", key, fields=tuple(fields)).body
        )


# What holds for all


@pytest.mark.parametrize("profile", ALL)
def test_a_merchant_believes_what_was_signed_and_the_same_message_is_the_same_bytes(
    profile: str,
) -> None:
    made = shaped(profile)
    assert believes(profile, got(made), merchants(profile, secret(profile)))
    assert shaped(profile) == made
    assert ("x-shop", "7") in made.headers
    assert made.url == "https://merchant.com/cb"


@pytest.mark.parametrize("profile", ALL)
def test_a_merchant_with_another_key_believes_nothing(profile: str) -> None:
    assert not believes(profile, got(shaped(profile)), merchants(profile, secret(profile, 2)))


@pytest.mark.parametrize("profile", ALL)
def test_another_amount_is_not_believed(profile: str) -> None:
    made, key = got(shaped(profile)), merchants(profile, secret(profile))
    if profile == "wechat-v3":
        sealed = json.loads(made.body)["resource"]["ciphertext"]
        raw = bytearray(base64.b64decode(sealed))
        raw[shaped("square").body.index(b"1290")] ^= 1  # as it is ciphered, digit for digit
        other = made.altered(sealed.encode(), base64.b64encode(raw))
    else:
        amount = b"1130" if profile == "adyen" else b"1290"
        other = made.altered(amount, b"1" + amount[1:-1] + b"9")
    assert believes(profile, made, key)
    assert not believes(profile, other, key)


@pytest.mark.parametrize("profile", ALL)
def test_the_newest_secret_signs_and_an_only_signature_is_its_own(profile: str) -> None:
    both = got(shaped(profile, secret(profile, 2), secret(profile)))
    believed = [believes(profile, both, merchants(profile, secret(profile, n))) for n in (2, 1)]
    assert believed == [True, profile == "standard-webhooks-v1a"]


@pytest.mark.parametrize("profile", ALL)
def test_no_repr_shows_a_key_or_a_payload(profile: str) -> None:
    shown = repr((message(profile, secret(profile)), shaped(profile), find(profile)))
    assert secret(profile)[:24] not in shown
    assert "1290" not in shown


@pytest.mark.parametrize("profile", ALL)
def test_without_a_live_secret_nothing_is_signed(profile: str) -> None:
    with pytest.raises(BadFieldError, match="no live secret"):
        find(profile).shape(message(profile))


def _pem(key: Any) -> str:
    return str(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()
    )


def bad_secrets() -> Iterator[tuple[str, str, str]]:
    small = _pem(rsa.generate_private_key(public_exponent=65537, key_size=1024))
    curve = _pem(ec.generate_private_key(ec.SECP256R1()))
    for profile in ("alipay-rsa2", "unionpay-5.1"):
        yield profile, "", "private RSA key"
        yield profile, "hunter2-hunter2-hunter2", "private RSA key"
        yield profile, small, "1024 bits"
        yield profile, curve, "not of RSA"
    yield "wechat-v3", secret("alipay-rsa2"), "APIv3 key"
    yield "wechat-v3", "k" * 32, "private RSA key"
    yield "wechat-v3", "k" * 31 + "\n" + secret("alipay-rsa2"), "32 visible"
    yield "wechat-v3", "k" * 32 + "\n" + small, "1024 bits"
    yield "adyen", "44782DEF", "64 characters"
    yield "adyen", "zz" * 32, "hexadecimal"
    yield "square", "short", "visible ASCII"
    yield "wechat-v2", "with a space in it", "visible ASCII"
    yield "standard-webhooks-v1a", V1A.replace("whsk_", "whsec_"), "whsk_"
    yield "standard-webhooks-v1a", "whsk_" + base64.b64encode(b"k" * 31).decode(), "32 bytes"
    yield "standard-webhooks-v1a", "whsk_" + base64.b64encode(b"k" * 64).decode(), "does not belong"
    yield "standard-webhooks-v1a", V1A + "=", "base64"


def test_a_secret_that_cannot_sign_is_refused_without_quoting_it() -> None:
    for profile, value, says in bad_secrets():
        with pytest.raises(BadFieldError) as refused:
            find(profile).check_secret(value)
        assert refused.value.field == "secret"
        assert says in refused.value.problem, profile
        assert len(value) < 8 or value[:20] not in str(refused.value)


@pytest.mark.parametrize("profile", ALL)
def test_new_secrets_are_good_and_never_the_same(profile: str) -> None:
    find(profile).check_secret(secret(profile))
    assert secret(profile) != secret(profile, 2)


def test_a_key_may_come_as_the_bare_base64_of_alipays_tools() -> None:
    pem = secret("alipay-rsa2")
    bare = "".join(pem.splitlines()[1:-1])
    assert shaped("alipay-rsa2", bare) == shaped("alipay-rsa2", pem)


@pytest.mark.parametrize("profile", [*ENCODINGS, "square", "wechat-v3"])
def test_an_encoding_that_cannot_be_signed_is_refused(profile: str) -> None:
    scheme = find(profile)
    scheme.check_options(ENCODINGS.get(profile, Encoding.RAW), {})
    with pytest.raises(BadFieldError, match=r"^encoding: "):
        scheme.check_options(Encoding.QUERY, {})
    with pytest.raises(BadFieldError, match=r"^options\.colour: "):
        scheme.check_options(ENCODINGS.get(profile, Encoding.RAW), {"colour": "red"})


# WeChat v3


def nonce_of(**changes: Any) -> str:
    return str(body_of("wechat-v3", **changes)["resource"]["nonce"])


def test_a_nonce_belongs_to_one_text_under_one_key() -> None:
    same = {nonce_of(attempt_no=no, signed_at=1614265330 + no) for no in (1, 2, 3)}
    assert len(same) == 1
    others = {
        nonce_of(body=b'{"order_no":"A1001","amount":1291}'),
        nonce_of(message_id="msg_other"),
        nonce_of(event_type="refund.succeeded"),
        str(json.loads(shaped("wechat-v3", secret("wechat-v3", 2)).body)["resource"]["nonce"]),
    }
    assert len(same | others) == 5
    assert all(len(nonce) == 12 and nonce.isascii() for nonce in same | others)


def test_nonces_of_many_texts_are_all_different() -> None:
    scheme, one = find("wechat-v3"), message("wechat-v3", secret("wechat-v3"))
    nonces = set()
    for number in range(300):
        one.body = b'{"amount":%d}' % number
        nonces.add(json.loads(scheme.shape(one).body)["resource"]["nonce"])
    assert len(nonces) == 300


def test_each_attempt_has_its_own_time_and_header_nonce_under_the_same_id() -> None:
    first, second = (shaped("wechat-v3", attempt_no=no, signed_at=1614265330 + no) for no in (1, 2))
    heads = [dict(one.headers) for one in (first, second)]
    assert heads[0]["Wechatpay-Nonce"] != heads[1]["Wechatpay-Nonce"]
    assert heads[1]["Wechatpay-Timestamp"] == "1614265332"
    assert heads[0]["Wechatpay-Serial"] == heads[1]["Wechatpay-Serial"]
    assert json.loads(first.body)["id"] == json.loads(second.body)["id"]


def test_a_refund_is_told_as_wechat_tells_it() -> None:
    told = body_of("wechat-v3", event_type="refund.succeeded")
    assert (told["event_type"], told["resource"]["original_type"]) == ("REFUND.SUCCESS", "refund")
    assert body_of("wechat-v3", event_type="payment.odd")["event_type"] == "PAYMENT.ODD"


def test_a_serial_may_be_given() -> None:
    made = shaped("wechat-v3", options={"serial": "5157F09EFDC096DE15EBE81A47057A72"})
    assert dict(made.headers)["Wechatpay-Serial"] == "5157F09EFDC096DE15EBE81A47057A72"


# The others


@pytest.mark.parametrize("profile", ["alipay-rsa2", "unionpay-5.1"])
def test_a_form_may_be_in_gbk(profile: str) -> None:
    made = got(shaped(profile, options={"charset": "gbk"}))
    assert b"%BB%E1%D4%B1" in made.body
    assert believes(profile, made, merchants(profile, secret(profile)))


def test_empty_fields_are_not_sent_where_libraries_differ_on_signing_them() -> None:
    assert b"note=" not in shaped("alipay-rsa2").body
    assert b"note=" not in shaped("unionpay-5.1").body


def test_alipay_tells_doubles_by_notify_id() -> None:
    sent = [shaped("alipay-rsa2", signed_at=1614265330 + no).body for no in (0, 60)]
    assert all(b"notify_id=msg_p5jXN8AQM9LWM0D4loKWxJek" in body for body in sent)
    assert b"notify_time=2021-02-25+23%3A02%3A10" in sent[0]
    assert b"notify_time=2021-02-25+23%3A03%3A10" in sent[1]


def test_unionpay_says_which_key_signed() -> None:
    made = got(shaped("unionpay-5.1", options={"cert_id": "69026276696"}))
    assert b"certId=69026276696" in made.body
    assert believes("unionpay-5.1", made, merchants("unionpay-5.1", secret("unionpay-5.1")))


def test_wechat_v2_by_hmac_says_so_and_repeats_its_bytes() -> None:
    one, two = (
        shaped("wechat-v2", options={"sign_type": "HMAC-SHA256"}, attempt_no=no) for no in (1, 2)
    )
    assert b"<sign_type><![CDATA[HMAC-SHA256]]></sign_type>" in one.body
    assert one == two
    assert believes("wechat-v2", got(one), secret("wechat-v2"))


@pytest.mark.parametrize("value", ["a\rb\r\nc\nd", "]]>", "<a>&amp;</a>", " padded "])
def test_xml_carries_what_parsers_like_to_change(value: str) -> None:
    made = got(shaped("wechat-v2", fields=(("attach", value),)))
    assert VERIFY["wechat-v2"](made, secret("wechat-v2"))["attach"] == value


@pytest.mark.parametrize("profile", ["alipay-rsa2", "unionpay-5.1", "wechat-v2", "epay"])
def test_a_value_that_reads_as_two_fields_is_refused(profile: str) -> None:
    for value in ("1&total=2", "&a=", "x&b=&c=1"):
        with pytest.raises(BadFieldError, match=r"^fields\.subject: "):
            shaped(profile, fields=(("subject", value),))
    shaped(profile, fields=(("subject", "Q&A = 1 & 2=x, a=b&"),))


# Letters that are told from each other by where they stand only.
tricky = st.dictionaries(
    st.text("ab=&", min_size=1, max_size=3), st.text("ab=&", max_size=6), max_size=3
).map(lambda found: sorted(found.items()))


@settings(max_examples=500)
@given(tricky, tricky)
def test_different_fields_are_never_joined_to_the_same_text(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    texts, kept = [], []
    for fields in (one, other):
        try:
            kept.append(filled(fields))
        except BadFieldError:
            return
        texts.append(joined(by_name(kept[-1])))
    assert (texts[0] == texts[1]) is (kept[0] == kept[1])


@pytest.mark.parametrize("name", ["a=b", "a&b", "", "é", "1a"])
def test_a_name_that_cannot_be_joined_is_refused(name: str) -> None:
    with pytest.raises(BadFieldError, match="is no name that can be signed"):
        shaped("alipay-rsa2", fields=((name, "1"),))


def test_such_a_name_is_refused_when_the_endpoint_chooses_it() -> None:
    endpoint = Endpoint(
        id=1,
        name="a",
        merchant="m",
        url="https://merchant.com/cb",
        scheme="alipay-rsa2",
        encoding=Encoding.FORM,
        fields=(("total=", "=1"),),
    )
    with pytest.raises(BadFieldError, match=r"^fields\.total=: "):
        check_signs(endpoint, secret("alipay-rsa2"))


def test_square_counts_retries() -> None:
    assert "square-retry-number" not in dict(shaped("square").headers)
    assert dict(shaped("square", attempt_no=3).headers)["square-retry-number"] == "2"


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("merchantReference", "A:1", "fields.merchantReference"),
        ("amount.value", "11.30", "fields.amount.value"),
        ("amount.value", "1e3", "fields.amount.value"),
    ],
)
def test_adyen_refuses_what_cannot_be_signed_in_one_way(name: str, value: str, field: str) -> None:
    fields = tuple((key, value if key == name else old) for key, old in ADYEN)
    with pytest.raises(BadFieldError) as refused:
        shaped("adyen", fields=fields)
    assert refused.value.field == field


names = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True).filter(
    lambda name: not name.startswith("sign") and name not in ("charset", "version", "encoding")
)
values = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"), max_size=40
)


@settings(max_examples=15)
@given(
    st.dictionaries(names, values, min_size=1, max_size=6),
    st.sampled_from(["alipay-rsa2", "unionpay-5.1", "wechat-v2"]),
    st.integers(0, 7),
)
def test_a_merchant_reads_what_was_signed_and_nothing_else_from_changed_bits(
    told: dict[str, str], profile: str, bit: int
) -> None:
    made, key = (
        got(shaped(profile, fields=tuple(told.items()))),
        merchants(profile, secret(profile)),
    )
    read = VERIFY[profile](made, key)
    assert {name: text for name, text in told.items() if text}.items() <= read.items()
    for at in range(bit, len(made.body), 11):
        changed = bytearray(made.body)
        changed[at] ^= 1 << bit
        other = replace(made, body=bytes(changed))
        # Other bytes may say the same (%2f is %2F), never something else.
        assert not believes(profile, other, key) or VERIFY[profile](other, key) == read
