"""Sweeps in tests: whole rounds, and everything the tables hold to compare before and after."""

from collections import Counter
from typing import Any

from sqlalchemy import Engine, select

from schedules.sweep import Sweep
from worker.columns import metadata

_STEPS_MAX = 20_000


def whole_round(sweep: Sweep) -> Counter[str]:
    """Step from the beginning to the end of a round; returns what it did."""
    done: Counter[str] = Counter()
    cursor = ""
    for _ in range(_STEPS_MAX):
        step = sweep.step(cursor)
        done.update(step.counts)
        cursor = step.cursor
        if not cursor:
            return done
    raise AssertionError(f"{sweep.name} does not come to an end; it stands at {cursor}")


def contents(engine: Engine, *names: str) -> dict[str, list[tuple[Any, ...]]]:
    """Everything in some tables (without ``paynotify_``), in the order of their keys."""
    found = {}
    with engine.connect() as connection:
        for name in names:
            table = metadata.tables[f"paynotify_{name}"]
            rows = connection.execute(select(table).order_by(*table.primary_key.columns))
            found[name] = [tuple(row) for row in rows]
    return found


def wipe(engine: Engine) -> None:
    """Empty all tables, for the next example of a property."""
    with engine.begin() as tx:
        for table in reversed(metadata.sorted_tables):
            tx.execute(table.delete())
