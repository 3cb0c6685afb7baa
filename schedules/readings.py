"""What a measure is asked, and what it answers.

Values and promises. Must never hold money in anything but whole minor units.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import Connection

# A reading names at most so many subjects, the worst ones: more are a storm anyway.
SUBJECTS_MAX = 200

Number = int | float | Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a rule wants to know.

    Attributes:
        now: on the database's clock.
        window_s: what counts as now, seconds.
        baseline_s: what counts as usual: so long before the window, seconds.
        minimum: fewer sends (or endpoints, or questions) than this say nothing.
        least: lowest threshold; a measure may leave out what is below.
        most: highest threshold; a measure may stop counting at twice of it.
        breaker_failures: failures in a row that open a breaker.
    """

    now: datetime
    window_s: int
    baseline_s: int
    minimum: int
    least: Number
    most: Number
    breaker_failures: int

    @property
    def since(self) -> datetime:
        """When the window begins: a whole minute."""
        began: datetime = self.now - timedelta(seconds=self.window_s)
        return began.replace(second=0, microsecond=0)

    @property
    def usual_since(self) -> datetime:
        """When the time begins that says what is usual."""
        return self.since - timedelta(seconds=self.baseline_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was measured of one subject.

    Attributes:
        subject: an endpoint, a channel, a currency, a schedule; empty is everything.
        value: the higher the worse.
        summary: one sentence for the person on call.
    """

    subject: str = ""
    value: Number
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One thing that can be measured.

    Attributes:
        name: what rules call it.
        unit: of its values, for people.
        subject: what kind of thing it is taken of; empty is everything together.
        take: reads it; bounded, by an index, at most some 200 ms of the database's time.
    """

    name: str
    unit: str
    subject: str
    take: Callable[[Connection, Question], Sequence[Reading]]


def span(seconds: float) -> str:
    """Write a length of time for people.

    Examples:
        >>> span(45), span(300), span(7200), span(200000)
        ('45 s', '5 min', '2 h', '2 days')
    """
    for size, unit, until in ((1, "s", 120), (60, "min", 7200), (3600, "h", 172_800)):
        if seconds < until:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def percent(part: float) -> str:
    """Write a share for people.

    Examples:
        >>> percent(0.256)
        '26 %'
    """
    return f"{part * 100:.0f} %"
