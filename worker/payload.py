"""Payloads: what a host hands over becomes the exact bytes a merchant receives.

Must never let a number in money pass through a float.
"""

from decimal import Decimal
from json.encoder import encode_basestring

from worker.errors import BadFieldError

JSON = "application/json"
PAYLOAD_MAX_BYTES = 262_144
_DEPTH_MAX = 64  # far beyond any payment message; keeps clear of the interpreter's own limit
_EXPONENT_MAX = 64  # a Decimal beyond it is a slip, and would be written as that many zeros
_DIGITS_MAX = 4000  # below the interpreter's limit for turning an int into text


class _UnsayableError(Exception):
    """A value JSON cannot say; collects its path from the inside out."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = ""


def encode(payload: object, *, field: str = "payload") -> tuple[bytes, str | None]:
    """Turn a payload into bytes, the same ones every time.

    Args:
        payload: bytes (taken as they are), text (UTF-8), or anything JSON can say: dict with
            text keys, list, tuple, text, int, bool, None and Decimal. A Decimal is written digit
            for digit, keys keep their order.
        field: what an error calls the payload.

    Returns:
        The bytes, at most 256 KiB, and ``application/json`` when the JSON is ours, else None.

    Raises:
        BadFieldError: too large, or a float, a date, a key that is no text, …; its field is the
            path to the value.

    Examples:
        >>> encode({"id": 7, "amount": Decimal("1.10"), "note": "已付"})[0].decode()
        '{"id":7,"amount":1.10,"note":"已付"}'
        >>> encode("raw=text")
        (b'raw=text', None)
        >>> try:
        ...     encode({"items": [{"price": 1.1}]})
        ... except BadFieldError as error:
        ...     print(error.field)
        payload.items[0].price
    """
    made: str | None = None
    if isinstance(payload, bytes | bytearray | memoryview):
        data = bytes(payload)
    else:
        try:
            if isinstance(payload, str):
                data = _utf8(payload)
            else:
                data, made = _utf8(_json(payload, 0)), JSON
        except _UnsayableError as error:
            raise BadFieldError(field + error.path, error.problem) from None
    if len(data) > PAYLOAD_MAX_BYTES:
        raise BadFieldError(
            field,
            f"has {len(data)} bytes, at most {PAYLOAD_MAX_BYTES} (256 KiB) are delivered; send a "
            "reference the merchant can look up instead",
        )
    return data, made


def _json(value: object, depth: int) -> str:
    if isinstance(value, str):
        return encode_basestring(value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else ("true" if value else "false")
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, dict | list | tuple):
        if depth >= _DEPTH_MAX:
            raise _UnsayableError(f"is nested deeper than {_DEPTH_MAX} levels; flatten it")
        return _object(value, depth + 1) if isinstance(value, dict) else _array(value, depth + 1)
    raise _UnsayableError(_why_not(value))


def _object(value: dict[object, object], depth: int) -> str:
    parts = []
    key: object = ""
    try:
        for key, item in value.items():
            # Texts are most of a payload: they take no call of ours.
            text = encode_basestring(item) if type(item) is str else _json(item, depth)
            parts.append(f"{encode_basestring(key)}:{text}")  # type: ignore[arg-type]
    except _UnsayableError as error:
        error.path = f".{_shown(key)}{error.path}"
        raise
    except TypeError:
        raise _UnsayableError(
            f"has a key of type {type(key).__name__}; JSON keys are text, use str(key)"
        ) from None
    return "{" + ",".join(parts) + "}"


def _shown(key: object) -> str:
    text = key[:64] if isinstance(key, str) else f"<{type(key).__name__}>"
    # Half a surrogate pair in an error could be neither printed nor logged.
    return text.encode(errors="backslashreplace").decode()


def _array(value: list[object] | tuple[object, ...], depth: int) -> str:
    parts: list[str] = []
    try:
        for item in value:
            parts.append(_json(item, depth))  # noqa: PERF401 - its length says where it stopped
    except _UnsayableError as error:
        error.path = f"[{len(parts)}]{error.path}"
        raise
    return "[" + ",".join(parts) + "]"


def _integer(value: int) -> str:
    if value.bit_length() > _DIGITS_MAX * 3:
        raise _UnsayableError("is a number of thousands of digits; pass it as text")
    return int.__repr__(value)  # an IntEnum is its number


def _decimal(value: Decimal) -> str:
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        raise _UnsayableError(f"is {value}, which is no JSON number; leave it out or pass None")
    if abs(exponent) > _EXPONENT_MAX:
        raise _UnsayableError("is a Decimal beyond 64 places; quantize it")
    return f"{value:f}"


def _why_not(value: object) -> str:
    if isinstance(value, float):
        return (
            "is a float, and a float is not exact; use Decimal, an integer of minor units, or text"
        )
    kind = type(value).__name__
    if hasattr(value, "isoformat"):
        return f"is a {kind}, which JSON does not know; pass text such as value.isoformat()"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"is {kind}, which JSON does not know; pass text, for example base64"
    if isinstance(value, set | frozenset):
        return f"is a {kind}, which has no order; pass a sorted list"
    return (
        f"is of type {kind}, which JSON does not know; pass a dict, list, text, int, bool, None "
        "or Decimal"
    )


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise _UnsayableError(
            f"holds half a surrogate pair at character {error.start}, which UTF-8 cannot say"
        ) from None
