"""How long a task goes on claiming, and what it leaves to others when it ends.

A task costs as much as forty sends, so it does what it can before it ends. Must never end while
something that only it was told of is still to be claimed.
"""

from threading import Event, Semaphore

from worker import clock
from worker.settler import Batch
from worker.store import Claim

_TASK_S = 2.0
# How long it waits for half of a batch before it claims the next one all the same.
_PACE_S = 0.1
# Between two claims for lanes with a rate limit: a few rows at a time, not one by one.
_METER_S = 0.2
# Twice over the end of the lanes: each of them was looked at in between.
_ROUNDS = 2


class Going:
    """One task's way from its first claim to its last; used by its own thread only.

    Args:
        linger: whether it may go on; else it ends with its first batch.
        meter: held by the one task of a process that goes on with lanes that have a rate limit.

    Attributes:
        batches: what it sent.
        until_s: monotonic time at which it ends, whatever there is to do.
        news: set by the settler when there is something to look at; None when it does not go on.
        rung: its first batch rang for another task.
    """

    def __init__(self, *, linger: bool, meter: Semaphore) -> None:
        now_s = clock.monotonic_s()
        self._meter = meter
        self._holds_meter = False
        self.batches: list[Batch] = []
        self.news = Event() if linger else None
        self.until_s = now_s + (_TASK_S if linger else 0.0)
        self.rung = False
        self._search_until_s = now_s + _TASK_S
        self._more = True
        self._metered = False
        self._rounds = 0
        self._filled = 0

    def may_claim(self) -> bool:
        """Tell whether it claims once more."""
        until_s = self.until_s if self.batches else self._search_until_s
        if not self._more or clock.monotonic_s() >= until_s:
            return False
        self._filled = self._out()
        return True

    def claimed(self, claim: Claim) -> None:
        """Take note of a claim; while it found nothing, thousands of lanes may stand in front."""
        self._more, self._metered = claim.more, claim.metered
        if not claim.rows and claim.wrapped:
            self._rounds += 1
            self._more = claim.more and self._rounds < _ROUNDS

    def sent(self, batch: Batch) -> None:
        """Take note of what was sent of it."""
        self.batches.append(batch)
        if batch.capped:
            self._filled += batch.out

    @property
    def spreads(self) -> bool:
        """Whether another task could help: there is more than its first batch."""
        return self._more and len(self.batches) == 1 and not self.rung

    def wait(self, linger_s: float) -> None:
        """Wait for the last batch; where there is more, for half of it and not for long."""
        assert self.news is not None  # noqa: S101 - for the type checker
        batch, until_s = self.batches[-1], clock.monotonic_s()
        if self._more:
            enough, until_s = batch.size // 2, until_s + min(_PACE_S, linger_s)
        elif self._metered and self._take_meter():
            enough, until_s = -1, until_s + _METER_S
            self._more = True
        else:
            enough, until_s = 0, until_s + linger_s
        while batch.out > enough and not self._freed():
            left_s = until_s - clock.monotonic_s()
            if left_s <= 0 or not self.news.wait(left_s):
                return
            self.news.clear()

    def _take_meter(self) -> bool:
        self._holds_meter = self._holds_meter or self._meter.acquire(blocking=False)
        return self._holds_meter

    def look(self, *, starved: bool) -> None:
        """Go on for lanes that have room again, and for another task that found no place."""
        if starved or self._freed():
            # Nobody else is told of either, so what was rung before is no answer to it.
            self._more, self.rung = True, False

    def end(self) -> None:
        """Go on no more; from now on the settler tells others."""
        if self._holds_meter:
            self._meter.release()
        for batch in self.batches:
            batch.awaited = False
        if self._freed():
            # It came free after the last look.
            self._more, self.rung = True, False

    @property
    def leaves_more(self) -> bool:
        """Whether somebody has to be woken after it."""
        return self._more and bool(self.batches) and not (self.rung and len(self.batches) == 1)

    def _freed(self) -> bool:
        return self._out() < self._filled

    def _out(self) -> int:
        """Count what is out of batches that filled lanes: less than before means room."""
        return sum(batch.out for batch in self.batches if batch.capped)
