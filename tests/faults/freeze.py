"""Acceptance: an endpoint that fails is frozen, answers again, and drains its backlog slowly.

No beat runs: the workers look after it by themselves. What arrived is read from the merchant's
ledger only.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import select

from tests.faults.books import Books, compare
from tests.faults.fleet import Fleet, until
from tests.faults.hanging import percentile, waits
from tests.faults.site import Site
from tests.receiver import Received
from worker import tables
from worker.models import EndpointState

_STEP_S = 0.05
_HEALTHY = 20
_CHUNK = 1000
_PATH = "/toggle/frozen"
_UNFREEZE_MAX_S = 120.0
# How unevenly what was sent evenly may arrive.
_JITTER_S = 0.25
_PING = "msg_ping_"


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """How a run went; times in seconds since the merchant broke down.

    Attributes:
        moments: what happened when.
        rate: of the endpoint, sends a second.
        burnt: notifications that were sent while it was frozen.
        per_s: what arrived in each second since it was let go.
        most: that arrived within any one second since then.
        ahead: at most so many more had arrived at any moment than its limit lets through.
        alone_ms, beside_ms: of the others, without it and while it drained, sorted.
        books: the comparison afterwards, pings left out.
    """

    moments: list[tuple[float, str]]
    rate: float
    burnt: int
    mended_s: float
    unfrozen_s: float
    per_s: list[int]
    most: int
    ahead: float
    alone_ms: list[float]
    beside_ms: list[float]
    books: Books

    @property
    def ratio(self) -> float:
        """p99 of the others beside the drain, as a multiple of p99 without it."""
        return percentile(self.beside_ms, 99) / percentile(self.alone_ms, 99)

    def broken(self, *, p99_growth: float | None) -> list[str]:
        """Which promises did not hold."""
        took_s = self.unfrozen_s - self.mended_s
        checks = {
            f"{self.burnt} tries were used up while it was frozen": self.burnt > 0,
            f"it was let go after {took_s:.0f} s": took_s > _UNFREEZE_MAX_S,
            f"{self.ahead:.0f} ahead of its limit": self.ahead > 2 + _JITTER_S * self.rate,
            f"healthy p99 grew to {self.ratio:.2f} times": (
                p99_growth is not None and self.ratio > p99_growth
            ),
        }
        return [problem for problem, is_so in checks.items() if is_so]

    def text(self) -> str:
        """The run as a timeline."""
        lines = [f"  {at_s:7.1f} s  {what}" for at_s, what in self.moments]
        first = ", ".join(map(str, self.per_s[:8]))
        steady = self.per_s[2:-1] or self.per_s
        pace = f"{sum(steady) / len(steady):.0f}/s (its limit is {self.rate:g}/s)"
        lines += [
            f"  arrived in each second since: {first}, ...",
            f"  on average {pace}; {self.most} within any second at most",
            f"  never more than {self.ahead:.0f} ahead of the limit",
            f"  tries used up while frozen: {self.burnt}",
        ]
        for name, times in (("without it", self.alone_ms), ("beside the drain", self.beside_ms)):
            lines.append(
                f"  the others, {name}: p50 {percentile(times, 50):.1f} ms, "
                f"p99 {percentile(times, 99):.1f} ms of {len(times)}"
            )
        return "\n".join([*lines, f"  p99 ratio {self.ratio:.2f}", self.books.text()])


@dataclass(kw_only=True)
class _Others:
    """Healthy merchants at an even pace."""

    place: Site
    names: list[str]
    per_s: float
    began: dict[int, float] = field(default_factory=dict)
    _next_s: float = 0.0
    _turn: int = 0

    def step(self) -> None:
        """Enqueue what is due now."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + _STEP_S
        self._turn += 1
        shift = self._turn % len(self.names)
        names = self.names[shift:] + self.names[:shift]
        ids = self.place.enqueue(names, max(1, round(self.per_s * _STEP_S)))
        self.began.update(dict.fromkeys(ids, now_s))

    def run(self, seconds: float) -> None:
        """Go on for so long."""
        end_s = time.monotonic() + seconds

        def over() -> bool:
            self.step()
            return time.monotonic() >= end_s

        until(over, within_s=seconds + 30)

    def taken(self) -> dict[int, float]:
        """What was enqueued since the last time this was asked."""
        began, self.began = self.began, {}
        return began


def run(
    place: Site, *, count: int, rate: float, per_s: float, down_s: float, workers: int
) -> Freeze:
    """Break one merchant with ``count`` callbacks waiting, mend it after ``down_s``, drain it.

    Args:
        place: with breakers that open soon.
        count: callbacks of the one that breaks.
        rate: its limit, sends a second.
        per_s: callbacks a second of all the others together.
        down_s: how long it stays down after it was frozen.
        workers: processes.
    """
    others = _Others(place=place, names=[place.endpoint() for _ in range(_HEALTHY)], per_s=per_s)
    place.receiver.control("frozen", 503)
    broken = place.endpoint(_PATH, rate_per_s=rate, in_flight_cap=100)
    with Fleet(place.settings, place.folder, count=workers) as fleet:
        others.run(3)
        others.taken()
        others.run(min(15.0, down_s))
        alone = others.taken()
        drill = _Drill(place=place, fleet=fleet, others=others, broken=broken)
        drill.freeze(count)
        burnt = drill.stay_down(down_s)
        drill.mend()
        others.taken()
        drill.drain(within_s=count / rate * 3 + 60)
        beside = others.taken()
        # Before and after: a shared machine is never twice the same.
        others.run(min(20.0, down_s))
        alone |= others.taken()
        place.rest(fleet)
        records = place.receiver.ledger()
    books = compare(
        place.engine,
        [record for record in records if not record.message_id.startswith(_PING)],
        place.accepted,
    )
    arrived = sorted(record.monotonic_s - drill.start_s for record in _calls(place))
    arrived = arrived[bisect_left(arrived, drill.mended_s) :]
    return Freeze(
        moments=drill.moments,
        rate=rate,
        burnt=burnt,
        mended_s=drill.mended_s,
        unfrozen_s=drill.unfrozen_s,
        per_s=_by_second(arrived),
        ahead=max(before - rate * (at - arrived[0]) for before, at in enumerate(arrived)),
        most=max(bisect_left(arrived, at + 1) - before for before, at in enumerate(arrived)),
        alone_ms=sorted(waits(place, alone)),
        beside_ms=sorted(waits(place, beside)),
        books=books,
    )


class _Drill:
    """One merchant that breaks down, step by step; the others go on meanwhile."""

    def __init__(self, *, place: Site, fleet: Fleet, others: _Others, broken: str) -> None:
        self._place, self._fleet, self._others, self._broken = place, fleet, others, broken
        self._ids: list[int] = []
        self.moments: list[tuple[float, str]] = []
        self.start_s = time.monotonic()
        self.mended_s = self.unfrozen_s = 0.0

    def freeze(self, count: int) -> None:
        """Let it be called until it is frozen."""
        while len(self._ids) < count:
            wanted = min(_CHUNK, count - len(self._ids))
            self._ids += self._place.enqueue([self._broken], wanted)
            self._others.step()
        self._note(f"the merchant is down; {count} callbacks are due")
        self._until(lambda: self._state is EndpointState.FROZEN, 90)
        self._note(f"frozen: {self._place.endpoints.find(self._broken).state_reason}")

    def stay_down(self, down_s: float) -> int:
        """Wait; returns how much was sent to it while it was frozen."""
        # What was on the wire when it was frozen comes to its end.
        self._others.run(self._place.settings.timeout_s + 0.5)
        before = len(_calls(self._place))
        self._others.run(down_s)
        return len(_calls(self._place)) - before

    def mend(self) -> None:
        """Let it answer again, and wait until it is let go."""
        self._place.receiver.control("frozen", 200)
        self.mended_s = self._note("the merchant answers again")
        self._until(lambda: self._state is EndpointState.ACTIVE, _UNFREEZE_MAX_S + 30)
        self.unfrozen_s = self._note(f"let go, after {len(_calls(self._place, pings=True))} pings")

    def drain(self, *, within_s: float) -> None:
        """Wait until its backlog is delivered."""
        self._until(lambda: _finished(self._place, self._ids), within_s)
        self._note(f"all {len(self._ids)} are delivered")

    @property
    def _state(self) -> EndpointState:
        return self._place.endpoints.find(self._broken).state

    def _until(self, fact: Callable[[], bool], within_s: float) -> None:
        def there() -> bool:
            self._others.step()
            return fact()

        until(there, within_s=within_s, why=self._fleet.last_words)

    def _note(self, what: str) -> float:
        self.moments.append((time.monotonic() - self.start_s, what))
        return self.moments[-1][0]


def _calls(place: Site, *, pings: bool = False) -> list[Received]:
    """What the broken one was asked: notifications, or pings."""
    return [
        record
        for record in place.receiver.ledger()
        if record.path == _PATH and record.message_id.startswith(_PING) is pings
    ]


def _by_second(arrived: list[float]) -> list[int]:
    counts = Counter(int(at - arrived[0]) for at in arrived)
    return [counts[second] for second in range(max(counts) + 1)]


def _finished(place: Site, ids: list[int]) -> bool:
    delivery = tables.delivery
    unfinished = select(delivery.c.id).where(
        delivery.c.id.between(min(ids), max(ids)),
        delivery.c.state.in_(["waiting", "pending", "sending"]),
    )
    with place.engine.connect() as connection:
        return frozenset(ids).isdisjoint(connection.scalars(unfinished))
