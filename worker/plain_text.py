"""Text of others made safe for people's screens. Must never hide that something stood there."""


def safe(text: str) -> str:
    r"""Write control characters as ``\x..``; line feeds and what is printable stay.

    Examples:
        >>> print(safe("a\x1b[2J\nb 成功"))
        a\x1b[2J
        b 成功
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else _escaped(ord(char)) for char in text
    )


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
