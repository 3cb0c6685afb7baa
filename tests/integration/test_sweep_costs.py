"""A batch of a sweep costs the same in a small crowd and in one ten times as large.

What is counted is pages touched by the plans that really ran; the full size, with times, is
``python3 -m tests.bench.sweeps``.
"""

from collections import Counter

from tests import crowd, plans, stepping
from tests.services import PostgresServer

# May be read whole: as many rows as there are endpoints, holds or silences.
_SMALL = {f"paynotify_{name}" for name in ("lane", "endpoint", "legal_hold", "silence", "revival")}
_EACH = 6


def _costs(postgres: PostgresServer, template: str, *, finished: int) -> dict[str, float]:
    """Pages a step touches for each row it does something to, by sweep and part."""
    name = postgres.create_database(template)
    pages: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    did: Counter[str] = Counter()
    with plans.watched(postgres.dsn(name)) as (engine, seen):
        crowd.fill(engine, finished=finished, due=2000)
        seen.take()
        for step in stepping.steps(engine, each=_EACH):
            ran = seen.take()
            read_whole = {table for plan in ran for table in plan.read_whole}
            assert not {table for table in read_whole if table.startswith("paynotify_")} - _SMALL
            pages[step.label] += sum(plan.pages for plan in ran)
            rows[step.label] += sum(step.step.counts.values())
            did.update(step.step.counts)
    postgres.forget_database(name)
    # It was work that was measured.
    assert did.keys() >= {
        *("released", "staged", "accepted", "revived"),
        *("notifications", "lines", "ticks", "rollups", "evidence", "cases", "checks"),
    }
    return {label: count / max(1, rows[label]) for label, count in pages.items()}


def test_no_batch_reads_a_big_table_whole_nor_costs_more_in_a_larger_crowd(
    postgres: PostgresServer, migrated_template: str
) -> None:
    small = _costs(postgres, migrated_template, finished=6_000)
    large = _costs(postgres, migrated_template, finished=60_000)
    for label, cost in large.items():
        # One level more in some indexes.
        assert cost <= 1.4 * small[label] + 1, label
