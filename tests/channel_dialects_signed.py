"""Channels that sign: Alipay, WeChat Pay v3, UnionPay 5.1.0.

Written from their documentation, on its own. Must never import an adapter: what both got wrong
would look right.
"""

import hashlib
import json
import re
import secrets
import time
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal
from urllib.parse import unquote

from tests.channel_speech import (
    PLATFORM_SERIAL,
    WECHAT_SERIAL,
    Dialect,
    Held,
    Question,
    Reply,
    Request,
    as_json,
    china,
)


class Alipay(Dialect):
    def read(self, request: Request, path: str) -> Question | Reply:
        form = request.form
        sign = form.pop("sign", "")
        text = "&".join(f"{k}={form[k]}" for k in sorted(form) if form[k])
        if form.get("sign_type") != "RSA2" or not self.keys.checks("merchant", sign, text.encode()):
            return as_json(
                {
                    "error_response": {
                        "code": "40002",
                        "msg": "Invalid Arguments",
                        "sub_code": "isv.invalid-signature",
                        "sub_msg": "无效签名",
                    }
                }
            )
        datetime.strptime(form["timestamp"], "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007 - a form check
        content = json.loads(form["biz_content"])
        what: dict[str, Literal["query", "close", "refund"]] = {
            "alipay.trade.query": "query",
            "alipay.trade.close": "close",
            "alipay.trade.fastpay.refund.query": "refund",
        }
        return Question(
            what=what[form["method"]],
            order_no=content["out_trade_no"],
            refund_no=content.get("out_request_no", ""),
        )

    def answer(self, question: Question, held: Held | None, *, forged: bool, stale: bool) -> Reply:
        name = {
            "query": "alipay_trade_query_response",
            "close": "alipay_trade_close_response",
            "refund": "alipay_trade_fastpay_refund_query_response",
        }[question.what]
        facts = self._facts(question, held)
        # Spaces and an escaped slash: the signature is over the text, not over its meaning.
        text = json.dumps(facts, ensure_ascii=False).replace("/", "\\/")
        sign = self.keys.sign("stranger" if forged else "platform", text.encode())
        return Reply(
            headers=(("Content-Type", "text/html;charset=utf-8"),),
            body=f'{{"{name}":{text},"sign":"{sign}"}}'.encode(),
        )

    def _facts(self, question: Question, held: Held | None) -> dict[str, Any]:
        if held is None or held.state == "not_found":
            return {
                "code": "40004",
                "msg": "Business Failed",
                "sub_code": "ACQ.TRADE_NOT_EXIST",
                "sub_msg": "交易不存在",
                "out_trade_no": question.order_no,
            }
        if question.what == "refund":
            return self._refund(question, held)
        if question.what == "close" and held.was_paid:
            return {
                "code": "40004",
                "msg": "Business Failed",
                "sub_code": "ACQ.TRADE_STATUS_ERROR",
                "sub_msg": "交易状态不合法",
            }
        facts = {
            "code": "10000",
            "msg": "Success",
            "out_trade_no": held.order_no,
            "trade_no": held.txn_no,
        }
        if question.what == "close":
            return facts
        status = {
            "unpaid": "WAIT_BUYER_PAY",
            "paid": "TRADE_SUCCESS",
            "partial_refund": "TRADE_SUCCESS",
            "finished": "TRADE_FINISHED",
        }.get(held.state, "TRADE_CLOSED")
        facts |= {"trade_status": status, "total_amount": held.major, "store_name": "a/b"}
        facts["buyer_pay_amount"] = held.major if held.was_paid else "0.00"
        if held.was_paid:
            facts["send_pay_date"] = china(held.paid_at_s, "%Y-%m-%d %H:%M:%S")
        if held.currency != "CNY":
            facts["trans_currency"] = held.currency
        return facts

    def _refund(self, question: Question, held: Held) -> dict[str, Any]:
        facts = {"code": "10000", "msg": "Success"}
        if held.refund_state == "success" and held.refund_no:
            facts |= {
                "out_trade_no": held.order_no,
                "out_request_no": held.refund_no,
                "refund_status": "REFUND_SUCCESS",
                "refund_amount": f"{held.refund_minor // 100}.{held.refund_minor % 100:02d}",
                "total_amount": held.major,
            }
        return facts


class Wechat(Dialect):
    def read(self, request: Request, path: str) -> Question | Reply:
        given = request.headers.get("authorization", "")
        scheme, _, rest = given.partition(" ")
        token = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        lines = (request.method, request.target, token.get("timestamp"), token.get("nonce_str"))
        signed = "".join(f"{line}\n" for line in lines).encode() + request.body + b"\n"
        if (
            scheme != "WECHATPAY2-SHA256-RSA2048"
            or (token.get("mchid"), token.get("serial_no")) != ("1900000001", WECHAT_SERIAL)
            or abs(int(token.get("timestamp", "0")) - time.time()) > 300
            or not self.keys.checks("merchant", token.get("signature", ""), signed)
        ):
            return as_json({"code": "SIGN_ERROR", "message": "签名错误"}, status=401)
        if found := re.fullmatch(r"/v3/pay/transactions/out-trade-no/([^/]+)(/close)?", path):
            order_no = unquote(found[1])
            if found[2]:
                assert request.method == "POST"
                assert json.loads(request.body) == {"mchid": "1900000001"}
                return Question(what="close", order_no=order_no)
            assert request.query == {"mchid": "1900000001"}
            return Question(what="query", order_no=order_no)
        found = re.fullmatch(r"/v3/refund/domestic/refunds/([^/]+)", path)
        assert found, path
        return Question(what="refund", refund_no=unquote(found[1]))

    def answer(self, question: Question, held: Held | None, *, forged: bool, stale: bool) -> Reply:
        reply = self._plain(question, held)
        timestamp = int(time.time()) - (3600 if stale else 0)
        nonce = secrets.token_hex(16)
        signed = f"{timestamp}\n{nonce}\n".encode() + reply.body + b"\n"
        key = "stranger" if forged else "platform"
        return replace(
            reply,
            headers=(
                *reply.headers,
                ("Wechatpay-Serial", PLATFORM_SERIAL),
                ("Wechatpay-Timestamp", str(timestamp)),
                ("Wechatpay-Nonce", nonce),
                ("Wechatpay-Signature", self.keys.sign(key, signed)),
            ),
        )

    def _plain(self, question: Question, held: Held | None) -> Reply:
        if held is None or held.state == "not_found":
            code = "RESOURCE_NOT_EXISTS" if question.what == "refund" else "ORDER_NOT_EXIST"
            return as_json({"code": code, "message": "订单不存在"}, status=404)
        if question.what == "refund":
            return as_json(
                {
                    "out_trade_no": held.order_no,
                    "out_refund_no": held.refund_no,
                    "status": {"failed": "CLOSED"}.get(
                        held.refund_state, held.refund_state.upper()
                    ),
                    "amount": {"refund": held.refund_minor, "total": held.amount_minor},
                }
            )
        if question.what == "close":
            if held.was_paid:
                return as_json({"code": "ORDERPAID", "message": "该订单已支付"}, status=400)
            return Reply(status=204)
        facts: dict[str, Any] = {
            "mchid": "1900000001",
            "appid": "wxd678efh567hg6787",
            "out_trade_no": held.order_no,
            "trade_state": {
                "paid": "SUCCESS",
                "finished": "SUCCESS",
                "unpaid": "NOTPAY",
                "closed": "CLOSED",
                "failed": "PAYERROR",
            }.get(held.state, "REFUND"),
            "trade_state_desc": "说明",
        }
        if held.was_paid:
            facts |= {
                "transaction_id": held.txn_no,
                "success_time": china(held.paid_at_s, "%Y-%m-%dT%H:%M:%S+08:00"),
                "amount": {
                    "total": held.amount_minor,
                    "payer_total": held.amount_minor,
                    "currency": held.currency,
                },
            }
        return as_json(facts)


class Unionpay(Dialect):
    def read(self, request: Request, path: str) -> Question | Reply:
        form = request.form
        signature = form.pop("signature", "")
        assert form["txnType"] == "00"
        assert form["version"] == "5.1.0"
        if not self.keys.checks("merchant", signature, _unionpay_digest(form)):
            return self._signed({"respCode": "11", "respMsg": "验证签名失败"}, forged=False)
        return Question(what="query", order_no=form["orderId"], txn_no=form["txnTime"])

    def answer(self, question: Question, held: Held | None, *, forged: bool, stale: bool) -> Reply:
        facts = {
            "version": "5.1.0",
            "encoding": "UTF-8",
            "signMethod": "01",
            "accessType": "0",
            "merId": "777290058110048",
            "orderId": question.order_no,
            "txnTime": question.txn_no,
        }
        if held is None or held.state == "not_found":
            return self._signed(
                {**facts, "respCode": "34", "respMsg": "查无此交易[2600000]"}, forged=forged
            )
        numbers = {"CNY": "156", "USD": "840", "HKD": "344", "EUR": "978"}
        is_refund = held.refund_no == question.order_no
        state = held.refund_state if is_refund else held.state
        code, message = {
            "unpaid": ("05", "交易处理中"),
            "processing": ("03", "交易通讯超时"),
            "failed": ("64", "卡上余额不足"),
            "closed": ("69", "超时未付"),
            "abnormal": ("42", "扣款成功但交易超过规定支付时间"),
        }.get(state, ("00", "成功[0000000]"))
        return self._signed(
            {
                **facts,
                "orderId": held.refund_no if is_refund else held.order_no,
                "respCode": "00",
                "respMsg": "成功[0000000]",
                "origRespCode": code,
                "origRespMsg": message,
                "txnType": "04" if is_refund else "01",
                "txnSubType": "01",
                "txnAmt": str(held.refund_minor if is_refund else held.amount_minor),
                "currencyCode": numbers.get(held.currency, "999"),
                "queryId": held.txn_no,
                "payTime": china(held.paid_at_s, "%Y%m%d%H%M%S"),
                "reserved": "{a=1&b=2}",
            },
            forged=forged,
        )

    def _signed(self, facts: dict[str, str], *, forged: bool) -> Reply:
        key = "stranger" if forged else "platform"
        signature = self.keys.sign(key, _unionpay_digest(facts))
        body = "&".join(f"{name}={value}" for name, value in facts.items())
        return Reply(
            headers=(("Content-Type", "text/html;charset=UTF-8"),),
            body=f"{body}&signature={signature}".encode(),
        )


def _unionpay_digest(facts: dict[str, str]) -> bytes:
    text = "&".join(f"{name}={facts[name]}" for name in sorted(facts) if facts[name])
    return hashlib.sha256(text.encode()).hexdigest().encode()
