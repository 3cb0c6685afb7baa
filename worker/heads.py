"""What counts in the head of a reply, and which heads must not be believed.

Pure. Must never guess: framing that could be read in two ways is a fault, because two readers
of one stream would disagree about where a reply ends.
"""

from collections.abc import Sequence
from typing import NamedTuple

_VALUE_MAX = 256  # characters kept of a header value
# Names as they stand in the joined lines of a head, which are faster to search than to split.
_LENGTH, _CODING = b"\ncontent-length:", b"\ntransfer-encoding:"
_TYPE, _RETRY_AFTER = b"\ncontent-type:", b"\nretry-after:"


class Head(NamedTuple):
    """What counts of a reply's head; with a ``fault`` nothing of it does."""

    status: int = 0
    content_type: str = ""
    retry_after: str | None = None
    fault: str = ""


NO_HEAD = Head()


def read_head(lines: Sequence[bytes]) -> Head:
    r"""Read status line and headers, and refuse framing that could be read in two ways.

    Args:
        lines: as they came, line ends included, without the blank line at the end.

    Returns:
        The head; ``fault`` says why it must not be believed (RFC 9112 sections 6.1 and 6.3).

    Examples:
        >>> read_head([b"HTTP/1.1 503 Busy\r\n", b"Retry-After: 7\r\n"])
        Head(status=503, content_type='', retry_after='7', fault='')
        >>> read_head([b"HTTP/2 200\n", b"content-length: 1\n", b"content-length: 2\n"]).fault
        'two different Content-Length headers'
    """
    parts = lines[0].split(None, 2)
    code = parts[1] if len(parts) > 1 else b""
    status = int(code) if len(code) == 3 and code.isdigit() else 0
    if status < 100 or status == 101:
        return Head(fault=f"status {status} is no answer to this request")
    text = b"".join(lines)
    lower = text.lower()
    lengths, codings = lower.count(_LENGTH), lower.count(_CODING)
    if lengths + codings > 1:
        if codings > 1:
            return Head(fault="two Transfer-Encoding headers")
        if codings:
            return Head(fault="both Content-Length and Transfer-Encoding")
        if len({part.partition(b"\n")[0].strip() for part in lower.split(_LENGTH)[1:]}) > 1:
            return Head(fault="two different Content-Length headers")
    return Head(status, _value(text, lower, _TYPE) or "", _value(text, lower, _RETRY_AFTER))


def _value(text: bytes, lower: bytes, name: bytes) -> str | None:
    start = lower.find(name)
    if start < 0:
        return None
    start += len(name)
    return text[start : text.find(b"\n", start)].strip().decode("latin-1")[:_VALUE_MAX]
