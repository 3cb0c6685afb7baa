"""JeePay (计全支付): a form, MD5 in capitals over strings ``k=v&`` that are sorted in any case.

Not the names are sorted but the whole strings, so ``a1=1&`` comes before ``a=2&``. The query of
the merchant's own URL moves into the form, unsigned, as JeePay does it.

Must never sign anything but the values that are sent.
"""

from collections.abc import Mapping
from urllib.parse import unquote_plus

from worker.models import Encoding
from worker.signers import keys
from worker.signers.canonical import filled, md5_hex, signed_bytes
from worker.signers.contract import Message, Shaped
from worker.signers.encoding import Fields, encoded
from worker.signers.options import check_known


class Jeepay:
    """Signs with the newest secret: a request carries one signature."""

    name = "jeepay"

    def shape(self, message: Message) -> Shaped:
        """Sign one attempt.

        Raises:
            BadFieldError: no live secret, or a value that cannot be carried.
        """
        fields = filled(message.fields, but=("sign",))
        # Lower case, as Java compares: "_" comes before every letter.
        strings = sorted([f"{name}={value}&" for name, value in fields], key=str.lower)
        signed = "".join(strings) + f"key={keys.newest_key(message)}"
        sign = md5_hex(signed_bytes(signed, message)).upper()
        url, _, query = message.url.partition("?")
        shaped = encoded(message, [*_own(query), *fields, ("sign", sign)])
        shaped.url = url
        return shaped

    def check_options(self, encoding: Encoding, options: Mapping[str, str]) -> None:
        """Take a form."""
        check_known(encoding, options, {}, encodings=(Encoding.FORM,), scheme=self.name)

    def new_secret(self) -> str:
        """Make a key as long as JeePay's own."""
        return keys.new_text_key(128)

    def check_secret(self, value: str) -> None:
        """Refuse what is no plain text key."""
        keys.check_text_key(value)


def _own(query: str) -> Fields:
    pairs = [part.partition("=") for part in query.split("&") if part]
    return [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]
