"""The breaker of one route to a channel.

Pure. Must never let a route that is open be asked, nor count what was on its way when it opened.

::

    closed ── failures in a row ──► open ── pause over ──► one probe ── answered ──► closed
                                     ▲                         │
                                     └──── pause doubled ──────┘ failed
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from worker.breaker import Policy

_DOUBLINGS_MAX = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteHealth:
    """What is remembered of a route.

    Attributes:
        failures_in_row: since the last answer.
        open_until: nothing is asked before, then one probe is; None: closed.
        opened_times: without an answer between; stretches the next pause.
    """

    failures_in_row: int = 0
    open_until: datetime | None = None
    opened_times: int = 0


def after_failure(
    health: RouteHealth, *, now: datetime, policy: Policy, probe: bool
) -> RouteHealth:
    """Compute the health after a question that came back without an answer.

    Args:
        health: before.
        now: aware.
        policy: of the channel; failures in a row and the pauses are read.
        probe: the question was the one an open route was granted.

    Examples:
        >>> from datetime import UTC
        >>> noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
        >>> policy = Policy(failures=1, open_s=30)
        >>> after_failure(RouteHealth(), now=noon, policy=policy, probe=False).open_until.second
        30
    """
    if health.open_until is not None and not probe:
        return health
    failures = health.failures_in_row + 1
    if not probe and failures < policy.failures:
        return RouteHealth(failures_in_row=failures, opened_times=health.opened_times)
    pause_s = min(policy.open_s * 2 ** min(health.opened_times, _DOUBLINGS_MAX), policy.open_max_s)
    return RouteHealth(
        failures_in_row=failures,
        open_until=now + timedelta(seconds=pause_s),
        opened_times=health.opened_times + 1,
    )


def is_open(health: RouteHealth, now: datetime) -> bool:
    """Tell whether nothing may be asked, not even as a probe."""
    return health.open_until is not None and now < health.open_until
