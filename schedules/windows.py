"""When a channel is asked next about an order or a refund, by its age.

Pure. Must never come out earlier than the window says: jitter only adds.
"""

from datetime import datetime, timedelta
from enum import StrEnum

# An answer may add this share of its pause at most.
JITTER_RATIO = 0.1
# Longest pause after answers that said nothing.
UNKNOWN_MAX_S = 21_600.0
_UNKNOWN_FIRST_S = 60.0
_DOUBLINGS_MAX = 16

# (age up to, seconds between two questions), seconds since the order was placed. In the first
# minute nobody asks: the channel's own callback is on its way.
_ORDER = ((600.0, 60.0), (3600.0, 600.0), (86_400.0, 3600.0), (604_800.0, 86_400.0))
# Bank cards take one to three working days; nothing is given up for a month.
_REFUND = (
    (300.0, 60.0),
    (600.0, 300.0),
    (1200.0, 600.0),
    (3600.0, 1200.0),
    (10_800.0, 1800.0),
    (86_400.0, 3600.0),
    (259_200.0, 21_600.0),
    (2_592_000.0, 86_400.0),
)
_FIRST_S = 60.0


class Kind(StrEnum):
    """What is asked about."""

    ORDER = "order"
    REFUND = "refund"


_WINDOWS = {Kind.ORDER: _ORDER, Kind.REFUND: _REFUND}


def first_check(placed_at: datetime, *, luck: float) -> datetime:
    """Compute when to ask for the first time: a minute after it was placed.

    Args:
        placed_at: aware.
        luck: 0 to 1, how much of the jitter is added.

    Examples:
        >>> from datetime import UTC
        >>> first_check(datetime(2026, 1, 31, 12, tzinfo=UTC), luck=0).isoformat()
        '2026-01-31T12:01:00+00:00'
    """
    return placed_at + timedelta(seconds=_stretched(_FIRST_S, luck))


def next_check(
    kind: Kind, placed_at: datetime, *, now: datetime, luck: float, unknowns: int = 0
) -> datetime:
    """Compute when to ask again.

    Args:
        kind: orders and refunds have windows of their own.
        placed_at: when the order or refund was placed (aware); may lie ahead of ``now``.
        now: when the last answer was judged (aware).
        luck: 0 to 1, how much of the jitter is added.
        unknowns: answers in a row that said nothing, 0 or more; each doubles the pause, from a
            minute up to six hours, but never below the window's own.

    Returns:
        Later than ``now``; too old or not is asked of :func:`is_too_old`.

    Examples:
        >>> from datetime import UTC
        >>> noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
        >>> def pause(**age: float) -> str:
        ...     at = noon + timedelta(**age)
        ...     return str(next_check(Kind.ORDER, noon, now=at, luck=0) - at)
        >>> pause(minutes=5), pause(minutes=30), pause(hours=5), pause(days=3)
        ('0:01:00', '0:10:00', '1:00:00', '1 day, 0:00:00')
    """
    if now < placed_at:
        return first_check(placed_at, luck=luck)
    pause_s = _pause_s(kind, (now - placed_at).total_seconds())
    if unknowns > 0:
        doubled_s = _UNKNOWN_FIRST_S * 2 ** min(unknowns - 1, _DOUBLINGS_MAX)
        pause_s = max(pause_s, min(doubled_s, UNKNOWN_MAX_S))
    return now + timedelta(seconds=_stretched(pause_s, luck))


def is_too_old(kind: Kind, placed_at: datetime, *, now: datetime) -> bool:
    """Tell whether asking has gone on for long enough: orders 7 days, refunds 30.

    Examples:
        >>> from datetime import UTC
        >>> noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
        >>> is_too_old(Kind.ORDER, noon, now=noon + timedelta(days=7))
        True
        >>> is_too_old(Kind.REFUND, noon, now=noon + timedelta(days=7))
        False
    """
    return (now - placed_at).total_seconds() >= _WINDOWS[kind][-1][0]


def _pause_s(kind: Kind, age_s: float) -> float:
    windows = _WINDOWS[kind]
    # After the last window nobody asks on, but an answer may just have come.
    return next((pause_s for up_to_s, pause_s in windows if age_s < up_to_s), windows[-1][1])


def _stretched(seconds: float, luck: float) -> float:
    return seconds * (1 + JITTER_RATIO * luck)
