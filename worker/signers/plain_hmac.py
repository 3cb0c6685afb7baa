"""An HMAC in a header, as many a platform of its own asks for; its options say how exactly.

``header`` (X-Signature) · ``hash`` (sha256, sha1, sha512) · ``output`` (hex, HEX, base64) ·
``prefix`` (text before the signature, like ``sha256=``) · ``signed`` (which bytes: ``body``,
``time.body``, ``id.time.body``, ``url+body``) · ``time_header``, ``id_header`` (headers that tell
the time and the id) · ``key`` (how the secret is read: text, hex, base64).

Must never sign anything but the bytes that are sent.
"""

import base64
import binascii
import hmac
import secrets
from collections.abc import Mapping

from worker.errors import BadFieldError
from worker.models import Encoding
from worker.signers import keys
from worker.signers.contract import Message, Shaped
from worker.signers.encoding import encoded, with_headers
from worker.signers.options import Check, check_known, header_name, one_of, text

_ALL = (Encoding.RAW, Encoding.JSON, Encoding.FORM, Encoding.XML, Encoding.QUERY)
_KNOWN: dict[str, Check] = {
    "header": header_name,
    "hash": one_of(("sha256", "sha1", "sha512")),
    "output": one_of(("hex", "HEX", "base64")),
    "prefix": text,
    "signed": one_of(("body", "time.body", "id.time.body", "url+body")),
    "time_header": header_name,
    "id_header": header_name,
    "key": one_of(("text", "hex", "base64")),
}


class PlainHmac:
    """Signs with the newest secret: the header has room for one."""

    name = "plain-hmac"

    def shape(self, message: Message) -> Shaped:
        """Sign one attempt.

        Raises:
            BadFieldError: no live secret, one that cannot be read, or a value that cannot be
                carried.
        """
        options = message.options
        shaped = encoded(message, message.fields)
        what = _signed(options.get("signed", "body"), message, shaped)
        key = _key(keys.newest_key(message), options.get("key", "text"))
        made = _written(
            hmac.digest(key, what, options.get("hash", "sha256")), options.get("output", "hex")
        )
        headers = [(options.get("header", "X-Signature"), options.get("prefix", "") + made)]
        if "time_header" in options:
            headers.append((options["time_header"], str(message.signed_at)))
        if "id_header" in options:
            headers.append((options["id_header"], message.message_id))
        return with_headers(shaped, *headers)

    def check_options(self, encoding: Encoding, options: Mapping[str, str]) -> None:
        """Refuse an option that is none, and a signature whose parts the merchant never sees.

        Raises:
            BadFieldError: field ``encoding`` or ``options.NAME``.
        """
        check_known(encoding, options, _KNOWN, encodings=_ALL, scheme=self.name)
        signed = options.get("signed", "body")
        if encoding is Encoding.QUERY and signed != "url+body":
            raise BadFieldError("options.signed", "must be url+body: a query has no body to sign")
        for part, header in (("time", "time_header"), ("id", "id_header")):
            if part in signed.split(".") and header not in options:
                raise BadFieldError(
                    f"options.{header}", f"is missing; the merchant needs the {part} that is signed"
                )

    def new_secret(self) -> str:
        """Make a secret of 32 random bytes in hexadecimal."""
        return secrets.token_hex(32)

    def check_secret(self, value: str) -> None:
        """Refuse what is no plain text key."""
        keys.check_text_key(value)


def _signed(what: str, message: Message, shaped: Shaped) -> bytes:
    if what == "body":
        return shaped.body
    if what == "url+body":
        return shaped.url.encode() + shaped.body
    before = f"{message.signed_at}."
    if what == "id.time.body":
        before = f"{message.message_id}.{before}"
    return before.encode() + shaped.body


def _key(secret: str, how: str) -> bytes:
    try:
        if how == "hex":
            return bytes.fromhex(secret)
        if how == "base64":
            return base64.b64decode(secret, validate=True)
    except (ValueError, binascii.Error):
        raise BadFieldError("secret", f"is not {how}, as options.key says it is") from None
    return secret.encode()


def _written(digest: bytes, how: str) -> str:
    if how == "base64":
        return base64.b64encode(digest).decode()
    return digest.hex().upper() if how == "HEX" else digest.hex()
