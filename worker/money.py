"""Amounts as whole minor units of a currency, and how others write them.

Pure. Must never let an amount go through a float, nor round one.
"""

# ISO 4217, "minor unit" column; every other currency has 2.
_NO_DIGITS = (
    "BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND",
    "VUV", "XAF", "XOF", "XPF",
)  # fmt: skip
_DIGITS = {
    **dict.fromkeys(_NO_DIGITS, 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}

_MOST = 10**35  # nobody pays more


def digits(currency: str) -> int:
    """Return how many decimal places a currency has.

    Examples:
        >>> digits("CNY"), digits("JPY"), digits("KWD")
        (2, 0, 3)
    """
    return _DIGITS.get(currency, 2)


def is_currency(text: str) -> bool:
    """Tell whether text looks like a code of ISO 4217: three capitals."""
    return len(text) == 3 and text.isascii() and text.isalpha() and text.isupper()


def to_major(amount_minor: int, currency: str) -> str:
    """Write whole minor units as a plain decimal in major units.

    Examples:
        >>> to_major(8880, "CNY"), to_major(100, "JPY"), to_major(-5, "KWD")
        ('88.80', '100', '-0.005')
    """
    return _pointed(amount_minor, digits(currency))


def with_places(amount_minor: int, currency: str, places: int) -> str | None:
    """Write an amount in major units with that many decimal places; None if it has more.

    Args:
        amount_minor: whole minor units.
        currency: ISO 4217.
        places: 0 to 9.

    Examples:
        >>> with_places(100, "JPY", 2), with_places(1500, "KWD", 2), with_places(1501, "KWD", 2)
        ('100.00', '1.50', None)
    """
    more = places - digits(currency)
    if more >= 0:
        return _pointed(amount_minor * 10**more, places)
    whole, rest = divmod(amount_minor, 10**-more)
    return None if rest else _pointed(whole, places)


def trimmed(amount_minor: int, currency: str) -> str:
    """Write an amount in major units without zeros at its end.

    Examples:
        >>> trimmed(100, "CNY"), trimmed(150, "CNY"), trimmed(7, "BHD"), trimmed(100, "JPY")
        ('1', '1.5', '0.007', '100')
    """
    text = to_major(amount_minor, currency)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _pointed(number: int, places: int) -> str:
    # Text, not Decimal: its context would round amounts of more than 28 digits.
    sign = "-" if number < 0 else ""
    figures = str(abs(number)).rjust(places + 1, "0")
    return f"{sign}{figures[:-places]}.{figures[-places:]}" if places else sign + figures


def whole(value: object) -> int | None:
    """Return whole minor units from a payload's value; None when it is no integer.

    Text is refused though it may hold digits only: nobody could tell 129 fen from 129 yuan.

    Examples:
        >>> whole(1290), whole("1290"), whole(True), whole(10**40)
        (1290, None, None, None)
    """
    return value if type(value) is int and abs(value) < _MOST else None
