"""The text that platforms of this field sign: fields without the empty ones, sorted and joined.

Values are raw, never encoded for transport. Must never drop a field that is not empty unless its
name is given.
"""

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache

from worker.errors import BadFieldError
from worker.signers.contract import Message
from worker.signers.encoding import DEFAULT_CHARSET, Fields, to_bytes

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}").fullmatch
# Where a value could be cut: to a merchant that reads ``a=1&b=2`` it would be two fields.
_CUT = re.compile(r"&[A-Za-z_][A-Za-z0-9_.-]*=").search


def filled(fields: Iterable[tuple[str, str]], *, but: Iterable[str] = ()) -> Fields:
    """Return the fields that have a value and none of these names.

    Raises:
        BadFieldError: a name or value that reads as another field once all are joined; no
            signature could tell the two apart.

    Examples:
        >>> filled([("a", "1"), ("b", ""), ("sign", "x")], but=("sign",))
        [('a', '1')]
    """
    unwanted = frozenset(but)
    kept = [pair for pair in fields if pair[1] and pair[0] not in unwanted]
    for name, value in kept:
        if not _is_name(name):
            raise BadFieldError(
                f"fields.{name[:64]}",
                "is no name that can be signed; use ASCII letters, digits, _, - and dots",
            )
        if "&" in value and _CUT(value):
            raise BadFieldError(
                f"fields.{name[:64]}",
                "holds '&', a name and '='; joined with others it would read as another field",
            )
    return kept


@lru_cache(maxsize=4096)
def _is_name(name: str) -> bool:
    """Tell whether a name holds no ``&`` and ``=``; the same few come with every message."""
    return _NAME(name) is not None


def by_name(fields: Iterable[tuple[str, str]]) -> Fields:
    """Sort fields by their names, as bytes are sorted (capitals first)."""
    return sorted(fields, key=lambda pair: pair[0])


def joined(fields: Iterable[tuple[str, str]]) -> str:
    """Write ``a=1&b=2`` without any encoding.

    Examples:
        >>> joined(by_name([("b", "x y"), ("B", "&"), ("a", "1")]))
        'B=&&a=1&b=x y'
    """
    return "&".join([f"{name}={value}" for name, value in fields])


def signed_bytes(text: str, message: Message) -> bytes:
    """Encode a text to be signed in the message's charset."""
    return to_bytes(text, message.options.get("charset", DEFAULT_CHARSET))


def md5_hex(data: bytes) -> str:
    """Return the MD5 of what a platform wants signed so, in lower-case hexadecimal."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
