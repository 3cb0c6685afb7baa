"""UnionPay ACP 5.1.0: a form; RSA-SHA256 over the hexadecimal SHA-256 of its sorted fields.

UnionPay's open platform: online gateway payment, "back notification".

Must never sign anything but the raw values that are sent.
"""

import hashlib
from collections.abc import Mapping

from worker.models import Encoding
from worker.signers import keys, rsa
from worker.signers.canonical import by_name, filled, joined, signed_bytes
from worker.signers.contract import Message, Shaped
from worker.signers.encoding import DEFAULT_CHARSET, encoded
from worker.signers.options import check_known, text


class Unionpay51:
    """Signs with the newest secret, a private RSA key: a form has room for one signature.

    Option ``cert_id`` is sent as ``certId``, by which merchants choose the public key; without
    it, give a merchant the next public key before it is put in force, and let it try both.
    """

    name = "unionpay-5.1"

    def shape(self, message: Message) -> Shaped:
        """Sign one attempt.

        Raises:
            BadFieldError: no live secret, one that is no key, or a value the charset lacks.
        """
        fields = filled(message.fields, but=("signature",))
        there = {name for name, _ in fields}
        charset = message.options.get("charset", DEFAULT_CHARSET)
        ours = [
            ("version", "5.1.0"),
            ("encoding", charset.upper()),
            ("signMethod", "01"),
            ("certId", message.options.get("cert_id", "")),
        ]
        fields = [*fields, *(pair for pair in ours if pair[1] and pair[0] not in there)]
        digest = hashlib.sha256(signed_bytes(joined(by_name(fields)), message)).hexdigest()
        signature = rsa.sign(keys.newest_key(message), digest.encode())
        return encoded(message, [*fields, ("signature", signature)])

    def check_options(self, encoding: Encoding, options: Mapping[str, str]) -> None:
        """Take a form; ``cert_id`` names the key.

        Raises:
            BadFieldError: field ``encoding`` or ``options.NAME``.
        """
        check_known(
            encoding, options, {"cert_id": text}, encodings=(Encoding.FORM,), scheme=self.name
        )

    def new_secret(self) -> str:
        """Make a key pair."""
        return rsa.new_private()

    def check_secret(self, value: str) -> None:
        """Refuse what is no private RSA key.

        Raises:
            BadFieldError: field ``secret``; never quotes the value.
        """
        rsa.check(value)

    def for_merchant(self, value: str) -> str:
        """Return what the merchant is given: the public key."""
        return rsa.public_pem(value)
