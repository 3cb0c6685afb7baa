"""When a cron expression ticks, in every zone, whatever its clocks do."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from croniter import croniter
from hypothesis import given
from hypothesis import strategies as st

from schedules.cron import Cron, newest_ticks, next_ticks, ticks_between
from worker.errors import BadFieldError

_MINUTE = timedelta(minutes=1)
_YEARS = (datetime(2024, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC))


def _local(cron: Cron, after: datetime, until: datetime) -> list[str]:
    zone = ZoneInfo(cron.zone)
    found = ticks_between(cron, after=after, until=until)
    return [f"{tick.astimezone(zone):%d %H:%M%z}" for tick in found]


@pytest.mark.parametrize(
    ("zone", "at", "day", "expected"),
    [
        ("Europe/Berlin", "02:30", "2026-03-28", "28 02:30+0100, 29 03:00+0200, 30 02:30+0200"),
        ("Europe/Berlin", "02:30", "2026-10-24", "24 02:30+0200, 25 02:30+0200, 26 02:30+0100"),
        ("America/New_York", "02:30", "2026-03-07", "07 02:30-0500, 08 03:00-0400, 09 02:30-0400"),
        ("America/New_York", "01:30", "2026-10-31", "31 01:30-0400, 01 01:30-0400, 02 01:30-0500"),
        (
            "Australia/Lord_Howe",
            "2:15",
            "2026-10-03",
            "03 02:15+1030, 04 02:30+1100, 05 02:15+1100",
        ),
        ("America/Santiago", "00:30", "2026-09-05", "05 00:30-0400, 06 01:00-0300, 07 00:30-0300"),
        ("Asia/Shanghai", "02:30", "2026-03-28", "28 02:30+0800, 29 02:30+0800, 30 02:30+0800"),
    ],
)
def test_a_daily_line_runs_exactly_once_on_the_days_clocks_are_changed(
    zone: str, at: str, day: str, expected: str
) -> None:
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    end = (start + timedelta(days=3)).astimezone(UTC) - timedelta(seconds=1)
    hour, _, minute = at.partition(":")
    cron = Cron(expression=f"{minute} {hour} * * *", zone=zone)
    assert _local(cron, start - _MINUTE, end) == expected.split(", ")


def test_several_left_out_times_make_one_run_at_the_first_instant_after_the_gap() -> None:
    cron = Cron(expression="0,15,30,45 1-3 * * *", zone="Europe/Berlin")
    night = datetime(2026, 3, 29, 0, 40, tzinfo=UTC)
    assert _local(cron, night, night + timedelta(minutes=40)) == [
        "29 01:45+0100", "29 03:00+0200", "29 03:15+0200",
    ]  # fmt: skip


def test_a_line_that_names_no_hour_goes_on_through_the_repeated_hour() -> None:
    night = datetime(2026, 10, 24, 22, tzinfo=UTC)
    cron = Cron(expression="*/5 * * * *", zone="Europe/Berlin")
    found = [night, *ticks_between(cron, after=night, until=night + timedelta(hours=6))]
    assert {b - a for a, b in pairwise(found)} == {5 * _MINUTE}


def test_seconds_are_the_sixth_field() -> None:
    cron = Cron(expression="30 2 * * * */20")
    found = next_ticks(cron, after=datetime(2026, 1, 1, tzinfo=UTC), count=4)
    assert [f"{tick:%d %H:%M:%S}" for tick in found] == [
        "01 02:30:00", "01 02:30:20", "01 02:30:40", "02 02:30:00",
    ]  # fmt: skip


def test_the_leap_day_is_found_years_ahead() -> None:
    cron = Cron(expression="0 0 29 2 *", zone="Asia/Tokyo")
    found = next_ticks(cron, after=datetime(2096, 3, 1, tzinfo=UTC), count=1)
    assert found == [datetime(2104, 2, 28, 15, tzinfo=UTC)]


@pytest.mark.parametrize(
    "expression",
    ["", "* * * *", "* * * * * * *", "61 * * * *", "0 0 30 2 *", "@reboot", "R * * * *", "x" * 300],
)
def test_an_expression_that_is_none_is_refused_with_what_to_write(expression: str) -> None:
    with pytest.raises(BadFieldError, match='write "minute hour day month weekday'):
        Cron(expression=expression)


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(BadFieldError, match="zone: 'Mars/Olympus' is unknown"):
        Cron(expression="* * * * *", zone="Mars/Olympus")


@cache
def _changes(zone: str) -> tuple[datetime, ...]:
    """Instants in 2024 to 2030 at which a zone's offset becomes another one."""
    found, at = [], _YEARS[0]
    where = ZoneInfo(zone)
    while at < _YEARS[1]:
        after = at + timedelta(days=1)
        if at.astimezone(where).utcoffset() != after.astimezone(where).utcoffset():
            low, high = 0, 86_400
            while high - low > 1:
                middle = (low + high) // 2
                same = (at + timedelta(seconds=middle)).astimezone(where).utcoffset()
                low, high = (
                    (middle, high) if same == at.astimezone(where).utcoffset() else (low, middle)
                )
            found.append(at + timedelta(seconds=high))
        at = after
    return tuple(found)


def _zones() -> Iterator[tuple[str, tuple[datetime, ...]]]:
    """One zone for each way in which clocks are changed, with when they are."""
    seen = set()
    for name in sorted(available_timezones()):
        changes = _changes(name)
        where = ZoneInfo(name)
        kind = tuple((at, at.astimezone(where).utcoffset()) for at in changes)
        if changes and kind not in seen:
            seen.add(kind)
            yield name, changes


def test_a_daily_line_runs_once_on_each_day_clocks_are_changed_in_every_zone_2024_to_2030() -> None:
    zones = changes = 0
    for name, found in _zones():
        zones += 1
        for change in found:
            changes += 1
            _check_days_around(name, change)
    # That there is something to see: 15 ways of changing clocks at least, most twice a year.
    assert zones >= 15
    assert changes >= 200


def _check_days_around(name: str, change: datetime) -> None:
    zone = ZoneInfo(name)
    before = (change - timedelta(seconds=1)).astimezone(zone).replace(tzinfo=None)
    after = change.astimezone(zone).replace(tzinfo=None)
    start, end = sorted((before, after))
    # In the middle of what is left out or comes twice.
    wall = start + (end - start) / 2
    cron = Cron(expression=f"{wall.minute} {wall.hour} * * *", zone=name)
    yesterday, over = (
        datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
        for day in (wall - timedelta(days=1), wall + timedelta(days=2))
    )
    _, tick, _ = ticks_between(cron, after=yesterday - _MINUTE, until=over - _MINUTE)
    if after - before > _MINUTE:
        assert tick == change, (name, cron)
    else:
        assert tick < change, (name, cron)
        assert tick.astimezone(zone).replace(tzinfo=None) == wall.replace(second=0, microsecond=0)


def _expected(cron: Cron, start: datetime, end: datetime) -> list[datetime]:
    """Say the ticks of (start, end] by looking at each minute; the module's words as code."""
    zone = ZoneInfo(cron.zone)
    names_hours = cron.expression.split()[1] != "*"
    found, at = [], start
    while at < end:
        before, at = at.astimezone(zone), at + _MINUTE
        here = at.astimezone(zone)
        walls = [here.replace(tzinfo=None)]
        gap = walls[0] - before.replace(tzinfo=None)
        walls += [walls[0] - number * _MINUTE for number in range(1, int(gap / _MINUTE))]
        ticks = any(croniter.match(cron.expression, wall) for wall in walls)
        if ticks and not (names_hours and here.fold):
            found.append(at)
    return found


@given(data=st.data())
def test_ticks_are_those_that_looking_at_every_minute_finds(data: st.DataObject) -> None:
    zones = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago",
             "Africa/Casablanca", "Asia/Shanghai", "Antarctica/Troll", "Asia/Gaza"]  # fmt: skip
    zone = data.draw(st.sampled_from(zones))
    changes = _changes(zone) or (_YEARS[0] + timedelta(days=90),)
    change = data.draw(st.sampled_from(changes))
    minute = data.draw(st.sampled_from(["0", "30", "*/15", "59", "7,38"]))
    hour = data.draw(st.sampled_from(["*", "0", "1", "2", "3", "*/2", "0-4", "23"]))
    cron = Cron(expression=f"{minute} {hour} * * *", zone=zone)
    start = change - data.draw(st.integers(1, 180)) * _MINUTE
    end = change + data.draw(st.integers(1, 180)) * _MINUTE
    assert list(ticks_between(cron, after=start, until=end)) == _expected(cron, start, end)


_EXPRESSIONS = st.sampled_from(
    ["* * * * *", "*/5 * * * *", "30 2 * * *", "0 9 * * 1-5", "0 0 1 * *", "0 0 L * *",
     "15 10 * * 5#2", "* * * * * */7", "@hourly", "@weekly", "0 */6 * * *", "45 23 31 12 *"]
)  # fmt: skip
_MOMENTS = st.integers(0, 7 * 365 * 86_400_000_000).map(
    lambda number: _YEARS[0] + timedelta(microseconds=number)
)


@given(expression=_EXPRESSIONS, zone=st.sampled_from(sorted(available_timezones())), at=_MOMENTS)
def test_ticks_only_rise_and_do_not_depend_on_where_one_begins(
    expression: str, zone: str, at: datetime
) -> None:
    cron = Cron(expression=expression, zone=zone)
    ticks = next_ticks(cron, after=at, count=8)
    assert ticks == sorted(set(ticks))
    assert ticks[0] > at
    for number, tick in enumerate(ticks[:-1], start=1):
        assert next_ticks(cron, after=tick, count=1) == [ticks[number]]
        close = tick - timedelta(microseconds=1)
        assert next_ticks(cron, after=close, count=1) == [tick]
    assert newest_ticks(cron, after=at, until=ticks[-1], limit=100) == ticks
    assert newest_ticks(cron, after=at, until=ticks[-1], limit=3) == ticks[-3:]
