"""Refunds: asked about until they end, never given up for being slow."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.decisions import CaseReason, Decision, Policy, Ruling, Then
from schedules.order_states import may_move_refund
from schedules.ports import Refund, RefundFinding, RefundState
from schedules.refund_decisions import decide_refund

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
POLICY = Policy()
OPEN = (RefundState.CREATED, RefundState.PROCESSING, RefundState.ABNORMAL)


def refund(state: RefundState = RefundState.PROCESSING) -> Refund:
    return Refund(refund_no="R1", order_no="A7", amount_minor=500, state=state, placed_at=NOON)


def ruled(
    ours: RefundState,
    theirs: RefundState | None,
    *,
    after: timedelta = timedelta(minutes=5),
    amount_minor: int | None = 500,
    currency: str | None = "CNY",
    unknowns: int = 0,
) -> Decision:
    finding = RefundFinding(state=theirs, amount_minor=amount_minor, currency=currency)
    return decide_refund(
        refund(ours),
        finding,
        currency="CNY",
        now=NOON + after,
        policy=POLICY,
        unknowns=unknowns,
    )


@pytest.mark.parametrize("ours", OPEN)
@pytest.mark.parametrize(
    ("theirs", "event"),
    [(RefundState.SUCCESS, "refund.succeeded"), (RefundState.FAILED, "refund.failed")],
)
def test_what_ended_at_the_channel_ends_here_and_the_merchant_is_told(
    ours: RefundState, theirs: RefundState, event: str
) -> None:
    found = ruled(ours, theirs)
    assert (found.refund_to, found.event, found.then) == (theirs, event, Then.OVER)


def test_a_refund_that_was_not_paid_out_is_a_case_and_asked_about_on() -> None:
    found = ruled(RefundState.PROCESSING, RefundState.ABNORMAL)
    assert (found.refund_to, found.case) == (RefundState.ABNORMAL, CaseReason.REFUND_ABNORMAL)
    assert found.then is Then.AGAIN
    again = ruled(RefundState.ABNORMAL, RefundState.ABNORMAL)
    assert (again.refund_to, again.case) == (None, CaseReason.REFUND_ABNORMAL)


def test_a_refund_in_process_is_waited_for_and_after_three_days_a_case() -> None:
    assert ruled(RefundState.CREATED, RefundState.PROCESSING).refund_to is RefundState.PROCESSING
    early = ruled(RefundState.PROCESSING, RefundState.PROCESSING)
    assert (early.ruling, early.case) == (Ruling.WAIT, None)
    late = ruled(RefundState.PROCESSING, RefundState.PROCESSING, after=timedelta(days=3))
    assert (late.case, late.then) == (CaseReason.REFUND_SLOW, Then.AGAIN)


def test_after_a_month_a_person_takes_over() -> None:
    found = ruled(RefundState.PROCESSING, RefundState.PROCESSING, after=timedelta(days=30))
    assert (found.refund_to, found.case, found.then) == (None, CaseReason.TOO_OLD, Then.OVER)


@pytest.mark.parametrize("ours", list(RefundState))
def test_an_unknown_answer_changes_nothing(ours: RefundState) -> None:
    found = ruled(ours, None)
    assert (found.refund_to, found.event, found.case) == (None, "", None)
    assert found.then is Then.LATER
    assert ruled(ours, None, unknowns=7).case is CaseReason.UNANSWERED


@pytest.mark.parametrize("ours", OPEN)
def test_another_amount_is_a_case_and_nothing_else(ours: RefundState) -> None:
    found = ruled(ours, RefundState.SUCCESS, amount_minor=499)
    assert (found.refund_to, found.event) == (None, "")
    assert found.case is CaseReason.AMOUNT_MISMATCH


@pytest.mark.parametrize("ours", OPEN)
@pytest.mark.parametrize(
    ("amount_minor", "currency", "case"),
    [
        (None, "CNY", CaseReason.AMOUNT_MISSING),
        (500, None, CaseReason.AMOUNT_MISSING),
        (500, "JPY", CaseReason.CURRENCY_MISMATCH),
    ],
)
def test_a_success_whose_money_is_not_confirmed_is_a_case_and_nothing_else(
    ours: RefundState, amount_minor: int | None, currency: str | None, case: CaseReason
) -> None:
    found = ruled(ours, RefundState.SUCCESS, amount_minor=amount_minor, currency=currency)
    assert (found.refund_to, found.event, found.case) == (None, "", case)
    assert found.then is Then.AGAIN


def test_a_refund_that_failed_needs_no_amount() -> None:
    found = ruled(RefundState.PROCESSING, RefundState.FAILED, amount_minor=None, currency=None)
    assert (found.refund_to, found.case) == (RefundState.FAILED, None)


def test_an_end_is_never_taken_back() -> None:
    found = ruled(RefundState.SUCCESS, RefundState.FAILED)
    assert (found.refund_to, found.case) == (None, CaseReason.STATUS_MISMATCH)
    assert ruled(RefundState.SUCCESS, RefundState.SUCCESS).then is Then.OVER


@given(
    st.sampled_from(RefundState),
    st.none() | st.sampled_from(RefundState),
    st.sampled_from([None, 499, 500]),
    st.integers(0, 60 * 24 * 40),
)
def test_whatever_is_said_the_rules_hold_and_again_nothing_new_is_done(
    ours: RefundState, theirs: RefundState | None, amount: int | None, minutes: int
) -> None:
    after = timedelta(minutes=minutes)
    first = ruled(ours, theirs, after=after, amount_minor=amount)
    if first.refund_to is not None:
        assert may_move_refund(ours, first.refund_to)
        assert theirs is first.refund_to
        assert theirs is not RefundState.SUCCESS or amount == 500
    again = ruled(first.refund_to or ours, theirs, after=after, amount_minor=amount)
    assert (again.refund_to, again.event) == (None, "")
