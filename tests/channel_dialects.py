"""How the six kinds of channels speak: the three that do not sign, and the table of all.

Written from their documentation, on its own. Must never import an adapter: what both got wrong
would look right.
"""

import json
import re
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.channel_dialects_signed import Alipay, Unionpay, Wechat
from tests.channel_speech import (
    EPAY_KEY,
    GENERIC_KEY,
    STRIPE_KEY,
    Dialect,
    Held,
    Question,
    Reply,
    Request,
    as_json,
    china,
)


class Stripe(Dialect):
    def read(self, request: Request, path: str) -> Question | Reply:
        if request.headers.get("authorization") != f"Bearer {STRIPE_KEY}":
            error = {"type": "invalid_request_error", "message": "Invalid API Key provided: sk_***"}
            return as_json({"error": error}, status=401)
        if path == "/v1/payment_intents/search":
            found = re.fullmatch(r"metadata\['order_no'\]:'(.*)'", request.query["query"])
            assert found
            order_no = re.sub(r"\\(.)", r"\1", found[1])
            return Question(what="query", order_no=order_no, search=True)
        if path == "/v1/refunds":
            return Question(
                what="refund", txn_no=parse_qs(urlsplit(request.target).query)["payment_intent"][0]
            )
        found = re.fullmatch(r"/v1/payment_intents/(pi_\w+)(/cancel)?", path)
        assert found, path
        return Question(what="close" if found[2] else "query", txn_no=found[1])

    def answer(self, question: Question, held: Held | None, *, forged: bool, stale: bool) -> Reply:
        gone = held is None or held.state == "not_found"
        if question.search:
            data = [] if held is None or gone else [self._intent(held)]
            return as_json({"object": "search_result", "has_more": False, "data": data})
        if held is None or gone:
            error = {"type": "invalid_request_error", "code": "resource_missing"}
            return as_json({"error": error}, status=404)
        if question.what == "refund":
            one = {
                "id": "re_1",
                "amount": held.refund_minor,
                "currency": held.currency.lower(),
                "payment_intent": held.txn_no,
                "metadata": {"refund_no": held.refund_no},
                "status": {"processing": "pending", "success": "succeeded"}.get(
                    held.refund_state, held.refund_state
                ),
            }
            return as_json({"object": "list", "data": [one] if held.refund_no else []})
        if question.what == "close" and held.was_paid:
            error_with: dict[str, Any] = {
                "type": "invalid_request_error",
                "code": "payment_intent_unexpected_state",
                "payment_intent": self._intent(held),
            }
            return as_json({"error": error_with}, status=400)
        return as_json(self._intent(held))

    def _intent(self, held: Held) -> dict[str, Any]:
        charge = {
            "id": "ch_1",
            "created": held.paid_at_s,
            "amount": held.amount_minor,
            "amount_refunded": held.amount_minor
            if held.state == "refunded"
            else held.refunded_minor,
        }
        return {
            "id": held.txn_no,
            "object": "payment_intent",
            "amount": held.amount_minor,
            "amount_received": held.amount_minor if held.was_paid else 0,
            "currency": held.currency.lower(),
            "metadata": {"order_no": held.order_no},
            "status": "succeeded"
            if held.was_paid
            else "canceled"
            if held.state == "closed"
            else "requires_payment_method",
            "latest_charge": charge if held.was_paid else None,
        }


class Epay(Dialect):
    def read(self, request: Request, path: str) -> Question | Reply:
        query = request.query
        if (query.get("pid"), query.get("key")) != ("1001", EPAY_KEY):
            return as_json({"code": -3, "msg": "商户密钥错误"})
        assert query["act"] == "order"
        return Question(what="query", order_no=query["out_trade_no"])

    def answer(self, question: Question, held: Held | None, *, forged: bool, stale: bool) -> Reply:
        if held is None or held.state == "not_found":
            return as_json({"code": -1, "msg": "订单号不存在"})
        status = {"paid": 1, "finished": 1, "partial_refund": 2, "refunded": 2}.get(held.state, 0)
        return as_json(
            {
                "code": 1,
                "msg": "查询订单号成功",
                "trade_no": held.txn_no,
                "out_trade_no": held.order_no,
                "type": "alipay",
                "pid": 1001,
                "endtime": china(held.paid_at_s, "%Y-%m-%d %H:%M:%S"),
                "name": "VIP会员",
                "money": held.major,
                "status": status,
            }
        )


class Generic(Dialect):
    def read(self, request: Request, path: str) -> Question | Reply:
        if request.headers.get("x-api-key") != GENERIC_KEY:
            return as_json({"error": "unauthorised"}, status=401)
        if found := re.fullmatch(r"/orders/([^/]+)", path):
            return Question(what="query", order_no=unquote(found[1]))
        found = re.fullmatch(r"/refunds/([^/]+)", path)
        assert found, path
        return Question(what="refund", refund_no=unquote(found[1]))

    def answer(self, question: Question, held: Held | None, *, forged: bool, stale: bool) -> Reply:
        if held is None or held.state == "not_found":
            return as_json({"error": "no such order"}, status=404)
        if question.what == "refund":
            amount = f"{held.refund_minor // 100}.{held.refund_minor % 100:02d}"
            refund = {"no": held.refund_no, "state": held.refund_state, "amount": amount}
            return as_json({"refund": refund})
        # A number with a fraction, written out: readers must not turn it into a float.
        body = {
            "data": {
                "order": held.order_no,
                "state": held.state.upper(),
                "amount": "AMOUNT",
                "currency": held.currency,
                "txn": held.txn_no,
                "paid_at": held.paid_at_s if held.was_paid else None,
            }
        }
        return Reply(
            headers=(("Content-Type", "application/json"),),
            body=json.dumps(body).replace('"AMOUNT"', held.major).encode(),
        )


DIALECTS: dict[str, type[Dialect]] = {
    "alipay": Alipay,
    "wechat_v3": Wechat,
    "unionpay": Unionpay,
    "stripe": Stripe,
    "epay": Epay,
    "generic_json": Generic,
}
