"""The decision table: what we have and what the channel says, to what is done about it.

Pure; the one place where the truth about money is weighed. Must never move an order away from
PAID, never change anything on UNKNOWN, and never call an order paid whose amount and currency the
channel did not confirm.

::

    ours              channel says              done
    created, pending  paid, same money          PAID, merchant told
    created, pending  paid, other money         nothing; case amount_mismatch / currency_mismatch
    created, pending  paid and all refunded     nothing; case refund_mismatch
    created, pending  unpaid, not there         asked again; once expired: closed at the channel,
                                                asked again, then CLOSED (or PAID)
    created, pending  closed / failed           CLOSED / FAILED
    closed, failed    paid                      case late_payment; by policy PAID, merchant told
    closed, failed    unpaid, not there         watched; closed at the channel too
    paid, refunded    unpaid, not there,        nothing; case status_mismatch, asked again
                      closed, failed
    paid, refunded    paid, finished, refunded  agreed, if money and refunds add up
    any               unknown                   nothing; asked again later and later
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from schedules import windows
from schedules.order_states import CHANNEL_SAYS_PAID, REFUND_OPEN, UNSETTLED, WAS_PAID
from schedules.ports import ChannelState, Finding, Order, OrderState, Refund, RefundState
from schedules.windows import Kind

PAYMENT_SUCCEEDED = "payment.succeeded"
PAYMENT_CLOSED = "payment.closed"
PAYMENT_FAILED = "payment.failed"
REFUND_SUCCEEDED = "refund.succeeded"
REFUND_FAILED = "refund.failed"
EVENTS = (PAYMENT_SUCCEEDED, PAYMENT_CLOSED, PAYMENT_FAILED, REFUND_SUCCEEDED, REFUND_FAILED)


class LatePayment(StrEnum):
    """What is done when money comes in for an order that was closed or failed."""

    HUMAN = "human"
    PROMOTE = "promote"


class CaseReason(StrEnum):
    """Why a person has to look at an order or a refund."""

    AMOUNT_MISMATCH = "amount_mismatch"
    CURRENCY_MISMATCH = "currency_mismatch"
    AMOUNT_MISSING = "amount_missing"
    LATE_PAYMENT = "late_payment"
    STATUS_MISMATCH = "status_mismatch"
    REFUND_MISMATCH = "refund_mismatch"
    REFUND_ABNORMAL = "refund_abnormal"
    REFUND_SLOW = "refund_slow"
    UNANSWERED = "unanswered"
    TOO_OLD = "too_old"
    NOT_NOTIFIED = "not_notified"
    UNREADABLE = "unreadable"


class Ruling(StrEnum):
    """What a decision is called in the evidence."""

    PAID = "paid"
    CLOSED = "closed"
    FAILED = "failed"
    CLOSE = "close_at_channel"
    WAIT = "wait"
    WATCH = "watch"
    AGREED = "agreed"
    LATE = "late_payment"
    LATE_PROMOTED = "late_payment_promoted"
    DISAGREED = "disagreed"
    UNKNOWN = "unknown"
    REFUND_MOVED = "refund_moved"


class Then(StrEnum):
    """What becomes of the asking."""

    AGAIN = "again"
    LATER = "later"  # nothing was said: later and later
    OVER = "over"


# What the channel and we agreeing puts an end to.
_HEALED_BY_AGREEING = frozenset(set(CaseReason) - {CaseReason.NOT_NOTIFIED, CaseReason.REFUND_SLOW})
_HEALED_BY_AN_ANSWER = frozenset({CaseReason.UNANSWERED, CaseReason.UNREADABLE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a merchant's orders are treated by.

    Attributes:
        late_payment: who decides on money that comes after the end.
        events: event types merchants are told of; endpoints still choose among them.
        close_unconfirmed_s: seconds after expiry for which an order is left pending when the
            channel goes on saying unpaid though it was asked to close.
        unanswered_after: answers in a row that said nothing, after which it is a case.
        refund_slow_s: seconds after which a refund in process is a case.
    """

    late_payment: LatePayment = LatePayment.HUMAN
    events: frozenset[str] = frozenset({PAYMENT_SUCCEEDED, REFUND_SUCCEEDED, REFUND_FAILED})
    close_unconfirmed_s: int = 600
    unanswered_after: int = 8
    refund_slow_s: int = 259_200


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is to be done; all of it in one transaction.

    Attributes:
        to: state the order is moved to; None leaves it.
        refund_to: state the refund is moved to; None leaves it.
        event: event type the merchant is told; empty tells nobody.
        case: why a person must look; None: none must.
        suggestion: for that person, one sentence.
        recorded: the case is opened and resolved at once, for the record.
        heals: open cases that this puts an end to.
        then: whether and how the channel is asked again.
    """

    ruling: Ruling
    to: OrderState | None = None
    refund_to: RefundState | None = None
    event: str = ""
    case: CaseReason | None = None
    suggestion: str = ""
    recorded: bool = False
    heals: frozenset[CaseReason] = _HEALED_BY_AN_ANSWER
    then: Then = Then.AGAIN


def decide(
    order: Order,
    finding: Finding,
    *,
    now: datetime,
    policy: Policy,
    refunds: Sequence[Refund] | None = None,
    close_asked: bool = False,
    unknowns: int = 0,
) -> Decision:
    """Decide about an order; deciding again after it was carried out does nothing new.

    Args:
        order: as we have it now.
        finding: what the channel said of it, asked while it was as it is now.
        now: aware.
        policy: of the order's merchant.
        refunds: all of the order; None when the host does not tell.
        close_asked: the channel was asked to close it just before it gave this finding.
        unknowns: answers in a row before this one that said nothing.

    Examples:
        >>> from datetime import UTC
        >>> noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
        >>> order = Order(order_no="A7", merchant="m", channel="c", amount_minor=1200,
        ...     currency="CNY", state=OrderState.PENDING, placed_at=noon)
        >>> paid = Finding(state=ChannelState.PAID, amount_minor=1200, currency="CNY")
        >>> decide(order, paid, now=noon, policy=Policy()).to
        <OrderState.PAID: 'paid'>
        >>> short = Finding(state=ChannelState.PAID, amount_minor=1, currency="CNY")
        >>> decide(order, short, now=noon, policy=Policy()).case
        <CaseReason.AMOUNT_MISMATCH: 'amount_mismatch'>
    """
    if finding.state is ChannelState.UNKNOWN:
        decision = nothing_said(unknowns, policy)
    elif order.state in WAS_PAID:
        decision = _was_paid(order, finding, refunds)
    elif finding.state in CHANNEL_SAYS_PAID:
        decision = _paid(order, finding, policy)
    elif order.state in UNSETTLED:
        decision = _unpaid(order, finding, now, policy, close_asked=close_asked)
    else:
        decision = _ended(order, finding, close_asked=close_asked)
    # What is first to be closed at the channel is decided once more after that.
    if decision.ruling is Ruling.CLOSE or not windows.is_too_old(
        Kind.ORDER, order.placed_at, now=now
    ):
        return decision
    return at_the_end(decision)


def money_problem(order: Order, finding: Finding) -> CaseReason | None:
    """Compare what was to be paid with what the channel says; None when both are the same.

    Examples:
        >>> from datetime import UTC
        >>> order = Order(order_no="A7", merchant="m", channel="c", amount_minor=1200,
        ...     currency="CNY", state=OrderState.PENDING,
        ...     placed_at=datetime(2026, 1, 31, tzinfo=UTC))
        >>> money_problem(order, Finding(state=ChannelState.PAID, amount_minor=1200)).value
        'amount_missing'
    """
    if finding.amount_minor is None or finding.currency is None:
        return CaseReason.AMOUNT_MISSING
    if finding.currency.upper() != order.currency.upper():
        return CaseReason.CURRENCY_MISMATCH
    if finding.amount_minor != order.amount_minor:
        return CaseReason.AMOUNT_MISMATCH
    return None


def nothing_said(unknowns: int, policy: Policy) -> Decision:
    """Decide on an answer that said nothing: change nothing, ask later.

    Args:
        unknowns: such answers in a row before this one.
        policy: says after how many it is a case.
    """
    silent = unknowns + 1 >= policy.unanswered_after
    return Decision(
        ruling=Ruling.UNKNOWN,
        case=CaseReason.UNANSWERED if silent else None,
        suggestion=_SUGGESTIONS[CaseReason.UNANSWERED] if silent else "",
        heals=frozenset(),
        then=Then.LATER,
    )


def _paid(order: Order, finding: Finding, policy: Policy) -> Decision:
    late = order.state not in UNSETTLED
    if late and finding.state is ChannelState.REFUNDED:
        # Paid after the end and given back in full: nobody owes anybody anything.
        return Decision(ruling=Ruling.AGREED, heals=_HEALED_BY_AGREEING, then=Then.OVER)
    problem = money_problem(order, finding)
    if problem is not None:
        return disagreed(problem)
    if _perhaps_given_back(order, finding):
        # To tell the merchant "paid" could make it deliver what nobody pays for.
        return disagreed(CaseReason.LATE_PAYMENT if late else CaseReason.REFUND_MISMATCH)
    if not late:
        # A part that was refunded at the channel is weighed when it is asked again.
        return Decision(
            ruling=Ruling.PAID,
            to=OrderState.PAID,
            event=_told(PAYMENT_SUCCEEDED, policy),
            heals=_HEALED_BY_AGREEING,
            then=Then.AGAIN if _gave_back(finding) else Then.OVER,
        )
    promoted = policy.late_payment is LatePayment.PROMOTE
    return Decision(
        ruling=Ruling.LATE_PROMOTED if promoted else Ruling.LATE,
        to=OrderState.PAID if promoted else None,
        event=_told(PAYMENT_SUCCEEDED, policy) if promoted else "",
        case=CaseReason.LATE_PAYMENT,
        suggestion=_PROMOTED if promoted else _SUGGESTIONS[CaseReason.LATE_PAYMENT],
        recorded=promoted,
    )


def _perhaps_given_back(order: Order, finding: Finding) -> bool:
    """Tell whether all of the money may have gone back to the payer."""
    if finding.state is ChannelState.REFUNDED:
        return True
    if finding.refunded_minor is not None:
        return finding.refunded_minor >= order.amount_minor
    return finding.state is ChannelState.PARTIAL_REFUND


def _gave_back(finding: Finding) -> bool:
    return finding.state not in _PLAINLY_PAID or bool(finding.refunded_minor)


def _was_paid(order: Order, finding: Finding, refunds: Sequence[Refund] | None) -> Decision:
    if finding.state not in CHANNEL_SAYS_PAID:
        return disagreed(CaseReason.STATUS_MISMATCH)
    problem = money_problem(order, finding)
    if problem in (CaseReason.AMOUNT_MISMATCH, CaseReason.CURRENCY_MISMATCH):
        return disagreed(problem)
    if refunds is not None and not _refunds_add_up(order, finding, refunds):
        return disagreed(CaseReason.REFUND_MISMATCH)
    return Decision(ruling=Ruling.AGREED, heals=_HEALED_BY_AGREEING, then=Then.OVER)


def _refunds_add_up(order: Order, finding: Finding, refunds: Sequence[Refund]) -> bool:
    theirs = finding.refunded_minor
    done = sum(one.amount_minor for one in refunds if one.state is RefundState.SUCCESS)
    done = max(done, order.refunded_minor)
    on_the_way = sum(one.amount_minor for one in refunds if one.state in REFUND_OPEN)
    if theirs is None:
        return finding.state in _PLAINLY_PAID or done + on_the_way > 0
    return done <= theirs <= done + on_the_way


def _unpaid(
    order: Order, finding: Finding, now: datetime, policy: Policy, *, close_asked: bool
) -> Decision:
    if finding.state is ChannelState.CLOSED:
        return _closed(policy, surely=True)
    if finding.state is ChannelState.FAILED:
        return Decision(
            ruling=Ruling.FAILED,
            to=OrderState.FAILED,
            event=_told(PAYMENT_FAILED, policy),
            heals=_HEALED_BY_AGREEING,
            then=Then.OVER,
        )
    if order.expires_at is None or now < order.expires_at:
        return Decision(ruling=Ruling.WAIT)
    if not close_asked:
        return Decision(ruling=Ruling.CLOSE)
    since_s = (now - order.expires_at).total_seconds()
    if finding.state is ChannelState.UNPAID and since_s < policy.close_unconfirmed_s:
        return Decision(ruling=Ruling.WAIT)
    # A payer who still has the page open may pay yet: it is watched on.
    return _closed(policy, surely=False)


def _closed(policy: Policy, *, surely: bool) -> Decision:
    return Decision(
        ruling=Ruling.CLOSED,
        to=OrderState.CLOSED,
        event=_told(PAYMENT_CLOSED, policy),
        heals=_HEALED_BY_AGREEING,
        then=Then.OVER if surely else Then.AGAIN,
    )


def _ended(order: Order, finding: Finding, *, close_asked: bool) -> Decision:
    if finding.state in (ChannelState.CLOSED, ChannelState.FAILED):
        return Decision(ruling=Ruling.AGREED, heals=_HEALED_BY_AGREEING, then=Then.OVER)
    open_there = finding.state is ChannelState.UNPAID and order.state is OrderState.CLOSED
    if open_there and not close_asked:
        return Decision(ruling=Ruling.CLOSE)
    return Decision(ruling=Ruling.WATCH)


def disagreed(reason: CaseReason) -> Decision:
    """Decide on a disagreement that is a person's to settle: change nothing, ask again."""
    return Decision(ruling=Ruling.DISAGREED, case=reason, suggestion=_SUGGESTIONS[reason])


def at_the_end(decision: Decision) -> Decision:
    """End the asking about what is too old; what is open then is a case."""
    # What has just been moved is looked at once more: a refund beside the payment may be amiss.
    if decision.then is Then.OVER or decision.to is not None:
        return decision
    if decision.ruling not in (Ruling.WAIT, Ruling.UNKNOWN):
        return replace(decision, then=Then.OVER)
    return replace(
        decision,
        then=Then.OVER,
        case=CaseReason.TOO_OLD,
        suggestion=_SUGGESTIONS[CaseReason.TOO_OLD],
    )


def _told(event: str, policy: Policy) -> str:
    return event if event in policy.events else ""


_PLAINLY_PAID = (ChannelState.PAID, ChannelState.FINISHED)
_PROMOTED = "Was made PAID by policy and the merchant was told; check that it can still deliver."
_SUGGESTIONS = {
    CaseReason.AMOUNT_MISMATCH: (
        "Another amount was paid than was asked for: refund it at the channel, or settle the "
        "difference with the merchant and correct the order."
    ),
    CaseReason.CURRENCY_MISMATCH: (
        "It was paid in another currency than was asked for: refund it at the channel, or agree "
        "with the merchant and correct the order."
    ),
    CaseReason.AMOUNT_MISSING: (
        "The channel says paid but not how much: look it up at the channel, then correct the order."
    ),
    CaseReason.LATE_PAYMENT: (
        "It was paid after it had ended here: make it paid if the merchant can still deliver, "
        "else refund it at the channel."
    ),
    CaseReason.STATUS_MISMATCH: (
        "We have it as paid and the channel does not: wait for the channel's bill, then take it "
        "up with the channel; nothing was taken back."
    ),
    CaseReason.REFUND_MISMATCH: (
        "What was refunded here and at the channel differs: look for a refund made at the channel "
        "by hand, and enter it here."
    ),
    CaseReason.UNANSWERED: (
        "The channel has not given a clear answer for long: check its address, keys and status."
    ),
    CaseReason.TOO_OLD: (
        "Nothing was decided in all the time it was asked about: look it up at the channel and "
        "settle it by hand."
    ),
}
