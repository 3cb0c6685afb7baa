"""How fields travel, read back with other people's parsers."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import BadFieldError
from worker.models import Encoding
from worker.signers.contract import Message
from worker.signers.encoding import Bare, encoded, json_text, with_headers, xml_text

PLAIN = Message(
    message_id="msg_1",
    event_type="payment.paid",
    event_key="k",
    order_no=None,
    attempt_no=1,
    url="https://merchant.com/cb?id=7",
    method="POST",
    content_type="application/json",
    headers=(("X-Shop", "7"),),
    body=b'{"n":1}',
    signed_at=0,
    secrets=(),
)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"))
pairs = st.dictionaries(names, texts, max_size=6).map(lambda found: list(found.items()))


def sent(encoding: Encoding, fields: list[tuple[str, str]], **options: str) -> Any:
    method = "GET" if encoding is Encoding.QUERY else "POST"
    return encoded(replace(PLAIN, encoding=encoding, method=method, options=options), fields)


def test_raw_bytes_are_sent_as_they_are() -> None:
    made = sent(Encoding.RAW, [])
    assert made.body is PLAIN.body
    assert made.headers == (("content-type", "application/json"), ("X-Shop", "7"))


@given(pairs, st.sampled_from(["utf-8", "gb18030"]))
def test_a_form_reads_back_as_it_was_written(fields: list[tuple[str, str]], charset: str) -> None:
    made = sent(Encoding.FORM, fields, charset=charset)
    read = parse_qsl(made.body.decode("ascii"), keep_blank_values=True, encoding=charset)
    assert read == fields
    assert dict(made.headers)["content-type"].endswith(f"charset={charset}")


@given(st.dictionaries(names, st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=9)))
def test_a_query_is_added_to_what_the_url_has(found: dict[str, str]) -> None:
    made = sent(Encoding.QUERY, list(found.items()))
    assert made.body == b""
    assert "content-type" not in dict(made.headers)
    assert made.url.startswith("https://merchant.com/cb?id=7")
    query = parse_qsl(urlsplit(made.url).query, keep_blank_values=True)
    assert query == [("id", "7"), *found.items()]


@given(pairs)
def test_xml_reads_back_as_it_was_written(fields: list[tuple[str, str]]) -> None:
    made = sent(Encoding.XML, fields)
    root = ET.fromstring(made.body)
    assert root.tag == "xml"
    assert [(item.tag, item.text or "") for item in root] == fields


@given(pairs)
def test_json_reads_back_as_it_was_written(fields: list[tuple[str, str]]) -> None:
    assert json.loads(sent(Encoding.JSON, fields).body) == dict(fields)


def test_a_bare_value_is_quoted_nowhere() -> None:
    fields = [("a", Bare("1")), ("b", "1")]
    assert json_text(fields) == '{"a":1,"b":"1"}'
    assert xml_text(fields, "r") == "<r><a>1</a><b><![CDATA[1]]></b></r>"
    assert sent(Encoding.FORM, fields).body == b"a=1&b=1"


def test_gbk_is_what_the_merchant_reads() -> None:
    made = sent(Encoding.FORM, [("subject", "会员")], charset="gbk")
    assert made.body == b"subject=%BB%E1%D4%B1"
    with pytest.raises(BadFieldError, match=r"^charset: gbk has no way to write U\+1F600"):
        sent(Encoding.FORM, [("subject", "\U0001f600")], charset="gbk")


@pytest.mark.parametrize(
    ("encoding", "fields", "says"),
    [
        (Encoding.QUERY, [("a", "1\n2")], "fields.a: holds a control character"),
        (Encoding.QUERY, [("a", "x" * 2048)], "at most 2048 are sent"),
        (Encoding.XML, [("a", "\x00")], "fields.a: holds a control character"),
        (Encoding.XML, [("1", "x")], "fields.1: is no name of an XML element"),
        (Encoding.JSON, [("a", "x"), ("a.b", "y")], "fields.a.b: is a value and an object"),
        (Encoding.JSON, [("a.b", "x"), ("a", "y")], "fields.a: is a value and an object"),
        (Encoding.JSON, [("." * 40, "x")], "nested too deep"),
        (Encoding.JSON, [("a", "\ud800")], "no way to write U+D800"),
    ],
)
def test_what_cannot_be_carried_is_refused(
    encoding: Encoding, fields: list[tuple[str, str]], says: str
) -> None:
    with pytest.raises(BadFieldError) as refused:
        sent(encoding, fields)
    assert says in str(refused.value)


def test_a_scheme_header_replaces_one_of_the_notification() -> None:
    made = with_headers(sent(Encoding.RAW, []), ("x-shop", "signed"))
    assert made.headers == (("content-type", "application/json"), ("x-shop", "signed"))
