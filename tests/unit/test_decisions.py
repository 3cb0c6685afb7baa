"""The decision table: every row, and what must hold for all of them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules import decisions
from schedules.decisions import (
    CaseReason,
    Decision,
    LatePayment,
    Policy,
    Ruling,
    Then,
    decide,
)
from schedules.order_states import CHANNEL_SAYS_PAID, UNSETTLED, WAS_PAID, may_move
from schedules.ports import ChannelState, Finding, Order, OrderState, Refund, RefundState

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=5)
POLICY = Policy()
TELLS_ALL = Policy(events=frozenset(decisions.EVENTS))
PROMOTES = Policy(late_payment=LatePayment.PROMOTE)


def order(state: OrderState = OrderState.PENDING, **fields: object) -> Order:
    values: dict[str, object] = {
        "order_no": "A7",
        "merchant": "m-1",
        "channel": "alipay",
        "amount_minor": 1200,
        "currency": "CNY",
        "placed_at": NOON,
        **fields,
    }
    return Order(state=state, **values)  # type: ignore[arg-type]


def says(state: ChannelState, **fields: object) -> Finding:
    values: dict[str, object] = {"amount_minor": 1200, "currency": "CNY", **fields}
    return Finding(state=state, **values)  # type: ignore[arg-type]


def ruled(
    ours: Order, theirs: Finding, *, now: datetime = LATER, policy: Policy = POLICY, **more: object
) -> Decision:
    return decide(ours, theirs, now=now, policy=policy, **more)  # type: ignore[arg-type]


PAID = says(ChannelState.PAID)
OPEN = sorted(UNSETTLED)
ENDED = (OrderState.CLOSED, OrderState.FAILED)
SETTLED = sorted(WAS_PAID)


@pytest.mark.parametrize("ours", OPEN)
@pytest.mark.parametrize("theirs", [ChannelState.PAID, ChannelState.FINISHED])
def test_an_open_order_that_was_paid_as_asked_becomes_paid(
    ours: OrderState, theirs: ChannelState
) -> None:
    found = ruled(order(ours), says(theirs))
    assert (found.to, found.event) == (OrderState.PAID, "payment.succeeded")
    assert found.case is None
    assert found.then is Then.OVER


@pytest.mark.parametrize("ours", OPEN)
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"amount_minor": 1199}, CaseReason.AMOUNT_MISMATCH),
        ({"amount_minor": 1201}, CaseReason.AMOUNT_MISMATCH),
        ({"currency": "USD"}, CaseReason.CURRENCY_MISMATCH),
        ({"amount_minor": None}, CaseReason.AMOUNT_MISSING),
        ({"currency": None}, CaseReason.AMOUNT_MISSING),
    ],
)
def test_other_money_than_was_asked_for_is_a_case_and_nothing_else(
    ours: OrderState, said: dict[str, object], reason: CaseReason
) -> None:
    found = ruled(order(ours), says(ChannelState.PAID, **said))
    assert (found.to, found.event, found.case) == (None, "", reason)
    assert found.suggestion
    assert found.then is Then.AGAIN


@pytest.mark.parametrize("ours", OPEN)
@pytest.mark.parametrize("theirs", [ChannelState.UNPAID, ChannelState.NOT_FOUND])
@pytest.mark.parametrize("expires_at", [None, LATER + timedelta(seconds=1)])
def test_what_is_unpaid_or_not_there_yet_is_asked_about_again(
    ours: OrderState, theirs: ChannelState, expires_at: datetime | None
) -> None:
    found = ruled(order(ours, expires_at=expires_at), says(theirs))
    assert (found.ruling, found.to, found.event) == (Ruling.WAIT, None, "")
    assert found.case is None
    assert found.then is Then.AGAIN


@pytest.mark.parametrize("theirs", [ChannelState.UNPAID, ChannelState.NOT_FOUND])
def test_an_expired_order_is_closed_at_the_channel_first(theirs: ChannelState) -> None:
    ours = order(expires_at=LATER)
    first = ruled(ours, says(theirs))
    assert (first.ruling, first.to) == (Ruling.CLOSE, None)
    closed = ruled(ours, says(ChannelState.CLOSED), close_asked=True, policy=TELLS_ALL)
    assert (closed.to, closed.event) == (OrderState.CLOSED, "payment.closed")
    assert closed.then is Then.OVER


def test_an_order_paid_while_it_was_being_closed_is_paid() -> None:
    found = ruled(order(expires_at=NOON), PAID, close_asked=True)
    assert (found.to, found.event) == (OrderState.PAID, "payment.succeeded")


def test_a_channel_that_does_not_confirm_the_close_has_ten_minutes() -> None:
    ours = order(expires_at=NOON)
    said = says(ChannelState.UNPAID)
    assert ruled(ours, said, close_asked=True).ruling is Ruling.WAIT
    late = ruled(ours, said, now=NOON + timedelta(seconds=600), close_asked=True)
    assert late.to is OrderState.CLOSED
    # A payer with the page still open may pay yet.
    assert late.then is Then.AGAIN


def test_an_order_the_channel_never_saw_is_closed_and_watched() -> None:
    found = ruled(order(expires_at=NOON), says(ChannelState.NOT_FOUND), close_asked=True)
    assert (found.to, found.then) == (OrderState.CLOSED, Then.AGAIN)


@pytest.mark.parametrize("ours", OPEN)
@pytest.mark.parametrize(
    ("theirs", "to", "event"),
    [
        (ChannelState.CLOSED, OrderState.CLOSED, "payment.closed"),
        (ChannelState.FAILED, OrderState.FAILED, "payment.failed"),
    ],
)
def test_what_ended_at_the_channel_ends_here(
    ours: OrderState, theirs: ChannelState, to: OrderState, event: str
) -> None:
    assert ruled(order(ours), says(theirs)).event == ""
    found = ruled(order(ours), says(theirs), policy=TELLS_ALL)
    assert (found.to, found.event, found.then) == (to, event, Then.OVER)


@pytest.mark.parametrize("ours", ENDED)
def test_a_late_payment_is_a_persons_to_settle(ours: OrderState) -> None:
    found = ruled(order(ours), PAID)
    assert (found.to, found.event, found.case) == (None, "", CaseReason.LATE_PAYMENT)
    assert not found.recorded


@pytest.mark.parametrize("ours", ENDED)
def test_by_policy_a_late_payment_is_promoted_and_the_merchant_told(ours: OrderState) -> None:
    found = ruled(order(ours), PAID, policy=PROMOTES)
    assert (found.to, found.event) == (OrderState.PAID, "payment.succeeded")
    assert (found.case, found.recorded) == (CaseReason.LATE_PAYMENT, True)


@pytest.mark.parametrize("ours", ENDED)
def test_a_late_payment_of_other_money_is_never_promoted(ours: OrderState) -> None:
    found = ruled(order(ours), says(ChannelState.PAID, amount_minor=1), policy=PROMOTES)
    assert (found.to, found.case) == (None, CaseReason.AMOUNT_MISMATCH)


@pytest.mark.parametrize("ours", ENDED)
def test_a_late_payment_given_back_in_full_owes_nobody_anything(ours: OrderState) -> None:
    found = ruled(order(ours), says(ChannelState.REFUNDED), policy=PROMOTES)
    assert (found.ruling, found.to, found.case) == (Ruling.AGREED, None, None)


@pytest.mark.parametrize(
    "said",
    [
        says(ChannelState.REFUNDED),
        says(ChannelState.PARTIAL_REFUND),
        says(ChannelState.PARTIAL_REFUND, refunded_minor=1200),
        says(ChannelState.PAID, refunded_minor=1200),
    ],
)
def test_an_open_order_that_may_have_been_given_back_is_not_called_paid(said: Finding) -> None:
    found = ruled(order(), said)
    assert (found.to, found.event, found.case) == (None, "", CaseReason.REFUND_MISMATCH)
    late = ruled(order(OrderState.CLOSED), replace(said, state=ChannelState.PARTIAL_REFUND))
    assert late.to is None


def test_an_open_order_partly_refunded_at_the_channel_is_paid_and_looked_at_again() -> None:
    found = ruled(order(), says(ChannelState.PARTIAL_REFUND, refunded_minor=200))
    assert (found.to, found.then) == (OrderState.PAID, Then.AGAIN)


@pytest.mark.parametrize("ours", ENDED)
@pytest.mark.parametrize("theirs", [ChannelState.CLOSED, ChannelState.FAILED])
def test_what_ended_on_both_sides_is_over(ours: OrderState, theirs: ChannelState) -> None:
    found = ruled(order(ours), says(theirs))
    assert (found.ruling, found.then) == (Ruling.AGREED, Then.OVER)


def test_an_order_closed_here_and_open_there_is_closed_there_too_and_watched() -> None:
    ours = order(OrderState.CLOSED)
    assert ruled(ours, says(ChannelState.UNPAID)).ruling is Ruling.CLOSE
    again = ruled(ours, says(ChannelState.UNPAID), close_asked=True)
    assert (again.ruling, again.to, again.then) == (Ruling.WATCH, None, Then.AGAIN)
    failed = ruled(order(OrderState.FAILED), says(ChannelState.UNPAID))
    assert failed.ruling is Ruling.WATCH
    assert ruled(ours, says(ChannelState.NOT_FOUND)).ruling is Ruling.WATCH


@pytest.mark.parametrize("ours", SETTLED)
@pytest.mark.parametrize(
    "theirs",
    [ChannelState.UNPAID, ChannelState.NOT_FOUND, ChannelState.CLOSED, ChannelState.FAILED],
)
def test_a_paid_order_is_never_taken_back(ours: OrderState, theirs: ChannelState) -> None:
    found = ruled(order(ours, expires_at=NOON), says(theirs), policy=TELLS_ALL)
    assert (found.to, found.event) == (None, "")
    assert (found.case, found.then) == (CaseReason.STATUS_MISMATCH, Then.AGAIN)


@pytest.mark.parametrize("theirs", [ChannelState.PAID, ChannelState.FINISHED])
def test_paid_on_both_sides_is_agreed(theirs: ChannelState) -> None:
    found = ruled(order(OrderState.PAID), says(theirs), refunds=())
    assert (found.ruling, found.case, found.then) == (Ruling.AGREED, None, Then.OVER)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"amount_minor": 1}, CaseReason.AMOUNT_MISMATCH),
        ({"currency": "USD"}, CaseReason.CURRENCY_MISMATCH),
    ],
)
def test_paid_on_both_sides_with_other_money_is_a_case(
    said: dict[str, object], reason: CaseReason
) -> None:
    found = ruled(order(OrderState.PAID), says(ChannelState.PAID, **said))
    assert (found.to, found.case) == (None, reason)


def back(amount_minor: int, state: RefundState) -> Refund:
    return Refund(
        refund_no=f"R{amount_minor}",
        order_no="A7",
        amount_minor=amount_minor,
        state=state,
        placed_at=NOON,
    )


@pytest.mark.parametrize(
    ("refunds", "refunded_minor", "agreed"),
    [
        ((back(500, RefundState.SUCCESS),), 500, True),
        ((back(500, RefundState.PROCESSING),), 500, True),
        ((back(500, RefundState.PROCESSING),), 0, True),
        ((back(500, RefundState.ABNORMAL),), None, True),
        ((back(300, RefundState.SUCCESS), back(200, RefundState.PROCESSING)), 300, True),
        ((back(500, RefundState.SUCCESS),), 400, False),
        ((back(500, RefundState.FAILED),), 500, False),
        ((), 500, False),
        ((), None, False),
        (None, 500, True),
    ],
)
def test_a_refund_at_the_channel_must_be_one_of_ours(
    refunds: tuple[Refund, ...] | None, refunded_minor: int | None, agreed: bool
) -> None:
    said = says(ChannelState.PARTIAL_REFUND, refunded_minor=refunded_minor)
    found = ruled(order(OrderState.PAID), said, refunds=refunds)
    assert found.case is (None if agreed else CaseReason.REFUND_MISMATCH)
    assert found.to is None


@pytest.mark.parametrize("ours", list(OrderState))
def test_an_unknown_answer_changes_nothing_and_is_asked_again_later(ours: OrderState) -> None:
    found = ruled(order(ours, expires_at=NOON), says(ChannelState.UNKNOWN), policy=PROMOTES)
    assert (found.to, found.event, found.case) == (None, "", None)
    assert found.then is Then.LATER
    silent = ruled(order(ours), says(ChannelState.UNKNOWN), unknowns=7)
    assert (silent.to, silent.case) == (None, CaseReason.UNANSWERED)


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        (ChannelState.UNPAID, CaseReason.TOO_OLD),
        (ChannelState.UNKNOWN, CaseReason.TOO_OLD),
        (ChannelState.CLOSED, None),
    ],
)
def test_after_seven_days_what_is_still_open_is_a_case(
    theirs: ChannelState, reason: CaseReason | None
) -> None:
    found = ruled(order(), says(theirs), now=NOON + timedelta(days=7))
    assert (found.then, found.case) == (Then.OVER, reason)


def test_a_disagreement_after_seven_days_keeps_its_own_reason() -> None:
    found = ruled(order(), says(ChannelState.PAID, amount_minor=1), now=NOON + timedelta(days=8))
    assert (found.then, found.case) == (Then.OVER, CaseReason.AMOUNT_MISMATCH)


# What holds for all of them.

AMOUNTS = st.integers(1, 3)
FINDINGS = st.builds(
    Finding,
    state=st.sampled_from(ChannelState),
    amount_minor=st.none() | AMOUNTS,
    currency=st.sampled_from([None, "CNY", "USD"]),
    refunded_minor=st.none() | st.integers(0, 3),
)
REFUNDS = st.none() | st.lists(
    st.builds(back, amount_minor=AMOUNTS, state=st.sampled_from(RefundState)), max_size=2
)
ORDERS = st.builds(
    order,
    st.sampled_from(OrderState),
    amount_minor=AMOUNTS,
    currency=st.sampled_from(["CNY", "USD"]),
    expires_at=st.none() | st.sampled_from([NOON, LATER]),
)
POLICIES = st.sampled_from([POLICY, PROMOTES, TELLS_ALL])
MINUTES = st.integers(0, 20_000)


@given(ORDERS, FINDINGS, REFUNDS, POLICIES, MINUTES, st.booleans(), st.integers(0, 20))
def test_whatever_is_said_the_rules_hold(
    ours: Order,
    theirs: Finding,
    refunds: list[Refund] | None,
    policy: Policy,
    minutes: int,
    close_asked: bool,
    unknowns: int,
) -> None:
    now = NOON + timedelta(minutes=minutes)
    found = decide(
        ours,
        theirs,
        now=now,
        policy=policy,
        refunds=refunds,
        close_asked=close_asked,
        unknowns=unknowns,
    )
    if found.to is not None:
        assert may_move(ours.state, found.to)
        assert ours.state not in WAS_PAID
    if theirs.state is ChannelState.UNKNOWN:
        assert (found.to, found.event) == (None, "")
    if found.to is OrderState.PAID:
        assert theirs.state in CHANNEL_SAYS_PAID
        assert (theirs.amount_minor, theirs.currency) == (ours.amount_minor, ours.currency)
    if found.event:
        assert found.event in policy.events
        assert found.to is not None
    assert bool(found.case) == bool(found.suggestion)
    if (
        theirs.state in CHANNEL_SAYS_PAID
        and ours.state not in WAS_PAID
        and found.to is not OrderState.PAID
    ):
        assert found.case is not None or theirs.state is ChannelState.REFUNDED


@given(ORDERS, FINDINGS, REFUNDS, POLICIES, MINUTES, st.booleans())
def test_deciding_again_after_it_was_carried_out_does_nothing_new(
    ours: Order,
    theirs: Finding,
    refunds: list[Refund] | None,
    policy: Policy,
    minutes: int,
    close_asked: bool,
) -> None:
    now = NOON + timedelta(minutes=minutes)
    first = decide(ours, theirs, now=now, policy=policy, refunds=refunds, close_asked=close_asked)
    moved = replace(ours, state=first.to) if first.to else ours
    again = decide(moved, theirs, now=now, policy=policy, refunds=refunds, close_asked=close_asked)
    assert (again.to, again.event) == (None, "")
    if first.to is None:
        assert again == first
    elif first.then is Then.OVER:
        assert again.case is None
