"""Stripe's way: HMAC-SHA256 over ``timestamp.body``, every live secret in one header.

https://docs.stripe.com/webhooks. The whole text of a secret is the key, ``whsec_`` included.

Must never sign anything but the bytes that are sent.
"""

import base64
import hmac
import secrets
from collections.abc import Mapping

from worker.models import Encoding
from worker.signers import keys
from worker.signers.contract import Message, Shaped
from worker.signers.encoding import encoded, with_headers
from worker.signers.options import check_known, header_name

_BODIES = (Encoding.RAW, Encoding.JSON, Encoding.FORM, Encoding.XML)


class StripeStyle:
    """Signs with every live secret, newest first, so a merchant may change over at leisure."""

    name = "stripe-style"

    def shape(self, message: Message) -> Shaped:
        """Sign one attempt.

        Raises:
            BadFieldError: no live secret, or a value that cannot be carried.
        """
        shaped = encoded(message, message.fields)
        signed = f"{message.signed_at}.".encode() + shaped.body
        made = [
            "v1=" + hmac.digest(secret.value.encode(), signed, "sha256").hex()
            for secret in keys.live(message)
        ]
        header = message.options.get("header", "Stripe-Signature")
        return with_headers(shaped, (header, ",".join([f"t={message.signed_at}", *made])))

    def check_options(self, encoding: Encoding, options: Mapping[str, str]) -> None:
        """Take whatever has a body; ``header`` is the name of the header."""
        check_known(encoding, options, {"header": header_name}, encodings=_BODIES, scheme=self.name)

    def new_secret(self) -> str:
        """Make a secret of 32 random bytes.

        Examples:
            >>> StripeStyle().new_secret().startswith("whsec_")
            True
        """
        return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()

    def check_secret(self, value: str) -> None:
        """Refuse what is no plain text key."""
        keys.check_text_key(value)
