"""What follows from answers once they are judged: event, evidence, case, next question.

Works in the transaction that moved the orders. Must never tell a merchant of what was not moved,
nor let one event that is refused keep the others from being told.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from schedules import cases, notices, proof, windows
from schedules.checks import TOO_OLD, Check, Checks
from schedules.decisions import CaseReason, Decision, Then
from schedules.ports import Finding, ManyOrders, Move, Order, Refund, RefundMove
from schedules.proof import Proof
from worker.client import Notifier
from worker.drafts import Draft, Enqueue, draft
from worker.errors import BadFieldError, EventKeyConflictError, NotFoundError, PaynotifyError
from worker.intake import Outcome

NOT_TOLD = (
    "The merchant was not told: put its endpoints right; the compensation sweep tells it then."
)


@dataclass(slots=True, kw_only=True)
class Judged:
    """A decision with its proof, and what became of it.

    Attributes:
        order, refund: as they were when it was decided; refund None decides about the order.
        finding: what the channel said of the order.
        moved: from where to where; empty when nothing was to be moved.
        lost: the order or refund was no longer as it had been read.
        told: what became of the event.
        problem: why the merchant could not be told.
        row_id: of the evidence.
    """

    decision: Decision
    proof: Proof
    order: Order
    refund: Refund | None = None
    finding: Finding | None = None
    moved: str = ""
    lost: bool = False
    told: str = ""
    problem: str = ""
    row_id: int = 0

    @property
    def seen(self) -> Check:
        """What was asked about, as it was read."""
        return self.proof.seen

    @property
    def order_move(self) -> Move | None:
        """Where the order is to go; None leaves it."""
        if self.decision.to is None or self.finding is None:
            return None
        return Move(order=self.order, to=self.decision.to, finding=self.finding)

    @property
    def refund_move(self) -> RefundMove | None:
        """Where the refund is to go; None leaves it."""
        if self.decision.refund_to is None or self.refund is None:
            return None
        return RefundMove(refund=self.refund, to=self.decision.refund_to)


class Sequels:
    """Writes what follows.

    Args:
        orders: the host's.
        checks: what is asked about.
        notifier: enqueues in our transaction.
    """

    def __init__(self, orders: ManyOrders, checks: Checks, notifier: Notifier) -> None:
        self._orders, self._checks, self._notifier = orders, checks, notifier

    def write(self, tx: Connection, judged: Sequence[Judged], *, now: datetime) -> None:
        """Write everything; a few statements for all of them."""
        carried_out = [one for one in judged if not one.lost]
        self._tell(tx, [one for one in carried_out if one.decision.event])
        _prove(tx, judged)
        _see(tx, carried_out, now)
        _heal(tx, carried_out, now)
        self._schedule(tx, judged, now)

    def _tell(self, tx: Connection, judged: Sequence[Judged]) -> None:
        """Enqueue the events; each is told, or says what kept us from it."""
        moved = {one.order.order_no for one in judged if one.refund is None}
        orders = self._orders.get_many(tx, moved) if moved else {}
        drafts: list[Draft] = []
        whose: list[Judged] = []
        for one in judged:
            try:
                drafts.append(draft(_event(one, orders.get(one.order.order_no))))
            except BadFieldError as error:
                one.problem = str(error)[:500]
            else:
                whose.append(one)
        if drafts:
            outcomes = self._notifier.take(tx, drafts)
            for one, outcome in zip(whose, outcomes, strict=True):
                one.told, one.problem = _told(outcome)

    def _schedule(self, tx: Connection, judged: Sequence[Judged], now: datetime) -> None:
        over = [one for one in judged if not one.lost and one.decision.then is Then.OVER]
        self._checks.finish(tx, [(one.seen, _because(one, now)) for one in over], now=now)
        later = [one for one in judged if not one.lost and one.decision.then is Then.LATER]
        self._checks.put_off(tx, [one.seen for one in later], now=now, unknown=True)
        again = [one for one in judged if one.lost or one.decision.then is Then.AGAIN]
        self._checks.put_off(tx, [one.seen for one in again], now=now)


def _event(judged: Judged, moved: Order | Exception | None) -> Enqueue:
    event = judged.decision.event
    if judged.refund is not None:
        return notices.of_refund(judged.order, judged.refund, event)
    if isinstance(moved, Exception):
        raise moved
    assert moved is not None  # noqa: S101 - we hold it
    return notices.of_order(moved, event)


def _told(outcome: Outcome) -> tuple[str, str]:
    """Return what was done and what kept us from it."""
    if isinstance(outcome, EventKeyConflictError):
        # The host has told the merchant itself, in its own words.
        return f"told before by notification {outcome.notification_id}", ""
    if isinstance(outcome, NotFoundError | BadFieldError):
        return "", str(outcome)[:500]
    if isinstance(outcome, PaynotifyError):
        raise outcome
    return ("told by " + ", ".join(map(str, outcome))) if outcome else "no endpoint wants it", ""


def _prove(tx: Connection, judged: Sequence[Judged]) -> None:
    rows = []
    for one in judged:
        did = "; ".join(part for part in (one.moved, one.told, one.problem) if part)
        done = "lost to another change" if one.lost else did
        rows.append(one.proof.row(decision=one.decision.ruling, done=done))
    kept = proof.keep(tx, rows)
    for one in judged:
        one.row_id = kept[one.seen.kind, one.seen.subject_no]


def _see(tx: Connection, judged: Sequence[Judged], now: datetime) -> None:
    seen = []
    for one in judged:
        decision = one.decision
        if decision.case is not None:
            found = one.proof.case(decision.case, decision.suggestion, one.row_id)
            if decision.recorded:
                cases.record(tx, found, now=now, resolution=decision.suggestion)
            else:
                seen.append(found)
        if one.problem:
            facts: proof.Facts = {"event": decision.event, "problem": one.problem}
            seen.append(one.proof.case(CaseReason.NOT_NOTIFIED, NOT_TOLD, one.row_id, facts))
    cases.see(tx, *seen, now=now)


def _heal(tx: Connection, judged: Sequence[Judged], now: datetime) -> None:
    alike: defaultdict[tuple[str, frozenset[CaseReason]], list[str]] = defaultdict(list)
    for one in judged:
        # What any answer heals is only there after answers that said nothing.
        if one.decision.then is Then.OVER or one.moved or one.seen.unknowns:
            alike[one.seen.kind, one.decision.heals].append(one.seen.subject_no)
    for (kind, heals), subject_nos in alike.items():
        cases.heal(tx, kind, subject_nos, heals, now=now)


def _because(judged: Judged, now: datetime) -> str:
    seen = judged.seen
    too_old = windows.is_too_old(seen.kind, seen.placed_at, now=now)
    return TOO_OLD if too_old else judged.decision.ruling.value
