"""What counts in the head of a reply, and which heads must not be believed.

Pure. Must never guess: framing that could be read in two ways is a fault, because two readers
of one stream would disagree about where a reply ends.
"""

import re
from functools import lru_cache
from typing import NamedTuple

MAX_HEADERS = 100  # of one reply, 1xx heads included; honest servers send fewer than 30
_LINES_MAX = MAX_HEADERS + 2  # the status line and the blank one
_BLANK = re.compile(rb"\n\r?\n").search
_VALUE_MAX = 256  # characters kept of a header value
# Names as they stand in the joined lines of a head, which are faster to search than to split.
_LENGTH, _CODING = b"\ncontent-length:", b"\ntransfer-encoding:"
_TYPE, _RETRY_AFTER = b"\ncontent-type:", b"\nretry-after:"
# A server writes the same head all second long, and a burst to it has many of them. Longer ones
# are read each time, so that what is remembered stays below a megabyte.
_REMEMBERED, _REMEMBERED_BYTES = 1024, 1024


class Head(NamedTuple):
    """What counts of a reply's head; with a ``fault`` nothing of it does.

    ``shared``: over HTTP/2, whose connections carry many requests at once.
    """

    status: int = 0
    content_type: str = ""
    retry_after: str | None = None
    fault: str = ""
    shared: bool = False


NO_HEAD = Head()


def final_head(raw: bytes) -> Head:
    r"""Find and read the head that answers the request, behind any 1xx heads.

    Args:
        raw: every header line as it came, of all heads, blank lines included.

    Returns:
        The final head; one without a status when it never came whole.

    Examples:
        >>> final_head(b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 204 Done\r\n\r\n").status
        204
        >>> final_head(b"HTTP/1.1 200 OK\r\nContent-Type: te")
        Head(status=0, content_type='', retry_after=None, fault='', shared=False)
    """
    return _remembered(raw) if len(raw) <= _REMEMBERED_BYTES else _final_head(raw)


def _final_head(raw: bytes) -> Head:
    if raw.count(b"\n") > _LINES_MAX:
        return Head(fault=f"more than {MAX_HEADERS} headers")
    begin = 0
    while found := _BLANK(raw, begin):
        head = read_head(raw[begin : found.start() + 1])
        if head.fault or head.status >= 200:
            return head
        begin = found.end()
    return Head()


_remembered = lru_cache(maxsize=_REMEMBERED)(_final_head)


def read_head(text: bytes) -> Head:
    r"""Read status line and headers, and refuse framing that could be read in two ways.

    Args:
        text: the lines as they came, line ends included, without the blank line at the end.

    Returns:
        The head; ``fault`` says why it must not be believed (RFC 9112 sections 6.1 and 6.3).

    Examples:
        >>> read_head(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n")
        Head(status=503, content_type='', retry_after='7', fault='', shared=False)
        >>> read_head(b"HTTP/2 200\ncontent-length: 1\ncontent-length: 2\n").fault
        'two different Content-Length headers'
    """
    parts = text.partition(b"\n")[0].split(None, 2)
    code = parts[1] if len(parts) > 1 else b""
    status = int(code) if len(code) == 3 and code.isdigit() else 0
    if status < 100 or status == 101:
        return Head(fault=f"status {status} is no answer to this request")
    lower = text.lower()
    lengths, codings = lower.count(_LENGTH), lower.count(_CODING)
    if lengths + codings > 1:
        if codings > 1:
            return Head(fault="two Transfer-Encoding headers")
        if codings:
            return Head(fault="both Content-Length and Transfer-Encoding")
        if len({part.partition(b"\n")[0].strip() for part in lower.split(_LENGTH)[1:]}) > 1:
            return Head(fault="two different Content-Length headers")
    return Head(
        status,
        _value(text, lower, _TYPE) or "",
        _value(text, lower, _RETRY_AFTER),
        shared=text.startswith(b"HTTP/2"),
    )


def _value(text: bytes, lower: bytes, name: bytes) -> str | None:
    start = lower.find(name)
    if start < 0:
        return None
    start += len(name)
    return text[start : text.find(b"\n", start)].strip().decode("latin-1")[:_VALUE_MAX]
