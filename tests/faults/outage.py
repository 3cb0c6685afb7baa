"""Acceptance: Redis is away for a while, under load; callbacks keep going out.

The rate is what the merchant's own ledger says, second by second.
"""

import threading
import time
from dataclasses import dataclass

from tests.faults.books import Books
from tests.faults.fleet import Fleet, until
from tests.faults.site import Site
from tests.services import RedisServer

_STEP_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Outage:
    """How a run went.

    Attributes:
        before_per_s: callbacks a second at the merchant while Redis was there.
        during_per_s: the same while it was away.
        slowest_commit_ms: longest a host waited for its commit, bell included, in each phase.
        failed_bells: rings of workers that nobody heard; above 0, or Redis was never missed.
        books: the comparison afterwards.
    """

    before_per_s: float
    during_per_s: float
    slowest_commit_ms: tuple[float, float]
    failed_bells: float
    books: Books

    @property
    def ratio(self) -> float:
        """During, as a share of before."""
        return self.during_per_s / self.before_per_s

    def text(self) -> str:
        """The run in a few lines."""
        before_ms, during_ms = self.slowest_commit_ms
        return (
            f"with Redis {self.before_per_s:.0f}/s, without {self.during_per_s:.0f}/s: "
            f"{self.ratio:.2f} of the rate before; slowest commit of the host "
            f"{before_ms:.0f} ms, then {during_ms:.0f} ms\n{self.books.text()}"
        )


class Host(threading.Thread):
    """A host that enqueues at an even pace until it is stopped.

    Attributes:
        commits: when each commit began (monotonic) and how long it took, seconds.
    """

    def __init__(self, place: Site, names: list[str], *, per_s: float) -> None:
        super().__init__(name="host", daemon=True)
        self._place = place
        self._names = names
        self._per_s = per_s
        self._ending = threading.Event()
        self.commits: list[tuple[float, float]] = []

    def run(self) -> None:
        """Enqueue."""
        began_s = time.monotonic()
        done = 0
        while not self._ending.wait(_STEP_S):
            due = int((time.monotonic() - began_s) * self._per_s) - done
            at_s = time.monotonic()
            if due > 0:
                self._place.enqueue(self._names, due)
                self.commits.append((at_s, time.monotonic() - at_s))
                done += due

    def stop(self) -> None:
        """End after the present commit."""
        self._ending.set()
        self.join(60)

    def slowest_ms(self, from_s: float, to_s: float) -> float:
        """The longest commit that began between two moments."""
        return 1000 * max(took for at, took in self.commits if from_s <= at <= to_s)


def run(place: Site, redis: RedisServer, *, seconds: float, per_s: float, workers: int) -> Outage:
    """Enqueue ``per_s`` callbacks a second; take Redis away for the middle third of the time."""
    names = [place.endpoint("/success") for _ in range(20)]
    with Fleet(place.settings, place.folder, count=workers) as fleet:
        place.enqueue(names, 200)
        place.rest(fleet)
        host = Host(place, names, per_s=per_s)
        host.start()
        moments = [time.monotonic() + 1]
        moments += [moments[0] + seconds, moments[0] + 2 * seconds]
        _until(moments[1])
        redis.kill()
        _until(moments[2])
        failed = fleet.metric('paynotify_bells_total{result="failed"}')
        redis.start()
        _until(moments[2] + seconds / 2)
        host.stop()
        place.rest(fleet, within_s=120)
        books = place.books()
    arrived = [record.monotonic_s for record in place.receiver.ledger()]

    def rate(from_s: float, to_s: float) -> float:
        return sum(from_s <= at < to_s for at in arrived) / (to_s - from_s)

    return Outage(
        before_per_s=rate(moments[0], moments[1]),
        during_per_s=rate(moments[1], moments[2]),
        slowest_commit_ms=(
            host.slowest_ms(moments[0], moments[1]),
            host.slowest_ms(moments[1], moments[2]),
        ),
        failed_bells=failed,
        books=books,
    )


def _until(at_s: float) -> None:
    until(lambda: time.monotonic() >= at_s, within_s=600)
