"""WeChat Pay v2: an XML body, sorted fields and the key, MD5 or HMAC-SHA256 in capitals.

https://pay.weixin.qq.com/doc/v2/partner/4011984734

Must never sign anything but the raw values that are sent.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from worker.models import Encoding
from worker.signers import keys
from worker.signers.canonical import by_name, filled, joined, md5_hex
from worker.signers.contract import Message, Shaped
from worker.signers.encoding import encoded
from worker.signers.options import check_known, one_of

_MD5, _HMAC = "MD5", "HMAC-SHA256"


class WechatV2:
    """Signs with the newest secret: the body has room for one signature.

    Option ``sign_type`` is ``MD5`` (so by default, as at WeChat) or ``HMAC-SHA256``.
    """

    name = "wechat-v2"

    def shape(self, message: Message) -> Shaped:
        """Sign one attempt.

        Raises:
            BadFieldError: no live secret, or a value XML cannot carry.
        """
        key = keys.newest_key(message)
        kind = message.options.get("sign_type", _MD5)
        fields = filled(message.fields, but=("sign",))
        names = {name for name, _ in fields}
        if "nonce_str" not in names:
            # Of the id alone: retries are then the same bytes, and merchants see doubles.
            seed = b"paynotify nonce_str\n" + message.message_id.encode()
            nonce = hmac.digest(key.encode(), seed, hashlib.sha256).hex()[:32]
            fields = [*fields, ("nonce_str", nonce)]
        if kind == _HMAC and "sign_type" not in names:
            fields = [*fields, ("sign_type", kind)]
        return encoded(message, [*fields, ("sign", signature(fields, key, kind))])

    def check_options(self, encoding: Encoding, options: Mapping[str, str]) -> None:
        """Take XML.

        Raises:
            BadFieldError: field ``encoding`` or ``options.NAME``.
        """
        check_known(
            encoding,
            options,
            {"sign_type": one_of((_MD5, _HMAC))},
            encodings=(Encoding.XML,),
            scheme=self.name,
        )

    def new_secret(self) -> str:
        """Make an API key of 32 letters and digits."""
        return keys.new_text_key()

    def check_secret(self, value: str) -> None:
        """Refuse what is no plain text key.

        Raises:
            BadFieldError: field ``secret``; never quotes the value.
        """
        keys.check_text_key(value)


def signature(fields: Sequence[tuple[str, str]], key: str, kind: str) -> str:
    """Sign all fields that are not empty but ``sign``; values raw.

    Examples:
        >>> signature([("device_info", "1000"), ("body", "test"), ("appid", "wxd930ea5d5a258f4f"),
        ...     ("mch_id", "10000100"), ("nonce_str", "ibuaiVcKdpRxkhJA"), ("attach", "")],
        ...     "192006250b4c09247ec02edce69f6a2d", "MD5")
        '9A0A8659F005D6984697E2CA0A9CF3B7'
    """
    signed = f"{joined(by_name(filled(fields, but=('sign',))))}&key={key}".encode()
    if kind == _HMAC:
        return hmac.digest(key.encode(), signed, hashlib.sha256).hex().upper()
    return md5_hex(signed).upper()
