"""The breaker of one lane: what its next health is, and how many it may have on the wire.

Pure rules. Must never read or write a lane, never burn a try, and never let what one lane does
change another.

::

    closed ───────── too many failures ─────────► open        open_for_s > 0, none may go
      ▲                                           │   ▲
      │ ramp reached the cap           pause over │   │ the probe failed: pause doubles
      │                                           ▼   │
    ramping ◄────── the probe was acked ────── half-open      open_for_s == 0, one may go
      2, 4, 8 … may go; too many failures open it again
"""

from dataclasses import dataclass, replace

from worker.counting import counted, is_live, too_many
from worker.seen import Health, Tally

_SPOTLESS = Health()
_RAMP_START = 2
_SLOW_FAILURES = 3  # one or two failures in a row are weather
# Weight of the newest tally: five of them make two thirds of the smoothed reply time.
_SMOOTHING = 0.2
# Below this share of slow_after_ms a reply time is forgotten, so that a quick lane's row stays
# spotless and settles leave it alone. A lane of steady replies just above slow_after_ms adds
# 0.2 of it at once and is remembered from its first tally.
_FORGET_RATIO = 0.1
_DOUBLINGS_MAX = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When a breaker opens and for how long; built from the settings by the caller.

    Attributes:
        failures: in a row that open it.
        ratio: share of failures in the window that opens it, above 0 to 1.
        window_s: length of the window, seconds; it starts with a failure.
        minimum: sends in the window before the share counts.
        open_s: first pause, seconds; doubles each time it opens without a recovery between.
        open_max_s: longest pause, seconds.
        slow_after_ms: smoothed reply time that makes a lane slow.
    """

    failures: int = 20
    ratio: float = 0.5
    window_s: float = 60.0
    minimum: int = 40
    open_s: float = 30.0
    open_max_s: float = 600.0
    slow_after_ms: float = 2000.0


def after(health: Health, tally: Tally, *, policy: Policy, in_flight_cap: int) -> Health:
    """Compute the health of a lane after one settle.

    Args:
        health: as the row says now, its ages measured on the database clock.
        tally: what the settle saw; replies that say nothing about the merchant's health are
            counted neither as ok nor as failed.
        policy: the thresholds.
        in_flight_cap: most requests on the wire at once; a ramp that reaches it is over.

    Returns:
        The next health; ``health`` itself when the tally changes nothing. Requests that were on
        the wire when the breaker opened change nothing: they are no probe.

    Examples:
        >>> policy = Policy(failures=2)
        >>> after(Health(), Tally(failed=2), policy=policy, in_flight_cap=100).open_for_s
        30.0
    """
    if not tally.ok and not tally.failed:
        return health
    if health.open_for_s is None:
        return _closed(health, tally, policy, in_flight_cap)
    if health.open_for_s > 0:
        return health
    if tally.failed:
        return _opened(_counted(health, tally, policy), policy)
    return _recovering(health, tally, policy, in_flight_cap)


def is_clean(health: Health) -> bool:
    """Tell whether a lane has nothing to remember, so a quiet tally needs no write.

    Examples:
        >>> is_clean(Health()), is_clean(Health(failures_in_row=1))
        (True, False)
    """
    return health == _SPOTLESS


def is_quiet(tally: Tally, *, policy: Policy) -> bool:
    """Tell whether a tally leaves a clean lane clean: no failure, and quick enough replies.

    Examples:
        >>> is_quiet(Tally(ok=9, latency_ms=40.0), policy=Policy())
        True
    """
    return not tally.failed and (
        not tally.ok or _smoothed(0.0, tally.latency_ms, policy) == _SPOTLESS.latency_ms
    )


def allowance(health: Health, cap: int, in_flight: int) -> int:
    """Compute how many notifications of a lane may be claimed now, 0 or more.

    The claim query computes the same in SQL.

    Examples:
        >>> allowance(Health(), 100, 30), allowance(Health(ramp=4), 100, 3)
        (70, 1)
        >>> allowance(Health(open_for_s=0.0), 100, 0), allowance(Health(open_for_s=5.0), 100, 0)
        (1, 0)
    """
    limit = cap if health.ramp is None else min(cap, health.ramp)
    if health.open_for_s is not None:
        limit = 0 if health.open_for_s > 0 else min(cap, 1)
    return max(0, limit - in_flight)


def _closed(health: Health, tally: Tally, policy: Policy, cap: int) -> Health:
    now = _counted(health, tally, policy)
    if tally.failed and too_many(now, policy.failures, policy.minimum, policy.ratio):
        return _opened(now, policy)
    ramp = _next_ramp(health.ramp, tally, cap)
    slow = _is_slow(now, tally, policy)
    recovered = ramp is None and not now.failures_in_row
    return replace(now, ramp=ramp, slow=slow, opened_times=0 if recovered else now.opened_times)


def _counted(health: Health, tally: Tally, policy: Policy) -> Health:
    latency_ms = _smoothed(health.latency_ms, tally.latency_ms, policy)
    return counted(health, tally, live=is_live(health, policy.window_s), latency_ms=latency_ms)


def _opened(health: Health, policy: Policy) -> Health:
    doublings = min(health.opened_times, _DOUBLINGS_MAX)
    return replace(
        health,
        # An old window must not open it again right after a good probe.
        window_ok=0,
        window_failed=0,
        window_age_s=0.0,
        open_for_s=float(min(policy.open_s * 2**doublings, policy.open_max_s)),
        opened_times=health.opened_times + 1,
        ramp=None,
        slow=True,
    )


def _recovering(health: Health, tally: Tally, policy: Policy, cap: int) -> Health:
    now = replace(
        health,
        failures_in_row=0,
        window_ok=0,
        window_failed=0,
        window_age_s=0.0,
        open_for_s=None,
        latency_ms=_smoothed(health.latency_ms, tally.latency_ms, policy),
    )
    ramp = _RAMP_START if cap > _RAMP_START else None
    return replace(
        now,
        ramp=ramp,
        opened_times=0 if ramp is None else health.opened_times,
        slow=_is_slow(now, tally, policy),
    )


def _next_ramp(ramp: int | None, tally: Tally, cap: int) -> int | None:
    if ramp is None:
        return None
    if tally.failed:
        return max(1, ramp // 2)
    return ramp * 2 if ramp * 2 < cap else None


def _is_slow(health: Health, tally: Tally, policy: Policy) -> bool:
    if health.latency_ms > policy.slow_after_ms or health.failures_in_row >= _SLOW_FAILURES:
        return True
    calm = not tally.failed and health.latency_ms < policy.slow_after_ms / 2
    return health.slow and not calm


def _smoothed(before_ms: float, newest_ms: float, policy: Policy) -> float:
    smoothed = before_ms + _SMOOTHING * (newest_ms - before_ms)
    return smoothed if smoothed >= policy.slow_after_ms * _FORGET_RATIO else 0.0
