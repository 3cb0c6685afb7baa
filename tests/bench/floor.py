"""The floor: how fast this machine delivers when nothing but the bare work is done."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg

from tests.bench import workload
from tests.bench.children import BenchError, Talker
from tests.bench.measure import Meter, Run

PROCESSES = 2
LIMIT_S = 120


class Floor:
    """Two running loops and the tables they work on; see :func:`floor`."""

    def __init__(
        self,
        connection: psycopg.Connection,
        loops: Sequence[Talker],
        servers: Mapping[str, Sequence[int]],
    ) -> None:
        self._connection = connection
        self._loops = loops
        self._trees = {"loops": [loop.pid for loop in loops], **servers}

    def run(self, count: int) -> Run:
        """Deliver ``count`` callbacks that were due before the loops began.

        Raises:
            BenchError: a loop failed, or the tables do not show what the loops claim.
        """
        workload.clear(self._connection)
        workload.fill(self._connection, count)
        workload.settle_down(self._connection)
        meter = Meter(self._trees)
        for loop in self._loops:
            loop.say("go")
        answers = [json.loads(loop.hear(timeout_s=LIMIT_S)) for loop in self._loops]
        window = max(a["ended"] for a in answers) - min(a["started"] for a in answers)
        run = meter.run(count, window)
        sent = sum(answer["sent"] for answer in answers)
        found = workload.delivered(self._connection)
        if not sent == found == count:
            raise BenchError(f"floor: {count} due, {sent} sent, {found} delivered in the tables")
        return run


@contextmanager
def floor(
    dsn: str, *, base: str, endpoints: int, folder: Path, servers: Mapping[str, Sequence[int]]
) -> Iterator[Floor]:
    """Start the loops on a migrated, empty database and warm them up.

    Args:
        dsn: libpq URL.
        base: address of the receiver.
        endpoints: how many share the work.
        folder: for the loops' logs.
        servers: process ids of what serves the loops, by name.
    """
    with ExitStack() as stack:
        connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        workload.create_endpoints(connection, base, endpoints)
        loops = [
            stack.enter_context(
                Talker(["tests.bench.floor_loop", dsn], log=folder / f"floor-{number}.log")
            )
            for number in range(PROCESSES)
        ]
        for loop in loops:
            loop.hear(timeout_s=30)
        ready = Floor(connection, loops, servers)
        ready.run(5000)
        yield ready
