"""stripe-style and plain-hmac: published vectors and other people's code."""

import base64
import hashlib
import hmac
from typing import Any

import pytest
import stripe

from worker.errors import BadFieldError
from worker.models import Encoding, Secret
from worker.signers.contract import Message, Shaped
from worker.signers.registry import find

SECRET = "whsec_test_secret"


def shape(scheme: str, secrets: tuple[str, ...] = (SECRET,), **changes: Any) -> Shaped:
    facts: dict[str, Any] = {
        "message_id": "msg_1",
        "event_type": "payment.paid",
        "event_key": "k",
        "order_no": None,
        "attempt_no": 1,
        "url": "https://example.com/hook",
        "method": "POST",
        "content_type": "application/json",
        "headers": (),
        "body": b'{"id":"evt_test_webhook","object":"event"}',
        "signed_at": 1492774577,
        "secrets": tuple(Secret(version=9 - at, value=value) for at, value in enumerate(secrets)),
    }
    return find(scheme).shape(Message(**facts | changes))


def test_stripe_style_signs_the_known_vector() -> None:
    made = shape("stripe-style")
    assert dict(made.headers)["Stripe-Signature"] == (
        "t=1492774577,v1=88a022085c6bdb887b02cb26ff76dd681234d9675c0f22844059f55552a8883a"
    )
    assert made.body == b'{"id":"evt_test_webhook","object":"event"}'


def test_the_stripe_library_accepts_either_live_secret_and_nothing_altered() -> None:
    made = shape("stripe-style", (SECRET, "whsec_the_one_before"))
    header = dict(made.headers)["Stripe-Signature"]
    verify = stripe.WebhookSignature.verify_header
    for secret in (SECRET, "whsec_the_one_before"):
        assert verify(made.body.decode(), header, secret, tolerance=None)
    for body, secret in ((made.body + b" ", SECRET), (made.body, "whsec_wrong")):
        with pytest.raises(stripe.SignatureVerificationError):
            verify(body.decode(), header, secret, tolerance=None)


BODY = b'{"event_id":"e1"}'


@pytest.mark.parametrize(
    ("options", "key", "signed", "written"),
    [
        ({}, b"demo-key", BODY, "X-Signature: {hex}"),
        ({"output": "HEX", "header": "X-Sign"}, b"demo-key", BODY, "X-Sign: {HEX}"),
        ({"prefix": "sha256=", "output": "base64"}, b"demo-key", BODY, "X-Signature: sha256={b64}"),
        (
            {"signed": "time.body", "time_header": "X-Time"},
            b"demo-key",
            b"1492774577." + BODY,
            "X-Time: 1492774577",
        ),
        (
            {"signed": "id.time.body", "time_header": "X-Time", "id_header": "X-Id"},
            b"demo-key",
            b"msg_1.1492774577." + BODY,
            "X-Id: msg_1",
        ),
        ({"signed": "url+body"}, b"demo-key", b"https://example.com/hook" + BODY, ""),
        ({"key": "base64"}, base64.b64decode("ZGVtby1rZXk="), BODY, "X-Signature: {hex}"),
        ({"key": "hex"}, bytes.fromhex("00ff00ff"), BODY, "X-Signature: {hex}"),
    ],
)
def test_options_say_which_bytes_and_how_they_are_written(
    options: dict[str, str], key: bytes, signed: bytes, written: str
) -> None:
    secret = {"base64": "ZGVtby1rZXk=", "hex": "00ff00ff"}.get(options.get("key", ""), "demo-key")
    find("plain-hmac").check_options(Encoding.RAW, options)
    made = shape("plain-hmac", (secret,), body=BODY, options=options)
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    forms = {
        "hex": digest.hex(),
        "HEX": digest.hex().upper(),
        "b64": base64.b64encode(digest).decode(),
    }
    lines = [f"{name}: {value}" for name, value in made.headers]
    assert written.format(**forms) in [*lines, ""]
    assert any(value in dict(made.headers).get(options.get("header", "X-Signature"), "")
               for value in forms.values())  # fmt: skip


def test_the_square_vector_comes_out_of_options_alone() -> None:
    options = {
        "header": "x-square-hmacsha256-signature",
        "output": "base64",
        "signed": "url+body",
    }
    made = shape("plain-hmac", ("demo-key",), body=BODY, options=options)
    assert dict(made.headers)["x-square-hmacsha256-signature"] == (
        "ueRjZAD4p6TWjq6NWQyuIkeGRmcRFOkcd6Wz3Dz++cw="
    )


def test_the_signature_covers_the_encoded_bytes() -> None:
    made = shape(
        "plain-hmac", encoding=Encoding.FORM, fields=(("a", "1 2"),), options={"hash": "sha512"}
    )
    assert made.body == b"a=1+2"
    assert dict(made.headers)["X-Signature"] == (
        hmac.new(SECRET.encode(), b"a=1+2", hashlib.sha512).hexdigest()
    )


@pytest.mark.parametrize(
    ("encoding", "options", "says"),
    [
        (Encoding.RAW, {"header": "Host"}, r"options\.header: 'Host' cannot carry"),
        (Encoding.RAW, {"header": "X Sign"}, r"options\.header: "),
        (Encoding.RAW, {"output": "b64"}, r"options\.output: .* must be one of hex, HEX, base64"),
        (Encoding.RAW, {"hash": "md5"}, r"options\.hash: "),
        (Encoding.RAW, {"signed": "time.body"}, r"options\.time_header: is missing"),
        (Encoding.RAW, {"charset": "gbk"}, r"options\.charset: is no option"),
        (Encoding.QUERY, {}, r"options\.signed: must be url\+body"),
        (Encoding.RAW, {"prefix": " x"}, r"options\.prefix: "),
        (Encoding.RAW, {"prefix": "a\nb"}, r"options\.prefix: .*printable"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    encoding: Encoding, options: dict[str, str], says: str
) -> None:
    with pytest.raises(BadFieldError, match=f"^{says}"):
        find("plain-hmac").check_options(encoding, options)


def test_a_key_that_is_not_what_its_option_says_is_refused_without_showing_it() -> None:
    with pytest.raises(BadFieldError, match="is not hex") as refused:
        shape("plain-hmac", ("no hex at all",), options={"key": "hex"})
    assert "no hex at all" not in str(refused.value)
