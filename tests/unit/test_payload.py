"""Payloads: exact numbers, the same bytes every time, and a path to whatever cannot be said."""

import json
from collections import OrderedDict
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import BadFieldError
from worker.payload import PAYLOAD_MAX_BYTES, encode

_texts = st.text(st.characters(codec="utf-8"), max_size=20)
_decimals = st.decimals(allow_nan=False, allow_infinity=False, places=4)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | _decimals | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=20,
)


@given(_json)
def test_what_is_written_reads_back_exactly(value: object) -> None:
    data, kind = encode([value])
    assert json.loads(data, parse_float=Decimal) == [value]
    assert kind == "application/json"
    assert encode([value])[0] == data


@given(_json)
def test_it_writes_what_the_standard_library_writes(value: object) -> None:
    plain = json.loads(encode([value])[0], parse_float=str)
    ours = encode(plain)[0].decode()
    assert ours == json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


@given(st.binary(max_size=200))
def test_bytes_are_taken_as_they_are(data: bytes) -> None:
    assert encode(data) == (data, None)
    assert encode(bytearray(data)) == (data, None)
    assert encode(memoryview(data)) == (data, None)


@given(_texts)
def test_text_is_utf_8(text: str) -> None:
    assert encode(text) == (text.encode(), None)


class _Colour(StrEnum):
    RED = "red"


class _Level(IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Decimal("1.10"), "1.10"),
        (Decimal("0.00"), "0.00"),
        (Decimal("-0"), "-0"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1E-7"), "0.0000001"),
        (True, "true"),
        (None, "null"),
        (10**30, "1" + "0" * 30),
        ((1, 2), "[1,2]"),
        (_Colour.RED, '"red"'),
        (_Level.HIGH, "3"),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        ({"x": "\u2028/\x00"}, '{"x":"\u2028/\\u0000"}'),
    ],
)
def test_each_kind_is_written_so(value: object, written: str) -> None:
    assert encode({"v": value})[0].decode() == f'{{"v":{written}}}'


_DEEP: list[object] = []
for _ in range(70):
    _DEEP = [_DEEP]
_LOOP: list[object] = []
_LOOP.append(_LOOP)


@pytest.mark.parametrize(
    ("path", "says", "payload"),
    [
        ("payload.items[2].price", "float", {"items": [{}, {}, {"price": 1.5}]}),
        ("payload", "float", 1.5),
        ("payload[0][1]", "float", [[1, 2.0]]),
        ("payload.a", "float", {"a": float("nan")}),
        ("payload.a", "NaN", {"a": Decimal("NaN")}),
        ("payload.a", "Infinity", {"a": Decimal("-Infinity")}),
        ("payload.a", "quantize", {"a": Decimal("1E+1000000")}),
        ("payload.a", "quantize", {"a": Decimal("1E-1000000")}),
        ("payload.a", "digits", {"a": 10**5000}),
        ("payload.a.b", "isoformat", {"a": {"b": datetime(2026, 1, 1, tzinfo=UTC)}}),
        ("payload[0]", "isoformat", [date(2026, 1, 1)]),
        ("payload.a", "UUID", {"a": UUID(int=1)}),
        ("payload.a", "base64", {"a": b"x"}),
        ("payload.a", "sorted list", {"a": {1, 2}}),
        ("payload.a", "object", {"a": object()}),
        ("payload.a", "keys are text", {"a": {1: 2}}),
        ("payload", "keys are text", {None: 2}),
        ("payload.\\ud800", "float", {"\ud800": 1.5}),
        ("payload.<int>", "float", {10**5000: 1.5}),
        ("payload", "surrogate", "a\ud800"),
        ("payload", "surrogate", {"a": "\udfff"}),
        ("payload" + "[0]" * 64, "nested", _DEEP),
        ("payload" + "[0]" * 64, "nested", _LOOP),
    ],
)
def test_what_json_cannot_say_is_refused_by_its_path(path: str, says: str, payload: object) -> None:
    with pytest.raises(BadFieldError) as caught:
        encode(payload)
    assert caught.value.field == path
    assert says in caught.value.problem


@pytest.mark.parametrize("letter", ["x", "é", "付"])
def test_a_payload_may_be_256_kib_and_not_a_byte_more(letter: str) -> None:
    full = letter * (PAYLOAD_MAX_BYTES // len(letter.encode()))
    for payload, more in ((full, full + letter), (full.encode(), (full + letter).encode())):
        assert encode(payload)[0] == full.encode()
        with pytest.raises(BadFieldError, match="256 KiB"):
            encode(more)


def test_the_refusal_never_quotes_the_payload() -> None:
    with pytest.raises(BadFieldError) as caught:
        encode({"card": {"no": 6.22202e18, "cvv": "077"}})
    assert "077" not in str(caught.value)
    assert "6.22" not in str(caught.value)
