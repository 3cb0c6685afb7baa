"""Freeze: endpoints that keep failing are held, pinged, and let go when they answer.

The sweep is run by the cron table; each worker looks whether it was, and runs it when it was not,
so that no beat freezes nobody for good. Must never be run by two at once: the sweep's lease sees
to that, and each endpoint's own to the rest.
"""

from sqlalchemy import select

from schedules import sweep as loop
from schedules.lookout import Lookout
from schedules.sweep import Step, Summary
from worker import runtime, telemetry
from worker.freezer import PROBES_MAX, Freezer
from worker.runtime import Desk
from worker.tables_schedules import sweep as _row

NAME = "freeze"
_PROBE = "probe"
# Beat's own line comes every ten seconds.
_SILENT_S = 30.0
_LOOK_S = 10.0
_BUDGET_S = 50.0


class Freezing:
    """A :class:`schedules.sweep.Sweep`; a step waits for merchants, outside any transaction.

    Args:
        freezer: does the work.
    """

    name = NAME

    def __init__(self, freezer: Freezer) -> None:
        self._freezer = freezer

    def step(self, cursor: str) -> Step:
        """Freeze, or ping a batch; see :meth:`schedules.sweep.Sweep.step`."""
        if cursor != _PROBE:
            return Step(cursor=_PROBE, counts={"frozen": self._freezer.freeze()})
        counts = self._freezer.probe()
        more = counts["probed"] >= PROBES_MAX
        return Step(cursor=_PROBE if more else "", counts=dict(counts))


class FreezeWatch(Lookout):
    """Runs the sweep when nobody did lately.

    Args:
        desk: tools of this process.
        runner: name of this process, for people.
    """

    def __init__(self, desk: Desk, runner: str) -> None:
        probe_s = desk.settings.freeze_probe_s
        every_s = min(_LOOK_S, probe_s / 2)
        super().__init__("freeze-watch", every_s=every_s, failed=telemetry.Event.FREEZE_FAILED)
        self._desk = desk
        self._runner = runner
        self._silent_s = min(_SILENT_S, probe_s)
        self._sweep = sweep(desk)

    def once(self) -> Summary | None:
        """Look, and run the sweep when nobody did lately; None: somebody did."""
        engine = self._desk.engine
        with engine.connect() as connection:
            beat_at = connection.scalar(select(_row.c.beat_at).where(_row.c.name == NAME))
        if beat_at is not None:
            silent_s = (self._desk.store.now() - beat_at).total_seconds()
            if silent_s < self._silent_s:
                return None
        lease_s = self._desk.settings.lease_s / 2
        return loop.run(
            engine, self._sweep, runner=self._runner, budget_s=_BUDGET_S, lease_s=lease_s
        )


def sweep(desk: Desk) -> Freezing:
    """Make the sweep of a process."""
    policy = runtime.breaker_policy(desk.settings)
    return Freezing(Freezer(desk.engine, desk.sealer, desk.settings, policy))
