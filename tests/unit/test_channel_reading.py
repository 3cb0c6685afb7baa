"""How answers of channels are read: strictly, and whatever the bytes are."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.channels.http import Answer
from schedules.channels.reading import (
    DETAIL_MAX_BYTES,
    Fields,
    UnclearError,
    beijing_time,
    finding,
    iso_time,
    json_object,
    reference,
)
from schedules.ports import ChannelState, Finding
from worker.models import Failure


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"[]", b'"paid"', b"1", b"{", b'{"a":1}x', b"\xff\xfe{}", b"\x00"),
        *(b'{"a":NaN}', b'{"a":Infinity}', b'{"a":1,"a":2}', b'{"a":{"b":1,"b":2}}'),
        *(b"[" * 100_000, b'{"a":' * 50_000, b'{"a":' + b"1" * 5000 + b"}"),
    ],
    ids=range(16),
)
def test_what_is_not_one_clean_json_object_is_unclear(body: bytes) -> None:
    with pytest.raises(UnclearError):
        json_object(body)


def test_an_amount_in_json_is_never_a_float() -> None:
    fields = json_object(b'{"money": 0.29, "big": 9007199254740993, "exp": 2.9e-1}')
    assert fields.amount("money", "CNY") == 29
    assert fields.maybe("big") == "9007199254740993"
    assert fields.amount("exp", "CNY") == 29


@pytest.mark.parametrize("value", [True, "5", 5.0, -1, 10**13, None, [5], {}])
def test_a_whole_number_is_a_whole_number_and_nothing_like_it(value: object) -> None:
    with pytest.raises(UnclearError):
        Fields({"total": value}).whole("total")


@pytest.mark.parametrize(
    ("path", "found"),
    [("a.b", 1), ("a.c.0", 7), ("a.c.9", None), ("a.x", None), ("a.b.c", None), ("a.c.-1", None)],
)
def test_a_dotted_path_leads_to_a_value_or_nowhere(path: str, found: object) -> None:
    assert Fields({"a": {"b": 1, "c": [7]}}).at(path) == found


@pytest.mark.parametrize("text", ["", "1" * 65, "a b", "a\n", "号", "\ud800", "a\x00"])
def test_a_number_that_cannot_be_kept_is_no_reference(text: str) -> None:
    assert reference(text) == ""


@given(st.text())
def test_a_time_is_read_or_none(text: str) -> None:
    for read in (iso_time(text), beijing_time(text, "%Y%m%d%H%M%S")):
        assert read is None or read.tzinfo is not None


@given(st.text(max_size=2000))
def test_a_detail_fits_every_database_and_terminal(text: str) -> None:
    found = finding(Answer(status=200), lambda _: Finding(state=ChannelState.PAID, detail=text))
    assert len(found.detail.encode()) <= DETAIL_MAX_BYTES
    assert "\x00" not in found.detail
    assert "\x1b" not in found.detail


def test_a_card_number_in_a_channels_words_is_masked() -> None:
    said = Finding(state=ChannelState.FAILED, detail="card 4111111111111111 declined")
    assert "4111111111111111" not in finding(Answer(status=200), lambda _: said).detail


@pytest.mark.parametrize("failure", [failure for failure in Failure if failure])
def test_no_whole_answer_is_unknown_and_the_routes_fault(failure: Failure) -> None:
    def never(_: Answer) -> Finding:
        raise AssertionError("there is nothing to read")

    found = finding(Answer(failure=failure, detail="why"), never)
    assert (found.state, found.route_failed) == (ChannelState.UNKNOWN, True)
    assert found.detail == f"{failure.value}: why"


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(_JSON)
def test_reading_json_never_raises_anything_else(value: Any) -> None:
    try:
        fields = json_object(json.dumps({"a": value}))
        fields.maybe("a")
        fields.inside("a").maybe("b")
        fields.amount("a", "CNY")
    except UnclearError:
        pass
