"""Square: HMAC-SHA256 over the URL that is called and the body, in one header.

https://developer.squareup.com/docs/webhooks/step3validate

Must never sign another URL than the one that is called: merchants verify with their own.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping

from worker.models import Encoding
from worker.signers import keys
from worker.signers.contract import Message, Shaped
from worker.signers.encoding import encoded, with_headers
from worker.signers.options import check_known

_ENCODINGS = (Encoding.RAW, Encoding.JSON)


class Square:
    """Signs with the newest secret: the header has room for one signature.

    Give a merchant the next key before it is put in force, or let it try both.
    """

    name = "square"

    def shape(self, message: Message) -> Shaped:
        """Sign one attempt.

        Raises:
            BadFieldError: no live secret.
        """
        shaped = encoded(message, message.fields)
        signed = shaped.url.encode() + shaped.body
        mac = hmac.digest(keys.newest_key(message).encode(), signed, hashlib.sha256)
        headers = [("x-square-hmacsha256-signature", base64.b64encode(mac).decode())]
        if message.attempt_no > 1:
            headers.append(("square-retry-number", str(message.attempt_no - 1)))
        return with_headers(shaped, *headers)

    def check_options(self, encoding: Encoding, options: Mapping[str, str]) -> None:
        """Take JSON, or a payload as it is.

        Raises:
            BadFieldError: field ``encoding`` or ``options.NAME``.
        """
        check_known(encoding, options, {}, encodings=_ENCODINGS, scheme=self.name)

    def new_secret(self) -> str:
        """Make a signature key."""
        return keys.new_text_key()

    def check_secret(self, value: str) -> None:
        """Refuse what is no plain text key.

        Raises:
            BadFieldError: field ``secret``; never quotes the value.
        """
        keys.check_text_key(value)
