"""The decision table of refunds.

Pure. Must never give a refund up because it takes long, nor change one on an unknown answer, nor
call one succeeded whose amount and currency the channel did not confirm.
"""

from dataclasses import replace
from datetime import datetime

from schedules import decisions, windows
from schedules.decisions import CaseReason, Decision, Policy, Ruling, Then
from schedules.order_states import REFUND_OPEN
from schedules.ports import Refund, RefundFinding, RefundState
from schedules.windows import Kind

_HEALED = frozenset(CaseReason) - {CaseReason.NOT_NOTIFIED}
_EVENTS = {
    RefundState.SUCCESS: decisions.REFUND_SUCCEEDED,
    RefundState.FAILED: decisions.REFUND_FAILED,
}


def decide_refund(
    refund: Refund,
    finding: RefundFinding,
    *,
    currency: str,
    now: datetime,
    policy: Policy,
    unknowns: int = 0,
) -> Decision:
    """Decide about a refund; deciding again after it was carried out does nothing new.

    Args:
        refund: as we have it now.
        finding: what the channel said of it.
        currency: of the order it belongs to.
        now: aware.
        policy: of the order's merchant.
        unknowns: answers in a row before this one that said nothing.

    Examples:
        >>> from datetime import UTC
        >>> noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
        >>> refund = Refund(refund_no="R1", order_no="A7", amount_minor=5,
        ...     state=RefundState.PROCESSING, placed_at=noon)
        >>> done = RefundFinding(state=RefundState.SUCCESS, amount_minor=5, currency="CNY")
        >>> decide_refund(refund, done, currency="CNY", now=noon, policy=Policy()).refund_to
        <RefundState.SUCCESS: 'success'>
    """
    if finding.state is None:
        return _aged(decisions.nothing_said(unknowns, policy), refund, now)
    problem = _money_problem(refund, finding, currency)
    if problem is not None:
        decision = replace(decisions.disagreed(problem), suggestion=_SUGGESTIONS[problem])
    elif refund.state not in REFUND_OPEN:
        decision = _over(refund, finding.state)
    elif finding.state in _EVENTS:
        decision = _ended(finding.state, policy)
    else:
        decision = _open(refund, finding.state, now, policy)
    return _aged(decision, refund, now)


def overdone(decision: Decision) -> Decision:
    """Make a refund's success a case: with it more went back than was paid."""
    return replace(
        decision,
        case=CaseReason.REFUND_MISMATCH,
        suggestion=(
            "The refunds of the order are more than it was paid: look them up at the channel and "
            "take back what was refunded twice."
        ),
        heals=decision.heals - {CaseReason.REFUND_MISMATCH},
    )


def _money_problem(refund: Refund, finding: RefundFinding, currency: str) -> CaseReason | None:
    amount, theirs = finding.amount_minor, finding.currency
    if theirs is not None and theirs.upper() != currency.upper():
        return CaseReason.CURRENCY_MISMATCH
    if amount is not None and amount != refund.amount_minor:
        return CaseReason.AMOUNT_MISMATCH
    ends = finding.state is RefundState.SUCCESS and refund.state in REFUND_OPEN
    return CaseReason.AMOUNT_MISSING if ends and (amount is None or theirs is None) else None


def _over(refund: Refund, theirs: RefundState) -> Decision:
    if refund.state is theirs:
        return Decision(ruling=Ruling.AGREED, heals=_HEALED, then=Then.OVER)
    return Decision(
        ruling=Ruling.DISAGREED,
        case=CaseReason.STATUS_MISMATCH,
        suggestion=(
            "The refund has ended differently here and at the channel: look it up at the channel "
            "and correct it by hand."
        ),
    )


def _ended(theirs: RefundState, policy: Policy) -> Decision:
    event = _EVENTS[theirs]
    return Decision(
        ruling=Ruling.REFUND_MOVED,
        refund_to=theirs,
        event=event if event in policy.events else "",
        heals=_HEALED,
        then=Then.OVER,
    )


def _open(refund: Refund, theirs: RefundState, now: datetime, policy: Policy) -> Decision:
    if theirs is RefundState.ABNORMAL:
        return Decision(
            ruling=Ruling.REFUND_MOVED if refund.state is not theirs else Ruling.DISAGREED,
            refund_to=theirs if refund.state is not theirs else None,
            case=CaseReason.REFUND_ABNORMAL,
            suggestion=(
                "The channel could not pay the refund out: settle it at the channel or pay it "
                "another way; it is asked about until it ends."
            ),
        )
    moves = refund.state is RefundState.CREATED and theirs is RefundState.PROCESSING
    slow = (now - refund.placed_at).total_seconds() >= policy.refund_slow_s
    return Decision(
        ruling=Ruling.REFUND_MOVED if moves else Ruling.WAIT,
        refund_to=theirs if moves else None,
        case=CaseReason.REFUND_SLOW if slow else None,
        suggestion="The refund takes long: ask the channel about it." if slow else "",
    )


def _aged(decision: Decision, refund: Refund, now: datetime) -> Decision:
    if not windows.is_too_old(Kind.REFUND, refund.placed_at, now=now):
        return decision
    return decisions.at_the_end(decision)


_SUGGESTIONS = {
    CaseReason.AMOUNT_MISMATCH: (
        "Another amount was refunded than was asked for: look it up at the channel, settle the "
        "difference there and correct the refund."
    ),
    CaseReason.CURRENCY_MISMATCH: (
        "It was refunded in another currency than the order was paid in: look it up at the "
        "channel and correct the refund by hand."
    ),
    CaseReason.AMOUNT_MISSING: (
        "The channel says refunded but not how much, or in which currency: look it up at the "
        "channel, then correct the refund."
    ),
}
