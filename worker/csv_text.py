"""Rows as CSV that a spreadsheet cannot mistake for formulas (RFC 4180, OWASP ASVS 1.2.10).

Must never change a plain number, and never let a cell that others wrote begin with a sign that a
spreadsheet acts on.
"""

import re
from collections.abc import Iterable

from worker.plain_text import safe

# A spreadsheet guesses the encoding of a file without it.
BOM = "\ufeff"
# Half width, full width, and what is skipped in front of them.
_SIGNS = "=+-@\t\r\n\0\uff1d\uff0b\uff0d\uff20"
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?").fullmatch


def line(cells: Iterable[object]) -> str:
    """Write one row, every cell quoted; None is empty.

    Examples:
        >>> print(line(["=1+1", "-12.00", 'a "b" c', None]).strip())
        "'=1+1","-12.00","a ""b"" c",""
    """
    return ",".join(f'"{cell(value)}"' for value in cells) + "\r\n"


def cell(value: object) -> str:
    """Write what stands between the quotes of one cell."""
    text = "" if value is None else str(value)
    if not _NUMBER(text) and text.lstrip(" \u00a0\u3000\u200b\ufeff")[:1] in _SIGNS and text:
        text = f"'{text}"
    return safe(text).replace('"', '""')
