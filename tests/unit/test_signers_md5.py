"""epay, JeePay and roncoo: published vectors, and what each platform's rules say, written anew."""

import hashlib
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import BadFieldError
from worker.models import Encoding, Secret
from worker.signers.contract import Message, Shaped
from worker.signers.registry import find

KEY = "WSJ6XXnFb3OkFPyM0dGYxQ8CSRy1S3g5"
# The vectors of the platforms' own documents; an example elsewhere in JeePay's is misprinted.
EPAY = {
    "pid": "1001",
    "trade_no": "20160806151343349021",
    "out_trade_no": "20160806151343349",
    "type": "alipay",
    "name": "VIP会员",
    "money": "1.00",
    "trade_status": "TRADE_SUCCESS",
}
RONCOO = {
    "orderDate": "20200101",
    "orderNo": "1001",
    "orderPrice": "1.00",
    "orderTime": "20200101120000",
    "payKey": "pk1",
    "payWayCode": "WEIXIN",
    "productName": "test",
    "tradeStatus": "SUCCESS",
    "trxNo": "77772020",
}
JEEPAY = {
    "amount": "10000",
    "clientIp": "192.168.0.111",
    "mchOrderNo": "P0123456789101",
    "notifyUrl": "https://www.baidu.com",
    "platId": "1000",
    "reqTime": "20190723141000",
    "returnUrl": "https://www.baidu.com",
    "version": "1.0",
}


def shaped(
    scheme: str,
    fields: dict[str, str],
    *,
    encoding: Encoding = Encoding.QUERY,
    key: str = KEY,
    url: str = "https://merchant.com/cb",
    **options: str,
) -> Shaped:
    return find(scheme).shape(
        Message(
            message_id="msg_1",
            event_type="payment.paid",
            event_key="k",
            order_no=None,
            attempt_no=1,
            url=url,
            method="GET" if encoding is Encoding.QUERY else "POST",
            content_type="application/json",
            headers=(),
            body=b"{}",
            signed_at=0,
            secrets=(Secret(version=1, value=key),),
            encoding=encoding,
            fields=tuple(fields.items()),
            options=options,
        )
    )


def query(made: Shaped) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(made.url).query, keep_blank_values=True))


def form(made: Shaped) -> dict[str, str]:
    return dict(parse_qsl(made.body.decode(), keep_blank_values=True))


def test_epay_signs_the_published_vector() -> None:
    made = shaped("epay", EPAY)
    assert query(made) == {
        **EPAY,
        "sign": "50835770dc5b644a44d8f1ba98692a8d",
        "sign_type": "MD5",
    }
    assert (made.method, made.body, made.headers) == ("GET", b"", ())


def test_roncoo_signs_the_published_vector() -> None:
    made = shaped("roncoo", RONCOO, key="sk1")
    assert query(made)["sign"] == "A2049B6D072F2F8A464F73F49E23E8A0"


def test_jeepay_signs_the_corrected_example() -> None:
    made = shaped("jeepay", JEEPAY, encoding=Encoding.FORM, key="EWEFD123RGSRETYDFNGFGFGSHDFGH")
    assert form(made)["sign"] == "84E1CA56F984502BBAC06EA6707157F5"


def test_jeepay_sorts_whole_strings_in_any_case() -> None:
    fields = {"a": "2", "a1": "1", "B": "3", "order_no": "4", "orderNo": "5", "empty": ""}
    made = shaped("jeepay", fields, encoding=Encoding.FORM)
    signed = f"a1=1&a=2&B=3&order_no=4&orderNo=5&key={KEY}"
    assert form(made)["sign"] == hashlib.md5(signed.encode()).hexdigest().upper()
    assert "empty" not in form(made)


def test_jeepay_moves_the_query_of_the_url_into_the_form_unsigned() -> None:
    url = "https://merchant.com/cb?shop=7&name=%E5%BA%97"
    made = shaped("jeepay", {"amount": "1"}, encoding=Encoding.FORM, url=url)
    plain = shaped("jeepay", {"amount": "1"}, encoding=Encoding.FORM)
    assert made.url == "https://merchant.com/cb"
    assert form(made) == {"shop": "7", "name": "店", **form(plain)}


@pytest.mark.parametrize("scheme", ["epay", "roncoo"])
def test_the_query_of_the_url_stays_and_is_not_signed(scheme: str) -> None:
    made = shaped(scheme, {"a": "1"}, url="https://merchant.com/cb?shop=7")
    plain = shaped(scheme, {"a": "1"})
    assert query(made) == {"shop": "7", **query(plain)}


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: name not in {"sign", "sign_type"}
)


@given(st.dictionaries(names, texts, max_size=8))
def test_what_epay_merchants_compute_is_what_we_signed(fields: dict[str, str]) -> None:
    """The check of the reference SDK: ksort, drop empty ones and both signs, append the key."""
    got = query(shaped("epay", fields))
    kept = sorted((k, v) for k, v in got.items() if v and k not in {"sign", "sign_type"})
    text = "&".join(f"{k}={v}" for k, v in kept) + KEY
    assert got["sign"] == hashlib.md5(text.encode()).hexdigest()


@given(st.dictionaries(names, texts, max_size=8))
def test_what_roncoo_merchants_compute_is_what_we_signed(fields: dict[str, str]) -> None:
    """TreeMap of what is not blank, joined, paySecret last."""
    got = query(shaped("roncoo", fields))
    kept = sorted((k, v) for k, v in got.items() if v.strip() and k != "sign")
    text = "&".join([*(f"{k}={v}" for k, v in kept), f"paySecret={KEY}"])
    if not kept:
        text = f"&paySecret={KEY}"
    assert got["sign"] == hashlib.md5(text.encode()).hexdigest().upper()


def test_gbk_merchants_verify_over_gbk_bytes() -> None:
    made = shaped("epay", {"name": "会员"}, encoding=Encoding.FORM, charset="gbk")
    read = dict(parse_qsl(made.body.decode(), encoding="gbk"))
    assert read["name"] == "会员"
    assert read["sign"] == hashlib.md5(f"name=会员{KEY}".encode("gbk")).hexdigest()


@pytest.mark.parametrize("scheme", ["epay", "jeepay", "roncoo"])
def test_an_unknown_option_encoding_or_a_short_key_is_refused(scheme: str) -> None:
    found: Any = find(scheme)
    with pytest.raises(BadFieldError, match=r"^encoding: .* cannot sign xml"):
        found.check_options(Encoding.XML, {})
    with pytest.raises(BadFieldError, match=r"^options\.charst: .* did you mean charset"):
        found.check_options(Encoding.FORM, {"charst": "gbk"})
    with pytest.raises(BadFieldError, match=r"^options\.charset: "):
        found.check_options(Encoding.FORM, {"charset": "latin-1"})
    with pytest.raises(BadFieldError, match=r"^secret: ") as refused:
        found.check_secret("sh ort-key")
    assert "sh ort" not in str(refused.value)
    found.check_secret(found.new_secret())
    found.check_options(Encoding.FORM, {"charset": "gbk"})


@pytest.mark.parametrize("scheme", ["epay", "jeepay", "roncoo", "stripe-style", "plain-hmac"])
def test_nothing_is_signed_without_a_live_secret(scheme: str) -> None:
    made = Message(
        message_id="m", event_type="e", event_key="k", order_no=None, attempt_no=1,
        url="https://a.com/", method="POST", content_type="application/json", headers=(), body=b"",
        signed_at=0, secrets=(), encoding=Encoding.FORM, fields=(("a", "1"),),
    )  # fmt: skip
    with pytest.raises(BadFieldError, match="no live secret"):
        find(scheme).shape(made)
