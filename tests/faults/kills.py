"""Acceptance: callbacks to workers that are killed once a second, and everything else besides.

Redis is flushed twice and PostgreSQL restarted once, in the middle of it.
"""

import time
from collections import Counter
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from tests.faults.books import Books
from tests.faults.fleet import Fleet, Member, until
from tests.faults.site import Site
from tests.services import PostgresServer, RedisServer
from worker import tables


@dataclass(frozen=True, kw_only=True)
class Kills:
    """How a run went.

    Attributes:
        killed: names of the workers, as their attempts carry them.
        books: the comparison afterwards.
        killing_s: from the first enqueue to the last kill.
        elapsed_s: from the first enqueue to rest.
    """

    killed: list[str]
    books: Books
    killing_s: float
    elapsed_s: float

    def text(self) -> str:
        """The run in a few lines."""
        on_wire = [self.books.on_wire[name] for name in self.killed]
        return (
            f"{len(self.killed)} workers killed in {self.killing_s:.1f} s, "
            f"everything delivered after {self.elapsed_s:.1f} s\n"
            f"on the wire at each kill: {' '.join(map(str, on_wire))} = {sum(on_wire)}\n"
            f"{self.books.text()}"
        )


def run(
    place: Site, postgres: PostgresServer, redis: RedisServer, *, kills: int, count: int
) -> Kills:
    """Deliver ``count`` callbacks through four workers, killing one each second, ``kills`` times.

    Each second the one with the most on the wire dies, or one that is up when nobody has
    anything there. Merchants answer at different speeds and one in ten fails at first, so that
    there is something on the wire most of the time.
    """
    names = [place.endpoint("/slow?ms=300") for _ in range(8)]
    names += [place.endpoint("/slow?ms=600") for _ in range(6)]
    names += [place.endpoint("/success") for _ in range(4)]
    names += [place.endpoint("/flaky?fail=1") for _ in range(2)]
    killed: list[str] = []
    with Fleet(place.settings, place.folder, count=4) as fleet:
        began_s = time.monotonic()
        for number in range(kills):
            if number in (kills // 3, 2 * kills // 3):
                redis.flushall()
            if number == kills // 2:
                postgres.restart("immediate")
            # A round's share just before its kill, so that the kill falls into the middle of it.
            place.enqueue(names, count * (number + 1) // kills - len(place.accepted))
            until(lambda: time.monotonic() >= began_s + number + 1)  # noqa: B023 - used at once
            killed.append(_busiest(place, fleet).kill())
            fleet.tend()
        killing_s = time.monotonic() - began_s
        place.rest(fleet, within_s=180)
        elapsed_s = time.monotonic() - began_s
        books = place.books()
    return Kills(killed=killed, books=books, killing_s=killing_s, elapsed_s=elapsed_s)


def _busiest(place: Site, fleet: Fleet) -> Member:
    """Return the one with the most on the wire, or else the one that has run for longest."""
    found = _open(place)
    return max(fleet.members, key=lambda member: (found[member.name], -member.started_s))


def _open(place: Site) -> Counter[str]:
    """Attempts nobody has closed, by worker; none while the database is away."""
    attempt = tables.attempt
    query = (
        select(attempt.c.worker, func.count())
        .where(attempt.c.outcome.is_(None))
        .group_by(attempt.c.worker)
    )
    try:
        with place.engine.connect() as connection:
            return Counter({row[0]: row[1] for row in connection.execute(query)})
    except DBAPIError:
        return Counter()
