"""Steps of every sweep, one by one, on a database that is full: what each did and what it took.

The channel that orders are asked about answers at once: what is measured is our own work.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from schedules.channels.contract import Channel, Route
from schedules.compensation import Compensation
from schedules.order_notifications import OrderNotifications
from schedules.orders import Orders
from schedules.ports import ChannelState, Finding, Order, Refund, RefundFinding, RefundState
from schedules.redrive import Redrive, pace
from schedules.retention import Ages, Retention
from schedules.status_reconciliation import StatusReconciliation
from schedules.sweep import Step, Sweep
from tests.crowd import CHANNELS
from tests.seeding import store_on
from worker import clock, inbox
from worker.breaker import Policy
from worker.client import Notifier
from worker.inbox import Accepted
from worker.models import Pool
from worker.settings import alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One step that was taken.

    Attributes:
        label: sweep and its part: ``retention ticks``.
        waited_ms: of that, how long it was ready to run and had no processor, as far as Linux
            tells: a busy machine is not the sweep's fault.
        longest_ms: its longest transaction; so long at most somebody else waited for its locks.
    """

    label: str
    step: Step
    elapsed_ms: float
    waited_ms: float
    longest_ms: float


class _Silent:
    """A bell nobody hears."""

    def ring(self, pool: Pool = Pool.FAST) -> bool:
        return False


class _Prompt:
    """A route over which every order was paid in full."""

    def query(self, order: Order) -> Finding:
        return Finding(
            state=ChannelState.PAID,
            amount_minor=order.amount_minor,
            currency=order.currency,
            channel_txn_no=f"txn-{order.order_no}",
        )

    def close(self, order: Order) -> Finding:
        return self.query(order)

    def query_refund(self, order: Order, refund: Refund) -> RefundFinding:
        return RefundFinding(
            state=RefundState.SUCCESS, amount_minor=refund.amount_minor, currency=order.currency
        )


def _channel(name: str) -> Channel:
    return Channel(
        name=name,
        currency="CNY",
        routes=(Route(name="only", port=_Prompt()),),
        rate_per_s=10_000,
        timeout_s=1,
        breaker=Policy(),
    )


def compensation_of(engine: Engine, *, rows: int = 2000) -> Compensation:
    """The compensation with a bell that nobody hears."""

    def take_in(limit: int) -> Accepted:
        return inbox.accept(engine, Notifier(None), limit=limit)

    return Compensation(
        store=store_on(engine),
        take_in=take_in,
        bell=_Silent(),
        rows=rows,
        orders=OrderNotifications(engine, Orders(), Notifier(None)),
    )


def sweeps(engine: Engine) -> list[tuple[Sweep, list[str]]]:
    """Every sweep with the cursors its parts begin at."""
    store, chosen = store_on(engine), alone()
    retention = Retention(engine, Ages.of(chosen), now=store.now)
    reconciliation = StatusReconciliation(
        engine, Orders(), {name: _channel(name) for name in CHANNELS}, Notifier(None)
    )
    return [
        (compensation_of(engine), [*Compensation.STAGES]),
        (reconciliation, ["orders:", "refunds:", "ask:"]),
        (Redrive(engine, store, pace(chosen)), [""]),
        (retention, [f"{name}:" for name in retention.parts]),
    ]


def steps(engine: Engine, *, each: int) -> Iterator[Taken]:
    """Take at most ``each`` steps of every part of every sweep."""
    server: list[int] = []

    @event.listens_for(engine, "connect")
    def _listen(raw: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        assert isinstance(raw, psycopg.Connection)
        server.append(raw.info.backend_pid)

    longest = _Longest(engine)
    # Those opened before would not be known.
    engine.dispose()
    for sweep, parts in sweeps(engine):
        for begin in parts:
            part = begin.partition(":")[0]
            cursor = begin
            for _ in range(each):
                began_s, waited_ms = clock.monotonic_s(), _waited_ms(server)
                step = sweep.step(cursor)
                elapsed_ms = (clock.monotonic_s() - began_s) * 1000
                yield Taken(
                    label=f"{sweep.name} {part}".strip(),
                    step=step,
                    elapsed_ms=elapsed_ms,
                    waited_ms=min(elapsed_ms, max(0.0, _waited_ms(server) - waited_ms)),
                    longest_ms=longest.take(),
                )
                cursor = step.cursor
                if not cursor or (part and cursor.partition(":")[0] != part):
                    break


class _Longest:
    """The longest transaction of an engine since it was last asked."""

    def __init__(self, engine: Engine) -> None:
        self._began_s: dict[Connection, float] = {}
        self._longest_s = 0.0
        event.listen(engine, "begin", self._begin)
        for end in ("commit", "rollback"):
            event.listen(engine, end, self._end)

    def take(self) -> float:
        """Return it in ms, and begin anew."""
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s * 1000

    def _begin(self, connection: Connection) -> None:
        self._began_s[connection] = clock.monotonic_s()

    def _end(self, connection: Connection) -> None:
        lasted_s = clock.monotonic_s() - self._began_s.pop(connection)
        self._longest_s = max(self._longest_s, lasted_s)


def _waited_ms(server: list[int]) -> float:
    """Say how long this process and its servers' have waited for a processor in all."""
    waited_ns = 0
    for pid in ("self", *server):
        with suppress(OSError, IndexError, ValueError):
            waited_ns += int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    return waited_ns / 1e6
