r"""A merchant's reply as text that every database stores and every screen shows.

PostgreSQL refuses NUL and broken UTF-8 in text, and a settle that fails on a reply makes the
merchant be called again for ever: so nothing here may raise on any bytes, and nothing it returns
may hold a control character.

The form: what is printable stands as it is (Chinese too), a backslash is doubled, line feed,
carriage return and tab are ``\n``, ``\r`` and ``\t``, any other byte is ``\xHH``. A text that was
cut ends in ``\[+N bytes cut]``, which no reply can forge: its backslash would be doubled.
"""

import re

EVIDENCE_MAX_BYTES = 4096


def encode(body: bytes, limit: int = EVIDENCE_MAX_BYTES) -> str:
    r"""Turn any bytes into safe text.

    Args:
        body: the reply as received.
        limit: most bytes of the text in UTF-8, 64 or more.

    Returns:
        Valid UTF-8 without NUL or control characters. The same bytes always give the same text.

    Examples:
        >>> encode(b"success")
        'success'
        >>> print(encode("成功\n".encode() + bytes([0, 255])))
        成功\n\x00\xff
        >>> print(encode(b"a" * 100, limit=64))
        aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\[+53 bytes cut]
    """
    if len(body) <= limit and body.isascii():
        text = body.decode("ascii")
        if text.isprintable() and "\\" not in text:
            return text
    # Escaping never shortens, so nothing behind the first `limit` bytes can be kept.
    text = _UNSAFE.sub(_escaped, body[:limit].decode("utf-8", "surrogateescape"))
    if len(body) <= limit and len(text.encode()) <= limit:
        return text
    return _cut(text, len(body), limit)


def decode(text: str) -> tuple[bytes, bool]:
    r"""Turn the text back into the bytes.

    Args:
        text: what :func:`encode` returned; anything else is read as far as it makes sense.

    Returns:
        The bytes as received, up to the cut; and whether there was a cut.

    Examples:
        >>> decode(encode(b"\x00ok\r\n"))
        (b'\x00ok\r\n', False)
    """
    cuts: list[bytes] = []

    def byte(match: re.Match[bytes]) -> bytes:
        code = match[1]
        if code.startswith(b"[+"):
            cuts.append(code)
            return b""
        return _BYTES.get(code, match[0])

    return _ESCAPE.sub(byte, text.encode("utf-8", "surrogatepass")), bool(cuts)


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode())


def _cut(text: str, total: int, limit: int) -> str:
    """Keep as many whole characters and escapes as leave room for the marker."""
    room = limit - len(_marker(total))
    kept = text.encode()[:room].decode("utf-8", "ignore")
    whole = _WHOLE.match(kept)
    kept = whole[0] if whole else ""
    return kept + _marker(total - len(decode(kept)[0]))


def _marker(count: int) -> str:
    return f"\\[+{count} bytes cut]"


# Tables, because a reply of random bytes is escaped byte by byte: four times as fast.
_BYTES = {b"x%02x" % code: bytes([code]) for code in range(256)}
_BYTES |= {b"\\": b"\\", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_ESCAPES = {
    byte.decode("utf-8", "surrogateescape"): "\\" + code.decode()
    for code, byte in _BYTES.items()
    if not 0x20 <= byte[0] < 0x7F or byte == b"\\"
}
# What has to be looked at singly: all but printable ASCII, Chinese characters and the signs
# around them. Which of it may stand, str.isprintable() knows.
_UNSAFE = re.compile("[^ -\\[\\]-~\u3000-\u303e\u4e00-\u9fff\uff01-\uff5e]")
_ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|\[\+[0-9]+ bytes cut\]\Z|.)", re.DOTALL)
_WHOLE = re.compile(r"(?:[^\\]|\\x[0-9a-f]{2}|\\[^x])*+")
