"""The real thing: our tables, endpoints and worker processes, as an operator would start them.

Must never reach past what hosts and operators use: what it measures is what they get.
"""

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import Engine

from tests.bench import workload
from tests.bench.children import BenchError, Talker
from worker import clock
from worker.client import Enqueue, Notifier
from worker.endpoints import Endpoints
from worker.models import Allowed
from worker.sealing import Sealer

PROCESSES = os.cpu_count() or 1
COMMAND = ("worker", "worker")
_MASTER_KEY = bytes(range(32))
_READY_S = 60


@contextmanager
def workers(dsn: str, broker_url: str, folder: Path) -> Iterator[list[Talker]]:
    """Start a worker command, one process per core as delivered; it is ended with the block.

    Args:
        dsn: SQLAlchemy URL.
        broker_url: Celery's.
        folder: for its log.
    """
    env = {
        "PAYNOTIFY_DATABASE_URL": dsn,
        "PAYNOTIFY_BROKER_URL": broker_url,
        "PAYNOTIFY_MASTER_KEY": base64.b64encode(_MASTER_KEY).decode(),
    }
    with ExitStack() as stack:
        yield [stack.enter_context(Talker(COMMAND, log=folder / "worker.log", env=env))]


def register(engine: Engine, base: str, port: int, names: Sequence[str]) -> None:
    """Register endpoints that expect the word ``success`` from a receiver on this machine."""
    endpoints = Endpoints(engine, Sealer(_MASTER_KEY))
    for number, name in enumerate(names, 1):
        endpoints.register(
            name=name,
            merchant=name,
            url=workload.url(base, number),
            ack="2xx exact:success",
            secret=workload.SECRET_TEXT,
            allowed=Allowed(http=True, ports=(port,), networks=("127.0.0.0/8",)),
            who="bench",
        )


def events(names: Sequence[str], count: int, wave: str) -> Iterator[Enqueue]:
    """Make ``count`` events, spread evenly over the endpoints."""
    for number in range(count):
        yield Enqueue(
            endpoint=names[number % len(names)],
            event_type="payment.succeeded",
            event_key=f"{wave}-{number}",
            order_no=f"20260101120000{number:012d}",
            payload=workload.payload(number),
        )


def await_workers(
    engine: Engine,
    connection: psycopg.Connection,
    notifier: Notifier,
    started: Sequence[Talker],
    names: Sequence[str],
) -> None:
    """Send small waves until every process has taken part.

    Raises:
        BenchError: that did not happen within a minute.
    """
    deadline = clock.monotonic_s() + _READY_S
    wave = 0
    while number(connection, "SELECT count(DISTINCT worker) FROM paynotify_attempt") < PROCESSES:
        wave += 1
        with engine.begin() as tx:
            notifier.enqueue_many(tx, events(names, 500, f"warm-{wave}"))
        await_empty(connection, started, deadline)


def await_empty(connection: psycopg.Connection, started: Sequence[Talker], deadline: float) -> None:
    """Wait until nothing is due or on the wire.

    Raises:
        BenchError: a worker ended, or ``deadline`` (monotonic seconds) passed first.
    """
    # The first unfinished row ends the search, so looking costs next to nothing.
    unfinished = (
        "SELECT count(*) AS bench_look FROM (SELECT 1 FROM paynotify_delivery"
        " WHERE state IN ('waiting', 'pending', 'sending') LIMIT 1) first"
    )
    while number(connection, unfinished):
        for worker in started:
            worker.alive()
        if clock.monotonic_s() > deadline:
            said = "".join(worker.last_words() for worker in started)
            raise BenchError(f"ours: not finished in time: {states(connection)}{said}")
        clock.sleep(0.05)


def states(connection: psycopg.Connection) -> Mapping[str, int]:
    """Count deliveries by state."""
    return dict(
        connection.execute("SELECT state, count(*) FROM paynotify_delivery GROUP BY 1").fetchall()
    )


def number(connection: psycopg.Connection, query: str) -> float:
    """Return the one number a query answers."""
    row = connection.execute(sql.SQL(query)).fetchone()
    return float(row[0]) if row and row[0] is not None else 0.0
