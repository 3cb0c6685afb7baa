"""What a reply means for its notification: delivered, again later, dead or on hold.

Pure rules: the time and the luck are arguments. Must never raise on what a merchant did, never
follow or accept a redirect, and never make a wait shorter than the schedule says.
"""

import re
from datetime import UTC, datetime, timedelta

from worker import ack as acks
from worker.errors import BadFieldError
from worker.models import (
    AckRule,
    BodyRule,
    Decision,
    Endpoint,
    Failure,
    Outcome,
    Reason,
    Reply,
    Schedule,
    Verdict,
)

# Made once: most replies are acknowledgements, and a new verdict costs 1 us.
DELIVERED = Verdict(decision=Decision.DELIVERED, outcome=Outcome.ACKED, healthy=True)
# The merchant's server works and says so; its endpoint stops, its breaker has no say.
HOLD = Verdict(decision=Decision.HOLD, outcome=Outcome.NOT_ACKED, given_back=True)
UNSENDABLE = Verdict(decision=Decision.DEAD, outcome=Outcome.NOT_SENT, reason=Reason.UNSENDABLE)

_NO_FAILURE = Failure.NONE
# What failed on our side, and how soon it is tried again: a database is back in a moment, a
# missing key or descriptor not.
_OURS_S = {Failure.LOCAL: 10.0, Failure.DATABASE: 1.0}
# Rules that speak of the whole body: half of one, noted as cut, meets none of them.
_WHOLE = (BodyRule.EXACT, BodyRule.IEXACT, BodyRule.JSON)
_DELAYS_MAX = 50
_DELAY_MAX_S = 2_592_000
_PATTERN = re.compile(r"\*|[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*(?:\.\*)?", re.ASCII)

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = "(?P<month>" + "|".join(_MONTHS) + ")"
_CLOCK = r"(?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d)"
# RFC 9110 §5.6.7; strptime would read names of days and months in the server's locale.
_DATES = (
    re.compile(
        rf"[A-Z][a-z]{{2}}, (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_CLOCK} GMT", re.ASCII
    ),
    re.compile(rf"[A-Z][a-z]{{5,8}}, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_CLOCK} GMT", re.ASCII),
    re.compile(rf"[A-Z][a-z]{{2}} {_MONTH} (?P<day>[\d ]\d) {_CLOCK} (?P<year>\d{{4}})", re.ASCII),
)


def judge(
    reply: Reply,
    *,
    ack: AckRule,
    schedule: Schedule,
    tries: int,
    terminal_statuses: tuple[int, ...],
    retry_after_max_s: int,
    expires_in_s: float | None,
    now: datetime,
    luck: float,
) -> Verdict:
    """Decide what a reply means.

    Args:
        reply: what came back, or why nothing did.
        ack: what counts as an acknowledgement; it goes before every other rule.
        schedule: delays of this notification.
        tries: tries used of the present budget, this one included.
        terminal_statuses: statuses after which nothing is tried again.
        retry_after_max_s: longest wait a ``Retry-After`` can ask for, seconds.
        expires_in_s: seconds from ``now`` to the notification's expiry; None is never.
        now: when the reply arrived (aware).
        luck: from [0, 1), for the jitter.

    Returns:
        Exactly one of delivered, retry, dead, hold. A 410 holds the endpoint; whoever settles
        sees to it that a hold burns no try.

    Examples:
        >>> from datetime import UTC
        >>> verdict = judge(
        ...     Reply(status=503, retry_after="90"),
        ...     ack=AckRule(), schedule=Schedule(), tries=1, terminal_statuses=(),
        ...     retry_after_max_s=21600, expires_in_s=None,
        ...     now=datetime(2026, 1, 1, tzinfo=UTC), luck=0.0,
        ... )
        >>> verdict.decision.value, verdict.delay_s
        ('retry', 90.0)
    """
    failure, status = reply.failure, reply.status
    if failure is not _NO_FAILURE:
        if failure is Failure.UNSENDABLE:
            return UNSENDABLE
        if failure in _OURS_S:
            return _not_our_day(_OURS_S[failure], expires_in_s, luck)
        status = 0
    elif acks.met(ack, status, reply.body) and not (reply.note and ack.body in _WHOLE):
        return DELIVERED
    elif status == 410:
        return HOLD
    outcome = _outcome(failure)
    healthy = None if status == 429 or outcome is Outcome.NOT_SENT else False
    delay = delay_s(schedule, tries, luck)
    if status in (429, 503) and delay is not None:
        asked = wait_after(reply.retry_after, now=now, cap_s=retry_after_max_s)
        delay = max(delay, asked.total_seconds() if asked else 0.0)
    reason = _why_dead(status, terminal_statuses, delay, expires_in_s)
    if reason is None and delay is not None:
        return Verdict(decision=Decision.RETRY, outcome=outcome, delay_s=delay, healthy=healthy)
    return Verdict(decision=Decision.DEAD, outcome=outcome, reason=reason, healthy=healthy)


def _not_our_day(wait_s: float, expires_in_s: float | None, luck: float) -> Verdict:
    """Try again soon and for free: what failed was ours, the merchant heard nothing of it."""
    delay = wait_s * (1 + luck)
    if expires_in_s is not None and expires_in_s <= delay:
        return Verdict(decision=Decision.DEAD, outcome=Outcome.NOT_SENT, reason=Reason.EXPIRED)
    return Verdict(
        decision=Decision.RETRY, outcome=Outcome.NOT_SENT, delay_s=delay, given_back=True
    )


def delay_s(schedule: Schedule, tries: int, luck: float) -> float | None:
    """Compute the wait after try number ``tries``, in seconds, whole microseconds.

    Args:
        schedule: its delays are the least waits; jitter is only ever added.
        tries: tries used, this one included; below 1 counts as 1.
        luck: from [0, 1).

    Returns:
        delay · (1 + jitter · luck); None when the tries are used up.

    Examples:
        >>> delay_s(Schedule(delays_s=(60,), jitter_ratio=0.1), 1, 0.5)
        63.0
        >>> delay_s(Schedule(delays_s=(60,)), 2, 0.5) is None
        True
    """
    used = max(tries, 1)
    if used > len(schedule.delays_s):
        return None
    least_us = schedule.delays_s[used - 1] * 1_000_000
    return (least_us + int(least_us * schedule.jitter_ratio * luck)) / 1_000_000


def wait_after(header: str | None, *, now: datetime, cap_s: int = 21_600) -> timedelta | None:
    """Read a merchant's ``Retry-After`` header (RFC 9110 §10.2.3).

    Args:
        header: the raw value; ``None`` when the merchant sent none.
        now: when the reply arrived (aware); an HTTP date is measured from here.
        cap_s: longest wait that is believed, seconds; the default is 6 h.

    Returns:
        How long the merchant asks us to wait, 0 s (a date in the past) to ``cap_s``; ``None``
        when the header is missing or unreadable. A bad header is the merchant's mistake: it
        never raises.

    Examples:
        >>> from datetime import UTC
        >>> wait_after("120", now=datetime(2026, 1, 1, 12, tzinfo=UTC))
        datetime.timedelta(seconds=120)
        >>> wait_after("Thu, 01 Jan 2026 12:00:30 GMT", now=datetime(2026, 1, 1, 12, tzinfo=UTC))
        datetime.timedelta(seconds=30)
        >>> wait_after("soon", now=datetime(2026, 1, 1, 12, tzinfo=UTC)) is None
        True
    """
    if header is None:
        return None
    value = header.strip(" \t")
    cap = timedelta(seconds=cap_s)
    if value.isascii() and value.isdigit():
        digits = value.lstrip("0")
        # Nine digits are 31 years; int() of a long text is slow and, past 4300 digits, raises.
        return cap if len(digits) > 9 else min(cap, timedelta(seconds=int(digits or "0")))
    moment = _http_date(value, now)
    return None if moment is None else min(cap, max(timedelta(0), moment - now))


def pick_schedule(endpoint: Endpoint, event_type: str, default: Schedule) -> Schedule:
    """Find the schedule of an event type: the endpoint's first match, else ``default``."""
    for pattern, schedule in endpoint.schedules:
        if matches(pattern, event_type):
            return schedule
    return default


def matches(pattern: str, event_type: str) -> bool:
    """Tell whether a pattern covers an event type.

    Examples:
        >>> matches("payment.*", "payment.refund.done"), matches("payment.*", "payment")
        (True, False)
        >>> matches("*", "anything"), matches("payment.paid", "payment.paid")
        (True, True)
    """
    if pattern == "*":
        return True
    if pattern.endswith(".*"):
        return event_type.startswith(pattern[:-1])
    return pattern == event_type


def check_pattern(pattern: str, field: str = "events") -> None:
    """Refuse what is no event type, ``prefix.*`` or ``*``.

    Raises:
        BadFieldError: names ``field``.
    """
    if len(pattern) > 128 or not _PATTERN.fullmatch(pattern):
        raise BadFieldError(
            field,
            f"{pattern[:130]!r} is no pattern; write an event type (payment.paid), a prefix "
            "(payment.*) or *, at most 128 letters, digits, dots, - and _",
        )


def check_schedule(schedule: Schedule, field: str = "schedule") -> None:
    """Refuse delays and jitter that no notification should be sent with.

    Raises:
        BadFieldError: names ``field``.
    """
    delays = schedule.delays_s
    if (
        not isinstance(delays, tuple | list)
        or len(delays) > _DELAYS_MAX
        or any(type(delay) is not int or not 1 <= delay <= _DELAY_MAX_S for delay in delays)
    ):
        raise BadFieldError(
            field, f"must be at most {_DELAYS_MAX} delays of 1 to {_DELAY_MAX_S} whole seconds"
        )
    jitter = schedule.jitter_ratio
    # Written this way round so that NaN is refused.
    if type(jitter) not in (int, float) or not 0 <= jitter <= 0.1:
        raise BadFieldError(field, "its jitter must be a number within 0 to 0.1")


def _outcome(failure: Failure) -> Outcome:
    if failure is _NO_FAILURE:
        return Outcome.NOT_ACKED
    return Outcome.NOT_SENT if failure is Failure.REFUSED else Outcome.FAILED


def _why_dead(
    status: int, terminal_statuses: tuple[int, ...], delay: float | None, expires_in_s: float | None
) -> Reason | None:
    if status and status in terminal_statuses:
        return Reason.TERMINAL_STATUS
    if delay is None:
        return Reason.EXHAUSTED
    if expires_in_s is not None and delay >= expires_in_s:
        return Reason.EXPIRED
    return None


def _http_date(value: str, now: datetime) -> datetime | None:
    found = next(filter(None, (date.fullmatch(value) for date in _DATES)), None)
    if found is None:
        return None
    year, short = int(found["year"]), len(found["year"]) == 2
    if short:
        year += now.year // 100 * 100
    try:
        moment = datetime(
            year,
            _MONTHS.index(found["month"]) + 1,
            int(found["day"]),
            int(found["h"]),
            int(found["m"]),
            # A leap second is legal there and unknown to datetime.
            int(found["s"]) - (found["s"] == "60"),
            tzinfo=UTC,
        )
        # RFC 9110: a two-digit year more than 50 years ahead is the last one with those digits.
        if short and moment - now > timedelta(days=50 * 365.25):
            moment = moment.replace(year=year - 100)
    except ValueError:
        return None
    return moment
