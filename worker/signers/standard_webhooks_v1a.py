"""Standard Webhooks v1a: ed25519 over ``id.timestamp.body``, so a merchant can verify, not forge.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

Must never give away more than the public key.
"""

import base64
from collections.abc import Mapping
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from worker.errors import BadFieldError
from worker.models import Encoding
from worker.signers.contract import Message, Shaped
from worker.signers.options import check_known
from worker.signers.standard_webhooks import BODIES, signed_with

_PRIVATE, _PUBLIC = "whsk_", "whpk_"
_KEY_BYTES = 32


class StandardWebhooksV1a:
    """Signs with every live key, newest first: a merchant may hold either public key.

    The secret is ``whsk_`` and base64 of the private key, alone or with the public key behind it.
    """

    name = "standard-webhooks-v1a"

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
        """Make a key pair, private and public key behind one another.

        Examples:
            >>> StandardWebhooksV1a().new_secret().startswith("whsk_")
            True
        """
        key = Ed25519PrivateKey.generate()
        pair = key.private_bytes_raw() + key.public_key().public_bytes_raw()
        return _PRIVATE + base64.b64encode(pair).decode()

    def check_secret(self, value: str) -> None:
        """Refuse what is no ``whsk_`` key, or whose two halves are of different pairs.

        Raises:
            BadFieldError: field ``secret``; never quotes the value.
        """
        _key(value)

    def for_merchant(self, value: str) -> str:
        """Return what the merchant is given: ``whpk_`` and the public key.

        Examples:
            >>> StandardWebhooksV1a().for_merchant("whsk_" + "A" * 43 + "=")
            'whpk_O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik='
        """
        return _PUBLIC + base64.b64encode(_key(value).public_key().public_bytes_raw()).decode()


def _signature(secret: str, signed: bytes) -> str:
    return "v1a," + base64.b64encode(_key(secret).sign(signed)).decode()


@lru_cache(maxsize=4096)
def _key(secret: str) -> Ed25519PrivateKey:
    encoded = secret.removeprefix(_PRIVATE)
    try:
        raw = base64.b64decode(encoded, validate=True)
    except ValueError:
        raw = b""
    # Base64 that does not come back the same is read differently by different libraries.
    if not secret.startswith(_PRIVATE) or base64.b64encode(raw).decode() != encoded:
        raise BadFieldError("secret", f"must be {_PRIVATE} and standard padded base64")
    if len(raw) not in (_KEY_BYTES, 2 * _KEY_BYTES):
        raise BadFieldError(
            "secret",
            f"must hold {_KEY_BYTES} bytes of private key after {_PRIVATE}, or {2 * _KEY_BYTES} "
            f"with the public key behind it, not {len(raw)}",
        )
    key = Ed25519PrivateKey.from_private_bytes(raw[:_KEY_BYTES])
    if raw[_KEY_BYTES:] not in (b"", key.public_key().public_bytes_raw()):
        raise BadFieldError("secret", "its public key does not belong to its private key")
    return key
