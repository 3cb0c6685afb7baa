"""Decides what becomes of ticks whose time has come: run, or only written down. Pure.

A tick that is found within ``GRACE`` is on time, so that restarting beat changes nothing. Later
ones were missed, because no beat ran, and the line's policy says what becomes of them:

* ``skip``: nothing; the next tick comes when it comes.
* ``once``: one run, for the newest of them, makes up for all.
* ``all``: every one is run, oldest first, but no more than ``limit`` of them, the newest.

While ticks wait that no worker takes, more would only pile up: with ``skip`` and ``once`` none is
added to one that waits for longer than ``GRACE``, with ``all`` never more than ``limit`` wait.

Must never leave a tick out silently: what is not run has a note that says why.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from schedules.cron import Cron, newest_ticks

GRACE = timedelta(seconds=30)
# Older ones than these are not written down one by one: a line of every second, a day later.
KEPT_MAX = 500
LIMIT_MAX = 200


class CatchUp(StrEnum):
    """What becomes of missed ticks; see the module."""

    SKIP = "skip"
    ONCE = "once"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a line wants.

    Attributes:
        limit: with ``all``, most missed ticks that are run, and most that wait; 1 to 200.
    """

    catch_up: CatchUp = CatchUp.ONCE
    limit: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Ticks of the line that are due and that no worker has taken.

    Attributes:
        oldest: None when none waits.
    """

    count: int = 0
    oldest: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of ticks up to a moment.

    Attributes:
        run: in order.
        skip: those that are only written down, each with why.
    """

    run: tuple[datetime, ...] = ()
    skip: tuple[tuple[datetime, str], ...] = ()


def decide(
    cron: Cron, policy: Policy, *, until: datetime, now: datetime, waiting: Waiting | None = None
) -> Decision:
    """Decide about every tick in (``until``, ``now``].

    Args:
        cron: when it ticks.
        policy: for those that were missed.
        until: everything up to here is decided already.
        now: aware.
        waiting: what waits already; None is nothing.

    Examples:
        >>> from datetime import UTC
        >>> noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
        >>> hourly = Cron(expression="0 * * * *")
        >>> made = decide(hourly, Policy(), until=noon, now=noon + timedelta(hours=3.5))
        >>> [f"{tick:%H:%M}" for tick in made.run], [f"{tick:%H:%M}" for tick, _ in made.skip]
        (['15:00'], ['13:00', '14:00'])
    """
    found = newest_ticks(cron, after=until, until=now, limit=KEPT_MAX)
    late = [tick for tick in found if now - tick > GRACE]
    fresh = found[len(late) :]
    run, skip = _missed(policy, late, fresh)
    run, crowded = _make_room(policy, run, waiting or Waiting(), now)
    skip += crowded
    if len(found) == KEPT_MAX and skip:
        skip.sort()
        tick, why = skip[0]
        skip[0] = (tick, f"{why}; so were all before it since {_show(until)}")
    return Decision(run=tuple(run), skip=tuple(sorted(skip)))


_Skips = list[tuple[datetime, str]]


def _missed(
    policy: Policy, late: Sequence[datetime], fresh: Sequence[datetime]
) -> tuple[list[datetime], _Skips]:
    if not late:
        return list(fresh), []
    if policy.catch_up is CatchUp.SKIP:
        return list(fresh), _each(late, "missed, because no beat ran")
    if policy.catch_up is CatchUp.ONCE:
        *others, newest = [*late, *fresh]
        return [newest], _each(others, f"missed; the run of {_show(newest)} makes up for it")
    kept = list(late[-policy.limit :])
    why = f"missed; no more than {policy.limit} are run afterwards"
    return [*kept, *fresh], _each(late[: -policy.limit], why)


def _make_room(
    policy: Policy, run: list[datetime], waiting: Waiting, now: datetime
) -> tuple[list[datetime], _Skips]:
    if waiting.oldest is None:
        return run, []
    why = f"the tick of {_show(waiting.oldest)} still waits for a worker"
    if policy.catch_up is CatchUp.ALL:
        room = max(0, policy.limit - waiting.count)
        return run[:room], _each(run[room:], why)
    return (run, []) if now - waiting.oldest <= GRACE else ([], _each(run, why))


def _each(ticks: Iterable[datetime], why: str) -> _Skips:
    return [(tick, why) for tick in ticks]


def _show(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%SZ}"
