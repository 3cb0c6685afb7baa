"""Carries a channel's answer out: order, notification, evidence, case, next question, at once.

One transaction per order. Killed before its commit nothing has happened and the question is asked
again; after it everything has. Must never judge an answer by an order that changed while the
channel was asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection

from schedules import cases, notices, proof, windows
from schedules.asking import Answered, Question
from schedules.checks import TOO_OLD, Check, Checks
from schedules.decisions import CaseReason, Decision, Then, decide
from schedules.order_states import WAS_PAID
from schedules.ports import Order, OrderPort, Refund, RefundState
from schedules.proof import Proof
from schedules.refund_decisions import decide_refund
from worker.client import Notifier
from worker.errors import BadFieldError, EventKeyConflictError, NotFoundError

OVERTAKEN = "overtaken"
CHANGED = "changed_meanwhile"
MOVED = "channel_changed"
GONE = "gone"
NOT_TOLD = (
    "The merchant was not told: put its endpoints right; the compensation sweep tells it then."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """A decision with its proof.

    Attributes:
        moved: what was written; empty when nothing was.
        lost: the order was no longer as it had been read.
    """

    decision: Decision
    proof: Proof
    moved: str = ""
    lost: bool = False


class Corrector:
    """Applies answers.

    Args:
        orders: the host's.
        checks: what is asked about.
        notifier: enqueues in our transaction.
    """

    def __init__(self, orders: OrderPort, checks: Checks, notifier: Notifier) -> None:
        self._orders, self._checks, self._notifier = orders, checks, notifier

    def apply(self, tx: Connection, answered: Answered, *, now: datetime) -> str:
        """Carry an answer out in this transaction; returns what was done, for counting.

        Args:
            tx: of nobody else; committed by the caller.
            answered: by the channel.
            now: the database's time.

        Raises:
            BadFieldError: the host's row does not fit its description any more.
        """
        question, seen = answered.question, answered.question.check
        if not self._checks.hold(tx, seen):
            return OVERTAKEN
        order = self._orders.get(tx, question.order.order_no)
        refund = question.refund and self._orders.refund(tx, question.refund.refund_no)
        if order is None or (question.refund is not None and refund is None):
            self._checks.finish(tx, seen, now=now, because=GONE)
            return GONE
        if self.follow(tx, seen, order, refund, now=now):
            return MOVED
        if _essence(order, refund) != _essence(question.order, question.refund):
            # A callback came in while we asked: the answer is older than what we have.
            self._checks.put_off(tx, seen, now=now)
            return CHANGED
        if refund is None:
            judged = self._order(tx, answered, order, now)
        else:
            judged = self._refund(tx, answered, order, refund, now)
        self._write_down(tx, question, judged, now)
        return judged.decision.ruling.value

    def follow(
        self, tx: Connection, seen: Check, order: Order, refund: Refund | None, *, now: datetime
    ) -> bool:
        """Move a question to the channel its order is at now; False when it is there already.

        The other channel's answer says nothing about an order that is not paid there any more.
        """
        if order.channel == seen.channel:
            return False
        placed_at = order.placed_at if refund is None else refund.placed_at
        self._checks.follow(tx, seen, channel=order.channel, placed_at=placed_at, now=now)
        return True

    def put_off(self, tx: Connection, seen: Check, problem: str, *, now: datetime) -> None:
        """Ask about what cannot be judged later and later, and make it a case."""
        if not self._checks.hold(tx, seen):
            return
        if windows.is_too_old(seen.kind, seen.placed_at, now=now):
            self._checks.finish(tx, seen, now=now, because=TOO_OLD)
        else:
            self._checks.put_off(tx, seen, now=now, unknown=True)
        cases.see(tx, proof.unreadable(seen, "", problem), now=now)

    def _order(self, tx: Connection, answered: Answered, order: Order, now: datetime) -> _Judged:
        finding = answered.finding
        assert finding is not None  # noqa: S101 - for the type checker
        decision = decide(
            order,
            finding,
            now=now,
            policy=answered.question.policy,
            refunds=self._refunds(tx, order),
            close_asked=answered.before_close is not None,
            unknowns=answered.question.check.unknowns,
        )
        judged = _Judged(decision=decision, proof=proof.of_order(answered, finding, order))
        if decision.to is None:
            return judged
        if not self._orders.move(tx, order, decision.to, finding):
            return replace(judged, lost=True)
        return replace(judged, moved=f"{order.state} -> {decision.to}")

    def _refunds(self, tx: Connection, order: Order) -> Sequence[Refund] | None:
        # An order that was never paid has none.
        return self._orders.refunds_of(tx, order.order_no) if order.state in WAS_PAID else None

    def _refund(
        self, tx: Connection, answered: Answered, order: Order, refund: Refund, now: datetime
    ) -> _Judged:
        finding = answered.refund_finding
        assert finding is not None  # noqa: S101 - for the type checker
        decision = decide_refund(
            refund,
            finding,
            currency=order.currency,
            now=now,
            policy=answered.question.policy,
            unknowns=answered.question.check.unknowns,
        )
        judged = _Judged(decision=decision, proof=proof.of_refund(answered, finding, order, refund))
        if decision.refund_to is None:
            return judged
        if not self._orders.move_refund(tx, refund, decision.refund_to):
            return replace(judged, lost=True)
        if decision.refund_to is RefundState.SUCCESS and self._too_much(tx, order, refund):
            judged = replace(judged, decision=_overdone(decision))
        return replace(judged, moved=f"{refund.state} -> {decision.refund_to}")

    def _too_much(self, tx: Connection, order: Order, refund: Refund) -> bool:
        """Tell whether more went back than was paid; ``order`` as it was before."""
        known = self._orders.refunds_of(tx, order.order_no) or ()
        done = sum(one.amount_minor for one in known if one.state is RefundState.SUCCESS)
        return max(done, order.refunded_minor + refund.amount_minor) > order.amount_minor

    def _write_down(
        self, tx: Connection, question: Question, judged: _Judged, now: datetime
    ) -> None:
        decision = judged.decision
        told, problem = "", ""
        if decision.event and not judged.lost:
            told, problem = self._tell(tx, question, decision.event)
        did = "; ".join(part for part in (judged.moved, told, problem) if part)
        row_id = judged.proof.keep(
            tx, decision=decision.ruling, done="lost to another change" if judged.lost else did
        )
        if judged.lost:
            self._checks.put_off(tx, question.check, now=now)
            return
        self._see(tx, judged, problem, row_id, now)
        self._schedule(tx, question.check, decision, now)

    def _tell(self, tx: Connection, question: Question, event: str) -> tuple[str, str]:
        """Enqueue the event; returns what was done and what kept us from it."""
        order = self._orders.get(tx, question.order.order_no)
        assert order is not None  # noqa: S101 - we hold it
        if question.refund is None:
            made = notices.of_order(order, event)
        else:
            made = notices.of_refund(order, question.refund, event)
        try:
            [ids] = self._notifier.enqueue_many(tx, (made,))
        except EventKeyConflictError as error:
            # The host has told the merchant itself, in its own words.
            return f"told before by notification {error.notification_id}", ""
        except (NotFoundError, BadFieldError) as error:
            return "", str(error)[:500]
        return ("told by " + ", ".join(map(str, ids))) if ids else "no endpoint wants it", ""

    def _see(
        self, tx: Connection, judged: _Judged, problem: str, row_id: int, now: datetime
    ) -> None:
        decision, shown = judged.decision, judged.proof
        if decision.case is not None:
            found = shown.case(decision.case, decision.suggestion, row_id)
            if decision.recorded:
                cases.record(tx, found, now=now, resolution=decision.suggestion)
            else:
                cases.see(tx, found, now=now)
        if problem:
            facts: proof.Facts = {"event": decision.event, "problem": problem}
            cases.see(tx, shown.case(CaseReason.NOT_NOTIFIED, NOT_TOLD, row_id, facts), now=now)
        seen = shown.seen
        # What any answer heals is only there after answers that said nothing.
        if decision.then is Then.OVER or judged.moved or seen.unknowns:
            cases.heal(tx, seen.kind, (seen.subject_no,), decision.heals, now=now)

    def _schedule(self, tx: Connection, seen: Check, decision: Decision, now: datetime) -> None:
        if decision.then is not Then.OVER:
            self._checks.put_off(tx, seen, now=now, unknown=decision.then is Then.LATER)
            return
        too_old = windows.is_too_old(seen.kind, seen.placed_at, now=now)
        because = TOO_OLD if too_old else decision.ruling.value
        self._checks.finish(tx, seen, now=now, because=because)


def _overdone(decision: Decision) -> Decision:
    return replace(
        decision,
        case=CaseReason.REFUND_MISMATCH,
        suggestion=(
            "The refunds of the order are more than it was paid: look them up at the channel and "
            "take back what was refunded twice."
        ),
        heals=decision.heals - {CaseReason.REFUND_MISMATCH},
    )


def _essence(order: Order, refund: Refund | None) -> tuple[object, ...]:
    if refund is not None:
        return refund, order.channel
    return order.state, order.amount_minor, order.currency, order.channel
