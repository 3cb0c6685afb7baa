"""roncoo-pay (龙果支付): a query, MD5 in capitals over sorted fields and ``&paySecret=``.

Must never sign anything but the values that are sent.
"""

from collections.abc import Mapping

from worker.models import Encoding
from worker.signers import keys
from worker.signers.canonical import by_name, filled, joined, md5_hex, signed_bytes
from worker.signers.contract import Message, Shaped
from worker.signers.encoding import encoded
from worker.signers.options import check_known


class Roncoo:
    """Signs with the newest secret: a request carries one signature."""

    name = "roncoo"

    def shape(self, message: Message) -> Shaped:
        """Sign one attempt; what is blank is neither signed nor sent.

        Raises:
            BadFieldError: no live secret, or a value that cannot be carried.
        """
        fields = [pair for pair in filled(message.fields, but=("sign",)) if pair[1].strip()]
        signed = f"{joined(by_name(fields))}&paySecret={keys.newest_key(message)}"
        sign = md5_hex(signed_bytes(signed, message)).upper()
        return encoded(message, [*fields, ("sign", sign)])

    def check_options(self, encoding: Encoding, options: Mapping[str, str]) -> None:
        """Take a query, as roncoo sends it, or a form."""
        check_known(
            encoding, options, {}, encodings=(Encoding.QUERY, Encoding.FORM), scheme=self.name
        )

    def new_secret(self) -> str:
        """Make a key of 32 letters and digits."""
        return keys.new_text_key()

    def check_secret(self, value: str) -> None:
        """Refuse what is no plain text key."""
        keys.check_text_key(value)
