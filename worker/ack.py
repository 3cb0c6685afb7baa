"""Ack rules: has a merchant acknowledged, judged on the bytes that were really received.

Must never raise on what a merchant sends, never guess an encoding and never take a redirect
for an acknowledgement.

A rule is written on one line, the accepted statuses before the body rule::

    2xx                      any body
    200,204                  two statuses
    200-299 exact:success    the word alone; white space around it is forgiven
    2xx iexact:success       the same in any case (ASCII letters)
    2xx contains:success     the word anywhere, case as written
    2xx json:data.code=0     a value in a JSON body; list items by number (items.0.code)
    200 xml:return_code=SUCCESS   the text of an element below the root of an XML body
"""

import json
import re
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from typing import NoReturn
from xml.etree import ElementTree as ET

from worker.errors import BadFieldError
from worker.models import AckRule, BodyRule

# Looked up once: an attribute of an enum class costs 0.1 us, and `met` runs for every reply.
_ANY, _EXACT, _IEXACT = BodyRule.ANY, BodyRule.EXACT, BodyRule.IEXACT
_CONTAINS, _JSON, _XML = BodyRule.CONTAINS, BodyRule.JSON, BodyRule.XML

_ASCII_SPACE = b" \t\n\r\v\f"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_DEEPEST = 64  # a real acknowledgement nests two or three levels
_JSON_MAX_BYTES = 65_536  # reading more than this would hold up the batch
_WORD_MAX = 256
_RANGES_MAX = 20
_LINE_MAX = 1024

# Decimal refuses exponents beyond its range with an ArithmeticError.
_UNREADABLE = (ValueError, ArithmeticError, RecursionError)

_LINE = re.compile(r"([\dxX,\-\s]+?)(?:\s+([a-z]+)(?::(.*))?)?", re.ASCII)
_STATUS = re.compile(r"(\d)xx|(\d{3})(?:-(\d{3}))?", re.ASCII)
_PATH = re.compile(r"[^.=\s]+(?:\.[^.=\s]+)*")
# Possessive, closing quote optional: a string without an end is read once, not once per quote.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_ELEMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)
# Nothing may be declared before the root: entities can grow without bound.
_ROOT_FIRST = re.compile(r"\s*(?:<\?xml [^<>]*\?>\s*)?<[A-Za-z_]")


def met(rule: AckRule, status: int, body: bytes) -> bool:
    r"""Tell whether a reply acknowledges a notification.

    Args:
        rule: what the merchant must answer.
        status: of the reply, 100 to 999; below 200 and 300 to 399 never acknowledge.
        body: as received and cut at the cap; not decoded. A byte order mark is not forgiven
            by ``exact``, ``iexact``, ``json`` and ``xml``, and UTF-16 matches nothing.

    Examples:
        >>> met(parse("2xx exact:success"), 200, b"success\n")
        True
        >>> met(parse("2xx exact:success"), 200, b"<html>success</html>")
        False
    """
    for low, high in rule.statuses:
        if low <= status <= high:
            break
    else:
        return False
    if status < 200 or 300 <= status <= 399:
        return False
    kind = rule.body
    if kind is _ANY:
        return True
    if kind is _JSON:
        return _json_met(rule, body)
    if kind is _XML:
        return _xml_met(rule, body)
    return _word_met(kind, rule.expected.encode("utf-8", "surrogatepass"), body)


def parse(line: str) -> AckRule:
    """Read a rule from its one-line form.

    Raises:
        BadFieldError: field ``ack``, for anything :func:`check` refuses or that is no rule.

    Examples:
        >>> parse("200,204")
        AckRule(statuses=((200, 200), (204, 204)), body=<BodyRule.ANY: 'any'>, expected='', path='')
        >>> parse("2xx json:data.code=0").path
        'data.code'
    """
    found = _LINE.fullmatch(line.strip()) if len(line) <= _LINE_MAX else None
    if found is None:
        _refuse(f"{line[:80]!r} is no rule; write statuses, then a body rule: 2xx exact:success")
    statuses = tuple(_status(part.strip().lower()) for part in found[1].split(","))
    try:
        kind = BodyRule(found[2] or "any")
    except ValueError:
        _refuse(f"no body rule {found[2]!r}; use any, exact, iexact, contains, json or xml")
    words = (found[3] or "").strip()
    path, expected = "", words
    if kind in (_JSON, _XML):
        path, _, expected = (part.strip() for part in words.partition("="))
    rule = AckRule(statuses=statuses, body=kind, expected=expected, path=path)
    check(rule)
    return rule


def text(rule: AckRule) -> str:
    """Write a rule in its one-line form; :func:`parse` reads it back unchanged.

    Examples:
        >>> text(parse("200-299 exact:success"))
        '2xx exact:success'
    """
    statuses = ",".join(_range_text(low, high) for low, high in rule.statuses)
    if rule.body is _ANY:
        return statuses
    where = f"{rule.path}=" if rule.body in (_JSON, _XML) else ""
    return f"{statuses} {rule.body}:{where}{rule.expected}"


def check(rule: AckRule) -> None:
    """Refuse a rule that could never be met or that would be met by a reply that is no ack.

    Raises:
        BadFieldError: field ``ack``; says what is wrong and what would be right.
    """
    if not 1 <= len(rule.statuses) <= _RANGES_MAX:
        _refuse(f"needs 1 to {_RANGES_MAX} statuses or ranges, has {len(rule.statuses)}")
    for low, high in rule.statuses:
        shown = _range_text(low, high)
        if not 200 <= low <= high <= 999:
            _refuse(f"status {shown} is not a range within 200 to 999")
        if low <= 399 and high >= 300:
            _refuse(f"status {shown} holds redirects; 300 to 399 never acknowledge")
    _check_body(rule)


def _check_body(rule: AckRule) -> None:
    if rule.body is _ANY:
        if rule.expected or rule.path:
            _refuse("body rule any takes no word; use exact, iexact, contains, json or xml")
    elif rule.body is _JSON:
        _check_json(rule)
    elif rule.body is _XML:
        _check_xml(rule)
    else:
        _check_word(rule)


def _check_word(rule: AckRule) -> None:
    word = rule.expected
    if rule.path:
        _refuse(f"body rule {rule.body} takes no path; use json for a value in a JSON body")
    if not word or word != word.strip():
        _refuse(f"body rule {rule.body} needs a word without spaces around it: {rule.body}:success")
    if len(word) > _WORD_MAX or not word.isprintable():
        _refuse(f"the word must be at most {_WORD_MAX} printable characters")


def _check_json(rule: AckRule) -> None:
    path, value = rule.path, rule.expected
    if len(path) > _WORD_MAX or not path.isprintable() or not _PATH.fullmatch(path):
        _refuse("body rule json needs a dotted path and a value: json:data.code=0")
    if len(value) > _WORD_MAX or not value.isprintable() or value != value.strip():
        _refuse(f"the JSON value must be at most {_WORD_MAX} printable characters")
    if _wanted(value) is _NOTHING:
        _refuse(
            f"{value!r} is not a JSON string, number, true, false or null; "
            f'write text in quotes: json:{path}="{value}"'
        )


def _check_xml(rule: AckRule) -> None:
    if len(rule.path) > _WORD_MAX or not _ELEMENT.fullmatch(rule.path) or not rule.expected:
        _refuse("body rule xml needs an element and its text: xml:return_code=SUCCESS")
    _check_word(replace(rule, path=""))


def _refuse(problem: str) -> NoReturn:
    raise BadFieldError("ack", problem)


def _status(part: str) -> tuple[int, int]:
    found = _STATUS.fullmatch(part)
    if found is None:
        _refuse(f"{part!r} is no status; write 200, 200-204 or 2xx, separated by commas")
    if found[1]:
        return int(found[1]) * 100, int(found[1]) * 100 + 99
    return int(found[2]), int(found[3] or found[2])


def _range_text(low: int, high: int) -> str:
    if low == high:
        return str(low)
    if low % 100 == 0 and high == low + 99:
        return f"{low // 100}xx"
    return f"{low}-{high}"


def _word_met(kind: BodyRule, word: bytes, body: bytes) -> bool:
    if not word:
        return False
    if kind is _EXACT:
        return body.strip(_ASCII_SPACE) == word
    if kind is _IEXACT:
        # bytes.lower() knows ASCII only, so no locale or Unicode folding can make a match.
        return body.strip(_ASCII_SPACE).lower() == word.lower()
    # A one-letter word would be found inside UTF-16, where every ASCII letter brings a NUL.
    return word in body and b"\0" not in body and not body.startswith(_UTF16_MARKS)


def _json_met(rule: AckRule, body: bytes) -> bool:
    wanted = _wanted(rule.expected)
    if wanted is _NOTHING or len(body) > _JSON_MAX_BYTES or _too_deep(body):
        return False
    try:
        found: object = _DECODER.decode(body.decode())
    except _UNREADABLE:
        return False
    for key in rule.path.split("."):
        found = _step(found, key)
    # True == 1 in Python, not in JSON; 0 and 0.0 are the same JSON number.
    return isinstance(found, bool) == isinstance(wanted, bool) and found == wanted


def _xml_met(rule: AckRule, body: bytes) -> bool:
    if len(body) > _JSON_MAX_BYTES or not rule.expected:
        return False
    try:
        text = body.decode()
        root = ET.fromstring(text) if _ROOT_FIRST.match(text) else None  # noqa: S314 - see there
    except (ValueError, ET.ParseError):
        return False
    found = [] if root is None else [part for part in root if part.tag == rule.path]
    # Of two elements of one name two parsers pick different ones.
    return len(found) == 1 and not len(found[0]) and (found[0].text or "").strip() == rule.expected


def _step(value: object, key: str) -> object:
    if isinstance(value, dict):
        return value.get(key, _NOTHING)
    if isinstance(value, list) and key.isascii() and key.isdigit() and len(key) <= 6:
        return value[int(key)] if int(key) < len(value) else _NOTHING
    return _NOTHING


def _too_deep(body: bytes) -> bool:
    if body.count(b"[") + body.count(b"{") <= _DEEPEST:
        return False
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        if depth > _DEEPEST:
            return True
    return False


class _Nothing:
    """A value that equals no JSON value."""


_NOTHING = _Nothing()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    # Two parsers pick different ones of two equal keys; such a body says nothing for certain.
    if len(made) != len(pairs):
        raise ValueError("duplicate key")
    return made


# Decimal, because 0.1 read as a binary float would equal numbers nobody sent.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=Decimal, parse_constant=_no_constant
)


@lru_cache(maxsize=1024)
def _wanted(expected: str) -> object:
    """Read the expected JSON value; anything but a plain value is ``_NOTHING``."""
    try:
        value: object = _DECODER.decode(expected)
    except _UNREADABLE:
        return _NOTHING
    return _NOTHING if isinstance(value, dict | list) else value
