"""epay (易支付), what most card shops speak: MD5 over sorted fields with the key straight behind.

``md5(a=1&b=2KEY)``, lower case; ``sign`` and ``sign_type`` are not signed, nor is what is empty.

Must never sign anything but the values that are sent.
"""

from collections.abc import Mapping

from worker.models import Encoding
from worker.signers import keys
from worker.signers.canonical import by_name, filled, joined, md5_hex, signed_bytes
from worker.signers.contract import Message, Shaped
from worker.signers.encoding import encoded
from worker.signers.options import check_known

_UNSIGNED = ("sign", "sign_type")


class Epay:
    """Signs with the newest secret: a request carries one signature."""

    name = "epay"

    def shape(self, message: Message) -> Shaped:
        """Sign one attempt.

        Raises:
            BadFieldError: no live secret, or a value that cannot be carried.
        """
        fields = filled(message.fields, but=_UNSIGNED)
        signed = joined(by_name(fields)) + keys.newest_key(message)
        sign = md5_hex(signed_bytes(signed, message))
        return encoded(message, [*fields, ("sign", sign), ("sign_type", "MD5")])

    def check_options(self, encoding: Encoding, options: Mapping[str, str]) -> None:
        """Take a query, as epay sends it, or a form."""
        check_known(
            encoding, options, {}, encodings=(Encoding.QUERY, Encoding.FORM), scheme=self.name
        )

    def new_secret(self) -> str:
        """Make a key of 32 letters and digits."""
        return keys.new_text_key()

    def check_secret(self, value: str) -> None:
        """Refuse what is no plain text key."""
        keys.check_text_key(value)
