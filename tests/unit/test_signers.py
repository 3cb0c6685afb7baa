"""Signing schemes: the registry, and Standard Webhooks against other people's vectors and code."""

import base64
import hashlib
import hmac
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from worker.errors import BadFieldError
from worker.models import Encoding, Secret
from worker.signers.contract import Message, Shaped
from worker.signers.registry import find, names

SCHEME = find("standard-webhooks")
VECTOR_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


def secrets_of(*values: str) -> tuple[Secret, ...]:
    return tuple(Secret(version=len(values) - at, value=value) for at, value in enumerate(values))


def message(**changes: Any) -> Message:
    facts: dict[str, Any] = {
        "message_id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "event_type": "payment.paid",
        "event_key": "order-1",
        "order_no": "1",
        "attempt_no": 1,
        "url": "https://merchant.com/cb?order=1",
        "method": "POST",
        "content_type": "application/json",
        "headers": (("x-shop", "7"),),
        "body": b'{"test": 2432232314}',
        "signed_at": 1614265330,
        "secrets": secrets_of(VECTOR_SECRET),
    }
    return Message(**facts | changes)


def verifies(shaped: Shaped, secret: str) -> bool:
    """A merchant's side, written from the specification and not from our code."""
    headers = dict(shaped.headers)
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b".".join(
        (headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), shaped.body)
    )
    wanted = b"v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256))
    given_ones = headers["webhook-signature"].encode().split(b" ")
    return any(hmac.compare_digest(wanted, one) for one in given_ones)


def test_the_published_vector_comes_out() -> None:
    assert SCHEME.shape(message()) == Shaped(
        method="POST",
        url="https://merchant.com/cb?order=1",
        headers=(
            ("content-type", "application/json"),
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
            ("x-shop", "7"),
        ),
        body=b'{"test": 2432232314}',
    )


keys = st.binary(min_size=24, max_size=64).map(
    lambda key: "whsec_" + base64.b64encode(key).decode()
)
ids = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
times = st.integers(0, 4_000_000_000)


@given(keys, ids, st.text(max_size=400), times)
def test_the_reference_library_signs_the_same(
    secret: str, message_id: str, body: str, signed_at: int
) -> None:
    encoded = body.encode("utf-8", "replace")
    shaped = SCHEME.shape(
        message(
            message_id=message_id, body=encoded, signed_at=signed_at, secrets=secrets_of(secret)
        )
    )
    theirs = Webhook(secret).sign(
        message_id, datetime.fromtimestamp(signed_at, UTC), encoded.decode()
    )
    assert dict(shaped.headers)["webhook-signature"] == theirs


def test_the_reference_library_accepts_a_fresh_message_under_either_live_secret() -> None:
    shaped = SCHEME.shape(
        message(signed_at=int(time.time()), secrets=secrets_of(OTHER_SECRET, VECTOR_SECRET))
    )
    for secret in (OTHER_SECRET, VECTOR_SECRET):
        Webhook(secret).verify(shaped.body, dict(shaped.headers))


def test_the_signature_covers_encoded_fields() -> None:
    fields = (("order_no", "A1"), ("name", "会员"))
    for encoding in (Encoding.FORM, Encoding.JSON, Encoding.XML):
        shaped = SCHEME.shape(
            message(signed_at=int(time.time()), encoding=encoding, fields=fields, body=b"{}")
        )
        assert verifies(shaped, VECTOR_SECRET)
        assert b"A1" in shaped.body
        assert encoding.value in dict(shaped.headers)["content-type"]


@given(keys, ids, st.binary(max_size=400), times)
def test_whatever_is_signed_verifies(
    secret: str, message_id: str, body: bytes, signed_at: int
) -> None:
    one = message(message_id=message_id, body=body, signed_at=signed_at, secrets=secrets_of(secret))
    shaped = SCHEME.shape(one)
    assert verifies(shaped, secret)
    assert shaped.body is body
    assert SCHEME.shape(one) == shaped


def flips(data: bytes) -> Iterator[bytes]:
    for at in range(len(data) * 8):
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        yield bytes(changed)


def test_any_changed_bit_of_the_body_breaks_the_signature() -> None:
    shaped = SCHEME.shape(message())
    for body in flips(shaped.body):
        changed = Shaped(method="POST", url=shaped.url, headers=shaped.headers, body=body)
        assert not verifies(changed, VECTOR_SECRET)


@pytest.mark.parametrize("header", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_any_changed_bit_of_a_signed_header_breaks_the_signature(header: str) -> None:
    shaped = SCHEME.shape(message())
    for value in flips(dict(shaped.headers)[header].encode()):
        headers = dict(shaped.headers) | {header: value.decode("latin-1")}
        changed = Shaped(
            method="POST", url=shaped.url, headers=tuple(headers.items()), body=shaped.body
        )
        assert not verifies(changed, VECTOR_SECRET)


def test_any_changed_bit_of_the_secret_breaks_the_signature() -> None:
    shaped = SCHEME.shape(message())
    for key in flips(base64.b64decode(VECTOR_SECRET.removeprefix("whsec_"))):
        assert not verifies(shaped, "whsec_" + base64.b64encode(key).decode())


@given(keys, keys)
def test_a_rotation_signs_old_new_both_then_only_new(old: str, new: str) -> None:
    before, during, later = (
        SCHEME.shape(message(secrets=secrets_of(*live))) for live in ((old,), (new, old), (new,))
    )
    assert verifies(before, old)
    assert verifies(during, old)
    assert verifies(during, new)
    assert verifies(later, new)
    assert verifies(later, old) is (old == new)


def test_the_newest_signature_comes_first() -> None:
    both = SCHEME.shape(message(secrets=secrets_of(OTHER_SECRET, VECTOR_SECRET)))
    new = SCHEME.shape(message(secrets=secrets_of(OTHER_SECRET)))
    old = SCHEME.shape(message())
    signature = [dict(shaped.headers)["webhook-signature"] for shaped in (new, old, both)]
    assert signature[2] == f"{signature[0]} {signature[1]}"


def test_each_attempt_is_signed_at_its_own_time_under_the_same_id() -> None:
    first, second = (
        dict(SCHEME.shape(message(signed_at=signed_at, attempt_no=no)).headers)
        for no, signed_at in ((1, 1614265330), (2, 1614265390))
    )
    assert first["webhook-id"] == second["webhook-id"]
    assert second["webhook-timestamp"] == "1614265390"
    assert first["webhook-signature"] != second["webhook-signature"]


@pytest.mark.parametrize(
    "body", ["\u2028".encode(), b'{"a":1e400,"a":2}', b"\xff\xfe\0", b"", b" {} \n"]
)
def test_the_bytes_signed_are_the_bytes_sent(body: bytes) -> None:
    shaped = SCHEME.shape(message(body=body))
    assert shaped.body == body
    assert verifies(shaped, VECTOR_SECRET)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"message_id": "msg.1"}, "message_id"),
        ({"secrets": ()}, "secret"),
        ({"secrets": secrets_of("hunter2-hunter2")}, "secret"),
    ],
)
def test_a_message_that_cannot_be_signed_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(BadFieldError) as refused:
        SCHEME.shape(message(**changes))
    assert refused.value.field == field
    assert "hunter2" not in str(refused.value)


def test_new_secrets_are_good_and_never_the_same() -> None:
    made = {SCHEME.new_secret() for _ in range(100)}
    assert len(made) == 100
    for secret in made:
        SCHEME.check_secret(secret)
        assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32


@pytest.mark.parametrize("size", [24, 32, 64])
def test_secrets_of_24_to_64_bytes_are_accepted(size: int) -> None:
    SCHEME.check_secret("whsec_" + base64.b64encode(b"k" * size).decode())


@pytest.mark.parametrize(
    "value",
    [
        "",
        "whsec_",
        VECTOR_SECRET.removeprefix("whsec_"),
        VECTOR_SECRET.replace("whsec_", "whsk_"),
        VECTOR_SECRET + "=",
        VECTOR_SECRET + "\n",
        " " + VECTOR_SECRET,
        "whsec_" + "é" * 32,
        "whsec_" + base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        "whsec_" + base64.b64encode(b"k" * 32).decode().rstrip("="),
        "whsec_" + base64.b64encode(b"k" * 32).decode()[:-2] + "t=",
        "whsec_" + base64.b64encode(b"k" * 23).decode(),
        "whsec_" + base64.b64encode(b"k" * 65).decode(),
    ],
)
def test_a_secret_that_is_no_key_is_refused_without_quoting_it(value: str) -> None:
    with pytest.raises(BadFieldError) as refused:
        SCHEME.check_secret(value)
    assert refused.value.field == "secret"
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    hidden = value.removeprefix("whsec_").strip()
    assert len(hidden) < 8 or hidden not in str(refused.value)


def test_no_repr_shows_a_secret_a_signature_or_a_payload() -> None:
    one = message()
    shown = repr((one, SCHEME.shape(one), SCHEME))
    for hidden in ("MfKQ9r8G", "g0hM9SsE", "2432232314"):
        assert hidden not in shown


def test_every_name_is_found_and_always_the_same_scheme() -> None:
    assert "standard-webhooks" in names()
    for name in names():
        assert find(name) is find(name)
        assert find(name).name == name


@pytest.mark.parametrize(
    ("name", "says"),
    [("standard-webhook", "did you mean standard-webhooks?"), ("zzz", "there are: ")],
)
def test_an_unknown_name_is_refused_with_the_known_ones(name: str, says: str) -> None:
    with pytest.raises(BadFieldError, match=r"^scheme: no scheme") as refused:
        find(name)
    assert says in str(refused.value)
