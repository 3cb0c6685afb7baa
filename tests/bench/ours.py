"""Our contender: real workers, through Celery and Redis, fed by the client hosts use."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count as count_up
from pathlib import Path

import psycopg
from sqlalchemy import Engine

from tests.bench import system, workload
from tests.bench.children import BenchError, Talker
from tests.bench.measure import Meter, Run
from tests.bench.receivers import Nginx
from worker import clock
from worker.client import Notifier

LIMIT_S = 120

_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
_LAST = "SELECT extract(epoch FROM max(finished_at))::float8 FROM paynotify_delivery"
# Everything but our own looking; BEGIN and COMMIT count as calls of their own.
_CALLS = (
    "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements"
    " WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND query NOT LIKE '%bench_look%' AND query NOT LIKE '%pg_stat_statements%'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """One run of ours.

    Attributes:
        enqueue_rate: notifications per second written by one process with ``enqueue_many``.
        round_trips: statements sent to PostgreSQL per delivered callback, from the commit to
            the last settle.
        doubles: requests the receiver had beyond one each.
    """

    run: Run
    enqueue_rate: float
    round_trips: float
    doubles: int


class Ours:
    """Two running workers and what it takes to send waves through them; see :func:`ours`.

    Attributes:
        engine: a host's.
        connection: to the same database, in autocommit.
        notifier: a host's client, with a doorbell.
        names: the registered endpoints.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        connection: psycopg.Connection,
        notifier: Notifier,
        names: Sequence[str],
        workers: Sequence[Talker],
        receiver: Nginx,
        servers: Mapping[str, Sequence[int]],
    ) -> None:
        self.engine = engine
        self.connection = connection
        self.notifier = notifier
        self.names = names
        self._workers = workers
        self._receiver = receiver
        self._trees = {"workers": [worker.pid for worker in workers], **servers}
        self._waves = count_up(1)

    def run(self, count: int, *, endpoints: int | None = None) -> Wave:
        """Enqueue ``count`` callbacks in one transaction; its commit is the starting gun.

        Args:
            count: callbacks.
            endpoints: how many share them; None is all.

        Raises:
            BenchError: not finished within two minutes, or not all delivered.
        """
        workload.clear(self.connection)
        received = self._receiver.received()
        names = self.names[:endpoints]
        events = list(system.events(names, count, f"wave-{next(self._waves)}"))
        begun_s = clock.monotonic_s()
        with self.engine.connect() as tx:
            self.notifier.enqueue_many(tx, events)
            enqueued_s = clock.monotonic_s() - begun_s
            self.connection.execute("CHECKPOINT")
            self.connection.execute("SELECT pg_stat_statements_reset()")
            meter = Meter(self._trees)
            started_s = system.number(self.connection, _NOW)
            tx.commit()
        system.await_empty(self.connection, self._workers, clock.monotonic_s() + LIMIT_S)
        run = meter.run(count, system.number(self.connection, _LAST) - started_s)
        calls = system.number(self.connection, _CALLS)
        found = workload.delivered(self.connection)
        doubles = self._receiver.received() - received - count
        if found != count or doubles < 0:
            states = system.states(self.connection)
            raise BenchError(
                f"ours: {count} enqueued, {found} delivered, {doubles} beyond one request each "
                f"at the receiver, states {states}"
            )
        return Wave(
            run=run, enqueue_rate=count / enqueued_s, round_trips=calls / count, doubles=doubles
        )


@contextmanager
def ours(
    engine: Engine,
    broker_url: str,
    *,
    receiver: Nginx,
    endpoints: int,
    folder: Path,
    servers: Mapping[str, Sequence[int]],
) -> Iterator[Ours]:
    """Start the workers on a migrated, empty database and wait until both take part.

    Args:
        engine: of that database.
        broker_url: URL of an empty Redis database.
        receiver: where every endpoint's URL leads.
        endpoints: how many to register.
        folder: for the workers' logs.
        servers: process ids of what serves the workers, by name.
    """
    names = [f"merchant-{number}" for number in range(1, endpoints + 1)]
    system.register(engine, receiver.base, receiver.port, names)
    dsn = engine.url.render_as_string(hide_password=False)
    raw = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with (
        psycopg.connect(raw, autocommit=True) as connection,
        system.workers(dsn, broker_url, folder) as workers,
    ):
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        notifier = Notifier(broker_url)
        system.await_workers(engine, connection, notifier, workers, names)
        ready = Ours(
            engine=engine,
            connection=connection,
            notifier=notifier,
            names=names,
            workers=workers,
            receiver=receiver,
            servers=servers,
        )
        ready.run(5000)
        yield ready
