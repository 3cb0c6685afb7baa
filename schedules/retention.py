"""Retention: what is over and past its age is removed, a bounded batch at a time.

Part by part, each walked by its key: notifications with their attempts and letters (what stays of
them is told in ``worker/store_forget.py``), ticks, counts, evidence, cases, checks, alerts. Must
never remove what is unfinished, younger than its age, has an open dead letter or is on legal hold
(``worker/holds.py``); the audit log is never touched.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine

from schedules import retention_parts as parts
from schedules.retention_parts import Batch, Part
from schedules.sweep import Step
from worker import clock
from worker.runtime import Desk
from worker.settings import Settings

# Rows one batch looks at: some 25 ms of PostgreSQL's time when all of them go. Large payloads or
# a slow disk cost more, then the next batch is smaller.
_ROWS_MAX = 250
# A notification is a row in four tables; of everything else so many more are taken at once.
_LIGHTER = 4
_ROWS_FIRST = 50
_ROWS_MIN = 20
_TOO_LONG_S = 0.08
_QUICK_S = 0.04


@dataclass(frozen=True, slots=True, kw_only=True)
class Ages:
    """How long what is over is kept; see ``settings.py`` for ranges.

    Attributes:
        finished: delivered and cancelled notifications, by when they finished; and lines of
            ordered ones, by when somebody last got in.
        evidence: evidence of reconciliation, resolved cases and checks that are over.
    """

    finished: timedelta
    ticks: timedelta
    rollups: timedelta
    evidence: timedelta
    alerts: timedelta

    @staticmethod
    def of(chosen: Settings) -> "Ages":
        """Take them from the settings."""
        return Ages(
            finished=timedelta(days=chosen.keep_finished_days),
            ticks=timedelta(days=chosen.keep_ticks_days),
            rollups=timedelta(days=chosen.keep_rollups_days),
            evidence=timedelta(days=chosen.keep_evidence_days),
            alerts=timedelta(days=chosen.keep_alerts_days),
        )


class Retention:
    """A :class:`schedules.sweep.Sweep`; dying in the middle of a batch leaves it undone.

    Args:
        engine: of the database with our tables.
        ages: how long what is kept.
        now: the database's clock.
        rows_max: rows one batch looks at, at most.
    """

    name = "retention"

    def __init__(
        self,
        engine: Engine,
        ages: Ages,
        *,
        now: Callable[[], datetime],
        rows_max: int = _ROWS_MAX,
    ) -> None:
        self._engine = engine
        self._now = now
        self._rows_max = rows_max
        # Small at first: nobody knows yet how fast this database is.
        self._rows = min(rows_max, _ROWS_FIRST)
        self._parts: tuple[tuple[str, timedelta, Part], ...] = (
            ("notifications", ages.finished, parts.notifications),
            ("lines", ages.finished, parts.lines),
            ("ticks", ages.ticks, parts.ticks),
            ("rollups", ages.rollups, parts.rollups),
            # Cases before the evidence that open ones still need.
            ("cases", ages.evidence, parts.CASES),
            ("evidence", ages.evidence, parts.EVIDENCE),
            ("checks", ages.evidence, parts.CHECKS),
            ("alerts", ages.alerts, parts.ALERTS),
            ("alert_deliveries", ages.alerts, parts.ALERT_DELIVERIES),
            ("silences", ages.alerts, parts.SILENCES),
        )

    @property
    def parts(self) -> list[str]:
        """Names of the parts in their order; a cursor begins with one and a colon."""
        return [name for name, _, _ in self._parts]

    def step(self, cursor: str) -> Step:
        """Do one batch of one part; see :meth:`schedules.sweep.Sweep.step`."""
        named, _, after = cursor.partition(":")
        names = self.parts
        # A part that a newer or older version had: from the start.
        place, after = (names.index(named), after) if named in names else (0, "")
        name, age, part = self._parts[place]
        batch = self._batch(part, after, age)
        if batch.after:
            following = f"{name}:{batch.after}"
        else:
            following = f"{names[place + 1]}:" if place + 1 < len(names) else ""
        return Step(cursor=following, counts={name: batch.removed} if batch.removed else {})

    def _batch(self, part: Part, after: str, age: timedelta) -> Batch:
        began_s = clock.monotonic_s()
        now = self._now()
        with self._engine.begin() as tx:
            limit = self._rows if part is parts.notifications else self._rows * _LIGHTER
            batch = part(tx, after=after, before=now - age, limit=limit)
        took_s = clock.monotonic_s() - began_s
        if took_s > _TOO_LONG_S:
            self._rows = max(_ROWS_MIN, self._rows // 2)
        elif took_s < _QUICK_S:
            self._rows = min(self._rows_max, self._rows * 2)
        return batch


def sweep(desk: Desk) -> Retention:
    """Make the sweep of a process."""
    return Retention(desk.engine, Ages.of(desk.settings), now=desk.store.now)
