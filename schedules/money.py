"""Amounts between what others write and whole minor units.

Pure. Must never let an amount go through a float, nor round one.
"""

import re
from decimal import Decimal

from worker.money import digits, to_major

__all__ = ("MINOR_MAX", "digits", "to_major", "to_minor")

# What both databases hold, with room to add up a million of them.
MINOR_MAX = 10**12
_MAJOR = re.compile(r"[0-9]{1,13}(?:\.[0-9]{1,10})?").fullmatch


def to_minor(amount: str | int | Decimal, currency: str) -> int | None:
    """Turn an amount in major units into whole minor units.

    Args:
        amount: plain decimal, no sign, no exponent, no thousands separators.
        currency: ISO 4217, upper case.

    Returns:
        0 to 10^12; None when it is no such amount, or not a whole number of minor units.

    Examples:
        >>> to_minor("88.8", "CNY"), to_minor("100", "JPY"), to_minor("1.50", "JPY")
        (8880, 100, None)
        >>> to_minor("1e3", "CNY"), to_minor("-1.00", "CNY"), to_minor("0.001", "CNY")
        (None, None, None)
    """
    if isinstance(amount, bool):
        return None
    # Only what is surely short is written out: int() and str() of millions of digits take hours.
    if isinstance(amount, int):
        text = str(amount) if 0 <= amount <= MINOR_MAX else ""
    elif isinstance(amount, Decimal):
        text = f"{amount:f}" if amount.is_finite() and -10 <= amount.adjusted() <= 13 else ""
    else:
        text = amount
    if not text.isascii() or _MAJOR(text) is None:
        return None
    minor = Decimal(text).scaleb(digits(currency))
    whole = int(minor)
    return whole if whole == minor and whole <= MINOR_MAX else None
