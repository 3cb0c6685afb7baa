"""What an endpoint may choose about its scheme and encoding, checked when it is chosen.

Must never let through what a later send would choke on.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches

from worker.errors import BadFieldError
from worker.models import Encoding
from worker.signers.encoding import CHARSETS, is_xml_name

Check = Callable[[str, str], None]

_VALUE_MAX = 512
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}").fullmatch
# Framing and what we set ourselves.
_TAKEN = frozenset((
    "host", "content-length", "content-type", "transfer-encoding", "connection", "expect",
    "accept-encoding", "user-agent", "cookie", "te", "trailer", "upgrade", "keep-alive",
))  # fmt: skip


def check_known(
    encoding: Encoding,
    options: Mapping[str, str],
    known: Mapping[str, Check],
    *,
    encodings: Collection[Encoding],
    scheme: str,
) -> None:
    """Refuse an encoding the scheme has no use for, and options nobody reads.

    Args:
        encoding: how the fields will travel.
        options: names and values; ``charset`` and ``xml_root`` belong to the encoding.
        known: the scheme's own options, each with what checks it.
        encodings: those the scheme can sign.
        scheme: its name, for the message.

    Raises:
        BadFieldError: field ``encoding`` or ``options.NAME``.
    """
    if encoding not in encodings:
        there_are = ", ".join(sorted(encodings))
        raise BadFieldError("encoding", f"{scheme} cannot sign {encoding}; it takes {there_are}")
    checks: dict[str, Check] = dict(known)
    if encoding in (Encoding.FORM, Encoding.QUERY, Encoding.XML):
        checks["charset"] = one_of(CHARSETS)
    if encoding is Encoding.XML:
        checks["xml_root"] = xml_name
    for name, value in options.items():
        check = checks.get(name)
        if check is None:
            raise _unknown(name, checks, f"{scheme} sent as {encoding}")
        if not isinstance(value, str) or len(value) > _VALUE_MAX or not value.isprintable():
            raise BadFieldError(
                f"options.{name}", f"must be at most {_VALUE_MAX} printable characters of text"
            )
        check(f"options.{name}", value)


def one_of(words: Iterable[str]) -> Check:
    """Return a check that takes these words only."""
    taken = tuple(words)

    def check(field: str, value: str) -> None:
        if value not in taken:
            raise BadFieldError(field, f"is {value[:40]!r}, must be one of {', '.join(taken)}")

    return check


def header_name(field: str, value: str) -> None:
    """Take the name of a header that nobody else sets."""
    if not _HEADER(value) or value.lower() in _TAKEN:
        raise BadFieldError(
            field, f"{value[:64]!r} cannot carry a signature; use a name such as X-Signature"
        )


def text(field: str, value: str) -> None:
    """Take visible ASCII, spaces within."""
    if not value.isascii() or value != value.strip():
        raise BadFieldError(field, "must be ASCII without spaces at its ends")


def xml_name(field: str, value: str) -> None:
    """Take the name of an XML element."""
    if not is_xml_name(value):
        raise BadFieldError(field, f"{value[:64]!r} is no name of an XML element")


def _unknown(name: str, known: Collection[str], what: str) -> BadFieldError:
    near = get_close_matches(name, known, n=1)
    there_are = f"there are {', '.join(sorted(known))}" if known else "it takes none"
    hint = f"did you mean {near[0]}?" if near else there_are
    return BadFieldError(f"options.{name[:64]}", f"is no option of {what}; {hint}")
