"""Field maps: the merchant's names, money that is exact, and what is refused."""

import ast
import json
from decimal import Decimal, localcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import field_map, field_steps, money
from worker.errors import BadFieldError
from worker.field_map import FieldMap, Told
from worker.models import Encoding
from worker.signers import encoding
from worker.signers.encoding import Bare

PAID = {
    "order_no": "A1",
    "amount": 1290,
    "currency": "CNY",
    "paid_at": "2026-01-31T16:30:00+00:00",
    "buyer": {"name": "王", "tags": ["a", 1, None, True]},
    "ratio": Decimal("0.10"),
    "open": True,
    "none": None,
}
FACTS: dict[str, object] = {"id": "msg_1", "event_type": "payment.paid", "time": 1767225600}


def payload(facts: dict[str, Any]) -> bytes:
    plain = json.dumps({k: v for k, v in facts.items() if not isinstance(v, Decimal)})
    extra = "".join(f',"{k}":{v}' for k, v in facts.items() if isinstance(v, Decimal))
    return (plain[:-1] + extra + "}").encode()


def made(
    how: str, document: dict[str, Any] = PAID, encoding: Encoding = Encoding.FORM, **more: Any
) -> str | None:
    fields = FieldMap((("x", how),), currency="payload.currency", zone="+08:00")
    told = Told(facts=FACTS, payload=payload(document), **more)
    return dict(fields.apply(told, encoding=encoding, charset="utf-8")).get("x")


@pytest.mark.parametrize(
    ("how", "value"),
    [
        ("payload.order_no", "A1"),
        ("payload.amount", "1290"),
        ("payload.amount | minor", "1290"),
        ("payload.amount | major", "12.90"),
        ("payload.amount | major 4", "12.9000"),
        ("payload.amount | major 1", "12.9"),
        ("payload.amount | trimmed", "12.9"),
        ("payload.ratio", "0.10"),
        ("payload.open", "true"),
        ("payload.buyer.name", "王"),
        ("payload.buyer.tags.1", "1"),
        ("payload.buyer", '{"name":"王","tags":["a",1,null,true]}'),
        ("payload.none | or -", "-"),
        ("payload.gone | or", ""),
        ("payload.gone | optional", None),
        ("payload.gone | else payload.none | else payload.amount | major", "12.90"),
        ("payload.amount | else payload.gone | minor", "1290"),
        ("payload.gone | else $id", "msg_1"),
        ("=TRADE SUCCESS ", "TRADE SUCCESS "),
        ("=", ""),
        ("$id", "msg_1"),
        ("$order_no | or none", "none"),
        ("$event_type | map payment.paid=OK,*=NO", "OK"),
        ("$id | map payment.paid=OK,*=NO", "NO"),
        ("$time | time", "2026-01-01 08:00:00"),
        ("$time | unix_ms", "1767225600000"),
        ("payload.paid_at | time %Y%m%d", "20260201"),
        ("payload.paid_at | unix", "1769877000"),
        ("payload.order_no | lower", "a1"),
        ("payload.amount | text", "1290"),
    ],
)
def test_a_value_is_made_as_told(how: str, value: str | None) -> None:
    assert made(how) == value


@pytest.mark.parametrize(
    ("how", "bare"),
    [
        ("payload.amount", True),
        ("payload.amount | minor", True),
        ("payload.amount | major", False),
        ("payload.amount | major | number", True),
        ("payload.amount | minor | text", False),
        ("payload.order_no", False),
        ("payload.buyer", True),
        ("=1 | number", True),
    ],
)
def test_json_writes_numbers_as_numbers_and_text_as_text(how: str, bare: bool) -> None:
    assert isinstance(made(how, encoding=Encoding.JSON), Bare) is bare


@pytest.mark.parametrize(
    ("how", "change", "says"),
    [
        ("payload.amount | major", {"amount": Decimal("12.9")}, "no whole number of minor units"),
        ("payload.amount | major", {"amount": True}, "no whole number of minor units"),
        ("payload.amount | minor", {"amount": "129"}, "no whole number of minor units"),
        ("payload.amount | major", {"currency": "yuan"}, "no currency beside it"),
        ("payload.amount | major", {"currency": None}, "no currency beside it"),
        ("payload.amount | major 1", {"amount": 1291}, "more than 1 decimal places"),
        ("payload.gone", {}, "payload.gone is missing"),
        ("payload.order_no.deeper", {}, "is missing"),
        ("$event_type | map a=b", {}, "its map does not know"),
        ("payload.order_no | number", {}, "is no plain number"),
        ("payload.order_no | time", {}, "is no time"),
        ("payload.paid_at | time", {"paid_at": "2026-01-31T16:30:00"}, "is no time"),
    ],
)
def test_a_value_that_cannot_be_made_is_refused_by_name_and_not_quoted(
    how: str, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadFieldError, match=r"^fields\.x: ") as refused:
        made(how, PAID | change)
    assert says in str(refused.value)
    assert "1291" not in str(refused.value)


def test_a_whole_payload_may_be_one_field() -> None:
    assert made("payload", {"a": {"b": 1}, "c": Decimal("1.50")}) == '{"a":{"b":1},"c":1.50}'


def test_a_test_message_leaves_out_what_its_payload_lacks() -> None:
    assert made("payload.amount | major", {}, lenient=True) is None
    assert made("$event_type | map a=b", {}, lenient=True) is None
    assert made("=1", {}, lenient=True) == "1"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"a":1,"a":2}', "has a key twice"),
        (b'{"a":{"b":1,"b":2}}', "has a key twice"),
        (b"{", "is no JSON"),
        (b"\xff", "is no JSON"),
        (b'{"a":NaN}', "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
    ],
)
def test_a_payload_that_two_parsers_read_differently_is_refused(body: bytes, says: str) -> None:
    fields = FieldMap((("x", "payload.a"),), currency="=CNY", zone="+00:00")
    with pytest.raises(BadFieldError, match=r"^payload: ") as refused:
        fields.apply(Told(facts=FACTS, payload=body), encoding=Encoding.FORM, charset="utf-8")
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("encoding", "charset", "value"),
    [
        (Encoding.FORM, "gbk", "会员? a\nb\x00"),
        (Encoding.QUERY, "utf-8", "会员\U0001f600 a b "),
        (Encoding.XML, "utf-8", "会员\U0001f600 a\nb "),
        (Encoding.JSON, "utf-8", "会员\U0001f600 a\nb\x00"),
    ],
)
def test_what_an_encoding_cannot_say_is_replaced_before_it_is_signed(
    encoding: Encoding, charset: str, value: str
) -> None:
    fields = FieldMap((("x", "payload.name"),), currency="=CNY", zone="+00:00")
    told = Told(facts=FACTS, payload=payload({"name": "会员\U0001f600 a\nb\x00"}))
    assert fields.apply(told, encoding=encoding, charset=charset) == (("x", value),)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("amount", "write payload.NAME"),
        ("payload..a", "write payload.NAME"),
        ("$amount", "there are $id"),
        ("payload.a | majr", "no step 'majr'"),
        ("payload.a | major two", "decimal places, 0 to 9"),
        ("payload.a | minor 2", "takes nothing behind it"),
        ("payload.a | else b", "write payload.NAME"),
        ("payload.a | else =b", "write payload.NAME"),
        ("payload.a | map", "needs pairs"),
        ("payload.a | time %A", "knows %Y"),
        ("payload.a\n", "printable"),
        ("payload." + "a" * 600, "at most 512"),
    ],
)
def test_a_map_that_makes_no_sense_is_refused_by_its_key(how: str, says: str) -> None:
    with pytest.raises(BadFieldError, match=r"^fields\.x: ") as refused:
        FieldMap((("x", how),), currency="=CNY", zone="+08:00")
    assert says in str(refused.value)


@pytest.mark.parametrize("zone", ["8", "Asia/Shanghai", "+8:00", "+15:00", ""])
def test_a_zone_is_an_offset(zone: str) -> None:
    with pytest.raises(BadFieldError, match=r"^zone: "):
        FieldMap((), currency="=CNY", zone=zone)


CURRENCIES = ["JPY", "KRW", "VND", "CNY", "USD", "EUR", "BHD", "KWD", "TND", "CLF", "XXX"]
amounts = st.one_of(st.integers(-(10**35) + 1, 10**35 - 1), st.integers(-10_000, 10_000))


@given(amounts, st.sampled_from(CURRENCIES))
def test_money_is_exact_for_every_amount_and_currency(minor: int, currency: str) -> None:
    document = {"amount": minor, "currency": currency}
    places = money.digits(currency)
    with localcontext() as context:
        context.prec = 60
        wanted = Decimal(minor).scaleb(-places)
        major = made("payload.amount | major", document) or ""
        assert Decimal(major) == wanted
        assert len(major.partition(".")[2]) == places
        fixed = made("payload.amount | major 4", document) or ""
        assert Decimal(fixed) == wanted
        assert len(fixed.partition(".")[2]) == 4
        short = made("payload.amount | trimmed", document) or ""
        assert Decimal(short) == wanted
        assert "e" not in short.lower()
        assert not ("." in short and short.endswith(("0", ".")))
    assert made("payload.amount | minor", document) == str(minor)


@given(st.integers(0, 10**12), st.sampled_from(CURRENCIES), st.integers(0, 9))
def test_an_amount_is_written_whole_or_not_at_all(minor: int, currency: str, places: int) -> None:
    text = money.with_places(minor, currency, places)
    exact = Decimal(minor).scaleb(-money.digits(currency))
    if text is None:
        assert exact != exact.quantize(Decimal(1).scaleb(-places))
    else:
        assert Decimal(text) == exact


@pytest.mark.parametrize("module", [money, field_map, field_steps, encoding])
def test_no_float_stands_where_amounts_pass(module: ModuleType) -> None:
    assert module.__file__
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float))
        assert not (isinstance(node, ast.Name) and node.id in {"float", "round"})
        assert not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div))
