"""What each channel's words mean, and that no answer at all can mean more than it says."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.channels import alipay, epay, generic_json, stripe, unionpay, wechat_v3
from schedules.channels.http import Answer
from schedules.channels.reading import Fields, finding, json_object, need_status, refund_finding
from schedules.ports import ChannelState, Finding, RefundFinding, RefundState
from tests.orders_asked import order, refund

_COMMON = {"currency": "CNY", "timeout_s": 1.0}
_EPAY = epay.Options.model_validate(
    {**_COMMON, "url": "https://e.example.org", "pid": "1001", "key": "k"}
)
_GENERIC = generic_json.Options.model_validate(
    {
        **_COMMON,
        "url": "https://b.example.org/{order_no}",
        "order_path": "order",
        "state_path": "state",
        "states": {"PAID": "paid", "true": "paid", "OPEN": "unpaid", "1": "closed"},
        "amount_path": "amount",
        "amount_unit": "minor",
        "currency_path": "currency",
        "not_found_statuses": [404],
    }
)
_GENERIC_REFUNDS = generic_json.Options.model_validate(
    {
        "url": "https://api.example.com/{order_no}",
        **_COMMON,
        "order_path": "no",
        "state_path": "state",
        "states": {"ok": "paid"},
        "amount_path": "amount",
        "amount_unit": "minor",
        "refund_url": "https://api.example.com/refunds/{refund_no}",
        "refund_path": "no",
        "refund_state_path": "state",
        "refund_amount_path": "amount",
        "refund_currency_path": "currency",
        "refund_states": {"ok": "success", "open": "processing"},
    }
)
_UNION = unionpay.Options.model_construct(mer_id="777", currency="CNY")


def _said(facts: dict[str, Any], status: int = 200) -> Answer:
    return Answer(status=status, body=json.dumps(facts).encode())


def _fields(answer: Answer) -> Fields:
    need_status(answer, 200)
    return json_object(answer.body)


# How each adapter reads a reply whose signature was checked already.
_READERS: dict[str, Callable[[Answer], Finding]] = {
    "alipay": lambda answer: alipay.read_query(_fields(answer), order()),
    "wechat_v3": lambda answer: wechat_v3.read_query(answer, order(), mchid="19"),
    "unionpay": lambda answer: unionpay.read_query(_fields(answer), order(), options=_UNION),
    "stripe": lambda answer: stripe.read_intent(answer, order(), "order_no"),
    "epay": lambda answer: epay.read_query(answer, order(), _EPAY),
    "generic_json": lambda answer: generic_json.read_query(answer, order(), _GENERIC),
}
_ALIPAY = {"code": "10000", "out_trade_no": "A7", "total_amount": "12.34", "trade_no": "T"}
_WECHAT = {
    "out_trade_no": "A7",
    "mchid": "19",
    "amount": {"total": 1234, "currency": "CNY"},
    "transaction_id": "T",
}
_UNIONPAY = {
    "respCode": "00",
    "orderId": "A7",
    "txnTime": "20260131200000",
    "merId": "777",
    "txnType": "01",
    "txnAmt": "1234",
    "currencyCode": "156",
    "queryId": "T",
}
_STRIPE = {
    "id": "pi_1",
    "metadata": {"order_no": "A7"},
    "amount": 1234,
    "amount_received": 1234,
    "currency": "cny",
}
_EPAYED = {"code": 1, "out_trade_no": "A7", "pid": 1001, "money": "12.34", "trade_no": "T"}
_BANK = {"order": "A7", "amount": 1234, "currency": "CNY"}
_WHOLE: dict[str, dict[str, Any]] = {
    "alipay": _ALIPAY | {"trade_status": "TRADE_SUCCESS"},
    "wechat_v3": _WECHAT | {"trade_state": "SUCCESS"},
    "unionpay": _UNIONPAY | {"origRespCode": "00"},
    "stripe": _STRIPE | {"status": "succeeded"},
    "epay": _EPAYED | {"status": 1},
    "generic_json": _BANK | {"state": "PAID"},
}
_MONEY = {
    ChannelState.PAID,
    ChannelState.FINISHED,
    ChannelState.REFUNDED,
    ChannelState.PARTIAL_REFUND,
}


def _read(channel: str, facts: dict[str, Any], status: int = 200) -> Finding:
    return finding(_said(facts, status), _READERS[channel])


@pytest.mark.parametrize(
    ("channel", "facts", "state"),
    [
        ("alipay", _ALIPAY | {"trade_status": "WAIT_BUYER_PAY"}, "unpaid"),
        ("alipay", _ALIPAY | {"trade_status": "TRADE_SUCCESS"}, "paid"),
        ("alipay", _ALIPAY | {"trade_status": "TRADE_FINISHED"}, "finished"),
        ("alipay", _ALIPAY | {"trade_status": "TRADE_CLOSED"}, "closed"),
        (
            "alipay",
            _ALIPAY | {"trade_status": "TRADE_CLOSED", "buyer_pay_amount": "0.00"},
            "closed",
        ),
        (
            "alipay",
            _ALIPAY | {"trade_status": "TRADE_CLOSED", "send_pay_date": "2026-01-31 20:00:00"},
            "refunded",
        ),
        (
            "alipay",
            _ALIPAY | {"trade_status": "TRADE_CLOSED", "receipt_amount": "12.34"},
            "refunded",
        ),
        ("alipay", {"code": "40004", "sub_code": "ACQ.TRADE_NOT_EXIST"}, "not_found"),
        ("alipay", {"code": "40004", "sub_code": "ACQ.SYSTEM_ERROR"}, "unknown"),
        ("alipay", {"code": "20000", "sub_code": "aop.unknow-error"}, "unknown"),
        ("wechat_v3", _WECHAT | {"trade_state": "SUCCESS"}, "paid"),
        ("wechat_v3", _WECHAT | {"trade_state": "REFUND"}, "partial_refund"),
        ("wechat_v3", _WECHAT | {"trade_state": "NOTPAY"}, "unpaid"),
        ("wechat_v3", _WECHAT | {"trade_state": "USERPAYING"}, "unpaid"),
        ("wechat_v3", _WECHAT | {"trade_state": "CLOSED"}, "closed"),
        ("wechat_v3", _WECHAT | {"trade_state": "REVOKED"}, "closed"),
        ("wechat_v3", _WECHAT | {"trade_state": "PAYERROR"}, "failed"),
        ("unionpay", _UNIONPAY | {"origRespCode": "00"}, "paid"),
        ("unionpay", _UNIONPAY | {"origRespCode": "A6"}, "paid"),
        ("unionpay", _UNIONPAY | {"origRespCode": "03"}, "unknown"),
        ("unionpay", _UNIONPAY | {"origRespCode": "04"}, "unknown"),
        ("unionpay", _UNIONPAY | {"origRespCode": "05"}, "unknown"),
        ("unionpay", _UNIONPAY | {"origRespCode": "42"}, "unknown"),
        ("unionpay", _UNIONPAY | {"origRespCode": "64"}, "failed"),
        ("unionpay", _UNIONPAY | {"origRespCode": "69"}, "closed"),
        ("unionpay", {"respCode": "34", "orderId": "A7"}, "not_found"),
        ("unionpay", {"respCode": "03"}, "unknown"),
        ("unionpay", {"respCode": "11"}, "unknown"),
        ("stripe", _STRIPE | {"status": "succeeded"}, "paid"),
        ("stripe", _STRIPE | {"status": "processing"}, "unpaid"),
        ("stripe", _STRIPE | {"status": "requires_action"}, "unpaid"),
        ("stripe", _STRIPE | {"status": "requires_capture"}, "unpaid"),
        ("stripe", _STRIPE | {"status": "canceled"}, "closed"),
        (
            "stripe",
            _STRIPE | {"status": "succeeded", "latest_charge": {"amount_refunded": 34}},
            "partial_refund",
        ),
        (
            "stripe",
            _STRIPE | {"status": "succeeded", "latest_charge": {"amount_refunded": 1234}},
            "refunded",
        ),
        ("stripe", _STRIPE | {"status": "succeeded", "latest_charge": "ch_1"}, "paid"),
        ("epay", _EPAYED | {"status": 0}, "unpaid"),
        ("epay", _EPAYED | {"status": "1"}, "paid"),
        ("epay", _EPAYED | {"status": 1, "money": 12}, "paid"),
        ("epay", _EPAYED | {"status": 2}, "partial_refund"),
        ("epay", _EPAYED | {"status": 3}, "unknown"),
        ("epay", {"code": -1, "msg": "订单号不存在"}, "not_found"),
        ("epay", {"code": -3, "msg": "商户不存在"}, "unknown"),
        ("epay", {"code": -3, "msg": "密钥错误"}, "unknown"),
        ("generic_json", _BANK | {"state": "PAID"}, "paid"),
        ("generic_json", _BANK | {"state": True}, "paid"),
        ("generic_json", _BANK | {"state": 1}, "closed"),
        ("generic_json", _BANK | {"state": "OPEN", "amount": None}, "unpaid"),
        ("generic_json", _BANK | {"state": "paid"}, "unknown"),
    ],
)
def test_a_channels_word_means(channel: str, facts: dict[str, Any], state: str) -> None:
    assert _read(channel, facts).state == state


@pytest.mark.parametrize(
    ("channel", "status", "facts", "state"),
    [
        ("wechat_v3", 404, {"code": "ORDER_NOT_EXIST"}, "not_found"),
        ("wechat_v3", 404, {"code": "NO_SUCH_PATH"}, "unknown"),
        ("wechat_v3", 400, {"code": "PARAM_ERROR"}, "unknown"),
        ("stripe", 404, {"error": {"type": "x", "code": "resource_missing"}}, "not_found"),
        ("stripe", 401, {"error": {"type": "invalid_request_error"}}, "unknown"),
        ("stripe", 429, {"error": {"type": "rate_limit"}}, "unknown"),
        ("generic_json", 404, {}, "not_found"),
        ("generic_json", 403, _WHOLE["generic_json"], "unknown"),
        ("epay", 404, _WHOLE["epay"], "unknown"),
        ("epay", 302, _WHOLE["epay"], "unknown"),
        ("wechat_v3", 204, {}, "unknown"),
    ],
)
def test_a_status_means(channel: str, status: int, facts: dict[str, Any], state: str) -> None:
    assert _read(channel, facts, status).state == state


@pytest.mark.parametrize("channel", _READERS)
def test_what_is_paid_carries_amount_currency_and_number(channel: str) -> None:
    found = _read(channel, _WHOLE[channel])
    assert (found.state, found.amount_minor, found.currency) == (ChannelState.PAID, 1234, "CNY")
    assert not found.route_failed


@pytest.mark.parametrize("channel", _READERS)
@pytest.mark.parametrize("wrong", ["A8", "a7", " A7", "A7 ", "", None, 7, ["A7"], "\uff217"])
def test_an_answer_about_another_order_is_unknown(channel: str, wrong: object) -> None:
    name = {"stripe": "metadata", "unionpay": "orderId", "generic_json": "order"}
    field = name.get(channel, "out_trade_no")
    value = {"order_no": wrong} if channel == "stripe" else wrong
    found = _read(channel, _WHOLE[channel] | {field: value})
    assert (found.state, found.route_failed) == (ChannelState.UNKNOWN, True)


@pytest.mark.parametrize(
    ("channel", "field", "values"),
    [
        ("alipay", "total_amount", ["-1", "1e3", "", None, "12.345", "NaN", True, {}]),
        ("wechat_v3", "amount", [None, {}, {"total": "1234"}, {"total": 12.5}, {"total": -1}]),
        ("unionpay", "txnAmt", ["12.34", "-1", "", "\uff11\uff12", "9" * 13]),
        ("unionpay", "currencyCode", ["", "CNY", "999"]),
        ("stripe", "amount_received", ["1234", 12.34, -1, None]),
        ("epay", "money", ["abc", "-1.00", "1.001", None, [1]]),
        ("generic_json", "amount", ["12.34", -1, None, 1.5]),
    ],
)
def test_money_that_cannot_be_read_exactly_is_unknown(
    channel: str, field: str, values: list[object]
) -> None:
    for value in values:
        assert _read(channel, _WHOLE[channel] | {field: value}).state is ChannelState.UNKNOWN, value


@pytest.mark.parametrize(
    ("channel", "facts"),
    [
        ("wechat_v3", {"mchid": "20"}),
        ("unionpay", {"merId": "778"}),
        ("unionpay", {"txnTime": "20260131200001"}),
        ("unionpay", {"txnType": "04"}),
        ("epay", {"pid": 1002}),
    ],
)
def test_an_answer_about_somebody_elses_payment_is_unknown(
    channel: str, facts: dict[str, Any]
) -> None:
    assert _read(channel, _WHOLE[channel] | facts).state is ChannelState.UNKNOWN


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["A7", "00", "10000", "SUCCESS", "TRADE_CLOSED", "1", "12.34", "usd"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["total", "currency", "order_no", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


_BODIES = st.dictionaries(st.text(), _JSON).map(json.dumps).map(str.encode)


@pytest.mark.parametrize("channel", _READERS)
@given(data=st.data())
def test_no_answer_makes_a_reader_raise_or_say_paid_of_another_order(
    channel: str, data: st.DataObject
) -> None:
    names = [*_WHOLE[channel], "send_pay_date", "latest_charge", "error", "success_time", "endtime"]
    changed = data.draw(st.dictionaries(st.sampled_from(names), _JSON, max_size=4))
    status = data.draw(st.sampled_from([200, 200, 200, 204, 302, 400, 404, 500]))
    facts = _WHOLE[channel] | changed
    found = _read(channel, facts, status)
    if found.state in _MONEY:
        assert status == 200
        assert "A7" in json.dumps(facts)
        assert isinstance(found.amount_minor, int)
        assert re.fullmatch("[A-Z]{3}", found.currency or "")


@pytest.mark.parametrize("channel", _READERS)
@given(body=st.binary(max_size=300), status=st.integers(100, 599))
def test_any_bytes_are_unknown(channel: str, body: bytes, status: int) -> None:
    found = finding(Answer(status=status, body=body), _READERS[channel])
    assert found.state in (ChannelState.UNKNOWN, ChannelState.NOT_FOUND)
    assert found.state is ChannelState.UNKNOWN or channel == "generic_json"


def test_two_paid_intents_of_one_order_are_for_a_person() -> None:
    one = _STRIPE | {"status": "succeeded"}
    for data, state in (
        ([], "not_found"),
        ([one], "paid"),
        ([_STRIPE | {"status": "canceled"}, one], "paid"),
        ([_STRIPE | {"status": "canceled"}, _STRIPE | {"status": "processing"}], "unpaid"),
        ([_STRIPE | {"status": "canceled"}], "closed"),
        ([one, one | {"id": "pi_2"}], "unknown"),
        ([one, _STRIPE | {"metadata": {"order_no": "A8"}, "status": "canceled"}], "unknown"),
    ):
        found = finding(
            _said({"data": data}), lambda answer: stripe.read_search(answer, order(), "order_no")
        )
        assert found.state == state, data
    more = _said({"data": [one], "has_more": True})
    assert (
        finding(more, lambda got: stripe.read_search(got, order(), "order_no")).state == "unknown"
    )


@pytest.mark.parametrize(
    ("currency", "units", "minor"),
    [("jpy", 500, 500), ("isk", 500, 5), ("ugx", 501, None), ("mga", 5, 500), ("kwd", 1230, 1230)],
)
def test_stripes_own_units_become_minor_units(currency: str, units: int, minor: int | None) -> None:
    facts = _STRIPE | {"status": "succeeded", "currency": currency, "amount_received": units}
    assert _read("stripe", facts).amount_minor == minor


_REFUND_READERS: dict[str, Callable[[Answer], RefundFinding]] = {
    "alipay": lambda answer: alipay.read_refund(json_object(answer.body), refund()),
    "wechat_v3": lambda answer: wechat_v3.read_refund(answer, refund()),
    "unionpay": lambda answer: unionpay.read_refund(
        json_object(answer.body), refund(), options=_UNION
    ),
    "stripe": lambda answer: stripe.read_refunds(answer, "pi_1", refund(), "refund_no"),
    "generic_json": lambda answer: generic_json.read_refund(
        answer, order(), refund(), _GENERIC_REFUNDS
    ),
}
_G_REFUND = {"no": "R1", "currency": "cny", "amount": 34}
_A_REFUND = {
    "code": "10000",
    "out_trade_no": "A7",
    "out_request_no": "R1",
    "refund_amount": "0.34",
}
_W_REFUND = {"out_trade_no": "A7", "out_refund_no": "R1", "amount": {"refund": 34}}
_U_REFUND = _UNIONPAY | {"orderId": "R1", "txnType": "04", "txnAmt": "34"}
_S_REFUND = {
    "payment_intent": "pi_1",
    "metadata": {"refund_no": "R1"},
    "amount": 34,
    "currency": "cny",
}


@pytest.mark.parametrize(
    ("channel", "facts", "state"),
    [
        ("alipay", _A_REFUND | {"refund_status": "REFUND_SUCCESS"}, RefundState.SUCCESS),
        ("alipay", _A_REFUND, None),
        ("alipay", _A_REFUND | {"refund_status": "REFUND_FAIL"}, None),
        ("alipay", {"code": "40004", "sub_code": "ACQ.TRADE_NOT_EXIST"}, None),
        ("wechat_v3", _W_REFUND | {"status": "SUCCESS"}, RefundState.SUCCESS),
        ("wechat_v3", _W_REFUND | {"status": "PROCESSING"}, RefundState.PROCESSING),
        ("wechat_v3", _W_REFUND | {"status": "CLOSED"}, RefundState.FAILED),
        ("wechat_v3", _W_REFUND | {"status": "ABNORMAL"}, RefundState.ABNORMAL),
        ("wechat_v3", _W_REFUND | {"status": "NEW"}, None),
        ("wechat_v3", _W_REFUND | {"status": "SUCCESS", "out_refund_no": "R2"}, None),
        ("wechat_v3", _W_REFUND | {"status": "SUCCESS", "out_trade_no": "A8"}, None),
        ("unionpay", _U_REFUND | {"origRespCode": "00"}, RefundState.SUCCESS),
        ("unionpay", _U_REFUND | {"origRespCode": "05"}, RefundState.PROCESSING),
        ("unionpay", _U_REFUND | {"origRespCode": "61"}, RefundState.FAILED),
        ("unionpay", _U_REFUND | {"origRespCode": "42"}, None),
        ("unionpay", _U_REFUND | {"origRespCode": "00", "txnType": "01"}, None),
        ("stripe", {"data": [_S_REFUND | {"status": "pending"}]}, RefundState.PROCESSING),
        ("stripe", {"data": [_S_REFUND | {"status": "succeeded"}]}, RefundState.SUCCESS),
        ("stripe", {"data": [_S_REFUND | {"status": "failed"}]}, RefundState.FAILED),
        ("stripe", {"data": [_S_REFUND | {"status": "canceled"}]}, RefundState.FAILED),
        ("stripe", {"data": []}, None),
        ("stripe", {"data": [_S_REFUND, _S_REFUND]}, None),
        ("generic_json", _G_REFUND | {"state": "ok"}, RefundState.SUCCESS),
        ("generic_json", _G_REFUND | {"state": "open"}, RefundState.PROCESSING),
        ("generic_json", _G_REFUND | {"state": "ok", "currency": ""}, None),
        ("generic_json", _G_REFUND | {"state": "ok", "amount": "1.50"}, None),
        ("generic_json", _G_REFUND | {"state": "ok", "amount": 1.5}, None),
        ("generic_json", _G_REFUND | {"state": "ok", "amount": -1}, None),
        ("generic_json", _G_REFUND | {"state": "ok", "amount": None}, None),
        ("generic_json", _G_REFUND | {"state": "ok", "amount": "abc"}, None),
        ("generic_json", _G_REFUND | {"state": "ok", "amount": True}, None),
        ("generic_json", _G_REFUND | {"state": "ok", "amount": []}, None),
        ("generic_json", _G_REFUND | {"state": "ok", "amount": 10**13}, None),
        ("generic_json", _G_REFUND | {"state": "open", "amount": "abc"}, None),
    ],
)
def test_a_channels_word_about_a_refund_means(
    channel: str, facts: dict[str, Any], state: RefundState | None
) -> None:
    found = refund_finding(_said(facts), _REFUND_READERS[channel])
    assert found.state == state
    assert state is None or (found.amount_minor, found.currency) == (34, "CNY")


def test_the_currency_of_a_refund_is_the_one_the_channel_names() -> None:
    said = _S_REFUND | {"status": "succeeded", "currency": "jpy"}
    assert refund_finding(_said({"data": [said]}), _REFUND_READERS["stripe"]).currency == "JPY"


@pytest.mark.parametrize("channel", _REFUND_READERS)
@given(body=st.binary(max_size=200) | _BODIES)
def test_no_answer_about_a_refund_makes_a_reader_raise(channel: str, body: bytes) -> None:
    assert refund_finding(Answer(status=200, body=body), _REFUND_READERS[channel]).state is None
