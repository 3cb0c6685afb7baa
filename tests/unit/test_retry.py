"""What a reply means: each kind of answer, schedules and the patterns that pick them."""

import dataclasses
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.ack import parse
from worker.errors import BadFieldError
from worker.models import (
    AckRule,
    Decision,
    Endpoint,
    Failure,
    Outcome,
    Reason,
    Reply,
    Schedule,
    Verdict,
)
from worker.retry import (
    DELIVERED,
    check_pattern,
    check_schedule,
    delay_s,
    judge,
    matches,
    pick_schedule,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DEFAULT = Schedule()


def judged(reply: Reply, **changes: Any) -> Verdict:
    facts: dict[str, Any] = {
        "ack": AckRule(),
        "schedule": DEFAULT,
        "tries": 1,
        "terminal_statuses": (),
        "retry_after_max_s": 21_600,
        "expires_in_s": None,
        "now": NOW,
        "luck": 0.0,
    }
    return judge(reply, **facts | changes)


def retry(outcome: Outcome, healthy: bool | None, delay: float = 60.0) -> Verdict:
    return Verdict(decision=Decision.RETRY, outcome=outcome, delay_s=delay, healthy=healthy)


def dead(outcome: Outcome, reason: Reason, healthy: bool | None = False) -> Verdict:
    return Verdict(decision=Decision.DEAD, outcome=outcome, reason=reason, healthy=healthy)


def test_an_acknowledgement_is_delivered_and_makes_no_new_verdict() -> None:
    assert judged(Reply(status=200)) is DELIVERED
    assert Verdict(decision=Decision.DELIVERED, outcome=Outcome.ACKED, healthy=True) == DELIVERED


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (Reply(status=500), retry(Outcome.NOT_ACKED, healthy=False)),
        (Reply(status=503), retry(Outcome.NOT_ACKED, healthy=False)),
        (Reply(status=404), retry(Outcome.NOT_ACKED, healthy=False)),
        (Reply(status=302), retry(Outcome.NOT_ACKED, healthy=False)),
        (Reply(status=429), retry(Outcome.NOT_ACKED, healthy=None)),
        (Reply(failure=Failure.TIMEOUT), retry(Outcome.FAILED, healthy=False)),
        (Reply(failure=Failure.DNS), retry(Outcome.FAILED, healthy=False)),
        (Reply(failure=Failure.TLS), retry(Outcome.FAILED, healthy=False)),
        (Reply(failure=Failure.REFUSED), retry(Outcome.NOT_SENT, healthy=None)),
        (
            Reply(failure=Failure.UNSENDABLE),
            dead(Outcome.NOT_SENT, Reason.UNSENDABLE, healthy=None),
        ),
        (
            Reply(status=410),
            Verdict(decision=Decision.HOLD, outcome=Outcome.NOT_ACKED, given_back=True),
        ),
    ],
)
def test_each_kind_of_answer_has_its_verdict(reply: Reply, verdict: Verdict) -> None:
    assert judged(reply) == verdict


def test_a_2xx_without_the_word_is_tried_again() -> None:
    rule = parse("2xx exact:success")
    assert judged(Reply(status=200, body=b"fail"), ack=rule) == retry(
        Outcome.NOT_ACKED, healthy=False
    )
    assert judged(Reply(status=200, body=b"success\n"), ack=rule) is DELIVERED


@pytest.mark.parametrize("status", [200, 410, 429, 503, 400])
def test_a_status_beside_a_failure_says_nothing(status: int) -> None:
    reply = Reply(failure=Failure.TIMEOUT, status=status, retry_after="600")
    verdict = judged(reply, terminal_statuses=(400,))
    assert verdict == retry(Outcome.FAILED, healthy=False)


def test_a_status_the_rule_lists_is_an_acknowledgement_even_when_it_is_410() -> None:
    assert judged(Reply(status=410), ack=parse("2xx,410")) is DELIVERED


@pytest.mark.parametrize("tries", [1, 8, 9, 1_000_000])
def test_a_terminal_status_kills_whatever_tries_are_left(tries: int) -> None:
    verdict = judged(Reply(status=400), terminal_statuses=(400, 404), tries=tries)
    assert verdict == dead(Outcome.NOT_ACKED, Reason.TERMINAL_STATUS)


def test_a_failure_is_no_status_0() -> None:
    verdict = judged(Reply(failure=Failure.CONNECT), terminal_statuses=(0,))
    assert verdict.decision is Decision.RETRY


def test_a_410_holds_even_after_the_last_try_and_past_the_expiry() -> None:
    verdict = judged(Reply(status=410), tries=99, expires_in_s=-1.0, terminal_statuses=(410,))
    assert verdict.decision is Decision.HOLD


def test_the_default_schedule_sends_eight_times_over_9_hours_46_minutes() -> None:
    waits = []
    tries = 1
    while (verdict := judged(Reply(status=500), tries=tries)).decision is Decision.RETRY:
        waits.append(verdict.delay_s)
        tries += 1
    assert waits == [60, 300, 600, 1800, 3600, 7200, 21600]
    assert tries == 8
    assert sum(waits) == 9 * 3600 + 46 * 60
    assert verdict == dead(Outcome.NOT_ACKED, Reason.EXHAUSTED)


def test_a_throttled_merchant_uses_up_the_tries_too() -> None:
    verdict = judged(Reply(status=429, retry_after="5"), tries=8)
    assert verdict == dead(Outcome.NOT_ACKED, Reason.EXHAUSTED, healthy=None)


@pytest.mark.parametrize(
    ("expires_in_s", "alive"),
    [(None, True), (60.001, True), (60.0, False), (1.0, False), (0.0, False), (-5.0, False)],
)
def test_a_try_that_would_be_due_at_or_after_the_expiry_is_not_waited_for(
    expires_in_s: float | None, alive: bool
) -> None:
    verdict = judged(Reply(failure=Failure.TIMEOUT), expires_in_s=expires_in_s)
    if alive:
        assert verdict == retry(Outcome.FAILED, healthy=False)
    else:
        assert verdict == dead(Outcome.FAILED, Reason.EXPIRED)


def test_an_acknowledgement_after_the_expiry_still_counts() -> None:
    assert judged(Reply(status=200), expires_in_s=-5.0) is DELIVERED


def test_a_retry_after_past_the_expiry_expires() -> None:
    reply = Reply(status=503, retry_after="600")
    assert judged(reply, expires_in_s=300.0).reason is Reason.EXPIRED


_rules = st.sampled_from(
    [parse(line) for line in ("2xx", "200,409", "2xx,4xx,5xx iexact:success", "2xx json:code=0")]
)


@given(
    st.integers(0, 999),
    st.sampled_from(Failure),
    st.binary(max_size=20) | st.sampled_from([b"success", b'{"code":0}']),
    _rules,
    st.integers(0, 10),
    st.sets(st.integers(100, 999), max_size=3),
    st.none() | st.floats(allow_nan=False),
    st.floats(0, 1, exclude_max=True),
)
def test_every_reply_has_exactly_one_sound_verdict(
    status: int,
    failure: Failure,
    body: bytes,
    rule: AckRule,
    tries: int,
    terminal: set[int],
    expires_in_s: float | None,
    luck: float,
) -> None:
    verdict = judged(
        Reply(status=status, failure=failure, body=body),
        ack=rule,
        tries=tries,
        terminal_statuses=tuple(terminal),
        expires_in_s=expires_in_s,
        luck=luck,
    )
    decision = verdict.decision
    assert (decision is Decision.RETRY) == (verdict.delay_s > 0)
    assert (decision is Decision.DEAD) == (verdict.reason is not None)
    assert (decision is Decision.DELIVERED) == (verdict.outcome is Outcome.ACKED)
    assert (decision is Decision.DELIVERED) == (verdict.healthy is True)
    if decision is Decision.DELIVERED:
        assert failure is Failure.NONE
        assert not 300 <= status <= 399
    if decision is Decision.HOLD:
        assert (failure, status) == (Failure.NONE, 410)


def test_with_the_plain_rule_2xx_and_nothing_else_is_delivered() -> None:
    acked = {status for status in range(1000) if judged(Reply(status=status)) is DELIVERED}
    assert acked == set(range(200, 300))


schedules = st.builds(
    Schedule,
    delays_s=st.lists(st.integers(1, 2_592_000), max_size=50).map(lambda d: tuple(sorted(d))),
    jitter_ratio=st.floats(0, 0.1),
)
lucks = st.floats(0, 1, exclude_max=True)


@given(schedules, st.integers(0, 1_000_000), lucks)
def test_a_delay_is_never_shorter_than_its_base_nor_longer_than_the_jitter_allows(
    schedule: Schedule, tries: int, luck: float
) -> None:
    delay = delay_s(schedule, tries, luck)
    if max(tries, 1) > len(schedule.delays_s):
        assert delay is None
        return
    assert delay is not None
    least = schedule.delays_s[max(tries, 1) - 1]
    assert least <= delay
    assert round(Fraction(delay) * 1_000_000) <= least * 1_000_000 * (
        1 + Fraction(schedule.jitter_ratio)
    )
    assert delay == round(delay * 1_000_000) / 1_000_000
    assert delay == delay_s(schedule, tries, luck)


@given(schedules, lucks)
def test_delays_rise_with_a_rising_schedule_and_stay_within_its_span(
    schedule: Schedule, luck: float
) -> None:
    delays = [delay_s(schedule, no + 1, luck) or 0.0 for no in range(len(schedule.delays_s))]
    assert delays == sorted(delays)
    assert sum(delays) <= sum(schedule.delays_s) * (1 + schedule.jitter_ratio) + 0.001


def test_jitter_spreads_what_failed_in_the_same_second() -> None:
    delays = {delay_s(DEFAULT, 3, no / 1000) for no in range(1000)}
    assert len(delays) == 1000
    assert max(delay or 0 for delay in delays) - 600 == pytest.approx(60, abs=0.1)


@pytest.mark.parametrize(
    ("pattern", "event_type", "covered"),
    [
        ("*", "payment.paid", True),
        ("payment.*", "payment.paid", True),
        ("payment.*", "payment.refund.done", True),
        ("payment.*", "payment", False),
        ("payment.*", "payments.paid", False),
        ("payment.paid", "payment.paid", True),
        ("payment.paid", "payment.paid.late", False),
        ("payment.paid", "Payment.paid", False),
    ],
)
def test_a_pattern_covers_whole_words_only(pattern: str, event_type: str, covered: bool) -> None:
    assert matches(pattern, event_type) is covered


@pytest.mark.parametrize("pattern", ["*", "payment", "payment.*", "a.b-c.d_e", "a.b.*", "9"])
def test_good_patterns_pass(pattern: str) -> None:
    check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["", ".", "**", "*.paid", "pay*", "payment.", ".paid", "a..b", "a.*.b", "a b", "a\n", "付款"],
)
def test_bad_patterns_are_refused_by_name(pattern: str) -> None:
    with pytest.raises(BadFieldError, match=r"^events: .* is no pattern"):
        check_pattern(pattern)


def test_a_pattern_of_any_length_is_refused_in_few_words() -> None:
    with pytest.raises(BadFieldError) as refused:
        check_pattern("a" * 100_000, field="schedules[0]")
    assert refused.value.field == "schedules[0]"
    assert len(str(refused.value)) < 400


def test_the_first_matching_schedule_is_picked_else_the_default() -> None:
    quick, slow = Schedule(delays_s=(1,)), Schedule(delays_s=(9,))
    endpoint = Endpoint(
        id=1,
        name="acme",
        merchant="m",
        url="https://acme.com/",
        schedules=(("payment.paid", quick), ("payment.*", slow)),
    )
    assert pick_schedule(endpoint, "payment.paid", DEFAULT) is quick
    assert pick_schedule(endpoint, "payment.refunded", DEFAULT) is slow
    assert pick_schedule(endpoint, "order.closed", DEFAULT) is DEFAULT
    plain = dataclasses.replace(endpoint, schedules=())
    assert pick_schedule(plain, "payment.paid", DEFAULT) is DEFAULT


@pytest.mark.parametrize(
    "schedule", [DEFAULT, Schedule(delays_s=()), Schedule(delays_s=(1,) * 50, jitter_ratio=0)]
)
def test_good_schedules_pass(schedule: Schedule) -> None:
    check_schedule(schedule)


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(delays_s=(0,)),
        Schedule(delays_s=(-60,)),
        Schedule(delays_s=(2_592_001,)),
        Schedule(delays_s=(60,) * 51),
        Schedule(delays_s=(1.5,)),  # type: ignore[arg-type]
        Schedule(delays_s=(True,)),
        Schedule(jitter_ratio=-0.01),
        Schedule(jitter_ratio=0.11),
        Schedule(jitter_ratio=float("nan")),
        Schedule(delays_s=None),  # type: ignore[arg-type]
        Schedule(delays_s=60),  # type: ignore[arg-type]
        Schedule(delays_s="60"),  # type: ignore[arg-type]
        Schedule(jitter_ratio="x"),  # type: ignore[arg-type]
        Schedule(jitter_ratio=None),  # type: ignore[arg-type]
        Schedule(jitter_ratio=10**5000),
    ],
)
def test_bad_schedules_are_refused(schedule: Schedule) -> None:
    with pytest.raises(BadFieldError, match=r"^schedule: "):
        check_schedule(schedule)
