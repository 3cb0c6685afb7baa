"""The payment channels in a process of their own: six kinds, honest until told to lie.

Orders are set by a control call; every question is kept, and :meth:`ChannelSim.asked` is what
tests believe. Must never import an adapter: see ``channel_speech.py``.

    python -m tests.channel_sim --folder FOLDER [--port 0] [--tls MODE]
"""

import argparse
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self, cast

from tests import channel_speech as speech
from tests.channel_dialects import DIALECTS
from tests.channel_server import serve

_ROOT = Path(__file__).resolve().parent.parent
CHANNELS = tuple(DIALECTS)
Kind = Literal[
    "amount",  # says one minor unit more
    "currency",  # says another currency
    "state",  # says unpaid for paid and paid for the rest
    "other_order",  # answers about another order, rightly signed
    "bad_signature",  # signs with somebody else's key
    "stale",  # WeChat: signed an hour ago
    "garbage",  # no JSON, no form
    "huge",  # 8 MiB of a body
    "gzip",  # compressed, which nobody asked for
    "redirect",  # 302 to the right answer
    "500",  # server error
    "late",  # the right answer after delay_s
    "stall",  # nothing at all
    "drip",  # one byte in 0.2 s
    "reset",  # hangs up instead of answering
    "paid_on_close",  # the payer is faster than the close
]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question as the simulator got it.

    Attributes:
        accepted: signature or key were right.
        at_s: wall clock, seconds since 1970.
    """

    channel: str
    route: str
    what: str
    order_no: str
    refund_no: str
    accepted: bool
    kind: str
    at_s: float


class ChannelSim:
    """Runs the simulator as a child process for the length of a ``with`` block.

    Channels in its configuration are called as their adapters: ``alipay``, ``wechat_v3``,
    ``unionpay``, ``stripe``, ``epay``, ``generic_json``. Orders of one channel are the same on
    all its routes.

    Args:
        folder: for keys and the configuration; a second simulator may share it.
        tls: a mode of :mod:`tests.certificates`; None is plain HTTP.
    """

    def __init__(self, folder: Path, *, tls: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = 0
        self._tls = tls
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it listens; after ``stop`` on its old port, without orders."""
        command = [sys.executable, "-m", "tests.channel_sim", "--folder", str(self.folder)]
        command += ["--port", str(self.port), *(["--tls", self._tls] if self._tls else [])]
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=_ROOT, text=True)
        line = cast("IO[str]", self._child.stdout).readline()
        if not line:
            raise RuntimeError(f"the simulator did not start: {' '.join(command)}")
        self.port, self._control_port = map(int, line.split())

    def stop(self) -> None:
        """End it."""
        if self._child is None:
            return
        self._child.terminate()
        self._child.wait(10)
        cast("IO[str]", self._child.stdout).close()
        self._child = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._child is not None
        return self._child.pid

    def url(self, channel: str, route: str = "main", *, host: str = "127.0.0.1") -> str:
        """Return the address of a channel over one route, as its adapter takes it."""
        scheme = "https" if self._tls else "http"
        tail = {
            "alipay": "/gateway.do",
            "unionpay": "/gateway/api/queryTrans.do",
            "generic_json": "/orders/{order_no}",
        }
        return f"{scheme}://{host}:{self.port}/{route}/{channel}{tail.get(channel, '')}"

    def config(
        self,
        *,
        channels: Sequence[str] = CHANNELS,
        routes: Sequence[str] = ("main",),
        file: str = "channels.toml",
        **settings: object,
    ) -> Path:
        """Write a ``channels.toml`` with which the adapters reach the simulator.

        Args:
            channels: which ones.
            routes: names; each is a URL of its own that can misbehave alone.
            file: name inside the folder.
            settings: go into each channel: ``timeout_s=0.5``, ``rate_per_s=1000``,
                ``breaker_failures=3``; the default ``timeout_s`` is 1.
        """
        path = self.folder / file
        texts = [
            self._table(channel, routes, {"timeout_s": 1.0} | settings) for channel in channels
        ]
        path.write_text("\n".join(texts), encoding="utf-8")
        return path

    def set_order(
        self,
        channel: str,
        order_no: str,
        state: str,
        amount_minor: int,
        currency: str = "CNY",
        *,
        txn_no: str = "",
        paid_at: datetime | None = None,
        refunded_minor: int = 0,
    ) -> None:
        """Put an order in place of what was there.

        Args:
            channel: which one.
            order_no: ours.
            state: ``unpaid paid finished partial_refund refunded closed failed not_found``.
            amount_minor: in units of ``currency``.
            currency: ISO 4217.
            txn_no: the channel's own number; empty makes one (``pi_…`` for stripe).
            paid_at: aware; None is now.
            refunded_minor: of ``partial_refund``.
        """
        self.set_orders(
            [
                {
                    "channel": channel,
                    "order_no": order_no,
                    "state": state,
                    "amount_minor": amount_minor,
                    "currency": currency,
                    "txn_no": txn_no,
                    "paid_at_s": int(paid_at.timestamp()) if paid_at else 0,
                    "refunded_minor": refunded_minor,
                }
            ]
        )

    def set_orders(self, orders: Iterable[dict[str, Any]]) -> None:
        """Put many at once: dicts of :meth:`set_order`'s arguments, ``paid_at_s`` for the time."""
        self._control("orders", list(orders))

    def set_refund(
        self, channel: str, order_no: str, refund_no: str, state: str, amount_minor: int
    ) -> None:
        """Give an order that is there a refund: ``processing success failed abnormal``."""
        self._control(
            "refund",
            {
                "channel": channel,
                "order_no": order_no,
                "refund_no": refund_no,
                "refund_state": state,
                "refund_minor": amount_minor,
            },
        )

    def misbehave(
        self,
        kind: Kind,
        order_no: str | None = None,
        *,
        channel: str | None = None,
        route: str | None = None,
        delay_s: float = 0.3,
    ) -> None:
        """Misbehave from now on; None is every order, channel, route. The newest rule wins."""
        rule = {
            "kind": kind,
            "order_no": order_no,
            "channel": channel,
            "route": route,
            "delay_s": delay_s,
        }
        self._control("misbehave", rule)

    def behave(self) -> None:
        """Be honest again, everywhere."""
        self._control("behave", {})

    def forget(self) -> None:
        """Forget orders, rules and questions."""
        self._control("forget", {})

    def state(self, channel: str, order_no: str) -> str:
        """Return the state an order has there now; ``not_found`` when there is none."""
        return str(self._control("state", {"channel": channel, "order_no": order_no}))

    def asked(self) -> list[Asked]:
        """Return every question so far, oldest first."""
        return [Asked(**one) for one in self._control("asked", {})]

    def _control(self, name: str, body: object) -> Any:
        # A port of its own: control works however the channels misbehave, and without TLS.
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._control_port}/{name}", json.dumps(body).encode()
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)

    def _table(self, channel: str, routes: Sequence[str], settings: dict[str, object]) -> str:
        own = _FIELDS[channel]
        lines = [f"[channels.{channel}]", f'adapter = "{channel}"', 'currency = "CNY"', own]
        lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        http = "false" if self._tls else "true"
        lines.append(
            f'allowed = {{ http = {http}, ports = [{self.port}], networks = ["127.0.0.0/8"] }}'
        )
        if self._tls:
            lines.append('ca_file = "ca.pem"')
        host = "localhost" if self._tls else "127.0.0.1"
        for route in routes:
            lines += [f"[[channels.{channel}.routes]]", f'name = "{route}"']
            lines.append(f'url = "{self.url(channel, route, host=host)}"')
            if channel == "generic_json":
                refunds = self.url("generic_json", route, host=host).replace(
                    "/orders/{order_no}", "/refunds/{refund_no}"
                )
                lines.append(f'refund_url = "{refunds}"')
        return "\n".join(lines) + "\n"


_FIELDS = {
    "alipay": """app_id = "2014072300007148"
private_key_file = "merchant.pem"
public_key_file = "platform.pub\"""",
    "wechat_v3": f"""mchid = "1900000001"
serial_no = "{speech.WECHAT_SERIAL}"
private_key_file = "merchant.pem"
platform_serial = "{speech.PLATFORM_SERIAL}"
public_key_file = "platform.pub\"""",
    "unionpay": """mer_id = "777290058110048"
cert_id = "68759663125"
private_key_file = "merchant.pem"
public_key_file = "platform.pub\"""",
    "stripe": 'key_file = "stripe.key"',
    "epay": 'pid = "1001"\nkey_file = "epay.key"',
    "generic_json": """key_file = "generic.key"
headers = { "X-Api-Key" = "{key}" }
order_path = "data.order"
state_path = "data.state"
amount_path = "data.amount"
amount_unit = "major"
currency_path = "data.currency"
txn_path = "data.txn"
paid_at_path = "data.paid_at"
not_found_statuses = [404]
refund_path = "refund.no"
refund_state_path = "refund.state"
refund_amount_path = "refund.amount"
states.PAID = "paid"
states.FINISHED = "finished"
states.PARTIAL_REFUND = "partial_refund"
states.REFUNDED = "refunded"
states.UNPAID = "unpaid"
states.CLOSED = "closed"
states.FAILED = "failed"
refund_states.processing = "processing"
refund_states.success = "success"
refund_states.failed = "failed"
refund_states.abnormal = "abnormal\"""",
}


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls")
    given = parser.parse_args()
    for name, key in (
        ("stripe", speech.STRIPE_KEY),
        ("epay", speech.EPAY_KEY),
        ("generic", speech.GENERIC_KEY),
    ):
        (given.folder / f"{name}.key").write_text(key)
    serve(given.folder, given.port, given.tls)


if __name__ == "__main__":
    _main()
