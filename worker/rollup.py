"""Counts per endpoint and minute: kept in memory with the settles, written every few seconds.

What a killed process had not written yet is missing from the measures, at most
:data:`_LONGEST_S` seconds of them. Must never cost a settle more than counting, nor fail one.
"""

from collections.abc import Iterable
from threading import Lock

from worker import clock, telemetry
from worker.models import Decision, Settlement
from worker.seen import Measured
from worker.store import Store

# Written this often while few endpoints are called; with many, at most so many rows a second.
_EVERY_S = 5.0
_ROWS_PER_S = 100
_LONGEST_S = 20.0
# Rows of one statement, so that no transaction is long.
_STEP = 500
# Stands for what belongs to no endpoint.
NOBODY = 0

_DELIVERED = Decision.DELIVERED


class Rollup:
    """The counts of one process; safe between threads.

    Args:
        store: where they are written.
        worker: name of this process's place, the same after a restart; two processes of one name
            only wait for each other now and then.
    """

    def __init__(self, store: Store, worker: str) -> None:
        self._store = store
        self._worker = worker
        self._lock = Lock()
        self._seen: dict[int, Measured] = {}
        self._written_s = clock.monotonic_s()

    def settled(self, settlements: Iterable[Settlement], stale: frozenset[int]) -> None:
        """Count verdicts that were written, and those that came too late for it."""
        with self._lock:
            seen = self._seen
            for settlement in settlements:
                claimed, verdict = settlement.claimed, settlement.verdict
                row = seen.get(claimed.endpoint_id)
                if row is None:
                    row = seen[claimed.endpoint_id] = Measured()
                if stale and claimed.id in stale:
                    row.stale += 1
                    continue
                row.elapsed_ms += settlement.elapsed_ms
                if verdict.decision is _DELIVERED:
                    row.acked += 1
                    continue
                row.failed += verdict.healthy is False
                row.dead += verdict.decision is Decision.DEAD
                row.held += verdict.decision is Decision.HOLD

    def given_up(self, endpoint_id: int) -> None:
        """Count a verdict that was dropped because its lease was nearly over."""
        with self._lock:
            self._seen.setdefault(endpoint_id, Measured()).stale += 1

    def abandoned(self, *, again: int, poisoned: int) -> None:
        """Count leases that ran out: rows back in the queue, and rows given up for it."""
        with self._lock:
            row = self._seen.setdefault(NOBODY, Measured())
            row.abandoned += again + poisoned
            row.dead += poisoned

    def write_if_due(self) -> None:
        """Write what was counted when it is time to; cheap otherwise.

        A row of :data:`NOBODY` is written too, so that a silent shop and a shop without workers
        are not the same.
        """
        since_s = clock.monotonic_s() - self._written_s
        if since_s >= min(_LONGEST_S, max(_EVERY_S, len(self._seen) / _ROWS_PER_S)):
            with self._lock:
                self._seen.setdefault(NOBODY, Measured())
            self.write()

    def write(self) -> None:
        """Write what was counted; what the database does not take is kept for the next time."""
        self._written_s = clock.monotonic_s()
        with self._lock:
            left, self._seen = self._seen, {}
        ids = sorted(left)
        try:
            for first in range(0, len(ids), _STEP):
                part = {each: left[each] for each in ids[first : first + _STEP]}
                self._store.roll_up(part, worker=self._worker)
                for each in part:
                    del left[each]
        except Exception as error:  # noqa: BLE001 - counts are never worth a tick or a clean end
            telemetry.log(telemetry.Event.MEASURES_KEPT, level="warning", why=str(error))
            self._put_back(left)

    def _put_back(self, left: dict[int, Measured]) -> None:
        with self._lock:
            for endpoint_id, row in left.items():
                newer = self._seen.get(endpoint_id)
                if newer is not None:
                    _add(row, newer)
                self._seen[endpoint_id] = row


def _add(to: Measured, more: Measured) -> None:
    """Add ``more`` to ``to``.

    Examples:
        >>> row = Measured(acked=1, elapsed_ms=5)
        >>> _add(row, Measured(acked=2, stale=1))
        >>> row.acked, row.stale, row.elapsed_ms
        (3, 1, 5)
    """
    to.acked += more.acked
    to.failed += more.failed
    to.dead += more.dead
    to.held += more.held
    to.abandoned += more.abandoned
    to.stale += more.stale
    to.elapsed_ms += more.elapsed_ms
