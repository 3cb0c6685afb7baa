"""Callback routes: how one route's health goes on, and how traffic is shared among several.

Pure rules. Must never send anything through a tripped route while another one is left.

::

    sound ──── too many failures, or 410 ────► tripped      nothing but one probe when it is due
      ▲                                         │    ▲
      │ last step passed                 probed │    │ the probe failed: pause doubles
      │                                         ▼    │
    returning ◄──────────────────────────── acked ───┘
      5, 25 … percent of its share; a failure or two trip it again
"""

from collections.abc import Sequence
from dataclasses import replace

from worker.counting import counted, is_live, too_many
from worker.route_facts import Route, RouteHealth, RoutePolicy, RouteTally, Standing

# A returning route has just been away: what one that is sound may get wrong is too much for it.
_RETURNING_FAILURES = 2
_RETURNING_MINIMUM = 10
_DOUBLINGS_MAX = 30
# Sends without a failure that every route is taken to have behind it, so that one failure after
# a quiet time does not take half of its traffic away.
_CREDIT = 10


def after(health: RouteHealth, tally: RouteTally, *, policy: RoutePolicy) -> RouteHealth:
    """Compute the health of a route after one settle.

    Args:
        health: as the row says now, its ages measured on the database clock.
        tally: what the settle saw.
        policy: the thresholds.

    Returns:
        The next health; ``health`` itself when the tally changes nothing. What was sent before
        the route tripped changes nothing, and neither does a failure while it is tripped, unless
        it is the probe's.

    Examples:
        >>> policy = RoutePolicy(failures=2)
        >>> tripped = after(RouteHealth(), RouteTally(trips=0, failed=2), policy=policy)
        >>> tripped.standing.value, tripped.probe_in_s
        ('tripped', 30.0)
        >>> back = after(tripped, RouteTally(trips=1, ok=1), policy=policy)
        >>> back.standing.value, policy.steps[back.step]
        ('returning', 5)
    """
    if tally.trips != health.trips:
        return health
    if tally.gone:
        return replace(_tripped(health, policy), probe_in_s=policy.pause_max_s)
    if not tally.ok and not tally.failed:
        return health
    if health.standing is Standing.TRIPPED:
        return _probed(health, tally, policy)
    if health.standing is Standing.RETURNING:
        return _returning(health, tally, policy)
    return _sound(health, tally, policy)


def is_calm(health: RouteHealth) -> bool:
    """Tell whether a success through this route would be no news.

    Examples:
        >>> is_calm(RouteHealth()), is_calm(RouteHealth(trips=3)), is_calm(RouteHealth(window_ok=1))
        (True, True, False)
    """
    return replace(health, trips=0) == _SPOTLESS


def is_usable(health: RouteHealth) -> bool:
    """Tell whether anything but a probe may go through this route."""
    return health.standing is not Standing.TRIPPED


def kept(health: RouteHealth, policy: RoutePolicy) -> float:
    """Compute how much of its own traffic a route keeps, 0 to 1; the rest goes to its heir.

    Examples:
        >>> kept(RouteHealth(window_ok=30, window_failed=10), RoutePolicy())
        0.8
        >>> kept(RouteHealth(standing=Standing.RETURNING), RoutePolicy())
        0.05
    """
    if health.standing is Standing.TRIPPED:
        return 0.0
    sends = health.window_ok + health.window_failed + _CREDIT
    share = 1 - health.window_failed / sends
    if health.standing is Standing.RETURNING:
        return share * _percent(health.step, policy) / 100
    return share


def shares(
    routes: Sequence[Route], healths: Sequence[RouteHealth], policy: RoutePolicy
) -> tuple[float, ...]:
    """Compute which part of the traffic goes through each route now; the parts sum to 1.

    Args:
        routes: in their order, 1 or more.
        healths: of each of them.
        policy: the grey steps.

    Returns:
        By weight, as much of it as each one keeps. What one does not keep goes to the next sound
        one that has a weight, else to the next spare, else to whatever is left. When all have
        tripped, to the one that is probed first.

    Examples:
        >>> pair = (Route(no=0, url="https://a/", weight=100), Route(no=1, url="https://b/"))
        >>> away = RouteHealth(standing=Standing.TRIPPED)
        >>> shares(pair, (RouteHealth(), RouteHealth()), RoutePolicy())
        (1.0, 0.0)
        >>> shares(pair, (away, RouteHealth()), RoutePolicy())
        (0.0, 1.0)
    """
    weights = [route.weight for route in routes]
    if not any(weights):
        weights[0] = 1
    total = sum(weights)
    parts = [0.0] * len(routes)
    for place, weight in enumerate(weights):
        if weight:
            part = weight / total
            stays = part * kept(healths[place], policy)
            parts[place] += stays
            parts[_heir(place, weights, healths)] += part - stays
    return tuple(parts)


def pick(parts: Sequence[float], luck: float) -> int:
    """Return the place of one route, drawn by its part.

    Args:
        parts: from :func:`shares`.
        luck: from [0, 1).

    Examples:
        >>> pick((0.25, 0.0, 0.75), 0.2), pick((0.25, 0.0, 0.75), 0.25)
        (0, 2)
    """
    last = 0
    for place, part in enumerate(parts):
        if part > 0:
            last = place
            luck -= part
            if luck < 0:
                break
    # Parts that sum to a little less than 1 must not make luck fall behind the last of them.
    return last


def _heir(place: int, weights: Sequence[int], healths: Sequence[RouteHealth]) -> int:
    """Return who gets what the route at ``place`` does not keep."""
    others: list[int] = [*range(place + 1, len(weights)), *range(place)]
    sound = [other for other in others if healths[other].standing is Standing.SOUND]
    weighted = [other for other in sound if weights[other]]
    usable = [other for other in [place, *others] if is_usable(healths[other])]
    best: list[int] = weighted or sound or usable
    if best:
        return best[0]
    return min(range(len(healths)), key=lambda other: healths[other].probe_in_s)


def _sound(health: RouteHealth, tally: RouteTally, policy: RoutePolicy) -> RouteHealth:
    now = counted(health, tally, live=is_live(health, policy.window_s))
    if tally.failed and too_many(now, policy.failures, policy.minimum, policy.ratio):
        return _tripped(now, policy)
    return now


def _probed(health: RouteHealth, tally: RouteTally, policy: RoutePolicy) -> RouteHealth:
    if tally.ok > tally.failed:
        if len(policy.steps) == 1:
            return RouteHealth(trips=health.trips)
        return RouteHealth(standing=Standing.RETURNING, pauses=health.pauses, trips=health.trips)
    return _tripped(health, policy) if tally.failed and health.probing else health


def _returning(health: RouteHealth, tally: RouteTally, policy: RoutePolicy) -> RouteHealth:
    now = counted(health, tally, live=True)
    if tally.failed:
        back = too_many(now, _RETURNING_FAILURES, _RETURNING_MINIMUM, policy.ratio)
        return _tripped(now, policy) if back else now
    if now.window_age_s < policy.step_s:
        return now
    step = now.step + 1
    if _percent(step, policy) >= 100:
        return RouteHealth(trips=now.trips)
    return replace(now, step=step, window_ok=0, window_failed=0, window_age_s=0.0)


def _tripped(health: RouteHealth, policy: RoutePolicy) -> RouteHealth:
    pause_s = policy.pause_s * 2 ** min(health.pauses, _DOUBLINGS_MAX)
    return RouteHealth(
        standing=Standing.TRIPPED,
        probe_in_s=float(min(pause_s, policy.pause_max_s)),
        pauses=health.pauses + 1,
        trips=health.trips + 1,
    )


def _percent(step: int, policy: RoutePolicy) -> int:
    """Return the share at a step; settings may have become shorter while a route returned."""
    return policy.steps[step] if step < len(policy.steps) else 100


_SPOTLESS = RouteHealth()
