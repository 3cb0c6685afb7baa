"""The only reader of wall-clock and monotonic time.

Never used for deciding what is due or whose lease has run out: that is the database's clock.
"""

import time
from datetime import UTC, datetime


def now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)


def unix_s() -> int:
    """Return whole seconds since 1970-01-01 UTC, as signatures carry them."""
    return int(time.time())


def monotonic_s() -> float:
    """Return seconds from an arbitrary start that never run backwards."""
    return time.monotonic()


def sleep(seconds: float) -> None:
    """Block the calling thread for ``seconds`` (0 or more)."""
    time.sleep(seconds)


def to_us(moment: datetime) -> int:
    """Turn an aware time into whole microseconds since 1970-01-01 UTC.

    Examples:
        >>> to_us(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
        1000000
    """
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def from_us(microseconds: int) -> datetime:
    """Turn microseconds since 1970-01-01 UTC into an aware time.

    Examples:
        >>> from_us(1_000_000)
        datetime.datetime(1970, 1, 1, 0, 0, 1, tzinfo=datetime.timezone.utc)
    """
    return datetime.fromtimestamp(microseconds // 1_000_000, UTC).replace(
        microsecond=microseconds % 1_000_000
    )


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
