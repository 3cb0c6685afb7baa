"""The naive contender: one Celery task per callback on a prefork pool."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg
import redis
from sqlalchemy import Engine, delete, insert

from tests.bench import naive_app, workload
from tests.bench.children import BenchError, Talker
from tests.bench.measure import Meter, Run
from worker import clock

# Children of the pool. On two cores 4 did best of 2, 4, 8 and 16.
CONCURRENCY = 4
# The first tenth pays for starting up and opening connections; it is not counted.
WARM_UP = 0.1
LIMIT_S = 180

_FINISHED = "SELECT count(*) FROM naive_callback WHERE state = 'delivered'"
_STAMPS = (
    "SELECT extract(epoch FROM finished_at)::float8 FROM naive_callback"
    " WHERE state = 'delivered' ORDER BY finished_at"
)


class Naive:
    """What one writes in an afternoon, run as its documentation says.

    Args:
        engine: of a PostgreSQL database of its own.
        broker_url: URL of a Redis database of its own.
        base: address of the receiver.
        folder: for the worker's log.
        servers: process ids of what serves it, by name.
    """

    def __init__(
        self,
        engine: Engine,
        broker_url: str,
        *,
        base: str,
        folder: Path,
        servers: Mapping[str, Sequence[int]],
    ) -> None:
        self._engine = engine
        self._broker_url = broker_url
        self._base = base
        self._folder = folder
        self._servers = servers
        self._raw = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        naive_app.Base.metadata.create_all(engine)

    def run(self, count: int) -> Run:
        """Publish ``count`` tasks, start the worker, and time how it works them off.

        Everything is published beforehand, which spares it work that a live system does
        meanwhile; the window runs from the first tenth's last finish to the last one's.

        Raises:
            BenchError: it failed, or did not finish within three minutes.
        """
        self._fill(count)
        self._publish(count)
        deadline = clock.monotonic_s() + LIMIT_S
        first = int(count * WARM_UP)
        with psycopg.connect(self._raw, autocommit=True) as connection, self._worker() as worker:
            begun = self._await(connection, worker, first, deadline)
            meter = Meter({"workers": [worker.pid], **self._servers})
            self._await(connection, worker, count, deadline)
            metered = meter.run(count - begun, 1)
            stamps = [float(row[0]) for row in connection.execute(_STAMPS)]
        return Run(
            callbacks=count - first,
            elapsed_s=stamps[-1] - stamps[first - 1],
            cpu_us=metered.cpu_us,
            busy=metered.busy,
        )

    def _worker(self) -> Talker:
        return Talker(
            [
                *("celery", "-A", "tests.bench.naive_app", "-b", self._broker_url),
                *("worker", "-P", "prefork", "-c", str(CONCURRENCY), "-l", "WARNING"),
            ],
            log=self._folder / "naive.log",
            env={"BENCH_DSN": self._engine.url.render_as_string(hide_password=False)},
        )

    def _fill(self, count: int) -> None:
        rows = [
            {
                "id": number,
                "url": workload.url(self._base, 1 + number % workload.ENDPOINTS),
                "payload": workload.payload(number).decode(),
            }
            for number in range(1, count + 1)
        ]
        with self._engine.begin() as connection:
            connection.execute(delete(naive_app.Callback))
            connection.execute(insert(naive_app.Callback), rows)

    def _publish(self, count: int) -> None:
        with redis.Redis.from_url(self._broker_url) as client:
            client.flushdb()
        with (
            naive_app.app.connection_for_write(self._broker_url) as connection,
            naive_app.app.amqp.Producer(connection) as producer,
        ):
            for number in range(1, count + 1):
                naive_app.deliver.apply_async((number,), producer=producer)

    def _await(
        self, connection: psycopg.Connection, worker: Talker, count: int, deadline: float
    ) -> int:
        """Wait until ``count`` are delivered; returns how many are."""
        while (done := _finished(connection)) < count:
            worker.alive()
            if clock.monotonic_s() > deadline:
                raise BenchError(f"naive: {done} of {count} delivered when its time was up")
            clock.sleep(0.1)
        return done


def _finished(connection: psycopg.Connection) -> int:
    row = connection.execute(_FINISHED).fetchone()
    return int(row[0]) if row else 0
