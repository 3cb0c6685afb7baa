"""Replies as text: any bytes in, storable text out, and back."""

import sqlite3

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.evidence import EVIDENCE_MAX_BYTES, decode, encode

# Bytes near every rule: escapes, markers, Chinese, GBK, broken and forbidden UTF-8.
_pieces = st.sampled_from(
    [
        b"success", b"\\", b"\\x41", b"\\n", b"\\[+5 bytes cut]", b"\n", b"\r\n", b"\t", b"\0",
        b"\x1b[31m", b"\x7f", b"\x80", b"\xff", "成功".encode(), "成功".encode("gbk"),
        b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xe6\x88", "\u2028".encode(),
        "\u202e".encode(), "\ufeff".encode(), "\u0085".encode(), "😀".encode(), b"a" * 40,
    ]
)  # fmt: skip
bodies = st.one_of(st.binary(max_size=300), st.lists(_pieces, max_size=30).map(b"".join))


@settings(max_examples=300, deadline=None)
@given(body=bodies, limit=st.integers(64, 400))
@example(body=b"\\[+5 bytes cut]", limit=64)
@example(body=b"\x80" * 16 + b"\\", limit=64)
def test_any_bytes_become_safe_text_within_the_limit_and_come_back(body: bytes, limit: int) -> None:
    text = encode(body, limit)
    assert len(text.encode("utf-8")) <= limit
    assert text.isprintable()
    back, cut = decode(text)
    if cut:
        assert body.startswith(back)
        assert text.endswith(f"\\[+{len(body) - len(back)} bytes cut]")
        # Not one whole character or escape less than there was room for.
        assert len(text.encode()) > limit - len("\\xff\\xff\\xff\\xff") - 3
    else:
        assert back == body


@settings(max_examples=100, deadline=None)
@given(body=bodies)
def test_sqlite_stores_and_returns_the_text_unchanged(body: bytes) -> None:
    text = encode(body, 200)
    database = sqlite3.connect(":memory:")
    try:
        row = database.execute("SELECT CAST(? AS TEXT), length(?)", (text, text)).fetchone()
    finally:
        database.close()
    assert row == (text, len(text))


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.sampled_from("\\xn[+1 bytescut]0fg\udc80成")))
def test_decoding_text_of_another_origin_does_not_raise(text: str) -> None:
    back, _ = decode(text)
    assert len(back) <= len(text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", ""),
        (b"success", "success"),
        (b'{"code":0,"msg":"ok"}', '{"code":0,"msg":"ok"}'),
        ("支付成功，谢谢。\u3000😀".encode(), "支付成功，谢谢。\u3000😀"),  # noqa: RUF001
        (b"<html>\r\n\t502</html>\n", "<html>\\r\\n\\t502</html>\\n"),
        (b"\0\x1b[31mred\x7f", "\\x00\\x1b[31mred\\x7f"),
        (b"C:\\new", "C:\\\\new"),
        (b"\xb3\xa6", "\\xb3\\xa6"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
        ("a\u2028b\u202ec".encode(), "a\\xe2\\x80\\xa8b\\xe2\\x80\\xaec"),
        ("\x85".encode(), "\\xc2\\x85"),
    ],
)
def test_a_reply_is_kept_readable(body: bytes, text: str) -> None:
    assert encode(body) == text
    assert decode(text) == (body, False)


@pytest.mark.parametrize("size", [EVIDENCE_MAX_BYTES + 1, 65_536])
@pytest.mark.parametrize("unit", [b"a", b"\0", b"\\", "成".encode(), b"\xff"])
def test_a_long_reply_keeps_its_head_and_says_how_much_was_cut(unit: bytes, size: int) -> None:
    body = (unit * size)[:size]
    text = encode(body)
    back, cut = decode(text)
    assert cut
    assert EVIDENCE_MAX_BYTES - 40 < len(text.encode()) <= EVIDENCE_MAX_BYTES
    assert body.startswith(back)
    assert text.endswith(f"\\[+{size - len(back)} bytes cut]")


def test_a_short_reply_that_swells_beyond_the_limit_is_cut_too() -> None:
    text = encode(b"\0" * 2000)
    assert len(text) <= EVIDENCE_MAX_BYTES
    assert decode(text)[1]


def test_a_reply_cannot_forge_the_mark_of_a_cut() -> None:
    forged = b"success\\[+9 bytes cut]"
    assert decode(encode(forged)) == (forged, False)
