"""How fields travel: as a form, a query, JSON or XML.

A scheme signs raw values; here they are encoded for the wire, after that and apart from it. Must
never change a value: what cannot be carried is refused, because its signature would not match.
"""

import re
from collections.abc import Iterable, Sequence
from json.encoder import encode_basestring
from urllib.parse import quote_plus

from worker.errors import BadFieldError
from worker.guard import URL_MAX_BYTES
from worker.models import Encoding
from worker.signers.contract import Message, Shaped

Fields = Sequence[tuple[str, str]]

# Options that belong to the encoding, whatever the scheme.
CHARSETS = ("utf-8", "gbk", "gb18030")
DEFAULT_CHARSET = "utf-8"
DEFAULT_ROOT = "xml"

_RAW, _JSON, _FORM = Encoding.RAW, Encoding.JSON, Encoding.FORM
_QUERY, _XML = Encoding.QUERY, Encoding.XML
# What a URL cannot carry even escaped (see guard.py), and what XML 1.0 has no way to write.
NOT_IN_QUERY = re.compile(r"[\x00-\x1f\x7f]")
NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_XML_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}").fullmatch
_DEEPEST = 16

_Tree = dict[str, "str | _Tree"]


class Bare(str):
    """A value that JSON writes without quotes: a number, true, false, or a whole object.

    Everything else (signatures, forms, XML) sees its text.

    Examples:
        >>> json_text([("total", Bare("1290")), ("currency", "CNY")])
        '{"total":1290,"currency":"CNY"}'
    """

    __slots__ = ()


def encoded(message: Message, fields: Fields) -> Shaped:
    """Write fields as the message's encoding says; ``RAW`` sends the body as it is.

    Args:
        message: its ``encoding``, and of its options ``charset`` and ``xml_root``.
        fields: the message's own and what the scheme added (its signature), in order.

    Returns:
        With the content type and the notification's own headers; a scheme whose signature is a
        header adds it with :func:`with_headers`.

    Raises:
        BadFieldError: a value the encoding cannot carry, or a URL that grows too long.
    """
    kind = message.encoding
    url, body, media = message.url, message.body, message.content_type
    if kind is not _RAW:
        charset = message.options.get("charset", DEFAULT_CHARSET)
        if kind is _QUERY:
            _check_query(fields)
            url, body, media = with_query(url, form_text(fields, charset)), b"", ""
        elif kind is _FORM:
            body = form_text(fields, charset).encode()
            media = f"application/x-www-form-urlencoded; charset={charset}"
        elif kind is _JSON:
            body, media = to_bytes(json_text(fields), "utf-8"), "application/json"
        else:
            root = message.options.get("xml_root", DEFAULT_ROOT)
            body = to_bytes(xml_text(fields, root), charset)
            media = f"text/xml; charset={charset}"
    return Shaped(
        method=message.method,
        url=url,
        headers=(("content-type", media), *message.headers) if media else message.headers,
        body=body,
    )


def with_headers(shaped: Shaped, *headers: tuple[str, str]) -> Shaped:
    """Add headers of the scheme; one of the notification's own of the same name gives way."""
    ours = {name.lower() for name, _ in headers}
    kept = tuple(pair for pair in shaped.headers if pair[0].lower() not in ours)
    shaped.headers = (*kept, *headers)
    return shaped


def form_text(fields: Iterable[tuple[str, str]], charset: str = DEFAULT_CHARSET) -> str:
    """Write ``a=1&b=2`` as HTML forms are sent; the result is ASCII.

    Examples:
        >>> form_text([("name", "VIP 会员"), ("money", "1.00")])
        'name=VIP+%E4%BC%9A%E5%91%98&money=1.00'
    """
    return "&".join([f"{quote_plus(name)}={_quoted(value, charset)}" for name, value in fields])


def with_query(url: str, query: str) -> str:
    """Add a query to a URL that may have one.

    Raises:
        BadFieldError: field ``url``: too long.

    Examples:
        >>> with_query("https://a.example.com/cb", "x=1"), with_query("https://a.com/?id=7", "x=1")
        ('https://a.example.com/cb?x=1', 'https://a.com/?id=7&x=1')
    """
    sign = "?" if "?" not in url else "" if url.endswith(("?", "&")) else "&"
    made = f"{url}{sign}{query}"
    if len(made) > URL_MAX_BYTES:
        raise BadFieldError(
            "url", f"has {len(made)} characters with its query, at most {URL_MAX_BYTES} are sent"
        )
    return made


def json_text(fields: Iterable[tuple[str, str]]) -> str:
    """Write one JSON object; dots in names nest, numbers between dots are places in a list.

    Raises:
        BadFieldError: two names that cannot both stand in one object (``a`` and ``a.b``).

    Examples:
        >>> json_text([("id", "7"), ("amount.total", Bare("100")), ("items.0.ok", Bare("true"))])
        '{"id":"7","amount":{"total":100},"items":[{"ok":true}]}'
    """
    tree: _Tree = {}
    for name, value in fields:
        *parents, last = name.split(".")
        if len(parents) > _DEEPEST:
            raise BadFieldError(f"fields.{name[:64]}", "is nested too deep")
        place = tree
        for parent in parents:
            inner = place.setdefault(parent, {})
            if isinstance(inner, str):
                raise _both(name)
            place = inner
        if last in place:
            raise _both(name)
        place[last] = value
    return _node(tree)


def xml_text(fields: Iterable[tuple[str, str]], root: str = DEFAULT_ROOT) -> str:
    """Write one element per field, each value as CDATA.

    Raises:
        BadFieldError: a name or a character that XML cannot say.

    Examples:
        >>> xml_text([("return_code", "SUCCESS"), ("fee", Bare("1"))])
        '<xml><return_code><![CDATA[SUCCESS]]></return_code><fee>1</fee></xml>'
    """
    parts = [f"<{root}>"]
    for name, value in fields:
        if not _XML_NAME(name):
            raise BadFieldError(f"fields.{name[:64]}", "is no name of an XML element")
        parts.append(f"<{name}>{_xml_value(name, value)}</{name}>")
    return "".join([*parts, f"</{root}>"])


def is_xml_name(name: str) -> bool:
    """Tell whether an element may be called so: ASCII letters, digits, dot, ``_`` and ``-``."""
    return _XML_NAME(name) is not None


def to_bytes(text: str, charset: str) -> bytes:
    """Encode text for the wire.

    Raises:
        BadFieldError: field ``charset``; a character it does not have.
    """
    try:
        return text.encode(charset)
    except UnicodeEncodeError as error:
        raise BadFieldError(
            "charset", f"{charset} has no way to write U+{ord(text[error.start]):04X}"
        ) from None


def _quoted(value: str, charset: str) -> str:
    # Most values need nothing, and asking costs a twentieth of quoting.
    if value.isascii() and value.isalnum():
        return value
    return quote_plus(to_bytes(value, charset))


def _check_query(fields: Fields) -> None:
    for name, value in fields:
        if NOT_IN_QUERY.search(value):
            raise BadFieldError(f"fields.{name[:64]}", "holds a control character, no URL may")


def _node(value: "str | _Tree") -> str:
    if isinstance(value, str):
        return str(value) if isinstance(value, Bare) else encode_basestring(value)
    if value and list(value) == [str(place) for place in range(len(value))]:
        return "[" + ",".join([_node(item) for item in value.values()]) + "]"
    return "{" + ",".join([f"{encode_basestring(k)}:{_node(v)}" for k, v in value.items()]) + "}"


def _xml_value(name: str, value: str) -> str:
    if NOT_IN_XML.search(value):
        raise BadFieldError(f"fields.{name}", "holds a control character, which XML cannot say")
    if isinstance(value, Bare):
        return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # The only thing that ends a CDATA section is cut in two. A bare carriage return would reach
    # the merchant as a line feed (XML 1.0, 2.11), and the signature would not fit.
    value = value.replace("]]>", "]]]]><![CDATA[>").replace("\r", "]]>&#13;<![CDATA[")
    return f"<![CDATA[{value}]]>"


def _both(name: str) -> BadFieldError:
    return BadFieldError(
        f"fields.{name[:64]}", "is a value and an object at once, or stands there twice"
    )
