"""Amounts between decimal text and whole minor units."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.money import MINOR_MAX, digits, to_major, to_minor


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        ("0.01", "CNY", 1),
        ("88.8", "CNY", 8880),
        ("100", "CNY", 10_000),
        (7, "CNY", 700),
        (Decimal("1.10"), "CNY", 110),
        (Decimal("1E+2"), "CNY", 10_000),
        ("1.000", "CNY", 100),
        ("500", "JPY", 500),
        ("1.234", "KWD", 1234),
        ("0", "CNY", 0),
    ],
)
def test_an_amount_becomes_whole_minor_units(
    amount: str | int | Decimal, currency: str, minor: int
) -> None:
    assert to_minor(amount, currency) == minor


@pytest.mark.parametrize(
    "amount",
    [
        *("", " 1", "1 ", "+1", "-1", "1e2", "1,000.00", "1.", ".5", "0x10", "NaN", "Infinity"),
        *("\uff11.00", "1.001", "1_000", "99999999999999", "1" * 5000, "0." + "0" * 5000),
        *(True, -1, 10**5000, Decimal("NaN"), Decimal("Infinity"), Decimal(-1)),
        *(Decimal("1E+999999"), Decimal("1E-999999"), Decimal("0.001")),
    ],
    ids=lambda amount: str(type(amount).__name__),
)
def test_what_is_no_exact_amount_is_none(amount: str | int | Decimal) -> None:
    assert to_minor(amount, "CNY") is None


@given(st.integers(0, MINOR_MAX), st.sampled_from(["CNY", "JPY", "KWD", "CLF", "USD"]))
def test_an_amount_survives_writing_and_reading(minor: int, currency: str) -> None:
    text = to_major(minor, currency)
    assert to_minor(text, currency) == minor
    assert len(text.partition(".")[2]) == digits(currency)


@given(st.text() | st.decimals() | st.integers())
def test_reading_an_amount_never_raises(amount: str | int | Decimal) -> None:
    minor = to_minor(amount, "CNY")
    assert minor is None or 0 <= minor <= MINOR_MAX
