"""Works out when a cron expression ticks in its time zone. Pure: no clock, no database.

Five fields (minute hour day month weekday) or six, the sixth being seconds, as croniter reads
them: ``30 2 * * *`` is half past two, ``* * * * * */10`` every ten seconds. ``@hourly``,
``@daily`` and their like are known too. When clocks are changed:

* A time that is left out runs once, at the first instant after the gap: ``30 2 * * *`` at 03:00.
* A time that comes twice runs once, the first time. Only a line whose hour is ``*`` names no time
  of day: it goes on through the repeated hour, so that ``*/5 * * * *`` never pauses for one.

Must never name an instant twice, nor out of order.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import croniter

from worker.errors import BadFieldError

_SECOND = timedelta(seconds=1)
# No zone changes its clock twice in so short a time.
_PROBE = timedelta(hours=12)
# The 29th of February comes after eight years at the latest; a zone cannot move it further.
_HORIZON = timedelta(days=366 * 9)
# Longer than any that a person would write.
_LENGTH_MAX = 200
_FIELDS_FIX = (
    'write "minute hour day month weekday", with seconds as a sixth field where needed, for '
    'example "30 2 * * *" or "* * * * * */10"'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """When something runs.

    Attributes:
        expression: as croniter reads it; see the module.
        zone: IANA name.
    """

    expression: str
    zone: str = "UTC"

    def __post_init__(self) -> None:
        """Refuse what cannot come true.

        Raises:
            BadFieldError: the expression or the zone is none.
        """
        if not _is_expression(self.expression):
            raise BadFieldError(
                "cron", f"{str(self.expression)[:60]!r} is no cron expression; {_FIELDS_FIX}"
            )
        if not _is_zone(self.zone):
            raise BadFieldError(
                "zone", f"{str(self.zone)[:60]!r} is unknown; write one like Asia/Shanghai or UTC"
            )


def ticks_between(cron: Cron, *, after: datetime, until: datetime) -> Iterator[datetime]:
    """Say when it ticks, lazily and in order, in UTC.

    Args:
        cron: the line.
        after: aware; a tick at this very instant is not named.
        until: aware; a tick at this very instant is.

    Examples:
        >>> at = datetime(2026, 3, 28, tzinfo=UTC)
        >>> night = Cron(expression="30 2 * * *", zone="Europe/Berlin")
        >>> [f"{t:%d %H:%M}" for t in ticks_between(night, after=at, until=at + timedelta(days=3))]
        ['28 01:30', '29 01:00', '30 00:30']
    """
    zone = ZoneInfo(cron.zone)
    names_hours = croniter.expand(cron.expression)[0][1] != ["*"]
    at = after.astimezone(UTC)
    piece = _Piece(cron.expression, at, _offset(zone, at))
    while True:
        tick = piece.following()
        change = _change(zone, at, min(tick, until))
        if change is not None:
            before, at = piece, change
            piece = _Piece(cron.expression, change - _SECOND, _offset(zone, change))
            if _skipped(before, piece, change):
                yield change
                piece.leave_out(change)
        elif tick > until:
            return
        else:
            at = tick
            if not (names_hours and tick.astimezone(zone).fold):
                yield tick


def next_ticks(cron: Cron, *, after: datetime, count: int) -> list[datetime]:
    """Say the next ``count`` times it ticks after an aware time, in UTC.

    Examples:
        >>> five, new_year = Cron(expression="*/5 * * * *"), datetime(2026, 1, 1, tzinfo=UTC)
        >>> [f"{tick:%H:%M}" for tick in next_ticks(five, after=new_year, count=2)]
        ['00:05', '00:10']
    """
    return list(islice(ticks_between(cron, after=after, until=after + _HORIZON), count))


def newest_ticks(cron: Cron, *, after: datetime, until: datetime, limit: int) -> list[datetime]:
    """Say the newest ``limit`` ticks in (after, until], in order, in UTC.

    Costs as much as what it returns, however long ago ``after`` is.

    Examples:
        >>> secondly, now = Cron(expression="* * * * * *"), datetime(2026, 1, 1, tzinfo=UTC)
        >>> ages_ago = now - timedelta(days=9999)
        >>> [tick.second for tick in newest_ticks(secondly, after=ages_ago, until=now, limit=2)]
        [59, 0]
    """
    window = timedelta(seconds=limit)
    while True:
        start = max(after, until - window) if window < until - after else after
        found = deque(ticks_between(cron, after=start, until=until), maxlen=limit)
        if start == after or len(found) == limit:
            return list(found)
        window *= 4


def _is_expression(text: object) -> bool:
    """Tell whether this is a cron expression that can come true.

    croniter's ``R`` and ``H`` (a random or hashed place) are none: every process would read them
    otherwise.
    """
    if not isinstance(text, str) or len(text) > _LENGTH_MAX:
        return False
    fields = text.split()
    known = text.startswith("@") if len(fields) == 1 else len(fields) in (5, 6)
    moving = any(field[0] in "RrHh" for field in fields)
    return known and not moving and bool(croniter.is_valid(text, strict=True))


def _is_zone(name: object) -> bool:
    try:
        return isinstance(name, str) and bool(ZoneInfo(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False


class _Piece:
    """A stretch of time in which a zone's offset from UTC stays the same."""

    def __init__(self, expression: str, after: datetime, offset: timedelta) -> None:
        self._expression = expression
        self._offset = offset
        self._after = after
        self._walk = self._walker(after)

    def following(self) -> datetime:
        """Return the next tick as if the offset stayed for ever."""
        wall: datetime = self._walk.get_next(datetime)
        return wall.replace(tzinfo=UTC) - self._offset

    def wall(self, at: datetime) -> datetime:
        """Return what clocks show here."""
        return at.replace(tzinfo=None) + self._offset

    def ticks_in(self, start: datetime, end: datetime) -> bool:
        """Tell whether it ticks in [start, end), as clocks show."""
        first = croniter(self._expression, start - _SECOND).get_next(datetime)
        return bool(first < end)

    def leave_out(self, at: datetime) -> None:
        """Go on after ``at``."""
        self._walk = self._walker(at)

    def _walker(self, after: datetime) -> croniter:
        # To the whole second before: croniter rounds what is smaller.
        return croniter(self._expression, self.wall(after.replace(microsecond=0)))


def _skipped(before: _Piece, now: _Piece, change: datetime) -> bool:
    start, end = before.wall(change), now.wall(change)
    return start < end and now.ticks_in(start, end)


def _change(zone: tzinfo, after: datetime, until: datetime) -> datetime | None:
    """Find the first instant in (after, until] at which the offset is another one."""
    low, offset = after, _offset(zone, after)
    while low < until:
        high = min(low + _PROBE, until)
        if _offset(zone, high) != offset:
            return _first_other(zone, low, high, offset)
        low = high
    return None


def _first_other(zone: tzinfo, low: datetime, high: datetime, offset: timedelta) -> datetime:
    # Clocks change on whole seconds.
    first, last = int(low.timestamp()), -int(-high.timestamp() // 1)
    while last - first > 1:
        middle = (first + last) // 2
        if _offset(zone, datetime.fromtimestamp(middle, UTC)) == offset:
            first = middle
        else:
            last = middle
    return datetime.fromtimestamp(last, UTC)


def _offset(zone: tzinfo, at: datetime) -> timedelta:
    found = at.astimezone(zone).utcoffset()
    assert found is not None  # noqa: S101 - for the type checker
    return found
