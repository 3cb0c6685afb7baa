"""What every simulated channel is made of: requests, replies, orders, keys.

Must never import an adapter: what both got wrong would look right.
"""

import base64
import json
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

CHINA = timezone(timedelta(hours=8))
STRIPE_KEY = "sk_test_simulated0123456789"
EPAY_KEY = "WSJ6XXnFb3OkFPyM0dGYxQ8CSRy1S3g5"
GENERIC_KEY = "generic-0123456789"
WECHAT_SERIAL, PLATFORM_SERIAL = "3775B6A45ACD588826D15E583A95F5DD", "PUB_KEY_ID_0114232134912410"
# One merchant, one platform: the channels' own are told apart by what is signed, not by whom.
_PAIRS = ("merchant", "platform", "stranger")


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


def china(at_s: int, form: str) -> str:
    return datetime.fromtimestamp(at_s, CHINA).strftime(form)


def as_json(facts: dict[str, Any], *, status: int = 200) -> Reply:
    return Reply(
        status=status,
        headers=(("Content-Type", "application/json; charset=utf-8"),),
        body=json.dumps(facts, ensure_ascii=False).encode(),
    )
