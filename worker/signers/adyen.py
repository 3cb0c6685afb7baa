"""Adyen standard webhooks: eight fields joined by colons, HMAC-SHA256, inside the JSON itself.

https://docs.adyen.com/development-resources/webhooks/

Must never sign a field that could be cut at another colon and mean another notification.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping

from worker.errors import BadFieldError
from worker.models import Encoding
from worker.signers import keys
from worker.signers.contract import Message, Shaped
from worker.signers.encoding import Bare, encoded
from worker.signers.options import check_known, one_of

_KEY_BYTES = 32
_SIGNED = (
    "pspReference", "originalReference", "merchantAccountCode", "merchantReference",
    "amount.value", "amount.currency", "eventCode", "success",
)  # fmt: skip
_ITEM = "notificationItems.0.NotificationRequestItem."
_SIGNATURE = "additionalData.hmacSignature"


class Adyen:
    """Wraps the fields as one notification item; signs with the newest secret.

    Fields have Adyen's names (``amount.value`` in minor units). An item has room for one
    signature: give a merchant the next key before it is put in force, or let it try both.
    """

    name = "adyen"

    def shape(self, message: Message) -> Shaped:
        """Sign one attempt.

        Raises:
            BadFieldError: no live secret, one that is no key, a field that holds a colon, or an
                amount that is no whole number.
        """
        mac = hmac.digest(
            _key(keys.newest_key(message)), signed_text(message.fields).encode(), hashlib.sha256
        )
        signature = (_ITEM + _SIGNATURE, base64.b64encode(mac).decode())
        items = [(_ITEM + name, _typed(name, value)) for name, value in message.fields]
        live = ("live", message.options.get("live", "true"))
        return encoded(message, [live, *items, signature])

    def check_options(self, encoding: Encoding, options: Mapping[str, str]) -> None:
        """Take fields as JSON; ``live`` says whether it is about real money.

        Raises:
            BadFieldError: field ``encoding`` or ``options.NAME``.
        """
        check_known(
            encoding,
            options,
            {"live": one_of(("true", "false"))},
            encodings=(Encoding.JSON,),
            scheme=self.name,
        )

    def new_secret(self) -> str:
        """Make a key of 32 bytes, in hexadecimal.

        Examples:
            >>> len(Adyen().new_secret())
            64
        """
        return secrets.token_bytes(_KEY_BYTES).hex().upper()

    def check_secret(self, value: str) -> None:
        """Refuse what is not 32 bytes in hexadecimal.

        Raises:
            BadFieldError: field ``secret``; never quotes the value.
        """
        _key(value)


def signed_text(fields: Iterable[tuple[str, str]]) -> str:
    """Write what is signed; a field that is not there is empty.

    Raises:
        BadFieldError: a field holds a colon.

    Examples:
        >>> signed_text([("pspReference", "79"), ("merchantAccountCode", "Shop"),
        ...     ("merchantReference", "A1"), ("amount.value", "1130"), ("amount.currency", "EUR"),
        ...     ("eventCode", "AUTHORISATION"), ("success", "true")])
        '79::Shop:A1:1130:EUR:AUTHORISATION:true'
    """
    given = dict(fields)
    return ":".join([_part(name, given.get(name, "")) for name in _SIGNED])


def _part(name: str, value: str) -> str:
    if ":" in value:
        raise BadFieldError(f"fields.{name}", "must not hold a colon: Adyen joins fields by it")
    return value


def _typed(name: str, value: str) -> str:
    """Return the amount as the number it must be in JSON; all else is text."""
    if name != "amount.value":
        return str(value)
    if not value.removeprefix("-").isdecimal() or not value.isascii():
        raise BadFieldError(f"fields.{name}", "must be a whole number of minor units")
    return Bare(value)


def _key(secret: str) -> bytes:
    try:
        key = binascii.unhexlify(secret)
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise BadFieldError(
            "secret", f"must be {_KEY_BYTES} bytes in hexadecimal ({2 * _KEY_BYTES} characters)"
        )
    return key
