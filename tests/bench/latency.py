"""How long a callback takes from the host's commit to the merchant, at low load."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import psycopg
from sqlalchemy import Engine

from tests.bench import system
from tests.bench.children import BenchError, Talker
from tests.bench.measure import progress
from worker import clock
from worker.client import Notifier

_NAME = "latency-merchant"
# Opens the connections and fills the caches; not counted.
_WARM_UP = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds from just before ``commit()`` is called to the first byte at the merchant."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    callbacks: int


def measure(
    engine: Engine,
    connection: psycopg.Connection,
    notifier: Notifier,
    *,
    per_s: float,
    seconds: float,
    folder: Path,
) -> Latency:
    """Enqueue one at a time at an even pace, and compare clocks with the merchant.

    Both clocks are this machine's. The workers are running already.

    Args:
        engine: the host's.
        connection: to the same database, in autocommit.
        notifier: the host's client.
        per_s: callbacks per second.
        seconds: how long.
        folder: for the merchant's log.

    Raises:
        BenchError: a callback did not arrive.
    """
    committed: dict[int, int] = {}
    with Talker(["tests.bench.ledger"], log=folder / "ledger.log") as merchant:
        port = int(merchant.hear(timeout_s=20))
        system.register(engine, f"http://127.0.0.1:{port}", port, [_NAME])
        total = _WARM_UP + round(per_s * seconds)
        begun = clock.monotonic_s()
        for number in range(total):
            clock.sleep(max(0.0, begun + number / per_s - clock.monotonic_s()))
            notification, at = _enqueue(engine, notifier, number)
            if number >= _WARM_UP:
                committed[notification] = at
        system.await_empty(connection, [merchant], clock.monotonic_s() + 30)
        merchant.say("report")
        arrived = json.loads(merchant.hear(timeout_s=10))
    names = _message_ids(connection, list(committed))
    missing = [id_ for id_ in committed if names[id_] not in arrived]
    if missing:
        raise BenchError(f"latency: {len(missing)} of {len(committed)} callbacks never arrived")
    waits = sorted((arrived[names[id_]] - at) / 1e6 for id_, at in committed.items())
    cuts = statistics.quantiles(waits, n=100, method="inclusive")
    progress(f"latency: p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms of {len(waits)}")
    return Latency(p50_ms=cuts[49], p99_ms=cuts[98], max_ms=waits[-1], callbacks=len(waits))


def _enqueue(engine: Engine, notifier: Notifier, number: int) -> tuple[int, int]:
    """Write one notification; returns its id and when the commit began, ns since 1970."""
    [event] = system.events([_NAME], 1, f"latency-{number}")
    with engine.connect() as tx:
        [[notification]] = notifier.enqueue_many(tx, [event])
        at = clock.to_us(clock.now()) * 1000
        tx.commit()
    return notification, at


def _message_ids(connection: psycopg.Connection, ids: list[int]) -> dict[int, str]:
    query = "SELECT id, message_id FROM paynotify_notification WHERE id = ANY(%s)"
    return dict(connection.execute(query, (ids,)).fetchall())
