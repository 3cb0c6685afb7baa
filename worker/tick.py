"""The timer inside every worker process: what keeps work moving whatever the broker does.

Each tick puts rows whose lease ran out back, stages what has come due, lets go what nothing holds
up any more, takes in the inbox, rings for what is due and looks after suspects. A bell that nobody
hears is answered here. Must never stop because of one error: the next tick tries again.
"""

from collections.abc import Callable
from functools import partial
from threading import Event, Thread

from worker import clock, telemetry
from worker.deliver import Courier
from worker.errors import PaynotifyError
from worker.models import Pool
from worker.quarantine import Quarantine
from worker.rollup import Rollup
from worker.store import Store
from worker.witness import Witness

# Rows one statement moves: some 20 ms, so that no claim waits long for their locks.
_STEP = 2000
_TURN_S = 0.5
# After this many ticks with due rows and no delivery here, the broker is connected but deaf.
_DEAF_TICKS = 5


class Tick:
    """Runs on a thread of its own.

    Args:
        store: released and staged.
        courier: rings and, when nobody hears, delivers.
        rollup: written when it is time to.
        witness: what merchants showed is written down.
        give_up: ends this process when its courier lost a thread.
        quarantine: sends the suspects.
        take_in: accepts a bounded part of the inbox; says whether there is more.
        every_s: seconds between two ticks.
    """

    def __init__(
        self,
        *,
        store: Store,
        courier: Courier,
        quarantine: Quarantine,
        rollup: Rollup,
        witness: Witness,
        take_in: Callable[[], bool],
        give_up: Callable[[], None],
        every_s: float,
    ) -> None:
        self._store = store
        self._give_up = give_up
        self._courier = courier
        self._quarantine = quarantine
        self._rollup = rollup
        self._witness = witness
        self._take_in = take_in
        self._every_s = every_s
        self._due_since_s: dict[Pool, float] = {}
        self._closing = Event()
        self._thread = Thread(target=self._run, name="tick", daemon=True)

    def start(self) -> None:
        """Start ticking, the first time at once."""
        self._thread.start()

    def close(self) -> None:
        """Stop; waits for the step that runs."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def once(self) -> None:
        """Do everything a tick does, once. Calling it twice does nothing twice."""
        if not self._courier.alive:
            self._give_up()
            return
        # One step that fails must not keep the others from their turn.
        for step in (
            self._release,
            self._stage,
            self._look,
            self._ring,
            self._quarantine.tend,
        ):
            if not self._closing.is_set():
                self._safely(step)
        self._safely(self._empty_inbox)
        self._safely(self._rollup.write_if_due)
        self._safely(self._witness.write)

    def _release(self) -> None:
        released = self._store.release(limit=_STEP)
        if released.again or released.poisoned:
            telemetry.count_abandoned(released.again + released.poisoned)
            self._rollup.abandoned(again=released.again, poisoned=released.poisoned)
            telemetry.log(
                telemetry.Event.RELEASED,
                level="warning",
                again=released.again,
                poisoned=released.poisoned,
            )

    def _stage(self) -> None:
        self._repeat(lambda: self._store.stage(limit=_STEP) == _STEP)

    def _look(self) -> None:
        self._store.look(limit=_STEP)

    def _empty_inbox(self) -> None:
        self._repeat(self._take_in)

    def _repeat(self, step: Callable[[], bool]) -> None:
        """Repeat while there is more, but not so long that the others wait for their turn."""
        until_s = clock.monotonic_s() + _TURN_S
        while not self._closing.is_set() and step() and clock.monotonic_s() < until_s:
            pass

    def _ring(self) -> None:
        due = self._store.due_pools()
        now_s = clock.monotonic_s()
        self._due_since_s = {pool: self._due_since_s.get(pool, now_s) for pool in due}
        for pool in due:
            if self._deaf(pool):
                self._courier.unheard.add(pool)
            self._courier.ring(pool)

    def _deaf(self, pool: Pool) -> bool:
        # Rows that have only just come due after a quiet time prove nothing.
        since_s = max(self._due_since_s[pool], self._courier.last_delivery_s)
        return clock.monotonic_s() - since_s > max(_DEAF_TICKS * self._every_s, 2.0)

    def _run(self) -> None:
        due_s = clock.monotonic_s()
        while not self._closing.is_set():
            if clock.monotonic_s() >= due_s:
                due_s = clock.monotonic_s() + self._every_s
                self._safely(self.once)
            for unheard in self._courier.unheard.wait(max(0.0, due_s - clock.monotonic_s())):
                self._safely(partial(self._courier.deliver, unheard, linger=False))

    def _safely(self, step: Callable[[], object]) -> None:
        try:
            step()
        except PaynotifyError as error:
            telemetry.log(telemetry.Event.TICK_FAILED, level="warning", why=str(error))
            self._closing.wait(min(0.2, self._every_s))
        except Exception as error:  # noqa: BLE001 - the timer outlives any single mistake
            telemetry.log(
                telemetry.Event.TICK_FAILED, level="error", why=f"{type(error).__name__}: {error}"
            )
            self._closing.wait(min(0.2, self._every_s))
