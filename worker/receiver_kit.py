"""Receive payment notifications: verify them, tell doubles, acknowledge. Copy this file.

It needs Python 3.9 or later and nothing else. In your handler, whatever the framework::

    try:
        told = verify("standard-webhooks", secrets=[SECRET], headers=request.headers, body=raw)
    except RefusedError:
        return refuse("standard-webhooks")          # status, content type, body
    with database.begin() as tx:                    # one transaction for both
        if first_time(tx.cursor(), told.id) and says_paid(told):
            mark_as_paid(told)
    return acknowledge("standard-webhooks")

``raw`` are the bytes of the body as they came, never JSON that was written anew. While a secret
is being replaced, give both. Compare the amount with your own order before you hand anything out.

Must never raise anything but RefusedError over what came, nor show a field that is not signed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from xml.etree import ElementTree

TOLERANCE_S = 300  # how far the sender's clock may be from yours, and how old a copy may be
SEEN_TABLE = "CREATE TABLE paynotify_seen (id VARCHAR(255) PRIMARY KEY)"

_BODY_MAX, _HEADER_MAX, _FIELDS_MAX = 1_048_576, 8192, 200
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}").fullmatch
# A value that could be cut here would be one field to one reader and two to another.
_CUT = re.compile(r"&[A-Za-z_][A-Za-z0-9_.\-]{0,63}=").search
_ROOT_FIRST = re.compile(r"\s*(?:<\?xml [^<>]*\?>\s*)?<[A-Za-z_]").match
_TIME = re.compile(rb"[0-9]{1,11}").fullmatch
# No dot: joined by dots, an id that holds one could be cut elsewhere and mean another message.
_ID = re.compile(rb"[\x21-\x2d\x2f-\x7e]{1,255}").fullmatch


class RefusedError(Exception):
    """What came is not to be believed; ``str()`` of it is for your log, not for the sender."""


class UsageError(Exception):
    """You called this wrongly: no secret, a text instead of bytes, an unknown profile."""


@dataclass(frozen=True)
class Verified:
    """A notification whose signature is good.

    Attributes:
        id: the same each time this notification is sent; what ``first_time`` wants.
        fields: the signed fields of a form, of XML or of Adyen; empty where the body is signed.
    """

    id: str
    fields: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class _Call:
    secrets: Sequence[str] = field(repr=False)
    headers: Sequence[tuple[str, str | bytes]]
    body: bytes
    url: str
    own: Iterable[str]
    now_s: float
    tolerance_s: float
    options: Mapping[str, str]

    def header(self, name: str, fits: Callable[[bytes], object] = lambda _: True) -> bytes:
        found = [_bytes(value) for key, value in self.headers if str(key).lower() == name.lower()]
        if len(found) != 1 or len(found[0]) > _HEADER_MAX or not fits(found[0]):
            raise RefusedError(f"the header {name} is missing, twice there, too long or strange")
        return found[0]

    def fresh(self, timestamp: bytes) -> bytes:
        if not _TIME(timestamp) or abs(self.now_s - int(timestamp)) > self.tolerance_s:
            raise RefusedError(f"its time is no time, or more than {self.tolerance_s:g} s away")
        return timestamp

    def macs(
        self, signed: bytes, read: Callable[[str], bytes] = str.encode, kind: str = "sha256"
    ) -> list[bytes]:
        try:
            return [hmac.new(read(secret), signed, kind).digest() for secret in self.secrets]
        except ValueError:
            raise UsageError("a secret or an option is not written as it should") from None

    def checked(self, given: Iterable[bytes], wanted: Sequence[bytes]) -> Verified:
        # All of them, each in constant time: how long it takes tells nothing about a secret.
        good = [hmac.compare_digest(one, right) for one in given for right in wanted]
        if not any(good):
            raise RefusedError("the signature is not good")
        # The body is the same each time this is sent.
        return Verified(hashlib.sha256(self.body).hexdigest(), {}, self.body)


def verify(
    profile: str,
    *,
    secrets: Sequence[str],
    headers: Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]] = (),
    body: bytes = b"",
    url: str = "",
    own: Iterable[str] = (),
    now_s: float | None = None,
    tolerance_s: float = TOLERANCE_S,
    options: Mapping[str, str] | None = None,
) -> Verified:
    """Verify one request.

    Args:
        profile: the ready one your sender uses for you, or its scheme, e.g. ``jeepay``.
        secrets: yours; two while one is being replaced, in any order.
        headers: of the request; names in any case.
        body: of the request, as it came.
        url: as it was called, query included; needed where the query or the URL is signed.
        own: names of parameters that stand in your own notify URL; they are not signed.
        now_s: seconds since 1970; None asks the clock.
        tolerance_s: for profiles that sign a time.
        options: of the sender's profile, as the sender has them: ``charset``, ``sign_type``,
            ``header``, ``prefix``, ``signed``, …

    Raises:
        RefusedError: it was not sent by whoever knows a secret, or is too old.
        UsageError: you called this wrongly.

    Examples:
        >>> url = "https://me.example.com/pay?pid=1&money=1.00&sign_type=MD5&sign="
        >>> sign = hashlib.md5(b"money=1.00&pid=1SECRET").hexdigest()
        >>> dict(verify("epay", secrets=["SECRET"], url=url + sign).fields)
        {'pid': '1', 'money': '1.00'}
    """
    if profile in _KEY_PAIRS:
        raise UsageError(f"{profile} {_ELSEWHERE}")
    if profile not in _PROFILES:
        raise UsageError(f"no profile {profile!r}; there are {', '.join(sorted(_PROFILES))}")
    good = [isinstance(secret, str) and secret for secret in secrets]
    if isinstance(secrets, str) or not good or not all(good):
        raise UsageError("secrets must be a list of your secrets as text, and not empty")
    if not isinstance(body, (bytes, bytearray, memoryview)) or not isinstance(url, str):
        raise UsageError("body must be the bytes as they came, not a text; url a text")
    if len(body) > _BODY_MAX:
        raise RefusedError(f"the body has {len(body)} bytes, which nobody sends")
    now_s = time.time() if now_s is None else now_s
    pairs = tuple(getattr(headers, "items", lambda: headers)())
    call = _Call(secrets, pairs, bytes(body), url, tuple(own), now_s, tolerance_s, options or {})
    return _PROFILES[profile](call)


def first_time(cursor: Any, message_id: str, mark: str = "?") -> bool:
    """Tell whether a notification is new, and remember it, in your own transaction.

    Do your work in the same transaction: both stand or fall together, so a crash in between
    costs nothing. Make the table once with ``SEEN_TABLE``. For SQLite and PostgreSQL.

    Args:
        cursor: of your database driver.
        message_id: ``Verified.id``.
        mark: how your driver marks a parameter: ``?`` (sqlite3) or ``%s`` (psycopg).

    Examples:
        >>> import sqlite3
        >>> cursor = sqlite3.connect(":memory:").cursor()
        >>> _ = cursor.execute(SEEN_TABLE)
        >>> first_time(cursor, "msg_1"), first_time(cursor, "msg_1")
        (True, False)
    """
    insert = f"INSERT INTO paynotify_seen (id) VALUES ({mark}) ON CONFLICT DO NOTHING"
    cursor.execute(insert, (message_id,))
    return bool(cursor.rowcount == 1)


def acknowledge(profile: str) -> tuple[int, str, bytes]:
    """Say that a notification was taken, now or before: status, content type, body.

    Send exactly this: no template around it, no redirect, nothing in front.

    Examples:
        >>> acknowledge("jeepay")
        (200, 'text/plain', b'SUCCESS')
    """
    return (200, *_ANSWERS.get(profile, _PLAIN)[0])


def refuse(profile: str) -> tuple[int, str, bytes]:
    """Say that it was not taken; it is sent again. Never say why: it helps forgers."""
    return (400, *_ANSWERS.get(profile, _PLAIN)[1])


def _standard_webhooks(call: _Call) -> Verified:
    message_id = call.header("webhook-id", _ID)
    timestamp = call.fresh(call.header("webhook-timestamp"))
    macs = call.macs(b".".join((message_id, timestamp, call.body)), _READ["whsec"])
    given = call.header("webhook-signature").split(b" ")
    told = call.checked(given, [b"v1," + base64.b64encode(mac) for mac in macs])
    return replace(told, id=message_id.decode())


def _stripe_style(call: _Call) -> Verified:
    header = call.header(call.options.get("header", "Stripe-Signature"))
    parts = [part.partition(b"=")[::2] for part in header.split(b",")]
    times = [value for name, value in parts if name == b"t"]
    if len(times) != 1:
        raise RefusedError("the signature must hold one t=")
    macs = call.macs(call.fresh(times[0]) + b"." + call.body)
    given = [value for name, value in parts if name == b"v1"]
    return call.checked(given, [mac.hex().encode() for mac in macs])


def _plain_hmac(call: _Call) -> Verified:
    options = call.options
    what = options.get("signed", "body")
    parts = [_bytes(call.url) + call.body if what == "url+body" else call.body]
    if "time" in what:
        parts.insert(0, call.fresh(call.header(options.get("time_header", ""))))
    if "id" in what:
        parts.insert(0, call.header(options.get("id_header", ""), _ID))
    read = _READ.get(options.get("key", ""), str.encode)
    output = options.get("output", "hex")
    write = base64.b64encode if output == "base64" else binascii.hexlify
    macs = call.macs(b".".join(parts), read, options.get("hash", "sha256"))
    signs = [write(mac).upper() if output == "HEX" else write(mac) for mac in macs]
    wanted = [options.get("prefix", "").encode() + sign for sign in signs]
    told = call.checked([call.header(options.get("header", "X-Signature"))], wanted)
    return replace(told, id=parts[0].decode("latin-1")) if "id" in what else told


def _square(call: _Call) -> Verified:
    macs = call.macs(_bytes(call.url) + call.body)
    given = call.header("x-square-hmacsha256-signature")
    return call.checked([given], [base64.b64encode(mac) for mac in macs])


def _epay(call: _Call) -> Verified:
    fields = _one_way(_pairs(call))
    return _of_fields(call, fields, _joined(fields, ("sign", "sign_type")), str.lower)


def _jeepay(call: _Call) -> Verified:
    fields = _one_way(_pairs(call))
    if len({name.lower() for name in fields}) != len(fields):
        raise RefusedError("two names differ in capitals only")
    parts = [f"{name}={text}&" for name, text in fields.items() if text and name != "sign"]
    told = _of_fields(call, fields, "".join(sorted(parts, key=str.lower)) + "key=")
    # Its reqTime is new each time it is sent.
    known = _joined(fields, ("sign", "reqTime")).encode()
    return replace(told, id=hashlib.sha256(known).hexdigest())


def _roncoo(call: _Call) -> Verified:
    fields = _one_way(_pairs(call))
    filled = {name: text for name, text in fields.items() if text.strip()}
    return _of_fields(call, fields, _joined(filled, ("sign",)) + "&paySecret=")


def _wechat_v2(call: _Call) -> Verified:
    fields = _one_way(_elements(call))
    return _of_fields(call, fields, _joined(fields, ("sign",)) + "&key=")


def _of_fields(
    call: _Call, fields: Mapping[str, str], signed: str, case: Callable[[str], str] = str.upper
) -> Verified:
    try:
        data = signed.encode(call.options.get("charset", "utf-8"))
    except (ValueError, LookupError):
        raise RefusedError("a field holds what its charset does not have") from None
    keys = [secret.encode() for secret in call.secrets]
    # Agreed beforehand: a sender that could choose would choose the weaker one.
    keyed = call.options.get("sign_type") == "HMAC-SHA256"
    digests = [
        (hmac.new(key, data + key, "sha256") if keyed else hashlib.md5(data + key)).hexdigest()
        for key in keys
    ]
    call.checked([_bytes(fields.get("sign"))], [case(one).encode() for one in digests])
    # What is empty is not signed: anybody could have added it.
    told = {k: v for k, v in fields.items() if v.strip() and k not in ("sign", "sign_type")}
    return Verified(hashlib.sha256(data).hexdigest(), told, call.body)


def _pairs(call: _Call) -> list[tuple[str, str]]:
    """Read query and form; platforms send their fields in either."""
    pairs: list[tuple[str, str]] = []
    charset = call.options.get("charset", "utf-8")
    try:
        for text in (urlsplit(call.url).query, call.body.decode("ascii")):
            pairs += parse_qsl(text, True, False, charset, "strict", _FIELDS_MAX)
    except (ValueError, LookupError):
        raise RefusedError("query or form cannot be read") from None
    return [pair for pair in pairs if pair[0] not in call.own]


def _elements(call: _Call) -> list[tuple[str, str]]:
    """Read the elements below the root of an XML body."""
    root = None
    with suppress(ValueError, LookupError, ElementTree.ParseError):
        text = call.body.decode(call.options.get("charset", "utf-8"))
        # Nothing may be declared in front of the root: entities can grow without bound.
        if _ROOT_FIRST(text):
            root = ElementTree.fromstring(text)
    if root is None or any(len(element) for element in root):
        raise RefusedError("the body is no XML, or nested")
    return [(element.tag, element.text or "") for element in root]


def _one_way(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Refuse fields of which two sets give the same joined text."""
    fields: dict[str, str] = {}
    for name, text in pairs:
        if name in fields or not _NAME(name):
            raise RefusedError("a field stands there twice, or has a strange name")
        if _CUT(text):
            raise RefusedError("a value could be read as two fields")
        fields[name] = text
    return fields


def _joined(fields: Mapping[str, str], but: Sequence[str]) -> str:
    return "&".join(f"{k}={fields[k]}" for k in sorted(fields) if fields[k] and k not in but)


def _adyen(call: _Call) -> Verified:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a name stands there twice")
        return dict(pairs)

    try:
        [holder] = json.loads(call.body.decode(), object_pairs_hook=unique)["notificationItems"]
        item = holder["NotificationRequestItem"]
        fields = {name: _inner(item, name) for name in _ADYEN}
        texts = {name: str(value) for name, value in fields.items()}
    except (ValueError, TypeError, KeyError, RecursionError):
        raise RefusedError("the body is not one notification item in JSON") from None
    whole = {"amount.value"} if fields["amount.value"] != "" else set()
    kinds = [type(value) is (int if name in whole else str) for name, value in fields.items()]
    if not all(kinds) or any(":" in text for text in texts.values()):
        raise RefusedError("a signed field is no text, or holds a colon")
    macs = call.macs(":".join(texts.values()).encode("utf-8", "surrogatepass"), binascii.unhexlify)
    given = _bytes(_inner(item, "additionalData.hmacSignature"))
    call.checked([given], [base64.b64encode(mac) for mac in macs])
    told_id = ":".join(texts[name] for name in ("pspReference", "eventCode", "success"))
    return Verified(told_id, texts, call.body)


def _inner(value: object, path: str) -> object:
    for name in path.split("."):
        value = value.get(name, "") if isinstance(value, dict) else ""
    return value


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return value if isinstance(value, bytes) else b""


_READ: dict[str, Callable[[str], bytes]] = {
    "hex": bytes.fromhex,
    "base64": base64.b64decode,
    "whsec": lambda secret: base64.b64decode(secret.removeprefix("whsec_"), validate=True),
}
_ADYEN = (
    "pspReference", "originalReference", "merchantAccountCode", "merchantReference",
    "amount.value", "amount.currency", "eventCode", "success",
)  # fmt: skip
_KEY_PAIRS = ("alipay-rsa2", "unionpay-5.1", "wechat-v3", "standard-webhooks-v1a")
_ELSEWHERE = (
    "is signed with a private key, which Python's standard library cannot check; use the package "
    "cryptography as paynotify's README shows, or wechatpayv3 or alipay-sdk-python for theirs"
)
_PROFILES: dict[str, Callable[[_Call], Verified]] = {
    check.__name__[1:].replace("_", "-"): check
    for check in (
        _standard_webhooks, _stripe_style, _plain_hmac, _square, _epay, _jeepay, _roncoo,
        _wechat_v2, _adyen,
    )
}  # fmt: skip
_TEXT, _JSON, _XML = "text/plain", "application/json", "text/xml"
_PLAIN = ((_TEXT, b"success"), (_TEXT, b"fail"))
_WECHAT = "<xml><return_code><![CDATA[%s]]></return_code></xml>"
_ANSWERS = {
    "jeepay": ((_TEXT, b"SUCCESS"), (_TEXT, b"FAIL")),
    "adyen": ((_TEXT, b"[accepted]"), (_TEXT, b"[refused]")),
    "wechat-v2": ((_XML, (_WECHAT % "SUCCESS").encode()), (_XML, (_WECHAT % "FAIL").encode())),
    "wechat-v3": ((_JSON, b'{"code":"SUCCESS"}'), (_JSON, b'{"code":"FAIL"}')),
}
