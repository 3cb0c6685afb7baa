"""WeChat Pay v3: the resource sealed with AES-256-GCM, the whole body signed with RSA-SHA256.

WeChat Pay's documentation of APIv3: "verify signatures" and "decrypt callbacks".

Must never seal two texts under one key with the same nonce.

The same message must give the same bytes, so nonces are not drawn but derived: the resource's is
HMAC-SHA256 under the APIv3 key over what is sealed, its associated data and the message id, cut to
the 12 characters the platform has. Another text gives another nonce, and a retry, which seals the
same text, repeats a ciphertext that was sent before: it tells nobody anything. What is left is
chance, over 72 bits: one in a million after a hundred million notifications under one key, as with
nonces that are drawn from as many characters. Rotate the key before that. Even then nobody could
forge a notification: the signature is over the whole body.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from worker.errors import BadFieldError
from worker.models import Encoding
from worker.signers import keys, rsa
from worker.signers.contract import Message, Shaped
from worker.signers.encoding import encoded, json_text, with_headers
from worker.signers.options import check_known, text

_ALGORITHM = "AEAD_AES_256_GCM"
_SIGNATURE_TYPE = "WECHATPAY2-SHA256-RSA2048"
_API_KEY = re.compile(r"[\x21-\x7e]{32}").fullmatch
_BEIJING = timezone(timedelta(hours=8))
_ENCODINGS = (Encoding.RAW, Encoding.JSON)
# What WeChat calls our events; another goes out in capitals, as theirs are written.
_EVENTS = {
    "payment.succeeded": "TRANSACTION.SUCCESS",
    "refund.succeeded": "REFUND.SUCCESS",
    "refund.failed": "REFUND.ABNORMAL",
    "refund.closed": "REFUND.CLOSED",
}


class WechatV3:
    """Signs and seals with the newest secret: there is one signature and one ciphertext.

    The secret is the APIv3 key (32 characters), a line break, and a private RSA key as PEM.
    ``Wechatpay-Serial`` names the public key, so a merchant that holds the next one beside the
    present one never misses a notification; without the option ``serial`` it follows the key.
    """

    name = "wechat-v3"

    def shape(self, message: Message) -> Shaped:
        """Sign one attempt.

        Raises:
            BadFieldError: no live secret, or one that is no pair of keys.
        """
        secret = keys.newest_key(message)
        api_key, private = _parts(secret)
        shaped = encoded(message, message.fields)
        shaped.body = _sealed(message, api_key.encode(), shaped.body)
        timestamp = str(message.signed_at)
        seed = f"{message.message_id}\n{message.attempt_no}\n{timestamp}"
        nonce = _derived(api_key.encode(), b"request", seed.encode()).hex()[:32]
        signature = rsa.sign(private, f"{timestamp}\n{nonce}\n".encode() + shaped.body + b"\n")
        return with_headers(
            shaped,
            ("content-type", "application/json"),
            ("Wechatpay-Timestamp", timestamp),
            ("Wechatpay-Nonce", nonce),
            ("Wechatpay-Signature", signature),
            ("Wechatpay-Signature-Type", _SIGNATURE_TYPE),
            ("Wechatpay-Serial", message.options.get("serial") or serial(secret)),
        )

    def check_options(self, encoding: Encoding, options: Mapping[str, str]) -> None:
        """Take JSON or a payload as it is; ``serial`` is what ``Wechatpay-Serial`` says.

        Raises:
            BadFieldError: field ``encoding`` or ``options.NAME``.
        """
        check_known(encoding, options, {"serial": text}, encodings=_ENCODINGS, scheme=self.name)

    def new_secret(self) -> str:
        """Make an APIv3 key and a key pair."""
        return f"{keys.new_text_key()}\n{rsa.new_private()}"

    def check_secret(self, value: str) -> None:
        """Refuse what is not an APIv3 key and a private RSA key.

        Raises:
            BadFieldError: field ``secret``; never quotes the value.
        """
        rsa.check(_parts(value)[1])

    def for_merchant(self, value: str) -> str:
        """Return what the merchant is given: APIv3 key, name of the public key, public key."""
        api_key, private = _parts(value)
        return f"{api_key}\n{serial(value)}\n{rsa.public_pem(private)}"


@lru_cache(maxsize=4096)
def serial(secret: str) -> str:
    """Name the public key of a secret, as WeChat names public keys; the same for the same key."""
    digest = hashlib.sha256(rsa.public_pem(_parts(secret)[1]).encode()).hexdigest()
    return f"PUB_KEY_ID_{digest[:32].upper()}"


def _sealed(message: Message, api_key: bytes, plain: bytes) -> bytes:
    event = _EVENTS.get(message.event_type, message.event_type.upper())
    kind = "refund" if event.startswith("REFUND.") else "transaction"
    # Both lengths are fixed or stand before: no two inputs give the same bytes.
    seed = f"{kind}\n{message.message_id}\n".encode() + plain
    nonce = base64.urlsafe_b64encode(_derived(api_key, b"resource", seed)[:9])
    ciphertext = AESGCM(api_key).encrypt(nonce, plain, kind.encode())
    created_at = datetime.fromtimestamp(message.signed_at, UTC).astimezone(_BEIJING)
    return json_text([
        ("id", message.message_id),
        ("create_time", created_at.isoformat(timespec="seconds")),
        ("resource_type", "encrypt-resource"),
        ("event_type", event),
        ("summary", message.event_type),
        ("resource.original_type", kind),
        ("resource.algorithm", _ALGORITHM),
        ("resource.ciphertext", base64.b64encode(ciphertext).decode()),
        ("resource.associated_data", kind),
        ("resource.nonce", nonce.decode()),
    ]).encode()  # fmt: skip


def _derived(api_key: bytes, what: bytes, seed: bytes) -> bytes:
    """Derive bytes nobody without the key can guess; ``what`` keeps the two uses apart."""
    return hmac.digest(api_key, b"paynotify " + what + b"\n" + seed, hashlib.sha256)


def _parts(secret: str) -> tuple[str, str]:
    api_key, _, private = secret.strip().partition("\n")
    if not _API_KEY(api_key.strip()) or not private.strip():
        raise BadFieldError(
            "secret",
            "must be the APIv3 key (32 visible ASCII characters) on the first line and a private "
            "RSA key as PEM below it",
        )
    return api_key.strip(), private
