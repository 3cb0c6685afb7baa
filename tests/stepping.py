"""Steps of every sweep, one by one, on a database that is full: what each did and what it took."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Engine

from schedules.compensation import Compensation
from schedules.redrive import Redrive, pace
from schedules.retention import Ages, Retention
from schedules.sweep import Step, Sweep
from tests.seeding import store_on
from worker import clock, inbox
from worker.client import Notifier
from worker.inbox import Accepted
from worker.models import Pool
from worker.settings import alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One step that was taken.

    Attributes:
        label: sweep and its part: ``retention ticks``.
    """

    label: str
    step: Step
    elapsed_ms: float


class _Silent:
    """A bell nobody hears."""

    def ring(self, pool: Pool = Pool.FAST) -> bool:
        return False


def compensation_of(engine: Engine, *, rows: int = 2000) -> Compensation:
    """The compensation with a bell that nobody hears."""

    def take_in(limit: int) -> Accepted:
        return inbox.accept(engine, Notifier(None), limit=limit)

    return Compensation(store=store_on(engine), take_in=take_in, bell=_Silent(), rows=rows)


def sweeps(engine: Engine) -> list[tuple[Sweep, list[str]]]:
    """Every sweep with the cursors its parts begin at."""
    store, chosen = store_on(engine), alone()
    retention = Retention(engine, Ages.of(chosen), now=store.now)
    return [
        (compensation_of(engine), [*Compensation.STAGES]),
        (Redrive(engine, store, pace(chosen)), [""]),
        (retention, [f"{name}:" for name in retention.parts]),
    ]


def steps(engine: Engine, *, each: int) -> Iterator[Taken]:
    """Take at most ``each`` steps of every part of every sweep."""
    for sweep, parts in sweeps(engine):
        for begin in parts:
            part = begin.partition(":")[0]
            cursor = begin
            for _ in range(each):
                began_s = clock.monotonic_s()
                step = sweep.step(cursor)
                elapsed_ms = (clock.monotonic_s() - began_s) * 1000
                yield Taken(label=f"{sweep.name} {part}".strip(), step=step, elapsed_ms=elapsed_ms)
                cursor = step.cursor
                if not cursor or (part and cursor.partition(":")[0] != part):
                    break
