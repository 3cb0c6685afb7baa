"""Retry-After: three date forms, nonsense, and how it bends the schedule."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.models import AckRule, Reply, Schedule
from worker.retry import judge, wait_after

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
CAP = timedelta(hours=6)


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("0", timedelta(0)),
        ("120", timedelta(seconds=120)),
        (" 120\t", timedelta(seconds=120)),
        ("000120", timedelta(seconds=120)),
        ("0" * 10_000 + "7", timedelta(seconds=7)),
        ("21600", CAP),
        ("21601", CAP),
        ("1000000000000000000", CAP),
        ("9" * 10_000, CAP),
        ("Sun, 01 Mar 2026 13:00:00 GMT", HOUR),
        ("Sunday, 01-Mar-26 13:00:00 GMT", HOUR),
        ("Sun Mar  1 13:00:00 2026", HOUR),
        ("Sun Mar 01 13:00:00 2026", HOUR),
        ("Tue, 03 Mar 2026 13:00:00 GMT", CAP),
        ("Fri, 31 Dec 9999 23:59:59 GMT", CAP),
        ("Sun, 06 Nov 1994 08:49:37 GMT", timedelta(0)),
        ("Sunday, 06-Nov-94 08:49:37 GMT", timedelta(0)),
        ("Sun Nov  6 08:49:37 1994", timedelta(0)),
        ("Sun, 01 Mar 2026 12:59:60 GMT", timedelta(minutes=59, seconds=59)),
    ],
)
def test_what_a_merchant_may_ask_for(header: str, wait: timedelta) -> None:
    assert wait_after(header, now=NOW) == wait


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        " ",
        "-1",
        "+120",
        "1.5",
        "1e3",
        "0x10",
        "NaN",
        "inf",
        "soon",
        "120, 60",
        "120s",
        "1 20",
        "١٢٠",
        "²",
        "120\0",
        "Sun, 01 Mar 2026 13:00:00",
        "Sun, 01 Mar 2026 13:00:00 +0800",
        "sun, 01 mar 2026 13:00:00 gmt",
        "Sun, 31 Feb 2026 13:00:00 GMT",
        "Sun, 01 Mar 2026 24:00:00 GMT",
        "Sun, 01 Mar 2026 12:60:00 GMT",
        "Sun, 01 Mar 2026 12:00:61 GMT",
        "Sun, 01 Mar 0000 12:00:00 GMT",
        "Sun, 1 Mar 2026 13:00:00 GMT",
        "2026-03-01T13:00:00Z",
    ],
)
def test_what_cannot_be_read_is_ignored(header: str | None) -> None:
    assert wait_after(header, now=NOW) is None


@pytest.mark.parametrize(
    ("now_year", "wait"), [(2026, timedelta(0)), (2075, timedelta(days=1)), (1999, timedelta(0))]
)
def test_a_two_digit_year_is_never_more_than_50_years_ahead(now_year: int, wait: timedelta) -> None:
    now = datetime(now_year, 3, 1, 12, tzinfo=UTC)
    header = "Saturday, 02-Mar-" + ("77" if now_year == 2026 else "75") + " 12:00:00 GMT"
    assert wait_after(header, now=now, cap_s=10**8) == wait


def test_a_date_is_measured_in_any_zone() -> None:
    in_shanghai = NOW.astimezone(timezone(timedelta(hours=8)))
    assert wait_after("Sun, 01 Mar 2026 13:00:00 GMT", now=in_shanghai) == HOUR


@given(
    # 1990 to 2070
    st.integers(631_152_000, 3_155_760_000),
    st.integers(0, 21_600),
)
def test_all_three_date_forms_say_the_same(now_s: int, ahead_s: int) -> None:
    now = datetime.fromtimestamp(now_s, UTC)
    due = now + timedelta(seconds=ahead_s)
    month, clock = f"{due:%b}", f"{due:%H:%M:%S}"
    forms = (
        f"Mon, {due.day:02} {month} {due.year} {clock} GMT",
        f"Wednesday, {due.day:02}-{month}-{due.year % 100:02} {clock} GMT",
        f"Fri {month} {due.day:2} {clock} {due.year}",
    )
    waits = [wait_after(form, now=now) for form in forms]
    crosses_century = due.year // 100 != now.year // 100
    assert waits[0] == waits[2] == timedelta(seconds=ahead_s)
    assert crosses_century or waits[1] == waits[0]


def judged_delay(header: str | None, status: int, luck: float = 0.0, cap_s: int = 21_600) -> float:
    return judge(
        Reply(status=status, retry_after=header),
        ack=AckRule(),
        schedule=Schedule(),
        tries=1,
        terminal_statuses=(),
        retry_after_max_s=cap_s,
        expires_in_s=None,
        now=NOW,
        luck=luck,
    ).delay_s


@pytest.mark.parametrize(
    ("header", "status", "delay"),
    [
        ("120", 429, 120.0),
        ("120", 503, 120.0),
        ("120", 500, 60.0),
        ("120", 404, 60.0),
        ("120", 302, 60.0),
        ("5", 429, 60.0),
        ("0", 503, 60.0),
        ("-1", 503, 60.0),
        ("NaN", 503, 60.0),
        (None, 503, 60.0),
        ("1000000000000000000", 503, 21_600.0),
        ("Sun, 01 Mar 2026 13:00:00 GMT", 503, 3600.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 503, 60.0),
    ],
)
def test_retry_after_is_a_floor_on_429_and_503_and_nothing_elsewhere(
    header: str | None, status: int, delay: float
) -> None:
    assert judged_delay(header, status) == delay


def test_the_cap_is_the_settings_own() -> None:
    assert judged_delay("9999", 503, cap_s=600) == 600.0
    assert judged_delay("9999", 503, cap_s=0) == 60.0
    assert judged_delay("86400", 503, cap_s=86_400) == 86_400.0


headers = st.one_of(
    st.text(max_size=60),
    st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")),
    st.integers().map(str),
    st.from_regex(r"[A-Z][a-z]+,? \d\d[ -](Jan|Feb|Dec)[ -]\d{2,4} \d\d:\d\d:\d\d GMT"),
    st.from_regex(r"[A-Z][a-z]{2} (Jan|Feb|Dec) [\d ]\d \d\d:\d\d:\d\d \d{4}"),
)


@given(headers, st.sampled_from([429, 503]), st.floats(0, 1, exclude_max=True))
def test_no_header_makes_the_wait_shorter_than_the_schedule_or_longer_than_the_cap(
    header: str, status: int, luck: float
) -> None:
    plain = judged_delay(None, status, luck)
    assert plain <= judged_delay(header, status, luck) <= max(plain, 21_600.0)
