"""Asks a channel over the first of its routes that works, no faster than it allows.

Threads share one :class:`Line` per channel. Must never ask a route whose breaker is open, nor let
a question that could not be asked count as an answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from threading import Lock
from typing import Generic, Protocol, TypeVar

from schedules.ports import ChannelPort, Finding, RefundFinding
from schedules.route_book import RouteBook
from schedules.route_health import RouteHealth, after_failure, is_open
from worker import clock
from worker.breaker import Policy

Answer = TypeVar("Answer", Finding, RefundFinding)
# Questions are reserved this far ahead, so that one row is not written for each.
_AHEAD_S = 2.0
_STEP_MAX = timedelta(hours=1)


class Route(Protocol):
    """One way to ask a channel."""

    @property
    def name(self) -> str:
        """Unique within its channel."""
        ...

    @property
    def port(self) -> ChannelPort:
        """Safe to share between threads."""
        ...


class Channel(Protocol):
    """What is configured of one channel."""

    @property
    def name(self) -> str:
        """What orders call it."""
        ...

    @property
    def currency(self) -> str:
        """What its amounts are in unless it says otherwise."""
        ...

    @property
    def routes(self) -> Sequence[Route]:
        """At least one; the first is asked first."""
        ...

    @property
    def rate_per_s(self) -> float:
        """Most questions a second, over all routes and processes."""
        ...

    @property
    def breaker(self) -> Policy:
        """When a route is left alone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Said(Generic[Answer]):
    """An answer and the route it came over."""

    finding: Answer
    route: str


class Instant:
    """The database's time, carried on by this machine's monotonic clock.

    Args:
        started_at: the database's time now (aware).
    """

    def __init__(self, started_at: datetime) -> None:
        self._started_at = started_at
        self._started_s = clock.monotonic_s()

    def now(self) -> datetime:
        """Return the present time."""
        return self._started_at + timedelta(seconds=clock.monotonic_s() - self._started_s)


class Line:
    """One channel for the length of a step.

    Args:
        channel: its routes, pace and breaker.
        book: where health and pace are kept.
        instant: the time.
        expected: questions that are to come; room is reserved for them together.
        wait: blocks a thread for so many seconds.
    """

    def __init__(
        self,
        channel: Channel,
        book: RouteBook,
        instant: Instant,
        *,
        expected: int = 1,
        wait: Callable[[float], None] = clock.sleep,
    ) -> None:
        self.channel = channel
        self._book, self._instant, self._wait = book, instant, wait
        self._lock = Lock()
        self._health = book.health(channel.name)
        self._unwritten: set[str] = set()
        self._expected = expected
        self._next_at = instant.now()
        self._reserved = 0

    def ask(
        self, question: Callable[[ChannelPort], Answer], *, by: datetime | None = None
    ) -> Said[Answer] | None:
        """Ask over one route after the other until one answers.

        Args:
            question: asks a port; blocks for as long as the port's own deadline.
            by: the question must go out before (aware); None: whenever there is room.

        Returns:
            The first answer; the last one that said nothing, when no route gave another; None
            when it could not be asked: all routes are open, or there was no room in time.
        """
        last: Said[Answer] | None = None
        for route in self.channel.routes:
            if self._is_shut(route.name):
                continue
            if not self._paced(by):
                return last
            # After the wait: another thread may have found the route dead meanwhile.
            probe = self._admit(route.name)
            if probe is None:
                continue
            finding = question(route.port)
            last = Said(finding=finding, route=route.name)
            # Whatever the route answered, that the channel does not know is its last word.
            if not finding.route_failed:
                self._answered(route.name, probe=probe)
                return last
            self._failed(route.name, probe=probe)
        return last

    def close(self) -> None:
        """Write down the failures that were counted; a killed process only forgets counts."""
        with self._lock:
            for name in sorted(self._unwritten):
                self._write(name)

    def _is_shut(self, name: str) -> bool:
        with self._lock:
            return is_open(self._health.get(name, RouteHealth()), self._instant.now())

    def _admit(self, name: str) -> bool | None:
        """Say whether a route may be asked: None no, True as a probe, False as always."""
        now = self._instant.now()
        with self._lock:
            health = self._health.get(name, RouteHealth())
            if health.open_until is None:
                return False
            if is_open(health, now):
                return None
            granted = self._book.grant_probe(self.channel.name, name, health, now=now)
            # Somebody else probes: what comes of it is read with the next step.
            self._health[name] = granted or replace(health, open_until=now + _STEP_MAX)
            return None if granted is None else True

    def _answered(self, name: str, *, probe: bool) -> None:
        with self._lock:
            health = self._health.get(name, RouteHealth())
            if health == RouteHealth() or (health.open_until is not None and not probe):
                return
            self._health[name] = RouteHealth()
            self._remember(name, at_once=probe)

    def _failed(self, name: str, *, probe: bool) -> None:
        with self._lock:
            before = self._health.get(name, RouteHealth())
            health = after_failure(
                before, now=self._instant.now(), policy=self.channel.breaker, probe=probe
            )
            if health != before:
                self._health[name] = health
                self._remember(name, at_once=health.open_until is not None)

    def _remember(self, name: str, *, at_once: bool) -> None:
        """Write what others must know now; mere counts wait for :meth:`close`."""
        self._unwritten.add(name)
        if at_once:
            self._write(name)

    def _write(self, name: str) -> None:
        health, now = self._health[name], self._instant.now()
        self._book.write(self.channel.name, name, health, now=now)
        self._unwritten.discard(name)

    def _paced(self, by: datetime | None) -> bool:
        """Wait for room; False when there is none in time."""
        with self._lock:
            now = self._instant.now()
            if by is not None and now >= by:
                return False
            if not self._reserved:
                rate = self.channel.rate_per_s
                ahead = max(1, min(self._expected, int(rate * _AHEAD_S)))
                self._next_at = self._book.reserve(self.channel.name, ahead, rate, now=now)
                self._reserved = ahead
                self._expected -= ahead
            at = self._next_at
            if by is not None and at >= by:
                return False
            self._reserved -= 1
            self._next_at = at + timedelta(seconds=1 / self.channel.rate_per_s)
        wait_s = (at - now).total_seconds()
        if wait_s > 0:
            self._wait(wait_s)
        return True
