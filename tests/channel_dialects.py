"""How the six kinds of channels speak: what the simulator answers, signed as the real ones do.

Written from their documentation, on its own. Must never import an adapter: what both got wrong
would look right.
"""

import base64
import hashlib
import json
import re
import secrets
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

CHINA = timezone(timedelta(hours=8))
STRIPE_KEY = "sk_test_simulated0123456789"
EPAY_KEY = "WSJ6XXnFb3OkFPyM0dGYxQ8CSRy1S3g5"
GENERIC_KEY = "generic-0123456789"
WECHAT_SERIAL, PLATFORM_SERIAL = "3775B6A45ACD588826D15E583A95F5DD", "PUB_KEY_ID_0114232134912410"
_PAIRS = (
    "alipay_app", "alipay_platform", "wechat_merchant", "wechat_platform", "unionpay_merchant",
    "unionpay_platform", "stranger",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))


@dataclass(frozen=True, kw_only=True)
class Reply:
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What was asked; ``order_no`` is empty where only the refund or payment is named."""

    what: Literal["query", "close", "refund"]
    order_no: str = ""
    refund_no: str = ""
    txn_no: str = ""
    search: bool = False


@dataclass(frozen=True, kw_only=True)
class Held:
    """One order as the channel has it."""

    order_no: str
    state: str
    amount_minor: int
    currency: str
    txn_no: str
    paid_at_s: int
    refunded_minor: int = 0
    refund_no: str = ""
    refund_state: str = ""
    refund_minor: int = 0

    @property
    def was_paid(self) -> bool:
        return self.state in ("paid", "finished", "partial_refund", "refunded")

    @property
    def major(self) -> str:
        return f"{self.amount_minor // 100}.{self.amount_minor % 100:02d}"


class Keyring:
    """The key pairs of everybody, kept in a folder as PEM files that adapters can be given."""

    def __init__(self, folder: Path) -> None:
        self._keys = {name: _pair(folder, name) for name in _PAIRS}

    def sign(self, name: str, data: bytes) -> str:
        raw = self._keys[name].sign(data, padding.PKCS1v15(), hashes.SHA256())
        return base64.b64encode(raw).decode()

    def checks(self, name: str, signature: str, data: bytes) -> bool:
        try:
            self._keys[name].public_key().verify(
                base64.b64decode(signature), data, padding.PKCS1v15(), hashes.SHA256()
            )
        except (InvalidSignature, ValueError):
            return False
        return True


def _pair(folder: Path, name: str) -> rsa.RSAPrivateKey:
    file = folder / f"{name}.pem"
    if file.exists():
        found = serialization.load_pem_private_key(file.read_bytes(), None)
        assert isinstance(found, rsa.RSAPrivateKey)
        return found
    key = rsa.generate_private_key(65_537, 2048)
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (folder / f"{name}.pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return key


class Dialect:
    """One kind of channel."""

    def __init__(self, keys: Keyring) -> None:
        self.keys = keys

    def read(self, request: Request, path: str) -> Question | Reply:
        """Understand a request, or refuse it."""
        raise NotImplementedError

    def answer(self, question: Question, held: Held | None, *, forged: bool, stale: bool) -> Reply:
        """Answer it; ``forged`` signs with a stranger's key, ``stale`` an hour ago."""
        raise NotImplementedError


class Alipay(Dialect):
    def read(self, request: Request, path: str) -> Question | Reply:
        form = request.form
        sign = form.pop("sign", "")
        text = "&".join(f"{k}={form[k]}" for k in sorted(form) if form[k])
        if form.get("sign_type") != "RSA2" or not self.keys.checks(
            "alipay_app", sign, text.encode()
        ):
            return _json(
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
        sign = self.keys.sign("stranger" if forged else "alipay_platform", text.encode())
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
            facts["send_pay_date"] = _china(held.paid_at_s, "%Y-%m-%d %H:%M:%S")
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
            or not self.keys.checks("wechat_merchant", token.get("signature", ""), signed)
        ):
            return _json({"code": "SIGN_ERROR", "message": "签名错误"}, status=401)
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
        key = "stranger" if forged else "wechat_platform"
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
            return _json({"code": code, "message": "订单不存在"}, status=404)
        if question.what == "refund":
            return _json(
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
                return _json({"code": "ORDERPAID", "message": "该订单已支付"}, status=400)
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
                "success_time": _china(held.paid_at_s, "%Y-%m-%dT%H:%M:%S+08:00"),
                "amount": {
                    "total": held.amount_minor,
                    "payer_total": held.amount_minor,
                    "currency": held.currency,
                },
            }
        return _json(facts)


class Unionpay(Dialect):
    def read(self, request: Request, path: str) -> Question | Reply:
        form = request.form
        signature = form.pop("signature", "")
        assert form["txnType"] == "00"
        assert form["version"] == "5.1.0"
        if not self.keys.checks("unionpay_merchant", signature, _unionpay_digest(form)):
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
                "payTime": _china(held.paid_at_s, "%Y%m%d%H%M%S"),
                "reserved": "{a=1&b=2}",
            },
            forged=forged,
        )

    def _signed(self, facts: dict[str, str], *, forged: bool) -> Reply:
        key = "stranger" if forged else "unionpay_platform"
        signature = self.keys.sign(key, _unionpay_digest(facts))
        body = "&".join(f"{name}={value}" for name, value in facts.items())
        return Reply(
            headers=(("Content-Type", "text/html;charset=UTF-8"),),
            body=f"{body}&signature={signature}".encode(),
        )


class Stripe(Dialect):
    def read(self, request: Request, path: str) -> Question | Reply:
        if request.headers.get("authorization") != f"Bearer {STRIPE_KEY}":
            error = {"type": "invalid_request_error", "message": "Invalid API Key provided: sk_***"}
            return _json({"error": error}, status=401)
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
            return _json({"object": "search_result", "has_more": False, "data": data})
        if held is None or gone:
            error = {"type": "invalid_request_error", "code": "resource_missing"}
            return _json({"error": error}, status=404)
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
            return _json({"object": "list", "data": [one] if held.refund_no else []})
        if question.what == "close" and held.was_paid:
            error_with: dict[str, Any] = {
                "type": "invalid_request_error",
                "code": "payment_intent_unexpected_state",
                "payment_intent": self._intent(held),
            }
            return _json({"error": error_with}, status=400)
        return _json(self._intent(held))

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
            return _json({"code": -3, "msg": "商户密钥错误"})
        assert query["act"] == "order"
        return Question(what="query", order_no=query["out_trade_no"])

    def answer(self, question: Question, held: Held | None, *, forged: bool, stale: bool) -> Reply:
        if held is None or held.state == "not_found":
            return _json({"code": -1, "msg": "订单号不存在"})
        status = {"paid": 1, "finished": 1, "partial_refund": 2, "refunded": 2}.get(held.state, 0)
        return _json(
            {
                "code": 1,
                "msg": "查询订单号成功",
                "trade_no": held.txn_no,
                "out_trade_no": held.order_no,
                "type": "alipay",
                "pid": 1001,
                "endtime": _china(held.paid_at_s, "%Y-%m-%d %H:%M:%S"),
                "name": "VIP会员",
                "money": held.major,
                "status": status,
            }
        )


class Generic(Dialect):
    def read(self, request: Request, path: str) -> Question | Reply:
        if request.headers.get("x-api-key") != GENERIC_KEY:
            return _json({"error": "unauthorised"}, status=401)
        if found := re.fullmatch(r"/orders/([^/]+)", path):
            return Question(what="query", order_no=unquote(found[1]))
        found = re.fullmatch(r"/refunds/([^/]+)", path)
        assert found, path
        return Question(what="refund", refund_no=unquote(found[1]))

    def answer(self, question: Question, held: Held | None, *, forged: bool, stale: bool) -> Reply:
        if held is None or held.state == "not_found":
            return _json({"error": "no such order"}, status=404)
        if question.what == "refund":
            amount = f"{held.refund_minor // 100}.{held.refund_minor % 100:02d}"
            refund = {"no": held.refund_no, "state": held.refund_state, "amount": amount}
            return _json({"refund": refund})
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


def _unionpay_digest(facts: dict[str, str]) -> bytes:
    text = "&".join(f"{name}={facts[name]}" for name in sorted(facts) if facts[name])
    return hashlib.sha256(text.encode()).hexdigest().encode()


def _china(at_s: int, form: str) -> str:
    return datetime.fromtimestamp(at_s, CHINA).strftime(form)


def _json(facts: dict[str, Any], *, status: int = 200) -> Reply:
    return Reply(
        status=status,
        headers=(("Content-Type", "application/json; charset=utf-8"),),
        body=json.dumps(facts, ensure_ascii=False).encode(),
    )
