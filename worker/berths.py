"""Places on the wire of one process, counted per pool.

Must never let slow lanes take the part that healthy ones need.
"""

from collections import Counter
from threading import Condition

from worker.models import Pool

# However many merchants hang and hold their places, the others wait no longer than this for a
# fuller claim.
_COMPANY_S = 0.02


class Berths:
    """Counts what was claimed here and has not been answered; safe between threads.

    Args:
        most: requests on the wire at once; slow lanes may hold half of them.
    """

    def __init__(self, most: int) -> None:
        self._most = {Pool.FAST: most, Pool.SLOW: most // 2}
        self._taken: Counter[Pool] = Counter()
        self._starved: set[Pool] = set()
        # What those who wait now are content with.
        self._wanted: list[int] = []
        self._lock = Condition()

    def take(self, pool: Pool, wanted: int, *, wait_s: float = 0.0) -> int:
        """Take up to ``wanted`` places before a claim, so that two never plan with the same.

        Args:
            pool: whose part they come from.
            wanted: places, 1 or more.
            wait_s: how long to wait while none is free. While few are, a moment is waited until
                half of them are: a claim of a few rows costs as much as a full one.

        Returns:
            How many; 0 marks the pool as starved.
        """
        wanted = min(wanted, self._most[pool])
        with self._lock:
            if wait_s > 0:
                self._wait(pool, (wanted + 1) // 2, min(wait_s, _COMPANY_S))
                self._wait(pool, 1, wait_s - _COMPANY_S)
            got = max(0, min(wanted, self._left(pool)))
            if not got:
                self._starved.add(pool)
            self._taken[pool] += got
        return got

    def _wait(self, pool: Pool, enough: int, wait_s: float) -> None:
        if wait_s <= 0 or self._left(pool) >= enough:
            return
        self._wanted.append(enough)
        try:
            self._lock.wait_for(lambda: self._left(pool) >= enough, wait_s)
        finally:
            self._wanted.remove(enough)

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
            if self._wanted and self._left(Pool.FAST) >= min(self._wanted):
                self._lock.notify_all()

    def was_starved(self, pool: Pool) -> bool:
        """Tell, and forget, whether a claim found no place; somebody has to claim for it again."""
        with self._lock:
            starved = pool in self._starved
            self._starved.discard(pool)
        return starved
