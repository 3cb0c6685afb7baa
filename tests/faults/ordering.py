"""Acceptance: events of many keys to fitful merchants, through workers that are killed.

Two hosts enqueue into the same keys at the same time, so only the ids say what comes first. Must
never believe our own database about the order: it is read from the merchant's ledger.
"""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import select

from tests.faults.books import Books
from tests.faults.fleet import Fleet, until
from tests.faults.site import Site
from worker import tables
from worker.client import Enqueue

_HOSTS = 2
# Events of one transaction; each of another key.
_TOGETHER = 50


@dataclass(frozen=True, kw_only=True)
class Ordering:
    """How a run went.

    Attributes:
        keys: how many lines.
        killed: names of the workers, as their attempts carry them.
        blocked_most: rows that stood behind others at once, at most, as far as was looked.
        wrong: keys whose first successes were not in the order of ids.
        missing: events the merchant never said yes to.
        books: the comparison afterwards.
        elapsed_s: from the first enqueue to rest.
    """

    keys: int
    killed: list[str]
    blocked_most: int
    wrong: list[str]
    missing: int
    books: Books
    elapsed_s: float

    def text(self) -> str:
        """The run in a few lines."""
        return (
            f"{self.books.accepted} events of {self.keys} keys by {_HOSTS} hosts, "
            f"{len(self.killed)} workers killed, at rest after {self.elapsed_s:.1f} s\n"
            f"  blocked at once, at most               {self.blocked_most}\n"
            f"  keys with a first success out of order {len(self.wrong)}\n"
            f"  events without a success               {self.missing}\n"
            f"{self.books.text()}"
        )


def run(place: Site, *, keys: int, events: int, kills: int) -> Ordering:
    """Deliver ``events`` of each of ``keys`` lines, killing a worker a second, ``kills`` times."""
    names = [place.endpoint(f"/fitful?percent=30&ms={ms}") for ms in (5, 50, 200, 400)]
    lines = [(names[number % len(names)], f"order-{number}") for number in range(keys)]
    killed: list[str] = []
    blocked_most = 0
    luck = random.Random(7)
    with Fleet(place.settings, place.folder, count=4) as fleet:
        began_s = time.monotonic()
        with ThreadPoolExecutor(_HOSTS) as hosts:
            each = [events // _HOSTS + (host < events % _HOSTS) for host in range(_HOSTS)]
            jobs = [
                hosts.submit(_enqueue, place, lines, host, rounds)
                for host, rounds in enumerate(each)
            ]
            for number in range(kills):
                until(lambda: time.monotonic() >= began_s + number + 1)  # noqa: B023 - used at once
                blocked_most = max(blocked_most, place.open().get("blocked", 0))
                killed.append(luck.choice(fleet.members).kill())
                fleet.tend()
            place.accepted += [id_ for job in jobs for id_ in job.result()]
        place.rest(fleet, within_s=max(60.0, keys * events / 20))
        elapsed_s = time.monotonic() - began_s
    wrong, missing = _judged(place)
    return Ordering(
        keys=keys,
        killed=killed,
        blocked_most=blocked_most,
        wrong=wrong,
        missing=missing,
        books=place.books(),
        elapsed_s=elapsed_s,
    )


def _enqueue(place: Site, lines: list[tuple[str, str]], host: int, rounds: int) -> list[int]:
    """Write ``rounds`` events into each line, a transaction for a few lines."""
    luck = random.Random(host)
    ids: list[int] = []
    for number in range(rounds):
        shuffled = luck.sample(lines, len(lines))
        for first in range(0, len(shuffled), _TOGETHER):
            together = [
                Enqueue(
                    endpoint=endpoint,
                    event_type="order.moved",
                    event_key=f"{key}:{host}:{number}",
                    payload={"order_no": key},
                    ordering_key=key,
                )
                for endpoint, key in shuffled[first : first + _TOGETHER]
            ]
            with place.engine.begin() as tx:
                ids += [id_ for [id_] in place.notifier.enqueue_many(tx, together)]
    return ids


def _judged(place: Site) -> tuple[list[str], int]:
    """Return the keys whose first successes are out of order, and how many never succeeded."""
    table = tables.notification
    with place.engine.connect() as connection:
        rows = connection.execute(
            select(table.c.message_id, table.c.ordering_key).order_by(table.c.id)
        ).all()
    first_yes: dict[str, float] = {}
    for record in sorted(place.receiver.ledger(), key=lambda one: one.monotonic_s):
        if 200 <= record.status <= 299:
            first_yes.setdefault(record.message_id, record.monotonic_s)
    moments: dict[str, list[float]] = {}
    for row in rows:
        if row.message_id in first_yes:
            moments.setdefault(row.ordering_key, []).append(first_yes[row.message_id])
    wrong = [key for key, seen in moments.items() if seen != sorted(seen)]
    return wrong, sum(row.message_id not in first_yes for row in rows)
