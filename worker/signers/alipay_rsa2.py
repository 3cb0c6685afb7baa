"""Alipay RSA2: a form whose sorted fields are signed with RSA-SHA256.

Alipay's open platform: "verify asynchronous notifications".

Must never sign anything but the raw values that are sent.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone

from worker.models import Encoding
from worker.signers import keys, rsa
from worker.signers.canonical import by_name, filled, joined, signed_bytes
from worker.signers.contract import Message, Shaped
from worker.signers.encoding import DEFAULT_CHARSET, Fields, encoded
from worker.signers.options import check_known

_UNSIGNED = ("sign", "sign_type")
_BEIJING = timezone(timedelta(hours=8))


class AlipayRsa2:
    """Signs with the newest secret, a private RSA key: a form has room for one signature.

    Nothing in a form names its key: give a merchant the next public key before it is put in
    force, and let it try both. ``notify_id`` is the message id, ``notify_time`` the time of the
    attempt. Empty fields are not sent: libraries of merchants differ on whether they are signed.
    """

    name = "alipay-rsa2"

    def shape(self, message: Message) -> Shaped:
        """Sign one attempt.

        Raises:
            BadFieldError: no live secret, one that is no key, or a value the charset lacks.
        """
        fields = _with_ours(filled(message.fields, but=_UNSIGNED), message)
        text = joined(by_name(fields))
        sign = rsa.sign(keys.newest_key(message), signed_bytes(text, message))
        return encoded(message, [*fields, ("sign_type", "RSA2"), ("sign", sign)])

    def check_options(self, encoding: Encoding, options: Mapping[str, str]) -> None:
        """Take a form; ``charset`` may be ``gbk``.

        Raises:
            BadFieldError: field ``encoding`` or ``options.NAME``.
        """
        check_known(encoding, options, {}, encodings=(Encoding.FORM,), scheme=self.name)

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


def _with_ours(fields: Fields, message: Message) -> Fields:
    sent_at = datetime.fromtimestamp(message.signed_at, UTC).astimezone(_BEIJING)
    ours = {
        "notify_id": message.message_id,
        "notify_time": sent_at.strftime("%Y-%m-%d %H:%M:%S"),
        "charset": message.options.get("charset", DEFAULT_CHARSET),
        "version": "1.0",
    }
    there = {name for name, _ in fields}
    return [*fields, *(pair for pair in ours.items() if pair[0] not in there)]
