"""``python3 -m tests.bench.sweeps``: what a batch of each sweep costs among five million rows.

The same sweeps run on a small database and on one a hundred times as large. No transaction of a
batch may take longer than 200 ms, none may read a big table whole, and a batch must touch no more
pages in the large one. Times of whole batches are without waiting for a processor: what else runs
on the machine is not counted.
"""

if __name__ == "__main__":  # before the first import that needs a package
    from worker import bootstrap

    bootstrap.ensure(groups=("test",))

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from tests import crowd, plans, stepping
from tests.bench.children import BenchError
from tests.bench.measure import progress
from tests.programs import install_missing
from tests.services import PostgresServer
from worker import clock, database, schema

LIMIT_MS = 200.0
# One level more in each index.
_PAGES_MORE = 1.5
_ROWS_SMALL = 5000
_EXPLAINED = 2


@dataclass(slots=True)
class Cost:
    """What the batches of one part took.

    Attributes:
        rows: it did something to, over all batches.
        pages: touched, and rows meanwhile, in the batches that were explained.
    """

    times_ms: list[float] = field(default_factory=list)
    longest_ms: list[float] = field(default_factory=list)
    rows: int = 0
    pages: int = 0
    explained: int = 0

    def explain(self, taken: stepping.Taken, ran: Sequence[plans.Plan]) -> None:
        """Add a batch that was explained."""
        self.pages += sum(plan.pages for plan in ran)
        self.explained += sum(taken.step.counts.values())

    @property
    def pages_per_row(self) -> float:
        """Pages touched for each row done; for each batch where nothing is counted."""
        return self.pages / max(1, self.explained)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 0 when everything holds."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.bench.sweeps", description=__doc__)
    parser.add_argument("--finished", type=int, default=5_000_000, help="rows that are over")
    parser.add_argument("--small", type=int, default=50_000, help="in the database to compare with")
    parser.add_argument("--due", type=int, default=50_000, help="rows that are not, in both")
    parser.add_argument("--each", type=int, default=100, help="batches of every part")
    chosen = parser.parse_args(arguments)
    install_missing()
    with PostgresServer(shared_buffers="512MB") as server:
        few = _fill(server, chosen.small, chosen.due)
        many = _fill(server, chosen.finished, chosen.due)
        small, large = (_measure(dsn, chosen.each) for dsn in (few, many))
    wrong = _show(small, large)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


def _fill(server: PostgresServer, finished: int, due: int) -> str:
    """Make a database and fill it; returns its address."""
    dsn = server.dsn(server.create_database())
    engine = database.connect(dsn)
    schema.migrate(engine)
    began_s = clock.monotonic_s()
    crowd.fill(engine, finished=finished, due=due)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # Gigabytes written in one go, which no batch that is measured should wait for.
        connection.execute(text("CHECKPOINT"))
    engine.dispose()
    progress(f"{finished:,} rows that are over: filled in {clock.monotonic_s() - began_s:.0f} s")
    return dsn


def _measure(dsn: str, each: int) -> dict[str, Cost]:
    engine = database.connect(dsn)
    costs: dict[str, Cost] = defaultdict(Cost)
    # Explaining costs time, so it is done to other batches than those that are timed.
    with plans.watched(dsn) as (eyed, seen):
        for taken in stepping.steps(eyed, each=_EXPLAINED):
            ran = seen.take()
            costs[taken.label].explain(taken, ran)
            whole = {table for plan in ran for table in plan.read_whole}
            if big := {table for table in whole if crowd.rows(engine, table) > _ROWS_SMALL}:
                raise BenchError(f"{taken.label} reads {', '.join(sorted(big))} whole")
    for taken in stepping.steps(engine, each=each):
        worked_ms = taken.elapsed_ms - taken.waited_ms
        costs[taken.label].times_ms.append(worked_ms)
        # Of what goes past SQLAlchemy's transactions only the whole is known.
        costs[taken.label].longest_ms.append(min(taken.longest_ms or worked_ms, worked_ms))
        costs[taken.label].rows += sum(taken.step.counts.values())
    engine.dispose()
    return costs


def _show(small: dict[str, Cost], large: dict[str, Cost]) -> list[str]:
    table = Table(title="Batches of the sweeps: small database against large")
    for column in (
        *("sweep", "batches", "rows", "p50 ms", "max ms", "transaction"),
        *("pages a row", "max ms", "among few"),
    ):
        side: Literal["left", "right"] = "left" if column == "sweep" else "right"
        table.add_column(column, justify=side, no_wrap=True)
    wrong = []
    for label, cost in large.items():
        before = small[label]
        times = sorted(cost.times_ms)
        table.add_row(
            label,
            str(len(times)),
            f"{cost.rows:,}",
            f"{times[len(times) // 2]:.1f}",
            f"{times[-1]:.1f}",
            f"{max(cost.longest_ms):.1f}",
            f"{cost.pages_per_row:.1f}",
            f"{max(before.times_ms):.1f}",
            f"{before.pages_per_row:.1f}",
        )
        longest = max(cost.longest_ms)
        if longest > LIMIT_MS:
            wrong.append(f"{label}: a transaction took {longest:.0f} ms, more than {LIMIT_MS:.0f}")
        if cost.pages_per_row > before.pages_per_row * _PAGES_MORE + 1:
            wrong.append(f"{label}: {cost.pages_per_row:.1f} pages a row, not as among few")
    Console(width=120).print(table)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
