"""When rules were evaluated last, as a row that all processes see.

Must never let two processes take over the same evaluation.
"""

from datetime import datetime, timedelta

from sqlalchemy import Engine, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from worker.tables_schedules import sweep

# Its row among the sweeps.
NAME = "alert-evaluation"
# Three evaluations that did not come.
SILENT_S = 150.0


def note_round(engine: Engine, *, now: datetime) -> None:
    """Write down that rules are evaluated now."""
    dialect = postgresql if engine.dialect.name == "postgresql" else sqlite
    with engine.begin() as tx:
        tx.execute(
            dialect.insert(sweep)
            .values(name=NAME, beat_at=now)
            .on_conflict_do_update(index_elements=["name"], set_={"beat_at": now})
        )


def take_round(engine: Engine, *, now: datetime, silent_s: float = SILENT_S) -> bool:
    """Take over an evaluation that did not come; True for one caller only.

    A database where rules were never evaluated waits for the first one from now on.
    """
    dialect = postgresql if engine.dialect.name == "postgresql" else sqlite
    with engine.begin() as tx:
        tx.execute(dialect.insert(sweep).values(name=NAME, beat_at=now).on_conflict_do_nothing())
        before = now - timedelta(seconds=silent_s)
        taken = tx.execute(
            update(sweep)
            .where(sweep.c.name == NAME, or_(sweep.c.beat_at.is_(None), sweep.c.beat_at < before))
            .values(beat_at=now)
        )
        return taken.rowcount == 1


def last_round(engine: Engine) -> datetime | None:
    """Say when rules were evaluated last; None is never."""
    with engine.connect() as connection:
        return connection.scalar(select(sweep.c.beat_at).where(sweep.c.name == NAME))
