"""Ack rules: verdicts on real bytes, the one-line form, and what is refused."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.ack import check, met, parse, text
from worker.errors import BadFieldError
from worker.models import AckRule, BodyRule

WX = "200 xml:return_code=SUCCESS"
DEEP = b'{"code":' * 5000 + b"0" + b"}" * 5000

VERDICTS: list[tuple[str, int, bytes, bool]] = [
    ("2xx", 200, b"", True),
    ("2xx", 204, b"", True),
    ("2xx", 299, b"<html>", True),
    ("2xx", 302, b"", False),
    ("2xx", 500, b"success", False),
    ("2xx", 0, b"", False),
    ("200,204", 204, b"", True),
    ("200,204", 201, b"", False),
    ("2xx,409", 409, b"", True),
    ("2xx exact:success", 200, b"success", True),
    ("2xx exact:success", 201, b" success\r\n", True),
    ("2xx exact:success", 500, b"success", False),
    ("2xx exact:success", 200, b"SUCCESS", False),
    ("2xx exact:success", 200, b"", False),
    ("2xx exact:success", 200, b"success!", False),
    ("2xx exact:success", 200, b'"success"', False),
    ("2xx exact:success", 200, b"success\0", False),
    ("2xx exact:success", 200, b"suc\ncess", False),
    ("2xx exact:success", 200, "\u00a0success".encode(), False),
    ("2xx exact:success", 200, b"\xef\xbb\xbfsuccess", False),
    ("2xx exact:success", 200, "success".encode("utf-16"), False),
    ("2xx exact:success", 200, "success".encode("utf-16-le"), False),
    ("2xx exact:success", 200, b"<html><body>success</body></html>", False),
    ("2xx exact:成功", 200, "成功\n".encode(), True),
    ("2xx exact:成功", 200, "成功".encode("gb18030"), False),
    ("2xx iexact:success", 200, b"SUCCESS", True),
    ("2xx iexact:SUCCESS", 200, b"\tSuccess ", True),
    ("2xx iexact:success", 200, b"not success", False),
    ("2xx iexact:success", 200, b"\xef\xbb\xbfSUCCESS", False),
    ("2xx iexact:kiss", 200, "\u212aiss".encode(), False),
    ("2xx contains:success", 200, b"result=success;", True),
    ("2xx contains:success", 200, b"result=SUCCESS;", False),
    ("2xx contains:s", 200, "success".encode("utf-16"), False),
    ("2xx contains:s", 200, "success".encode("utf-16-be"), False),
    ("2xx json:code=0", 200, b'{"code": 0}', True),
    ("2xx json:code=0", 200, b' {"code": 0.0, "msg": "ok"}\n', True),
    ("2xx json:code=0", 200, b'{"code": "0"}', False),
    ("2xx json:code=0", 200, b'{"code": false}', False),
    ("2xx json:code=0", 200, b'{"code": null}', False),
    ("2xx json:code=0", 200, b'{"code": [0]}', False),
    ("2xx json:code=0", 200, b'{"code": 0, "code": 0}', False),
    ("2xx json:code=0", 200, b'{"code": 0', False),
    ("2xx json:code=0", 200, b'{"code": NaN}', False),
    ("2xx json:code=0", 200, b'{"code": 1e99999999999999999999}', False),
    ("2xx json:code=0", 200, b'{"code": 0} trailing', False),
    ("2xx json:code=0", 200, b"\xff\xfe{", False),
    ("2xx json:code=0", 200, b'\xef\xbb\xbf{"code": 0}', False),
    ("2xx json:code=0", 200, '{"code": 0}'.encode("utf-16"), False),
    ("2xx json:code=0", 200, b"0", False),
    ("2xx json:code=0", 200, b"", False),
    ("2xx json:code.code=0", 200, DEEP, False),
    ("2xx json:code=0", 200, b'{"code": 0, "list": ' + b"[" * 63 + b"]" * 63 + b"}", True),
    ("2xx json:code=0", 200, b'{"code": 0, "list": ' + b"[" * 64 + b"]" * 64 + b"}", False),
    ("2xx json:code=0", 200, b'{"code": 0, "text": "' + b"[" * 5000 + b'"}', True),
    ("2xx json:code=0", 200, b'{"code": 0, "list": [' + b"[]," * 100 + b"[]]}", True),
    ("2xx json:code=0", 200, b'{"code": 0}' + b" " * 65_536, False),
    ("2xx json:data.code=0", 200, b'{"data": {"code": 0}}', True),
    ("2xx json:data.code=0", 200, b'{"data.code": 0}', False),
    ("2xx json:items.1.ok=true", 200, b'{"items": [0, {"ok": true}]}', True),
    ("2xx json:items.1.ok=true", 200, b'{"items": [{"ok": true}]}', False),
    ("2xx json:ok=true", 200, b'{"ok": 1}', False),
    ("2xx json:ok=1", 200, b'{"ok": true}', False),
    ("2xx json:ok=null", 200, b'{"ok": null}', True),
    ("2xx json:ok=null", 200, b"{}", False),
    ("2xx json:amount=0.1", 200, b'{"amount": 0.10}', True),
    (WX, 200, b"<xml><return_code><![CDATA[SUCCESS]]></return_code></xml>", True),
    (WX, 200, b"<xml>\n <return_code>SUCCESS</return_code>\n <return_msg/>\n</xml>\n", True),
    (WX, 200, b'<?xml version="1.0"?><xml><return_code> SUCCESS </return_code></xml>', True),
    (WX, 200, b"<xml><return_code>FAIL</return_code><return_msg>SUCCESS</return_msg></xml>", False),
    (WX, 200, b"<xml><!-- <return_code>SUCCESS</return_code> --></xml>", False),
    (WX, 200, b"<xml><a><return_code>SUCCESS</return_code></a></xml>", False),
    (WX, 200, b"<xml><return_code>SUCCESS<b/></return_code></xml>", False),
    (WX, 200, b"<xml><return_code>SUCCESS</return_code>" * 2 + b"</xml>", False),
    (WX, 200, b"<xml>" + b"<return_code>SUCCESS</return_code>" * 2 + b"</xml>", False),
    (WX, 200, b"<xml><return_code>success</return_code></xml>", False),
    (WX, 500, b"<xml><return_code>SUCCESS</return_code></xml>", False),
    (WX, 200, b"\xef\xbb\xbf<xml><return_code>SUCCESS</return_code></xml>", False),
    (WX, 200, "<xml><return_code>SUCCESS</return_code></xml>".encode("utf-16"), False),
    (
        WX,
        200,
        b'<!DOCTYPE x [<!ENTITY s "SUCCESS">]><xml><return_code>&s;</return_code></xml>',
        False,
    ),
    (WX, 200, b"<xml><return_code>SUCCESS</return_code>", False),
    (WX, 200, b"SUCCESS", False),
    (WX, 200, b"", False),
    (WX, 200, b"<x>" * 9000 + b"</x>" * 9000, False),
    ("2xx json:amount=0.1", 200, b'{"amount": 0.1000000000000000055511151231257827}', False),
    ('2xx json:code="SUCCESS"', 200, b'{"code": "SUCCESS"}', True),
    ('2xx json:code="SUCCESS"', 200, b'{"code": "\\u0053UCCESS"}', True),
    ('2xx json:code="SUCCESS"', 200, b'{"code": "success"}', False),
]


@pytest.mark.parametrize(("line", "status", "body", "expected"), VERDICTS)
def test_a_rule_is_met_by_exactly_these_replies(
    line: str, status: int, body: bytes, expected: bool
) -> None:
    assert met(parse(line), status, body) is expected


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 65_536,
        b'"' + b'\\"' * 32_000 + b"[" * 100,
        b"[" * 100 + b'"' + b"\\" * 65_000,
        b'{"a":' * 13_000,
        b"9" * 65_536,
    ],
    ids=["open brackets", "quote without end", "backslashes", "open objects", "digits"],
)
def test_a_hostile_json_body_is_judged_within_bounded_time(body: bytes) -> None:
    rule = parse("2xx json:code=0")
    begin = time.perf_counter()
    assert not met(rule, 200, body)
    assert time.perf_counter() - begin < 0.5


@given(st.sampled_from([line for line, *_ in VERDICTS]), st.integers(0, 999), st.binary())
def test_no_body_makes_a_rule_raise(line: str, status: int, body: bytes) -> None:
    assert met(parse(line), status, body) in (True, False)


@given(st.integers(0, 999), st.sampled_from(BodyRule))
def test_no_redirect_acknowledges_whatever_a_hand_made_rule_says(
    status: int, kind: BodyRule
) -> None:
    rule = AckRule(statuses=((0, 999),), body=kind, expected="0", path="code")
    if status < 200 or 300 <= status <= 399:
        assert not met(rule, status, b"0")


@pytest.mark.parametrize("kind", [BodyRule.EXACT, BodyRule.IEXACT, BodyRule.CONTAINS])
def test_a_hand_made_rule_without_a_word_is_never_met(kind: BodyRule) -> None:
    assert not met(AckRule(body=kind), 200, b"")


def test_a_hand_made_json_rule_without_a_value_is_never_met() -> None:
    assert not met(AckRule(body=BodyRule.JSON, path="code"), 200, b'{"code": 0}')


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("2xx", AckRule()),
        ("2XX any", AckRule()),
        ("200, 204", AckRule(statuses=((200, 200), (204, 204)))),
        ("200-299 exact:success", AckRule(body=BodyRule.EXACT, expected="success")),
        (
            "200-206,4xx  iexact:success ",
            AckRule(statuses=((200, 206), (400, 499)), body=BodyRule.IEXACT, expected="success"),
        ),
        ("2xx contains:a: b", AckRule(body=BodyRule.CONTAINS, expected="a: b")),
        ("2xx json:a.b = 0", AckRule(body=BodyRule.JSON, path="a.b", expected="0")),
        (
            "200 xml:return_code=SUCCESS",
            AckRule(
                statuses=((200, 200),), body=BodyRule.XML, path="return_code", expected="SUCCESS"
            ),
        ),
        ('2xx json:a="x=y"', AckRule(body=BodyRule.JSON, path="a", expected='"x=y"')),
    ],
)
def test_the_one_line_form_reads_as_written(line: str, rule: AckRule) -> None:
    assert parse(line) == rule


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "is no rule"),
        ("exact:success", "is no rule"),
        ("2xx,", "is no status"),
        ("200 204", "200-204 or 2xx, separated by commas"),
        ("20x", "is no status"),
        ("2xxx", "is no status"),
        ("٢٠٠", "is no rule"),
        ("3xx", "redirects"),
        ("302", "redirects"),
        ("200-599", "redirects"),
        ("1xx", "within 200 to 999"),
        ("204-200", "within 200 to 999"),
        (",".join(["200"] * 21), "1 to 20"),
        ("2xx equals:success", "use any, exact, iexact, contains, json or xml"),
        ("2xx any:success", "takes no word"),
        ("2xx exact", "needs a word"),
        ("2xx contains: ", "needs a word"),
        ("2xx exact:\ufeffsuccess", "printable"),
        ("2xx exact:" + "x" * 257, "at most 256"),
        ("2xx exact:a\nb", "is no rule"),
        ("2xx json", "dotted path"),
        ("2xx json:=0", "dotted path"),
        ("2xx json:a..b=0", "dotted path"),
        ("2xx json:a b=0", "dotted path"),
        ("2xx json:code=SUCCESS", 'json:code="SUCCESS"'),
        ("2xx json:code=", "is not a JSON string"),
        ("2xx json:code={}", "is not a JSON string"),
        ("2xx json:code=NaN", "is not a JSON string"),
        ("2xx xml", "needs an element"),
        ("2xx xml:SUCCESS", "needs an element"),
        ("2xx xml:a/b=SUCCESS", "needs an element"),
        ("2xx xml:code=", "needs an element"),
        ("2xx " + " " * 5000, "is no rule"),
    ],
)
def test_a_line_that_is_no_rule_is_refused_with_its_reason(line: str, says: str) -> None:
    with pytest.raises(BadFieldError, match=r"^ack: ") as refused:
        parse(line)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "rule",
    [
        AckRule(statuses=()),
        AckRule(body=BodyRule.EXACT, expected=" success"),
        AckRule(body=BodyRule.EXACT, expected="success", path="code"),
        AckRule(body=BodyRule.EXACT, expected="\ud800"),
        AckRule(body=BodyRule.JSON, path="code", expected=" 0"),
        AckRule(path="code"),
    ],
)
def test_a_hand_made_rule_that_makes_no_sense_is_refused(rule: AckRule) -> None:
    with pytest.raises(BadFieldError, match=r"^ack: "):
        check(rule)


_statuses = st.sampled_from([(200, 299), (200, 200), (204, 206), (400, 499), (409, 409)])
_words = st.text(min_size=1, max_size=20).filter(lambda w: w == w.strip() and w.isprintable())
_bodies = st.one_of(
    st.just((BodyRule.ANY, "", "")),
    st.tuples(
        st.sampled_from([BodyRule.EXACT, BodyRule.IEXACT, BodyRule.CONTAINS]), _words, st.just("")
    ),
    st.tuples(
        st.just(BodyRule.JSON),
        st.sampled_from(["0", "-1.50", "true", "null", '"x=y"', '""']),
        st.sampled_from(["code", "data.code", "a.0.b"]),
    ),
)


@given(st.lists(_statuses, min_size=1, max_size=5), _bodies)
def test_the_one_line_form_reads_back_unchanged(
    statuses: list[tuple[int, int]], body: tuple[BodyRule, str, str]
) -> None:
    kind, expected, path = body
    rule = AckRule(statuses=tuple(statuses), body=kind, expected=expected, path=path)
    assert parse(text(rule)) == rule


@given(st.text(max_size=60))
def test_any_line_is_read_or_refused(line: str) -> None:
    try:
        rule = parse(line)
    except BadFieldError:
        return
    assert parse(text(rule)) == rule
