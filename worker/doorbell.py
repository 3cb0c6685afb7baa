"""The doorbell: tells the workers that there may be work.

Must never raise, never make its caller wait longer than its timeout, and never carry data. A
ring that is lost costs a second at most: the tick inside every worker finds the row.
"""

import os
import weakref
from queue import SimpleQueue
from threading import Event, Lock, Thread

from worker import clock
from worker.bells import KEY_PREFIX, TASK, Bell, bell
from worker.models import Pool

__all__ = ["KEY_PREFIX", "TASK", "Doorbell"]

# After a failure the broker is left alone for this long, so that its absence costs a busy host
# one timeout a second, whatever its rate.
_QUIET_S = 1.0


class _Job:
    """One thing to tell the broker; several callers may wait for the same one."""

    __slots__ = ("done", "ok", "pool")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.ok = False
        self.done = Event()


class Doorbell:
    """Rings for the workers; safe between threads and across forks.

    A thread of its own does the talking, because name look-up, connecting, TLS and
    authentication each have timeouts of their own (or none): only waiting for somebody else can
    be cut off for certain.

    Args:
        broker_url: as Celery takes it; None is no broker, and every ring is False at once.
        timeout_s: longest wait of a caller, everything included.

    Raises:
        SettingsError: a broker URL that cannot be used.
    """

    _lock: Lock
    _jobs: "SimpleQueue[_Job | None]"
    _waiting: dict[Pool, _Job]
    _thread: Thread | None
    _health: "_Health"

    def __init__(self, broker_url: str | None, *, timeout_s: float = 0.05) -> None:
        self._bell = None if broker_url is None else bell(broker_url, timeout_s)
        self._timeout_s = timeout_s
        self._start_over()
        if self._bell is not None:
            mine = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _start_over(mine))

    def ring(self, pool: Pool = Pool.FAST) -> bool:
        """Ring unless a ring is waiting to be heard.

        Returns:
            True when the broker has it; False when there is none, it failed, or it did not
            answer in time (it may have it all the same).
        """
        if self._bell is None:
            return False
        try:
            job = self._submit(self._bell, pool)
            if job is None:
                return False
            if not job.done.wait(self._timeout_s):
                self._health.failed()
                return False
        except Exception:  # noqa: BLE001 - the host has committed: nothing may reach it from here
            return False
        return job.ok

    def _submit(self, wire: Bell, pool: Pool) -> _Job | None:
        with self._lock:
            if not self._health.may_try():
                return None
            waiting = self._waiting.get(pool)
            if waiting is not None:
                # Not begun yet, so it will be rung after this caller's commit too.
                return waiting
            job = self._waiting[pool] = _Job(pool)
            if self._thread is None:
                self._thread = Thread(
                    target=_talk,
                    args=(wire, self._jobs, self._waiting, self._lock, self._health),
                    name="paynotify-doorbell",
                    daemon=True,
                )
                self._thread.start()
                # The thread holds no reference to the doorbell, so it ends with it.
                weakref.finalize(self, self._jobs.put, None)
            self._jobs.put(job)
            return job

    def _start_over(self) -> None:
        self._lock = Lock()
        self._jobs = SimpleQueue()
        self._waiting = {}
        self._thread = None
        self._health = _Health()


class _Health:
    """Whether the broker may be tried: always while it answers, else once per quiet time."""

    def __init__(self) -> None:
        self._ailing = False
        self._quiet_until_s = 0.0

    def may_try(self) -> bool:
        if not self._ailing:
            return True
        now_s = clock.monotonic_s()
        if now_s < self._quiet_until_s:
            return False
        # This caller is the probe; the others stay quiet until it comes back.
        self._quiet_until_s = now_s + _QUIET_S
        return True

    def failed(self) -> None:
        self._ailing = True
        self._quiet_until_s = clock.monotonic_s() + _QUIET_S

    def answered(self) -> None:
        self._ailing = False


def _talk(
    wire: Bell,
    jobs: "SimpleQueue[_Job | None]",
    waiting: dict[Pool, _Job],
    lock: Lock,
    health: _Health,
) -> None:
    while (job := jobs.get()) is not None:
        with lock:
            waiting.pop(job.pool, None)
        try:
            wire.ring(job.pool)
            job.ok = True
            health.answered()
        except Exception:  # noqa: BLE001 - whatever a broker client raises, the host goes on
            health.failed()
        job.done.set()
    wire.close()


def _start_over(mine: "weakref.ref[Doorbell]") -> None:
    # In a forked child: the lock may be held and the thread is gone. The socket belongs to the
    # parent; redis-py notices the fork by itself and dials anew.
    doorbell = mine()
    if doorbell is not None:
        doorbell._start_over()  # noqa: SLF001 - our own
