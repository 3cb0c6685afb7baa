"""Runs due ticks in a worker process: whether a bell rang or not, and not too many at once.

A thread of its own looks once a second: it keeps the leases of what runs here, gives back what
other runners lost, and takes ticks that no bell was heard for. Must never let one job's mistake
stop the others, nor keep a lease or a slot beyond the job's time limit.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Lock, Thread

from sqlalchemy.exc import DBAPIError

from schedules.deadline import Deadline
from schedules.ticks import Tick, Ticks
from worker import clock, database, telemetry
from worker.errors import PaynotifyError
from worker.masking import mask

# Jobs at once in one process, so that deliveries always have slots left.
MOST = 2
# What a job answers that had nothing to do.
_NOTHING = "nothing is due"
# A tick this old was not heard of through the broker.
_UNHEARD_S = 2.0
_LOOK_S = 1.0
# A job is asked to stop at its time limit and has this long to do so; then its tick is lost.
_STOP_S = 30.0

Run = Callable[[str, dict[str, object], Deadline], str]


@dataclass(slots=True, kw_only=True, eq=False)
class _Work:
    """One tick that runs here."""

    tick: Tick
    keep_until_s: float
    lost: bool = False
    # Whether the job was told to stop because this process ends.
    cut: bool = False
    # Whether it hangs: its slot is somebody else's, its thread is left alone.
    abandoned: bool = False


@dataclass(slots=True, eq=False)
class _Hands:
    """What runs here; guarded by its lock."""

    lock: Lock = field(default_factory=Lock)
    work: list[_Work] = field(default_factory=list)
    busy: int = 0


class Runner:
    """See the module; safe to share between threads.

    Args:
        ticks: the ticks of the database.
        run: does a job by name; see :meth:`schedules.jobs.Jobs.run`.
        name: of this process, as the history will say.
        lease_s: how long a tick stays ours when we are killed.
        most: jobs at once.
    """

    def __init__(
        self, *, ticks: Ticks, run: Run, name: str, lease_s: float, most: int = MOST
    ) -> None:
        self._ticks = ticks
        self._run = run
        self._name = name
        self._lease_s = lease_s
        self._most = most
        self._hands = _Hands()
        self._closing = Event()
        self._renew_at_s = 0.0
        self._thread = Thread(target=self._watch, name="schedules", daemon=True)

    def start(self) -> None:
        """Start looking, the first time at once."""
        self._thread.start()

    def stop(self) -> None:
        """Take nothing new and ask what runs to stop; for a signal handler: waits for nothing."""
        self._closing.set()

    def close(self, *, timeout_s: float = 10.0) -> None:
        """Stop, and wait for the thread of its own."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def run_due(self) -> list[str]:
        """Run due ticks until there is none, in the caller's thread; says what came of each.

        Returns at once when enough jobs run here already.
        """
        if not self._enter():
            return []
        lines = []
        try:
            while not self._closing.is_set() and self._hands.busy <= self._most:
                claimed = self._ticks.claim(self._name, lease_s=self._lease_s, without=self._here())
                if claimed is None:
                    break
                lines.append(self._work(claimed))
        finally:
            self._leave()
        return lines

    def once(self) -> None:
        """Do what the thread does each second, except running: slots, leases, lost ticks."""
        self._abandon()
        self._renew()
        lost = self._ticks.release()
        if lost.again or lost.given_up:
            telemetry.log(
                telemetry.Event.JOB_LOST,
                level="error" if lost.given_up else "warning",
                again=lost.again,
                given_up=lost.given_up,
            )

    def _enter(self) -> bool:
        with self._hands.lock:
            if self._hands.busy >= self._most or self._closing.is_set():
                return False
            self._hands.busy += 1
            return True

    def _leave(self) -> None:
        with self._hands.lock:
            self._hands.busy -= 1

    def _here(self) -> frozenset[str]:
        """Return the lines whose job runs here; one that hangs is not begun beside itself."""
        with self._hands.lock:
            return frozenset(work.tick.name for work in self._hands.work)

    def _abandon(self) -> None:
        """Give back the slots of jobs that did not stop."""
        now_s = clock.monotonic_s()
        with self._hands.lock:
            hung = [
                work
                for work in self._hands.work
                if work.keep_until_s <= now_s and not work.abandoned
            ]
            for work in hung:
                work.abandoned = work.lost = True
                self._hands.busy -= 1
        for work in hung:
            telemetry.log(
                telemetry.Event.JOB_HANGS,
                level="error",
                schedule=work.tick.name,
                tick_at=work.tick.tick_at,
                why=f"it did not stop {_STOP_S:g} s after its limit of {work.tick.time_limit_s} s; "
                "its thread is left alone, its line is not run here before it ends",
            )

    def _work(self, tick: Tick) -> str:
        keep_s = tick.time_limit_s + _STOP_S
        work = _Work(tick=tick, keep_until_s=clock.monotonic_s() + keep_s)
        with self._hands.lock:
            self._hands.work.append(work)
        try:
            return self._do(work)
        finally:
            with self._hands.lock:
                self._hands.work.remove(work)
                if work.abandoned:
                    # Its caller still counts on the slot; with one too many it takes nothing more.
                    self._hands.busy += 1

    def _do(self, work: _Work) -> str:
        tick = work.tick

        def cut() -> bool:
            if self._closing.is_set():
                work.cut = True
            return work.cut or work.lost

        deadline = Deadline(tick.time_limit_s, cut=cut)
        try:
            result, ok = self._run(tick.job, tick.arguments, deadline), True
        # A job that ends its process would be begun again and again.
        except (Exception, SystemExit) as error:  # noqa: BLE001 - one job's mistake is its own
            result, ok = f"{type(error).__name__}: {error}", False
        return self._settle(work, mask(result), ok=ok)

    def _settle(self, work: _Work, result: str, *, ok: bool) -> str:
        tick = work.tick
        title = f"{tick.name} {tick.tick_at:%H:%M:%S}"
        if work.cut and ok:
            # It may not be through: another process goes on with it at once.
            self._ticks.hand_back(tick)
            return f"{title}: handed back, because this process ends"
        ours = self._ticks.finish(tick, ok=ok, result=result)
        event = telemetry.Event.JOB_DONE if ok else telemetry.Event.JOB_FAILED
        if not ours:
            event, result = telemetry.Event.JOB_LOST, f"{result} (somebody else has the tick now)"
        level: telemetry.Level = "info" if ok and ours else "warning"
        if ok and ours and result == _NOTHING:
            # Every ten seconds, all day long: what matters would drown in it.
            level = "debug"
        telemetry.log(event, level=level, schedule=tick.name, tick_at=tick.tick_at, result=result)
        return f"{title}: {result}"

    def _watch(self) -> None:
        while not self._closing.is_set():
            self._safely(self.once)
            self._safely(self._take_unheard)
            self._closing.wait(_LOOK_S)
        # What still runs keeps its lease while it stops; nobody waits for what hangs.
        while any(not work.abandoned for work in self._hands.work):
            self._safely(self._abandon)
            self._safely(self._renew)
            clock.sleep(_LOOK_S)

    def _renew(self) -> None:
        now_s = clock.monotonic_s()
        if now_s < self._renew_at_s:
            return
        with self._hands.lock:
            kept = [work for work in self._hands.work if work.keep_until_s > now_s]
        ours = self._ticks.renew([work.tick for work in kept], lease_s=self._lease_s)
        for work in kept:
            work.lost = work.tick not in ours
        self._renew_at_s = now_s + self._lease_s / 3

    def _take_unheard(self) -> None:
        if self._hands.busy < self._most and self._ticks.unheard(
            after_s=_UNHEARD_S, without=self._here()
        ):
            thread = Thread(
                target=self._safely, args=(self.run_due,), name="schedules-job", daemon=True
            )
            thread.start()

    def _safely(self, step: Callable[[], object]) -> None:
        try:
            step()
        except (PaynotifyError, DBAPIError) as error:
            known = database.unavailable(error) if isinstance(error, DBAPIError) else error
            telemetry.log(telemetry.Event.RUNNER_FAILED, level="warning", why=str(known))
        except Exception as error:  # noqa: BLE001 - the timer outlives any single mistake
            why = f"{type(error).__name__}: {error}"
            with suppress(Exception):
                telemetry.log(telemetry.Event.RUNNER_FAILED, level="error", why=why)
