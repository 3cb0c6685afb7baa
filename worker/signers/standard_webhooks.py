"""Standard Webhooks v1: HMAC-SHA256 over ``id.timestamp.body``.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

Must never put a secret into an error, and never sign anything but the bytes that are sent.
"""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Protocol, Self

from worker.errors import BadFieldError
from worker.models import Encoding
from worker.signers.contract import Message, Shaped
from worker.signers.encoding import encoded
from worker.signers.options import check_known

_PREFIX = "whsec_"
_KEY_MIN, _KEY_MAX, _KEY_NEW = 24, 64, 32
_RAW = Encoding.RAW
BODIES = (Encoding.RAW, Encoding.JSON, Encoding.FORM, Encoding.XML)
_BLOCK = 64  # bytes SHA-256 works on at a time
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


class _State(Protocol):
    """A hash that is under way, as hashlib makes them."""

    def copy(self) -> Self: ...
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class StandardWebhooks:
    """Signs with every live secret, newest first, so a merchant may change over at leisure."""

    name = "standard-webhooks"

    def shape(self, message: Message) -> Shaped:
        """Sign one attempt.

        Raises:
            BadFieldError: no live secret, one that is no key, or an id with a dot in it.
        """
        return signed_with(message, _signature)

    def check_options(self, encoding: Encoding, options: Mapping[str, str]) -> None:
        """Take whatever has a body.

        Raises:
            BadFieldError: field ``encoding`` or ``options.NAME``.
        """
        check_known(encoding, options, {}, encodings=BODIES, scheme=self.name)

    def new_secret(self) -> str:
        """Make a secret of 32 random bytes.

        Examples:
            >>> StandardWebhooks().new_secret().startswith("whsec_")
            True
        """
        return _PREFIX + base64.b64encode(secrets.token_bytes(_KEY_NEW)).decode()

    def check_secret(self, value: str) -> None:
        """Refuse what is not ``whsec_`` and 24 to 64 bytes in base64.

        Raises:
            BadFieldError: field ``secret``; never quotes the value.
        """
        _key(value)


def signed_with(message: Message, signature: Callable[[str, bytes], str]) -> Shaped:
    """Shape one attempt whose signatures are made by ``signature(secret, signed)``.

    Raises:
        BadFieldError: no live secret, one that is no key, or an id with a dot in it.
    """
    message_id = message.message_id
    if "." in message_id:
        # id.timestamp.body could be cut at another dot and mean another message.
        raise BadFieldError("message_id", "must not contain a dot")
    if not message.secrets:
        raise BadFieldError("secret", "the endpoint has no live secret; rotate it to make one")
    timestamp = str(message.signed_at)
    content_type, body = message.content_type, message.body
    if message.encoding is not _RAW:
        carried = encoded(message, message.fields)
        content_type, body = carried.headers[0][1], carried.body
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = " ".join([signature(secret.value, signed) for secret in message.secrets])
    return Shaped(
        method=message.method,
        url=message.url,
        headers=(
            ("content-type", content_type),
            ("webhook-id", message_id),
            ("webhook-timestamp", timestamp),
            ("webhook-signature", signatures),
            *message.headers,
        ),
        body=body,
    )


def _signature(secret: str, signed: bytes) -> str:
    inner, outer = _states(secret)
    inner, outer = inner.copy(), outer.copy()
    inner.update(signed)
    outer.update(inner.digest())
    return "v1," + binascii.b2a_base64(outer.digest(), newline=False).decode()


@lru_cache(maxsize=8192)
def _states(secret: str) -> tuple[_State, _State]:
    """Start HMAC-SHA256 (RFC 2104) for one secret; both states are only ever copied.

    Kept because setting a key up anew, as ``hmac.digest`` does, takes longer than signing.
    """
    key = _key(secret).ljust(_BLOCK, b"\0")
    return hashlib.sha256(key.translate(_INNER)), hashlib.sha256(key.translate(_OUTER))


def _key(secret: str) -> bytes:
    if not secret.startswith(_PREFIX):
        raise BadFieldError("secret", f"must start with {_PREFIX}, followed by base64")
    encoded = secret.removeprefix(_PREFIX)
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        key = b""
    # Base64 that does not come back the same is read differently by different libraries.
    if base64.b64encode(key).decode() != encoded or not key:
        raise BadFieldError("secret", f"must be standard padded base64 after {_PREFIX}")
    if not _KEY_MIN <= len(key) <= _KEY_MAX:
        raise BadFieldError(
            "secret", f"must hold {_KEY_MIN} to {_KEY_MAX} bytes after {_PREFIX}, not {len(key)}"
        )
    return key
