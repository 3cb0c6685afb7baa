"""How one value of a field map is written: money, times, words; one step after the other.

Pure. Must never let an amount go through a float, never round one, and never quote a value.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from typing import NoReturn

from worker import money
from worker.signers.encoding import Bare

# Written out, a number with a larger exponent is as many zeros.
_EXPONENT_MAX = 64
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?").fullmatch
_TIME_FORMAT = re.compile(r"(?:%[YmdHMSzyjf%]|[^%])+").fullmatch


class CannotError(Exception):
    """A value cannot be written as told; says why without quoting it."""


@dataclass(slots=True)
class Value:
    """A value on its way through the steps.

    Attributes:
        raw: what it is by now: of the payload, or what a step made of it.
        currency: what stands where the map looks for the currency.
        zone: of times that are written.
    """

    raw: object
    currency: object
    zone: timezone


Step = Callable[[Value], None]


def text_of(value: object) -> str:
    """Write any value of a JSON document as text; what is no text comes out ``Bare``.

    Examples:
        >>> text_of("a"), text_of(Decimal("1.10")), text_of(None), text_of([1, {"a": True}])
        ('a', '1.10', 'null', '[1,{"a":true}]')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return Bare("true" if value else "false")
    if isinstance(value, int):
        return Bare(str(value))
    if isinstance(value, Decimal):
        return Bare(_plain(value))
    return Bare(_compact(value))


def _plain(value: Decimal) -> str:
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int) or abs(exponent) > _EXPONENT_MAX:
        _cannot(f"is a number beyond {_EXPONENT_MAX} places")
    return f"{value:f}"


def _compact(value: object) -> str:
    if isinstance(value, dict):
        inside = (f"{json.dumps(k, ensure_ascii=False)}:{_compact(v)}" for k, v in value.items())
        return "{" + ",".join(inside) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_compact, value)) + "]"
    if isinstance(value, Decimal):
        return _plain(value)
    return json.dumps(value, ensure_ascii=False)


def _cannot(problem: str) -> NoReturn:
    raise CannotError(problem)


def _amount(value: Value) -> int:
    amount = money.whole(value.raw)
    if amount is None:
        _cannot("is no whole number of minor units (fen, cents), so it is not sent as money")
    return amount


def _currency(value: Value) -> str:
    found = value.currency
    if not isinstance(found, str) or not money.is_currency(found):
        _cannot("has no currency beside it that is a code of ISO 4217, like CNY")
    return found


def _minor(words: str) -> Step:
    _none(words)

    def step(value: Value) -> None:
        value.raw = Bare(str(_amount(value)))

    return step


def _major(words: str) -> Step:
    if not words:

        def step(value: Value) -> None:
            value.raw = money.to_major(_amount(value), _currency(value))

        return step
    if words not in tuple("0123456789"):
        raise ValueError("takes a number of decimal places, 0 to 9, or nothing")
    places = int(words)

    def fixed(value: Value) -> None:
        text = money.with_places(_amount(value), _currency(value), places)
        if text is None:
            _cannot(f"has more than {places} decimal places in its currency")
        value.raw = text

    return fixed


def _trimmed(words: str) -> Step:
    _none(words)

    def step(value: Value) -> None:
        value.raw = money.trimmed(_amount(value), _currency(value))

    return step


def _moment(value: Value) -> datetime:
    """Read seconds or milliseconds since 1970, or ISO 8601 with an offset."""
    raw = value.raw
    try:
        if isinstance(raw, int) and not isinstance(raw, bool):
            microseconds = raw * (1000 if abs(raw) >= 10**11 else 1_000_000)
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
        if isinstance(raw, str):
            moment = datetime.fromisoformat(raw)
            if moment.utcoffset() is not None:
                return moment
    except (ValueError, OverflowError):
        pass
    _cannot("is no time; enqueue seconds since 1970, or ISO 8601 with an offset")


def _time(words: str) -> Step:
    form = words or "%Y-%m-%d %H:%M:%S"
    if not _TIME_FORMAT(form):
        raise ValueError("knows %Y %m %d %H %M %S %z %y %j %f only")

    def step(value: Value) -> None:
        value.raw = _moment(value).astimezone(value.zone).strftime(form)

    return step


def _unix(words: str, *, scale: int) -> Step:
    _none(words)

    def step(value: Value) -> None:
        since = _moment(value) - datetime(1970, 1, 1, tzinfo=UTC)
        value.raw = Bare(str(since * scale // timedelta(seconds=1)))

    return step


def _map(words: str) -> Step:
    table: dict[str, str] = {}
    for pair in words.split(","):
        key, sign, made = pair.strip().partition("=")
        if not sign:
            raise ValueError("needs pairs: map paid=SUCCESS,failed=FAIL,*=OTHER")
        table[key] = made

    def step(value: Value) -> None:
        found = table.get(text_of(value.raw), table.get("*"))
        if found is None:
            known = ", ".join(table)
            _cannot(
                f"has a value its map does not know; it knows {known}: choose the endpoint's "
                "events with --event, or add to the map"
            )
        value.raw = found

    return step


def _number(words: str) -> Step:
    _none(words)

    def step(value: Value) -> None:
        text = text_of(value.raw)
        if not _NUMBER(text):
            _cannot("is no plain number")
        value.raw = Bare(text)

    return step


def _said(words: str, *, change: Callable[[str], str]) -> Step:
    _none(words)

    def step(value: Value) -> None:
        value.raw = change(text_of(value.raw))

    return step


def _none(words: str) -> None:
    if words:
        raise ValueError("takes nothing behind it")


# str.__str__ of a Bare is plain text again, which JSON puts in quotes.
STEPS: dict[str, Callable[[str], Step]] = {
    "minor": _minor,
    "major": _major,
    "trimmed": _trimmed,
    "time": _time,
    "unix": partial(_unix, scale=1),
    "unix_ms": partial(_unix, scale=1000),
    "map": _map,
    "number": _number,
    "text": partial(_said, change=str.__str__),
    "upper": partial(_said, change=str.upper),
    "lower": partial(_said, change=str.lower),
}
