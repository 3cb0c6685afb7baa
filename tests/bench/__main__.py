"""``python3 -m tests.bench``: floor, naive and ours against each other, then latency.

Starts everything it needs on free ports of this machine and ends it again, Ctrl-C included.
"""

if __name__ == "__main__":  # before the first import that needs a package
    from worker import bootstrap

    bootstrap.ensure(groups=("test",))

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from sqlalchemy import Engine

from tests.bench import latency, report, workload
from tests.bench.children import BenchError
from tests.bench.floor import Floor, floor
from tests.bench.measure import progress
from tests.bench.naive import Naive
from tests.bench.ours import Ours, ours
from tests.bench.receivers import Nginx
from tests.programs import MissingProgramError, install_missing
from tests.services import PostgresServer, RedisServer
from worker import database, schema

PARTS = ("floor", "naive", "ours", "latency")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The private servers of a run."""

    postgres: PostgresServer
    redis: RedisServer
    nginx: Nginx
    folder: Path

    def engine(self) -> Engine:
        """Open a new, empty database."""
        return database.connect(self.postgres.dsn(self.postgres.create_database()))

    def pids(self, *, broker: bool) -> Mapping[str, Sequence[int]]:
        """Return the servers' process ids by name."""
        pids = {"database": [self.postgres.pid], "receiver": [self.nginx.pid]}
        return {**pids, "broker": [self.redis.pid]} if broker else pids


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; returns the exit code."""
    chosen = _parse(arguments)
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _interrupt)
    try:
        install_missing()
        measured = _measure(chosen)
    except (BenchError, MissingProgramError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; everything it started has ended", file=sys.stderr)
        return 130
    measured.show()
    if chosen.json:
        measured.write(chosen.json)
    return 0


def _measure(chosen: argparse.Namespace) -> report.Report:
    with ExitStack() as stack:
        stage = Stage(
            # Room for the whole working set, as production has it.
            postgres=stack.enter_context(PostgresServer(shared_buffers="512MB")),
            redis=stack.enter_context(RedisServer()),
            nginx=stack.enter_context(Nginx()),
            folder=Path(stack.enter_context(TemporaryDirectory(prefix="paynotify-bench-"))),
        )
        with stage.postgres.connect() as connection:
            measured = report.Report(machine=report.machine(connection))
        bare = _floor(stack, stage, chosen) if "floor" in chosen.only else None
        plain = _naive(stage) if "naive" in chosen.only else None
        real = _ours(stack, stage, chosen) if {"ours", "latency"} & chosen.only else None
        for number in range(1, chosen.runs + 1):
            # One of each in turn: a neighbour on the machine then slows all of a round.
            _round(f"round {number} of {chosen.runs}", measured, chosen, bare, plain, real)
        if real and "ours" in chosen.only:
            for _ in range(chosen.runs):
                measured.one_endpoint.append(real.run(chosen.count // 2, endpoints=1))
                progress(f"one endpoint: {measured.one_endpoint[-1].run.line()}")
        if real and "latency" in chosen.only:
            progress("latency: 20 callbacks a second for 20 s")
            measured.latency = latency.measure(
                real.engine,
                real.connection,
                real.notifier,
                per_s=20,
                seconds=20,
                folder=stage.folder,
            )
    return measured


def _round(
    label: str,
    measured: report.Report,
    chosen: argparse.Namespace,
    bare: Floor | None,
    plain: Naive | None,
    real: Ours | None,
) -> None:
    if bare:
        measured.floor.append(bare.run(chosen.count))
        progress(f"{label}, floor: {measured.floor[-1].line()}")
    if real and "ours" in chosen.only:
        measured.ours.append(real.run(chosen.count))
        progress(f"{label}, ours: {measured.ours[-1].run.line()}")
    if plain:
        measured.naive.append(plain.run(chosen.naive_count))
        progress(f"{label}, naive: {measured.naive[-1].line()}")


def _floor(stack: ExitStack, stage: Stage, chosen: argparse.Namespace) -> Floor:
    engine = stage.engine()
    schema.migrate(engine)
    engine.dispose()
    url = engine.url.set(drivername="postgresql")
    return stack.enter_context(
        floor(
            url.render_as_string(hide_password=False),
            base=stage.nginx.base,
            endpoints=chosen.endpoints,
            folder=stage.folder,
            servers=stage.pids(broker=False),
        )
    )


def _naive(stage: Stage) -> Naive:
    return Naive(
        stage.engine(),
        stage.redis.url(1),
        base=stage.nginx.base,
        folder=stage.folder,
        servers=stage.pids(broker=True),
    )


def _ours(stack: ExitStack, stage: Stage, chosen: argparse.Namespace) -> Ours:
    engine = stage.engine()
    schema.migrate(engine)
    stack.callback(engine.dispose)
    progress("starting the workers")
    return stack.enter_context(
        ours(
            engine,
            stage.redis.url(0),
            receiver=stage.nginx,
            endpoints=chosen.endpoints,
            folder=stage.folder,
            servers=stage.pids(broker=True),
        )
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m tests.bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    parser.add_argument(
        "--count", type=int, default=30_000, help="callbacks per run of floor and ours (30000)"
    )
    parser.add_argument(
        "--naive-count", type=int, default=2000, help="callbacks per run of naive (2000)"
    )
    parser.add_argument("--runs", type=int, default=3, help="rounds; medians are printed (3)")
    parser.add_argument(
        "--endpoints", type=int, default=workload.ENDPOINTS, help="merchants that share the work"
    )
    parser.add_argument(
        "--only", type=_parts, default=frozenset(PARTS), help=f"some of {','.join(PARTS)}"
    )
    chosen = parser.parse_args(arguments)
    if min(chosen.count, chosen.naive_count) < 100 or min(chosen.runs, chosen.endpoints) < 1:
        parser.error("counts must be 100 or more, --runs and --endpoints 1 or more")
    return chosen


def _parts(text: str) -> frozenset[str]:
    parts = frozenset(text.split(","))
    if unknown := parts - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(PARTS)}")
    return parts


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
