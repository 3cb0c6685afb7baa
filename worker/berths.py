"""Places on the wire of one process, counted per pool.

Must never let slow lanes take the part that healthy ones need.
"""

from collections import Counter
from threading import Condition

from worker.models import Pool


class Berths:
    """Counts what was claimed here and has not been answered; safe between threads.

    Args:
        most: requests on the wire at once; slow lanes may hold half of them.
    """

    def __init__(self, most: int) -> None:
        self._most = {Pool.FAST: most, Pool.SLOW: most // 2}
        self._taken: Counter[Pool] = Counter()
        self._starved: set[Pool] = set()
        self._waiters = 0
        self._enough = 0
        self._lock = Condition()

    def take(self, pool: Pool, wanted: int, *, wait_s: float = 0.0) -> int:
        """Take up to ``wanted`` places before a claim, so that two never plan with the same.

        Args:
            pool: whose part they come from.
            wanted: places, 1 or more.
            wait_s: how long to wait until half of them are free; a claim of a few rows costs as
                much as a full one. After that, what there is.

        Returns:
            How many; 0 marks the pool as starved.
        """
        wanted = min(wanted, self._most[pool])
        with self._lock:
            if wait_s > 0 and self._left(pool) * 2 < wanted:
                self._wait(pool, wanted, wait_s)
            got = max(0, min(wanted, self._left(pool)))
            if not got:
                self._starved.add(pool)
            self._taken[pool] += got
        return got

    def _wait(self, pool: Pool, wanted: int, wait_s: float) -> None:
        self._enough = (wanted + 1) // 2
        self._waiters += 1
        try:
            self._lock.wait_for(lambda: self._left(pool) * 2 >= wanted, wait_s)
        finally:
            self._waiters -= 1

    def _left(self, pool: Pool) -> int:
        return min(
            self._most[pool] - self._taken[pool], self._most[Pool.FAST] - self._taken.total()
        )

    def board(self, pool: Pool, count: int) -> None:
        """Take places whatever the limit: for the one row that travels alone."""
        with self._lock:
            self._taken[pool] += count

    def free(self, pool: Pool, count: int) -> None:
        """Give places back."""
        with self._lock:
            self._taken[pool] -= count
            # Not at each of the many small returns: waking a thread costs as much as a send.
            if self._waiters and self._left(Pool.FAST) >= self._enough:
                self._lock.notify()

    def starved(self) -> set[Pool]:
        """Return and forget which pools found no place; somebody has to claim for them again."""
        with self._lock:
            starved, self._starved = self._starved, set()
        return starved
