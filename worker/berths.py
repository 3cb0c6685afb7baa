"""Places on the wire of one process, counted per pool.

Must never let slow lanes take the part that healthy ones need.
"""

from collections import Counter
from threading import Lock

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
        self._lock = Lock()

    def take(self, pool: Pool, wanted: int) -> int:
        """Take up to ``wanted`` places before a claim, so that two never plan with the same.

        Returns:
            How many; 0 marks the pool as starved.
        """
        with self._lock:
            left = min(
                self._most[pool] - self._taken[pool],
                self._most[Pool.FAST] - self._taken.total(),
            )
            got = max(0, min(wanted, left))
            if not got:
                self._starved.add(pool)
            self._taken[pool] += got
        return got

    def board(self, pool: Pool, count: int) -> None:
        """Take places whatever the limit: for the one row that travels alone."""
        with self._lock:
            self._taken[pool] += count

    def free(self, pool: Pool, count: int) -> None:
        """Give places back."""
        with self._lock:
            self._taken[pool] -= count

    def starved(self) -> set[Pool]:
        """Return and forget which pools found no place; somebody has to claim for them again."""
        with self._lock:
            starved, self._starved = self._starved, set()
        return starved
