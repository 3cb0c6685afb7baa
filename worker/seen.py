"""What is seen of lanes and endpoints while they are called: health, tallies, counts.

Must never hold what a single notification needs: that stands in ``models.py``.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """A lane's breaker and memory; ``breaker.py`` computes the next one.

    Attributes:
        failures_in_row: since the last success.
        window_ok, window_failed: counts since ``window_age_s`` ago; the window opens with a
            failure.
        open_for_s: seconds until an open breaker lets its one probe through; 0 when the probe
            is due; None when the breaker is closed.
        opened_times: times it opened without a recovery between; stretches the next wait.
        ramp: in-flight limit while recovering; None when fully recovered.
        slow: claimed by the slow pool.
        latency_ms: smoothed reply time.
    """

    failures_in_row: int = 0
    window_ok: int = 0
    window_failed: int = 0
    window_age_s: float = 0.0
    open_for_s: float | None = None
    opened_times: int = 0
    ramp: int | None = None
    slow: bool = False
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What one settle saw of one lane."""

    ok: int = 0
    failed: int = 0
    latency_ms: float = 0.0


@dataclass(slots=True, kw_only=True)  # counted up for every callback, so not frozen
class Measured:
    """What one process saw of one endpoint since it last wrote it down; counts.

    Attributes:
        failed: sends that speak against the merchant's health, dead ones among them.
        dead: notifications given up, for whatever reason.
        held: verdicts that put the endpoint on hold.
        abandoned: attempts whose end nobody saw.
        stale: verdicts that came too late to be written.
        elapsed_ms: of all sends together.
    """

    acked: int = 0
    failed: int = 0
    dead: int = 0
    held: int = 0
    abandoned: int = 0
    stale: int = 0
    elapsed_ms: int = 0
