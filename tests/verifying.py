"""How a merchant of each platform verifies: with the platform's own library, or from its rules.

Must never import anything of ``worker``: what we got wrong twice would look right. A merchant
holds what it was given: a shared key, or a public key.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree as ET

import Adyen
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from wechatpayv3 import WeChatPay, WeChatPayType

Facts = dict[str, Any]


class ForgedError(Exception):
    """The merchant does not believe this request."""


@dataclass(frozen=True, kw_only=True)
class Got:
    """One request as a merchant's program sees it; header names in lower case."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    method: str = "POST"

    def altered(self, old: bytes, new: bytes) -> "Got":
        """The same with other bytes in the body."""
        assert old in self.body, old
        return replace(self, body=self.body.replace(old, new))


def standard_webhooks_v1a(got: Got, key: str) -> Facts:
    names = ("webhook-id", "webhook-timestamp")
    signed = b".".join([*(got.headers.get(name, "").encode() for name in names), got.body])
    public = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(key.removeprefix("whpk_")))
    for one in got.headers.get("webhook-signature", "").split(" "):
        version, _, text = one.partition(",")
        if version == "v1a" and _checks(public.verify, base64.b64decode(text), signed):
            return dict(json.loads(got.body))
    raise ForgedError


def square(got: Got, key: str) -> Facts:
    mac = hmac.new(key.encode(), got.url.encode() + got.body, "sha256")
    if got.headers.get("x-square-hmacsha256-signature") != base64.b64encode(mac.digest()).decode():
        raise ForgedError
    return dict(json.loads(got.body))


def adyen(got: Got, key: str) -> Facts:
    told = json.loads(got.body)
    if not Adyen.util.is_valid_hmac_notification(told, key):
        raise ForgedError
    return dict(told["notificationItems"][0]["NotificationRequestItem"])


def wechat_v3(got: Got, key: str) -> Facts:
    api_key, serial, public = key.split("\n", 2)
    desk = WeChatPay(
        wechatpay_type=WeChatPayType.NATIVE,
        mchid="1900000001",
        private_key=_own_key(),
        cert_serial_no="33DDFEC51BF5412F663B9B56510FD567B625FC68",
        appid="wxd678efh567hg6787",
        apiv3_key=api_key,
        public_key=public.strip(),
        public_key_id=serial,
    )
    # The library would ask WeChat for the certificate of a serial it does not know.
    if got.headers.get("wechatpay-serial") != serial:
        raise ForgedError
    told = desk.callback(got.headers, got.body)
    if not told:
        raise ForgedError
    return dict(told["resource"])


def wechat_v2(got: Got, key: str) -> Facts:
    told = {item.tag: item.text or "" for item in ET.fromstring(got.body)}
    sign = told.pop("sign", "")
    line = "&".join(f"{name}={told[name]}" for name in sorted(told) if told[name])
    line += f"&key={key}"
    if told.get("sign_type") == "HMAC-SHA256":
        right = hmac.new(key.encode(), line.encode(), "sha256").hexdigest()
    else:
        right = hashlib.md5(line.encode()).hexdigest()
    if sign != right.upper():
        raise ForgedError
    return told


def alipay_rsa2(got: Got, key: str) -> Facts:
    told = _form(got.body)
    sign = told.pop("sign", "")
    kind = told.pop("sign_type", "")
    line = "&".join(f"{name}={told[name]}" for name in sorted(told))
    if kind != "RSA2" or not _rsa(key, sign, line.encode(told.get("charset", "utf-8"))):
        raise ForgedError
    return dict(told)


def unionpay_51(got: Got, key: str) -> Facts:
    told = _form(got.body)
    sign = told.pop("signature", "")
    line = "&".join(f"{name}={told[name]}" for name in sorted(told))
    digest = hashlib.sha256(line.encode(told.get("encoding", ""))).hexdigest().encode()
    if told.get("signMethod") != "01" or not _rsa(key, sign, digest):
        raise ForgedError
    return dict(told)


VERIFY: dict[str, Callable[[Got, str], Facts]] = {
    "standard-webhooks-v1a": standard_webhooks_v1a,
    "square": square,
    "adyen": adyen,
    "wechat-v3": wechat_v3,
    "wechat-v2": wechat_v2,
    "alipay-rsa2": alipay_rsa2,
    "unionpay-5.1": unionpay_51,
}


def believes(profile: str, got: Got, key: str) -> bool:
    """Tell whether the merchant takes this request for genuine."""
    try:
        VERIFY[profile](got, key)
    except (ForgedError, ValueError, LookupError, TypeError, ET.ParseError):
        return False
    return True


def _form(body: bytes) -> dict[str, str]:
    pairs = [part.split(b"=", 1) for part in body.replace(b"+", b" ").split(b"&")]
    raw = {unquote_to_bytes(name).decode(): unquote_to_bytes(text) for name, text in pairs}
    charset = raw.get("charset", raw.get("encoding", b"utf-8")).decode()
    return {name: text.decode(charset) for name, text in raw.items()}


def _rsa(pem: str, sign: str, data: bytes) -> bool:
    public = serialization.load_pem_public_key(pem.encode())
    assert isinstance(public, rsa.RSAPublicKey)
    try:
        public.verify(base64.b64decode(sign), data, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def _checks(verify: Callable[[bytes, bytes], None], sign: bytes, data: bytes) -> bool:
    try:
        verify(sign, data)
    except InvalidSignature:
        return False
    return True


_OWN: list[str] = []


def _own_key() -> str:
    """The merchant's own key, which the library wants and a callback has no use for."""
    if not _OWN:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        _OWN.append(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ).decode()
        )
    return _OWN[0]
