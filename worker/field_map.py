"""From a payload to the fields a merchant knows: its names, its money, its words.

A field map is text, frozen into an endpoint: for each of the merchant's names where the value comes
from and how it is written, steps separated by ``|``::

    out_trade_no = "payload.order_no"
    money        = "payload.amount_minor | major"  12.90; JPY 100, BHD 0.007
    total_fee    = "payload.amount_minor | minor"  1290
    type         = "=alipay"                       a constant
    trade_status = "$event_type | map payment.succeeded=TRADE_SUCCESS"
    notify_time  = "$time | time %Y-%m-%d %H:%M:%S"
    trade_no     = "payload.trade_no | else payload.channel_txn_no | or none"
    param        = "payload.memo | optional"

Must never let an amount go through a float, and never send a field that could not be made as told.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta, timezone
from decimal import Decimal
from functools import lru_cache
from typing import Any, NoReturn

from worker.errors import BadFieldError
from worker.field_steps import STEPS, CannotError, Step, Value, text_of
from worker.models import Encoding
from worker.signers.encoding import (
    DEFAULT_CHARSET,
    NOT_IN_QUERY,
    NOT_IN_XML,
    Bare,
    is_xml_name,
)

FIELDS_MAX = 64
# What a notification knows of itself, beside its payload.
FACTS = ("id", "event_type", "event_key", "order_no", "merchant", "time")
_NAME = re.compile(r"[\x21-\x7e]{1,128}").fullmatch
_EXPRESSION_MAX = 512
_ZONE = re.compile(r"([+-])(\d\d):(\d\d)").fullmatch
_UNREADABLE = (ValueError, ArithmeticError, RecursionError)


class _Missing:
    """There is no such value."""


_MISSING = _Missing()


@dataclass(slots=True, kw_only=True)  # not frozen: made for every callback
class Told:
    """What a map is applied to.

    Attributes:
        facts: by the names in :data:`FACTS`; ``time`` is when this attempt is signed, seconds
            since 1970.
        payload: the bytes frozen at enqueue.
        lenient: leave out what the payload lacks, as a test message's does.
    """

    facts: dict[str, object]
    payload: bytes
    lenient: bool = False


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    source: str
    constant: str | None
    paths: tuple[tuple[str, ...], ...]
    steps: tuple[Step, ...]
    optional: bool
    default: str | None


class FieldMap:
    """A map that was read once; applying it shares nothing between threads.

    Args:
        fields: the merchant's names and how each is made.
        currency: how the currency of amounts is found, for ``major`` and its kind.
        zone: offset of times that are written, ``+08:00``.

    Raises:
        BadFieldError: ``fields.NAME``, ``currency`` or ``zone``.
    """

    def __init__(self, fields: Sequence[tuple[str, str]], *, currency: str, zone: str) -> None:
        if len(fields) > FIELDS_MAX:
            raise BadFieldError("fields", f"are {len(fields)}, at most {FIELDS_MAX}")
        self._fields = tuple(_read(name, text, f"fields.{name}") for name, text in fields)
        self._currency = _read("currency", currency, "currency")
        self._zone = _zone(zone)
        self.names = tuple(name for name, _ in fields)
        if len(set(self.names)) != len(self.names):
            raise BadFieldError("fields", "name one field twice")

    def apply(self, told: Told, *, encoding: Encoding, charset: str) -> tuple[tuple[str, str], ...]:
        """Make the fields of one attempt.

        Raises:
            BadFieldError: the payload is no JSON object, lacks a value or has one that cannot be
                written as told; names the field and never quotes the value.
        """
        known = {"payload": _document(told.payload), **told.facts}
        currency = _find(self._currency, known)
        if currency is _MISSING:
            currency = self._currency.default
        made = []
        for field in self._fields:
            try:
                value = self._value(field, known, currency)
            except CannotError as error:
                if told.lenient:
                    continue
                raise BadFieldError(f"fields.{field.name}", str(error)) from None
            if value is not None:
                made.append((field.name, _carried(value, encoding, charset)))
            elif not (field.optional or told.lenient):
                raise BadFieldError(
                    f"fields.{field.name}",
                    f"{field.source} is missing; enqueue it, or add | optional to the field",
                )
        return tuple(made)

    def _value(self, field: _Field, known: dict[str, Any], currency: object) -> str | None:
        found = _find(field, known)
        if found is _MISSING:
            return field.default
        if type(found) is str and not field.steps:
            return found
        value = Value(found, currency, self._zone)
        for step in field.steps:
            step(value)
        return text_of(value.raw)


@lru_cache(maxsize=4096)
def compiled(fields: tuple[tuple[str, str], ...], currency: str, zone: str) -> FieldMap:
    """Return a map, read once for all endpoints that have the same."""
    return FieldMap(fields, currency=currency, zone=zone)


def check_names(fields: Sequence[tuple[str, str]], encoding: Encoding) -> None:
    """Refuse names that the encoding cannot carry.

    Raises:
        BadFieldError: ``fields.NAME``.
    """
    for name, _ in fields:
        if encoding is Encoding.XML and not is_xml_name(name):
            raise BadFieldError(f"fields.{name[:64]}", "is no name of an XML element")


# Reading a map


def _read(name: str, text: str, where: str) -> _Field:
    if not isinstance(name, str) or not _NAME(name):
        raise BadFieldError("fields", f"{str(name)[:64]!r} is no field name; use visible ASCII")
    if not isinstance(text, str) or len(text) > _EXPRESSION_MAX or not text.isprintable():
        raise BadFieldError(where, f"must be at most {_EXPRESSION_MAX} printable characters")
    source, *parts = text.split(" | ")
    source = source if source.startswith("=") else source.strip()
    _check_source(source, where)
    steps: list[Step] = []
    default: str | None = None
    optional = False
    sources = [source]
    for part in parts:
        verb, _, words = part.strip().partition(" ")
        if verb == "optional":
            optional = True
        elif verb == "or":
            default = words
        elif verb == "else":
            sources.append(words.strip())
            _check_source(sources[-1], where, constant=False)
        else:
            steps.append(_step(verb, words.strip(), where))
    constant = source[1:] if source.startswith("=") else None
    paths = tuple(tuple(one.removeprefix("$").split(".")) for one in sources)
    return _Field(name, source, constant, paths, tuple(steps), optional, default)


def _check_source(source: str, where: str, *, constant: bool = True) -> None:
    if source.startswith("=") and constant:
        return
    if source.startswith("$"):
        if source[1:] not in FACTS:
            raise BadFieldError(where, f"{source[:40]!r}: there are ${', $'.join(FACTS)}")
        return
    first, *path = source.split(".")
    if first != "payload" or not all(path):
        raise BadFieldError(
            where,
            f"{source[:60]!r} is no source; write payload.NAME, ${FACTS[0]} and its like, or "
            "=TEXT for a constant",
        )


def _step(verb: str, words: str, where: str) -> Step:
    maker = STEPS.get(verb)
    if maker is None:
        raise BadFieldError(
            where,
            f"no step {verb[:40]!r}; there are else, optional, or, {', '.join(sorted(STEPS))}",
        )
    try:
        return maker(words)
    except ValueError as error:
        raise BadFieldError(where, f"{verb}: {error}") from None


def _zone(text: str) -> timezone:
    found = _ZONE(text) if isinstance(text, str) else None
    if found is None or int(found[2]) > 14 or int(found[3]) > 59:
        raise BadFieldError("zone", f"{str(text)[:20]!r} is no offset; write +08:00 or +00:00")
    minutes = int(found[2]) * 60 + int(found[3])
    return timezone(timedelta(minutes=-minutes if found[1] == "-" else minutes))


# Looking values up


def _document(payload: bytes) -> object:
    try:
        return _DECODER.decode(payload.decode())
    except _UNREADABLE as error:
        why = str(error) if isinstance(error, _RepeatedError) else "is no JSON"
        raise BadFieldError("payload", f"{why}; a field map needs a JSON object") from None


class _RepeatedError(ValueError):
    """A key stands twice in one object."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        # One parser takes the first, another the last: nobody could say which was signed.
        raise _RepeatedError("has a key twice in one object")
    return made


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=Decimal, parse_constant=_no_constant
)


def _find(field: _Field, known: dict[str, Any]) -> object:
    if field.constant is not None:
        return field.constant
    for path in field.paths:
        found = _follow(path, known)
        if found is not _MISSING and found is not None:
            return found
    return _MISSING


def _follow(path: tuple[str, ...], known: dict[str, Any]) -> object:
    found: object = known
    for key in path:
        if isinstance(found, dict):
            found = found.get(key, _MISSING)
        elif isinstance(found, list) and key.isascii() and key.isdigit() and len(key) < 7:
            found = found[int(key)] if int(key) < len(found) else _MISSING
        else:
            return _MISSING
    return found


# Carrying values


def _carried(value: str, encoding: Encoding, charset: str) -> str:
    """Put what an encoding has no way to write into something it has, before it is signed."""
    kept = value if value.isascii() else value.encode(charset, "replace").decode(charset)
    if encoding is Encoding.QUERY:
        kept = NOT_IN_QUERY.sub(" ", kept)
    elif encoding is Encoding.XML:
        kept = NOT_IN_XML.sub(" ", kept)
    return Bare(kept) if isinstance(value, Bare) else kept


def charset_of(encoding: Encoding, options: Mapping[str, str]) -> str:
    """Return the charset fields are written in: JSON is always UTF-8."""
    return DEFAULT_CHARSET if encoding is Encoding.JSON else options.get("charset", DEFAULT_CHARSET)
