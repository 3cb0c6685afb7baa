"""Freeze: endpoints that keep failing are held, pinged, and let go when they answer.

The sweep is run by the cron table; each worker looks whether it was, and runs it when it was not,
so that no beat freezes nobody for good. Must never be run by two at once: the sweep's lease sees
to that, and each endpoint's own to the rest.
"""

from threading import Event, Thread

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from schedules import sweep as loop
from schedules.sweep import Step, Summary
from worker import database, runtime, telemetry
from worker.errors import PaynotifyError
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


class FreezeWatch:
    """Runs on a thread of its own in every worker process.

    Args:
        desk: tools of this process.
        runner: name of this process, for people.
    """

    def __init__(self, desk: Desk, runner: str) -> None:
        self._desk = desk
        self._runner = runner
        probe_s = desk.settings.freeze_probe_s
        self._silent_s = min(_SILENT_S, probe_s)
        self._look_s = min(_LOOK_S, probe_s / 2)
        self._sweep = sweep(desk)
        self._closing = Event()
        self._thread = Thread(target=self._run, name="freeze-watch", daemon=True)

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def close(self) -> None:
        """Stop; a ping that is under way ends by its own deadline."""
        self._closing.set()

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

    def _run(self) -> None:
        while not self._closing.wait(self._look_s):
            try:
                self.once()
            except (PaynotifyError, DBAPIError) as error:
                known = database.unavailable(error) if isinstance(error, DBAPIError) else error
                telemetry.log(telemetry.Event.FREEZE_FAILED, level="warning", why=str(known))
            except Exception as error:  # noqa: BLE001 - the timer outlives any single mistake
                why = f"{type(error).__name__}: {error}"
                telemetry.log(telemetry.Event.FREEZE_FAILED, level="error", why=why)


def sweep(desk: Desk) -> Freezing:
    """Make the sweep of a process."""
    policy = runtime.breaker_policy(desk.settings)
    return Freezing(Freezer(desk.engine, desk.sealer, desk.settings, policy))
