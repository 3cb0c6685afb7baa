"""Acceptance: one of many merchants hangs with half of the volume; the others do not notice.

Two waves of the same load for the healthy ones, without the hanging merchant and with it, turn
by turn on the same workers, because the machine itself is never twice the same.
"""

import statistics
import time
from dataclasses import dataclass

from sqlalchemy import select

from tests.faults.books import Books
from tests.faults.fleet import Fleet, until
from tests.faults.site import Site
from worker import tables

_STEP_S = 0.05
_WARM_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Hanging:
    """How a run went; times from the start of the host's commit to the merchant, milliseconds.

    Attributes:
        alone_ms: of healthy callbacks while nobody hung, sorted.
        beside_ms: of healthy callbacks while one did, sorted.
        most_on_wire: requests on the wire at once while it did, at most.
        books: the comparison of the healthy afterwards.
    """

    alone_ms: list[float]
    beside_ms: list[float]
    most_on_wire: int
    books: Books

    @property
    def ratio(self) -> float:
        """p99 beside the hanging one, as a multiple of p99 without it."""
        return percentile(self.beside_ms, 99) / percentile(self.alone_ms, 99)

    def text(self) -> str:
        """The run in a few lines."""
        lines = [
            f"{name:<8} p50 {percentile(times, 50):7.1f} ms  p99 {percentile(times, 99):7.1f} ms  "
            f"max {times[-1]:7.1f} ms  of {len(times)}"
            for name, times in (("alone", self.alone_ms), ("beside", self.beside_ms))
        ]
        return "\n".join(
            [
                *lines,
                f"p99 ratio {self.ratio:.2f}; {self.most_on_wire} on the wire at most",
                self.books.text(),
            ]
        )


def run(
    place: Site, *, endpoints: int, rounds: int, seconds: float, per_s: float, workers: int
) -> Hanging:
    """Deliver ``per_s`` callbacks a second to healthy endpoints; in every second round as many
    again go to one more that never answers.
    """
    healthy = [place.endpoint("/success") for _ in range(endpoints - 1)]
    hung = place.endpoint("/hang")
    times: dict[bool, list[float]] = {False: [], True: []}
    waiting: list[int] = []
    most = 0
    with Fleet(place.settings, place.folder, count=workers) as fleet:
        # Every connection is open, every worker warm and at the broker before anything is measured.
        warm_s = time.monotonic() + _WARM_S
        while time.monotonic() < warm_s:
            place.enqueue(healthy, len(healthy))
            place.rest(fleet, within_s=60)
        for number in range(2 * rounds):
            beside = number % 2 == 1
            _let_hang(place, hung, hanging=beside)
            began: dict[int, float] = {}
            end = time.monotonic() + seconds
            for step in range(int(seconds / _STEP_S)):
                due_s = end - seconds + step * _STEP_S
                until(lambda due_s=due_s: time.monotonic() >= due_s, every_s=0.002)  # type: ignore[misc]
                if beside:
                    # At every step: on a busy machine the peak is over within two.
                    most = max(most, place.on_wire())
                    waiting += place.enqueue([hung], int(per_s * _STEP_S))
                shift = (number * 7919 + step * int(per_s * _STEP_S)) % len(healthy)
                names = healthy[shift:] + healthy[:shift]
                at_s = time.monotonic()
                ids = place.enqueue(names, int(per_s * _STEP_S))
                began.update(dict.fromkeys(ids, at_s))
            until(lambda began=began: _done(place, began), within_s=60, why=fleet.last_words)  # type: ignore[misc]
            times[beside] += waits(place, began)
        # What hangs stays unfinished; only the healthy ones are judged.
        books = place.books(aside=waiting)
    return Hanging(
        alone_ms=sorted(times[False]),
        beside_ms=sorted(times[True]),
        most_on_wire=most,
        books=books,
    )


def _let_hang(place: Site, hung: str, *, hanging: bool) -> None:
    """Let the hanging one be called, or hold it until nothing of it is on the wire."""
    if hanging:
        place.endpoints.resume(hung, who="test", why="a round beside it")
        return
    place.endpoints.pause(hung, who="test", why="a round without it")
    until(lambda: not place.on_wire(), within_s=place.settings.timeout_s + 10)


def _done(place: Site, began: dict[int, float]) -> bool:
    delivery = tables.delivery
    with place.engine.connect() as connection:
        found = connection.execute(
            select(delivery.c.id).where(
                delivery.c.id >= min(began),
                delivery.c.id <= max(began),
                delivery.c.state == "delivered",
            )
        )
        return began.keys() <= {row.id for row in found}


def waits(place: Site, began: dict[int, float]) -> list[float]:
    """How long callbacks took to the merchant from when they began, milliseconds."""
    notification = tables.notification
    with place.engine.connect() as connection:
        found = connection.execute(
            select(notification.c.message_id, notification.c.id).where(
                notification.c.id >= min(began), notification.c.id <= max(began)
            )
        )
        ids = {row.message_id: row.id for row in found}
    return [
        (record.monotonic_s - began[ids[record.message_id]]) * 1000
        for record in place.receiver.ledger()
        if ids.get(record.message_id) in began
    ]


def percentile(times: list[float], percent: int) -> float:
    """A percentile of some times."""
    return statistics.quantiles(times, n=100, method="inclusive")[percent - 1]
