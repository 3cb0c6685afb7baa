"""Reads what channels answer: strictly, and total for any bytes.

Must never raise anything but :class:`UnclearError`, however hostile the bytes; and never let an
amount go through a float.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NoReturn

from schedules import money
from schedules.channels.http import Answer
from schedules.ports import ChannelState, Finding, RefundFinding
from worker import evidence
from worker.masking import mask
from worker.models import Failure

DETAIL_MAX_BYTES = 500
# China has one zone and no summer time since 1991.
BEIJING = timezone(timedelta(hours=8))
_TXN_NO = re.compile(r"[!-~]{1,64}").fullmatch
_CURRENCY = re.compile(r"[A-Z]{3}").fullmatch
_LATEST_UNIX_S = 253_402_300_799  # the end of the year 9999


class UnclearError(Exception):
    """An answer that settles nothing.

    Args:
        problem: one sentence for people.
        route_failed: whether the route is to blame (see :class:`schedules.ports.Finding`).
    """

    def __init__(self, problem: str, *, route_failed: bool = True) -> None:
        super().__init__(problem, route_failed)
        self.problem = problem
        self.route_failed = route_failed


class Fields:
    """One JSON object of an answer; reads its fields strictly.

    Args:
        facts: as parsed, decimals as :class:`decimal.Decimal`.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts

    def has(self, name: str) -> bool:
        """Tell whether the field is there and is not null."""
        return self._facts.get(name) is not None

    def maybe(self, name: str) -> str:
        """Return a field's text, or the digits of a whole number; empty for anything else."""
        value = self._facts.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
            return str(value)
        return value if isinstance(value, str) else ""

    def text(self, name: str) -> str:
        """Return a field's text; it must be there."""
        return self.maybe(name) or _refuse(f"{name} is missing")

    def whole(self, name: str) -> int:
        """Return a whole number from 0 to the most an amount can be."""
        value = self._facts.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            _refuse(f"{name} is no whole number")
        if not 0 <= value <= money.MINOR_MAX:
            _refuse(f"{name} is out of range")
        return value

    def amount(self, name: str, currency: str) -> int:
        """Return an amount in major units, text or number, as whole minor units."""
        value = self._facts.get(name)
        minor = money.to_minor(value, currency) if isinstance(value, str | int | Decimal) else None
        return _refuse(f"{name} is no amount of {currency}") if minor is None else minor

    def inside(self, name: str) -> "Fields":
        """Return the object in a field; an empty one when there is none."""
        value = self._facts.get(name)
        return Fields(value if isinstance(value, dict) else {})

    def each(self, name: str) -> list["Fields"]:
        """Return the objects in a list; it must be there."""
        value = self._facts.get(name)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            _refuse(f"{name} is no list of objects")
        return [Fields(item) for item in value]

    def is_true(self, name: str) -> bool:
        """Tell whether the field is ``true``."""
        return self._facts.get(name) is True

    def unix_time(self, name: str) -> datetime | None:
        """Return seconds since 1970 as a time; None when that is not what stands there."""
        value = self._facts.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _LATEST_UNIX_S:
            return None
        return datetime.fromtimestamp(value, UTC)

    def at(self, path: str) -> object:
        """Return what stands at a dotted path (``data.items.0.state``); None when nothing does."""
        found: Any = self._facts
        for step in path.split("."):
            if isinstance(found, dict):
                found = found.get(step)
            elif isinstance(found, list) and step.isdecimal() and len(step) < 7:
                found = found[int(step)] if int(step) < len(found) else None
            else:
                return None
        return found


def json_object(body: bytes | str) -> Fields:
    """Parse one JSON object.

    Raises:
        UnclearError: it is none, or names a field twice: two readers would read two answers.

    Examples:
        >>> json_object(b'{"money": 1.10}').amount("money", "CNY")
        110
    """
    try:
        text = body if isinstance(body, str) else body.decode("utf-8")
        parsed = json.loads(
            text, parse_float=Decimal, parse_constant=_constant, object_pairs_hook=_once
        )
    except (ValueError, RecursionError, ArithmeticError):
        _refuse("it is no JSON")
    if not isinstance(parsed, dict):
        _refuse("it is no JSON object")
    return Fields(parsed)


def currency_code(text: str) -> str:
    """Return a currency as ISO 4217 writes it.

    Raises:
        UnclearError: it is none.

    Examples:
        >>> currency_code("usd")
        'USD'
    """
    code = text.upper() if text.isascii() else ""
    return code if _CURRENCY(code) else _refuse("the currency is missing or none")


def reference(text: str) -> str:
    """Return a channel's own number when it is one that can be kept; empty otherwise."""
    return text if _TXN_NO(text) else ""


def beijing_time(text: str, form: str) -> datetime | None:
    """Read a local time of China, written as ``form`` (strptime); None when it is none.

    Examples:
        >>> beijing_time("2026-01-31 08:00:00", "%Y-%m-%d %H:%M:%S").isoformat()
        '2026-01-31T00:00:00+00:00'
    """
    try:
        return datetime.strptime(text, form).replace(tzinfo=BEIJING).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def iso_time(text: str) -> datetime | None:
    """Read an ISO 8601 time with its offset; None when it is none or has no offset."""
    try:
        read = datetime.fromisoformat(text)
        return read.astimezone(UTC) if read.tzinfo else None
    except (ValueError, OverflowError):
        return None


def must_be(found: str, wanted: str, name: str) -> None:
    """Refuse an answer about something else.

    Raises:
        UnclearError: ``found`` is not ``wanted``.
    """
    if found != wanted:
        _refuse(f"it is about another {name}" if found else f"{name} is missing")


def finding(answer: Answer, read: Callable[[Answer], Finding]) -> Finding:
    """Turn an answer about an order into a finding; never raises."""
    try:
        found = read(_whole(answer))
    except UnclearError as error:
        found = Finding(
            state=ChannelState.UNKNOWN, detail=error.problem, route_failed=error.route_failed
        )
    return replace(found, detail=_safe(found.detail), reply_sha256=answer.sha256)


def refund_finding(answer: Answer, read: Callable[[Answer], RefundFinding]) -> RefundFinding:
    """Turn an answer about a refund into a finding; never raises."""
    try:
        found = read(_whole(answer))
    except UnclearError as error:
        found = RefundFinding(state=None, detail=error.problem, route_failed=error.route_failed)
    return replace(found, detail=_safe(found.detail), reply_sha256=answer.sha256)


def need_status(answer: Answer, *statuses: int) -> None:
    """Refuse an answer of any other HTTP status.

    Raises:
        UnclearError: with what kind of status it is.
    """
    if answer.status in statuses:
        return
    if 300 <= answer.status < 400:
        _refuse(f"HTTP {answer.status}: redirects are not followed")
    _refuse(f"HTTP {answer.status}")


def unknown(detail: str) -> Finding:
    """Return what is found when the channel itself does not know, or cannot do this."""
    return Finding(state=ChannelState.UNKNOWN, detail=detail)


def _whole(answer: Answer) -> Answer:
    if answer.failure is not Failure.NONE:
        _refuse(f"{answer.failure.value}: {answer.detail}")
    return answer


def _safe(text: str) -> str:
    return evidence.encode(mask(text).encode("utf-8", "replace"), limit=DETAIL_MAX_BYTES)


def _refuse(problem: str) -> NoReturn:
    raise UnclearError(problem)


def _constant(name: str) -> NoReturn:
    raise ValueError(name)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    facts = dict(pairs)
    if len(facts) < len(pairs):
        raise ValueError("a name stands twice")
    return facts
