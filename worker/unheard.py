"""Bells that nobody heard: the tick waits for them and claims by itself."""

from threading import Event, Lock

from worker.models import Pool


class Unheard:
    """The pools that need a claim though the broker cannot say so; safe between threads."""

    def __init__(self) -> None:
        self._pools: set[Pool] = set()
        self._some = Event()
        self._lock = Lock()

    def add(self, pool: Pool) -> None:
        """Ask for a claim of ``pool`` within this process."""
        with self._lock:
            self._pools.add(pool)
        self._some.set()

    def wait(self, timeout_s: float) -> set[Pool]:
        """Return and forget what was added, after at most ``timeout_s``."""
        self._some.wait(timeout_s)
        with self._lock:
            pools, self._pools = self._pools, set()
            self._some.clear()
        return pools
